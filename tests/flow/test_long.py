"""Test flow on core graphs with lazy cuts: values, cuts, arcs, intervals."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from attentions import FLOW_KINDS, attention_of, pad_end
from oracles import igraph_flow
from scipy import sparse
from session import refused

import jaxflow
from jaxflow._flow import long, table
from jaxflow._flow.core import build, sides, solve
from jaxflow.attention import edge_weights

KINDS = (*FLOW_KINDS, "locals")


def graph(kind, rng, layers, n):
    if kind != "locals":
        return attention_of(kind, rng, (layers, 2, n, n))
    apart = np.subtract.outer(np.arange(n), np.arange(n))
    scores = rng.normal(size=(layers, 2, n, n)) + 3.0 * (abs(apart) < 5)
    scores[..., 0] += 4  # a token that takes most
    weights = np.where(apart >= 0, np.exp(scores), 0)
    return weights / weights.sum(-1, keepdims=True)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("residual", [0.5, 0.0, 1.0])
def test_exact_against_igraph_and_the_dense_kernel(kind, residual):
    rng = np.random.default_rng(4)
    for layers, n in ((1, 4), (2, 9), (4, 30), (7, 120)):
        attention, source = graph(kind, rng, layers, n), int(rng.integers(n))
        if n == 30:
            attention, mask = pad_end(attention, 3)
        else:
            mask = None
        given = {"residual": residual, "sources": source, "mask": mask}
        found = jaxflow.flow(attention, interval=True, **given)
        expected = jaxflow.flow(attention, **given)
        np.testing.assert_allclose(found.lower, expected, rtol=0, atol=1e-9)
        np.testing.assert_allclose(found.upper, expected, rtol=0, atol=1e-9)
        edges = edge_weights(attention, residual=residual, mask=mask)
        sink = int(rng.integers(n))
        flow = igraph_flow(edges, layers - 1, source, sink)
        assert found.lower[-1, 0, sink] == pytest.approx(flow, rel=0, abs=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_arcs_are_unique_flows_feasible_and_cuts_minimal(kind):
    rng, n, depth = np.random.default_rng(5), 25, 6
    attention = graph(kind, rng, depth, n)
    edges, source, sink = edge_weights(attention), 20, 3
    layers = long.Layers(list(attention), n, 0.5, "mean", None)
    core = long.read_core(layers, 2)
    for _ in range(2):
        place = long._Source(layers, core, layers.rows(np.array([source]))[0], depth - 1, source)
        column = layers.columns([(sink,)], depth - 1)[0]
        first, last = (sink, source + 1) if core.causal else (0, n)
        rows, level = place.rows, depth - 1
        g = build(n, level, source, last, core.tails, core.keys, core.weights, core.diagonal, rows)
        sent = solve(g, n, source, sink, first, last, rows[level], column, np.inf)
        net, used = np.zeros(level * n), set()
        for v in range(n, level * n):
            for a in range(g.start[v], g.start[v + 1]):
                x, i, own = v // n, v % n, a == g.start[v]
                key = sink if own else g.to[a] % n
                if not first <= i < last or key < first or (own and i == source):
                    continue
                if not own and key == sink and i != source:
                    continue  # the column holds it
                assert (v, key) not in used
                used.add((v, key))
                flow = g.capacity[a] - g.free[a]
                assert -1e-12 <= flow <= edges[x, i, key] + 1e-12
                net[v] -= flow
                net[(x - 1) * n + key] += flow
        net[-n:][first:last] += rows[level, first:last]
        arrived = column[0] * (np.arange(n) >= first) * (np.arange(n) < last) - g.demand
        net[:n] -= arrived
        np.testing.assert_allclose(net, g.excess, atol=1e-12)  # what stays is not negative
        assert (g.excess >= -1e-14).all()
        assert sent == pytest.approx(arrived.sum(), abs=1e-12)
        inside = np.empty((2, level, n), bool)
        sides(g, n, source, sink, first, last, inside)
        kept = {(v, key) for v, key in used}
        for cut in inside:  # weighed on the core, both cuts are what flows
            total = rows[level, first:last][~cut[-1, first:last]].sum()
            total += column[0, first:last][cut[0, first:last]].sum()
            for v, key in kept:
                x, i = v // n, v % n
                total += edges[x, i, key] * (cut[x, i] and not cut[x - 1, key])
            assert total == pytest.approx(sent, abs=1e-11)
        upper, *arcs = place._cross(sink, first, column, inside, 50)
        whole = igraph_flow(edges, depth - 1, source, sink)
        assert sent - 1e-12 <= whole <= upper + 1e-12
        core = long._added(core, *arcs)


def test_sinks_intervals_and_the_switch(monkeypatch):
    attention = graph("locals", np.random.default_rng(0), 6, 200)
    given = {"sources": -1, "layers": -1}
    full = jaxflow.flow(attention, **given)
    some = jaxflow.flow(attention, sinks=[5, -2, 5], **given)
    np.testing.assert_array_equal(some, full[..., [5, 198, 5]])
    wide = jaxflow.flow(attention, interval=True, width=0.05, **given)
    assert (wide.lower <= full + 1e-9).all()
    assert (full <= wide.upper + 1e-9).all()
    assert wide.width.max() <= 0.05
    none = jaxflow.flow(attention, interval=True, seconds=0, **given)
    assert (full <= none.upper + 1e-9).all()
    monkeypatch.setattr(table, "LONG", 100)
    np.testing.assert_allclose(jaxflow.flow(attention, **given), full, rtol=0, atol=1e-9)
    single = attention.astype(np.float32)
    exact = jaxflow.flow(single, **given)
    device = jaxflow.flow(jnp.asarray(single), **given)
    assert (np.asarray(device, np.float64) <= exact).all()  # none above its bound
    np.testing.assert_allclose(device, exact, rtol=2e-7)
    for options, message in (
        ({"width": 0.1}, "width and seconds are those of an interval"),
        ({"interval": True, "width": -1}, "width must be a number from 0, got -1"),
        ({"interval": True, "width": np.nan}, "width must be a number from 0, got nan"),
        ({"interval": True, "seconds": "soon"}, "seconds must be a number from 0"),
        ({"interval": True, "seconds": -1}, "seconds must be a number from 0"),
        ({"sinks": 200}, "sinks must be an index from -200 to 199, got 200"),
        ({"sinks": [[0], [1, 200]]}, "sinks must be an index from -200 to 199, got 200"),
        ({"sinks": [[0], []]}, "sinks must name at least one index"),
        ({"sinks": []}, "sinks must name at least one index"),
        ({"sinks": "all"}, "sinks must be an index"),
        ({"sinks": [[0, -1]], "mask": np.arange(200) < 150}, "sinks must be counted from 0 where"),
    ):
        with refused(message):
            jaxflow.flow(attention, **options)


@pytest.mark.parametrize("kind", ["locals", "dense", "causal"])
def test_a_group_of_sinks_has_a_maximum_flow_of_its_own(kind):
    attention, groups = graph(kind, np.random.default_rng(7), 5, 14), [[2, 5, -1], [3], [5, 4, 5]]
    given = {"sources": [9, -1], "layers": [-1, 0]}
    found = jaxflow.flow(attention, sinks=groups, **given)
    joined = edge_weights(attention)
    for place, group in enumerate([[2, 5, 13], [3], [4, 5]]):
        edges = joined.copy()  # the group's edges of the lowest layer all end in its first token
        edges[0][:, group] = 0
        edges[0][:, group[0]] = joined[0][:, group].sum(1)
        for at, layer in enumerate((4, 0)):
            for row, source in enumerate((9, 13)):
                flow = igraph_flow(edges, layer, source, group[0])
                assert found[at, row, place] == pytest.approx(flow, abs=1e-9)
    alone = jaxflow.flow(attention, **given)
    assert (found[..., 0] <= alone[..., [2, 5, 13]].sum(-1) + 1e-9).all()
    with refused("sinks must be single tokens inside jit"):
        jax.jit(lambda values: jaxflow.flow(values, sinks=groups))(attention)


@pytest.mark.parametrize("kind", ["locals", "sparse"])
def test_layers_that_are_functions_or_sparse(kind, monkeypatch):
    attention, n = graph(kind, np.random.default_rng(3), 5, 40), 40
    expected = jaxflow.flow(attention, sources=-1, layers=-1)[0, 0]
    monkeypatch.setattr(long, "_PIECE", 7 * n)  # pieces of seven rows
    largest = []

    def rows_of(layer):
        def rows(begin, end):
            largest.append(end - begin)
            return layer[:, begin:end]

        return rows

    functions = [rows_of(layer) for layer in attention]
    matrices = [sparse.csr_array(layer.mean(0)) for layer in attention]
    for layers in (functions, matrices, [functions[0], *matrices[1:]]):
        read = long.Layers(layers, n, 0.5, "mean", None)
        groups = [(sink,) for sink in range(n)]
        found = long.intervals(read, [4], [n - 1], groups, long.Limits(0.0, np.inf))
        np.testing.assert_allclose(found.lower[0, 0], expected, rtol=0, atol=1e-9)
        np.testing.assert_allclose(found.upper[0, 0], expected, rtol=0, atol=1e-9)
    assert max(largest) == 7  # no function is asked for a whole layer


GRAPHS = ("dense", "causal", "sparse", "hub", "locals", "window", "trained", "strong sink")


def a_graph(kind, rng, depth, n):
    """A random attention of one of the `GRAPHS`: ``[L, 2, n, n]``."""
    if kind in FLOW_KINDS or kind == "locals":
        return graph(kind, rng, depth, n)
    apart = np.subtract.outer(np.arange(n), np.arange(n))
    scores = 2 * rng.normal(size=(depth, 2, n, n)) + 3.0 * (abs(apart) < 3)
    scores[..., rng.integers(n, size=3)] += 3
    scores[..., 0] += 7 * (kind == "strong sink")
    there = abs(apart) <= n // 6 if kind == "window" else apart >= rng.choice([-n, 0])
    weights = np.where(there, np.exp(scores), 0)
    return weights / weights.sum(-1, keepdims=True)


def check_long(seed, sizes):
    """Compare a pair of a graph with igraph; a cut weighs what flows, and is one."""
    rng = np.random.default_rng(seed)
    kind, n, depth = GRAPHS[seed % len(GRAPHS)], int(rng.choice(sizes)), int(rng.integers(2, 9))
    attention, source, sink = a_graph(kind, rng, depth, n), n - 1, int(rng.integers(n))
    given = {"sources": source, "layers": -1}
    found = jaxflow.flow(attention, sinks=sink, interval=True, **given)
    flow = igraph_flow(edge_weights(attention), depth - 1, source, sink)
    np.testing.assert_allclose([found.lower.item(), found.upper.item()], flow, rtol=0, atol=1e-9)
    cut = jaxflow.flow_cut(attention, layer=-1, source=source, sink=sink)
    edges = edge_weights(attention)
    assert sum(edges[edge[0], edge[1], edge[2]] for edge in cut.edges) == pytest.approx(flow)
    for edge in cut.edges:
        edges[edge[0], edge[1], edge[2]] = 0
    assert igraph_flow(edges, depth - 1, source, sink) <= 1e-9


@pytest.mark.parametrize("seed", range(len(GRAPHS)))
def test_graphs_of_a_hundred_tokens_against_igraph(seed):
    check_long(seed, [100])


@pytest.mark.nightly
def test_two_thousand_long_graphs_against_igraph():
    for seed in range(2000):
        check_long(seed, [100, 100, 200, 400])


@pytest.mark.nightly  # a minute of the kernel of short texts
@pytest.mark.parametrize("kind", ["locals", "trained"])
def test_a_thousand_tokens_as_by_the_dense_kernel(kind, monkeypatch):
    attention = a_graph(kind, np.random.default_rng(0), 12, 1024)
    given = {"sources": -1, "layers": -1, "patient": True}
    core = jaxflow.flow(attention, **given)
    monkeypatch.setattr(table, "LONG", 10**6)
    np.testing.assert_allclose(core, jaxflow.flow(attention, **given), rtol=0, atol=1e-9)
