"""Show a page in Chromium without a network, and query its elements."""

from __future__ import annotations

import io
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
PATIENCE = 30.0  # seconds: nothing takes as long unless it never comes

# Page coordinates of a place in the plot of that name.
_WHERE = """([name, x, y]) => {
  const view = Bokeh.index.find_one(Bokeh.documents[0].get_model_by_name(name));
  const box = view.canvas_view.el.getBoundingClientRect();
  return [box.left + view.frame.x_scale.compute(x), box.top + view.frame.y_scale.compute(y)];
}"""
_QUIET = """() => new Promise(done => {
  const wait = () => Bokeh.documents[0].is_idle ? requestAnimationFrame(() => setTimeout(done, 60))
                                               : setTimeout(wait, 20);
  requestAnimationFrame(wait);
})"""


def reason_for_none() -> str | None:
    """Return why there is no browser to test with, or None if there is one."""
    try:
        import playwright  # noqa: F401
    except ImportError:
        return "playwright is not installed: pip install 'jaxflow[test]'"
    if _executable() is None:
        return f"no {NAMES[0]} on this machine: apt-get install {NAMES[0]}"
    return None


def _executable() -> str | None:
    named = os.environ.get("JAXFLOW_CHROMIUM")
    return named or next(filter(None, map(shutil.which, NAMES)), None)


@contextmanager
def chromium() -> Iterator[Any]:
    """Start a browser that nothing else uses."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=_executable(), args=["--no-sandbox", "--disable-gpu"]
        )
        try:
            yield browser
        finally:
            browser.close()


class View:
    """A page opened from a file."""

    def __init__(self, browser: Any, file: Path, height: int = 2400) -> None:
        self.context = browser.new_context(viewport={"width": 1200, "height": height})
        self.context.set_offline(True)
        self.asked: list[str] = []
        self.troubles: list[str] = []
        self.context.route("http*://**", self._refuse)
        self.page = self.context.new_page()
        self.page.set_default_timeout(1000 * PATIENCE)
        self.page.on("console", self._listen)
        self.page.on("pageerror", lambda error: self.troubles.append(str(error)))
        self.page.on("dialog", self._dialog)
        self.page.goto(file.as_uri())
        self.page.wait_for_function(
            "window.Bokeh?.documents[0]?.is_idle && (window.ready = Math.round(performance.now()))"
        )
        self.settle()

    def settle(self) -> None:
        """Wait until what was changed is drawn."""
        self.page.evaluate(_QUIET)

    def close(self) -> None:
        self.context.close()

    def where(self, plot: str, x: float, y: float) -> tuple[float, float]:
        left, top = self.page.evaluate(_WHERE, [plot, x, y])
        return left, top

    def point(self, plot: str, x: float, y: float) -> None:
        """Move the pointer onto a place of a plot in several steps."""
        left, top = self.where(plot, x, y)
        self.page.mouse.move(left - 3, top - 3)
        self.page.mouse.move(left, top, steps=3)

    def away(self) -> None:
        self.page.mouse.move(2, 2)
        self.settle()

    def tooltip(self) -> str:
        """Return the tooltip's text, in one line."""
        shown = self.page.locator(".bk-tooltip-content").all_inner_texts()
        return " ".join(" ".join(shown).split())

    def ask(self, model: str, expression: str) -> Any:
        """Evaluate a JavaScript expression of the model ``m`` of that name."""
        return self.page.evaluate(
            "([name]) => { const m = Bokeh.documents[0].get_model_by_name(name); "
            f"return {expression}; }}",
            [model],
        )

    def whole(self) -> np.ndarray:
        return pixels(self.page.screenshot())

    def colours(self, plot: str, xs: np.ndarray, ys: np.ndarray) -> np.ndarray:
        """Return the colours at places of a plot, whose axes are both linear."""
        corner, far = (np.array(self.where(plot, at, at)) for at in (0, 1))
        left, top = np.rint(corner[:, None] + (far - corner)[:, None] * [xs, ys]).astype(int)
        return self.whole()[top, left].astype(int)

    def _refuse(self, route: Any) -> None:
        self.asked.append(route.request.url)
        route.abort()

    def _listen(self, message: Any) -> None:
        if message.type in ("error", "warning"):
            self.troubles.append(message.text)

    def _dialog(self, dialog: Any) -> None:
        self.troubles.append(f"dialog: {dialog.message}")
        dialog.dismiss()


def pixels(png: bytes) -> np.ndarray:
    """Return a PNG as uint8 ``[height, width, 3]``."""
    from PIL import Image

    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))


def eventually(found: Callable[[], Any]) -> Any:
    """Return what a function gives as soon as it is true."""
    end = time.monotonic() + PATIENCE
    while not (value := found()):
        assert time.monotonic() < end, "it never came"
        time.sleep(0.05)
    return value
