"""Test explanations of every kind of answer, and of two texts, against torch."""

from __future__ import annotations

import functools
import io
import json
import tempfile
from pathlib import Path

import numpy as np
import oracles
import pytest
import scipy
import tokenizers
import torch_models
from rich.console import Console
from tiny_models import tiny

from jaxflow.errors import InputError
from jaxflow.eval.explain.page import as_page
from jaxflow.eval.explain.picture import draw
from jaxflow.eval.explain.text import as_json, print_explanation
from jaxflow.eval.explanation import explainer
from jaxflow.eval.leaderboard.cases import from_texts
from jaxflow.eval.paper.sst2 import _gradient, check_classifier
from jaxflow.eval.score.attention import attention_of
from jaxflow.eval.score.engine import read_places, removal_scores
from jaxflow.eval.score.target import scoring_of
from jaxflow.models import load, trace

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "film", "is", "good", "bad", "dull"]
TEXT, PAIR = "the film is good", "film is bad"
NAMES = ("toxic", "insult", "threat")
KINDS = {
    "single-label": {},
    "multi-label": {"problem_type": "multi_label_classification"},
    "regression": {"num_labels": 1},
    "pair": {},
}


@functools.cache
def case(kind):
    """A model of theirs, ours, the texts and what the tokenizer of theirs makes of them."""
    folder = Path(tempfile.mkdtemp())
    labels = {"id2label": dict(enumerate(NAMES)), "label2id": {n: i for i, n in enumerate(NAMES)}}
    changes = {"vocab_size": len(WORDS), **labels, **KINDS[kind]}
    theirs = torch_models.random_model("BertForSequenceClassification", changes)
    torch_models.write(theirs, folder)
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    texts = (TEXT, PAIR) if kind == "pair" else (TEXT,)
    with torch_models.quietly():
        tokenizer = torch_models.library().BertTokenizerFast.from_pretrained(folder)
        inputs = dict(tokenizer(*texts, return_tensors="pt"))
    return theirs, load(folder), texts, inputs


def values(kind, logits):
    """What the logits mean."""
    if kind == "regression":
        return logits
    return logits.sigmoid() if kind == "multi-label" else logits.softmax(-1)


@pytest.mark.parametrize("kind", KINDS)
def test_values_blank_out_and_gradients_are_those_of_the_kind(kind):
    import torch

    theirs, ours, texts, inputs = case(kind)
    for asked in (None, 0):
        found = explainer(ours, label=asked)(*texts)
        assert found.answer == (kind if kind != "pair" else "single-label")
        with torch.no_grad():
            whole = values(kind, theirs(**inputs).logits)[0]
        label = int(whole.argmax()) if asked is None else asked
        np.testing.assert_allclose(list(found.probabilities.values()), whole.numpy(), atol=1e-5)
        assert found.explained == list(found.probabilities)[label]

        blanked = inputs["input_ids"].repeat(len(found.tokens), 1)
        blanked.fill_diagonal_(1 if kind == "regression" else 4)  # [UNK] or [MASK]
        types = inputs["token_type_ids"].repeat(len(blanked), 1)
        with torch.no_grad():
            moved = values(kind, theirs(input_ids=blanked, token_type_ids=types).logits)
        change = (moved[:, label] - whole[label]).abs().numpy()
        np.testing.assert_allclose(found.scores["blank_out"], change, atol=1e-5)
        assert change.max() > 1e-3

        embedded = theirs.bert.embeddings.word_embeddings(inputs["input_ids"]).detach()
        embedded.requires_grad_()
        given = {name: each for name, each in inputs.items() if name != "input_ids"}
        logits = theirs(inputs_embeds=embedded, **given).logits[0]
        others = logits[torch.arange(len(logits)) != label].logsumexp(0) if len(logits) > 1 else 0
        target = logits[label] - (0 if kind in ("multi-label", "regression") else others)
        target.backward()
        norms = embedded.grad[0].norm(dim=-1).numpy()
        np.testing.assert_allclose(found.scores["gradient_norm"], norms, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("kind", ["multi-label", "regression", "pair"])
def test_every_output_states_the_kind_and_both_texts(kind):
    _, ours, texts, inputs = case(kind)
    found = explainer(ours)(*texts)
    (record,) = json.loads(as_json([found]))["sentences"]
    assert (record["text"], record["pair"]) == (*texts, *[None] * (2 - len(texts)))
    assert record["answer"] == found.answer
    stream = io.StringIO()
    print_explanation(Console(file=stream, width=300), found)
    (axes,) = draw([found]).axes
    word = {"regression": "a number", "multi-label": "do not exclude each other"}.get(kind, "")
    for shown in (stream.getvalue(), as_page([found]), axes.get_title(loc="left")):
        assert all(part in shown for part in (*texts, word, found.explained))
    assert [token.seen for token in found.tokens] == [WORDS[i] for i in inputs["input_ids"][0]]


def test_attention_is_that_of_the_pair():
    theirs, ours, (text, pair), inputs = case("pair")
    expected = torch_models.run(
        theirs, inputs["input_ids"].numpy(), token_type_ids=inputs["token_type_ids"].numpy()
    ).attention
    saved = attention_of(ours, [text], [pair])
    np.testing.assert_allclose(saved.attention, expected, atol=1e-5)
    edges = explainer(ours, methods=["raw/rollout"])(text, pair)
    rolled = oracles.rollout(expected[0])[-1, 0]
    np.testing.assert_allclose(edges.scores["raw/rollout"], rolled, atol=1e-5)
    with pytest.raises(InputError, match="pairs must be one for each text"):
        attention_of(ours, [text], [])


@pytest.mark.parametrize("name", ["delete-out", "attention-out"])
def test_a_removed_token_takes_its_type_along(name):
    import torch

    theirs, ours, _, inputs = case("pair")
    ids, types = (inputs[key].numpy() for key in ("input_ids", "token_type_ids"))
    n = ids.shape[1]
    label = np.array([0])
    found = removal_scores(
        name, ours, scoring_of(ours), ours.params, ids, ids >= 0, label, types
    )[0]  # fmt: skip
    with torch.no_grad():
        whole = theirs(**inputs).logits.softmax(-1)[0, 0]
        for place in range(1, n):
            kept = [other for other in range(n) if other != place]
            given = {key: each[:, kept] for key, each in inputs.items()}
            if name == "attention-out":
                given = inputs | {"attention_mask": (torch.arange(n) != place)[None].long()}
            change = (theirs(**given).logits.softmax(-1)[0, 0] - whole).abs()
            np.testing.assert_allclose(found[place], change, atol=1e-5)


@pytest.mark.parametrize("kind", ["single-label", "multi-label", "regression"])
def test_targets_and_labels_without_a_meaning_are_refused(kind):
    _, ours, _, _ = case(kind)
    wrong = "output" if kind == "single-label" else "difference"
    with pytest.raises(InputError, match=f"target {wrong} has no meaning"):
        explainer(ours, target=wrong)
    with pytest.raises(InputError, match=r"label must be one of .* got 'spam'"):
        explainer(ours, label="spam")
    with pytest.raises(InputError, match="label must name the number to explain"):
        explainer(tiny(problem="regression"))  # it has three
    if kind != "single-label":
        for refusing in (lambda: from_texts(ours, [TEXT], [0]), lambda: check_classifier(ours)):
            with pytest.raises(InputError, match="whose answer is"):
                refusing()


def test_a_model_without_a_head_is_explained_by_its_attention(tmp_path):
    theirs = torch_models.random_model("BertModel", {"vocab_size": len(WORDS)})
    torch_models.write(theirs, tmp_path)
    (tmp_path / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    found = explainer(load(tmp_path))(TEXT)
    assert (found.answer, found.prediction, dict(found.probabilities)) == ("none", "", {})
    assert list(found.scores) == ["raw", "rollout", "flow"]
    expected = torch_models.run(theirs, np.array([[2, 5, 6, 7, 8, 3]])).attention[0]
    np.testing.assert_allclose(found.attention, expected, atol=1e-5)
    (record,) = json.loads(as_json([found]))["sentences"]
    assert record["answer"] == "none"
    assert "no head" in as_page([found])
    draw([found])
    with pytest.raises(InputError, match="target and label must be None for a model without"):
        explainer(load(tmp_path), target="output", label="toxic")


def ids_of(text, special, folder):
    """Numbers of a text by a tokenizer of bytes, which is written to the folder."""
    pieces = [*special, *sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())]
    model = tokenizers.models.BPE({piece: number for number, piece in enumerate(pieces)}, [])
    tokenizers.Tokenizer(model).save(str(folder / "tokenizer.json"))
    with torch_models.quietly():
        tokenizer = torch_models.library().AutoTokenizer.from_pretrained(folder)
        return np.array([tokenizer(text)["input_ids"]])


def norms_of_theirs(theirs, ids, target):
    """Norm of the gradient of a target of the logits ``[C]`` at each token's embedding."""
    import torch

    words = theirs.get_input_embeddings()
    kept = []
    handle = words.register_forward_hook(lambda _, __, out: kept.append(out.requires_grad_()))
    given = torch.tensor(ids)
    target(theirs(input_ids=given, attention_mask=torch.ones_like(given)).logits[0]).backward(
        inputs=kept
    )
    handle.remove()
    return kept[0].grad[0].norm(dim=-1).numpy()


def log_odds(logits):
    best = int(logits.argmax())
    rest = [place for place in range(len(logits)) if place != best]
    return logits[best] - logits[rest].logsumexp(0)


def test_padding_that_the_text_holds_is_real_as_the_tokenizer_says(tmp_path):
    """RoBERTa numbers no position for it, wherever it stands."""
    changes = {"pad_token_id": 1, "vocab_size": 300}
    theirs = torch_models.random_model("RobertaForSequenceClassification", changes)
    torch_models.write(theirs, tmp_path)
    ids = ids_of("a<pad>b", ["<s>", "<pad>", "</s>", "<unk>", "<mask>"], tmp_path)
    assert ids[0, 2] == 1
    ours = load(tmp_path)
    found = explainer(ours)("a<pad>b")
    expected = torch_models.run(theirs, ids, np.ones_like(ids))
    np.testing.assert_allclose(found.attention, expected.attention[0], atol=1e-5)
    values = scipy.special.softmax(expected.logits[0])
    np.testing.assert_allclose(list(found.probabilities.values()), values, atol=1e-5)
    norms = norms_of_theirs(theirs, ids, lambda z: z.softmax(0)[0] - z.softmax(0)[1])
    np.testing.assert_allclose(found.scores["gradient_norm"], norms, rtol=1e-3, atol=1e-5)
    gradient = _gradient(ours)(ours.params, ids, np.ones(ids.shape, bool))
    norms = norms_of_theirs(theirs, ids, lambda logits: logits.max())
    np.testing.assert_allclose(np.linalg.norm(gradient[0], axis=-1), norms, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(("pad", "text", "place"), [(0, "ab<|endoftext|>", 1), (67, "abc", 1)])
def test_gpt2_is_explained_from_the_token_that_its_class_is_computed_from(
    tmp_path, pad, text, place
):
    """It is the last one but the padding token, which may be the end token or any other."""
    changes = {"pad_token_id": pad, "eos_token_id": 0, "bos_token_id": 0, "vocab_size": 300}
    changes["num_labels"] = 3
    theirs = torch_models.random_model("GPT2ForSequenceClassification", changes)
    torch_models.write(theirs, tmp_path)
    ids = ids_of(text, ["<|endoftext|>"], tmp_path)
    n = ids.shape[1]
    assert np.flatnonzero(ids[0] != pad)[-1] == place
    ours = load(tmp_path)
    found = explainer(ours)(text)
    expected = torch_models.run(theirs, ids, np.ones_like(ids))
    probabilities = scipy.special.softmax(expected.logits[0])
    np.testing.assert_allclose(list(found.probabilities.values()), probabilities, atol=1e-5)
    assert found.readout == place
    raw = expected.attention[0].mean(1)[:, place]
    np.testing.assert_allclose(found.layers["raw"], raw, atol=1e-5)
    copies = np.repeat(ids, n, axis=0)
    np.fill_diagonal(copies, 0)  # <|endoftext|> is the unknown token
    moved = scipy.special.softmax(torch_models.run(theirs, copies, np.ones_like(copies)).logits, 1)
    best = probabilities.argmax()
    change = np.abs(moved[:, best] - probabilities[best])
    np.testing.assert_allclose(found.scores["blank_out"], change, atol=1e-5)
    norms = norms_of_theirs(theirs, ids, log_odds)
    np.testing.assert_allclose(found.scores["gradient_norm"], norms, rtol=1e-3, atol=1e-5)

    assert explainer(ours, methods=["raw/none"])(text).readout == place
    assert from_texts(ours, [text], [0]).readout.tolist() == [place]
    assert read_places(ours, ids, np.ones(ids.shape, bool)).tolist() == [place]
    relevance = np.asarray(trace(ours, ids, np.ones(ids.shape, bool)).relevance)[0, -1]
    assert relevance[:, place].any()
    assert not relevance[:, place + 1 :].any()
