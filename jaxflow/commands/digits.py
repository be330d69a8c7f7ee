"""``jaxflow reproduce digits``."""

from __future__ import annotations

import dataclasses
from importlib import metadata
from pathlib import Path
from typing import Literal

import jaxflow.commands.progress as progress
from jaxflow.commands.heap import keep_heap

__all__ = ["ReproduceDigits"]


@dataclasses.dataclass(frozen=True)
class ReproduceDigits:
    """Train a small vision Transformer on scikit-learn's digits and check its maps by occlusion.

    Takes a minute or two on two cores. With a finished run in the folder only the maps are made.
    """

    out: Path | None = None
    """Folder for the results, with the training run inside; by default runs/digits-seedS."""
    seed: int = 0
    """Of training, the random baseline and the bootstrap."""
    epochs: int | None = None
    """Passes over the training images."""
    patch: int | None = None
    """Side of a patch in pixels: 1, 2 or 4."""
    layers: int | None = None
    """Blocks of the model."""
    readout: Literal["cls", "mean"] | None = None
    """What the class is read off: [CLS], or the patches' mean."""
    samples: int | None = None
    """Test images to score, the first of them; by default all 360."""
    threads: int | None = None
    """Threads for attention flow; by default all cores."""

    def run(self) -> None:
        """Train or load, score, print and write."""
        from rich.console import Console

        from jaxflow.errors import InputError
        from jaxflow.eval.digits import score_digits
        from jaxflow.eval.digits_report import print_digits, write_digits, write_example
        from jaxflow.eval.digits_tables import build_digits_tables
        from jaxflow.eval.paper.evaluate import versions
        from jaxflow.train.digits import DigitsConfig, digits_run
        from jaxflow.train.digits_data import load_digits
        from jaxflow.train.lock import hold

        keep_heap()
        given = {
            name: getattr(self, name)
            for name in ("epochs", "patch", "layers", "readout")
            if getattr(self, name) is not None
        }
        config = DigitsConfig(seed=self.seed, **given)
        test = load_digits()["test"]
        samples = len(test.labels) if self.samples is None else self.samples
        if not 1 <= samples <= len(test.labels):
            raise InputError(
                f"samples must be from 1 to the {len(test.labels)} test images, got {samples}"
            )
        out = self.out or Path("runs") / f"digits-seed{self.seed}"
        with hold(out):
            with progress.training() as report:
                result = digits_run(config, out / "run", report)
            with progress.counting("scoring") as count:
                scores = score_digits(
                    result.model,
                    test.at(slice(samples)),
                    seed=self.seed,
                    threads=self.threads,
                    report=count,
                )
            tables = build_digits_tables(scores, self.seed)
            files = write_digits(
                out,
                result.model,
                scores,
                tables,
                accuracy=result.accuracy,
                config={
                    "train": dataclasses.asdict(config),
                    "model": result.model.config.to_dict(),
                    "training_seconds": round(result.seconds, 1),
                    "samples": samples,
                },
                versions=versions()
                | {name: metadata.version(name) for name in ("scikit-learn", "pillow")},
            )
            files += write_example(out, result.model, scores.images)
            console = Console(highlight=False)
            if not console.is_terminal:  # a file has no width that a table must fit
                console = Console(highlight=False, width=140)
            print_digits(console, tables, result.accuracy)
            for file in files:
                print(f"wrote {file}")
