"""Evaluate in shards: each process scores its own, and finished shards are not repeated.

A shard is a range of the chosen sentences, with a part of every held-out split, whose correct
predictions it counts. What a shard holds depends on the plan alone, not on the process that makes
it: its file is renamed to its name when it is complete, and made twice it has the same bytes. So
processes need not communicate. A killed one is restarted and finds what it had finished; the last
step merges the shards into the files of an evaluation in one process.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxflow.errors import InputError
from jaxflow.eval.paper.evaluate import spread, write_evaluation
from jaxflow.eval.paper.protocol import (
    ProtocolConfig,
    chosen_rows,
    correlate,
    device_scores,
    token_scores,
)
from jaxflow.eval.paper.report import Evaluation
from jaxflow.eval.paper.scores import SentenceScores
from jaxflow.eval.report import versions
from jaxflow.eval.sharded.files import Shard, StoredScores, read_shard, write_shard
from jaxflow.models import Model, WordTokenizer, load
from jaxflow.train.batches import EncodedSplit, encode_split, predict_split
from jaxflow.train.config import TrainConfig
from jaxflow.train.corpus import StoredSplit, open_corpus
from jaxflow.train.run import config_of, write_json

Report = Callable[[int, int], None]
# The sentences of a shard that are scored, and by split those whose right answers are counted.
_Sentences = tuple[EncodedSplit, dict[str, EncodedSplit]]


@dataclasses.dataclass(frozen=True, eq=False)
class ShardedEvaluation:
    """The plan that all processes share, with the run's model and data."""

    model: Model
    tokenizer: WordTokenizer
    config: TrainConfig  # how the model was trained
    protocol: ProtocolConfig  # how sentences are scored
    splits: Mapping[str, StoredSplit]  # held out, only the sentences that fit the model's positions
    too_long: Mapping[str, int]  # by split, how many others there are
    chosen: np.ndarray  # places in splits["test"] of the sentences to score, ascending int64 [S]
    shards: int  # how many the work is cut into
    folder: Path  # where their files are
    plan: str  # checksum of everything above

    def path(self, shard: int) -> Path:
        """Return a shard's file; shards count from 0."""
        return self.folder / f"shard-{shard:05d}-of-{self.shards:05d}.parquet"

    def part(self, shard: int, rows: int) -> slice:
        """Return a shard's range of so many rows; all ranges are of nearly equal length."""
        return slice(shard * rows // self.shards, (shard + 1) * rows // self.shards)

    def missing(self) -> list[int]:
        """Return the shards whose files are not there."""
        return [shard for shard in range(self.shards) if not self.path(shard).exists()]

    def sentences(self, shard: int) -> _Sentences:
        """Read and encode a shard's sentences; `InputError` if the prepared corpus is damaged."""

        def encoded(split: str, places: np.ndarray) -> EncodedSplit:
            stored = self.splits[split]
            found = encode_split(stored.read(places), self.tokenizer, self.config.positions)
            return dataclasses.replace(found, rows=stored.rows[places])

        counted = {}
        for name, split in self.splits.items():
            part = self.part(shard, len(split))
            counted[name] = encoded(name, np.arange(part.start, part.stop))
        return encoded("test", self.chosen[self.part(shard, len(self.chosen))]), counted

    def work(
        self,
        process: int = 0,
        processes: int = 1,
        report: Report = lambda done, total: None,
    ) -> None:
        """Make those of the shards `process`, `process` + `processes` ... that are missing.

        `report` is called with the number of sentences done, and how many this process has to do.
        Raises `InputError` if the corpus is damaged or the folder cannot be written.
        """
        mine = [shard for shard in self.missing() if shard % processes == process]
        sizes = [self._size(shard) for shard in mine]
        before, total = 0, sum(sizes)
        score = self._scorer()
        sentences = _read_ahead(self, mine)

        def count(done: int, _: int = 0) -> None:
            report(before + done, total)

        count(0)
        for shard, size in zip(mine, sizes, strict=True):
            write_shard(self.path(shard), score(*next(sentences), count))
            before += size

    def merge(self, out: Path) -> Evaluation:
        """Put the shards together into an evaluation's files.

        ``scores.npz`` holds the scores by sentence with their rows and labels, not those by token.
        Scores stay in the shards and are read a few arrays ``[S, L]`` at a time, so that memory
        holds these and some 400 MB, however many sentences there are.

        Raises `InputError` if a shard is missing, damaged or of another plan.
        """
        missing = self.missing()
        if missing:
            raise InputError(
                f"all {self.shards} shards must be in {self.folder}, {len(missing)} are missing, "
                f"shard {missing[0]} the first: start the processes that make them again"
            )
        count = len(self.chosen)
        length, labels = np.empty(count, np.int32), np.empty(count, np.int32)
        right = dict.fromkeys(self.splits, 0)
        for shard in range(self.shards):
            found, part = self._read(shard), self.part(shard, count)
            length[part], labels[part] = found.scores["length"], found.labels
            for split, number in found.right.items():
                right[split] += number
        layers = self.model.config.layers
        paths = [self.path(shard) for shard in range(self.shards)]
        sizes = [self._size(shard) for shard in range(self.shards)]
        scores = SentenceScores(StoredScores(paths, sizes, layers, length), layers)
        # All shards are there: other files are of killed processes.
        for unfinished in (*self.folder.glob(".*.part"), *self.folder.glob(".plan.json.*")):
            unfinished.unlink(missing_ok=True)
        return write_evaluation(
            out,
            scores,
            {"labels": labels, "rows": self.splits["test"].rows[self.chosen]},
            model=self.model,
            config=self.config,
            protocol=self.protocol,
            accuracy={split: self._accuracy(split, number) for split, number in right.items()},
            too_long=self.too_long["test"],
        )

    def _read(self, shard: int) -> Shard:
        found = read_shard(self.path(shard))
        rows = self.splits["test"].rows[self.chosen[self.part(shard, len(self.chosen))]]
        if (
            found.plan != self.plan
            or found.right.keys() != self.splits.keys()
            or found.scores.layers != self.model.config.layers
            or not np.array_equal(found.rows, rows)
        ):
            raise InputError(
                f"the shard {self.path(shard)} is of another evaluation: delete it to have it "
                "made again"
            )
        return found

    def _size(self, shard: int) -> int:
        part = self.part(shard, len(self.chosen))
        return part.stop - part.start

    def _accuracy(self, split: str, right: int) -> dict[str, float | int]:
        total = len(self.splits[split]) + self.too_long[split]
        share = right / total if total else float("nan")
        return {"accuracy": share, "n": total, "too_long": self.too_long[split]}

    def _scorer(self) -> Callable[[EncodedSplit, dict[str, EncodedSplit], Report], Shard]:
        """Return the function that scores a shard; its programs are compiled once for all."""
        lengths, protocol = self.config.lengths, self.protocol
        longest = int(self.splits["test"].words[self.chosen].max()) + 1
        programs = device_scores(self.model, protocol)
        predict = spread(self.model)

        def score(test: EncodedSplit, counted: dict[str, EncodedSplit], report: Report) -> Shard:
            tokens = token_scores(
                self.model, test, lengths, protocol, report, programs=programs, longest=longest
            )
            right = {}
            for name, split in counted.items():
                answers = predict_split(predict, split, lengths).argmax(-1)
                right[name] = int((answers == split.labels).sum())
            scores = correlate(tokens, test.lengths, protocol.ranks)
            return Shard(scores, test.rows, test.labels, right, self.plan)

        return score


def open_sharded(
    run: Path, protocol: ProtocolConfig, out: Path, shards: int, *, data: Path | None = None
) -> ShardedEvaluation:
    """Open a finished run's evaluation in shards in the folder `out`, or join one that has begun.

    `run`, `protocol` and `data` are as in `jaxflow.eval.paper.evaluate.evaluate_run`; `samples` of
    None takes every sentence. Shards are in ``shards/``, beside their plan. Raises `InputError` if
    there is no finished run, its corpus is gone, there are more shards than sentences, or the
    folder holds shards of another evaluation.
    """
    config = config_of(run, data)
    model = load(run)
    protocol = protocol.resolved(model)
    tokenizer = model.whole_words  # of an agreement encoder, or refused
    everything = open_corpus(config.corpus, config.data, seed=config.seed)
    # [CLS] comes before the words.
    fits = {
        name: np.flatnonzero(split.words < config.positions) for name, split in everything.items()
    }
    splits = {name: split.take(fits[name]) for name, split in everything.items()}
    if protocol.samples is None:
        fit = int((splits["test"].words + 1 >= protocol.min_tokens).sum())
        protocol = dataclasses.replace(protocol, samples=max(fit, 1))
    chosen = chosen_rows(splits["test"].words + 1, protocol)
    if not 1 <= shards <= len(chosen):
        raise InputError(f"shards must be from 1 to the {len(chosen)} sentences, got {shards}")
    plan = _plan(model, config, protocol, splits, chosen, shards)
    folder = out / "shards"
    claim_plan(folder, plan)
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
        plan=hashlib.sha256(json.dumps(plan, sort_keys=True).encode()).hexdigest(),
    )


def claim_plan(folder: Path, plan: Mapping[str, Any]) -> None:
    """Write the plan into the folder, or check that it equals the one there.

    Raises `InputError` if the folder cannot be written, or holds another plan.
    """
    path = folder / "plan.json"
    if not path.exists():
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(
                f"the folder {folder} cannot be written: {error.strerror or error}"
            ) from error
        # Processes that begin together write the same content, each atomically.
        write_json(path, plan)
    try:
        there = json.loads(path.read_text(encoding="utf-8"))
        changed = [name for name, value in plan.items() if there.get(name) != value]
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        raise InputError(f"the plan {path} cannot be read: {error}") from error
    if changed:
        raise InputError(
            f"{folder} holds shards of another evaluation ({', '.join(changed)} differ): choose "
            "another folder with --out, or delete it"
        )


def _plan(
    model: Model,
    config: TrainConfig,
    protocol: ProtocolConfig,
    splits: Mapping[str, StoredSplit],
    chosen: np.ndarray,
    shards: int,
) -> dict[str, Any]:
    """Return, as JSON, everything that shards depend on; folders and threads are not among it."""
    params, corpus = hashlib.sha256(), hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(model.params):
        params.update(jax.tree_util.keystr(path).encode())
        params.update(np.ascontiguousarray(leaf).tobytes())
    for name, split in splits.items():
        corpus.update(name.encode())
        for numbers in (split.rows, split.words, split.n_attractors):
            corpus.update(np.ascontiguousarray(numbers).tobytes())
    fields = dataclasses.asdict(protocol)
    del fields["threads"]
    return {
        "shards": shards,
        "sentences": len(chosen),
        "protocol": fields,
        "model": params.hexdigest(),
        "corpus": corpus.hexdigest(),
        "lengths": list(config.lengths),
        "versions": versions(),
    }


def _read_ahead(evaluation: ShardedEvaluation, shards: Sequence[int]) -> Iterator[_Sentences]:
    """Iterate over shards in order; the loader's thread reads one while another is scored."""
    import grain

    options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=1)
    numbers = grain.MapDataset.source(list(shards))
    return iter(numbers.map(evaluation.sentences).to_iter_dataset(options))
