"""Test explanations of an answer, token by token, against dense rollout and sums by hand."""

from __future__ import annotations

import base64
import dataclasses
import json
import re

import numpy as np
import pytest
from browser import chromium, reason_for_none
from tiny_models import tiny, tiny_decoder

import jaxflow
from jaxflow.__main__ import main
from jaxflow.edges import receptive_field
from jaxflow.errors import InputError
from jaxflow.eval.explain.answer import explain_answer, join_units, read_passages
from jaxflow.eval.explain.answer_shown import as_answer_json, as_answer_page
from jaxflow.html.answer import AnswerContent, write_answer_page
from jaxflow.html.style import shades
from jaxflow.models import Model, init, trace

REASON = reason_for_none()
PROMPT, ANSWER = "the keys are. unlikely the\nkey to the cabinet", "the keys are the"


@pytest.fixture(scope="module")
def decoder():
    model = tiny_decoder()
    return dataclasses.replace(model, params=init(model.config))


@pytest.fixture(scope="module", params=["decoder", "gpt2"])
def made(request, decoder):
    """A model, the explanation of a given answer, and all tokens."""
    model = decoder if request.param == "decoder" else tiny("lm", causal=True)
    methods = ("rollout-normalised", "rollout")
    options = {"methods": methods, "layers": (0, -1), "residual": 0.4, "units": "sentences"}
    found = explain_answer(model, PROMPT, answer=ANSWER, **options)
    ids = [*model.text.read(PROMPT).ids, *model.text.encode(ANSWER, template=False)]
    return model, found, np.array([ids], np.int32)


def test_rows_are_those_of_dense_rollout_from_the_token_before(made):
    model, found, ids = made
    count = len(found.answer_tokens)
    sources = np.arange(ids.shape[1] - count - 1, ids.shape[1] - 1)
    output = model(ids)
    rolled = np.asarray(jaxflow.rollout(output.attention, residual=0.4))[0][[0, -1]][:, sources]
    np.testing.assert_allclose(found.scores["rollout"], rolled, atol=1e-5)
    layers = model.config.layers
    field = receptive_field(ids.shape[1], layers, residual=0.4)[[0, -1]][:, sources]
    normalised = np.divide(rolled, field, out=np.zeros_like(rolled), where=field > 0)
    np.testing.assert_allclose(found.scores["rollout-normalised"], normalised, rtol=1e-3, atol=1e-4)
    logits = np.asarray(output.logits, np.float64)[0, sources]
    chances = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    expected = chances[np.arange(count), ids[0, sources + 1]]
    np.testing.assert_allclose(found.log_probabilities, expected, atol=1e-4)

    assert found.layers == (0, layers - 1)
    parts = [np.flatnonzero(found.members == unit) for unit in range(len(found.units))]
    parts.append(np.arange(len(found.members), ids.shape[1]))
    sums = np.stack([rolled[..., part].sum(-1) for part in parts], -1)
    np.testing.assert_allclose(found.unit_scores("rollout"), sums, atol=1e-5)
    fields = np.stack([field[..., part].sum(-1) for part in parts], -1)
    ratios = np.divide(sums, fields, out=np.zeros_like(sums), where=fields > 0)
    np.testing.assert_allclose(
        found.unit_scores("rollout-normalised"), ratios, rtol=1e-3, atol=1e-4
    )


def test_norms_follow_the_trace(decoder):
    found = explain_answer(decoder, PROMPT, answer=ANSWER, methods=("norm/rollout",))
    ids = [*decoder.text.read(PROMPT).ids, *decoder.text.encode(ANSWER, template=False)]
    traced = trace(decoder, np.array([ids], np.int32))
    kernel = decoder.params["params"]["blocks"]["attention_out"]["kernel"]
    attention, vectors = np.asarray(traced.attention)[0], np.asarray(traced.vectors)[0]
    rolled = one = np.eye(len(ids))
    for mixes, values, out in zip(attention, vectors, np.asarray(kernel), strict=True):
        heads = out.reshape(len(values), -1, out.shape[-1])
        norms = np.linalg.norm(np.einsum("hij,hjd,hdw->ijw", mixes, values, heads), axis=-1)
        rolled = (norms / norms.sum(-1, keepdims=True) / 2 + one / 2) @ rolled
    expected = rolled[len(found.prompt_tokens) - 1 : -1]
    np.testing.assert_allclose(found.scores["norm/rollout"][0], expected, rtol=1e-3, atol=1e-5)


def test_the_share_of_attention_sinks_is_said(decoder):
    config = dataclasses.replace(decoder.config, sinks=True)
    model = Model(config, init(config), decoder.text)
    found = explain_answer(model, PROMPT, answer=ANSWER)
    missing = 1 - found.scores["rollout"][-1].sum(-1).mean()
    assert missing > 0.05
    assert found.sink == pytest.approx(missing, abs=1e-5)
    said = f"{missing:.0%} of what a token"
    assert said in as_answer_page(found)
    assert said not in as_answer_page(explain_answer(decoder, PROMPT, answer=ANSWER))


def test_a_generated_answer_is_explained_as_if_it_were_given(decoder):
    made = explain_answer(decoder, PROMPT, generate=4)
    assert len(made.answer_tokens) == 4
    from jaxflow.models.generation import generate

    ids = np.array([decoder.text.read(PROMPT).ids], np.int32)
    expected = generate(decoder, ids, 4)
    np.testing.assert_allclose(made.log_probabilities, expected.log_probabilities[0], atol=1e-4)


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("words", ["One", "is.", "Two!", "is", "three", "(between)"]),
        ("sentences", ["One is.", "Two!", "is", "three", "(between)"]),
        ("lines", ["One is. Two! is", "three", "(between)"]),
        ("passages", ["is. Two", "three", "(outside the passages)"]),
    ],
)
def test_tokens_are_joined_to_units(kind, names):
    text = "One is. Two! is\nthree"
    spans = [(0, 0), *(match.span() for match in re.finditer(r"\s?[\w]+|\s?[.!]", text))]
    passages = ["is. Two", "three"] if kind == "passages" else ()
    found, members = join_units(text, spans, kind, passages)
    assert list(found) == names
    assert members[0] == len(names) - 1  # a special token that the text does not hold
    for (begin, end), member in zip(spans[1:], members[1:], strict=True):
        token = text[begin:end].strip()
        assert token in found[member] or (kind == "passages" and member == 2)


def test_the_command_prints_and_writes(decoder, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("jaxflow.commands._options.ModelOptions.load", lambda options: decoder)
    passages = tmp_path / "passages.json"
    passages.write_text(json.dumps(["the keys are.", {"text": "key to the cabinet"}]))
    arguments = ["explain", PROMPT, "--model", "x", "--passages", str(passages)]
    assert main([*arguments, "--answer", ANSWER]) == 0
    out = capsys.readouterr().out
    assert "key to the cabinet" in out.split("part of the answer")[1]
    files = {name: tmp_path / f"page.{name}" for name in ("html", "json", "parquet")}
    options = [part for name, path in files.items() for part in (f"--{name}", str(path))]
    assert main([*arguments, "--generate", "3", *options]) == 0
    record = json.loads(files["json"].read_text(encoding="utf-8"))
    assert (record["format"], len(record["answer_tokens"])) == ("jaxflow-answer-1", 3)
    import pyarrow.parquet as pq

    table = pq.read_table(files["parquet"]).to_pandas()
    kept = table[(table.method == "rollout") & (table.answer_token == 1)]
    scores = np.array(record["scores"]["rollout"])[0, 1]
    np.testing.assert_allclose(kept.score, scores[: len(kept)], rtol=1e-5)
    assert len(kept) == len(record["prompt_tokens"]) + 1


def test_the_page_holds_the_scores_and_text_as_text(made):
    _, found, _ = made
    page = as_answer_page(found)
    (text,) = re.findall(r'id="data">(.*?)</script>', page, re.DOTALL)
    data = json.loads(text)
    assert data["answer"] == list(found.answer_tokens)
    table = data["scores"][data["methods"].index("rollout") * 2 + 1]
    steps = np.frombuffer(base64.b64decode(table["steps"]), np.uint8)
    values = (steps.reshape(len(found.answer_tokens), -1) / 255) ** 2
    values *= np.array(table["largest"])[:, None]
    np.testing.assert_allclose(values, found.scores["rollout"][1], atol=5e-3)
    assert json.loads(as_answer_json(found))["units"] == list(found.units)


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ({"methods": ("alti",)}, "methods must be of rollout-normalised, rollout"),
        ({"units": "pages"}, "units must be words, sentences, lines or passages"),
        ({"units": "passages"}, "units passages and a list of passages go together"),
        ({"units": "passages", "passages": ["the key", "the keys are"]}, "passage 2 must stand"),
        ({"answer": "the keys " * 30}, "prompt and answer must be at most 64 tokens"),
        ({"answer": ""}, "the answer must have at least one token"),
        ({"layers": (3,)}, "layer must be from -3 to 2"),
        ({"residual": 2}, "residual"),
    ],
)
def test_unusable_options_are_refused(decoder, options, part):
    with pytest.raises(InputError, match=part):
        explain_answer(decoder, PROMPT, **({"answer": ANSWER} | options))


def test_other_models_and_files_are_refused(tmp_path):
    with pytest.raises(InputError, match="needs a language model that reads from left to right"):
        explain_answer(tiny("masked-lm"), PROMPT, answer=ANSWER)
    file = tmp_path / "passages.json"
    for text in ("{", "[]", '["a", 3]', '[{"name": "x"}]'):
        file.write_text(text, encoding="utf-8")
        with pytest.raises(InputError, match="must be a JSON list of passages"):
            read_passages(file)
    scores = {"rollout": np.zeros((1, 2, 2))}
    large = AnswerContent(["a"] * 3_000_000, ["b"] * 2, scores, scores, ["share"], ["top"], ["a"])
    with pytest.raises(InputError, match="ask for fewer methods, layers or tokens"):
        write_answer_page(large)


@pytest.mark.browser
@pytest.mark.skipif(REASON is not None, reason=str(REASON))
def test_pointing_at_a_token_shades_what_it_came_from(made, tmp_path):
    _, found, _ = made
    file = tmp_path / "answer.html"
    file.write_text(as_answer_page(found), encoding="utf-8")
    troubles = []
    with chromium() as browser:
        page = browser.new_page()
        page.on("console", lambda line: troubles.append(line.text))
        page.on("pageerror", lambda error: troubles.append(str(error)))
        page.goto(file.as_uri())
        page.select_option("#method", label="rollout")
        row = 2
        page.locator("#answer span").nth(row).hover()
        spans = page.locator("#prompt span")
        colours = spans.evaluate_all("all => all.map(s => s.style.background)")
        whole = found.scores["rollout"][-1][row]
        steps = np.rint(255 * np.sqrt(whole / whole.max())).astype(int)[: len(colours)]
        painted = [bytes.fromhex(shades()[step][1:]) for step in steps]
        assert colours == [f"rgb({red}, {green}, {blue})" for red, green, blue in painted]
        assert len(set(colours)) > 3
        sums = found.unit_scores("rollout")[-1, row]
        shown = page.locator("#totals tr").first.inner_text()
        names = [*found.units, "(the answer before it)"]
        assert " ".join(names[int(sums.argmax())].split()) in " ".join(shown.split())
        assert f"{sums.max() / sums.sum():.1%}"[:-1] in shown
    assert troubles == []
