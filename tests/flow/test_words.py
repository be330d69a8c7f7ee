"""Cuts in words: every edge named, and never more claimed than the graph says."""

from __future__ import annotations

import re

import numpy as np
import pytest
from flow_graphs import attentions
from hypothesis import given, settings
from hypothesis import strategies as st

import jaxflow
from jaxflow._flow import FlowCut
from jaxflow.attention import edge_weights

WORDS = ("[CLS]", "the", "keys", "to", "the", "cabinet")
COLUMN = "flow is at the column sum, independent of the source"
ROW = "flow is 1, all that one token can send"


def test_edges_in_words():
    cut = FlowCut(0.7, ((0, 1, 2), (3, 0, 2), (3, 0, 4)))
    assert cut.describe(WORDS) == (
        "layer 1, the (token 1) → keys",
        "layer 4, [CLS] → keys",
        "layer 4, [CLS] → the (token 4)",
    )
    assert cut.describe()[1] == "layer 4, token 0 → token 2"


@pytest.mark.parametrize(
    ("value", "edges", "expected"),
    [
        (0.0, (), "no path, no flow"),
        (0.3, ((2, 0, 5),), "layer 3, [CLS] → cabinet"),
        (0.8, tuple((0, query, 2) for query in range(6)), f"layer 1, everything → keys: {COLUMN}"),
        # A column from which one edge is missing: flow may depend on who reaches that one.
        (0.8, tuple((0, q, 2) for q in (0, 2, 3)), "layer 1, [CLS] + keys + to → keys"),
        (1.0, tuple((5, 0, key) for key in range(6)), f"layer 6, [CLS] → everything: {ROW}"),
        # All there is of a row that holds zeros, and a part of one.
        (1.0, ((5, 0, 2), (5, 0, 3)), f"layer 6, [CLS] → everything: {ROW}"),
        (0.9, ((5, 0, 2), (5, 0, 3)), "layer 6, [CLS] → keys + to"),
        (
            0.9,
            ((0, 0, 5), (0, 3, 5), (3, 0, 2), (3, 0, 3)),
            "layer 4, [CLS] → keys + to; layer 1, [CLS] + to → cabinet",
        ),
        (
            0.9,
            ((1, 0, 2), (1, 3, 5)),
            "layer 2, [CLS] → keys; layer 2, to → cabinet",
        ),
    ],
)
def test_in_short(value, edges, expected):
    assert FlowCut(value, edges).summary(WORDS) == expected


def test_without_tokens_a_column_may_not_be_all_of_it():
    cut = FlowCut(0.8, ((0, 0, 1), (0, 1, 1)))
    assert cut.summary() == "layer 1, token 0 + token 1 → token 1"
    assert cut.summary(["a", "b", "c"]) == "layer 1, a + b → b"
    assert cut.summary(["a", "b"]) == f"layer 1, everything → b: {COLUMN}"


@settings(max_examples=100)
@given(attentions(), st.data())
def test_what_is_said_holds(attention, data):
    layers, n = len(attention), attention.shape[-1]
    layer = data.draw(st.integers(0, layers - 1))
    source, sink = data.draw(st.integers(0, n - 1)), data.draw(st.integers(0, n - 1))
    cut = jaxflow.flow_cut(attention, layer=layer, source=source, sink=sink)
    tokens = [f"word{place}" for place in range(n)]

    found = [re.fullmatch(r"layer (\d+), word(\d+) → word(\d+)", w) for w in cut.describe(tokens)]
    numbers = [tuple(map(int, match.groups())) for match in found if match]
    assert tuple((level - 1, query, key) for level, query, key in numbers) == cut.edges

    said = cut.summary(tokens)
    if COLUMN in said:
        assert said.startswith("layer 1, everything → ")
        sums = edge_weights(attention)[0].sum(0)
        assert cut.value == pytest.approx(sums[sink], rel=0, abs=1e-9)
    elif ROW in said:
        assert cut.value == pytest.approx(1, rel=0, abs=1e-6)
        assert {edge[:2] for edge in cut.edges} == {(layer, source)}
    else:
        # Nothing is lost by bundling: each bundle is a full product of its two ends.
        bundles = [re.fullmatch(r"layer (\d+), (.+) → (.+)", part) for part in said.split("; ")]
        named = [
            (int(match[1]) - 1, int(query[4:]), int(key[4:]))
            for match in bundles
            if match
            for query in match[2].split(" + ")
            for key in match[3].split(" + ")
        ]
        assert sorted(named) == sorted(cut.edges)


def test_a_saturated_pair_of_dense_attention_is_a_whole_column():
    attention = np.random.default_rng(1).dirichlet(np.ones(6), (6, 2, 6))
    sink = int(edge_weights(attention)[0].sum(0).argmin())
    words = jaxflow.flow_cut(attention, layer=-1, source=0, sink=sink).summary(list("abcdef"))
    assert words == f"layer 1, everything → {'abcdef'[sink]}: {COLUMN}"


@pytest.mark.parametrize("tokens", [["a"], [], "keys"])
def test_too_few_words(tokens):
    cut = FlowCut(0.5, ((1, 0, 2),))
    for say in (cut.describe, cut.summary):
        with pytest.raises(jaxflow.InputError, match="one for each token up to index 2, got"):
            say(tokens)


def test_it_stays_a_pair():
    value, edges = cut = jaxflow.flow_cut(np.full((2, 1, 2, 2), 0.5), layer=1, source=0, sink=1)
    assert (value, edges) == cut == (0.5, ((0, 0, 1), (1, 0, 1)))
