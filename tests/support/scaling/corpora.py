"""A tiny trained encoder, and corpora of any size for it to be judged on."""

from __future__ import annotations

import os
import subprocess
import sys
from itertools import islice
from pathlib import Path

from many_devices import environment

from jaxflow.train.formats import Example
from jaxflow.train.grammar import generate

__all__ = ["MODEL", "Place"]

#: What the encoder is: the device's part of a sentence is small beside the host's.
MODEL = {"layers": 1, "heads": 2, "width": 16}

_LABELS = ("VBZ", "VBP")
_PREPARE = "import sys; from jaxflow.train.corpus import open_corpus; open_corpus('simple', {!r})"


class Place:
    """A folder of corpora, with the run that is judged and the cache that both fill.

    What is there is not made again.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.run = folder / "run"
        self.environment = {"XDG_CACHE_HOME": str(folder / "cache"), "NO_COLOR": "1"}

    def train(self) -> None:
        """Train the encoder for a few steps."""
        if not (self.run / "model").exists():
            options = [f"--{name}={value}" for name, value in MODEL.items()]
            self._call(
                *("-m", "jaxflow", "train", "--data", self.corpus(64), "--out", self.run),
                *("--epochs", "1", *options),
            )

    def corpus(self, sentences: int) -> Path:
        """Write a corpus with so many test sentences and prepare it, in a process of its own.

        Preparing holds all rows in memory, which would be counted among what the evaluation needs.
        """
        folder = self.folder / f"corpus-{sentences}"
        if not folder.exists():
            part = folder.with_name(f".{folder.name}.part")
            part.mkdir(parents=True, exist_ok=True)
            for number, (name, rows) in enumerate({"train": 4_096, "val": 64}.items()):
                _write(part / f"numpred.{name}", number, rows)
            _write(part / "numpred.test", 9, sentences)
            part.rename(folder)
            self._call("-c", _PREPARE.format(str(folder)))
        return folder

    def _call(self, *arguments: object) -> None:
        done = subprocess.run(
            [sys.executable, *map(str, arguments)],
            env={**environment(), **self.environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"{arguments} ended with {done.returncode}: {done.stderr[-2000:]}")


def _write(path: Path, seed: int, rows: int) -> None:
    def line(example: Example) -> str:
        return f"{_LABELS[example.label]}\t{example.prefix}\n"

    with path.open("w", encoding="utf-8") as file:
        file.writelines(map(line, islice(generate((23, seed), None), rows)))
        os.fsync(file.fileno())
