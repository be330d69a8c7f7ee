"""All files of a board."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from jaxflow.eval.leaderboard.board import Board
from jaxflow.eval.leaderboard.report import as_markdown, record, write_parquet
from jaxflow.eval.leaderboard.summary import TITLES, Summary
from jaxflow.eval.paper.evaluate import versions
from jaxflow.eval.report.text import json_text
from jaxflow.files import write_together
from jaxflow.models import Model

__all__ = ["write_board"]


def write_board(
    out: Path,
    summary: Summary,
    boards: Sequence[Board],
    names: Sequence[str],
    model: Model,
    config: Mapping[str, Any],
    *,
    shown: int = 30,
) -> list[Path]:
    """Write a board to a folder, all files or none.

    Parameters
    ----------
    out
        The folder.
    summary, boards, names
        What was found, of which runs.
    model
        The first run's, whose sentences the page shows.
    config
        What made it.
    shown
        How many sentences the page shows.

    Returns
    -------
    list of Path
        ``leaderboard.md``, ``.json``, ``.parquet``, ``.html``, ``critical-difference.svg``, and
        ``layers.svg`` of a model with more than one layer.

    Raises
    ------
    InputError
        If the folder cannot be written.
    """
    from jaxflow.eval.leaderboard.page import as_leaderboard_page
    from jaxflow.eval.plots.leaderboard import draw_critical_difference
    from jaxflow.eval.plots.leaderboard_layers import draw_layers
    from jaxflow.eval.plots.style import save

    first = boards[0]
    sentences = list(range(min(shown, len(first.cases))))
    tokens = [
        model.text.decode(first.cases.tokens[row, : first.cases.lengths[row]].tolist())
        for row in sentences
    ]
    labels = list(model.config.labels)
    made = {**config, "versions": versions()}
    page = as_leaderboard_page(
        summary,
        first,
        tokens,
        labels,
        sentences,
        probabilities=first.probability[sentences].tolist(),
    )
    tested = (
        summary.key if summary.key in summary.significance else next(iter(summary.significance))
    )
    figure = draw_critical_difference(
        summary.significance[tested],
        [line.method.name for line in summary.finals],
        title=f"Mean rank by {TITLES[tested]}",
    )
    texts = {
        "leaderboard.md": as_markdown(summary, made),
        "leaderboard.json": json_text(record(summary, made), indent=None),
        "leaderboard.html": page,
    }
    writers: dict[str, Callable[[Path], None]] = {
        name: partial(_fill, text) for name, text in texts.items()
    }
    writers["leaderboard.parquet"] = partial(write_parquet, boards=boards, seeds=names)
    writers["critical-difference.svg"] = partial(save, figure, form="svg")
    if max(layer or 0 for _, layer in first.rows):
        writers["layers.svg"] = partial(save, draw_layers(summary), form="svg")
    return write_together(out, writers)


def _fill(text: str, path: Path) -> None:
    path.write_text(text, encoding="utf-8")
