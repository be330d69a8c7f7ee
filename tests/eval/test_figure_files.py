"""Test figures as files: readable, reproducible, independent of matplotlib's global settings."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import figure_data
import matplotlib
import matplotlib.pyplot
import pictures
import pytest

from jaxflow.errors import InputError
from jaxflow.eval.paper.report import Evaluation, record
from jaxflow.eval.paper.tables import read_tables
from jaxflow.eval.plots import catalogue, curves, maps
from jaxflow.eval.plots.curves import read_journey
from jaxflow.eval.report.text import json_text

GOLDEN = Path(__file__).parents[1] / "golden" / "figures.json"
NASTY = ("[CLS]", "$x_1$", "<script>", "&amp;", "-->", "שלום", "\U0001f680", "a\u202eb", "\x1b[31m")
TOLERANCE = 0.06  # of the bits


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


def test_files_are_valid_and_always_the_same(figures, tmp_path):
    sentence = figure_data.sentence()
    chosen = {name: figures[name] for name in ("agreement-blank-out", "bars")}
    again = {
        "agreement-blank-out": curves.draw_agreement(figure_data.tables(), "blank_out"),
        "bars": maps.draw_token_bars(sentence.scores, sentence.tokens),
    }
    forms = ("svg", "pdf", "png", "png")
    first = catalogue.write_figures(tmp_path / "a", chosen, forms)
    second = catalogue.write_figures(tmp_path / "b", again, forms)
    starts = {".pdf": b"%PDF-", ".png": b"\x89PNG\r\n\x1a\n", ".svg": b"<?xml"}
    assert len(first) == 6
    for one, other in zip(first, second, strict=True):
        content = one.read_bytes()
        assert content.startswith(starts[one.suffix])
        assert content == other.read_bytes(), one.name
        if one.suffix == ".svg":
            ids = [node.get("id") for node in ElementTree.fromstring(content).iter()]
            assert len(set(ids)) == len([name for name in ids if name]) + (None in ids)


def test_nothing_global_is_touched_or_heeded(tmp_path):
    def draw():
        sentence = figure_data.sentence()
        return {
            "bars": maps.draw_token_bars(sentence.scores, sentence.tokens),
            "maps": maps.draw_readout(sentence.maps, sentence.tokens),
            "table": curves.draw_agreement(figure_data.tables(), "blank_out"),
        }

    before = dict(matplotlib.rcParams)
    files = catalogue.write_figures(tmp_path / "plain", draw())
    assert dict(matplotlib.rcParams) == before
    assert matplotlib.pyplot.get_fignums() == []
    with matplotlib.rc_context():
        matplotlib.pyplot.style.use("dark_background")
        matplotlib.rcParams.update(
            {"font.size": 20, "font.family": "serif", "lines.linewidth": 5, "figure.dpi": 50}
        )
        dark = catalogue.write_figures(tmp_path / "dark", draw())
    for one, other in zip(files, dark, strict=True):
        assert one.read_bytes() == other.read_bytes(), one.name


@pytest.mark.parametrize("formats", [("gif",), ("svg", "SVG"), ()])
def test_other_formats_are_refused(formats, figures, tmp_path):
    with pytest.raises(InputError, match="svg,pdf,png"):
        catalogue.write_figures(tmp_path / "new", figures, formats)
    assert not (tmp_path / "new").exists()


def test_tables_are_read_back_as_they_were(tmp_path):
    tables = figure_data.tables()
    (tmp_path / "tables.json").write_text(
        json_text(record(Evaluation(tables), {})), encoding="utf-8"
    )
    assert read_tables(tmp_path) == tables


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
def test_spoilt_tables_are_refused(spoil, tmp_path):
    text = json_text(record(Evaluation(figure_data.tables()), {}))
    assert spoil(text) != text
    (tmp_path / "tables.json").write_text(spoil(text), encoding="utf-8")
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
