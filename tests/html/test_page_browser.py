"""The page as people use it, in a real browser without a network."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from browser import View, chromium, eventually, pixels, reason_for_none, save, share_changed, small
from page_reader import NASTY

import jaxflow
from jaxflow.html.style import shades, visible

REASON = reason_for_none()
pytestmark = [pytest.mark.browser, pytest.mark.skipif(REASON is not None, reason=str(REASON))]

N = len(NASTY)
NAMES = [" ".join(visible(token).split()) for token in NASTY]
GOLDEN = Path(__file__).parents[1] / "golden" / "flow_graph.png"
GRAPH = (-0.5, -0.3, N - 0.5, 3.3)  # the graph without its axes


def rgb(colour: str) -> np.ndarray:
    return np.array([int(colour[at : at + 2], 16) for at in (1, 3, 5)])


@pytest.fixture(scope="module")
def browser():
    with chromium() as started:
        yield started


@pytest.fixture(scope="module")
def file(page, tmp_path_factory):
    return page.save(tmp_path_factory.mktemp("page") / "page.html")


@pytest.fixture
def view(browser, file):
    opened = View(browser, file)
    yield opened
    opened.close()
    assert opened.troubles == []
    assert opened.asked == []


def told(view: View, plot: str, x: float, y: float) -> str:
    view.point(plot, x, y)
    return eventually(view.tooltip)


def test_it_opens_without_network_trouble_or_foreign_script(view):
    scripts = view.page.locator("script").count()
    assert view.page.evaluate("document.title") == f"jaxflow: {visible(' '.join(NASTY))}"
    for kind in ("controls", "bars", "map", "graph"):
        assert view.page.locator(f".view.{kind} canvas, .view.{kind} select").count() > 0
    # Even if a token got in as a script, it would not run.
    view.page.evaluate(
        "() => { const s = document.createElement('script'); s.textContent = 'window.ran = 1';"
        " document.body.append(s); }"
    )
    assert view.page.evaluate("window.ran") is None
    assert view.page.locator("script").count() == scripts + 1
    assert any("Content Security Policy" in line for line in view.troubles)
    view.troubles.clear()


def test_every_token_is_told_as_text_in_every_view(view):
    scripts = view.page.locator("script").count()
    for place, name in enumerate(NAMES):
        assert told(view, "map-plot", place, place).startswith(f"{name} → {name}: ")
        view.away()
        assert told(view, "graph-plot", place, 0).startswith(f"{name} (token {place}), in the")
        view.away()
    for place, name in enumerate(NAMES):
        assert told(view, "bars-plot-1", 1e-4, place).startswith(f"{name} (token {place}): ")
        view.away()
    assert view.page.locator("script").count() == scripts


def test_the_heat_map_is_the_attention_of_the_layer_and_head_chosen(view, attention):
    colours = np.array([rgb(shade) for shade in shades()])
    maps = np.concatenate([attention.mean(1, keepdims=True), attention], 1)
    states = [(3, 0), (3, 2), (1, 2), (2, 1)]
    pictures = []
    for layer, head in states:
        view.page.get_by_label("Head").select_option(index=head)
        choose_layer(view, layer)
        values = maps[layer - 1, head]
        for query, key in ((0, 0), (1, 4), (N - 1, 2)):
            text = told(view, "map-plot", key, query)
            assert text == f"{NAMES[query]} → {NAMES[key]}: {values[query, key]:.4f}"
            view.away()
        query, key = (axis.ravel() for axis in np.indices((N, N)))
        found = view.colours("map-plot", key, query).reshape(N, N, 3)
        expected = colours[np.clip((values / maps.max() * 256).astype(int), 0, 255)]
        assert np.abs(found - expected).max() <= 6
        pictures.append(view.picture("map-plot", (-0.5, -0.5, N - 0.5, N - 0.5)))
    assert all(share_changed(pictures[0], other) > 0.05 for other in pictures[1:])


def choose_layer(view: View, layer: int) -> None:
    """Move the slider as the keyboard does."""
    handle = view.page.locator(".view.controls .noUi-handle")
    handle.focus()
    at = view.ask("layer", "m.value")
    for _ in range(abs(layer - at)):
        view.page.keyboard.press("ArrowRight" if layer > at else "ArrowLeft")
    eventually(lambda: view.ask("layer", "m.value") == layer)
    view.settle()


def test_bars_follow_method_layer_and_head_on_each_side_alone(view, attention, own_scores):
    frame = (0, -0.5, 0.02, N - 0.5)
    before = [view.picture(f"bars-plot-{side}", frame) for side in range(2)]
    rollout = np.asarray(jaxflow.rollout(attention))[:, 0]
    flow = jaxflow.flow(attention, sources=0)[:, 0]

    view.page.get_by_label("Method on the left").select_option("rollout")
    view.settle()
    check_bars(view, 0, rollout[2])
    check_bars(view, 1, flow[2])

    choose_layer(view, 1)
    view.page.get_by_label("Head").select_option("head 2")
    view.settle()
    check_bars(view, 0, np.asarray(jaxflow.rollout(attention, heads=1))[0, 0])

    # A score that knows neither layers nor heads stays, whatever is chosen.
    view.page.get_by_label("Method on the right").select_option("my own")
    view.settle()
    check_bars(view, 1, own_scores)

    view.page.get_by_label("Method on the left").select_option("raw attention")
    view.page.get_by_label("Method on the right").select_option("flow")
    view.page.get_by_label("Head").select_option(index=0)
    choose_layer(view, 3)
    after = [view.picture(f"bars-plot-{side}", frame) for side in range(2)]
    assert all(share_changed(*pair) < 0.01 for pair in zip(before, after, strict=True))


def check_bars(view, side, values):
    """The longest bars end where their scores are, and say so."""
    for token in np.argsort(-np.abs(values))[:2]:
        text = told(view, f"bars-plot-{side}", 0.97 * float(values[token]), int(token))
        assert text == f"{NAMES[token]} (token {token}): {values[token]:.5f}"
        view.away()
        left, top = view.where(f"bars-plot-{side}", 1.03 * float(values[token]), int(token))
        view.page.mouse.move(left, top)
        view.settle()
        assert view.tooltip() == ""
        view.away()


def test_pointing_at_a_token_shows_its_edges_and_leaving_it_hides_them(view, attention):
    edges = "m.edge_renderer.data_source.inspected.indices"
    before = view.picture("graph-plot", GRAPH)
    text = told(view, "graph-plot", 4, 2)
    cut = jaxflow.flow_cut(attention[2:], layer=-1, source=0, sink=4)
    assert text.startswith(f"{NAMES[4]} (token 4), after layer 2 flow {cut.value:.4f} ")
    view.settle()
    shown = view.ask(
        "graph",
        f"{edges}.map(i => [m.edge_renderer.data_source.data.start[i], "
        "m.edge_renderer.data_source.data.end[i]])",
    )
    node = 2 * N + 4
    weights = jaxflow.attention_graph(attention)
    assert {tuple(pair) for pair in shown} == {
        (upper[0] * N + upper[1], lower[0] * N + lower[1])
        for upper, lower in weights.edges
        if node in (upper[0] * N + upper[1], lower[0] * N + lower[1])
    }
    assert share_changed(before, view.picture("graph-plot", GRAPH)) > 0.005
    view.away()
    eventually(lambda: view.ask("graph", edges) == [])
    assert share_changed(before, view.picture("graph-plot", GRAPH)) < 0.001


@pytest.mark.parametrize(("level", "token"), [(0, 4), (0, 9), (1, 3)])
def test_clicking_a_token_draws_its_minimum_cut_and_clicking_beside_it_nothing(
    view, attention, level, token
):
    before = view.picture("graph-plot", GRAPH)
    cut = jaxflow.flow_cut(attention[level:], layer=-1, source=0, sink=token)
    edges = {(layer + level, query, key) for layer, query, key in cut.edges}
    view.page.mouse.click(*view.where("graph-plot", token, level))
    view.away()
    row = level * N + token
    eventually(lambda: view.ask("cut", "m.view.filter.indices") == [row])
    view.settle()
    assert f"flow {cut.value:.4g}" in view.ask("cut", f"m.data_source.data.words[{row}]")

    red, lines = drawn_lines(view, edges)
    # Every edge of the cut is there (nodes may hide its ends), and no other one.
    for line in lines:
        assert red[tuple(np.rint(line[40:160]).astype(int).T)].mean() > 0.75
    near = np.zeros_like(red)
    for across in range(-4, 5):
        for down in range(-4, 5):
            places = np.rint(np.concatenate(lines)).astype(int)
            near[places[:, 0] + down, places[:, 1] + across] = True
    outside = red & ~near
    left, top = (round(value) for value in view.where("graph-plot", token, level))
    outside[top - 10 : top + 11, left - 10 : left + 11] = False  # the token's own ring
    assert not outside.any()

    after = view.picture("graph-plot", GRAPH)
    assert share_changed(before, after) > 0.005
    view.page.mouse.click(*view.where("graph-plot", 0.5, 3.35))
    view.away()
    eventually(lambda: view.ask("cut", "m.view.filter.indices.length") == 0)
    view.settle()
    assert share_changed(before, view.picture("graph-plot", GRAPH)) < 0.001


def drawn_lines(view, edges):
    """Where the graph is as red as a cut, thickened by a pixel, and where its edges should be.

    Returns a mask of the page and for each edge points ``[P, 2]`` on it, (row, column).
    """
    corner, far = (np.array(view.where("graph-plot", x, x)) for x in (0, 1))
    shot = view.whole().astype(int)
    # Thin lines are smoothed into what is below them: any reddish tint.
    red = (shot[..., 0] - shot[..., 2] > 60) & (shot[..., 0] - shot[..., 1] > 30)
    ends = [view.where("graph-plot", *place) for place in ((-0.5, 3.3), (N - 0.5, -0.3))]
    inside = np.zeros_like(red)
    (left, top), (right, bottom) = ((round(x), round(y)) for x, y in ends)
    inside[top:bottom, left:right] = True
    red &= inside
    thick = red.copy()
    for shift in (-1, 1):
        for axis in (0, 1):
            thick |= np.roll(red, shift, axis)
    parts = np.linspace(0, 1, 200)[:, None]
    lines = []
    for layer, query, key in sorted(edges):
        start, end = np.array([query, layer + 1]), np.array([key, layer])
        places = corner + (start + (end - start) * parts) * (far - corner)
        lines.append(places[:, ::-1])
    return thick, lines


def test_the_slider_hides_light_edges_only(view, attention):
    weights = jaxflow.attention_graph(attention)
    low = view.ask("threshold", "m.value")
    before = view.picture("graph-plot", GRAPH)
    handle = view.page.locator(".view.graph .noUi-handle")
    handle.focus()
    view.page.keyboard.press("End")
    high = eventually(lambda: (now := view.ask("threshold", "m.value")) > low and now)
    view.settle()
    after = view.picture("graph-plot", GRAPH)
    assert share_changed(before, after, 10) > 0.005
    apart = [edge[2] for edge in weights.edges(data="capacity") if edge[0][1] != edge[1][1]]
    assert high > max(apart)  # so that only each token's own line is left
    columns = (np.abs(after.astype(int) - 255).max(-1) > 10).mean(0)
    width = after.shape[1] / N
    between = [round((place + 1) * width) for place in range(N - 1)]
    assert columns[between].max() == 0
    handle.focus()
    view.page.keyboard.press("Home")
    eventually(lambda: view.ask("threshold", "m.value") == 0)
    view.settle()
    assert share_changed(after, view.picture("graph-plot", GRAPH), 10) > 0.005


def test_a_stored_picture_of_the_graph_still_looks_the_same(view):
    view.page.mouse.click(*view.where("graph-plot", 9, 0))
    view.away()
    eventually(lambda: view.ask("cut", "m.view.filter.indices") == [9])
    view.settle()
    found = small(view.picture("graph-plot", GRAPH))
    if drawing := os.environ.get("JAXFLOW_DRAW_GOLDEN"):
        save(found, Path(drawing))
    assert np.abs(found.astype(int) - pixels(GOLDEN.read_bytes())).mean() < 4


def test_a_notebook_shows_it_in_a_frame_and_its_styles_stay_there(browser, page, tmp_path):
    file = tmp_path / "notebook.html"
    file.write_text(
        f"<!doctype html><meta charset='utf-8'><h1>mine</h1>{page._repr_html_()}", encoding="utf-8"
    )
    context = browser.new_context(viewport={"width": 1200, "height": 1000})
    context.set_offline(True)
    outer, troubles = context.new_page(), []
    outer.on("console", lambda line: line.type == "error" and troubles.append(line.text))
    outer.on("pageerror", lambda error: troubles.append(str(error)))
    outer.goto(file.as_uri())
    (frame,) = [frame for frame in outer.frames if frame != outer.main_frame]
    frame.wait_for_function("window.Bokeh?.documents[0]?.is_idle")
    frame.get_by_label("Method on the left").select_option("rollout")
    assert (
        frame.evaluate(
            "Bokeh.documents[0].get_model_by_name('bars-0').view.filter.operands[0].group"
        )
        == 1
    )
    margins = [one.evaluate("getComputedStyle(document.body).margin") for one in (outer, frame)]
    assert margins == ["8px", "0px"]
    assert troubles == []
    context.close()
