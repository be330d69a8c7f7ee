"""``jaxflow reproduce decoders``."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

import jaxflow.commands.progress as progress
from jaxflow.commands.heap import keep_heap
from jaxflow.commands.training import TrainOptions
from jaxflow.errors import InputError

if TYPE_CHECKING:
    from jaxflow.train.config import TrainConfig

__all__ = ["ReproduceDecoders"]


@dataclasses.dataclass(frozen=True)
class ReproduceDecoders:
    """Divide a decoder's rollout and flow by what a token's place explains, and compare.

    Trains a causal encoder, or reads a finished one, and measures the row of its last word before
    and after normalisation by the receptive field: the mass on the first token, correlations with
    the position, with blank-out and with gradients, and how often the subject noun comes first.
    """

    run_folder: Annotated[Path | None, tyro.conf.arg(name="run", metavar="PATH")] = None
    """A finished causal run, instead of training one. Of the options of training only --data goes
    with it: where its corpus lies now, if it has moved."""
    split: str | None = None
    """Which held-out sentences; by default test, and subjects where the corpus has it."""
    samples: int = 2000
    """Sentences of a split to score, drawn at random; of a smaller one all are."""
    threads: int | None = None
    """Threads for attention flow; by default all cores."""
    out: Path | None = None
    """Folder for the results, with the training run inside; by default
    runs/decoders-CORPUS-seedS, or decoders/ in the run's folder."""
    training: TrainOptions = dataclasses.field(default_factory=TrainOptions)

    def run(self) -> None:
        """Train or load, score, print and write."""
        from rich.console import Console

        from jaxflow.eval.decoders_report import print_decoders
        from jaxflow.eval.decoders_study import pick_splits, study_decoder, write_decoders
        from jaxflow.eval.paper.evaluate import versions
        from jaxflow.eval.paper.protocol import ProtocolConfig
        from jaxflow.models import load
        from jaxflow.train.batches import accuracies
        from jaxflow.train.corpus import load_corpus
        from jaxflow.train.data import load_splits
        from jaxflow.train.lock import hold
        from jaxflow.train.loop import train

        keep_heap()
        if self.samples < 1:
            raise InputError(f"samples must be at least 1, got {self.samples}")
        config = self._config()
        protocol = ProtocolConfig(samples=self.samples, seed=config.seed, threads=self.threads)
        if self.run_folder is None:
            out = self.out or Path("runs") / f"decoders-{config.corpus}-seed{config.seed}"
        else:
            out = self.out or self.run_folder / "decoders"
        with hold(out):
            if self.run_folder is None:
                if self.split is not None:  # refused before anything is trained
                    corpus = load_corpus(config.corpus, config.data, seed=config.seed)
                    pick_splits([n for n in corpus if not n.startswith("train")], self.split)
                with progress.training() as report:
                    result = train(config, out / "run", report)
                model, splits, accuracy = result.model, result.held_out, result.accuracy
            else:
                model = load(self.run_folder)
                splits = load_splits(config, model.whole_words)
                accuracy = {}
            names = pick_splits(list(splits), self.split)
            chosen = {name: splits[name] for name in names}
            with progress.counting("scoring") as count:
                found = study_decoder(model, chosen, config.lengths, protocol, count)
            accuracy = accuracy or accuracies(model.probabilities, chosen, config.lengths)
            files = write_decoders(
                out,
                found,
                accuracy={name: accuracy[name] for name in names},
                config={
                    "train": config.to_dict(),
                    "model": model.config.to_dict(),
                    "samples": self.samples,
                    "seed": protocol.seed,
                    "residual": protocol.residual,
                },
                versions=versions(),
            )
            console = Console(highlight=False)
            if not console.is_terminal:  # a file has no width that a table must fit
                console = Console(highlight=False, width=200)
            print_decoders(console, found, {name: accuracy[name] for name in names})
            print()
            for file in files:
                print(f"wrote {file}")

    def _config(self) -> TrainConfig:
        """Return the configuration of the run to train, or of the one that is read."""
        from jaxflow.train.run import read_config

        if self.run_folder is None:
            return dataclasses.replace(self.training, causal=True).config()
        plain = TrainOptions(data=self.training.data)
        idle = [
            field.name
            for field in dataclasses.fields(plain)
            if getattr(self.training, field.name) != getattr(plain, field.name)
        ]
        if idle:
            raise InputError(
                f"--run is a finished run: leave --{idle[0].replace('_', '-')} out, or train one "
                "without --run"
            )
        stored = read_config(self.run_folder)
        if stored is None:
            raise InputError(
                f"no run at {self.run_folder}: expected a folder that jaxflow train wrote"
            )
        if not stored.causal:
            raise InputError(
                f"the run at {self.run_folder} must be a causal one, as jaxflow train --causal "
                "makes it"
            )
        return plain.config(stored)
