"""Test minimum cuts: weight, separation, nearness to the source, and their description."""

import re

import networkx
import numpy as np
import pytest
from attentions import attention_of, flow_attentions, pad_end
from hypothesis import given, settings
from hypothesis import strategies as st
from session import refused

import jaxflow
from jaxflow._flow import FlowCut
from jaxflow.attention import edge_weights

WORDS = ("[CLS]", "the", "keys", "to", "the", "cabinet")
COLUMN = "flow is at the column sum, independent of the source"
ROW = "flow is 1, all that one token can send"


def check_words(attention, cut, layer, source, sink):
    """Every edge is named, and never more is claimed than the graph holds."""
    tokens = [f"word{place}" for place in range(attention.shape[-1])]
    found = [re.fullmatch(r"layer (\d+), word(\d+) → word(\d+)", w) for w in cut.describe(tokens)]
    numbers = [tuple(map(int, match.groups())) for match in found]
    assert tuple((level - 1, query, key) for level, query, key in numbers) == cut.edges
    said = cut.summary(tokens)
    if COLUMN in said:
        assert said.startswith("layer 1, everything → ")
        sums = edge_weights(attention)[0].sum(0)
        assert cut.value == pytest.approx(sums[sink], rel=0, abs=1e-9)
    elif ROW in said:
        assert cut.value == pytest.approx(1, rel=0, abs=1e-6)
        assert {edge[:2] for edge in cut.edges} == {(layer, source)}
    elif cut.edges:
        # Nothing is lost by joining edges: each phrase is a full product of its two ends.
        phrases = [re.fullmatch(r"layer (\d+), (.+) → (.+)", part) for part in said.split("; ")]
        named = [
            (int(match[1]) - 1, int(query[4:]), int(key[4:]))
            for match in phrases
            for query in match[2].split(" + ")
            for key in match[3].split(" + ")
        ]
        assert sorted(named) == sorted(cut.edges)


@settings(max_examples=100)
@given(flow_attentions(), st.data())
def test_a_cut_weighs_what_flows_and_separates(attention, data):
    layers, n = len(attention), attention.shape[-1]
    layer = data.draw(st.integers(0, layers - 1))
    source, sink = data.draw(st.integers(0, n - 1)), data.draw(st.integers(0, n - 1))
    edges = edge_weights(attention)
    cut = jaxflow.flow_cut(attention, layer=layer, source=source, sink=sink)
    table = jaxflow.flow(attention, layers=layer, sources=source)
    assert cut.value == pytest.approx(table[0, 0, sink], rel=0, abs=1e-9)
    assert sum(edges[edge] for edge in cut.edges) == pytest.approx(cut.value, rel=0, abs=1e-9)
    check_words(attention, cut, layer, source, sink)
    for edge in cut.edges:
        edges[edge] = 0
    # What is left reaches the sink from nowhere, but for arcs that rounding could not tell from 0.
    reaching = np.eye(n)[sink] > 0
    for level in edges[: layer + 1]:
        reaching = ((level > 1e-11) & reaching).any(1)
    assert not reaching[source]


@pytest.mark.parametrize("seed", range(4))
def test_nearest_as_networkx_finds_it(seed):
    attention = attention_of("sparse", seed, (4, 1, 6, 6))
    graph = jaxflow.attention_graph(attention)
    cut = jaxflow.flow_cut(attention, layer=3, source=0, sink=5)
    value, flows = networkx.maximum_flow(graph, (4, 0), (0, 5))
    assert cut.value == pytest.approx(value, rel=0, abs=1e-9)
    open_ = networkx.DiGraph()
    open_.add_nodes_from(graph)
    for above, below, capacity in graph.edges(data="capacity"):
        if flows[above][below] < capacity - 1e-12:
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
    # One path through three layers, equally narrow everywhere: the topmost edge is the cut.
    attention = np.broadcast_to(np.eye(3)[[1, 2, 0]], (3, 1, 3, 3))
    cut = jaxflow.flow_cut(attention, layer=2, source=0, sink=0, residual=0.0)
    assert cut == (1.0, ((2, 0, 1),))


def test_at_saturation_the_cut_is_the_column_of_the_sink():
    attention = attention_of("dense", 1, (6, 2, 6, 6))
    sums = edge_weights(attention)[0].sum(0)
    sink = int(sums.argmin())
    cut = jaxflow.flow_cut(attention, layer=-1, source=0, sink=sink)
    assert set(cut.edges) == {(0, query, sink) for query in range(6)}
    assert cut.value == pytest.approx(sums[sink], rel=0, abs=1e-9)
    assert cut.summary(list("abcdef")) == f"layer 1, everything → {'abcdef'[sink]}: {COLUMN}"


def test_padding_has_no_flow_and_no_cut():
    attention, mask = pad_end(attention_of("dense", 1, (3, 2, 4, 4)), 2)
    for source, sink in ((0, 5), (5, 0), (4, 4)):
        assert jaxflow.flow_cut(attention, layer=2, source=source, sink=sink, mask=mask) == (0, ())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layer": 3}, "layer must be an index from -3 to 2, got 3"),
        ({"source": 4}, "source must be an index from -4 to 3, got 4"),
        ({"sink": None}, "sink must be an index from -4 to 3, got None"),
        ({"attention": attention_of("dense", 0, (1, 3, 1, 4, 4))}, "one sentence"),
    ],
)
def test_unusable_arguments(options, message):
    arguments = {"attention": attention_of("dense", 0, (3, 1, 4, 4)), "layer": 0, "source": 0}
    with refused(message):
        jaxflow.flow_cut(**{**arguments, "sink": 0, **options})


@pytest.mark.parametrize(
    ("value", "edges", "expected"),
    [
        (0.0, (), "no path, no flow"),
        (0.3, ((2, 0, 5),), "layer 3, [CLS] → cabinet"),
        (0.3, ((2, 0, 1),), "layer 3, [CLS] → the (token 1)"),
        (0.8, tuple((0, query, 2) for query in range(6)), f"layer 1, everything → keys: {COLUMN}"),
        # A column from which one edge is missing: flow may depend on who reaches that one.
        (0.8, tuple((0, q, 2) for q in (0, 2, 3)), "layer 1, [CLS] + keys + to → keys"),
        # All there is of a row that holds zeros, and a part of one.
        (1.0, ((5, 0, 2), (5, 0, 3)), f"layer 6, [CLS] → everything: {ROW}"),
        (0.9, ((5, 0, 2), (5, 0, 3)), "layer 6, [CLS] → keys + to"),
        (
            0.9,
            ((0, 0, 5), (0, 3, 5), (3, 0, 2), (3, 0, 3)),
            "layer 4, [CLS] → keys + to; layer 1, [CLS] + to → cabinet",
        ),
    ],
)
def test_summary(value, edges, expected):
    assert FlowCut(value, edges).summary(WORDS) == expected


def test_without_tokens_a_column_may_not_be_all_of_it():
    cut = FlowCut(0.8, ((0, 0, 1), (0, 1, 1)))
    assert cut.summary() == "layer 1, token 0 + token 1 → token 1"
    assert cut.summary(["a", "b", "c"]) == "layer 1, a + b → b"
    for tokens in (["a"], "keys"):
        with refused("one for each token up to index 1, got"):
            cut.describe(tokens[:1])
