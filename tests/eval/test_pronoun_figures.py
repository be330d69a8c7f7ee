"""Test that the figures of masked pronouns show the numbers given."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.colors import to_hex

from jaxflow.eval.plots.pronouns import REFERENTS, draw_pronoun_agreement, draw_referents
from jaxflow.eval.plots.style import LOOKS
from jaxflow.eval.pronouns.cases import METHODS, Case, agreement
from jaxflow.eval.pronouns.schemas import PAPER, read_schemas


def case(schema, layers, seed=0):
    rng = np.random.default_rng(seed)
    return Case(
        schema=schema,
        tokens=("[MASK]",),
        pieces=(1, 1),
        log_probabilities=tuple(np.log(rng.dirichlet(np.ones(3))[:2]).tolist()),
        weights={name: rng.random((layers, 2)) for name in METHODS},
        column_sums=rng.random(2),
        distances=(5, 2),
    )


def bars_of(axes):
    """Colour -> (centre, height) of its bars, left to right."""
    found = {}
    for bar in axes.patches:
        colour = to_hex(bar.get_facecolor()).upper()
        found.setdefault(colour, []).append(
            (bar.get_x() + bar.get_width() / 2, float(bar.get_height()))
        )
    return found


@pytest.mark.parametrize("layers", [1, 6, 12, 30])
def test_bars_are_probabilities_and_weights(layers):
    cases = [case(schema, layers, seed) for seed, schema in enumerate(read_schemas(PAPER))]
    figure = draw_referents(cases)
    assert len(figure.axes) == 4 * len(cases)
    colours = [colour for colour, _ in REFERENTS]
    for row, each in enumerate(cases):
        model, *panels = figure.axes[4 * row : 4 * row + 4]
        heights = [bars_of(model)[colour][0][1] for colour in colours]
        assert heights == pytest.approx(each.probabilities)
        assert [label.get_text() for label in model.get_xticklabels()] == list(each.schema.fillers)
        for axes, method in zip(panels, METHODS, strict=True):
            for which, colour in enumerate(colours):
                places, heights = zip(*bars_of(axes)[colour], strict=True)
                assert heights == pytest.approx(each.weights[method][:, which])
                assert np.round(places).tolist() == list(range(1, layers + 1))
            assert axes.get_ylim()[0] == 0
            assert axes.get_ylim()[1] > each.weights[method].max()
            assert axes.get_xticks()[0] == layers
        names = [text.get_text() for text in panels[-1].get_legend().get_texts()]
        pairs = zip(each.schema.referents, each.schema.fillers, strict=True)
        assert names == [f"{name} ({filler})" for name, filler in pairs]


def test_agreement_is_lines_with_intervals_and_baselines():
    found = agreement([case(schema, 4, seed) for seed, schema in enumerate(read_schemas())])
    figure = draw_pronoun_agreement(found)
    tables = ((found.sentences, 0.5), (found.turned, 0.25))
    for axes, (rows, chance) in zip(figure.axes, tables, strict=True):
        lines = {line.get_label(): line for line in axes.get_lines()}
        bands = {to_hex(band.get_facecolor()[0]).upper(): band for band in axes.collections}
        for name, shares in rows.methods.items():
            shown = LOOKS[name]
            assert lines[shown.title].get_ydata() == pytest.approx([each.share for each in shares])
            assert lines[shown.title].get_color() == shown.colour
            points = bands[shown.colour.upper()].get_paths()[0].vertices
            for layer, each in enumerate(shares, start=1):
                ys = points[points[:, 0] == layer, 1]
                assert (ys.min(), ys.max()) == pytest.approx(each.ci95)
        for label, name in (("column sum", "column_sum"), ("nearest", "nearest")):
            assert set(lines[label].get_ydata()) == {rows.baselines[name].share}
        assert set(lines["first"].get_ydata()) == {rows.baselines["first"].share}
        assert set(lines["chance"].get_ydata()) == {chance}
    assert "pairs" in figure.axes[1].get_ylabel()
