"""Test every edge weight against loops, the authors' numbers or public functions."""

import dataclasses

import edge_oracles
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch_models
from edge_oracles import random_trace, sentence
from scipy.linalg import null_space
from session import refused
from traces import UNLIKE, model, theirs, tokens, traced

import jaxflow
from jaxflow.edges import (
    AGGREGATORS,
    BlockWeights,
    Norm,
    Trace,
    aggregate,
    edge_families,
    edge_weight,
    edge_weights,
    propagate,
    reconstruction,
    weigh,
)

VECTORS = ("norm", "norm-residual", "norm-residual-layernorm", "globenc", "alti", "value-zeroing")
SINKS = ("no-special", "shared-special", "no-first", "shared-first")


def oracle(name):
    return getattr(edge_oracles, name.replace("-", "_"))


@pytest.mark.parametrize("norm_first", [False, True])
def test_weights_from_vectors_are_those_of_loops(norm_first):
    trace, outputs = random_trace(2, norm_first=norm_first)
    for name in VECTORS:
        wanted = [oracle(name)(layer) for layer in sentence(trace)]
        np.testing.assert_allclose(weigh(trace, name), wanted, rtol=1e-3, atol=2e-6, err_msg=name)
    np.testing.assert_allclose(reconstruction(trace), outputs, rtol=1e-4, atol=1e-5)


OF_KINDS = [("globenc", "post"), ("value-zeroing", "causal")]
OF_KINDS += [(name, kind) for kind in UNLIKE for name in VECTORS]


@pytest.mark.parametrize(("name", "kind"), OF_KINDS)
def test_weights_of_a_batch_are_those_of_each_sentence_alone(name, kind):
    trace = traced(kind)
    found = np.asarray(weigh(trace, name))
    for row in range(2):
        wanted = np.array([oracle(name)(layer) for layer in sentence(trace, row)])
        n = wanted.shape[-1]
        np.testing.assert_allclose(found[row, :, :n, :n], wanted, rtol=5e-3, atol=2e-6)


#: What gives each family's value vectors, and where they are in it.
VALUES = {
    "LlamaForCausalLM": "self_attn.v_proj", "Gemma2ForCausalLM": "self_attn.v_proj",
    "GptOssForCausalLM": "self_attn.v_proj",
}  # fmt: skip


@pytest.mark.parametrize("kind", VALUES)
def test_value_zeroing_is_a_rerun_of_transformers_with_zeroed_values(kind):
    their, ids = theirs(kind), tokens(kind)[:1]
    found = np.asarray(weigh(traced(kind), "value-zeroing"))[0]
    original, n = torch_models.run(their, ids).hidden[0], ids.shape[1]
    wanted = np.zeros_like(found)
    for layer, j in np.ndindex(len(wanted), n):

        def zero(_, given, output, j=j):
            output[:, j] = 0
            return output

        part = their.model.layers[layer].get_submodule(VALUES[kind])
        handle = part.register_forward_hook(zero)
        changed = torch_models.run(their, ids).hidden[0]
        handle.remove()
        pair = [np.float64(each[layer + 1]) for each in (original, changed)]
        one, other = (each / np.linalg.norm(each, axis=-1, keepdims=True) for each in pair)
        wanted[layer, :, j] = 1 - (one * other).sum(-1)
    wanted /= wanted.sum(-1, keepdims=True)
    np.testing.assert_allclose(found, wanted, rtol=2e-3, atol=1e-5)


def test_sinks_take_their_share_of_vectors_and_none_of_attention():
    trace, one = traced("GptOssForCausalLM"), model("GptOssForCausalLM")
    assert np.asarray(trace.sink).mean() > 0.1
    rolled = one.rollout_rows(tokens("GptOssForCausalLM"), sinks=False)[:, :, 0]
    found = np.asarray(aggregate(trace, "raw", sources=-1))[:, -1:, 0]
    np.testing.assert_allclose(found, rolled, atol=1e-5)
    for name in ("raw", "head-1", "residual-0.25", "discard-0.5", "shared-first"):
        sums = np.asarray(weigh(trace, name)).sum(-1)[:, :, 1:4]
        np.testing.assert_allclose(sums, np.ones_like(sums), atol=1e-5, err_msg=name)
    without = dataclasses.replace(trace, sink=None)
    with refused(r"rows \(queries\) must sum to 1"):
        weigh(without, "raw")
    for name in ("transformer-attribution", "decompx"):
        with refused("mixture of experts|of experts, for which there is no rule"):
            propagate(trace, name) if name == "decompx" else weigh(trace, name)


@pytest.mark.parametrize("kind", ["LlamaForCausalLM", "Gemma2ForCausalLM"])
def test_norms_are_those_of_rows(kind):
    one, ids = model(kind), tokens(kind)
    found = np.asarray(aggregate(traced(kind), "norm", sources=-1))[:, -1:, 0]
    np.testing.assert_allclose(found, one.rollout_rows(ids, edge="norm")[:, :, 0], atol=1e-5)
    if "Gemma" in kind:
        with refused("how must be rollout for norms of a model that normalises"):
            one.rollout_rows(ids, edge="norm", how="paths")


def test_rows_without_any_weight_stay_zero_and_are_all_residual():
    trace, _ = random_trace(0, norm_first=True)
    # The bias alone makes up the output, and every token is opposed to it.
    blocks = dataclasses.replace(
        trace.blocks,
        projection=np.zeros_like(trace.blocks.projection),
        projection_bias=np.full((2, 6), 9.0, np.float32),
    )
    far = dataclasses.replace(trace, blocks=blocks, stream=np.full_like(trace.stream, -1))
    still = dataclasses.replace(trace, vectors=np.zeros_like(trace.vectors))
    for name, one in (("alti", far), ("value-zeroing", still)):
        assert not np.asarray(weigh(one, name)).any()
        np.testing.assert_array_equal(aggregate(one, name)[-1], np.eye(4))
    single = Trace(jnp.ones((2, 1, 1, 1)), special=jnp.array([True]))
    for name in SINKS:
        assert not np.asarray(weigh(single, name)).any()
        np.testing.assert_array_equal(aggregate(single, name, "flow"), np.ones((2, 1, 1)))


@pytest.mark.parametrize("kind", ["post", "causal"])
def test_weights_from_attention_and_gradients_are_those_of_loops(kind):
    trace = traced(kind)
    for row in range(2):
        n = int(np.asarray(trace.mask)[row].sum())
        attention, gradient, relevance = (
            np.asarray(part, np.float64)[row, ..., :n, :n]
            for part in (trace.attention, trace.gradient, trace.relevance)
        )
        places = {"special": np.asarray(trace.special)[row, :n], "first": np.arange(n) == 0}
        wanted = {
            "gradient": np.maximum(gradient * attention, 0).mean(1),
            "gradient-signed": (gradient * attention).mean(1),
            "transformer-attribution": np.maximum(gradient * relevance, 0).mean(1) + np.eye(n),
        }
        for name in SINKS if kind == "post" else ():
            sink = places[name.split("-")[1]]
            wanted[name] = [edge_oracles.sinks(layer, sink, name) for layer in attention]
        for name, expected in wanted.items():
            found = np.asarray(weigh(trace, name))[row]
            np.testing.assert_allclose(found[:, :n, :n], expected, atol=1e-6, err_msg=name)
            assert not found[:, n:].any()
            assert not found[..., n:].any()


def test_sinks_leave_what_a_causal_model_sees():
    found = {name: np.asarray(weigh(traced("causal"), name)) for name in SINKS}
    for name, edges in found.items():
        assert not edges[..., *np.triu_indices(6, 1)].any(), name
        np.testing.assert_allclose(edges[0, :, 2].sum(-1), 1, atol=1e-6)
    assert not found["no-first"][:, :, 0].any()
    attention = jnp.array([[[0.5, 0.4, 0.1], [0.2, 0.2, 0.6], [1.0, 0.0, 0.0]]])[None]
    trace = Trace(attention, special=jnp.array([True, False, False]))
    for end in ("special", "first"):
        dropped, shared = weigh(trace, f"no-{end}")[0], weigh(trace, f"shared-{end}")[0]
        np.testing.assert_allclose(dropped, [[0, 0.8, 0.2], [0, 0.25, 0.75], [0] * 3], atol=1e-6)
        np.testing.assert_allclose(shared, [[0, 0.65, 0.35], [0, 0.3, 0.7], [0] * 3], atol=1e-6)


def test_families_are_the_public_functions():
    trace = traced("pre")
    attention, mask = np.asarray(trace.attention), np.asarray(trace.mask)
    rolled = jaxflow.head_rollout(attention, residual=0.3, mask=mask)
    flows = jaxflow.head_flow(attention, residual=0.3, mask=mask, sources=[1, 0])
    found = aggregate(trace, "head-1", "rollout", residual=0.3)
    np.testing.assert_allclose(found, rolled[:, :, 1], atol=1e-6)
    found = aggregate(trace, "head-1", "flow", residual=0.3, sources=[1, 0])
    np.testing.assert_allclose(found, flows[:, :, 1], atol=1e-5)
    one, mean = attention[:, :, 1], attention.mean(2)
    product = np.asarray(aggregate(trace, "head-1", "product"))
    np.testing.assert_allclose(product[0, 2], one[0, 2] @ mean[0, 1] @ mean[0, 0], atol=1e-6)
    edges = jaxflow.discard(attention, 0.5, mask=mask)
    for how, public in (("rollout", jaxflow.rollout), ("flow", jaxflow.flow)):
        found = aggregate(trace, "residual-0.25", how)
        np.testing.assert_allclose(found, public(attention, residual=0.25, mask=mask), atol=1e-5)
        found = aggregate(trace, "discard-0.5", how)
        np.testing.assert_allclose(found, public(edges, residual=0, mask=mask), atol=1e-5)
    for heads in ("max", "min"):
        wanted = jaxflow.raw_attention(attention, heads=heads, mask=mask)
        np.testing.assert_allclose(weigh(trace, f"{heads}-heads"), wanted, atol=1e-7)


LENGTH, SIZE, WIDTH = 7, 3, 8


def long_trace(lengths=(LENGTH, 5), *, n=LENGTH, causal=False):
    """Sentences longer than a head is wide, for effective attention."""
    rng = np.random.default_rng(0)
    mask = np.arange(n) < np.asarray(lengths)[:, None]
    allowed = mask[:, None, None, None, :] & (np.tri(n, dtype=bool) if causal else True)
    scores = np.exp(2 * rng.normal(size=(2, 2, 2, n, n))) * allowed
    norm = Norm(np.ones((2, WIDTH)), np.zeros((2, WIDTH)), 1e-5)
    empty = np.zeros((2, WIDTH, 1))
    blocks = BlockWeights(
        rng.normal(size=(2, 2, SIZE, WIDTH)), empty[..., 0], norm, norm, empty, empty[:, 0],
        empty.mT, empty[..., 0], "gelu", True,
    )  # fmt: skip
    vectors, stream = rng.normal(size=(2, 2, 2, n, SIZE)), rng.normal(size=(2, 3, n, WIDTH))
    trace = Trace(scores / scores.sum(-1, keepdims=True), mask, None, vectors, stream, blocks)
    return jax.tree.map(
        lambda leaf: jnp.asarray(leaf, bool if leaf.dtype == bool else jnp.float32), trace
    )


@pytest.mark.parametrize("kind", ["full", "causal", "Gemma2ForCausalLM"])
def test_effective_attention_is_attention_less_its_projection_by_scipy(kind):
    trace = traced(kind) if kind in UNLIKE else long_trace(causal=kind == "causal")
    attention = np.asarray(trace.attention, np.float64)
    heads, wanted = attention.shape[2], np.zeros((*attention.shape[:2], *attention.shape[3:]))
    for b, layer, head, i in np.ndindex(attention.shape[:-1]):
        if not trace.mask[b, i]:
            continue
        row = attention[b, layer, head, i]
        seen = np.flatnonzero(attention[b, layer, :, i].any(0))
        value = np.asarray(trace.vectors[b, layer, head, seen], np.float64)
        read = value @ np.asarray(trace.blocks.projection[layer, head], np.float64)
        null = null_space(read.T, rcond=1e-6)
        wanted[b, layer, i, seen] += (row[seen] - null @ (null.T @ row[seen])) / heads
    found = np.asarray(weigh(trace, "effective"))
    np.testing.assert_allclose(found, wanted, atol=2e-5)
    assert np.abs(found - attention.mean(2)).max() > 1e-3


def test_sentences_no_longer_than_a_head_is_wide_are_refused():
    with refused(r"than a head is wide \(3\), the longest has 3"):
        weigh(long_trace(lengths=(3, 2)), "effective")


@pytest.mark.parametrize("name", edge_weights())
def test_every_edge_weight_goes_through_every_aggregator(name):
    trace = long_trace() if name == "effective" else traced("post")
    edge, mask = edge_weight(name), np.asarray(trace.mask)
    edges = np.asarray(weigh(trace, name))
    n = edges.shape[-1]
    assert edges.shape == (2, 2, n, n)
    assert edge.signed or (edges >= 0).all()
    assert not edges[1, :, ~mask[1]].any()
    assert not edges[1, :, :, ~mask[1]].any()
    for how in AGGREGATORS:
        found = np.asarray(aggregate(trace, name, how, sources=0))
        assert found.shape == (2, 2, 1, n)
        assert np.isfinite(found).all()
        assert not found[1, ..., ~mask[1]].any()
        if how == "rollout":
            np.testing.assert_allclose(found.sum(-1), 1, atol=1e-5)


def test_names_and_what_is_missing():
    assert set(edge_families()) == {"head", "residual", "discard"}
    assert set(edge_weights(3)) - set(edge_weights()) == {"head-0", "head-1", "head-2"}
    assert all(edge_weight(name).name == name for name in edge_weights(2))
    known = edge_weights().values()
    assert len(known) == 21  # no two share a name
    assert {edge.name for edge in known if edge.residual} == {
        "alti", "discard-0.5", "discard-0.9", "globenc", "norm-residual",
        "norm-residual-layernorm", "residual-0.25", "residual-0.75", "transformer-attribution",
        "value-zeroing",
    }  # fmt: skip
    assert {edge.name for edge in known if edge.signed} == {"effective", "gradient-signed"}
    with refused("head must be from 0 to 1, got 2"):
        weigh(traced("pre"), "head-2")
    trace = Trace(jnp.full((1, 1, 2, 2), 0.5))
    for name, missing in {
        "no-special": "which tokens are special",
        "norm": "value vectors and hidden states and the blocks' parameters",
        "transformer-attribution": "the gradient with respect to attention and relevances",
    }.items():
        with refused(f"edge weight {name} needs {missing}"):
            weigh(trace, name)
    with refused("reconstruction needs value vectors"):
        reconstruction(trace)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("head-²", "head must be a whole number from 0, as in head-3, got '²'"),
        ("residual-1.5", "residual must be a share from 0 to 1, as in residual-0.5, got '1.5'"),
        ("residual-nan", "residual must be a share"),
        ("discard-1", "discard must be a share of at least 0 and below 1"),
        ("tail-3", "edge weight must be one of .*, head-NUMBER.*, got 'tail-3'"),
    ],
)
def test_unusable_names_are_named(name, message):
    with refused(message):
        edge_weight(name)
