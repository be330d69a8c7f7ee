"""Test ``jaxflow explain``: scores, every form of output, and that tokens are only text."""

from __future__ import annotations

import io
import json
import re
import sys
import warnings
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from page_reader import Reader, columns, document
from PIL import Image
from scipy.stats import spearmanr
from tiny_models import sharpened, tiny

import jaxflow
from jaxflow import models
from jaxflow.commands import main
from jaxflow.errors import InputError
from jaxflow.eval.explain.page import as_page
from jaxflow.eval.explain.picture import draw, save_png
from jaxflow.eval.explain.text import print_explanation
from jaxflow.eval.explanation import METHODS, explainer
from jaxflow.eval.plots.style import ink, relative, shade, visible

README = Path(__file__).parents[2] / "README.md"
WORDS = ("the", "keys", "to", "cabinet", "Paris")
SENTENCE = "The keys to the cabinet near Paris"
NASTY = (
    "<script>alert(1)</script> \"quoted\" 'single' & &lt; </style> "
    "שלום \U0001f469\u200d\U0001f680 a\u202eb a\x1b[31m $x_1$ [bold]b[/bold] --> {x}"
)


@pytest.fixture(scope="module")
def model():
    tokenizer = models.WordTokenizer((*models.tokenizer.SPECIAL_TOKENS, *WORDS))
    config = models.EncoderConfig(
        vocabulary=len(tokenizer), positions=40, layers=2, heads=2, width=16
    )
    params = models.AgreementEncoder(config).init(jax.random.key(0), jnp.zeros((1, 2), jnp.int32))
    # Larger weights than the first ones, so that no score is lost in rounding.
    params = jax.tree.map(lambda leaf: leaf * 20 if leaf.ndim > 1 else leaf, params)
    return models.Model(config, params, tokenizer)


@pytest.fixture(scope="module")
def explain(model):
    return explainer(model)


@pytest.fixture(scope="module")
def run(tmp_path_factory, model):
    folder = tmp_path_factory.mktemp("run")
    models.save(folder / "model", model)
    return folder


@pytest.fixture
def command(run, explain, monkeypatch, capsys):
    """A function: run the command with programs that are compiled already; what it printed."""
    monkeypatch.setattr("jaxflow.eval.explanation.explainer", lambda *_, **__: explain)

    def call(*arguments):
        assert main(["explain", *map(str, arguments), "--run", str(run)]) == 0
        return capsys.readouterr()

    return call


def test_scores_are_those_of_the_public_functions_without_padding(model, explain):
    found = explain(SENTENCE)
    ids = np.array([[1, 3, 4, 5, 3, 6, 2, 7]])  # [CLS] the keys to the cabinet [UNK] Paris
    output = model(ids)
    probabilities = np.asarray(jax.nn.softmax(output.logits))[0]
    np.testing.assert_allclose(list(found.probabilities.values()), probabilities, atol=1e-6)
    assert found.prediction == ("singular", "plural")[int(probabilities.argmax())]
    attention = np.asarray(output.attention[0], np.float64)
    np.testing.assert_allclose(found.attention, attention, atol=1e-6)
    rows = {
        "raw": attention.mean(1)[:, 0],
        "rollout": np.asarray(jaxflow.rollout(attention))[:, 0],
        "flow": jaxflow.flow(attention)[:, 0],
    }
    for name, values in rows.items():
        np.testing.assert_allclose(found.layers[name], values, atol=1e-5)
        np.testing.assert_array_equal(found.scores[name], found.layers[name][-1])

    label = int(probabilities.argmax())
    blanked = np.repeat(ids, ids.shape[1], 0)
    np.fill_diagonal(blanked, 2)
    without = np.asarray(jax.nn.softmax(model(blanked).logits))[:, label]
    change = np.abs(probabilities[label] - without)
    np.testing.assert_allclose(found.scores["blank_out"], change, atol=1e-5)
    assert found.scores["blank_out"][6] == 0  # what was [UNK] cannot be blanked
    embeddings = model.module.apply(model.params, ids, method="embed")

    def difference(values):
        logits = model.module.apply(model.params, values, method="encode").logits
        first, second = jax.nn.softmax(logits)[0]
        return first - second

    norms = np.linalg.norm(np.asarray(jax.grad(difference)(embeddings))[0], axis=-1)
    np.testing.assert_allclose(found.scores["gradient_norm"], norms, rtol=1e-3, atol=1e-6)
    values = np.stack([found.scores[name] for name in METHODS], 1)
    np.testing.assert_allclose(found.agreement, spearmanr(values).statistic, atol=1e-9)


def test_words_are_tried_as_they_are_then_in_lower_case(explain):
    found = explain("The keys PARIS Paris [PAD] [CLS] to")
    seen = [token.seen for token in found.tokens]
    assert seen == ["[CLS]", "the", "keys", "[UNK]", "Paris", "[UNK]", "[UNK]", "to"]
    assert found.unknown == ("PARIS", "[PAD]", "[CLS]")
    assert [token.text for token in found.tokens][1:] == found.text.split()
    full = explain(" ".join(["keys"] * 39))  # all positions
    assert all(values.shape == (40,) for values in full.scores.values())


@pytest.mark.parametrize(
    ("text", "part"),
    [(" \t ", "at least one word"), ("a " * 40, "at most 39 words"), ("a\udcff", "valid Unicode")],
)
def test_unusable_sentences(explain, text, part):
    with pytest.raises(InputError, match=part):
        explain(text)


def test_json_is_strict_and_complete(explain, command):
    def refuse(name):
        raise AssertionError(name)

    sentences = (SENTENCE, NASTY, "nothing known")
    record = json.loads(command(*sentences, "--json").out, parse_constant=refuse)
    assert record["format"] == "jaxflow-explanation-1"
    assert record["methods"] == list(METHODS)
    assert [sentence["text"] for sentence in record["sentences"]] == list(sentences)
    for sentence in record["sentences"]:
        assert set(sentence) >= {
            "text", "prediction", "probabilities", "tokens", "unknown", "scores", "agreement",
            "layers", "saturated", "cuts", "readout", "target", "replacement",
        }  # fmt: skip
        assert sentence["cuts"] == []
        n = len(sentence["text"].split()) + 1
        assert len(sentence["tokens"]) == len(sentence["saturated"]) == n
        assert set(sentence["tokens"][0]) == {"text", "seen", "known"}
        assert sum(sentence["probabilities"].values()) == pytest.approx(1)
        assert {len(values) for values in sentence["scores"].values()} == {n}
        assert set(sentence["layers"]) == {"raw", "rollout", "flow"}
        assert {len(rows) for rows in sentence["layers"].values()} == {2}
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
    from rich.console import Console

    text = io.StringIO()
    console = Console(file=text, force_terminal=True, color_system="truecolor", width=200)
    found = explain("the keys to")
    print_explanation(console, found)
    rows = {
        line.split()[0].removeprefix("\x1b[1m"): re.findall(r"48;2;(\d+);(\d+);(\d+)m", line)
        for line in text.getvalue().splitlines()
        if "48;2" in line
    }
    assert list(rows) == ["[CLS]", "the", "keys", "to"]
    for place, colours in enumerate(rows.values()):
        expected = [shade(relative(found.scores[name])[place]) for name in METHODS]
        assert [tuple(map(int, colour)) for colour in colours] == expected


def test_shades_run_from_white_to_dark_and_text_stays_readable():
    def light(colour):
        shares = (channel / 255 for channel in colour)
        linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in shares]
        return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))

    papers = [shade(share) for share in np.linspace(0, 1, 101)]
    lights = [light(paper) for paper in papers]
    for paper, own in zip(papers, lights, strict=True):
        low, high = sorted((own, light(ink(paper))))
        assert (high + 0.05) / (low + 0.05) >= 4.5  # the contrast that WCAG asks of text
    assert lights[0] == pytest.approx(1)
    assert (np.diff(lights) < 0).all()
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
    asked = [nasty, "--cut", "a\x1b[31m", "--cut", "<b>"]
    out = command(*asked).out
    assert "\x1b" not in out
    cut = jaxflow.flow_cut(explain(nasty).attention, layer=-1, source=0, sink=2)
    summary = visible(cut.summary(["[CLS]", *nasty.split()]))
    assert rf"Flow to a\x1b[31m (token 2) is {cut.value:.3g}, held down at: {summary}" in out
    command(*asked, "--html", "page.html")
    text = (here / "page.html").read_text(encoding="utf-8")
    assert "Flow to &lt;b&gt; (token 3)" in text
    assert "b" not in Reader(text).tags


def test_the_page_shows_every_token_as_text_and_has_views_of_every_sentence(explain, monkeypatch):
    explanations = [explain(NASTY), explain(SENTENCE)]
    page = as_page(explanations)
    reader = Reader(page)
    assert {"img", "link", "iframe", "object", "a", "b"}.isdisjoint(reader.tags)
    names = {name for name, _ in reader.attributes}
    assert not {name for name in names if name.startswith("on")} | (names & {"src", "href"})
    assert reader.tags.count("script") == Reader(as_page([explain("keys")])).tags.count("script")
    for explanation in explanations:
        for token in explanation.tokens:
            assert reader.text.count(visible(token.text)) >= len(METHODS)
    assert not {"\u202e", "\x1b"} & set("".join(reader.text))
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


def test_the_picture_has_a_cell_for_every_score_and_leaves_matplotlib_alone(explain, tmp_path):
    import matplotlib
    import matplotlib.pyplot

    before = dict(matplotlib.rcParams)
    explanations = [explain(SENTENCE), explain("keys")]
    for axis, explanation in zip(draw(explanations).axes, explanations, strict=True):
        (image,) = axis.get_images()
        colours = np.asarray(image.get_array())
        assert colours.shape[:2] == (len(METHODS), len(explanation.tokens))
        for row, name in enumerate(METHODS):
            expected = [shade(share) for share in relative(explanation.scores[name])]
            assert [tuple(colour) for colour in colours[row].tolist()] == expected
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        save_png([explain(NASTY)], tmp_path / "picture.png")
    assert dict(matplotlib.rcParams) == before
    assert matplotlib.pyplot.get_fignums() == []


def test_files_are_written_and_json_stays_alone_on_standard_output(command, here):
    printed = command(NASTY, SENTENCE, "--html", "new/page.html", "--png", "picture.anything")
    assert printed.out == ""
    assert printed.err.endswith("wrote new/page.html\nwrote picture.anything\n")
    assert (here / "new" / "page.html").read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    assert (here / "picture.anything").read_bytes().startswith(b"\x89PNG\r\n")
    assert [path.name for path in (here / "new").iterdir()] == ["page.html"]
    printed = command("keys", "--html", "page.html", "--json")
    json.loads(printed.out)
    assert printed.err == "wrote page.html\n"


def test_sentences_from_standard_input(command, monkeypatch):
    text = "\ufeffthe cabinet\r\n\r\nkeys\u2028to the cabinet\n\n"
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
    printed = command("to Paris", "--file", "-", "--json")
    found = [sentence["text"] for sentence in json.loads(printed.out)["sentences"]]
    assert found == ["to Paris", "the cabinet", "keys\u2028to the cabinet"]
    assert "explaining 3/3" in printed.err


def test_the_bundled_model_answers_as_the_readme_shows(capsys, monkeypatch, agreement):
    """To the digits that do not depend on the machine; its flow is exact without the kernel."""
    monkeypatch.setitem(sys.modules, "jaxflow._flow.kernel", None)
    sentence = "the keys to the cabinet"
    assert main(["explain", sentence]) == 0
    lines = capsys.readouterr().out.splitlines()
    call = r"```text\n\$ jaxflow explain \"the keys to the cabinet\"\n(.*?)```"
    (block,) = re.findall(call, README.read_text(), re.S)
    shown_lines = block.splitlines()
    start = lines.index(sentence) + 1 if lines[0] == sentence else 0
    for shown, printed in zip(shown_lines, lines[start : start + len(shown_lines)], strict=True):
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


def test_an_exported_run_is_a_run(model, command, here, capsys):
    models.save(here / "exported", model, recipe={}, accuracy={})
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
