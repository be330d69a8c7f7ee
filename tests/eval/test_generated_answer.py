"""Test explanations of an answer, token by token, against dense rollout and sums by hand."""

from __future__ import annotations

import base64
import dataclasses
import html
import json
import re

import numpy as np
import pytest
import tokenizers
import torch_models
from browser import chromium, reason_for_none
from session import refused
from tiny_models import tiny, tiny_decoder

import jaxflow
from jaxflow.__main__ import main
from jaxflow.edges import receptive_field
from jaxflow.errors import InputError
from jaxflow.eval.explain.answer import (
    DEFAULT,
    encode_answer,
    explain_answer,
    join_units,
    read_passages,
)
from jaxflow.eval.explain.answer_shown import as_answer_json, as_answer_page
from jaxflow.html.answer import AnswerContent, write_answer_page
from jaxflow.html.style import shades
from jaxflow.models import Model, SubwordTokenizer, init, load, trace

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
    said = f"{missing:.0%} of what a row holds"
    assert said in as_answer_page(found)
    assert said not in as_answer_page(explain_answer(decoder, PROMPT, answer=ANSWER))


def test_a_generated_answer_is_explained_as_if_it_were_given(decoder):
    made = explain_answer(decoder, PROMPT, generate=4)
    assert len(made.answer_tokens) == 4
    from jaxflow.models.generation import generate

    ids = np.array([decoder.text.read(PROMPT).ids], np.int32)
    expected = generate(decoder, ids, 4)
    np.testing.assert_allclose(made.log_probabilities, expected.log_probabilities[0], atol=1e-4)


@pytest.fixture(scope="module")
def torch_pair(tmp_path_factory):
    """A model of transformers, and the same as ours with a tokenizer."""
    text = tiny("lm", causal=True).text
    changes = {"vocab_size": len(text), "max_position_embeddings": 64}
    theirs = torch_models.random_model("LlamaForCausalLM", changes, 1)
    ours = load(torch_models.write(theirs, tmp_path_factory.mktemp("theirs")))
    return theirs, Model(ours.config, ours.params, text)


GIVEN = {"answer": ANSWER}
TARGETS = {
    "tokens": (GIVEN, [[(at, None, 1)] for at in range(5)]),
    "answer": (GIVEN | {"target": "answer"}, [[(at, None, 1) for at in range(5)]]),
    "span": (GIVEN | {"target": "1:3"}, [[(1, None, 1), (2, None, 1)]]),
    "token": ({"target": "are"}, [[(0, "are", 1)]]),
    "contrast": ({"target": "are", "against": "the"}, [[(0, "are", 1), (0, "the", -1)]]),
}


@pytest.mark.parametrize("name", TARGETS)
def test_every_target_is_that_of_torch_by_gradients_and_removal(torch_pair, name):
    import torch

    theirs, model = torch_pair
    options, rows = TARGETS[name]
    methods = ("gradient/rollout", "gradient-x-input", "removal", "rollout")
    found = explain_answer(model, PROMPT, methods=methods, residual=0.4, units="lines", **options)
    known = {
        word: model.text.encode(form, template=False)[0]
        for word in ("are", "the")
        for form in (f" {word}", word)
        if len(model.text.encode(form, template=False)) == 1
    }
    prompt = list(model.text.read(PROMPT).ids)
    answer = model.text.encode(ANSWER, template=False) if "answer" in options else [known["are"]]
    ids, given = [*prompt, *answer][:-1], len(prompt)

    def run(ids, given, row):
        inputs = theirs.get_input_embeddings()(torch.tensor([ids])).detach().requires_grad_()
        output = theirs(inputs_embeds=inputs, output_attentions=True)
        chances = output.logits[0].log_softmax(-1)
        value = sum(
            sign * chances[given - 1 + at, answer[at] if word is None else known[word]]
            for at, word, sign in row
        )
        return value, inputs, output.attentions

    for number, row in enumerate(rows):
        value, inputs, attention = run(ids, given, row)
        assert found.values[number] == pytest.approx(float(value.detach()), abs=1e-4)
        slopes = torch.autograd.grad(value, [inputs, *attention])
        signed = (slopes[0] * inputs).sum(-1)[0].detach().numpy()
        np.testing.assert_allclose(
            found.scores["gradient-x-input"][0, number, :-1], signed, rtol=1e-3, atol=1e-4
        )
        rolled, plain, n = np.eye(len(ids)), np.eye(len(ids)), len(ids)
        for weights, slope in zip(attention, slopes[1:], strict=True):
            weights = weights[0].detach().numpy().astype(np.float64)
            edges = np.maximum(weights * slope[0].numpy(), 0).mean(0)
            sums = edges.sum(-1, keepdims=True)
            mixed = 0.4 * np.eye(n) + 0.6 * edges / np.where(sums > 0, sums, 1)
            rolled = np.where(sums > 0, mixed, np.eye(n)) @ rolled
            plain = (0.4 * np.eye(n) + 0.6 * weights.mean(0)) @ plain
        places = sorted({given - 1 + at for at, _, _ in row})
        for method, every in (("gradient/rollout", rolled), ("rollout", plain)):
            row_of = found.scores[method][-1, number, :-1]
            np.testing.assert_allclose(row_of, every[places].mean(0), rtol=2e-3, atol=1e-5)
        for unit in range(2):
            kept = [
                one for one, member in zip(prompt, found.members, strict=True) if member != unit
            ]
            changed, *_ = run([*kept, *answer][:-1], len(kept), row)
            fall = float((value - changed).detach())
            assert found.unit_scores("removal")[0, number, unit] == pytest.approx(fall, abs=1e-3)
    assert json.loads(as_answer_json(found))["target"]["kind"] == name
    assert html.escape(found.target.text) in as_answer_page(found)


def test_a_unit_is_hidden_or_replaced_in_place(decoder):
    methods = ("blank-out", "attention-out")
    found = explain_answer(decoder, PROMPT, target="are", methods=methods, units="lines")
    ids = np.array([decoder.text.read(PROMPT).ids], np.int32)
    inside = found.members[None] == 0

    def chance(ids, mask=None):
        logits = np.asarray(decoder(ids, mask).logits, np.float64)[0, -1]
        return logits[found.target.token] - np.log(np.exp(logits).sum())

    blank = decoder.text.unk_id if decoder.text.mask_id is None else decoder.text.mask_id
    changed = {
        "blank-out": chance(np.where(inside, blank, ids)),
        "attention-out": chance(ids, ~inside),
    }
    for name, value in changed.items():
        assert found.unit_scores(name)[0, 0, 0] == pytest.approx(chance(ids) - value, abs=1e-4)


def test_sinks_are_dropped_on_request(decoder):
    config = dataclasses.replace(decoder.config, sinks=True)
    model = Model(config, init(config), decoder.text)
    found = explain_answer(model, PROMPT, answer=ANSWER, sinks="drop", methods=("rollout",))
    rows = found.scores["rollout"][-1]
    assert (rows[:, 0] == 0).all()
    np.testing.assert_allclose(rows.sum(-1), 1, atol=1e-5)
    ids = [*model.text.read(PROMPT).ids, *model.text.encode(ANSWER, template=False)]
    attention = np.asarray(model(np.array([ids], np.int32)).attention)
    attention = attention / attention.sum(-1, keepdims=True)
    rolled = np.asarray(jaxflow.rollout(attention))[0, -1, len(found.prompt_tokens) - 1 : -1]
    expected = rolled[:, 1:] / rolled[:, 1:].sum(-1, keepdims=True)
    np.testing.assert_allclose(rows[:, 1:], expected, rtol=1e-3, atol=1e-5)


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


def test_a_passage_is_whole_words_and_has_a_token():
    text = "This concatenate is a cat"
    spans = [match.span() for match in re.finditer(r"\S+", text)]
    _, members = join_units(text, spans, "passages", ["is", "cat"])
    assert members.tolist() == [2, 2, 0, 2, 1]  # not the ends of other words
    with refused("every passage must hold the beginning of a token of the prompt, and 'cat'"):
        join_units("concat", [(0, 6)], "passages", ["cat"])


def test_an_answer_is_encoded_as_it_follows_its_prompt():
    """A tokenizer that marks the beginning of every text must not mark that of the answer."""
    words = {"<unk>": 0, "\u2581": 1, "\u2581is": 2, "\u2581x": 3, "\u2581\u2581": 4}
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="<unk>"))
    backend.normalizer = tokenizers.normalizers.Sequence(
        [tokenizers.normalizers.Prepend("\u2581"), tokenizers.normalizers.Replace(" ", "\u2581")]
    )
    backend.pre_tokenizer = tokenizers.pre_tokenizers.Split("\u2581", "merged_with_next")
    text = SubwordTokenizer(backend, {"unk": 0})
    ids = text.encode("is is")
    assert encode_answer(text, "is is", ids, " x").tolist() == [3]
    assert text.encode(" x") == [1, 3]  # alone, it begins twice


def test_a_prompt_without_tokens_is_refused(decoder):
    backend = tokenizers.Tokenizer.from_str(decoder.text.backend.to_str())
    backend.post_processor = tokenizers.processors.TemplateProcessing(single="$A")
    bare = dataclasses.replace(decoder, tokenizer=SubwordTokenizer(backend, decoder.text.special))
    with refused("the prompt must have at least one token"):
        explain_answer(bare, "", answer=ANSWER)


def test_the_command_prints_and_writes(decoder, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("jaxflow.commands._options.ModelOptions.load", lambda options: decoder)
    passages = tmp_path / "passages.json"
    passages.write_text(json.dumps(["the keys are.", {"text": "key to the cabinet"}]))
    arguments = ["explain", PROMPT, "--model", "x", "--passages", str(passages)]
    assert main([*arguments, "--answer", ANSWER]) == 0
    out = capsys.readouterr().out
    assert "key to the cabinet" in out.split("part of the answer")[1]
    few = ["explain", PROMPT, "--model", "x", "--target", "are", "--against", "the"]
    few += ["--by", "removal", "--by", "rollout", "--layer", "0", "--layer", "2", "--json"]
    assert main(few) == 0
    record = json.loads(capsys.readouterr().out)
    assert (record["target"]["kind"], record["layers"]) == ("contrast", [0, 2])
    assert [len(record["scores"][name]) for name in ("removal", "rollout")] == [1, 2]
    assert main(["explain", PROMPT, "--model", "x", "--target", "zebra"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
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
        ({"sinks": "none"}, "sinks must be keep or drop"),
        ({"target": "2:9"}, "target must be a span BEGIN:END within the answer's 5 tokens"),
        ({"target": "are"}, "leave out answer and generate"),
        ({"target": "answer", "against": "is"}, "against needs a token as target"),
        ({"answer": None, "target": "zebra"}, "target must be one token of the model's vocab"),
        ({"answer": None, "target": "#99999"}, "target must be a token's number from 0 to"),
        ({"answer": None, "target": "are", "against": "are"}, "against must be another token"),
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


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """The page of 2,000 tokens of a prompt, 200 of an answer and the default methods."""
    rng = np.random.default_rng(0)
    scores = {name: rng.random((1, 200, 2200)) for name in DEFAULT}
    units = {name: rng.random((1, 200, 1801)) for name in DEFAULT}
    words = [f" token{at}" for at in range(2200)]
    content = AnswerContent(
        words[:2000], words[2000:], scores, units, ["ratio", "share"], ["top"], words[:1800]
    )
    file = tmp_path_factory.mktemp("large") / "answer.html"
    file.write_text(write_answer_page(content), encoding="utf-8")
    return file


def test_a_long_answer_fits_eight_megabytes(large):
    assert large.stat().st_size <= 8e6


@pytest.mark.browser
@pytest.mark.skipif(REASON is not None, reason=str(REASON))
def test_a_long_answer_opens_soon(large):
    with chromium() as browser:
        page = browser.new_page()
        page.goto(large.as_uri())
        assert page.locator("#totals tr").count() == 30
        seconds = page.evaluate("performance.getEntriesByType('navigation')[0].duration / 1000")
        print(f"opened in {seconds:.2f} s")
        page.locator("#answer span").nth(150).hover()
        assert page.locator("#answer span.chosen").count() == 1
    assert seconds <= 6  # 2 on a machine of its own
