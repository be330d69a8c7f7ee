"""Checkpoints cut off at every 4 KiB boundary of every file, or with a flipped bit."""

from __future__ import annotations

import io
import shutil
from collections.abc import Iterator
from contextlib import redirect_stderr
from pathlib import Path
from random import Random
from typing import Any

from faulting.works import _arrays

__all__ = ["cases", "try_damages"]

PAGE = 4096
READ = 25  # of so many cases one reads what it is left with


def cases(folder: Path, count: int) -> Iterator[tuple[str, str, int]]:
    """Yield ``(file, kind, place)`` for a checkpoint: all cuts first, then flipped bits."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    made = 0
    for path in files:
        for size in range(0, path.stat().st_size, PAGE):
            made += 1
            yield path.relative_to(folder).as_posix(), "cut", size
    rng = Random("damages")
    flipped = [path for path in files if path.stat().st_size]
    for number in range(max(count - made, 0)):
        path = flipped[number % len(flipped)]
        place = rng.randrange(8 * path.stat().st_size)
        yield path.relative_to(folder).as_posix(), "flip", place


def damage(path: Path, kind: str, place: int) -> None:
    """Cut a file off behind `place` bytes, or flip bit `place`."""
    content = bytearray(path.read_bytes())
    if kind == "cut":
        del content[place:]
    else:
        content[place // 8] ^= 1 << place % 8
    path.write_bytes(content)


def try_damages(run: str, scratch: str, count: int) -> dict[str, Any]:
    """Damage the last checkpoint of a run again and again, and open its checkpoints each time.

    Returns
    -------
    dict
        ``tried``, ``cut`` and ``flipped``; ``wrong``, in words.
    """

    from jaxflow.train.checkpoint import Checkpoints, _checksum

    kept = Path(run) / "checkpoints"
    before, last = sorted((path for path in kept.iterdir()), key=lambda path: int(path.name))[-2:]
    good = _checksum(before)
    numbers = _arrays(before / "default")
    tried: dict[str, int] = {"cut": 0, "flip": 0}
    wrong: list[str] = []
    for name, kind, place in cases(last, count):
        what = f"{name}, {kind} at {place}"
        tried[kind] += 1
        folder = Path(scratch) / "checkpoints"
        shutil.rmtree(scratch, ignore_errors=True)
        shutil.copytree(before, folder / before.name)
        shutil.copytree(last, folder / last.name)
        damage(folder / last.name / name, kind, place)
        said: list[str] = []
        printed = io.StringIO()
        try:
            with redirect_stderr(printed):
                checkpoints = Checkpoints(folder, said.append)
                step = checkpoints._manager.latest_step()
                checkpoints.close()
        except Exception as error:
            wrong.append(f"{what}: {error!r}")
            continue
        aside = folder.with_name("checkpoints-damaged") / last.name
        if str(step) != before.name or _checksum(folder / before.name) != good:
            wrong.append(f"{what}: the checkpoint of step {step} is used")
        elif sum(tried.values()) % READ == 1 and _arrays(folder / str(step) / "default") != numbers:
            wrong.append(f"{what}: the checkpoint of step {step} holds other numbers")
        if len(said) != 1 or str(folder / last.name) not in said[0] or printed.getvalue():
            wrong.append(f"{what}: said {said} {printed.getvalue()!r}")
        if not aside.is_dir() or (folder / last.name).exists():
            wrong.append(f"{what}: the damaged one is not aside")
    shutil.rmtree(scratch, ignore_errors=True)
    return {"tried": sum(tried.values()), **tried, "wrong": wrong}
