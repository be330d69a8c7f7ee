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
from jaxflow.eval.paper.report import rounding_note
from jaxflow.eval.paper.sst2 import Sst2Config, check_classifier, evaluate_sst2
from jaxflow.eval.paper.tables import SENTIMENT, SENTIMENT_CORRECTED
from jaxflow.train.batches import encode_sentences

LAYERS, LENGTHS = 2, (POSITIONS,)
DRAWN = sentences(9, 5)
CONFIG = Sst2Config(seed=3, batch=4, threads=1, paper_samples=5)


@pytest.fixture(scope="module")
def model():
    """A random classifier whose weights are large, so that attention is far from uniform.

    Its bias is set so that it takes some of the sentences for negative and some for positive.
    """
    sizes = {"layers": LAYERS, "width": 8, "hidden_width": 8}
    labels = ("negative", "positive")
    drawn = tiny_bert(scale=0.5, head="classification", labels=labels, **sizes)
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
    return encode_sentences(DRAWN.texts, DRAWN.labels, model.text, POSITIONS)


@pytest.fixture(scope="module")
def authors(model, split):
    return token_scores(model, split, LENGTHS, CONFIG.authors(len(split)))


@pytest.fixture(scope="module")
def corrected(model, split):
    config = dataclasses.replace(CONFIG, special_tokens=False)
    return token_scores(model, split, LENGTHS, config.corrected(len(split)))


@pytest.fixture(scope="module")
def plain(model, split):
    """Tokens, label, attention ``[L, H, n, n]`` and logits of each sentence without padding."""
    found = []
    for row, label, n in zip(split.tokens, split.labels, split.lengths, strict=True):
        output = model(row[None, :n])
        attention = np.asarray(output.attention[0], np.float64)
        found.append((row[:n], label, attention, np.asarray(output.logits[0])))
    return found


def test_the_authors_relevance_is_a_maximum_and_the_corrected_one_the_row_of_cls(
    authors, corrected, plain
):
    for row, (tokens, _, attention, _) in enumerate(plain):
        n = len(tokens)
        maps = {
            "raw": attention.mean(1),
            "rollout": oracles.rollout(attention),
            "flow": np.asarray(jaxflow.flow(attention)),
        }
        for name, values in maps.items():
            mine = corrected.methods[name][row, :, :n]
            np.testing.assert_allclose(mine, values[:, 0], atol=2e-5)
            # The authors' flows of a query are normalised before the largest is taken.
            largest = (values / values.sum(-1, keepdims=True)).max(1)
            np.testing.assert_allclose(authors.methods[name][row, :, :n], largest, atol=2e-5)
            assert np.isnan(authors.methods[name][row, :, n:]).all()
        bound = np.minimum(1, maps["rollout"][0].sum(0))
        mine = corrected.methods["column_sum"][row, :, :n]
        np.testing.assert_allclose(mine, np.tile(bound, (LAYERS, 1)), atol=2e-5)
        # Without special tokens, neither [CLS] nor [SEP] nor padding counts.
        assert authors.counted[row].nonzero()[0].tolist() == [*range(n)]
        assert corrected.counted[row].nonzero()[0].tolist() == [*range(1, n - 1)]


def test_gradients_are_of_the_targets_that_the_protocols_name(authors, corrected, plain, model):
    """In float64 and by forward differentiation, coordinate by coordinate."""
    apply = model.module.apply

    @jax.jit
    def gradients(params, tokens):
        def targets(values):
            logits = apply(params, values, method="encode").logits[0]
            first, second = jax.nn.softmax(logits)
            return jnp.stack([logits[1], first - second])  # the last class, and the default

        return jax.jacfwd(targets)(apply(params, tokens, method="embed"))[:, 0]

    with jax.enable_x64(True):
        params = jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf, np.float64)), model.params)
    predictions = [int(logits.argmax()) for *_, logits in plain]
    for wanted in (0, 1):
        row = predictions.index(wanted)  # each sentence compiles a length of its own
        tokens = plain[row][0]
        with jax.enable_x64(True):
            found = np.asarray(gradients(params, tokens[None]))
        for scores, gradient in zip((authors, corrected), found, strict=True):
            norms = np.linalg.norm(gradient, axis=-1)
            mine = scores.targets["gradient_norm"][row, : len(tokens)]
            np.testing.assert_allclose(mine, norms, rtol=1e-3, atol=1e-5)
            # BERT's embeddings go through a LayerNorm first: the sum is 0 but for rounding.
            size = np.abs(gradient).sum(-1).max()
            assert np.abs(gradient.sum(-1)).max() < 1e-10 * size
            assert (scores.targets["gradient"][row, : len(tokens)] < 1e-5 * size).all()


def test_blanking_puts_mask_in(corrected, plain, model):
    for row, (tokens, label, _, logits) in enumerate(plain[:4]):
        blanked = np.tile(tokens, (len(tokens), 1))
        np.fill_diagonal(blanked, model.text.mask_id)
        changed = scipy.special.softmax(model(blanked).logits, axis=-1)[:, label]
        expected = abs(scipy.special.softmax(logits)[label] - changed)
        mine = corrected.targets["blank_out"][row, : len(tokens)]
        np.testing.assert_allclose(mine, expected, atol=2e-5)


def test_the_papers_numbers():
    # Typed once more, row by row, from the published table: L1, L3, L5, L6.
    rows = {
        "raw": "12±21 9±21 8±20 9±21",
        "rollout": "11±19 12±21 13±21 13±20",
        "flow": "11±19 11±21 12±22 14±21",
    }
    for row, text in rows.items():
        found = [cell for cell in SENTIMENT.tables["gradient"][row] if not np.isnan(cell[0])]
        assert " ".join(f"{mean * 100:.0f}±{std * 100:.0f}" for mean, std in found) == text
        assert np.flatnonzero(
            np.isnan([mean for mean, _ in SENTIMENT.tables["gradient"][row]])
        ).tolist() == [1, 3]


def test_an_evaluation_writes_both_tables_and_their_rounding(model, split, tmp_path):
    out, seen, made_with = tmp_path / "out", [], {"classifier": "tiny"}
    found = evaluate_sst2(
        model, {"dev": split}, LENGTHS, CONFIG, out, made_with=made_with,
        report=lambda *now: seen.append(now),
    )  # fmt: skip
    assert seen == sorted(seen)
    assert seen[-1] == (14, 14)
    assert {path.name for path in found.files} == {path.name for path in out.iterdir()}
    assert (found.authors.sentences, found.tables.sentences) == (5, 9)
    text = (out / "tables.md").read_text()
    for title in ("gradient", "gradient_norm"):
        assert f"## {SENTIMENT.titles[title]}\n" in text
        assert f"## {SENTIMENT_CORRECTED.titles[title]}\n" in text
    assert SENTIMENT.titles["blank_out"] not in text  # not a table of the authors
    rounding = found.rounding
    assert rounding.single < 1e-5
    assert rounding.double < 1e-12
    assert rounding.norm_agreement.mean > 0.99
    assert rounding.agreement.mean < 0.7
    assert rounding.agreement.n + rounding.agreement.nan == 5
    assert "What of the summed gradient is rounding" in text
    assert f"{rounding.single:.0e}" in rounding_note(rounding)
    right = np.asarray(model.probabilities(split.tokens)).argmax(-1) == split.labels
    record = json.loads((out / "tables.json").read_text())
    assert record["accuracy"] == right.mean()
    assert (record["samples"], record["authors_protocol"]["samples"]) == (9, 5)
    assert record["config"]["classifier"] == "tiny"
    chosen = {name: record["config"]["protocol"][name] for name in ("target", "replacement")}
    assert chosen == found.scoring.record() == {"target": "difference", "replacement": "mask"}
    assert record["rounding"]["single"] == rounding.single


def test_only_classifiers_of_two_classes_that_read_cls():
    three = tiny_bert(head="classification", labels=("a", "b", "c"))
    for model, message in ((tiny_bert(), "one of 0 classes"), (three, "one of 3 classes")):
        with pytest.raises(InputError, match=message):
            check_classifier(model)
    for name in ("samples", "paper_samples", "batch", "threads"):
        with pytest.raises(InputError, match=f"{name} must be"):
            Sst2Config(**{name: 0})
