"""Read standard input, write standard output and show progress."""

from __future__ import annotations

import datetime
import math
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Timer
from typing import TYPE_CHECKING, Any

from jaxflow.errors import InputError

if TYPE_CHECKING:
    from rich.console import Console

    from jaxflow.train.loop import Progress

LINES = 10  # progress lines of a whole run where there is no terminal
PATIENCE = 2.0  # seconds without any output


def console(width: int = 200) -> Console:
    """Return a console on standard output; a file, which has no width of its own, gets `width`."""
    from rich.console import Console

    found = Console(highlight=False)
    return found if found.is_terminal else Console(highlight=False, width=width)


def print_written(files: list[Path] | tuple[Path, ...]) -> None:
    """Print which files were written."""
    for file in files:
        print(f"wrote {file}")


def save(path: Path, content: str | bytes | Callable[[Path], object]) -> None:
    """Write a result to a file, or to standard output for ``-``; or let a function write it."""
    from jaxflow.files import write_together

    if str(path) != "-":
        write_together(path.parent, {path.name: content})
        # Standard output may hold another result.
        print(f"wrote {path}", file=sys.stderr)
        return
    if callable(content):
        import tempfile

        with tempfile.TemporaryDirectory() as folder:
            content(Path(folder) / "output")
            content = (Path(folder) / "output").read_bytes()
    sys.stdout.flush()
    sys.stdout.buffer.write(content if isinstance(content, bytes) else content.encode("utf-8"))
    sys.stdout.buffer.flush()


def read_sentences(file: Path) -> list[str]:
    """Return the lines of a file that are not empty; ``-`` is standard input.

    Raises `InputError` if it cannot be read or is not UTF-8 text.
    """
    standard = str(file) == "-"
    try:
        data = sys.stdin.buffer.read() if standard else file.read_bytes()
        text = data.decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        name = "standard input" if standard else file
        raise InputError(
            f"{name} must be text, a sentence a line, and cannot be read: {reason}"
        ) from error
    # Only line ends: str.splitlines also splits at other characters, which sentences may hold.
    return [line.strip("\r") for line in text.split("\n") if line.strip()]


@contextmanager
def _bar(task: str) -> Iterator[tuple[Callable[[int, int, str], None], Callable[[str], None]]]:
    """Yield ``show(done, total, note)`` and ``print_line(line)``, both to standard error."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )
    from rich.progress import Progress as Bar

    stderr = Console(stderr=True, highlight=False)

    def print_line(line: str) -> None:
        stderr.print(line, markup=False, soft_wrap=True)

    if not stderr.is_terminal:
        shown = -1

        def show_line(done: int, total: int, note: str) -> None:
            nonlocal shown
            part = LINES * done // max(total, 1)
            if part > shown:
                shown = part
                print_line(f"{task} {done}/{total}{'  ' + note if note else ''}")

        yield show_line, print_line
        return

    columns: tuple[Any, ...] = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Bar(*columns, console=stderr, transient=True) as bar:
        number = bar.add_task(task, total=None, note="")
        yield (
            lambda done, total, note: bar.update(number, completed=done, total=total, note=note),
            print_line,
        )


@contextmanager
def starting(what: str, *, shown: bool = True) -> Iterator[Callable[[], None]]:
    """State what a command begins with once that takes `PATIENCE` seconds.

    Unusable input, which is found sooner, is thus an error alone on its line. What is yielded is to
    be called when something else is shown.
    """
    timer = Timer(PATIENCE, lambda: print(f"{what} ...", file=sys.stderr, flush=True))
    timer.daemon = True
    if shown:
        timer.start()
    try:
        yield timer.cancel
    finally:
        timer.cancel()


@contextmanager
def training(begun: Callable[[], None] = lambda: None) -> Iterator[Callable[[Progress], None]]:
    """Show the progress of a training run, with its rate and the time left.

    `begun` is called before the first line.
    """
    with _bar("training") as (show, print_line):
        first: tuple[float, int] | None = None

        def report(progress: Progress) -> None:
            nonlocal first
            begun()
            now = time.monotonic()
            if progress.message:
                print_line(progress.message)
                first = (now, progress.step) if progress.compiled else first
                return
            note = f"loss {progress.loss:.3f}  accuracy {progress.accuracy:.3f}"
            if not math.isnan(progress.subject_share):
                note += f"  subject's share {progress.subject_share:.3f}"
            since, before = first = first or (now, progress.step)
            if now > since and progress.step > before:
                rate = (progress.step - before) / (now - since)
                left = datetime.timedelta(seconds=round((progress.steps - progress.step) / rate))
                note += f"  {rate:.1f} steps/s"
                note += "" if sys.stderr.isatty() else f", {left} left"  # which a bar shows
            show(progress.step, progress.steps, note)

        yield report


@contextmanager
def counting(task: str) -> Iterator[Callable[[int, int], None]]:
    """Show how much of a task is done, and off a terminal the time that is left."""
    with _bar(task) as (show, _):
        first: tuple[float, int] | None = None

        def report(done: int, total: int) -> None:
            nonlocal first
            now = time.monotonic()
            if first is None:  # what comes before it is compiling, mostly
                first = now, done
            begun, before = first
            rate = (done - before) / (now - begun) if now > begun else 0.0
            left = (total - done) / rate if rate else math.nan
            # A bar shows the time itself; less than half a minute is not worth a word.
            known = left > 30 and not sys.stderr.isatty()
            show(done, total, f"{datetime.timedelta(seconds=round(left))} left" if known else "")

        yield report
