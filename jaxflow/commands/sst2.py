"""Provide the command ``jaxflow reproduce sst2``."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import jaxflow.commands._console as terminal
from jaxflow.commands._options import ScoringOptions, folder_name, given, options
from jaxflow.commands._runtime import compilation_cache, keep_freed_memory

if TYPE_CHECKING:
    from jaxflow.train.config import FineTuneConfig


@options
class ReproduceSst2:
    """Print the paper's Table 3, by its authors' protocol and by a corrected one, beside its own.

    A classifier is evaluated as it is. Any other model is fine-tuned on SST-2 first; a run that was
    cut off goes on from its last checkpoint.
    """

    data: Path | None = None
    """A folder with train.tsv and dev.tsv of sentence<TAB>label lines; by default glue/sst2, which
    is fetched."""
    model: Annotated[str, "PATH|NAME"] = "distilbert-base-uncased-finetuned-sst-2-english"
    """BERT, DistilBERT or RoBERTa: a folder, or a name on the hub."""
    out: Path | None = None
    """Folder for the results, with the fine-tuning run inside; by default runs/sst2-MODEL."""
    samples: int | None = None
    """Dev sentences of the corrected protocol, drawn at random; by default all."""
    paper_samples: int | None = None
    """Dev sentences of the authors' protocol; by default 100, as in the paper."""
    seed: int = 0
    """Of fine-tuning, the samples, the random baseline and the bootstrap."""
    no_special_tokens: bool = False
    """Leave [CLS] and [SEP] out of the tokens that are correlated."""
    threads: int | None = None
    """Threads for attention flow; by default all cores."""
    epochs: int | None = None
    """Passes over the training sentences."""
    batch: int | None = None
    """Sentences a step."""
    learning_rate: float | None = None
    """Peak learning rate of AdamW."""
    layer_decay: float | None = None
    """Learning rate of a layer as a share of that of the layer above."""
    dropout: float | None = None
    """Every dropout rate inside the model; by default its own."""
    word_dropout: float | None = None
    """Share of word pieces replaced by [MASK] while training."""
    average: float | None = None
    """Memory of the moving average of the parameters; 0 takes the last ones."""
    checkpoint_every: int | None = None
    """Steps between checkpoints, besides the ends of epochs."""
    scoring: ScoringOptions = dataclasses.field(default_factory=ScoringOptions)

    def run(self) -> None:
        """Fine-tune if need be, evaluate, print and write."""
        with terminal.starting("preparing the corpus and the model") as begun:
            self._run(begun)

    def _run(self, begun: Callable[[], None]) -> None:
        from rich.console import Console

        from jaxflow.errors import InputError
        from jaxflow.eval.paper.evaluate import check_out
        from jaxflow.eval.paper.report import print_report
        from jaxflow.eval.paper.sst2 import (
            Sst2Config,
            check_classifier,
            check_reader,
            evaluate_sst2,
        )
        from jaxflow.eval.score.target import scoring_of
        from jaxflow.models import load
        from jaxflow.train.finetuning import encode_held_out, finetune
        from jaxflow.train.lock import hold
        from jaxflow.train.sst2 import LABEL_NAMES, load_sst2

        keep_freed_memory()
        config = self._finetuning()
        protocol = Sst2Config(
            seed=self.seed,
            special_tokens=not self.no_special_tokens,
            threads=self.threads,
            target=self.scoring.target,
            replacement=self.scoring.replacement,
            **given(self, "samples", "paper_samples"),
        )
        out = self.out or Path("runs") / f"sst2-{folder_name(Path(self.model).name)}"
        check_out(out)
        model, accuracy, seconds = load(self.model), None, None
        tuned = model.config.head != "classification"
        # Before anything is fetched or trained.
        (check_reader if tuned else check_classifier)(model)
        judged = model.config
        if tuned:
            head: dict[str, Any] = {"head": "classification", "problem": None, "pooler": False}
            judged = dataclasses.replace(judged, **head | {"labels": LABEL_NAMES})
        scored = dataclasses.replace(model, config=judged)
        scoring_of(scored, protocol.target, protocol.replacement)
        corpus = load_sst2(self.data)
        sentences = len(corpus["dev"])
        if protocol.samples is not None and protocol.samples > sentences:
            raise InputError(
                f"samples must be at most {sentences}, the dev sentences, got {protocol.samples}"
            )
        with hold(out), compilation_cache():
            if tuned:
                with terminal.training(begun) as report:
                    result = finetune(model, corpus, config, out / "run", report)
                model, held_out = result.model, result.held_out
                accuracy, seconds = result.accuracy, result.seconds
            config = dataclasses.replace(
                config,
                positions=min(config.positions, model.config.positions),
            )
            if not tuned:
                held_out = encode_held_out(corpus, model, config.positions)
            begun()
            with terminal.counting("scoring") as count:
                evaluation = evaluate_sst2(
                    model,
                    held_out,
                    config.lengths,
                    protocol,
                    out,
                    made_with={
                        "classifier": self.model,
                        "data": self.data or "glue/sst2",
                        "finetuning": config.to_dict() if tuned else None,
                        "finetuning_seconds": seconds,
                    },
                    accuracy=accuracy,
                    report=count,
                )
            print_report(Console(), evaluation)
            assert evaluation.scoring is not None
            print(f"Corrected: {evaluation.scoring.describe()}.")
            print()
            if tuned:
                place = out / "run" / "model"
                print(f"fine-tuned {(seconds or 0) / 60:.1f} minutes; model in {place}")
            terminal.print_written(evaluation.files)

    def _finetuning(self) -> FineTuneConfig:
        from jaxflow.train.config import SST2

        names = ("epochs", "batch", "learning_rate", "layer_decay", "dropout", "word_dropout")
        chosen = given(self, "model", "data", "seed", *names, "average", "checkpoint_every")
        return dataclasses.replace(SST2, **chosen)
