"""What the stages between bounds and search promise: nothing overdrawn, no bound too low."""

from __future__ import annotations

import networkx
import numpy as np
import pytest
from flow_graphs import KINDS, attention_of

import jaxflow
from jaxflow._flow.fallback import flow_by_definition
from jaxflow._flow.layout import all_columns, lay_out, lifted, new_sentence, roll_down
from jaxflow._flow.retry import add, new_pack, retry
from jaxflow._flow.simd import LANES, bare, store, zeros
from jaxflow._flow.sweep import residual_cut, sweep_one_layer, sweep_two_layers
from jaxflow.attention import edge_weights

ROUNDING = 1e-12


@bare
def three_layers(sentence, pack, rooms, everyone, order, source, results):
    """For every sink: a sweep, the cut after it, what trying again gives and its bound."""
    lines, supply, demand, beyond, numbers = rooms
    n = len(supply)
    columns, row = all_columns(sentence, 2, everyone), sentence.edges[2, source]
    roll_down(sentence, 2, source, n, lines, order)
    for column in range(0, n, LANES):
        sent = sweep_one_layer(row, order, sentence.edges[1], columns, 0, n, column, supply, demand)
        cut = residual_cut(row, sentence, columns.bottom, source, 0, n, column, supply, beyond)
        store(numbers, 0, 0, sent)
        store(numbers, 1, 0, cut)
        for lane in range(min(LANES, n - column)):
            sink = column + lane
            results[0, sink], results[1, sink] = numbers[0, lane], numbers[1, lane]
            add(pack, sentence, sink, 0, n, lane, demand, 9.0, numbers[0, lane])
        retry(pack, sentence, row, order, 0, n)
        for lane in range(min(LANES, n - column)):
            results[2, column + lane] = pack.sent[0, lane]
            results[3, column + lane] = pack.bound[0, lane]


@bare
def four_layers(sentence, rooms, everyone, order, source, results):
    """For every sink what a sweep over two layers gives."""
    lines, supply, demand, _, numbers = rooms
    n = len(supply)
    columns = all_columns(sentence, 3, everyone)
    roll_down(sentence, 3, source, n, lines, order)
    for column in range(0, n, LANES):
        sent = sweep_two_layers(lines[2], order, sentence, 2, columns, 0, n, column, supply, demand)
        store(numbers, 0, 0, sent)
        for lane in range(min(LANES, n - column)):
            results[column + lane] = numbers[0, lane]


@bare
def lift_once(sentence, above):
    lifted(
        sentence.edges[1], sentence.transposed[1], sentence.column_sums[1], sentence.edges[0],
        sentence.share, above,
    )  # fmt: skip


def laid_out(edges):
    """The sentence's arrays, work space, and all its sinks."""
    layers, n = edges.shape[:2]
    width = -(-n // LANES) * LANES
    sentence = new_sentence(layers, n, width)
    lay_out(sentence, edges, layers - 1)
    shapes = ((layers, width), (n, LANES), (n + 1, LANES), (n, LANES), (2, LANES))
    return sentence, tuple(zeros(shape) for shape in shapes), np.arange(width)


def passes(edges, source):
    n = edges.shape[-1]
    results, deeper, order = np.full((4, n), np.nan), np.full(n, np.nan), np.empty(n, np.int64)
    sentence, rooms, everyone = laid_out(edges[:3])
    three_layers(sentence, new_pack(n), rooms, everyone, order, source, results)
    sentence, rooms, everyone = laid_out(edges)
    four_layers(sentence, rooms, everyone, order, source, deeper)
    return results, deeper


def edges_of(kind: str, seed: int, layers: int, n: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.ascontiguousarray(edge_weights(attention_of(kind, rng, layers, 1, n)))


@pytest.mark.parametrize("kind", sorted(KINDS))
@pytest.mark.parametrize("n", [3, 19])
def test_passes_send_no_more_than_flows_and_cuts_weigh_no_less(kind, n):
    edges = edges_of(kind, n, 4, n)
    for source in (0, n - 1):
        results, deeper = passes(edges, source)
        flows = [[flow_by_definition(edges, x, source, sink) for sink in range(n)] for x in (2, 3)]
        sent, cut, again, bound = results
        assert (sent <= np.add(flows[0], ROUNDING)).all()
        assert (sent <= again).all()
        assert (again <= np.add(flows[0], ROUNDING)).all()
        assert (cut >= np.subtract(flows[0], ROUNDING)).all()
        assert (bound >= np.subtract(flows[0], ROUNDING)).all()
        assert (deeper <= np.add(flows[1], ROUNDING)).all()


def test_trying_again_settles_most_of_what_a_sweep_left():
    """Not a theorem: if it stops being so, the stage has stopped paying for its lines."""
    left, then = 0, 0
    for seed in range(20):
        edges = edges_of("hub", seed, 4, 24)
        results, _ = passes(edges, 0)
        flows = [flow_by_definition(edges, 2, 0, sink) for sink in range(24)]
        sent, cut, again, bound = results
        left += int((sent < np.subtract(flows, ROUNDING)).sum())
        then += int((again < np.subtract(flows, ROUNDING)).sum())
        met = again >= np.subtract(flows, ROUNDING)
        assert (np.minimum(cut, bound)[met] <= np.add(flows, ROUNDING)[met]).mean() > 0.8
    assert left > 20
    assert then < left / 2


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_lifted_demands_can_all_be_sent_at_once(kind):
    n = 6
    edges = edges_of(kind, 2, 2, n)
    above = zeros((n, LANES))
    lift_once(laid_out(edges)[0], above)
    above = above[:, :n]
    assert (above >= 0).all()
    for sink in range(n):
        graph = networkx.DiGraph()
        graph.add_nodes_from(["source", "sink"])
        for k in range(n):
            graph.add_edge("source", ("above", k), capacity=above[k, sink])
            for i in range(n):
                graph.add_edge(("above", k), ("below", i), capacity=edges[1, k, i])
            graph.add_edge(("below", k), "sink", capacity=edges[0, k, sink])
        value = networkx.maximum_flow_value(graph, "source", "sink")
        assert value == pytest.approx(above[:, sink].sum(), abs=ROUNDING)
        # And none of what the layers below could take is given up.
        wanted = np.minimum(edges[0, :, sink], edges[1].sum(0)).sum()
        assert above[:, sink].sum() == pytest.approx(wanted, abs=ROUNDING)


def test_rows_of_lanes_begin_at_a_line_of_the_cache():
    for _ in range(20):
        room = zeros((3, 5, 2 * LANES))
        assert room.ctypes.data % 64 == 0
        assert room.shape == (3, 5, 2 * LANES)
        assert not room.any()


def test_what_earlier_rows_have_left_in_a_pack_does_no_harm():
    """Under a causal mask a row starts anywhere, and one pack holds sinks of several chunks."""
    n = 40
    rng = np.random.default_rng(8)
    scores = np.where(np.tri(n, dtype=bool), rng.normal(size=(3, 3, 1, n, n)) * 3, -np.inf)
    attention = np.exp(scores)
    attention /= attention.sum(-1, keepdims=True)
    together = jaxflow.flow(attention, layers=2, threads=1)
    for sentence, table in zip(attention, together, strict=True):
        edges = edge_weights(sentence)
        for source in (5, 17, 33, 39):
            alone = jaxflow.flow(sentence, sources=source, layers=2, threads=1)
            np.testing.assert_allclose(table[0, source], alone[0, 0], rtol=0, atol=ROUNDING)
            for sink in range(0, n, 3):
                flow = flow_by_definition(edges, 2, source, sink)
                assert table[0, source, sink] == pytest.approx(flow, abs=1e-9)
