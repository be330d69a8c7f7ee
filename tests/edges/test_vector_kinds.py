"""Norms, ALTI and GlobEnc: loops written from the papers, the blocks' own output, symmetries."""

from __future__ import annotations

import dataclasses
from functools import partial

import jax
import numpy as np
import pytest
import vector_oracles
from hypothesis import given, settings
from hypothesis import strategies as st
from traces import traced
from vector_oracles import sentence
from vector_traces import heads_permuted, permuted, random_trace

from jaxflow.edges import aggregate, weigh
from jaxflow.edges._norms import reconstruction
from jaxflow.errors import InputError

ORACLES = {
    "norm": vector_oracles.norm,
    "norm-residual": vector_oracles.norm_residual,
    "norm-residual-layernorm": vector_oracles.norm_residual_layernorm,
    "globenc": vector_oracles.globenc,
    "alti": vector_oracles.alti,
}

# Compiled once for traces of one shape.
JITTED = {name: jax.jit(partial(weigh, edge=name)) for name in ORACLES}


@pytest.mark.parametrize("kind", ["pre", "post", "causal"])
@pytest.mark.parametrize("name", ORACLES)
def test_weights_are_those_of_loops_on_each_sentence_alone(kind, name):
    trace = traced(kind)
    found = np.asarray(weigh(trace, name))
    assert (found >= 0).all()
    for row in range(2):
        wanted = np.array([ORACLES[name](layer) for layer in sentence(trace, row)])
        n = wanted.shape[-1]
        np.testing.assert_allclose(found[row, :, :n, :n], wanted, rtol=1e-4, atol=2e-6)
        assert not found[row, :, n:].any()
        assert not found[row, :, :, n:].any()


@pytest.mark.parametrize("kind", ["pre", "post", "causal"])
def test_parts_and_biases_are_what_the_blocks_return(kind):
    trace = traced(kind)
    found = np.asarray(reconstruction(trace), np.float64)
    for row in range(2):
        for number, layer in enumerate(sentence(trace, row)):
            y = found[row, number, : len(layer.stream)]
            scale, bias, epsilon = layer.norms[1]

            def normal(x, scale=scale, bias=bias, epsilon=epsilon):
                deviation = np.sqrt(x.var(-1, keepdims=True) + epsilon)
                return (x - x.mean(-1, keepdims=True)) / deviation * scale + bias

            read = normal(y) if layer.norm_first else y
            result = y + vector_oracles.feed_forward(layer, read)
            result = result if layer.norm_first else normal(result)
            np.testing.assert_allclose(result, layer.result, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("norm_first", [False, True])
@pytest.mark.parametrize("name", ORACLES)
def test_weights_are_those_of_loops_where_all_biases_are_large(name, norm_first):
    trace, _ = random_trace(2, norm_first=norm_first)
    wanted = [ORACLES[name](layer) for layer in sentence(trace)]
    np.testing.assert_allclose(JITTED[name](trace), wanted, rtol=1e-4, atol=2e-6)


@pytest.mark.parametrize("norm_first", [False, True])
def test_reconstruction_is_the_attention_block_of_a_forward_pass_in_numpy(norm_first):
    trace, outputs = random_trace(3, norm_first=norm_first, activation="silu")
    np.testing.assert_allclose(reconstruction(trace), outputs, rtol=1e-4, atol=1e-5)


def test_without_a_norm_after_the_sum_three_of_them_are_one():
    trace = traced("pre")
    wanted = weigh(trace, "norm-residual")
    for name in ("norm-residual-layernorm", "globenc"):
        np.testing.assert_allclose(weigh(trace, name), wanted, rtol=1e-6)
    post = traced("post")
    assert np.abs(weigh(post, "globenc") - weigh(post, "norm-residual-layernorm")).max() > 0.1


def test_rows_of_alti_sum_to_one_and_a_row_of_nothing_stays_nothing():
    rows = np.asarray(weigh(traced("post"), "alti")).sum(-1)
    np.testing.assert_allclose(
        rows[np.asarray(traced("post").mask)[:, None].repeat(2, 1)], 1, atol=1e-6
    )
    trace, _ = random_trace(0, norm_first=True, layers=1, n=2)
    blocks = trace.blocks
    assert blocks is not None
    # The bias alone makes up the output, and every token pulls against it.
    far = dataclasses.replace(
        blocks,
        projection=np.zeros_like(blocks.projection),
        projection_bias=np.full((1, 6), 9.0, np.float32),
    )
    stream = np.full_like(trace.stream, -1)
    trace = dataclasses.replace(trace, blocks=far, stream=stream)
    assert not np.asarray(weigh(trace, "alti")).any()
    np.testing.assert_array_equal(aggregate(trace, "alti"), np.eye(2)[None])


@given(seed=st.integers(0, 1000), norm_first=st.booleans(), tokens=st.permutations(range(4)))
@settings(max_examples=6)
def test_the_order_of_tokens_and_heads_does_not_matter(seed, norm_first, tokens):
    trace, _ = random_trace(seed, norm_first=norm_first)
    tokens = list(tokens)
    for name in ORACLES:
        weights = np.asarray(JITTED[name](trace))
        moved = JITTED[name](permuted(trace, tokens))
        np.testing.assert_allclose(moved, weights[:, tokens][:, :, tokens], rtol=1e-4, atol=1e-5)
        swapped = JITTED[name](heads_permuted(trace, [1, 0]))
        np.testing.assert_allclose(swapped, weights, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("norm_first", [False, True])
def test_a_single_token_is_all_there_is(norm_first):
    trace, outputs = random_trace(5, norm_first=norm_first, layers=1, n=1)
    for name, oracle in ORACLES.items():
        found = np.asarray(weigh(trace, name))
        assert found.shape == (1, 1, 1)
        np.testing.assert_allclose(found[0], oracle(sentence(trace)[0]), rtol=1e-4)
    np.testing.assert_allclose(weigh(trace, "alti"), 1)
    np.testing.assert_allclose(reconstruction(trace), outputs, rtol=1e-4, atol=1e-5)


def test_a_trace_without_vectors_is_told_what_is_missing():
    trace = dataclasses.replace(traced("post"), vectors=None)
    for name in ORACLES:
        with pytest.raises(InputError, match=f"edge weight {name} needs value vectors, which"):
            weigh(trace, name)
    with pytest.raises(InputError, match="reconstruction needs value vectors"):
        reconstruction(trace)
