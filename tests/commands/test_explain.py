"""``jaxflow explain``: what it says, in every form, and that no token is more than text."""

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
from scipy.stats import spearmanr

import jaxflow
from jaxflow import models
from jaxflow.commands import main
from jaxflow.errors import InputError
from jaxflow.eval.explain.explanation import METHODS, explainer
from jaxflow.eval.explain.page import as_page
from jaxflow.eval.explain.picture import draw, save_png
from jaxflow.eval.explain.text import print_explanation
from jaxflow.eval.plots.style import ink, relative, shade, visible

README = Path(__file__).parents[2] / "README.md"
WORDS = ("the", "keys", "to", "cabinet", "Paris")
SENTENCE = "The keys to the cabinet near Paris"
NASTY = (
    "<script>alert(1)</script> \"quoted\" 'single' & &lt; </style> "
    "שלום \U0001f469\u200d\U0001f680 a\u202eb a\x1b[31m $x_1$ [bold]b[/bold] --> {x}"
)


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory, monkeypatch):
    """A cache of the tests' own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "explain-cache"))


@pytest.fixture(scope="module")
def model():
    tokenizer = models.WordTokenizer((*models.tokenizer.SPECIAL_TOKENS, *WORDS))
    config = models.EncoderConfig(
        vocabulary=len(tokenizer), positions=40, layers=2, heads=2, width=16
    )
    tokens = jnp.zeros((1, 2), jnp.int32)
    params = models.AgreementEncoder(config).init(jax.random.key(0), tokens)
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
def prepared(explain, monkeypatch):
    """Spare the command what a test before it has compiled."""
    monkeypatch.setattr("jaxflow.eval.explain.explanation.explainer", lambda model, words: explain)


def test_scores_are_those_of_the_public_functions_without_padding(model, explain):
    found = explain(SENTENCE)
    ids = np.array([[1, 3, 4, 5, 3, 6, 2, 7]])  # [CLS] the keys to the cabinet [UNK] Paris
    output = model(ids)
    probabilities = np.asarray(jax.nn.softmax(output.logits))[0]
    assert found.probabilities == pytest.approx(
        dict(zip(("singular", "plural"), probabilities, strict=True)), abs=1e-6
    )
    assert found.prediction == ("singular", "plural")[int(probabilities.argmax())]
    np.testing.assert_allclose(found.attention, output.attention[0], atol=1e-6)

    attention = np.asarray(output.attention[0], np.float64)
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
    np.testing.assert_allclose(
        found.scores["blank_out"], np.abs(probabilities[label] - without), atol=1e-5
    )
    embeddings = model.module.apply(model.params, ids, method="embed")

    def difference(values):
        logits = model.module.apply(model.params, values, method="encode").logits
        first, second = jax.nn.softmax(logits)[0]
        return first - second

    norms = np.linalg.norm(np.asarray(jax.grad(difference)(embeddings))[0], axis=-1)
    np.testing.assert_allclose(found.scores["gradient_norm"], norms, rtol=1e-3, atol=1e-6)
    assert found.scores["blank_out"][6] == 0  # what was [UNK] cannot be blanked


def test_agreement_is_spearman_over_all_tokens(explain):
    found = explain(SENTENCE)
    values = np.stack([found.scores[name] for name in METHODS], 1)
    np.testing.assert_allclose(found.agreement, spearmanr(values).statistic, atol=1e-9)


def test_words_are_tried_as_they_are_then_in_lower_case(explain):
    found = explain("The keys PARIS Paris [PAD] [CLS] to")
    seen = [token.seen for token in found.tokens]
    assert seen == ["[CLS]", "the", "keys", "[UNK]", "Paris", "[UNK]", "[UNK]", "to"]
    assert found.unknown == ("PARIS", "[PAD]", "[CLS]")
    assert [token.text for token in found.tokens][1:] == found.text.split()


def test_a_sentence_fills_all_positions(explain):
    found = explain(" ".join(["keys"] * 39))
    assert all(values.shape == (40,) for values in found.scores.values())


@pytest.mark.parametrize(
    ("text", "part"),
    [(" \t ", "at least one word"), ("a " * 40, "at most 39 words"), ("a\udcff", "valid Unicode")],
)
def test_unusable_sentences(explain, text, part):
    with pytest.raises(InputError, match=part):
        explain(text)


def test_json_is_strict_and_complete(run, capsys):
    assert main(["explain", SENTENCE, NASTY, "--run", str(run), "--json"]) == 0

    def refuse(name):
        raise AssertionError(name)

    record = json.loads(capsys.readouterr().out, parse_constant=refuse)
    assert set(record) == {"format", "methods", "sentences"}
    assert record["format"] == "jaxflow-explanation-1"
    assert record["methods"] == list(METHODS)
    assert [sentence["text"] for sentence in record["sentences"]] == [SENTENCE, NASTY]
    for sentence in record["sentences"]:
        assert set(sentence) == {
            "text", "prediction", "probabilities", "tokens", "unknown", "scores", "agreement",
            "layers", "saturated", "cuts", "readout",
        }  # fmt: skip
        assert sentence["cuts"] == []
        n = len(sentence["text"].split()) + 1
        assert len(sentence["tokens"]) == len(sentence["saturated"]) == n
        assert set(sentence["tokens"][0]) == {"text", "seen", "known"}
        assert sum(sentence["probabilities"].values()) == pytest.approx(1)
        assert {len(values) for values in sentence["scores"].values()} == {n}
        assert set(sentence["layers"]) == {"raw", "rollout", "flow"}
        assert {len(rows) for rows in sentence["layers"].values()} == {2}
        assert set(sentence["agreement"]) == set(sentence["agreement"]["raw"]) == set(METHODS)


@pytest.mark.usefixtures("prepared")
def test_undefined_agreement_is_null(explain, run, capsys):
    assert main(["explain", "nothing known", "--run", str(run), "--json"]) == 0
    (sentence,) = json.loads(capsys.readouterr().out)["sentences"]
    assert sentence["scores"]["blank_out"][1:] == [0, 0]
    # A constant score ranks nothing; with [CLS] only some of them are constant.
    expected = explain("nothing known").agreement
    for name, row in zip(METHODS, expected, strict=True):
        got = [sentence["agreement"][name][other] for other in METHODS]
        assert [value is None for value in got] == np.isnan(row).tolist()


@pytest.mark.usefixtures("prepared")
def test_the_terminal_view_names_tokens_methods_and_unknown_words(run, capsys, tmp_path):
    file = tmp_path / "sentences.txt"
    file.write_text("the cabinet\n\n  keys near\n", encoding="utf-8")
    assert main(["explain", SENTENCE, "--file", str(file), "--run", str(run)]) == 0
    out = capsys.readouterr().out
    assert out.count("prediction: ") == 3
    for word in (*SENTENCE.split(), *METHODS.values()):
        assert word in out
    assert "Not in the vocabulary, read as [UNK]: near" in out
    assert "Read in lower case: The as the" in out
    assert "\x1b" not in out


@pytest.mark.usefixtures("prepared")
def test_nasty_tokens_cannot_reach_the_terminal(run, capsys):
    assert main(["explain", NASTY, "--run", str(run)]) == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert "\u202e" not in out
    assert r"a\x1b[31m" in out
    assert "[bold]b[/bold]" in out


@pytest.mark.usefixtures("prepared")
def test_cuts_of_the_tokens_asked_for(explain, run, capsys):
    sentence = "the keys to the 1"
    arguments = ["explain", sentence, "--run", str(run), "--json"]
    # A word at all its places, an index, a word that looks like one, and nothing twice.
    for word in ("the", "0", "1", "keys", "2"):
        arguments += ["--cut", word]
    assert main(arguments) == 0
    (record,) = json.loads(capsys.readouterr().out)["sentences"]
    assert [cut["token"] for cut in record["cuts"]] == [1, 4, 0, 5, 2]
    tokens = [token["text"] for token in record["tokens"]]
    attention = explain(sentence).attention
    for cut in record["cuts"]:
        assert set(cut) == {"token", "value", "edges", "words", "summary"}
        expected = jaxflow.flow_cut(attention, layer=-1, source=0, sink=cut["token"])
        assert cut["value"] == expected.value
        assert cut["value"] == pytest.approx(record["scores"]["flow"][cut["token"]], abs=1e-9)
        assert cut["edges"] == [list(edge) for edge in expected.edges]
        assert cut["words"] == list(expected.describe(tokens))
        assert cut["summary"] == expected.summary(tokens)


@pytest.mark.usefixtures("prepared")
def test_cuts_are_shown_and_stay_text(explain, run, capsys, tmp_path):
    nasty = "keys a\x1b[31m <b>"
    page = tmp_path / "page.html"
    arguments = ["explain", nasty, "--run", str(run), "--cut", "a\x1b[31m", "--cut", "<b>"]
    assert main(arguments) == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out
    for place, word in ((2, r"a\x1b[31m"), (3, "<b>")):
        cut = jaxflow.flow_cut(explain(nasty).attention, layer=-1, source=0, sink=place)
        summary = visible(cut.summary(["[CLS]", *nasty.split()]))
        assert f"Flow to {word} (token {place}) is {cut.value:.3g}, held down at: {summary}" in out
    assert main([*arguments, "--html", str(page)]) == 0
    text = page.read_text(encoding="utf-8")
    assert "Flow to &lt;b&gt; (token 3)" in text
    assert "b" not in Reader(text).tags


@pytest.mark.usefixtures("prepared")
@pytest.mark.parametrize("word", ["cabinet", "3", "٢", "Keys", ""])
def test_a_cut_of_no_token_is_refused(word, run, capsys):
    assert main(["explain", "keys to", "--run", str(run), "--cut", word]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == (
        "jaxflow: error: cut must be a token of the sentence 'keys to' or an index from 0 to 2, "
        f"got {word!r}\n"
    )


def test_the_page_shows_every_token_as_text_and_has_views_of_every_sentence(explain):
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

    maps = list(document(page).select({"name": "map"}))
    assert len(maps) == len(explanations)
    (select,) = {
        tuple(label for _, label in one.options)
        for one in document(page).select({"name": "method-0"})
    }
    assert select == tuple(METHODS.values())


def test_views_of_the_page_start_from_the_explanation(explain):
    found = explain(SENTENCE)
    data = columns(as_page([found]), "bars-0")
    for place, (name, scores) in enumerate(found.scores.items()):
        bars = data["method"] == place
        if name in found.layers:  # the top layer, mean of the heads
            bars &= (data["layer"] == 2) & (data["head"] == 0)
        np.testing.assert_allclose(data["score"][bars], scores, atol=2e-5)


def test_only_so_many_sentences_get_views_and_the_page_says_so(explain, monkeypatch):
    monkeypatch.setattr("jaxflow.eval.explain.page.MOST_VIEWS", 1)
    page = as_page([explain("keys"), explain("cabinet"), explain("the keys")])
    assert len(list(document(page).select({"name": "map"}))) == 1
    assert "views of the 2 sentences after the first 1" in page
    assert "cabinet" in Reader(page).text


@pytest.mark.usefixtures("prepared")
def test_html_and_png_files(run, tmp_path, capsys):
    page, picture = tmp_path / "new" / "page.html", tmp_path / "picture.anything"
    arguments = ["explain", NASTY, SENTENCE, "--run", str(run)]
    assert main([*arguments, "--html", str(page), "--png", str(picture)]) == 0
    assert capsys.readouterr().out == f"wrote {page}\nwrote {picture}\n"
    assert page.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    assert picture.read_bytes().startswith(b"\x89PNG\r\n")
    assert [path.name for path in page.parent.iterdir()] == ["page.html"]  # nothing left beside


@pytest.mark.usefixtures("prepared")
def test_json_stays_alone_on_standard_output(run, tmp_path, capsys):
    page = tmp_path / "page.html"
    assert main(["explain", "keys", "--run", str(run), "--html", str(page), "--json"]) == 0
    captured = capsys.readouterr()
    json.loads(captured.out)
    assert captured.err == f"wrote {page}\n"


def test_the_picture_has_a_cell_for_every_score_and_leaves_matplotlib_alone(explain, tmp_path):
    import matplotlib
    import matplotlib.pyplot

    before = dict(matplotlib.rcParams)
    explanations = [explain(SENTENCE), explain("keys")]
    figure = draw(explanations)
    for axis, explanation in zip(figure.axes, explanations, strict=True):
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


def test_shades_run_from_white_to_dark_and_text_stays_readable():
    def light(colour):
        linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in colour]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    lights = []
    for share in np.linspace(0, 1, 101):
        paper, text = (
            light([channel / 255 for channel in colour])
            for colour in (shade(share), ink(shade(share)))
        )
        lights.append(paper)
        high, low = max(paper, text), min(paper, text)
        assert (high + 0.05) / (low + 0.05) >= 4.5  # the contrast that WCAG asks of text
    assert lights[0] == pytest.approx(1)
    assert (np.diff(lights) < 0).all()
    assert relative(np.zeros(3)).tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["the keys"], "jaxflow train --out RUN"),
        ([], "expected a sentence"),
        (["the keys", "--run", "nowhere"], "no trained model at nowhere"),
        (["--file", "nowhere.txt"], "nowhere.txt"),
    ],
)
def test_bad_input_is_one_line(arguments, part, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("jaxflow.models.hub.BUNDLED", tmp_path / "none")
    assert main(["explain", *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("jaxflow: error: ")
    assert captured.err.count("\n") == 1
    assert part in captured.err


@pytest.mark.usefixtures("prepared")
def test_more_sentences_than_a_picture_holds_are_refused(run, tmp_path, capsys):
    arguments = ["explain", *["the keys"] * 21, "--run", str(run), "--png"]
    assert main([*arguments, str(tmp_path / "picture.png")]) == 2
    assert "at most 20 sentences, got 21" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("prepared")
@pytest.mark.parametrize("form", ["terminal", "--json", "--html", "--png"])
def test_sentences_from_standard_input_in_every_form(form, run, tmp_path, monkeypatch, capsys):
    text = "\ufeffthe cabinet\r\n\r\nkeys\u2028to the cabinet\n\n"
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
    arguments = ["explain", "to Paris", "--file", "-", "--run", str(run)]
    sentences = ["to Paris", "the cabinet", "keys\u2028to the cabinet"]
    file = tmp_path / "file"
    if form != "terminal":
        arguments += [form] if form == "--json" else [form, str(file)]
    assert main(arguments) == 0
    captured = capsys.readouterr()
    if form == "terminal":
        assert captured.out.count("prediction: ") == 3
    elif form == "--json":
        record = json.loads(captured.out)
        assert [sentence["text"] for sentence in record["sentences"]] == sentences
    elif form == "--html":
        assert file.read_text(encoding="utf-8").count("<section") >= 3
    else:
        height = int.from_bytes(file.read_bytes()[20:24], "big")
        assert height > 3 * 400
    assert "explaining 3/3" in captured.err


@pytest.mark.usefixtures("prepared")
def test_text_that_is_none_is_one_line(run, monkeypatch, capsys):
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"the \xff")))
    assert main(["explain", "--file", "-", "--run", str(run)]) == 2
    assert capsys.readouterr().err.startswith("jaxflow: error: standard input must be text, ")


def test_the_model_that_comes_along_answers_with_nothing_trained(capsys, tmp_path, monkeypatch):
    """The flow it shows is exact, and no kernel is compiled for it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "jaxflow._flow.kernel", None)
    assert main(["explain", "the keys to the cabinet", "the key to the cabinets", "--json"]) == 0
    first, second = json.loads(capsys.readouterr().out)["sentences"]
    assert (first["prediction"], second["prediction"]) == ("plural", "singular")
    assert min(first["probabilities"]["plural"], second["probabilities"]["singular"]) > 0.99
    assert first["unknown"] == second["unknown"] == []
    assert np.argmax(first["scores"]["blank_out"]) == 2  # keys
    monkeypatch.undo()
    model = models.load("agreement")
    attention = model(model.tokenizer.encode_batch(["the keys to the cabinet"])).attention[0]
    np.testing.assert_allclose(
        first["layers"]["flow"], jaxflow.flow(attention, sources=0)[:, 0], atol=1e-6
    )
    assert first["saturated"] == jaxflow.saturation(
        attention, sources=0, layers=-1
    ).reached[0, 0].tolist()  # fmt: skip


def test_the_readme_shows_what_is_printed(capsys):
    """To the digits that do not depend on the machine: the words, and the larger scores."""
    (block,) = re.findall(r"```text\n(the keys to the cabinet\n.*?)```", README.read_text(), re.S)
    assert main(["explain", "the keys to the cabinet"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for shown, printed in zip(block.splitlines(), lines, strict=False):
        for left, right in zip(shown.split(), printed.split(), strict=True):
            try:
                assert float(left) == pytest.approx(float(right), rel=0.02)
            except ValueError:
                assert left == right


@pytest.mark.usefixtures("prepared")
def test_an_exported_run_is_a_run(model, tmp_path, capsys):
    models.save(tmp_path / "exported", model, recipe={}, accuracy={})
    assert main(["explain", "the keys", "--run", str(tmp_path / "exported")]) == 0
    assert "prediction: " in capsys.readouterr().out
    (tmp_path / "exported" / "vocab.txt").write_text("the\n")
    assert main(["explain", "the keys", "--run", str(tmp_path / "exported")]) == 2
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1
    assert "vocab.txt is damaged: its checksum does not match" in captured.err


@pytest.mark.usefixtures("prepared")
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


def test_other_classes_are_refused(model):
    config = models.EncoderConfig(vocabulary=8, layers=1, heads=1, width=8, classes=3)
    with pytest.raises(InputError, match="3 classes"):
        explainer(models.Model(config, None, model.tokenizer))
