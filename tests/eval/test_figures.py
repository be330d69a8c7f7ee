"""Test that figures show the values they were given."""

from __future__ import annotations

import itertools

import figure_data
import numpy as np
import pytest
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.colors import to_hex

import jaxflow
from jaxflow.eval.paper import tables as paper
from jaxflow.eval.paper.scores import ROWS, TARGETS
from jaxflow.eval.plots import curves, graph, maps
from jaxflow.eval.plots.style import LOOKS


def lines_of(axes):
    return {line.get_label(): line for line in axes.get_lines()}


def bands_of(axes):
    """Colour -> the lower and upper edge of each band, by x."""
    found = {}
    for band in axes.collections:
        assert isinstance(band, PolyCollection)
        points = band.get_paths()[0].vertices
        edges = {x: points[points[:, 0] == x, 1] for x in np.unique(points[:, 0])}
        found[to_hex(band.get_facecolor()[0]).upper()] = {
            x: (float(ys.min()), float(ys.max())) for x, ys in edges.items()
        }
    return found


def check_lines(axes, rows):
    lines, bands = lines_of(axes), bands_of(axes)
    for row, cells in rows.items():
        shown = LOOKS[row]
        line = lines[shown.title]
        assert line.get_ydata() == pytest.approx([cell.mean for cell in cells])
        assert line.get_color() == shown.colour
        low, high = zip(*bands[shown.colour.upper()].values(), strict=True)
        assert low == pytest.approx([cell.ci95[0] for cell in cells])
        assert high == pytest.approx([cell.ci95[1] for cell in cells])


@pytest.mark.parametrize("target", TARGETS)
def test_tables_are_lines_with_their_intervals_beside_the_papers_points(target):
    tables = figure_data.tables()
    (axes,) = curves.draw_agreement(tables, target).axes
    check_lines(axes, tables.correlations[target])
    lines = lines_of(axes)
    for row in ROWS:
        theirs = paper.AGREEMENT.tables.get(target, {}).get(row)
        line = lines.get(f"{LOOKS[row].title}, paper")
        assert (line is None) == (theirs is None)
        if theirs is not None:
            assert list(line.get_ydata()) == [mean for mean, _ in theirs]
            assert list(line.get_xdata()) == [1, 2, 3, 4, 5, 6]


def test_saturation_and_entropy():
    tables = figure_data.tables()
    (axes,) = curves.draw_saturation(tables).axes
    check_lines(axes, {"flow": tables.saturation})
    (axes,) = curves.draw_entropy(tables).axes
    check_lines(axes, tables.entropy)


def test_lengths_are_means_over_the_sentences_of_a_length():
    scores = figure_data.scores(sentences=200)
    panels = curves.draw_lengths(scores).axes
    labels = [text.get_text() for text in panels[-1].get_xticklabels()]
    assert labels == ["2–3", "4–5", "6–8", "9–14", "15+"]
    ends = [2, 4, 6, 9, 15, 1000]
    for axes, target in zip(panels, ("blank_out", "gradient_norm"), strict=True):
        for row in ("rollout", "flow", "position"):
            top = scores.correlations[target][row][:, -1]
            expected = [
                top[[low <= n < high for n in scores["length"]]].mean()
                for low, high in itertools.pairwise(ends)
            ]
            assert lines_of(axes)[row].get_ydata() == pytest.approx(expected)


def test_layer_maps_are_shaded_from_0_to_their_largest_value():
    sentence = figure_data.sentence()
    panels = maps.draw_layer_maps(sentence.maps["flow"], sentence.tokens).axes
    for layer, (axes, values) in enumerate(zip(panels, sentence.maps["flow"], strict=True)):
        (mesh,) = axes.collections
        np.testing.assert_allclose(mesh.get_array() * values.max(), values, rtol=1e-12)
        assert (mesh.norm.vmin, mesh.norm.vmax) == (0, 1)
        name, top = axes.get_title().split("\n")
        assert name == f"L{layer + 1}"
        assert float(top.removeprefix("max ")) == pytest.approx(values.max(), abs=0.005)
        assert axes.yaxis_inverted()  # the first query on top
    for ticks in (panels[0].get_yticklabels(), panels[-1].get_xticklabels()):
        assert [text.get_text() for text in ticks] == list(sentence.tokens)


def test_readout_has_the_rows_of_one_token_bottom_to_top():
    sentence = figure_data.sentence()
    panels = maps.draw_readout(sentence.maps, sentence.tokens, source=2).axes
    for axes, (name, values) in zip(panels, sentence.maps.items(), strict=True):
        assert axes.get_title() == LOOKS[name].title
        (mesh,) = axes.collections
        rows = values[:, 2]
        np.testing.assert_allclose(mesh.get_array() * rows.max(1, keepdims=True), rows)
        assert not axes.yaxis_inverted()
    assert [text.get_text() for text in panels[0].get_yticklabels()] == [
        "L1", "L2", "L3", "L4", "L5", "L6",
    ]  # fmt: skip


@pytest.mark.parametrize("source", [(6, 0), (6, 3), (2, 1)])
def test_the_paths_of_a_token_end_in_its_row_of_rollout(source):
    sentence = figure_data.sentence()
    nodes, edges = graph.path_shares(jaxflow.attention_graph(sentence.attention), source)
    layer, token = source
    bottom = [nodes[0, place] for place in range(6)]
    np.testing.assert_allclose(bottom, sentence.maps["rollout"][layer - 1, token], rtol=1e-12)
    for level in range(layer):  # nothing is lost on the way
        assert sum(share for (_, below), share in edges.items() if below[0] == level) == (
            pytest.approx(1)
        )


def test_edges_are_as_wide_as_they_are_strong():
    sentence = figure_data.sentence()
    network = jaxflow.attention_graph(sentence.attention)
    first, second = graph.draw_graph(network, sentence.tokens).axes
    _, shares = graph.path_shares(network, (6, 0))
    weights = {edge: network.edges[edge]["capacity"] for edge in network.edges}
    for axes, widest, wanted in ((first, 4, weights), (second, 7, shares)):
        (drawn,) = (c for c in axes.collections if isinstance(c, LineCollection))
        found = {}
        for path, width in zip(drawn.get_paths(), drawn.get_linewidth(), strict=True):
            (token, layer), (below, _) = path.vertices.astype(int).tolist()
            found[(layer, token), (layer - 1, below)] = width / widest
        assert found == pytest.approx({e: w for e, w in wanted.items() if w >= 0.01})
        assert 0 < len(found) < len(wanted)


def test_bars_are_the_scores():
    sentence = figure_data.sentence()
    panels = maps.draw_token_bars(sentence.scores, sentence.tokens).axes
    assert len(panels) == len(sentence.scores)
    for axes, (name, values) in zip(panels, sentence.scores.items(), strict=True):
        assert [bar.get_width() for bar in axes.patches] == values.tolist()
        assert {to_hex(bar.get_facecolor()).upper() for bar in axes.patches} == {
            LOOKS[name].colour.upper()
        }
        assert axes.get_xlim()[1] >= values.max()
        assert float(axes.get_xticklabels()[0].get_text()) == pytest.approx(values.max(), rel=0.05)
    assert [text.get_text() for text in panels[0].get_yticklabels()] == list(sentence.tokens)
