"""The numbers on the page: those of the public functions, and cuts that are cuts."""

from __future__ import annotations

import networkx as nx
import numpy as np
import pytest
from attentions import attention_of
from page_reader import NASTY, columns, document

import jaxflow
from jaxflow.errors import InputError
from jaxflow.html.content import STEPS, heaviest_edges, prepare, rounded_maps
from jaxflow.html.graph import cut_columns, node_columns
from jaxflow.html.style import visible

N = len(NASTY)


def test_every_bar_is_what_the_public_function_says(page, attention, own_scores):
    data = columns(page.html, "bars-0")
    for layer in range(3):
        for head in range(3):
            fused = "mean" if head == 0 else head - 1
            expected = [
                jaxflow.raw_attention(attention, heads=fused)[layer, 0],
                jaxflow.rollout(attention, heads=fused)[layer, 0],
                jaxflow.flow(attention, heads=fused, sources=0)[layer, 0],
            ]
            for method, values in enumerate(expected):
                there = (
                    (data["method"] == method)
                    & (data["layer"] == layer + 1)
                    & (data["head"] == head)
                )
                assert data["token"][there].tolist() == list(range(N))
                np.testing.assert_allclose(data["score"][there], values, atol=2e-5)
    there = data["method"] == 3
    assert (data["layer"][there] == 0).all()
    np.testing.assert_allclose(data["score"][there], own_scores, atol=2e-5)
    assert len(there) == 3 * 3 * 3 * N + N


def test_the_heat_maps_are_the_attention(page, attention):
    data = columns(page.html, "map")
    assert len(data["image"]) == 3 * 3
    for image, layer, head in zip(data["image"], data["layer"], data["head"], strict=True):
        expected = attention[layer - 1].mean(0) if head == 0 else attention[layer - 1, head - 1]
        np.testing.assert_allclose(np.asarray(image) * 0.0001, expected, atol=0.00005 + 1e-7)


@pytest.fixture(scope="module")
def content(attention):
    return prepare(attention, NASTY)


def test_cuts_of_the_input_are_those_of_flow_cut(content, attention):
    for token in range(N):
        expected = jaxflow.flow_cut(attention, layer=-1, source=0, sink=token)
        assert content.cuts[0, token] == expected
    assert len({len(cut.edges) for cut in content.cuts.values()}) > 2  # or this says little


def test_cuts_to_tokens_in_between_leave_no_path_and_weigh_as_much_as_the_flow(content, attention):
    graph = jaxflow.attention_graph(attention)
    for (level, token), cut in content.cuts.items():
        # Nodes are (layer, token) with the input as layer 0.
        value = nx.maximum_flow_value(graph, (3, 0), (level, token))
        assert cut.value == pytest.approx(value, abs=1e-9)
        without = graph.copy()
        removed = [((layer + 1, query), (layer, key)) for layer, query, key in cut.edges]
        assert sum(graph.edges[edge]["capacity"] for edge in removed) == pytest.approx(cut.value)
        without.remove_edges_from(removed)
        assert not nx.has_path(without, (3, 0), (level, token))


def test_lines_of_a_cut_lead_from_queries_down_to_keys(page, content):
    data = columns(page.html, "cut")
    assert len(data["xs"]) == 4 * N
    for level in range(4):
        for token in range(N):
            row = level * N + token
            xs, ys = (np.asarray(data[name][row]).reshape(-1, 3) for name in ("xs", "ys"))
            edges = {(int(y[0]) - 1, int(x[0]), int(x[1])) for x, y in zip(xs, ys, strict=True)}
            cut = content.cuts.get((level, token))
            assert edges == set(cut.edges if cut else ())
            assert np.isnan(xs[:, 2]).all()
            assert (ys[:, 0] == ys[:, 1] + 1).all()


def test_nodes_say_their_flow_and_their_cut_in_words(content):
    data, told = node_columns(content), cut_columns(content)["words"]
    assert data["index"].tolist() == list(range(4 * N))
    assert np.isnan(data["flow"][3 * N :]).all()
    for (level, token), cut in content.cuts.items():
        assert data["flow"][level * N + token] == pytest.approx(cut.value, abs=1e-6)
        number = len(cut.edges)
        assert f"held down by {number} edge" in told[level * N + token]
        if level == 0:
            words = visible(cut.summary(NASTY))
            assert data["words"][token] == (words if len(words) <= 160 else words[:159] + "…")
    assert "No cut" in told[3 * N]


def test_a_column_that_holds_flow_down_is_called_so_on_every_level():
    # Each layer lets a little through to the last token; of nine it is more than its column has.
    attention = np.full((9, 1, 3, 3), 0.45)
    attention[..., 2] = 0.1
    data = node_columns(prepare(attention, ["[CLS]", "the", "keys"]))
    assert data["words"][2] == (
        "layer 1, everything → keys: flow is at the column sum, independent of the source"
    )
    assert data["words"][3 + 2] == "layer 2, everything → keys: flow is all that arrives there"


def test_the_heaviest_edges_stay_and_the_rest_is_counted():
    weights = np.random.default_rng(0).dirichlet(np.ones(6), (2, 6))
    weights[0, 0, 1] = 0
    kept = heaviest_edges(weights, 20)
    assert (kept.total, len(kept.weight)) == (71, 20)
    assert kept.weight.tolist() == sorted(weights.ravel())[-20:]
    np.testing.assert_array_equal(weights[kept.layer, kept.query, kept.key], kept.weight)
    assert kept.share == pytest.approx(kept.weight.sum() / weights.sum())
    assert len(heaviest_edges(weights).weight) == 71  # an edge of weight 0 is none


def test_edges_on_the_page_are_those_of_the_attention_graph(page, attention):
    (graph,) = document(page.html).select({"name": "graph"})
    data = graph.edge_renderer.data_source.data
    shown = {
        (start, end): weight
        for start, end, weight in zip(data["start"], data["end"], data["weight"], strict=True)
    }
    for (upper, lower), weight in nx.get_edge_attributes(
        jaxflow.attention_graph(attention), "capacity"
    ).items():
        pair = (upper[0] * N + upper[1], lower[0] * N + lower[1])
        assert shown.pop(pair) == pytest.approx(weight, abs=1e-5)
    assert not shown


def test_maps_are_rounded_as_finely_as_there_is_room():
    attention = attention_of("dense", 0, (3, 2, 40, 40))
    steps = []
    for budget in range(40_000, 10_000, -1000):
        maps = rounded_maps(attention, budget)
        if maps.heads == 0:
            break
        steps.append(maps.step)
        np.testing.assert_allclose(
            maps.steps[:, 1:] * maps.step, attention, atol=maps.step / 2 + 1e-9
        )
        np.testing.assert_allclose(
            maps.steps[:, 0] * maps.step, attention.mean(1), atol=maps.step / 2 + 1e-9
        )
    assert steps == sorted(steps)
    assert set(steps) == set(STEPS)


def test_without_any_room_only_the_mean_of_the_heads_is_left_and_the_page_says_so(monkeypatch):
    monkeypatch.setattr("jaxflow.html.document.MAPS_BUDGET", 1000)
    monkeypatch.setattr("jaxflow.html.content.MOST_EDGES", 30)
    monkeypatch.setattr("jaxflow.html.content.MOST_INNER", 10)
    attention = attention_of("dense", 0, (3, 2, 8, 8))
    page = jaxflow.show(attention).html
    assert set(columns(page, "map")["head"]) == {0}
    assert "the 2 heads apart" in page
    assert "cuts to tokens between input and top" in page
    assert rounded_maps(attention, 1000).heads == 0


def test_padding_is_left_out(attention):
    keep = np.array([0, 2, 3, 7])
    mask = np.isin(np.arange(N), keep)
    small = attention[..., keep[:, None], keep]
    small /= small.sum(-1, keepdims=True)
    wide = np.zeros_like(attention)
    wide[..., keep[:, None], keep] = small
    wide[..., ~mask, 0] = np.nan  # what stands in padded rows does not matter
    scores = np.arange(float(N))
    masked = prepare(wide, NASTY, scores={"mine": scores}, mask=mask, source=2)
    plain = prepare(small, [NASTY[place] for place in keep], source=1)
    assert masked.tokens == plain.tokens
    assert masked.source == 1
    assert masked.cuts == plain.cuts
    assert masked.plain["mine"].tolist() == keep.tolist()
    for name, values in plain.layered.items():
        np.testing.assert_array_equal(masked.layered[name], values)


def test_smallest_attention():
    content = prepare(np.ones((1, 1, 1, 1)))
    assert content.tokens == ("0",)
    assert content.cuts[0, 0] == (1.0, ((0, 0, 0),))
    assert "<title>jaxflow: 0</title>" in jaxflow.show(np.ones((1, 1, 1, 1))).html


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ({"tokens": ["a"]}, "11 words"),
        ({"tokens": "a" * N}, "11 words"),
        ({"scores": {"mine": [1.0]}}, "'mine' of shape"),
        ({"scores": {"mine": [np.nan] * N}}, "finite"),
        ({"scores": {"flow": [1.0] * N}}, "must not be named"),
        ({"source": N}, "source must be an index"),
        ({"residual": 2}, "residual"),
        ({"mask": np.arange(N) > 4}, "padd"),
    ],
)
def test_unusable_input(attention, options, part):
    with pytest.raises(InputError, match=part):
        prepare(attention, **options)


def test_the_token_explained_must_be_real(attention):
    wide = np.zeros_like(attention)
    wide[..., 1] = 1
    with pytest.raises(InputError, match="source must be a real token"):
        prepare(wide, mask=np.arange(N) == 1)


def test_a_batch_is_refused(attention):
    with pytest.raises(InputError, match="one sentence"):
        prepare(attention[None])
