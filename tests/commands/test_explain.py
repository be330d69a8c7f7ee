"""Test ``jaxflow explain``: scores, every form of output, and that tokens are only text."""

from __future__ import annotations

import io
import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from page_reader import Reader, columns, document
from PIL import Image
from rich.console import Console
from tiny_models import sharpened, tiny, tiny_agreement

import jaxflow
from jaxflow import models
from jaxflow.commands import main
from jaxflow.eval.explain.page import as_page
from jaxflow.eval.explain.picture import draw, save_png
from jaxflow.eval.explain.text import print_explanation
from jaxflow.eval.explanation import METHODS, explainer
from jaxflow.eval.plots.style import ink, relative, shade, visible

README = Path(__file__).parents[2] / "README.md"
LAYERED = {"raw": 2, "rollout": 2, "flow": 2}
SENTENCE = "The keys to the cabinet near Paris"
NASTY = (
    "<script>alert(1)</script> \"quoted\" 'single' & &lt; </style> "
    "שלום \U0001f469\u200d\U0001f680 a\u202eb a\x1b[31m $x_1$ [bold]b[/bold] --> {x}"
)


@pytest.fixture(scope="module")
def explain():
    return explainer(tiny_agreement())


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    models.save(folder / "model", tiny_agreement())
    return folder


@pytest.fixture
def command(run, explain, monkeypatch, capsys):
    """A function: run the command with programs that are compiled already; what it printed."""
    monkeypatch.setattr("jaxflow.eval.explanation.explainer", lambda *_, **__: explain)

    def call(*arguments):
        assert main(["explain", *map(str, arguments), "--run", str(run)]) == 0
        return capsys.readouterr()

    return call


def test_json_is_strict_and_complete(explain, command):
    # As many words as there are positions fit.
    sentences = (SENTENCE, NASTY, "nothing known", " ".join(["keys"] * 39))
    record = json.loads(command(*sentences, "--json").out, parse_constant=pytest.fail)
    assert record["format"] == "jaxflow-explanation-1"
    assert record["methods"] == list(METHODS)
    for text, sentence in zip(sentences, record["sentences"], strict=True):
        assert set(sentence) >= {
            "text", "prediction", "probabilities", "tokens", "unknown", "scores", "agreement",
            "layers", "saturated", "cuts", "readout", "target", "replacement",
        }  # fmt: skip
        assert sentence["text"] == text
        n = len(explain(text).tokens)
        assert len(sentence["tokens"]) == len(sentence["saturated"]) == n
        assert set(sentence["tokens"][0]) == {"text", "seen", "known"}
        assert sum(sentence["probabilities"].values()) == pytest.approx(1)
        assert {len(values) for values in sentence["scores"].values()} == {n}
        assert {name: len(rows) for name, rows in sentence["layers"].items()} == LAYERED
        # An agreement that is undefined, because a score is constant, is null.
        for name, row in zip(METHODS, explain(sentence["text"]).agreement, strict=True):
            got = [sentence["agreement"][name][other] for other in METHODS]
            assert [value is None for value in got] == np.isnan(row).tolist()


def test_the_terminal_names_tokens_methods_and_unknown_words(command, here):
    (here / "sentences.txt").write_text("the cabinet\n\n  keys near\n", encoding="utf-8")
    out = command(SENTENCE, NASTY, "--file", "sentences.txt").out
    assert out.count("prediction: ") == 4
    for word in (*SENTENCE.split(), *METHODS.values()):
        assert word in out
    assert "Not in the vocabulary, read as [UNK]: near" in out
    assert "Read in lower case: The as the" in out
    assert not {"\x1b", "\u202e"} & set(out)  # no token reaches the terminal as a code
    assert r"a\x1b[31m" in out
    assert "[bold]b[/bold]" in out


def test_the_terminal_shades_by_score(explain):
    text = io.StringIO()
    console = Console(file=text, force_terminal=True, color_system="truecolor", width=200)
    found = explain("the keys to")
    print_explanation(console, found)
    lines = [line for line in text.getvalue().splitlines() if "48;2" in line]
    assert len(lines) == len(found.tokens)
    for place, line in enumerate(lines):
        assert found.tokens[place].text in line
        colours = re.findall(r"48;2;(\d+);(\d+);(\d+)m", line)
        expected = [shade(relative(found.scores[name])[place]) for name in METHODS]
        assert [tuple(map(int, colour)) for colour in colours] == expected


def test_text_stays_readable_on_every_shade():
    """The contrast that WCAG asks of text; that shades get darker is tested with the colours."""

    def light(colour):
        shares = np.array(colour) / 255
        linear = np.where(shares <= 0.03928, shares / 12.92, ((shares + 0.055) / 1.055) ** 2.4)
        return linear @ (0.2126, 0.7152, 0.0722)

    for share in np.linspace(0, 1, 101):
        paper = shade(share)
        low, high = sorted((light(paper), light(ink(paper))))
        assert (high + 0.05) / (low + 0.05) >= 4.5
    assert light(shade(0)) == pytest.approx(1)
    assert relative(np.zeros(3)).tolist() == [0, 0, 0]


def test_cuts_of_the_tokens_asked_for(explain, command, here):
    sentence = "the keys to the 1"
    # A word at all its places, an index, a word that looks like one, and nothing twice.
    asked = [part for word in ("the", "0", "1", "keys", "2") for part in ("--cut", word)]
    (record,) = json.loads(command(sentence, "--json", *asked).out)["sentences"]
    assert [cut["token"] for cut in record["cuts"]] == [1, 4, 0, 5, 2]
    tokens = [token["text"] for token in record["tokens"]]
    for cut in record["cuts"]:
        expected = jaxflow.flow_cut(
            explain(sentence).attention, layer=-1, source=0, sink=cut["token"]
        )
        assert cut["value"] == expected.value
        assert cut["value"] == pytest.approx(record["scores"]["flow"][cut["token"]], abs=1e-9)
        assert cut["edges"] == [list(edge) for edge in expected.edges]
        assert cut["words"] == list(expected.describe(tokens))
        assert cut["summary"] == expected.summary(tokens)

    nasty = "keys a\x1b[31m <b>"
    out = command(nasty, "--cut", "a\x1b[31m").out
    assert "\x1b" not in out
    cut = jaxflow.flow_cut(explain(nasty).attention, layer=-1, source=0, sink=2)
    summary = visible(cut.summary(["[CLS]", *nasty.split()]))
    assert rf"Flow to a\x1b[31m (token 2) is {cut.value:.3g}, held down at: {summary}" in out
    command(nasty, "--cut", "<b>", "--html", "page.html")
    text = (here / "page.html").read_text(encoding="utf-8")
    assert "Flow to &lt;b&gt; (token 3)" in text


def test_the_page_has_bars_and_views_of_every_sentence(explain, monkeypatch):
    """That its tokens are only text is tested with all pages."""
    explanations = [explain(NASTY), explain(SENTENCE)]
    page = as_page(explanations)
    shown = Reader(page).text
    for token in (*explanations[0].tokens, *explanations[1].tokens):
        assert shown.count(visible(token.text)) >= len(METHODS)
    assert len(list(document(page).select({"name": "map"}))) == len(explanations)
    # Bars start from the top layer, mean of the heads.
    found = explanations[0]
    data = columns(as_page([found]), "bars-0")
    for place, (name, scores) in enumerate(found.scores.items()):
        bars = data["method"] == place
        if name in found.layers:
            bars &= (data["layer"] == 2) & (data["head"] == 0)
        np.testing.assert_allclose(data["score"][bars], scores, atol=2e-5)
    monkeypatch.setattr("jaxflow.eval.explain.page.MOST_VIEWS", 1)
    page = as_page([*explanations, explain("the keys")])
    assert len(list(document(page).select({"name": "map"}))) == 1
    assert "views of the 2 sentences after the first 1" in page


def test_the_picture_has_a_cell_for_every_score(explain, tmp_path):
    """That matplotlib's settings stay is tested with the figures."""
    explanations = [explain(SENTENCE), explain("keys")]
    for axis, explanation in zip(draw(explanations).axes, explanations, strict=True):
        (image,) = axis.get_images()
        for row, name in zip(np.asarray(image.get_array()).tolist(), METHODS, strict=True):
            expected = [shade(share) for share in relative(explanation.scores[name])]
            assert [tuple(colour) for colour in row] == expected
    save_png([explain(NASTY)], tmp_path / "picture.png")  # warnings are errors


def test_files_are_written_and_json_stays_alone_on_standard_output(command, here, monkeypatch):
    printed = command(NASTY, SENTENCE, "--html", "new/page.html", "--png", "picture.anything")
    assert printed.out == ""
    assert printed.err.endswith("wrote new/page.html\nwrote picture.anything\n")
    assert (here / "new" / "page.html").read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    assert (here / "picture.anything").read_bytes().startswith(b"\x89PNG\r\n")
    assert [path.name for path in (here / "new").iterdir()] == ["page.html"]
    text = "\ufeffthe cabinet\r\n\r\nkeys\u2028to the cabinet\n\n"
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
    printed = command("to Paris", "--file", "-", "--html", "page.html", "--json")
    found = [sentence["text"] for sentence in json.loads(printed.out)["sentences"]]
    assert found == ["to Paris", "the cabinet", "keys\u2028to the cabinet"]
    assert "explaining 3/3" in printed.err
    assert printed.err.endswith("wrote page.html\n")


def test_the_bundled_model_answers_as_the_readme_shows(capsys, monkeypatch, agreement):
    """To the digits that do not depend on the machine; its flow is exact without the kernel."""
    monkeypatch.setitem(sys.modules, "jaxflow._flow.kernel", None)
    sentence = "the keys to the cabinet"
    assert main(["explain", sentence]) == 0
    lines = capsys.readouterr().out.splitlines()
    call = r"```text\n\$ jaxflow explain \"the keys to the cabinet\"\n(.*?)```"
    (block,) = re.findall(call, README.read_text(), re.S)
    start = lines.index(sentence) + 1 if lines[0] == sentence else 0
    for shown, printed in zip(block.splitlines(), lines[start:], strict=False):
        for left, right in zip(shown.split(), printed.split(), strict=True):
            try:
                assert float(left) == pytest.approx(float(right), rel=0.02)
            except ValueError:
                assert left == right
    found = explainer(agreement)(sentence)
    assert (found.prediction, found.unknown) == ("plural", ())
    assert found.probabilities["plural"] > 0.99
    assert np.argmax(found.scores["blank_out"]) == 2  # keys
    monkeypatch.undo()
    attention = agreement(agreement.tokenizer.encode_batch([sentence])).attention[0]
    expected = jaxflow.flow(attention, sources=0)[:, 0]
    np.testing.assert_allclose(found.layers["flow"], expected, atol=1e-6)
    reached = jaxflow.saturation(attention, sources=0, layers=-1).reached[0, 0]
    np.testing.assert_array_equal(found.saturated, reached)


def test_an_exported_run_is_a_run(command, here, capsys):
    models.save(here / "exported", tiny_agreement(), recipe={}, accuracy={})
    assert main(["explain", "the keys", "--run", "exported"]) == 0
    assert "prediction: " in capsys.readouterr().out
    (here / "exported" / "vocab.txt").write_text("the\n")
    assert main(["explain", "the keys", "--run", "exported"]) == 2
    assert "vocab.txt is damaged: its checksum" in capsys.readouterr().err


def test_a_published_model(published, capsys):
    arguments = ["explain", "The keys are unlikely quux.", "--model", str(published)]
    assert main([*arguments, "--json"]) == 0
    (sentence,) = json.loads(capsys.readouterr().out)["sentences"]
    expected = explainer(tiny())("The keys are unlikely quux.")
    assert sentence["prediction"] == expected.prediction
    assert list(sentence["probabilities"]) == ["negative", "neutral", "positive"]
    assert [token["text"] for token in sentence["tokens"]][5:8] == ["un", "##like", "##ly"]
    np.testing.assert_allclose(sentence["scores"]["flow"], expected.scores["flow"], atol=1e-5)
    assert main([*arguments, "--words"]) == 0
    out = capsys.readouterr().out
    assert "unlikely" in out
    assert "##ly" not in out
    assert "Not in the vocabulary, read as [UNK]: quux" in out


def test_two_texts_and_the_label_that_is_asked_for(published, here, capfd, refused):
    arguments = ["--model", str(published), "--pair", "the cabinet"]
    found = []
    for command in (["explain", "the keys", "--label", "neutral"], ["edges", "the keys"]):
        assert main([*command, *arguments, "--json"]) == 0
        found += json.loads(capfd.readouterr().out)["sentences"]
        tokens = ["[CLS]", "the", "key", "##s", "[SEP]", "the", "cabinet", "[SEP]"]
        assert [token["text"] for token in found[-1]["tokens"]] == tokens
        assert (found[-1]["text"], found[-1]["pair"]) == ("the keys", "the cabinet")
    assert found[0]["explained"] == "neutral"
    for name, text in (("one.txt", "the keys"), ("two.txt", "the cabinet")):
        (here / name).write_text(text)
    assert main(["attribute", "one.txt", "--model", str(published), "--pair", "two.txt"]) == 0
    with np.load(here / "one.rollout.npz") as file:
        for sentence, name in zip(found, ("rollout", "raw/rollout"), strict=True):
            rows = sentence.get("layers", sentence["scores"])[name]
            np.testing.assert_allclose(file["token_attention"][0, :, 0], rows, atol=1e-5)
    for words, part in (
        (["explain", "a", "b", *arguments], "pair must be given once for each of the 2 texts"),
        (["explain", "a", "--pair", "b"], "pair must be None"),
        (["explain", "the [SEP] key", "--model", published], "must not hold the separator"),
        (["attribute", "one.txt", "--pair", "two.txt"], "pair has no meaning without --model"),
    ):
        refused(*words, parts=[part])


def test_maps_are_laid_over_a_picture(here, capsysbinary):
    config = models.ViTConfig(
        image=(16, 16), patch=4, layers=2, heads=2, width=16, labels=("cat", "dog"), readout="mean"
    )
    vit = models.Model(config, sharpened(models.init(config)), None)
    models.save_pretrained(here / "vit", vit)
    pixels = np.random.default_rng(0).integers(0, 255, (30, 40, 3), np.uint8)
    Image.fromarray(pixels).save(here / "flower.jpg")
    arguments = ["explain", "--image", "flower.jpg", "--model", "vit"]
    assert main([*arguments, "--heads", "max", "--discard", "0.5", "--occlusion"]) == 0
    out = capsysbinary.readouterr().out.decode()
    assert "cat" in out
    assert "occlusion" in out
    with Image.open(here / "flower.overlay.png") as overlay:
        assert overlay.width > overlay.height
    assert main([*arguments, "--png", "-"]) == 0
    assert capsysbinary.readouterr().out.startswith(b"\x89PNG")
    assert not (here / "-").exists()
    assert main([*arguments, "--heads", "most"]) == 2
    assert b"heads must be" in capsysbinary.readouterr().err
