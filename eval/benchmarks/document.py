"""A benchmark's record as a page with its plots, written by one command."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from jaxflow.eval.benchmarks.lookup import Entry
from jaxflow.eval.benchmarks.page import to_page
from jaxflow.eval.benchmarks.plots import draw_plots
from jaxflow.eval.plots.style import save
from jaxflow.eval.report.text import json_text
from jaxflow.files import write_together

__all__ = ["NAME", "write_document"]

NAME = "benchmarks"


def write_document(record: Entry, folder: Path) -> list[Path]:
    """Write ``benchmarks.md``, ``benchmarks.json`` and the plots ``benchmarks/*.svg``.

    Parameters
    ----------
    record
        As `jaxflow.eval.benchmarks.record.record` makes it.
    folder
        Where to.

    Returns
    -------
    list of Path
        The files.

    Raises
    ------
    InputError
        If the folder cannot be written to.
    """
    plots = draw_plots(record)
    # The plots first: the page never names one that is not there.
    drawn = write_together(
        folder / NAME,
        {f"{name}.svg": partial(save, figure, form="svg") for name, figure in plots.items()},
    )
    page = to_page(record, {name: f"{NAME}/{name}.svg" for name in plots})
    return drawn + write_together(
        folder, {f"{NAME}.md": _text(page), f"{NAME}.json": _text(json_text(record))}
    )


def _text(text: str) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        path.write_text(text, encoding="utf-8")

    return write
