"""Draw the sentences that methods are compared on, with their classes and subjects."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from jaxflow.attention import length_mask
from jaxflow.errors import InputError
from jaxflow.eval.score.target import ANSWERS
from jaxflow.models import Model
from jaxflow.models.output import readable
from jaxflow.models.subword import ROLES
from jaxflow.train.batches import EncodedSplit

SAMPLES = 2000


@dataclasses.dataclass(frozen=True, eq=False)
class Cases:
    """S sentences of up to n tokens; `jaxflow.eval.leaderboard.prompts.Prompts` are the others."""

    label_name: ClassVar[str] = "gold label"
    value_name: ClassVar[str] = "probability"

    tokens: NDArray[np.int32]  # [S, n], padded
    lengths: NDArray[np.int64]  # [S]
    labels: NDArray[np.int64]  # [S], the classes
    special: NDArray[np.bool_]  # [S, n], special tokens, which are never removed
    readout: NDArray[np.int64]  # [S], the token that the class is computed from
    subject: NDArray[np.int64]  # [S], the token of the subject's head noun, -1: not known

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def mask(self) -> NDArray[np.bool_]:
        """Bool ``[S, n]``, True at real tokens."""
        mask: NDArray[np.bool_] = length_mask(self.lengths, self.tokens.shape[1])
        return mask

    @property
    def removable(self) -> NDArray[np.bool_]:
        """Bool ``[S, n]``, the tokens that can be removed: real ones that are not special."""
        return self.mask & ~self.special

    def texts(self, model: Model, row: int) -> list[str]:
        """Return a sentence's tokens as text."""
        return model.text.decode(self.tokens[row, : self.lengths[row]].tolist())

    def names(self, model: Model) -> list[str]:
        """Return the names of the labels."""
        return list(model.config.labels)

    def take(self, rows: NDArray[np.int64], n: int) -> Cases:
        """Return sentences, cut to n tokens."""
        fields = (getattr(self, field.name)[rows] for field in dataclasses.fields(self))
        return Cases(*(values[:, :n] if values.ndim > 1 else values for values in fields))


def _cases(
    model: Model,
    tokens: NDArray[np.int32],
    lengths: NDArray[np.integer],
    labels: NDArray[np.integer],
    subject: NDArray[np.integer] | None,
) -> Cases:
    if model.answer != "single-label":
        raise InputError(
            "the model must choose one of several classes to be judged, got one whose answer is "
            f"{ANSWERS[model.answer]}"
        )
    numbers = [getattr(model.text, f"{role}_id") for role in ROLES if role not in ("unk", "mask")]
    known = np.array([number for number in numbers if number is not None])
    count, n = tokens.shape
    real = readable(model.config, tokens, length_mask(lengths, n))
    last = np.where(real, np.arange(n), 0).max(-1)
    return Cases(
        tokens=tokens,
        lengths=np.asarray(lengths, np.int64),
        labels=np.asarray(labels, np.int64),
        special=np.isin(tokens, known),
        readout=last if model.config.reads_last else np.zeros(count, np.int64),
        subject=np.full(count, -1, np.int64) if subject is None else np.asarray(subject, np.int64),
    )


def draw(count: int, samples: int | None, seed: int) -> NDArray[np.int64]:
    """Draw rows, ascending; by default 2,000, or all where there are fewer."""
    samples = min(SAMPLES, count) if samples is None else samples
    if not 1 <= samples <= count:
        raise InputError(f"samples must be from 1 to {count}, got {samples}")
    return np.sort(np.random.default_rng(seed).permutation(count)[:samples])


def from_split(
    model: Model, split: EncodedSplit, samples: int | None = None, seed: int = 0
) -> Cases:
    """Draw sentences of an encoded split; None takes 2,000, or all where there are fewer.

    Raises `InputError` if there are fewer than requested, or the model has no classes.
    """
    rows = draw(len(split), samples, seed)
    n = int(split.lengths[rows].max())
    return _cases(
        model,
        split.tokens[rows, :n],
        split.lengths[rows],
        split.labels[rows],
        split.subject_index[rows],
    )


def from_texts(model: Model, texts: Sequence[str], labels: Sequence[int]) -> Cases:
    """Encode texts; those that are too long for the model are an error.

    Raises `InputError` if a text is too long, or the model has no classes.
    """
    if not texts or len(texts) != len(labels):
        raise InputError(
            f"texts and labels must be as many, at least one, got {len(texts)} and {len(labels)}"
        )
    rows = [model.text.encode(text) for text in texts]
    lengths = np.array([len(row) for row in rows])
    if lengths.max() > model.config.positions:
        raise InputError(
            f"texts must be at most {model.config.positions} tokens for this model, got "
            f"{lengths.max()}"
        )
    tokens = np.full((len(rows), lengths.max()), model.text.pad_id or 0, np.int32)
    for place, row in enumerate(rows):
        tokens[place, : len(row)] = row
    return _cases(model, tokens, lengths, np.asarray(labels), None)


def agreement_cases(
    run: Path | None,
    model: Model,
    data: Path | None,
    split: str | None,
    samples: int | None,
    seed: int,
) -> Cases:
    """Draw sentences of an agreement corpus: a run's own, or the folder `data`.

    A `split` of None takes ``subjects``, whose subjects are known, where there are any, else
    ``test``. Raises `InputError` if there is no run, corpus or split, or too few sentences.
    """
    from jaxflow.train.config import PRESETS
    from jaxflow.train.data import load_splits
    from jaxflow.train.run import config_of

    if run is None:
        config = dataclasses.replace(PRESETS["simple"], data=data)
    else:
        config = config_of(run, data)
    splits = load_splits(config, model.whole_words)
    name = split or ("subjects" if "subjects" in splits else "test")
    if name not in splits:
        raise InputError(f"split must be one of {', '.join(splits)}, got {name!r}")
    return from_split(model, splits[name], samples, seed)


def labelled_cases(model: Model, data: Path, samples: int | None, seed: int) -> Cases:
    """Draw sentences of ``dev.tsv`` in a folder of labelled sentences.

    Raises `InputError` if the corpus cannot be read, its labels are no classes of the model, or it
    has too few sentences.
    """
    from jaxflow.train.sst2 import load_sst2

    split = load_sst2(data)["dev"]
    labels = np.asarray(split.labels)
    if len(labels) and labels.max() >= model.config.classes:
        raise InputError(
            f"labels must be below the model's {model.config.classes} classes, got {labels.max()}"
        )
    rows = draw(len(labels), samples, seed)
    return from_texts(model, [split.texts[row] for row in rows], labels[rows].tolist())


def grouped(
    lengths: NDArray[np.integer], most: int, size: Callable[[int], int]
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64], int]]:
    """Yield the rows of sentences of one length, `size` of them at a time, and the length.

    Rows come twice: as they are, and filled up to the size, so that the last batch is compiled with
    the others. No length is above `most`.
    """
    for length in np.unique(lengths):
        members = np.flatnonzero(lengths == length)
        n = int(min(length, most))
        for begin in range(0, len(members), size(n)):
            rows = members[begin : begin + size(n)]
            yield rows, np.concatenate([rows, np.repeat(rows[:1], size(n) - len(rows))]), n


def batches(cases: Cases, tokens: int) -> Iterator[tuple[NDArray[np.int64], Cases]]:
    """Yield the rows of sentences of similar length, and a batch of about so many tokens.

    They are padded to 8, 16, 32 ... tokens: few lengths, because what scores a batch is long to
    compile. Sentences that are no more than one batch are one, padded to the longest.
    """
    bucket = 8 * 2 ** np.ceil(np.log2(np.maximum(cases.lengths, 8) / 8)).astype(int)
    rows, n = np.arange(len(cases)), int(min(bucket.max(), cases.tokens.shape[1]))
    if len(rows) * n <= tokens:
        yield rows, cases.take(rows, n)
        return
    for rows, filled, n in grouped(bucket, cases.tokens.shape[1], lambda n: max(1, tokens // n)):
        yield rows, cases.take(filled, n)
