"""Test explanations of published models against the public functions."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_models import tiny

import jaxflow
from jaxflow.errors import InputError
from jaxflow.eval.explanation import explainer
from jaxflow.eval.score.attention import attention_of, join
from jaxflow.eval.score.reading import reader
from jaxflow.models import ViTConfig, init
from jaxflow.models.model import Model

TEXT = "The keys [MASK] unlikely to the cabinet."
KINDS = {
    "classes": ("classification", False),
    "masked": ("masked-lm", False),
    "causal": ("lm", True),
    "causal classes": ("classification", True),
}


@pytest.fixture(scope="module", params=KINDS)
def model(request):
    head, causal = KINDS[request.param]
    return tiny(head, causal=causal)


def answer(model, ids, mask, place):
    """Probabilities of the readout by the plain module, without padding."""
    logits = np.asarray(model.module.apply(model.params, ids, mask).logits, np.float64)
    logits = logits if logits.ndim == 2 else logits[:, place]
    shares = np.exp(logits - logits.max(-1, keepdims=True))
    return shares / shares.sum(-1, keepdims=True)


def joining(reading):
    """float64 ``[m, n]``, 1 where a token is of a unit."""
    return (np.array(reading.members) == np.arange(len(reading.units))[:, None]).astype(float)


@pytest.mark.parametrize("words", [False, True])
def test_scores_are_those_of_the_public_functions(model, words):
    reading = reader(model, words=words)(TEXT)
    found = explainer(model, words=words)(TEXT)
    ids = np.array([reading.ids], np.int32)
    mask = np.ones_like(ids, bool)
    units, place = joining(reading), reading.place
    assert [token.text for token in found.tokens] == [unit.text for unit in reading.units]
    assert found.readout == reading.readout == list(reading.members)[place]

    probabilities = answer(model, ids, mask, place)[0]
    label = probabilities.argmax()
    assert max(found.probabilities.values()) == pytest.approx(probabilities[label], abs=1e-5)
    if model.config.head == "classification":
        assert found.prediction == model.config.labels[label]
    else:
        assert found.prediction == model.text.decode([label])[0]
        assert len(found.probabilities) == 5

    attention = np.asarray(model(ids, mask).attention, np.float64)[0]
    shares = units / units.sum(-1, keepdims=True)
    attention = np.einsum("ui,lhij,wj->lhuw", shares, attention, units)
    np.testing.assert_allclose(found.attention, attention, atol=2e-5)
    rows = {
        "raw": jaxflow.raw_attention(attention),
        "rollout": jaxflow.rollout(attention),
        "flow": jaxflow.flow(attention),
    }
    for name, values in rows.items():
        expected = np.asarray(values)[:, found.readout]
        np.testing.assert_allclose(found.layers[name], expected, atol=5e-5)
        np.testing.assert_array_equal(found.scores[name], found.layers[name][-1])

    blanked = np.where(units.astype(bool), model.text.mask_id, ids)
    changed = answer(model, blanked.astype(np.int32), np.ones_like(blanked, bool), place)
    expected = np.abs(changed[:, label] - probabilities[label])
    np.testing.assert_allclose(found.scores["blank_out"], expected, atol=2e-5)

    def log_odds(embeddings):
        logits = model.module.apply(model.params, embeddings, mask, method="encode").logits
        logits = logits if logits.ndim == 2 else logits[:, place]
        chosen = jax.nn.softmax(logits)[:, label]
        return jnp.log(chosen / (1 - chosen))[0]

    embeddings = model.module.apply(model.params, ids, method="embed")
    norms = np.linalg.norm(jax.grad(log_odds)(embeddings)[0], axis=-1)
    np.testing.assert_allclose(found.scores["gradient_norm"], units @ norms, rtol=2e-3, atol=1e-4)


def test_long_texts_are_blanked_in_parts(monkeypatch):
    model = tiny("masked-lm")
    whole = explainer(model)(TEXT)
    monkeypatch.setattr("jaxflow.eval.explanation._MEMORY", 1 << 12)
    parts = explainer(model)(TEXT)
    for name, values in whole.scores.items():
        np.testing.assert_allclose(parts.scores[name], values, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("words", [False, True])
def test_attention_of_texts_is_each_ones_own(model, words):
    texts = [TEXT, "the keys", "un ##like . . ' [MASK] the cabinet to the key", "keys"]
    saved = attention_of(model, texts, words=words)
    assert saved.attention.shape[0] == len(texts)
    read = reader(model, words=words, answer=False)
    for place, text in enumerate(texts):
        reading = read(text)
        m = len(reading.units)
        ids = np.array([reading.ids], np.int32)
        alone = np.asarray(model(ids, np.ones_like(ids, bool)).attention)[0]
        units = joining(reading)
        expected = np.einsum("ui,lhij,wj->lhuw", units / units.sum(-1, keepdims=True), alone, units)
        np.testing.assert_allclose(saved.attention[place, :, :, :m, :m], expected, atol=2e-5)
        assert saved.mask[place].tolist() == [True] * m + [False] * (saved.mask.shape[1] - m)
        assert saved.tokens[place, :m].tolist() == [unit.text for unit in reading.units]
        assert not saved.attention[place, ..., m:].any()
    # What the functions of arrays ask for: rows that sum to 1, padded keys at 0.
    jaxflow.rollout(saved.attention, mask=saved.mask)


def test_joined_rows_still_sum_to_one():
    attention = np.random.default_rng(0).dirichlet(np.ones(6), (2, 3, 6)).astype(np.float32)
    joined = join(attention, [0, 1, 1, 1, 2, 2])
    np.testing.assert_allclose(joined.sum(-1), 1, rtol=1e-6)
    np.testing.assert_allclose(
        joined[..., 1, 2], attention[..., 1:4, 4:].sum(-1).mean(-1), rtol=1e-6
    )
    assert join(attention, range(6)) is attention


def test_models_that_predict_nothing_are_refused():
    with pytest.raises(InputError, match="must have a head to explain what it predicts"):
        explainer(tiny("none"))
    config = ViTConfig(image=(4, 4), patch=2, channels=1, layers=1, heads=1, width=4,
                       labels=("a", "b"), mean=(0.5,), std=(0.5,))  # fmt: skip
    vision = Model(config, init(config), None)
    with pytest.raises(InputError, match="must be one of text, got one of images"):
        explainer(vision)
    with pytest.raises(InputError, match="must be one of text, got one of images"):
        attention_of(vision, ["a"])
    with pytest.raises(InputError, match="texts must hold at least one"):
        attention_of(tiny(), [])
