"""Test DecompX against loops from the paper, and its sums against the model's output."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from edge_oracles import ACTIVATIONS, decompx, layer_norm, random_trace, sentence
from session import refused
from traces import DECODERS, UNLIKE, model, tokens, traced

from jaxflow.edges import Norm, Readout, class_attributions, propagate, propagations
from jaxflow.edges._blocks import distribute_bias, slope
from jaxflow.edges.decompx import norms, reconstruction


@pytest.mark.parametrize("norm_first", [False, True])
def test_norms_are_those_of_loops_and_parts_sum_to_hidden_states(norm_first):
    trace, _ = random_trace(2, norm_first=norm_first, causal=True, activation="silu")
    wanted = np.linalg.norm(decompx(sentence(trace)), axis=-1)
    np.testing.assert_allclose(norms(trace), wanted, rtol=1e-3, atol=1e-5)
    for bias in ("paper", "published"):
        found = reconstruction(trace, bias)
        np.testing.assert_allclose(found, trace.stream[1:], rtol=1e-4, atol=2e-5)


def test_a_batch_is_its_sentences():
    trace = traced("post")
    found = np.asarray(propagate(trace, "decompx"))
    for row in range(2):
        wanted = np.linalg.norm(decompx(sentence(trace, row)), axis=-1)
        n = wanted.shape[-1]
        np.testing.assert_allclose(found[row, :, :n, :n], wanted, rtol=1e-3, atol=1e-5)
        assert not found[row, :, n:].any()
        assert not found[row, :, :, n:].any()


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_slopes_times_arguments_are_activations(activation):
    values = np.array([-4, -0.7, -1e-3, -1e-6, 0, 1e-6, 9e-4, 1.1e-3, 0.2, 5], np.float32)
    wanted = ACTIVATIONS[activation](values.astype(np.float64))
    found = np.asarray(slope(activation, jnp.asarray(values)))
    np.testing.assert_allclose(found * values, wanted, rtol=2e-4, atol=1e-6)
    assert np.isfinite(found).all()


def test_a_bias_is_distributed_along_the_parts_or_as_given_where_all_are_orthogonal():
    parts = jnp.array([[1.0, 0, 0], [0, 2, 0]])
    own = jnp.array([0.0, 1])
    found = distribute_bias(parts, np.array([0, 0, 3.0]), own)
    np.testing.assert_array_equal(found[1], [0, 2, 3])
    found = distribute_bias(parts, np.array([4.0, 1, 0]), own)  # 4 and 2 along it
    np.testing.assert_allclose(found, [[1 + 8 / 3, 2 / 3, 0], [4 / 3, 2 + 1 / 3, 0]], rtol=1e-6)


DECOMPOSED = [kind for kind in DECODERS if "GptOss" not in kind]


@pytest.mark.parametrize("kind", DECOMPOSED)
def test_decoders_are_decomposed_as_by_loops_and_sum_to_hidden_states(kind):
    trace = traced(kind)
    found, real = np.asarray(reconstruction(trace)), np.asarray(trace.mask)
    wanted = np.asarray(trace.stream)[:, 1:]
    for row in range(2):
        np.testing.assert_allclose(
            found[row][:, real[row]], wanted[row][:, real[row]], rtol=1e-3, atol=1e-3
        )
    if kind in UNLIKE:
        found = np.asarray(propagate(trace, "decompx"))
        for row in range(2):
            parts = np.linalg.norm(decompx(sentence(trace, row)), axis=-1)
            n = parts.shape[-1]
            np.testing.assert_allclose(found[row, :, :n, :n], parts, rtol=2e-3, atol=1e-4)
    if "Gemma2" in kind:
        with refused("bias must be paper for a model that normalises what attention adds"):
            norms(trace, "published")


def readout(kind):
    """The head of a model of ``traces``, and the weights of the tokens that it reads."""
    params, config = model(kind).params["params"], model(kind).config
    if kind in DECODERS:
        norm = Norm(params["norm"]["scale"], params["norm"].get("bias"), config.epsilon, config.rms)
        kernel = params["decoder"].T if config.head == "lm" else params["readout"]["kernel"]
        last = np.eye(6, dtype=np.float32)[[5, 3]]
        return Readout(kernel, norm=norm, cap=config.logit_cap), last
    head = Readout(params["readout"]["kernel"], params["readout"].get("bias"))
    if kind == "post":
        pooler = params["pooler"]
        return dataclasses.replace(head, pooler=pooler["kernel"], pooler_bias=pooler["bias"]), None
    norm = Norm(params["norm"]["scale"], params["norm"]["bias"], config.block.epsilon)
    last = np.array([[0, 0, 0, 0, 0, 1], [0, 0, 0, 1, 0, 0]], np.float32)
    return dataclasses.replace(head, norm=norm), last


@pytest.mark.parametrize("kind", ["post", "causal", *DECOMPOSED])
def test_contributions_to_outputs_sum_to_the_logits(kind):
    found = np.asarray(class_attributions(traced(kind), *readout(kind)))
    logits = np.asarray(model(kind)(tokens(kind)).logits)
    logits = logits[[0, 1], [5, 3]] if logits.ndim == 3 else logits
    assert found.shape == (2, 6, logits.shape[-1])
    assert not found[1, 4:].any()
    close = {"rtol": 1e-3, "atol": 1e-3} if kind in DECODERS else {"rtol": 1e-4, "atol": 1e-5}
    np.testing.assert_allclose(found.sum(1), logits, **close)


def test_a_mean_may_be_read_and_rectified():
    trace, _ = random_trace(4, norm_first=True)
    rng = np.random.default_rng(0)
    scale, bias, pooler_bias = rng.normal(size=(3, 6)).astype(np.float32)
    kernel = rng.normal(size=(6, 2)).astype(np.float32)
    pooler = rng.normal(size=(6, 6)).astype(np.float32)
    head = Readout(kernel, None, Norm(scale, bias, 1e-5), pooler, pooler_bias, "relu")
    read = np.array([0, 1, 1, 1], np.float32) / 3
    pooled = read @ layer_norm(trace.stream[-1], scale, bias, 1e-5)
    logits = np.maximum(pooled @ pooler + pooler_bias, 0) @ kernel
    found = np.asarray(class_attributions(trace, head, read))
    np.testing.assert_allclose(found.sum(0), logits, rtol=1e-4, atol=1e-5)


def test_missing_and_unknown_input_is_named():
    assert list(propagations()) == ["decompx"]
    trace = traced("post")
    bare = dataclasses.replace(trace, stream=None)
    wrong, none = (
        dataclasses.replace(trace, blocks=dataclasses.replace(trace.blocks, value=value))
        for value in (np.zeros((2, 16, 8, 2)), None)
    )
    for call, words in (
        (lambda: propagate(trace, "x"), "propagation must be one of decompx, got 'x'"),
        (lambda: norms(trace, "dot"), "bias must be one of paper, published, got 'dot'"),
        (lambda: propagate(bare, "decompx"), "propagation decompx needs hidden states"),
        (lambda: norms(none), "DecompX needs the parameters of value vectors"),
        (lambda: norms(wrong), r"value must have the shape \(2, 16, 2, 8\), got"),
        (lambda: slope("elu", jnp.ones(1)), r"activation must be one of gelu_new, .*, got 'elu'"),
    ):
        with refused(words):
            call()
