"""Test flow and cuts against igraph, networkx and theorems for every attention."""

import numpy as np
import pytest
from attentions import FLOW_KINDS, attention_of, flow_attentions
from hypothesis import example, given, settings
from hypothesis import strategies as st
from oracles import igraph_flow

import jaxflow
from jaxflow._flow.fallback import flow_by_definition
from jaxflow._flow.threads import cut_tables
from jaxflow.attention import edge_weights

EXACT = 1e-9
# What rounding may leave of a path of which everything is taken: nothing that a flow could miss.
NOTHING = 1e-11
COPIES = 5


def reaches(edges, layer, source, sinks):
    """Whether a path of edges above `NOTHING` leads from the source to each graph's own sink."""
    there = np.zeros((len(edges), edges.shape[-1]), bool)
    there[:, source] = True
    for level in range(layer, -1, -1):
        there = (there[:, :, None] & (edges[:, level] > NOTHING)).any(1)
    return there[np.arange(len(edges)), sinks]


def graphs(rng, layers, n, padding, off):
    """`COPIES` of every kind; with `padding` every fifth lacks its last token."""
    shape = (COPIES, layers, 1, n, n)
    batch = np.concatenate([attention_of(kind, rng, shape) for kind in FLOW_KINDS])
    mask = np.ones((len(batch), n), bool)
    if padding and n > 1:
        mask[::COPIES, -1] = False
        batch[::COPIES, ..., 0] += batch[::COPIES, ..., -1]
        batch[::COPIES, ..., -1] = 0
    if off:  # rows that sum to 1 only nearly, as in single precision
        batch *= 1 + off * rng.uniform(-1, 1, (*batch.shape[:-1], 1))
        batch = batch.astype(np.float32)
    return batch, mask


def check_graphs(seed, layers, n, residual, padding, off):
    """Compare one random pair of each of 60 graphs, in a table of its own and in that of all."""
    rng = np.random.default_rng(seed)
    batch, mask = graphs(rng, layers, n, padding, off)
    layer, source = int(rng.integers(layers)), int(rng.integers(n))
    sinks, each = rng.integers(n, size=len(batch)), np.arange(len(batch))
    edges = edge_weights(batch.astype(np.float64), residual=residual, mask=mask)
    expected = [
        igraph_flow(graph, layer, source, int(sink))
        for graph, sink in zip(edges, sinks, strict=True)
    ]
    options = {"residual": residual, "mask": mask}
    table = jaxflow.flow(batch, layers=layer, sources=source, **options)
    values = table[each, 0, 0, sinks]
    np.testing.assert_allclose(values, expected, rtol=0, atol=EXACT)
    everything = jaxflow.flow(batch, **options)
    assert everything.shape == (len(batch), layers, n, n)
    found = everything[each, layer, source, sinks]
    np.testing.assert_allclose(found, expected, rtol=0, atol=EXACT)

    # Strong duality: edges that weigh what flows, and without which nothing does.
    pulls = np.zeros_like(table)
    pulls[each, 0, 0, sinks] = 1
    cuts = cut_tables(edges, (layer,), (source,), pulls, 1)
    assert np.isin(cuts, (0, 1)).all()
    np.testing.assert_allclose((cuts * edges).sum((1, 2, 3)), values, rtol=0, atol=EXACT)
    assert not reaches(np.where(cuts > 0, 0, edges), layer, source, sinks).any()


cases = {
    "seed": st.integers(0, 2**32 - 1),
    "layers": st.integers(1, 8),
    "n": st.sampled_from([1, 2, 3, 4, 5, 6, 8, 11]),
    "residual": st.sampled_from([0.5, 0.0, 0.1, 0.95, 1.0]),
    "padding": st.booleans(),
    "off": st.sampled_from([0, 0, 1e-6, 9e-5]),
}


@settings(max_examples=17)
@given(**cases)
@example(seed=0, layers=6, n=1, residual=0.0, padding=False, off=0)
@example(seed=0, layers=12, n=9, residual=0.5, padding=True, off=0)
@example(seed=0, layers=3, n=40, residual=0.0, padding=False, off=0)
@example(seed=0, layers=3, n=65, residual=0.5, padding=False, off=0)  # more than bits in a word
def test_a_thousand_graphs_against_igraph(seed, layers, n, residual, padding, off):
    check_graphs(seed, layers, n, residual, padding, off)


@pytest.mark.nightly
@settings(max_examples=-(-10_000 // (COPIES * len(FLOW_KINDS))))
@given(**cases)
def test_ten_thousand_graphs_against_igraph(seed, layers, n, residual, padding, off):
    check_graphs(seed, layers, n, residual, padding, off)


@pytest.mark.parametrize("heads", ["mean", "max", "min", 0, -1])
def test_against_networkx(heads):
    attention = attention_of("dense", 3, (4, 3, 5, 5)).astype(np.float32)
    edges = edge_weights(attention.astype(np.float64), heads=heads)
    table = jaxflow.flow(attention, heads=heads)
    assert table.dtype == np.float64
    for layer, source, sink in (
        (0, 1, 2),
        (1, 0, 3),
        (2, 4, 0),
        *((3, 0, sink) for sink in range(5)),
    ):
        expected = flow_by_definition(edges, layer, source, sink)
        assert table[layer, source, sink] == pytest.approx(expected, rel=0, abs=EXACT)


def test_sinks_of_several_chunks_in_one_pack():
    """Under a causal mask a row starts anywhere, and retries pack sinks of several chunks."""
    n = 40
    attention = attention_of("causal", 8, (3, 3, 1, n, n))
    together = jaxflow.flow(attention, layers=2, threads=1)
    for sentence, table in zip(attention, together, strict=True):
        edges = edge_weights(sentence)
        for source in (5, 17, 33, 39):
            alone = jaxflow.flow(sentence, sources=source, layers=2, threads=1)
            np.testing.assert_allclose(table[0, source], alone[0, 0], rtol=0, atol=1e-12)
            for sink in range(0, source, 3):
                flow = igraph_flow(edges, 2, source, sink)
                assert table[0, source, sink] == pytest.approx(flow, abs=EXACT)


@settings(max_examples=60)
@given(flow_attentions(), st.randoms(use_true_random=False))
def test_theorems(attention, random):
    """Their proofs are in docs/flow.md."""
    edges, table = edge_weights(attention), jaxflow.flow(attention)
    bound = np.minimum(1, edges[0].sum(0))
    # Between rollout and the column sum; one layer is its edges.
    assert (jaxflow.rollout(attention) <= table + EXACT).all()
    assert (table <= bound + EXACT).all()
    np.testing.assert_allclose(table[0], edges[0], rtol=0, atol=EXACT)
    for layer in range(1, len(edges)):
        # A layer adds up the flows below it, and straight paths are disjoint.
        assert (table[layer] >= edges[layer] @ table[layer - 1] - EXACT).all()
        straight = np.minimum(edges[layer][:, :, None], edges[0][None])
        for between in edges[1:layer]:
            straight = np.minimum(straight, np.diagonal(between)[None, :, None])
        assert (table[layer] >= straight.sum(1) - EXACT).all()
    if len(edges) > 1:  # two layers are a sum of minima
        paths = np.minimum(edges[1][:, :, None], edges[0][None]).sum(1)
        np.testing.assert_allclose(table[1], paths, rtol=0, atol=EXACT)
    # A saturated sink stays saturated.
    full = (table >= bound - EXACT).all(1)
    assert (full[1:] >= full[:-1]).all()
    # The order of heads and of tokens does not matter.
    heads, tokens = list(range(attention.shape[1])), list(range(attention.shape[-1]))
    random.shuffle(heads)
    random.shuffle(tokens)
    shuffled = jaxflow.flow(attention[:, heads][..., tokens, :][..., tokens])
    np.testing.assert_allclose(shuffled, table[:, tokens][..., tokens], rtol=0, atol=EXACT)
