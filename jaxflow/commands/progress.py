"""Progress on standard error: a bar on a terminal, a few plain lines elsewhere."""

from __future__ import annotations

import datetime
import math
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxflow.train.loop import Progress

__all__ = ["counting", "timing", "training"]

LINES = 10  # how many plain lines a whole run prints where there is no terminal


@contextmanager
def _bar(task: str) -> Iterator[tuple[Callable[[int, int, str], None], Callable[[str], None]]]:
    """Yield ``show(done, total, note)`` and ``say(line)``."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )
    from rich.progress import Progress as Bar

    console = Console(stderr=True, highlight=False)

    def say(line: str) -> None:
        console.print(line, markup=False, soft_wrap=True)

    if not console.is_terminal:
        shown = -1

        def show_line(done: int, total: int, note: str) -> None:
            nonlocal shown
            part = LINES * done // max(total, 1)
            if part > shown:
                shown = part
                say(f"{task} {done}/{total}{'  ' + note if note else ''}")

        yield show_line, say
        return

    columns: tuple[Any, ...] = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Bar(*columns, console=console, transient=True) as bar:
        number = bar.add_task(task, total=None, note="")
        yield (
            lambda done, total, note: bar.update(number, completed=done, total=total, note=note),
            say,
        )


@contextmanager
def training() -> Iterator[Callable[[Progress], None]]:
    """Show a training run."""
    with _bar("training") as (show, say):

        def report(progress: Progress) -> None:
            if progress.message:
                say(progress.message)
            else:
                note = f"loss {progress.loss:.3f}  accuracy {progress.accuracy:.3f}"
                if not math.isnan(progress.subject_share):
                    note += f"  subject's share {progress.subject_share:.3f}"
                show(progress.step, progress.steps, note)

        yield report


@contextmanager
def counting(task: str) -> Iterator[Callable[[int, int], None]]:
    """Show a count of things done."""
    with _bar(task) as (show, _):
        yield lambda done, total: show(done, total, "")


@contextmanager
def timing(task: str) -> Iterator[Callable[[int, int], None]]:
    """Show a count of things done and, off a terminal too, the time that is left."""
    with _bar(task) as (show, _):
        begun = time.monotonic()

        def report(done: int, total: int) -> None:
            left = (time.monotonic() - begun) * (total - done) / done if done else math.nan
            known = not math.isnan(left) and not sys.stderr.isatty()  # a bar shows it itself
            show(done, total, f"{datetime.timedelta(seconds=round(left))} left" if known else "")

        yield report
