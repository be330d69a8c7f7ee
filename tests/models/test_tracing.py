"""Test traces against the model's own numbers, and gradients against differences."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
from edge_oracles import block_output, normalised, sentence
from traces import DECODERS, model, tokens, traced

from jaxflow.edges import reconstruction
from jaxflow.errors import InputError
from jaxflow.models import make_module, trace
from jaxflow.models.model import roll_up

KINDS = ("pre", "post", "causal")


@pytest.mark.parametrize("kind", KINDS)
def test_the_trace_is_the_models_forward_pass(kind):
    found, one = traced(kind), model(kind)
    output = one(tokens(kind), values=True)
    np.testing.assert_allclose(found.attention, output.attention, atol=1e-6)
    np.testing.assert_allclose(found.stream, output.hidden, atol=1e-5)
    np.testing.assert_allclose(found.vectors, output.values.vectors, atol=1e-5)
    np.testing.assert_array_equal(found.blocks.projection, output.values.projection)
    np.testing.assert_array_equal(found.mask, tokens(kind) != 0)
    special = {"pre": [0, 1], "post": [0, 2, 3, 4], "causal": [0, 2, 3, 4]}[kind]
    np.testing.assert_array_equal(found.special, np.isin(tokens(kind), special))


@pytest.mark.parametrize("kind", [*KINDS, *DECODERS])
def test_blocks_are_those_that_the_trace_describes(kind):
    """The parts that tokens bring, biases and the feed-forward layer sum to the next stream."""
    found = traced(kind)
    for row in range(2):
        layers = sentence(found, row)
        streams = np.asarray(found.stream, np.float64)[row]
        for layer, one in enumerate(layers):
            n = len(one.stream)
            wanted = streams[layer + 1, :n]
            np.testing.assert_allclose(block_output(one), wanted, rtol=2e-4, atol=2e-4)
            middle = np.asarray(reconstruction(found))[row, layer, :n]
            np.testing.assert_allclose(middle, normalised(one)[1], rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_at_attention_are_those_of_differences(kind):
    one, ids = model(kind), jnp.asarray(tokens(kind))
    found = trace(one, ids, target=lambda logits: logits[:, 1])
    shape = found.attention.shape
    rng = np.random.default_rng(0)
    step = jnp.asarray(rng.normal(size=shape), jnp.float32)
    step = jnp.where(jnp.asarray(found.attention) > 0, step, 0)
    embeddings = one.module.apply(one.params, ids, method="embed")
    real = ids != 0

    def value(offsets):
        output = one.module.apply(one.params, embeddings, real, method="encode", offsets=offsets)
        return float(output.logits[:, 1].sum())

    size = 2e-3
    difference = (value(size * step) - value(-size * step)) / (2 * size)
    assert difference == pytest.approx(float((found.gradient * step).sum()), rel=2e-2, abs=2e-2)
    # The class is computed from one token: in the last layer no other query counts.
    counts = np.asarray(found.gradient).any((2, 4)).sum(-1)  # [B, L]
    assert (counts[:, -1] == 1).all()
    assert (counts[:, :-1] > 1).all()


def test_the_predicted_class_is_what_is_explained_by_default():
    found = traced("post")
    label = np.asarray(model("post")(tokens("post")).logits).argmax(-1)
    named = trace(model("post"), tokens("post"), target=lambda z: z[jnp.arange(2), label])
    np.testing.assert_allclose(found.gradient, named.gradient, atol=1e-6)


def test_segments_reach_the_trace():
    one, ids, types = model("post"), tokens("post"), np.tile([0, 1], (len(tokens("post")), 8))
    types = types[:, : ids.shape[1]]
    found = trace(one, ids, token_types=types)
    np.testing.assert_allclose(found.stream, one(ids, token_types=types).hidden, atol=1e-5)
    assert np.abs(found.stream - traced("post").stream).max() > 0.01


def test_a_loop_takes_no_offsets():
    one = model("post")
    rolled = roll_up(one.config, one.params)
    offsets = jnp.zeros((1, 2, 2, 3, 3))
    with pytest.raises(InputError, match="offsets must be None"):
        make_module(one.config, rolled=True).apply(
            {"params": rolled.params}, jnp.zeros((1, 3, 16)), method="encode", offsets=offsets
        )
