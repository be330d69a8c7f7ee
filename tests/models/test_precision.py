"""bfloat16 compute: what stays float32, and how far attention and what follows it may move."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_models import tiny
from vision_models import random_model

import jaxflow
from jaxflow.models import AgreementEncoder, EncoderConfig, in_bfloat16, init, load, trace
from jaxflow.models.model import lowered

TEXTS = ["the keys to the cabinet", "the key", "a cat that the dogs chase"]


@pytest.fixture(scope="module")
def pair():
    model = load("agreement")
    tokens = model.whole_words.encode_batch(TEXTS)
    return model, in_bfloat16(model), tokens


@pytest.mark.parametrize(
    "model", [tiny(), tiny(causal=True), tiny("masked-lm"), random_model()], ids=str
)
def test_what_is_handed_out_is_float32_and_what_is_computed_is_not(model):
    half = in_bfloat16(model)
    rng = np.random.default_rng(0)
    if hasattr(model.config, "image"):
        height, width = model.config.image
        given = rng.normal(size=(2, height, width, model.config.channels)).astype(np.float32)
        given = given.astype(jnp.bfloat16)
    else:
        given = rng.integers(5, 12, (2, 6)).astype(np.int32)
    output = half(given)
    assert output.hidden.dtype == jnp.bfloat16
    assert output.attention.dtype == jnp.float32
    assert output.logits.dtype == jnp.float32
    np.testing.assert_allclose(np.asarray(output.attention).sum(-1), 1, atol=1e-6)
    wide = model(given)
    np.testing.assert_allclose(output.attention, wide.attention, atol=0.05)


def test_rollout_and_flow_move_no_more_than_attention_does(pair):
    """The bounds of the docstring, and how far they are from it on the shipped model."""
    model, half, tokens = pair
    mask = tokens != 0
    wide, low = (np.asarray(one(tokens).attention, np.float64) for one in (model, half))
    wide, low = (one / one.sum(-1, keepdims=True) for one in (wide, low))
    fused = [one.mean(2) * mask[:, None, :, None] for one in (wide, low)]
    moved = np.abs(fused[0] - fused[1]).sum(-1)  # [B, L, n]
    rolled = [np.asarray(jaxflow.rollout(one, mask=mask)) for one in (wide, low)]
    flows = [jaxflow.flow(one, mask=mask) for one in (wide, low)]
    by_layer = 0.5 * np.cumsum(moved.max(-1), axis=-1)  # [B, L]
    distance = np.abs(rolled[0] - rolled[1]).sum(-1)
    assert (distance <= by_layer[..., None] + 1e-6).all()
    all_rows = 0.5 * np.cumsum(moved.sum(-1), axis=-1)
    assert (np.abs(flows[0] - flows[1]) <= all_rows[..., None, None] + 1e-6).all()
    assert 0 < distance.max() < 0.05
    assert np.abs(flows[0] - flows[1]).max() < 0.05
    probabilities = [jax.nn.softmax(one(tokens).logits) for one in (model, half)]
    np.testing.assert_allclose(*probabilities, atol=0.02)


def test_gradients_and_traces_work(pair):
    _, half, tokens = pair
    found = trace(half, tokens)
    assert found.attention.dtype == jnp.float32
    assert np.isfinite(np.asarray(found.gradient)).all()


def test_a_training_step_in_bfloat16_has_gradients_of_its_parameters_dtype():
    config = EncoderConfig(vocabulary=20, positions=8, layers=2, heads=2, width=16, dropout=0.0)
    params = init(config)
    tokens = np.array([[1, 5, 9, 4, 7], [1, 3, 19, 0, 0]], np.int32)
    encoder = AgreementEncoder(config)

    def loss(params, lower):
        params = lowered(params) if lower else params
        logits = encoder.apply(params, tokens, method="classify", train=True)
        assert logits.dtype == jnp.float32
        return -jax.nn.log_softmax(logits)[:, 0].mean()

    wide, low = (jax.grad(loss)(params, lower) for lower in (False, True))
    for one, other in zip(jax.tree.leaves(wide), jax.tree.leaves(low), strict=True):
        assert other.dtype == jnp.float32
        size = float(jnp.abs(one).max())
        np.testing.assert_allclose(other, one, atol=0.05 * size + 1e-6)
