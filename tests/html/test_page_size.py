"""Long sentences and many layers: the page stays small, says what it left out, and opens."""

from __future__ import annotations

import numpy as np
import pytest
from browser import View, chromium, eventually, reason_for_none
from page_reader import columns

import jaxflow

REASON = reason_for_none()


def random_page(layers, heads, n):
    """Attention without any structure, the hardest to make small."""
    rows = np.random.default_rng(0).dirichlet(np.ones(n), (layers, heads, n))
    return rows.astype(np.float32), jaxflow.show(rows.astype(np.float32))


@pytest.fixture(scope="module")
def large():
    return random_page(12, 12, 128)


def test_a_usual_sentence_keeps_four_decimals_and_all_cuts():
    _, page = random_page(6, 8, 50)
    assert len(page.html.encode()) < 3_000_000
    assert "Values are rounded to 0.0001" in page.html
    assert sum(len(xs) > 0 for xs in columns(page.html, "cut")["xs"]) == 6 * 50


def test_a_large_one_stays_below_five_megabytes_and_says_what_is_left_out(large):
    attention, page = large
    assert len(page.html.encode()) < 5_000_000
    data = columns(page.html, "map")
    assert len(data["image"]) == 12 * 13
    for image, layer, head in zip(data["image"], data["layer"], data["head"], strict=True):
        if head:
            expected = attention[layer - 1, head - 1]
            np.testing.assert_allclose(np.asarray(image) * 0.001, expected, atol=0.00051)
    assert "Values are rounded to 0.001" in page.html
    assert "Left out to keep the page small: 191,608 of 196,608 edges" in page.html
    assert "cuts to tokens between input and top" in page.html


@pytest.mark.browser
@pytest.mark.skipif(REASON is not None, reason=str(REASON))
@pytest.mark.parametrize("shape", [(6, 8, 50), (12, 12, 128)], ids=str)
def test_it_opens_and_answers(shape, large, tmp_path, record_property):
    page = large[1] if shape == (12, 12, 128) else random_page(*shape)[1]
    file = page.save(tmp_path / "page.html")
    with chromium() as browser:
        view = View(browser, file, height=1500)
        painted = view.page.evaluate(
            "Object.fromEntries(performance.getEntriesByType('paint')"
            ".map(entry => [entry.name, Math.round(entry.startTime)]))"
        )
        ready = view.page.evaluate("window.ready")
        view.page.evaluate("document.querySelector('.view.graph').scrollIntoView()")
        view.point("graph-plot", 3, 0)
        assert "token 3" in eventually(view.tooltip)
        view.page.mouse.click(*view.where("graph-plot", 3, 0))
        eventually(lambda: view.ask("cut", "m.view.filter.indices") == [3])
        assert view.troubles == []
        assert view.asked == []
        view.close()
    # Told at the end of the run, and held to nothing: a busy machine is slow.
    record_property(
        "measured",
        f"page of {shape}: {file.stat().st_size / 1e6:.2f} MB, first paint "
        f"{painted['first-contentful-paint']} ms, everything drawn {ready} ms after opening",
    )
