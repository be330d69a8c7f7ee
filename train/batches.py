"""Make batches of sentences: encoded once, grouped by length, in an order decided by a seed.

A batch is a function of the seed and the step alone, so a run resumed from a checkpoint gets the
same batches as an uninterrupted one.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from jaxflow.attention import length_mask
from jaxflow.errors import InputError
from jaxflow.models import Tokenizer, WordTokenizer
from jaxflow.train.corpus import Split

Batch = dict[str, np.ndarray]
"""Arrays of one batch: ``tokens`` int32 ``[B, n]``, ``labels`` int32 ``[B]`` and, if the loss needs
it, ``subjects`` int32 ``[B]``, the subject noun's place among the tokens, -1 where unknown."""


@dataclasses.dataclass(frozen=True)
class EncodedSplit:
    """A split as numbers.

    Attributes
    ----------
    tokens
        int32 ``[N, positions]``, ``[CLS]`` first, padded.
    lengths, labels, n_attractors, subject_index
        int32 ``[N]``; the subject's index counts ``[CLS]``, -1 where unknown.
    rows
        int64 ``[N]``, each row's place in the split it came from.
    too_long
        How many sentences did not fit the positions and are left out.
    pad_id
        The number that fills rows up.
    """

    tokens: np.ndarray
    lengths: np.ndarray
    labels: np.ndarray
    n_attractors: np.ndarray
    subject_index: np.ndarray
    rows: np.ndarray
    too_long: int
    pad_id: int = 0

    def __len__(self) -> int:
        return len(self.labels)


def encode_sentences(
    texts: Sequence[str], labels: np.ndarray, tokenizer: Tokenizer, positions: int
) -> EncodedSplit:
    """Encode labelled sentences; those of more than `positions` tokens are left out and counted.

    Nothing is known of their attractors and subjects.

    Raises `InputError` if the tokenizer has no padding token.
    """
    pad = tokenizer.pad_id
    if pad is None:
        raise InputError(
            "the model's tokenizer must have a padding token, because sentences of several lengths "
            "share a batch"
        )
    encoded = [tokenizer.encode(text) for text in texts]
    lengths = np.fromiter((len(row) for row in encoded), np.int32, len(encoded))
    kept = np.flatnonzero(lengths <= positions)
    tokens = np.full((len(kept), positions), pad, np.int32)
    for place, row in enumerate(kept):
        tokens[place, : lengths[row]] = encoded[row]
    unknown = np.full(len(kept), -1, np.int32)
    return EncodedSplit(
        tokens=tokens,
        lengths=lengths[kept],
        labels=labels[kept].astype(np.int32),
        n_attractors=unknown,
        subject_index=unknown,
        rows=kept,
        too_long=len(encoded) - len(kept),
        pad_id=pad,
    )


def encode_split(split: Split, tokenizer: WordTokenizer, positions: int) -> EncodedSplit:
    """Encode a split of an agreement corpus, as `encode_sentences` does."""
    encoded = encode_sentences(split.prefixes, split.labels, tokenizer, positions)
    subject = split.subject_index[encoded.rows]
    return dataclasses.replace(
        encoded,
        n_attractors=split.n_attractors[encoded.rows],
        subject_index=np.where(subject < 0, -1, subject + 1).astype(np.int32),
    )


def bucket_of(lengths: np.ndarray, buckets: tuple[int, ...]) -> np.ndarray:
    """Return for each length the smallest bucket that holds it."""
    sizes = np.sort(np.asarray(buckets))
    return sizes[np.searchsorted(sizes, lengths)]


class Batches(Protocol):
    """Batches of a run by step, as the loader's random-access source."""

    @property
    def steps_per_epoch(self) -> int:
        """Steps in an epoch."""

    def __len__(self) -> int:
        """Return the steps of the whole run."""

    def part(self, step: int, part: slice) -> Batch:
        """Return some rows of a step's batch, arrays by the names of the loss's arguments."""


@dataclasses.dataclass(frozen=True, eq=False)
class ArrayBatches:
    """Batches of arrays, public as ``jaxflow.train.ArrayBatches``: rows in a new order each epoch.

    Attributes
    ----------
    arrays
        Name -> ``[N, ...]``, by the names that the loss has for them.
    batch, epochs, seed
        Rows a step, passes and seed; rows that fill no batch wait for the next epoch's order.

    Raises
    ------
    InputError
        If there are fewer rows than a batch has.
    """

    arrays: Mapping[str, np.ndarray]
    batch: int
    epochs: int
    seed: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.batch <= self._rows:
            raise InputError(f"batch must be from 1 to the {self._rows} rows, got {self.batch}")

    @property
    def _rows(self) -> int:
        return min(len(array) for array in self.arrays.values())

    @property
    def steps_per_epoch(self) -> int:
        """Full batches in an epoch."""
        return self._rows // self.batch

    def __len__(self) -> int:
        return self.steps_per_epoch * self.epochs

    def part(self, step: int, part: slice) -> Batch:
        """Return some rows of a step's batch."""
        epoch, place = divmod(step, self.steps_per_epoch)
        order = np.random.default_rng([self.seed, epoch]).permutation(self._rows)
        rows = order[place * self.batch : (place + 1) * self.batch][part]
        return {name: array[rows] for name, array in self.arrays.items()}


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class BatchPlan:
    """All batches of a run, by step: a random-access source for the loader.

    `share` of an epoch's rows is drawn from `extra`, further rows with attractors, all of them
    before any comes twice. With `subjects` batches carry the place of the subject noun.
    """

    train: EncodedSplit
    extra: EncodedSplit | None = None
    share: float = 0.0
    buckets: tuple[int, ...]
    batch: int
    epochs: int
    seed: int
    subjects: bool = False

    def __post_init__(self) -> None:
        if self.steps_per_epoch == 0:
            raise InputError(
                f"the training rows must fill at least one batch of {self.batch}, got "
                f"{len(self.train)} rows"
            )

    @functools.cached_property
    def _extra_rows(self) -> int:
        if self.extra is None or len(self.extra) == 0:
            return 0
        return round(len(self.train) * self.share / (1 - self.share))

    @functools.cached_property
    def _rows(self) -> dict[str, np.ndarray]:
        """Return the training rows with the further ones after them, by the loss's names."""
        splits = [self.train] if self.extra is None else [self.train, self.extra]
        fields = {"labels": "labels", "subjects": "subject_index", "lengths": "lengths"}
        return {
            name: np.concatenate([getattr(split, field) for split in splits])
            for name, field in {"tokens": "tokens", **fields}.items()
        }

    @property
    def knows_subjects(self) -> bool:
        """Return whether the subject noun of any row is known."""
        return bool((self._rows["subjects"] >= 0).any())

    @property
    def checksum(self) -> bytes:
        """Return a checksum of the rows that the batches are made of."""
        digest = hashlib.sha256()
        for rows in self._rows.values():
            digest.update(rows.tobytes())
        return digest.digest()

    @property
    def steps_per_epoch(self) -> int:
        """Full batches in an epoch; the rows left over are drawn in other epochs."""
        return (len(self.train) + self._extra_rows) // self.batch

    def __len__(self) -> int:
        return self.steps_per_epoch * self.epochs

    @functools.cache  # noqa: B019 - a plan lives as long as its run; epochs are few
    def _epoch(self, epoch: int) -> np.ndarray:
        """Return int64 ``[steps, batch]``, rows of one batch being of similar length."""
        rng = np.random.default_rng([self.seed, epoch])
        rows = np.arange(len(self.train))
        if self._extra_rows and self.extra is not None:
            # Each epoch takes the next extra rows, so that all are used equally often.
            begin = epoch * self._extra_rows
            walk = np.arange(begin, begin + self._extra_rows) % len(self.extra)
            order = np.random.default_rng([self.seed, 1 << 20]).permutation(len(self.extra))
            rows = np.concatenate([rows, len(self.train) + order[walk]])
        rows = rng.permutation(rows)
        rows = rows[: self.steps_per_epoch * self.batch]
        # A stable sort keeps the random order within a length.
        bucket = bucket_of(self._rows["lengths"][rows], self.buckets)
        batches = rows[np.argsort(bucket, kind="stable")].reshape(-1, self.batch)
        return batches[rng.permutation(len(batches))]

    def first_steps(self, start: int, until: int) -> list[int]:
        """Return the first step of every padded length from `start`, before `until`, in its epoch.

        They are in order; a step is compiled once for each padded length.
        """
        epoch, place = divmod(start, self.steps_per_epoch)
        rows = self._epoch(epoch)[place:][: until - start]
        lengths = bucket_of(self._rows["lengths"][rows].max(1), self.buckets)
        return sorted(start + int(first) for first in np.unique(lengths, return_index=True)[1])

    def __getitem__(self, step: int) -> Batch:
        return self.part(step, slice(None))

    def part(self, step: int, part: slice) -> Batch:
        """Return some rows of a step's batch, padded as the whole is; only they are read."""
        epoch, place = divmod(int(step), self.steps_per_epoch)
        rows = self._epoch(epoch)[place]
        longest = self._rows["lengths"][rows].max(keepdims=True)
        length, rows = int(bucket_of(longest, self.buckets)[0]), rows[part]
        names = ("labels", "subjects") if self.subjects else ("labels",)
        found = {name: self._rows[name][rows] for name in names}
        return {"tokens": self._rows["tokens"][rows, :length], **found}


def iterate(plan: Batches, start: int = 0, part: slice = slice(None)) -> Iterator[Batch]:
    """Iterate over the batches from step `start`, read ahead by the loader's threads.

    Of each batch only the rows `part` are read, those of one process of several.
    """
    import grain

    options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=16)
    steps = grain.MapDataset.range(start, len(plan))
    return iter(steps.map(lambda step: plan.part(step, part)).to_iter_dataset(options))


def evaluation_batches(
    split: EncodedSplit, buckets: tuple[int, ...], batch: int
) -> Iterator[tuple[np.ndarray, Batch]]:
    """Yield ``(rows, batch)`` over a split by length; the last of a bucket is filled with padding.

    `rows` ``[k]`` are the places in the split of the batch's first k sentences. The batch also has
    a ``mask`` bool ``[B, n]`` of the real tokens, by their sentence's length whatever they are.
    """
    bucket = bucket_of(split.lengths, buckets)
    for length in np.unique(bucket):
        members = np.flatnonzero(bucket == length)
        for begin in range(0, len(members), batch):
            rows = members[begin : begin + batch]
            tokens = np.full((batch, length), split.pad_id, np.int32)
            labels = np.zeros(batch, np.int32)
            tokens[: len(rows)] = split.tokens[rows, :length]
            labels[: len(rows)] = split.labels[rows]
            real = np.zeros(batch, np.int32)
            real[: len(rows)] = split.lengths[rows]
            mask = length_mask(real, int(length))
            yield rows, {"tokens": tokens, "labels": labels, "mask": mask}


def predict_split(
    predict: Callable[[np.ndarray, np.ndarray], Any],
    split: EncodedSplit,
    lengths: tuple[int, ...],
) -> np.ndarray:
    """Return the classes' probabilities float64 ``[N, C]`` in the split's order.

    `predict` takes tokens ``[B, n]`` and their mask.
    """
    result: np.ndarray | None = None
    for rows, inputs in evaluation_batches(split, lengths, 128):
        probabilities = np.asarray(predict(inputs["tokens"], inputs["mask"]), np.float64)
        if result is None:
            result = np.zeros((len(split), probabilities.shape[-1]))
        result[rows] = probabilities[: len(rows)]
    return np.zeros((0, 2)) if result is None else result


def accuracies(
    predict: Callable[[np.ndarray, np.ndarray], Any],
    splits: Mapping[str, EncodedSplit],
    lengths: tuple[int, ...],
) -> dict[str, dict[str, float | int]]:
    """Return ``{split: {"accuracy", "n", "too_long"}}``; a sentence left out counts as wrong."""
    report: dict[str, dict[str, float | int]] = {}
    for name, split in splits.items():
        right = predict_split(predict, split, lengths).argmax(-1) == split.labels
        total = len(split) + split.too_long
        report[name] = {
            "accuracy": float(right.sum() / total) if total else float("nan"),
            "n": total,
            "too_long": split.too_long,
        }
    return report
