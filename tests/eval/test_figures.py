"""Test that figures show the values given, and their files: readable, reproducible, valid."""

from __future__ import annotations

import itertools
import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import figure_data
import matplotlib
import matplotlib.pyplot
import numpy as np
import pictures
import pytest
from matplotlib.collections import LineCollection
from matplotlib.colors import to_hex

import jaxflow
from jaxflow.errors import InputError
from jaxflow.eval.paper import tables as paper
from jaxflow.eval.paper.report import Evaluation, record
from jaxflow.eval.paper.scores import ROWS, TARGETS
from jaxflow.eval.paper.tables import read_tables
from jaxflow.eval.plots import catalogue, curves, maps
from jaxflow.eval.plots.curves import read_journey
from jaxflow.eval.plots.style import LOOKS
from jaxflow.eval.report import json_text

GOLDEN = Path(__file__).parents[1] / "golden" / "figures.json"
TOLERANCE = 0.06  # of the bits


def lines_of(axes):
    return {line.get_label(): line for line in axes.get_lines()}


def check_lines(axes, rows):
    for row, cells in rows.items():
        means, intervals = [cell.mean for cell in cells], [cell.ci95 for cell in cells]
        colour = pictures.check_line(axes, LOOKS[row].title, means, intervals)
        assert colour == LOOKS[row].colour.upper()


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
    check_lines(curves.draw_saturation(tables).axes[0], {"flow": tables.saturation})
    check_lines(curves.draw_entropy(tables).axes[0], tables.entropy)


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
    # The rows of one token, bottom to top.
    panels = maps.draw_readout(sentence.maps, sentence.tokens, source=2).axes
    for axes, (name, values) in zip(panels, sentence.maps.items(), strict=True):
        assert axes.get_title() == LOOKS[name].title
        (mesh,) = axes.collections
        rows = values[:, 2]
        np.testing.assert_allclose(mesh.get_array() * rows.max(1, keepdims=True), rows)
        assert not axes.yaxis_inverted()
    labels = [text.get_text() for text in panels[0].get_yticklabels()]
    assert labels == ["L1", "L2", "L3", "L4", "L5", "L6"]


@pytest.mark.parametrize("source", [(6, 0), (6, 3), (2, 1)])
def test_the_paths_of_a_token_end_in_its_row_of_rollout(source):
    sentence = figure_data.sentence()
    nodes, edges = maps.path_shares(jaxflow.attention_graph(sentence.attention), source)
    layer, token = source
    bottom = [nodes[0, place] for place in range(6)]
    np.testing.assert_allclose(bottom, sentence.maps["rollout"][layer - 1, token], rtol=1e-12)
    for level in range(layer):  # nothing is lost on the way
        total = sum(share for (_, below), share in edges.items() if below[0] == level)
        assert total == pytest.approx(1)


def test_edges_are_as_wide_as_they_are_strong():
    sentence = figure_data.sentence()
    network = jaxflow.attention_graph(sentence.attention)
    first, second = maps.draw_graph(network, sentence.tokens).axes
    _, shares = maps.path_shares(network, (6, 0))
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
        colours = {to_hex(bar.get_facecolor()).upper() for bar in axes.patches}
        assert colours == {LOOKS[name].colour.upper()}
        assert axes.get_xlim()[1] >= values.max()
        assert float(axes.get_xticklabels()[0].get_text()) == pytest.approx(values.max(), rel=0.05)
    assert [text.get_text() for text in panels[0].get_yticklabels()] == list(sentence.tokens)


@pytest.fixture(scope="module")
def figures():
    return figure_data.every_figure()


def test_figures_look_as_they_did_when_someone_looked(figures):
    golden = json.loads(GOLDEN.read_text(encoding="utf-8"))
    assert set(golden) == set(figures)
    for name, figure in figures.items():
        found = pictures.distance(pictures.fingerprint(figure), golden[name])
        assert found <= TOLERANCE, f"{name}: see tests/golden/make_figures.py"


@pytest.mark.parametrize(("layers", "n"), [(6, 6), (1, 2), (5, 17), (2, 40)])
def test_text_of_a_sentence_is_readable(layers, n):
    figures = catalogue.sentence_figures(figure_data.sentence(n, layers))
    for name in ("maps-raw", "readout", "graph", "bars"):
        pictures.check_text(figures[name])


def test_files_are_valid_and_touch_or_heed_nothing_global(tmp_path):
    forms = ("svg", "pdf", "png", "png")
    starts = {".pdf": b"%PDF-", ".png": b"\x89PNG\r\n\x1a\n", ".svg": b"<?xml"}

    def draw(folder):
        sentence = figure_data.sentence()
        chosen = {
            "maps": maps.draw_readout(sentence.maps, sentence.tokens),
            "table": curves.draw_agreement(figure_data.tables(), "blank_out"),
        }
        files = catalogue.write_figures(tmp_path / folder, chosen, forms)
        return {path.name: path.read_bytes() for path in files}

    before = dict(matplotlib.rcParams)
    plain = draw("plain")
    assert dict(matplotlib.rcParams) == before
    assert matplotlib.pyplot.get_fignums() == []
    assert len(plain) == 6
    for name, content in plain.items():
        assert content.startswith(starts[Path(name).suffix])
        if name.endswith(".svg"):
            ids = [node.get("id") for node in ElementTree.fromstring(content).iter()]
            assert len(set(ids)) == len([name for name in ids if name]) + (None in ids)
    with matplotlib.rc_context():
        matplotlib.pyplot.style.use("dark_background")
        other = {"font.size": 20, "font.family": "serif", "lines.linewidth": 5, "figure.dpi": 50}
        matplotlib.rcParams.update(other)
        dark = draw("dark")
    assert draw("again") == plain  # the same bytes each time
    for name in ("maps.svg", "maps.png", "table.svg", "table.png"):
        assert dark[name] == plain[name]


@pytest.mark.parametrize("formats", [("gif",), ("svg", "SVG"), ()])
def test_other_formats_are_refused(formats, figures, tmp_path):
    with pytest.raises(InputError, match="svg,pdf,png"):
        catalogue.write_figures(tmp_path / "new", figures, formats)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    "spoil",
    [
        lambda text: text[: len(text) // 2],
        lambda text: "[]",
        lambda text: text.replace('"saturation"', '"other"'),
        lambda text: text.replace('"mean"', '"median"', 1),
        lambda text: text.replace('"n": 50', '"n": null', 1),
        lambda text: json.dumps(json.loads(text) | {"saturation": []}),
        lambda text: json.dumps(json.loads(text) | {"tables": {}}),
        lambda text: json.dumps(json.loads(text) | {"tables": 3}),
    ],
)
def test_tables_are_read_back_as_they_were_and_refused_when_spoilt(spoil, tmp_path):
    tables = figure_data.tables()
    text, path = json_text(record(Evaluation(tables), {})), tmp_path / "tables.json"
    path.write_text(text, encoding="utf-8")
    assert read_tables(tmp_path) == tables
    assert spoil(text) != text
    path.write_text(spoil(text), encoding="utf-8")
    with pytest.raises(InputError, match=r"tables\.json must"):
        read_tables(tmp_path)


@pytest.mark.parametrize(
    ("text", "part"),
    [
        (None, "no metrics.jsonl"),
        ("", "it has none"),
        ('{"loss": 1}\n{"step": 1, "loss": 1}\n', "line 1 does not"),
        ('{"step": 1, "loss": 1}\n[]\n{"step": 2, "loss": 1}\n', "line 2 does not"),
    ],
)
def test_spoilt_journeys_are_refused(text, part, tmp_path):
    if text is not None:
        (tmp_path / "metrics.jsonl").write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=part):
        read_journey(tmp_path)
