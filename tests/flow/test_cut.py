"""Minimum cuts: as heavy as the flow, in nobody's way but the flow's, nearest to the source."""

from __future__ import annotations

import networkx
import numpy as np
import pytest
from flow_graphs import KINDS, attention_of, attentions, pad
from hypothesis import given, settings
from hypothesis import strategies as st

import jaxflow
from jaxflow.attention import edge_weights


@settings(max_examples=100, deadline=None)
@given(attentions(), st.data())
def test_a_cut_weighs_what_flows_and_separates(attention, data):
    layers, n = len(attention), attention.shape[-1]
    layer = data.draw(st.integers(0, layers - 1))
    source, sink = data.draw(st.integers(0, n - 1)), data.draw(st.integers(0, n - 1))
    edges = edge_weights(attention)
    cut = jaxflow.flow_cut(attention, layer=layer, source=source, sink=sink)
    table = jaxflow.flow(attention, layers=layer, sources=source)
    assert cut.value == pytest.approx(table[0, 0, sink], rel=0, abs=1e-9)
    assert sum(edges[edge] for edge in cut.edges) == pytest.approx(cut.value, rel=0, abs=1e-9)
    for edge in cut.edges:
        edges[edge] = 0
    # What is left reaches the sink from nowhere, but for arcs that rounding could not tell from 0.
    reaching = np.eye(n)[sink] > 0
    for level in edges[: layer + 1]:
        reaching = ((level > 1e-11) & reaching).any(1)
    assert not reaching[source]


def test_nearest_to_the_source():
    # One path through three layers, equally narrow everywhere: the topmost edge is the cut.
    attention = np.broadcast_to(np.eye(3)[[1, 2, 0]], (3, 1, 3, 3))
    cut = jaxflow.flow_cut(attention, layer=2, source=0, sink=0, residual=0.0)
    assert cut == (1.0, ((2, 0, 1),))


@pytest.mark.parametrize("seed", range(10))
def test_nearest_as_networkx_finds_it(seed):
    rng = np.random.default_rng(seed)
    attention = attention_of("sparse", rng, 4, 1, 6)
    graph = jaxflow.attention_graph(attention)
    cut = jaxflow.flow_cut(attention, layer=3, source=0, sink=5)
    residual = networkx.flow.preflow_push(graph, (4, 0), (0, 5))
    value = residual.graph["flow_value"]
    assert cut.value == pytest.approx(value, rel=0, abs=1e-9)
    flows = networkx.maximum_flow(graph, (4, 0), (0, 5))[1]
    open_ = networkx.DiGraph()
    open_.add_nodes_from(graph)
    for above, below, room in graph.edges(data="capacity"):
        if flows[above][below] < room - 1e-12:
            open_.add_edge(above, below)
        if flows[above][below] > 1e-12:
            open_.add_edge(below, above)
    near = {(4, 0)} | networkx.descendants(open_, (4, 0))
    expected = {
        (above[0] - 1, above[1], below[1])
        for above, below in graph.edges
        if above in near and below not in near
    }
    assert set(cut.edges) == expected


def test_at_saturation_the_cut_is_the_column_of_the_sink():
    attention = attention_of("dense", np.random.default_rng(1), 6, 2, 8)
    sums = edge_weights(attention)[0].sum(0)
    sink = int(sums.argmin())
    cut = jaxflow.flow_cut(attention, layer=-1, source=0, sink=sink)
    assert set(cut.edges) == {(0, query, sink) for query in range(8)}
    assert cut.value == pytest.approx(sums[sink], rel=0, abs=1e-9)


def test_padding_has_no_flow_and_no_cut():
    attention, mask = pad(attention_of("dense", np.random.default_rng(1), 3, 2, 4), 2)
    for source, sink in ((0, 5), (5, 0), (4, 4)):
        assert jaxflow.flow_cut(attention, layer=2, source=source, sink=sink, mask=mask) == (0, ())


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_lowest_layer_is_one_edge(kind):
    attention = attention_of(kind, np.random.default_rng(4), 2, 1, 3)
    weight = edge_weights(attention)[0, 1, 2]
    edges = ((0, 1, 2),) if weight > 0 else ()
    assert jaxflow.flow_cut(attention, layer=0, source=1, sink=2) == (weight, edges)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layer": 3}, "layer must be an index from -3 to 2, got 3"),
        ({"source": 4}, "source must be an index from -4 to 3, got 4"),
        ({"sink": None}, "sink must be an index from -4 to 3, got None"),
    ],
)
def test_unusable_indices(options, message):
    attention = attention_of("dense", np.random.default_rng(0), 3, 1, 4)
    with pytest.raises(jaxflow.InputError, match=message):
        jaxflow.flow_cut(attention, **{"layer": 0, "source": 0, "sink": 0, **options})


def test_one_sentence_only():
    batch = attention_of("dense", np.random.default_rng(0), 3, 1, 4)[None]
    with pytest.raises(jaxflow.InputError, match="one sentence"):
        jaxflow.flow_cut(batch, layer=0, source=0, sink=0)
