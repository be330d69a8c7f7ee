"""Test flow on core graphs with lazy cuts: values, cuts, arcs, intervals."""

import jax.numpy as jnp
import numpy as np
import pytest
from attentions import FLOW_KINDS, attention_of, pad_end
from oracles import igraph_flow
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
        column = layers.columns(np.array([sink]), depth - 1)[0]
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
        ({"interval": True, "seconds": "soon"}, "seconds must be a number from 0"),
        ({"sinks": 200}, "sinks must be an index from -200 to 199, got 200"),
    ):
        with refused(message):
            jaxflow.flow(attention, **options)
