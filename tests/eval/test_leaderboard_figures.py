"""Test that critical-difference figures and layer curves show the values given."""

from __future__ import annotations

import dataclasses

import leaderboard_data
import numpy as np
import pictures
import pytest

from jaxflow.errors import InputError
from jaxflow.eval.leaderboard.summary import Significance, summarise_boards
from jaxflow.eval.plots.leaderboard import BREAK, draw_critical_difference, draw_layers, fit_ranks
from jaxflow.eval.plots.style import CYCLE, GREY, INK

BASELINES = ("random", "position", "uniform", "column-sum")


def made(ranks, groups=()):
    """Significance of given ranks in which two differ unless a group has both."""
    p = np.full((len(ranks), len(ranks)), 0.001)
    for group in groups:
        p[np.ix_(group, group)] = 0.6
    np.fill_diagonal(p, np.nan)
    return Significance(np.asarray(ranks, float), p, 1234)


def drawn(figure):
    """Methods, and bars by whom they join: each the x and y of its line."""
    (axes,) = figure.axes
    methods, bars = {}, {}
    for line in axes.get_lines():
        label = line.get_label()
        if line.get_color() == CYCLE[1]:
            bars[tuple(label.split())] = line.get_xydata()
        elif not label.startswith("_"):
            methods[label] = line.get_xydata()
    return methods, bars


def words(figure):
    return " ".join(text.get_text() for text in figure.axes[0].texts)


def test_methods_hang_at_their_ranks_and_bars_join_groups():
    ranks = [3.2, 1.0, 2.0, 5.5, 4.0]
    figure = draw_critical_difference(made(ranks, [(1, 2), (0, 4, 3)]), list("abcde"))
    methods, bars = drawn(figure)
    x = {name: points[0, 0] for name, points in methods.items()}
    # Places are ranks, on one scale.
    fit = np.polyfit(ranks, [x[name] for name in "abcde"], 1)
    np.testing.assert_allclose(np.polyval(fit, ranks), [x[name] for name in "abcde"], atol=1e-9)
    assert fit[0] > 0
    assert set(bars) == {tuple("bc"), tuple("aed")}
    for group, points in bars.items():
        inside = {name: points[0, 0] < x[name] < points[1, 0] for name in "abcde"}
        assert {name for name in "abcde" if inside[name]} == set(group)
    # The better half ends at the left, best on top; the other half at the right, worst on top.
    ends = [methods[name][-1] for name in "bcaed"]
    assert [end[0] < x["b"] for end in ends] == [True] * 3 + [False] * 2
    assert ends[0][1] < ends[1][1] < ends[2][1]
    assert ends[4][1] < ends[3][1]
    assert "1,234 sentences among 5 methods" in words(figure)
    assert "left out" not in words(figure)
    assert all(f"{rank:.1f}" in words(figure) for rank in ranks)
    pictures.check_text(figure)


def test_the_best_and_the_baselines_are_drawn_and_the_others_counted():
    names = [f"edge-{place}/flow" for place in range(60)] + list(BASELINES)
    ranks = [*np.linspace(10, 40, 60), 12.0, 55.0, 58.0, 60.0]
    groups = [tuple(range(4)), tuple(range(15, 30)), (58, 59, 61, 62), (18, 19), (61, 62, 63)]
    figure = draw_critical_difference(made(ranks, groups), names)
    methods, bars = drawn(figure)
    assert set(methods) == set(names[:20]) | set(BASELINES)
    for part in ("best 20 and 4 baselines", "40 are left out", "among 64 methods"):
        assert part in words(figure)
    # Of a group only those that are drawn are joined, and nothing twice.
    assert set(bars) == {tuple(names[:4]), tuple(names[15:20]), BASELINES[1:]}
    for line in figure.axes[0].get_lines():
        if line.get_label() in methods:
            assert line.get_color() == (GREY if line.get_label() in BASELINES else INK)


def test_those_without_a_rank_are_named():
    significance = made([2.0, 1.0, np.nan, 3.0], [(0, 1), (2, 3)])
    figure = draw_critical_difference(significance, ["a", "b", "uniform", "d"])
    methods, bars = drawn(figure)
    assert set(methods) == {"a", "b", "d"}
    assert set(bars) == {("b", "a")}
    assert "Without a rank: uniform" in words(figure)
    with pytest.raises(InputError, match="at least two methods must have a mean rank"):
        draw_critical_difference(made([np.nan, np.nan]), ["a", "b"])
    with pytest.raises(InputError, match="names must be 2"):
        draw_critical_difference(made([1, 2]), ["a"])


def test_wide_gaps_are_left_out_of_the_axis_and_nothing_else():
    ranks = np.array([*np.linspace(10, 20, 12), 70, 71])
    axis = fit_ranks(ranks, 1.0, 5.0)
    places = np.array([axis.at(rank) for rank in ranks])
    assert (np.diff(places) > 0).all()
    assert len(axis.pieces) == 2
    (_, end), (begin, _) = axis.spans()
    assert begin - end == pytest.approx(BREAK)
    np.testing.assert_allclose(np.diff(places[:12]), axis.scale * 10 / 11)
    assert places[13] - places[12] == pytest.approx(axis.scale)
    assert axis.spans()[0][0] == pytest.approx(1)
    assert axis.spans()[-1][1] == pytest.approx(5)
    assert all(10 - 1 < tick < 21 or 69 < tick < 72 for tick in axis.ticks())
    with pytest.raises(ValueError, match="on the axis"):
        axis.at(45)
    assert len(fit_ranks(np.array([1.0, 30, 31]), 0, 1).pieces) == 1
    same = fit_ranks(np.array([2.0, 2.0]), 0, 1)
    assert 0 <= same.at(2.0) <= 1


@pytest.fixture(scope="module")
def summary():
    chosen = [
        method
        for method in leaderboard_data.methods()
        if method.name.startswith(("raw/", "alti/")) or method.name in ("blank-out", "random")
    ]
    return summarise_boards([leaderboard_data.board(members=chosen)])


def test_layers_are_means_with_their_intervals(summary):
    figure = draw_layers(summary)
    (axes,) = figure.axes
    known = [line for line in summary.finals if line.layer is not None]
    usual = ["raw/none", "raw/rollout", "raw/flow"]
    others = [line for line in known if line.method.name not in usual]
    others.sort(key=lambda line: -line.cells["spearman_blank_out"].mean)
    for name in usual + [line.method.name for line in others[:3]]:
        found = {line.layer: line.cells for line in summary.lines if line.method.name == name}
        cells = [found[layer]["spearman_blank_out"] for layer in range(4)]
        means, intervals = [cell.mean for cell in cells], [cell.ci95 for cell in cells]
        pictures.check_line(axes, name, means, intervals)
    pictures.check_text(figure)


def test_a_model_of_one_layer_is_refused(summary):
    flat = tuple(dataclasses.replace(line, layer=None) for line in summary.finals)
    with pytest.raises(InputError, match="more than one layer"):
        draw_layers(dataclasses.replace(summary, lines=flat))
