"""An evaluation in shards: each process scores its own, and what is there is never done again.

A shard is a run of the chosen sentences, and with them its part of every held-out split, whose
right answers it counts. What a shard holds depends on the plan alone, not on who makes it: its file
appears under its name when it is whole, and made twice it has the same bytes. So processes need not
know of each other. A killed one is started again and finds what it had finished; the last step puts
the shards together into what an evaluation in one piece writes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from jaxflow.errors import InputError
from jaxflow.eval.paper.evaluate import Evaluation, config_of, write_evaluation
from jaxflow.eval.paper.protocol import ProtocolConfig, chosen_rows
from jaxflow.eval.sharded.files import Shard, read_shard, write_shard
from jaxflow.eval.sharded.plan import checksum, claim_plan, plan_of
from jaxflow.eval.sharded.scores import ShardScores
from jaxflow.eval.sharded.sentences import Places, ShardSource, read_ahead
from jaxflow.eval.sharded.work import Report, shard_scorer
from jaxflow.models import Model, WordTokenizer, load
from jaxflow.train.config import TrainConfig
from jaxflow.train.corpus import StoredSplit, open_corpus

__all__ = ["ShardedEvaluation", "open_sharded"]


@dataclasses.dataclass(frozen=True, eq=False)
class ShardedEvaluation:
    """All that every process must agree on, and what it works with.

    Attributes
    ----------
    model, tokenizer, config, protocol
        The model, its vocabulary, how it was trained, and how sentences are scored.
    splits
        The held-out splits on disk, the sentences that fit the model's positions alone.
    too_long
        By split, how many others there are.
    chosen
        Places in ``splits["test"]`` of the sentences to score, ascending; int64 ``[S]``.
    shards
        How many the work is cut into.
    folder
        Where their files lie.
    plan
        Checksum of everything above.
    """

    model: Model
    tokenizer: WordTokenizer
    config: TrainConfig
    protocol: ProtocolConfig
    splits: Mapping[str, StoredSplit]
    too_long: Mapping[str, int]
    chosen: np.ndarray
    shards: int
    folder: Path
    plan: str

    def path(self, shard: int) -> Path:
        """Return a shard's file; shards count from 0."""
        return self.folder / f"shard-{shard:05d}-of-{self.shards:05d}.parquet"

    def part(self, shard: int, rows: int) -> slice:
        """Return a shard's part of so many rows: a run of them, all nearly equally long."""
        return slice(shard * rows // self.shards, (shard + 1) * rows // self.shards)

    def missing(self) -> list[int]:
        """Return the shards whose files are not there."""
        return [shard for shard in range(self.shards) if not self.path(shard).exists()]

    def work(
        self,
        process: int = 0,
        processes: int = 1,
        report: Report = lambda done, total: None,
    ) -> None:
        """Make those of one process's shards that are missing.

        Parameters
        ----------
        process, processes
            It makes shards `process`, `process` + `processes`, and so on.
        report
            Called with the number of sentences done, and how many this process has to do.

        Raises
        ------
        InputError
            If the corpus is damaged or the folder cannot be written.
        """
        mine = [shard for shard in self.missing() if shard % processes == process]
        sizes = [self._size(shard) for shard in mine]
        before, total = 0, sum(sizes)
        score = shard_scorer(
            self.model,
            self.config.lengths,
            self.protocol,
            longest=int(self.splits["test"].words[self.chosen].max()) + 1,
            plan=self.plan,
        )
        sentences = read_ahead(
            ShardSource(self.splits, self.tokenizer, self.config.positions, mine, self._places)
        )

        def count(done: int, _: int = 0) -> None:
            report(before + done, total)

        count(0)
        for shard, size in zip(mine, sizes, strict=True):
            write_shard(self.path(shard), score(next(sentences), count))
            before += size

    def merge(self, out: Path) -> Evaluation:
        """Put the shards together into an evaluation's files.

        ``scores.npz`` holds the scores by sentence with their rows and labels, not those by token.
        Scores stay in the shards and are read a few arrays ``[S, L]`` at a time, so that memory
        holds these and some 400 MB, however many sentences there are.

        Raises
        ------
        InputError
            If a shard is missing, damaged or of another plan.
        """
        missing = self.missing()
        if missing:
            raise InputError(
                f"all {self.shards} shards must be in {self.folder}, {len(missing)} are missing, "
                f"shard {missing[0]} the first: start the processes that make them again"
            )
        count, shards = len(self.chosen), range(self.shards)
        length, labels = np.empty(count, np.int32), np.empty(count, np.int32)
        right = dict.fromkeys(self.splits, 0)
        for shard, found in self._finished():
            part = self.part(shard, count)
            length[part], labels[part] = found.scores.length, found.labels
            for split, number in found.right.items():
                right[split] += number
        accuracy = {split: self._accuracy(split, number) for split, number in right.items()}
        scores = ShardScores(
            [self.path(shard) for shard in shards],
            [self._size(shard) for shard in shards],
            self.model.config.layers,
            length,
        )
        # All shards are there, so that nobody is at what killed processes have left beside them.
        for unfinished in (*self.folder.glob(".*.part"), *self.folder.glob(".plan.json.*")):
            unfinished.unlink(missing_ok=True)
        return write_evaluation(
            out,
            scores,
            {"labels": labels, "rows": self._rows(slice(None))},
            model=self.model,
            config=self.config,
            protocol=self.protocol,
            accuracy=accuracy,
            too_long=self.too_long["test"],
        )

    def _finished(self) -> Iterator[tuple[int, Shard]]:
        for shard in range(self.shards):
            found = read_shard(self.path(shard))
            rows = self._rows(self.part(shard, len(self.chosen)))
            layers = self.model.config.layers
            if (
                found.plan != self.plan
                or found.right.keys() != self.splits.keys()
                or found.scores.layers != layers
                or not np.array_equal(found.rows, rows)
            ):
                raise InputError(
                    f"the shard {self.path(shard)} is of another evaluation: delete it to have it "
                    "made again"
                )
            yield shard, found

    def _rows(self, part: slice) -> np.ndarray:
        return self.splits["test"].rows[self.chosen[part]]

    def _size(self, shard: int) -> int:
        part = self.part(shard, len(self.chosen))
        return part.stop - part.start

    def _accuracy(self, split: str, right: int) -> dict[str, float | int]:
        total = len(self.splits[split]) + self.too_long[split]
        share = right / total if total else float("nan")
        return {"accuracy": share, "n": total, "too_long": self.too_long[split]}

    def _places(self, shard: int) -> Places:
        """Return a shard's sentences, and its part of every split."""
        parts = {name: self.part(shard, len(split)) for name, split in self.splits.items()}
        counted = {name: np.arange(part.start, part.stop) for name, part in parts.items()}
        return Places(self.chosen[self.part(shard, len(self.chosen))], counted)


def open_sharded(
    run: Path, protocol: ProtocolConfig, out: Path, shards: int, *, data: Path | None = None
) -> ShardedEvaluation:
    """Open a finished run's evaluation in shards, or join one that has begun.

    Parameters
    ----------
    run, protocol, data
        As in `jaxflow.eval.paper.evaluate.evaluate_run`; `samples` of None takes every sentence.
    out
        The evaluation's folder; shards lie in ``shards/``, beside the plan that they are of.
    shards
        How many.

    Raises
    ------
    InputError
        If there is no finished run, its corpus is gone, there are more shards than sentences, or
        the folder holds shards of another evaluation.
    """
    config = config_of(run, data)
    model = load(run)
    protocol = protocol.resolved(model)
    tokenizer = model.whole_words  # of an agreement encoder, or refused
    everything = open_corpus(config.corpus, config.data, seed=config.seed)
    fits = {
        name: np.flatnonzero(split.words < config.positions)  # [CLS] comes before the words
        for name, split in everything.items()
    }
    splits = {name: split.take(fits[name]) for name, split in everything.items()}
    if protocol.samples is None:
        fit = int((splits["test"].words + 1 >= protocol.min_tokens).sum())
        protocol = dataclasses.replace(protocol, samples=max(fit, 1))
    chosen = chosen_rows(splits["test"].words + 1, protocol)
    if not 1 <= shards <= len(chosen):
        raise InputError(f"shards must be from 1 to the {len(chosen)} sentences, got {shards}")
    record = plan_of(model, config, protocol, splits, chosen, shards)
    folder = out / "shards"
    claim_plan(folder, record)
    return ShardedEvaluation(
        model=model,
        tokenizer=tokenizer,
        config=config,
        protocol=protocol,
        splits=splits,
        too_long={name: len(everything[name]) - len(fits[name]) for name in everything},
        chosen=chosen,
        shards=shards,
        folder=folder,
        plan=checksum(record),
    )
