"""Test the page in a browser without a network."""

from __future__ import annotations

import numpy as np
import pytest
from browser import View, chromium, eventually, reason_for_none
from page_reader import NASTY

import jaxflow
from jaxflow.html.style import shades, visible

REASON = reason_for_none()
pytestmark = [pytest.mark.browser, pytest.mark.skipif(REASON is not None, reason=str(REASON))]

N = len(NASTY)
NAMES = [" ".join(visible(token).split()) for token in NASTY]


def tooltip(view: View, plot: str, x: float, y: float) -> str:
    view.point(plot, x, y)
    found = eventually(view.tooltip)
    view.away()
    return found


def choose(view: View, layer: int, head: int) -> None:
    """Choose the head, then move the slider of layers as the keyboard does."""
    view.page.get_by_label("Head").select_option(index=head)
    view.page.locator(".view.controls .noUi-handle").focus()
    at = view.ask("layer", "m.value")
    for _ in range(abs(layer - at)):
        view.page.keyboard.press("ArrowRight" if layer > at else "ArrowLeft")
    eventually(lambda: view.ask("layer", "m.value") == layer)
    view.settle()


def test_the_page_in_a_browser(page, attention, tmp_path):
    """It opens, sends no request, runs no other script, and shows the layer and head chosen."""
    with chromium() as browser:
        view = View(browser, page.save(tmp_path / "page.html"))
        scripts = view.page.locator("script").count()
        assert view.page.evaluate("document.title") == f"jaxflow: {visible(' '.join(NASTY))}"
        check_hostile_text(view)
        check_heat_map(view, attention)
        check_bars(view, attention)
        check_graph(view, attention)
        assert view.page.locator("script").count() == scripts
        assert view.troubles == []
        # Even if a token got in as a script, it would not run.
        view.page.evaluate(
            "() => { const s = document.createElement('script'); s.textContent = 'window.ran = 1';"
            " document.body.append(s); }"
        )
        assert view.page.evaluate("window.ran") is None
        assert any("Content Security Policy" in line for line in view.troubles)
        assert view.asked == []
        view.close()


def check_hostile_text(view):
    for place, name in enumerate(NAMES):
        assert tooltip(view, "map-plot", place, place).startswith(f"{name} → {name}: ")
        assert tooltip(view, "graph-plot", place, 0).startswith(f"{name} (token {place}), in the")
        assert tooltip(view, "bars-plot-1", 1e-4, place).startswith(f"{name} (token {place}): ")


def check_heat_map(view, attention):
    colours = np.array([[int(shade[at : at + 2], 16) for at in (1, 3, 5)] for shade in shades()])
    maps = np.concatenate([attention.mean(1, keepdims=True), attention], 1)
    query, key = (axis.ravel() for axis in np.indices((N, N)))
    for layer, head in ((3, 0), (1, 2)):
        choose(view, layer, head)
        values = maps[layer - 1, head]
        text = tooltip(view, "map-plot", 4, 1)
        assert text == f"{NAMES[1]} → {NAMES[4]}: {values[1, 4]:.4f}"
        found = view.colours("map-plot", key, query).reshape(N, N, 3)
        expected = colours[np.clip((values / maps.max() * 256).astype(int), 0, 255)]
        assert np.abs(found - expected).max() <= 6


def check_bars(view, attention):
    """The longest bar of the method, layer and head chosen ends at its score."""
    view.page.get_by_label("Method on the left").select_option("rollout")
    view.settle()
    values = np.asarray(jaxflow.rollout(attention, heads=1))[0, 0]  # after the heat map's choice
    token = int(np.argmax(values))
    text = tooltip(view, "bars-plot-0", 0.97 * float(values[token]), token)
    assert text == f"{NAMES[token]} (token {token}): {values[token]:.5f}"
    view.page.mouse.move(*view.where("bars-plot-0", 1.03 * float(values[token]), token))
    view.settle()
    assert view.tooltip() == ""


def check_graph(view, attention):
    """Pointing at a token shows its edges, clicking it its minimum cut, clicking beside it none."""
    view.point("graph-plot", 4, 2)
    assert eventually(view.tooltip).startswith(f"{NAMES[4]} (token 4), after layer 2 flow ")
    edges = "m.edge_renderer.data_source"
    shown = view.ask(
        "graph",
        f"{edges}.inspected.indices.map(i => [{edges}.data.start[i], {edges}.data.end[i]])",
    )
    pairs = [
        (upper[0] * N + upper[1], lower[0] * N + lower[1])
        for upper, lower in jaxflow.attention_graph(attention).edges
    ]
    assert {tuple(pair) for pair in shown} == {pair for pair in pairs if 2 * N + 4 in pair}
    view.away()
    cut = jaxflow.flow_cut(attention[1:], layer=-1, source=0, sink=3)
    view.page.mouse.click(*view.where("graph-plot", 3, 1))
    view.away()
    row = N + 3
    eventually(lambda: view.ask("cut", "m.view.filter.indices") == [row])
    assert f"flow {cut.value:.4g}" in view.ask("cut", f"m.data_source.data.words[{row}]")
    view.page.wait_for_timeout(500)  # two clicks at once would be a double click
    view.page.mouse.click(*view.where("graph-plot", 0.5, 3.35))
    view.away()
    eventually(lambda: view.ask("cut", "m.view.filter.indices.length") == 0)
