"""Write a small agreement corpus in the public format, and configure runs of seconds."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from jaxflow.train.config import TrainConfig
from jaxflow.train.formats import Example
from jaxflow.train.grammar import generate

LABELS = ("VBZ", "VBP")
POSITIONS = 12
ROWS = {
    "train": (240, 0),
    "train.attractors": (60, 1),
    "val": (30, 0),
    "test": (60, 0),
    "test.1": (20, 1),
    "test.2": (20, 2),
}


def _short(number: int, rows: int, attractors: int | None) -> Iterator[Example]:
    """Sentences that fit: every padded length in use costs compiling."""
    every = generate((11, number), None, attractors)
    return islice((row for row in every if row.prefix.count(" ") + 2 <= POSITIONS), rows)


def write_small_corpus(folder: Path) -> Path:
    """Write ``numpred.*`` files and ``subjects.tsv`` from the built-in grammar."""
    folder.mkdir(parents=True)
    for number, (name, (rows, attractors)) in enumerate(ROWS.items()):
        lines = [
            f"{LABELS[example.label]}\t{example.prefix}\n"
            for example in _short(number, rows, attractors)
        ]
        (folder / f"numpred.{name}").write_text("".join(lines))
    lines = ["label\tprefix\tsubject_index\tn_attractors\n"]
    for row in _short(99, 20, None):
        cells = (LABELS[row.label], row.prefix, row.subject_index, row.n_attractors)
        lines.append("\t".join(map(str, cells)) + "\n")
    (folder / "subjects.tsv").write_text("".join(lines))
    return folder


def small_config(data: Path, **options: object) -> TrainConfig:
    """A run of 30 steps in three epochs, with every kind of noise that training has."""
    sizes = {"layers": 1, "heads": 2, "width": 16, "batch": 32, "epochs": 3}
    return TrainConfig(
        **{  # type: ignore[arg-type]
            "corpus": "simple",
            "data": data,
            "attractor_share": 0.25,
            "buckets": (),  # one shape, because each is compiled
            "positions": POSITIONS,
            "checkpoint_every": 7,
        }
        | sizes
        | options
    )
