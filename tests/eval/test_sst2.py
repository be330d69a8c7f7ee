"""Test Table 3's two protocols against computations of one unpadded sentence at a time."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
import scipy.special
from small_sst2 import POSITIONS, sentences, tiny_bert

import jaxflow
from jaxflow.errors import InputError
from jaxflow.eval.paper.protocol import token_scores
from jaxflow.eval.paper.reference import SENTIMENT, SENTIMENT_CORRECTED, TABLE_3
from jaxflow.eval.paper.report import rounding_note
from jaxflow.eval.paper.sst2 import (
    Sst2Config,
    check_classifier,
    evaluate_sst2,
    measure_rounding,
)
from jaxflow.train.batches import encode_sentences

LAYERS, LENGTHS = 2, (8, POSITIONS)
DRAWN = sentences(9, 5)
CONFIG = Sst2Config(seed=3, batch=4, threads=1, paper_samples=5)


@pytest.fixture(scope="module")
def model():
    """A random classifier whose weights are large, so that attention is far from uniform.

    Its bias is set so that it takes some of the sentences for negative and some for positive.
    """
    drawn = tiny_bert(
        scale=0.5,
        layers=LAYERS,
        width=8,
        hidden_width=8,
        head="classification",
        labels=("negative", "positive"),
    )
    logits = np.asarray(drawn(drawn.text.encode_batch(DRAWN.texts)).logits)
    readout = drawn.params["params"]["readout"]
    # Between two sentences: none is left undecided, for rounding to decide.
    above, below = np.sort(logits[:, 1] - logits[:, 0])[[4, 5]]
    shift = jnp.asarray([(above + below) / 2, 0.0], jnp.float32)
    moved = {**readout, "bias": readout["bias"] + shift}
    return dataclasses.replace(
        drawn, params={"params": {**drawn.params["params"], "readout": moved}}
    )


@pytest.fixture(scope="module")
def split(model):
    drawn = DRAWN
    return encode_sentences(drawn.texts, drawn.labels, model.text, POSITIONS)


@pytest.fixture(scope="module")
def authors(model, split):
    return token_scores(model, split, LENGTHS, CONFIG.authors(len(split)))


@pytest.fixture(scope="module")
def corrected(model, split):
    """With the paper's target of Table 3; the default is another."""
    config = dataclasses.replace(CONFIG, target="predicted", special_tokens=False)
    return token_scores(model, split, LENGTHS, config.corrected(len(split)))


class Plain:
    """One sentence on its own, without padding: attention from the model, the rest by hand."""

    def __init__(self, model, tokens, label):
        self.model, self.tokens, self.label = model, tokens, label
        output = model(tokens[None])
        self.attention = np.asarray(output.attention[0], np.float64)  # [L, H, n, n]
        self.logits = np.asarray(output.logits[0])
        self.fused = self.attention.mean(1)

    def rollout(self):
        return oracles.rollout(self.attention)

    def flow(self):
        return jaxflow.flow(self.attention)

    def gradient(self, wanted):
        """In float64 and by forward differentiation, coordinate by coordinate."""
        with jax.enable_x64(True):
            params = jax.tree.map(
                lambda leaf: jnp.asarray(np.asarray(leaf), jnp.float64), self.model.params
            )
            apply = self.model.module.apply
            table = apply(params, jnp.asarray(self.tokens)[None], method="embed")

            def logit(values):
                return apply(params, values, method="encode").logits[0, wanted]

            return np.asarray(jax.jacfwd(logit)(table)[0])


@pytest.fixture(scope="module")
def plain(model, split):
    return [
        Plain(model, tokens[:length], label)
        for tokens, length, label in zip(split.tokens, split.lengths, split.labels, strict=True)
    ]


def test_the_authors_relevance_is_the_maximum_over_queries(authors, plain):
    for row, sentence in enumerate(plain):
        n = len(sentence.tokens)
        flow = sentence.flow()
        expected = {
            "raw": sentence.fused.max(1),
            "rollout": sentence.rollout().max(1),
            # Their flows of a query are normalised before the largest is taken.
            "flow": (flow / flow.sum(-1, keepdims=True)).max(1),
        }
        for name, values in expected.items():
            np.testing.assert_allclose(authors.methods[name][row, :, :n], values, atol=2e-5)
            assert np.isnan(authors.methods[name][row, :, n:]).all()


def test_the_corrected_relevance_is_the_row_of_cls(corrected, plain):
    for row, sentence in enumerate(plain):
        n = len(sentence.tokens)
        expected = {
            "raw": sentence.fused[:, 0],
            "rollout": sentence.rollout()[:, 0],
            "flow": sentence.flow()[:, 0],
            "column_sum": np.tile(np.minimum(1, sentence.rollout()[0].sum(0)), (LAYERS, 1)),
        }
        for name, values in expected.items():
            np.testing.assert_allclose(corrected.methods[name][row, :, :n], values, atol=2e-5)


def test_gradients_are_of_the_logits_that_the_protocols_name(authors, corrected, plain, split):
    predictions = [int(sentence.logits.argmax()) for sentence in plain]
    for wanted in (0, 1):
        row = predictions.index(wanted)  # each sentence compiles a length of its own
        sentence, predicted = plain[row], wanted
        n = len(sentence.tokens)
        last, chosen = (sentence.gradient(wanted) for wanted in (1, predicted))
        for scores, gradient in ((authors, last), (corrected, chosen)):
            norm = np.sqrt((gradient**2).sum(-1))
            np.testing.assert_allclose(
                scores.targets["gradient_norm"][row, :n], norm, rtol=1e-3, atol=1e-5
            )


def test_the_summed_gradient_vanishes_behind_the_norm_of_the_embeddings(corrected, plain):
    """BERT's embeddings go through a LayerNorm before anything else reads them."""
    for row, sentence in enumerate(plain[:2]):
        gradient = sentence.gradient(int(sentence.logits.argmax()))
        assert np.abs(gradient.sum(-1)).max() < 1e-10 * np.abs(gradient).sum(-1).max()
        n = len(sentence.tokens)
        # What single precision leaves of it is no more than rounding.
        size = np.abs(gradient).sum(-1)
        assert (corrected.targets["gradient"][row, :n] < 1e-5 * size.max()).all()


def test_rounding_is_told_from_a_quantity_of_the_model(model, split):
    found = measure_rounding(model, split, LENGTHS)
    assert found.single < 1e-5
    assert found.double < 1e-12
    assert found.norm_agreement.mean > 0.99
    assert found.agreement.mean < 0.7
    assert found.agreement.n + found.agreement.nan == len(split)
    note = rounding_note(found)
    assert "\n" not in note
    assert f"{found.single:.0e}" in note


def test_blanking_puts_mask_in(corrected, plain, model):
    (mask,) = (model.text.mask_id,)
    for row, sentence in enumerate(plain[:4]):
        whole = scipy.special.softmax(sentence.logits)[sentence.label]
        for place in range(len(sentence.tokens)):
            blanked = sentence.tokens.copy()
            blanked[place] = mask
            logits = np.asarray(model(blanked[None]).logits[0])
            expected = abs(whole - scipy.special.softmax(logits)[sentence.label])
            assert corrected.targets["blank_out"][row, place] == pytest.approx(expected, abs=2e-5)


def test_padding_and_batches_change_nothing(model, split, authors, corrected):
    words = dataclasses.replace(CONFIG, target="predicted", special_tokens=False).corrected(9)
    for name, config in (("authors", CONFIG.authors(9)), ("corrected", words)):
        padded = token_scores(
            model, split, (POSITIONS,), dataclasses.replace(config, batch=7, threads=2)
        )
        before = {"authors": authors, "corrected": corrected}[name]
        for row in ("raw", "rollout", "flow", "column_sum"):
            np.testing.assert_allclose(padded.methods[row], before.methods[row], atol=1e-5)
        for target in ("blank_out", "gradient_norm"):
            np.testing.assert_allclose(padded.targets[target], before.targets[target], atol=1e-5)
        np.testing.assert_array_equal(padded.counted, before.counted)
    for row, n in enumerate(split.lengths):
        assert authors.counted[row, :n].all()
        # Without special tokens, neither [CLS] nor [SEP] nor padding counts.
        assert corrected.counted[row].nonzero()[0].tolist() == [*range(1, n - 1)]


def test_the_papers_numbers():
    # Typed once more, row by row, from the published table: L1, L3, L5, L6.
    rows = {
        "raw": "12±21 9±21 8±20 9±21",
        "rollout": "11±19 12±21 13±21 13±20",
        "flow": "11±19 11±21 12±22 14±21",
    }
    for row, text in rows.items():
        found = [cell for cell in TABLE_3[row] if not np.isnan(cell[0])]
        assert " ".join(f"{mean * 100:.0f}±{std * 100:.0f}" for mean, std in found) == text
        assert np.flatnonzero(np.isnan([mean for mean, _ in TABLE_3[row]])).tolist() == [1, 3]


@pytest.fixture(scope="module")
def evaluation(model, split, tmp_path_factory):
    out = tmp_path_factory.mktemp("sst2") / "out"
    seen = []
    found = evaluate_sst2(
        model,
        {"dev": split},
        LENGTHS,
        CONFIG,
        out,
        made_with={"classifier": "tiny"},
        report=lambda done, total: seen.append((done, total)),
    )
    assert seen == sorted(seen)
    assert seen[-1] == (14, 14)
    return out, found


def test_an_evaluation_writes_both_tables(evaluation, split, model):
    out, found = evaluation
    assert {path.name for path in found.files} == {path.name for path in out.iterdir()}
    assert (found.authors.sentences, found.corrected.sentences) == (5, 9)
    text = (out / "tables.md").read_text()
    for title in ("gradient", "gradient_norm"):
        assert f"## {SENTIMENT.titles[title]}\n" in text
        assert f"## {SENTIMENT_CORRECTED.titles[title]}\n" in text
    assert SENTIMENT.titles["blank_out"] not in text  # not a table of the authors
    assert "What of the summed gradient is rounding" in text
    right = np.asarray(model.probabilities(split.tokens)).argmax(-1) == split.labels
    record = json.loads((out / "tables.json").read_text())
    assert record["accuracy"] == right.mean()
    assert record["samples"] == 9
    assert record["authors_protocol"]["samples"] == 5
    assert record["config"]["classifier"] == "tiny"
    chosen = {name: record["config"]["protocol"][name] for name in ("target", "replacement")}
    assert chosen == found.scoring.record() == {"target": "difference", "replacement": "mask"}
    assert record["rounding"]["single"] == found.rounding.single


def test_only_classifiers_of_two_classes_that_read_cls():
    with pytest.raises(InputError, match="the head 'none' with 0 classes"):
        check_classifier(tiny_bert())
    three = tiny_bert(head="classification", labels=("a", "b", "c"))
    with pytest.raises(InputError, match="'classification' with 3 classes"):
        check_classifier(three)
    for name in ("samples", "paper_samples", "batch", "threads"):
        with pytest.raises(InputError, match=f"{name} must be"):
            Sst2Config(**{name: 0})
