"""DecompX: loops written from the paper, sums that are the model's own, symmetries."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from traces import model, tokens, traced
from vector_oracles import decompx, sentence
from vector_traces import ACTIVATIONS, heads_permuted, layer_norm, permuted, random_trace

from jaxflow.edges import Norm, Readout, class_attributions, propagate, propagation, propagations
from jaxflow.edges._blocks import distribute_bias as share
from jaxflow.edges._blocks import slope
from jaxflow.edges.decompx import norms, reconstruction
from jaxflow.errors import InputError

KINDS = ("pre", "post", "causal")
JITTED = jax.jit(norms)  # compiled once for traces of one shape


def given_values(kind):
    return traced(kind)


@pytest.mark.parametrize("kind", KINDS)
def test_norms_are_those_of_loops_on_each_sentence_alone(kind):
    trace = given_values(kind)
    found = np.asarray(propagate(trace, "decompx"))
    for row in range(2):
        wanted = np.linalg.norm(decompx(sentence(trace, row)), axis=-1)
        n = wanted.shape[-1]
        np.testing.assert_allclose(found[row, :, :n, :n], wanted, rtol=1e-3, atol=1e-5)
        assert not found[row, :, n:].any()
        assert not found[row, :, :, n:].any()
    if kind == "causal":
        assert not np.triu(found[0], 1).any()


@pytest.mark.parametrize("norm_first", [False, True])
@pytest.mark.parametrize("causal", [False, True])
def test_norms_are_those_of_loops_where_all_biases_are_large(norm_first, causal):
    trace, _ = random_trace(2, norm_first=norm_first, causal=causal)
    wanted = np.linalg.norm(decompx(sentence(trace)), axis=-1)
    np.testing.assert_allclose(JITTED(trace), wanted, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("bias", ["paper", "published"])
@pytest.mark.parametrize("kind", KINDS)
def test_parts_sum_to_the_hidden_states(kind, bias):
    trace = given_values(kind)
    mask = np.asarray(trace.mask)
    found, stream = np.asarray(reconstruction(trace, bias)), np.asarray(trace.stream)[:, 1:]
    for row in range(2):
        np.testing.assert_allclose(
            found[row][:, mask[row]], stream[row][:, mask[row]], rtol=1e-4, atol=1e-5
        )


@pytest.mark.parametrize("activation", ["gelu", "gelu_new", "relu", "silu"])
def test_parts_sum_to_hidden_states_whatever_the_activation(activation):
    for norm_first in (False, True):
        trace, _ = random_trace(8, norm_first=norm_first, activation=activation)
        assert trace.stream is not None
        np.testing.assert_allclose(reconstruction(trace), trace.stream[1:], rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_slopes_times_arguments_are_activations(activation):
    values = np.array([-4, -0.7, -1e-3, -1e-6, 0, 1e-6, 9e-4, 1.1e-3, 0.2, 5], np.float32)
    wanted = ACTIVATIONS[activation](values.astype(np.float64))
    found = np.asarray(slope(activation, jnp.asarray(values)))
    np.testing.assert_allclose(found * values, wanted, rtol=2e-4, atol=1e-6)
    assert np.isfinite(found).all()
    with pytest.raises(InputError, match=r"activation must be one of gelu_new, .*, got 'elu'"):
        slope("elu", jnp.asarray(values))


def test_a_bias_at_right_angles_to_all_parts_goes_where_it_is_told():
    parts = jnp.array([[1.0, 0, 0], [0, 2, 0]])
    own = jnp.array([0.0, 1])
    np.testing.assert_array_equal(share(parts, np.array([0, 0, 3.0]), own)[1], [0, 2, 3])
    shared = share(parts, np.array([4.0, 1, 0]), own)  # 4 and 2 along it
    np.testing.assert_allclose(shared, [[1 + 8 / 3, 2 / 3, 0], [4 / 3, 2 + 1 / 3, 0]], rtol=1e-6)


def readout(kind):
    """The head of a model of ``traces``, and the shares of the tokens that it reads."""
    params, config = model(kind).params["params"], model(kind).config
    head = Readout(params["readout"]["kernel"], params["readout"].get("bias"))
    if kind == "post":
        pooler = params["pooler"]
        return dataclasses.replace(head, pooler=pooler["kernel"], pooler_bias=pooler["bias"]), None
    norm = Norm(params["norm"]["scale"], params["norm"]["bias"], config.block.epsilon)
    last = np.array([[0, 0, 0, 0, 0, 1], [0, 0, 0, 1, 0, 0]], np.float32)
    return dataclasses.replace(head, norm=norm), last if kind == "causal" else None


@pytest.mark.parametrize("kind", KINDS)
def test_what_tokens_bring_to_classes_sums_to_the_logits(kind):
    trace = given_values(kind)
    found = np.asarray(class_attributions(trace, *readout(kind)))
    assert found.shape == (2, 6, 3)
    assert not found[1, 4:].any()
    assert (found < 0).any()
    logits = model(kind)(tokens(kind)).logits
    np.testing.assert_allclose(found.sum(1), logits, rtol=1e-4, atol=1e-5)


def test_a_mean_may_be_read_and_rectified():
    trace, _ = random_trace(4, norm_first=True)
    assert trace.stream is not None
    rng = np.random.default_rng(0)
    scale, bias, pooler_bias = rng.normal(size=(3, 6)).astype(np.float32)
    kernel = rng.normal(size=(6, 2)).astype(np.float32)
    pooler = rng.normal(size=(6, 6)).astype(np.float32)
    head = Readout(kernel, None, Norm(scale, bias, 1e-5), pooler, pooler_bias, "relu")
    shares = np.array([0, 1, 1, 1], np.float32) / 3
    pooled = shares @ layer_norm(trace.stream[-1], scale, bias, 1e-5)
    logits = np.maximum(pooled @ pooler + pooler_bias, 0) @ kernel
    found = np.asarray(class_attributions(trace, head, shares))
    np.testing.assert_allclose(found.sum(0), logits, rtol=1e-4, atol=1e-5)


@given(seed=st.integers(0, 1000), norm_first=st.booleans(), order=st.permutations(range(4)))
@settings(max_examples=4)
def test_the_order_of_tokens_and_heads_does_not_matter(seed, norm_first, order):
    trace, _ = random_trace(seed, norm_first=norm_first, causal=True)
    order = list(order)
    found = np.asarray(JITTED(trace))
    assert (found >= 0).all()
    moved = JITTED(permuted(trace, order))
    np.testing.assert_allclose(moved, found[:, order][:, :, order], rtol=1e-3, atol=1e-4)
    swapped = JITTED(heads_permuted(trace, [1, 0]))
    np.testing.assert_allclose(swapped, found, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("norm_first", [False, True])
def test_a_single_token_holds_the_whole_hidden_state(norm_first):
    trace, _ = random_trace(5, norm_first=norm_first, layers=1, n=1)
    assert trace.stream is not None
    wanted = np.linalg.norm(trace.stream[1], axis=-1)
    np.testing.assert_allclose(norms(trace)[0, 0], wanted, rtol=1e-4)


def test_what_is_missing_or_unknown_is_named():
    assert list(propagations()) == ["decompx"]
    assert propagation("decompx").title == "DecompX"
    with pytest.raises(InputError, match="propagation must be one of decompx, got 'x'"):
        propagate(traced("post"), "x")
    with pytest.raises(InputError, match="DecompX needs the parameters of value vectors"):
        propagate(_without_values(traced("post")), "decompx")
    with pytest.raises(InputError, match="bias must be one of paper, published, got 'dot'"):
        norms(given_values("post"), "dot")
    bare = dataclasses.replace(traced("post"), stream=None)
    with pytest.raises(InputError, match="propagation decompx needs hidden states"):
        propagate(bare, "decompx")
    with pytest.raises(InputError, match=r"value must have the shape \(2, 16, 2, 8\), got"):
        norms(_with_value(traced("post"), np.zeros((2, 16, 8, 2))))


def _with_value(trace, value):
    return dataclasses.replace(trace, blocks=dataclasses.replace(trace.blocks, value=value))


def _without_values(trace):
    return _with_value(trace, None)
