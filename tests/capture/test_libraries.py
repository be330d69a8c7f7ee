"""Attention captured from the modules of other libraries, against their own weights or by hand."""

from __future__ import annotations

import os

import flax.linen as linen
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxflow import capture

os.environ.setdefault("KERAS_BACKEND", "jax")

X = jax.random.normal(jax.random.key(0), (2, 5, 16))


@pytest.fixture(autouse=True)
def _rank_promotion():
    with jax.numpy_rank_promotion("allow"):
        yield


def softmax_of(q, k):
    """Weights of queries and keys ``[B, n, H, d]``."""
    return jax.nn.softmax(jnp.einsum("bqhd,bkhd->bhqk", q, k) / q.shape[-1] ** 0.5)


def agree(attention, right):
    (site,) = attention
    assert site.kind == "self"
    assert site.place.heads_known
    np.testing.assert_allclose(site.weights, right, atol=1e-6)


@pytest.mark.parametrize("lifted", ["loop", "remat", "scan"])
def test_linen(lifted):
    class Block(linen.Module):
        @linen.compact
        def __call__(self, x, _):
            attention = linen.MultiHeadDotProductAttention(4)
            return x + attention(x, x, sow_weights=True), None

    block = {"loop": Block, "remat": linen.remat(Block), "scan": Block}[lifted]
    if lifted == "scan":
        axes = {"params": 0, "intermediates": 0}
        block = linen.scan(Block, axes, split_rngs={"params": True}, length=3)
    module = block()
    params = {"params": module.init(jax.random.key(1), X, None)["params"]}

    def apply(params, x):
        return module.apply(params, x, None, mutable=["intermediates"])

    (_, sown), attention = capture(apply)(params, X)
    agree(attention, jax.tree.leaves(sown)[0])


def test_nnx():
    module = nnx.MultiHeadAttention(4, 16, rngs=nnx.Rngs(0), decode=False)
    right = softmax_of(module.query(X), module.key(X))
    agree(capture(lambda x: module(x))(X)[1], right)
    graph, state = nnx.split(module)
    agree(capture(lambda state, x: nnx.merge(graph, state)(x))(state, X)[1], right)


def test_equinox():
    equinox = pytest.importorskip("equinox")
    module = equinox.nn.MultiheadAttention(4, 16, key=jax.random.key(0))
    _, attention = capture(lambda module, x: jax.vmap(lambda x: module(x, x, x))(x))(module, X)
    q, k = ((X @ one.weight.T).reshape(2, 5, 4, 4) for one in (module.query_proj, module.key_proj))
    agree(attention, softmax_of(q, k))


def test_haiku():
    haiku = pytest.importorskip("haiku")
    start = haiku.initializers.VarianceScaling(1.0)
    function = haiku.transform(lambda x: haiku.MultiHeadAttention(4, 4, w_init=start)(x, x, x))
    params = function.init(jax.random.key(1), X)
    q, k = (
        (X @ params[f"multi_head_attention/{name}"]["w"]).reshape(2, 5, 4, 4)
        for name in ("query", "key")
    )
    agree(capture(function.apply)(params, None, X)[1], softmax_of(q, k))


def test_keras():
    keras = pytest.importorskip("keras")
    layer = keras.layers.MultiHeadAttention(4, 4)
    _, right = layer(X, X, return_attention_scores=True)
    variables = [[v.value for v in group] for group in (layer.trainable_variables, [])]
    call = lambda trained, other, x: layer.stateless_call(trained, other, x, x)[0]  # noqa: E731
    agree(capture(call, data_argnums=2)(*variables, X)[1], right)


def test_keras_hub():
    hub = pytest.importorskip("keras_hub")  # not among the test extras: it needs tensorflow-text
    keras = pytest.importorskip("keras")
    backbone = hub.models.BertBackbone(
        vocabulary_size=30, num_layers=2, num_heads=2, hidden_dim=16, intermediate_dim=24,
        max_sequence_length=8, dropout=0.0,
    )  # fmt: skip
    mask = jnp.array([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
    tokens = jnp.arange(10).reshape(2, 5)
    inputs = {"token_ids": tokens, "padding_mask": mask, "segment_ids": 0 * tokens}
    layers = backbone.transformer_layers
    entering = keras.Model(backbone.inputs, [layer.input[0] for layer in layers])(inputs)
    right = [
        layer._self_attention_layer(
            x, x, attention_mask=mask[:, None] == 1, return_attention_scores=True
        )[1]
        for layer, x in zip(layers, entering, strict=True)
    ]
    trained, other = (
        [variable.value for variable in group]
        for group in (backbone.trainable_variables, backbone.non_trainable_variables)
    )
    call = lambda *given: backbone.stateless_call(*given)[0]  # noqa: E731
    attention = capture(call, data_argnums=2)(trained, other, inputs)[1]
    np.testing.assert_allclose(attention.stack(), jnp.stack(right, 1), atol=1e-6)
