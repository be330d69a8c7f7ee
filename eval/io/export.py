"""Export a trained run: rounded parameters, and a model card with measured accuracy."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxflow.errors import InputError
from jaxflow.eval.report import Column, Table
from jaxflow.files import write_together
from jaxflow.models import Model, load
from jaxflow.models.disk import Precision, rounded, save
from jaxflow.train.batches import EncodedSplit, predict_split
from jaxflow.train.data import load_splits
from jaxflow.train.run import config_of

CARD = "README.md"
HEADLINE = "# An agreement encoder: is the next verb singular or plural?\n"
#: Around the measured part of a card.
START, END = "<!-- measured -->", "<!-- end of what was measured -->"

# The options of training that decide the model.
_SETTINGS = (
    "corpus", "epochs", "batch", "learning_rate", "warmup", "weight_decay", "clip", "dropout",
    "word_dropout", "attractor_share", "flow_weight", "seed",
)  # fmt: skip


def export_run(
    run: Path, out: Path, *, data: Path | None = None, precision: Precision = "float16"
) -> list[Path]:
    """Export a finished run to the folder `out` and return the files (see `jaxflow.models.disk`).

    Of the model's card there, ``README.md``, only the measured part is replaced. `data` is the
    corpus's folder, if it has moved since training. Raises `InputError` if there is no finished
    run, its corpus is gone, or a folder cannot be read or written.
    """
    config = config_of(run, data)
    card = read_card(out / CARD)
    model = load(run)
    stored = rounded(model, precision)
    splits = load_splits(config, model.whole_words)
    accuracy = compare_models(model, stored, splits, config.lengths)
    recipe = config.to_dict()
    del recipe["data"], recipe["checkpoint_every"]  # of one machine, and of no result

    save(out, model, precision=precision, recipe=recipe, accuracy=accuracy)
    names = ("config.json", "model.safetensors", "vocab.txt", "accuracy.json")
    files = [out / name for name in names]
    size = sum(file.stat().st_size for file in files)
    part = _measured(stored, precision, size, recipe, accuracy)
    return [*files, *write_together(out, {CARD: with_measured(card, part)})]


def compare_models(
    trained: Model,
    stored: Model,
    splits: Mapping[str, EncodedSplit],
    lengths: tuple[int, ...],
) -> dict[str, dict[str, Any]]:
    """Compare a trained model with its `stored`, rounded form on splits it was not trained on.

    Returns split -> ``n`` sentences, those left out as too long included; ``accuracy`` of `stored`,
    which counts those as wrong; ``accuracy_trained`` of `trained`; how many predictions
    ``changed``; and the ``max_probability_change`` of any sentence. Sentences are padded to
    `lengths`.
    """
    result = {}
    for name, split in splits.items():
        before = predict_split(trained.probabilities, split, lengths)
        after = predict_split(stored.probabilities, split, lengths)
        total = len(split) + split.too_long
        right = {
            key: int((values.argmax(-1) == split.labels).sum())
            for key, values in (("accuracy", after), ("accuracy_trained", before))
        }
        result[name] = {
            "n": total,
            **{key: count / total if total else None for key, count in right.items()},
            "changed": int((before.argmax(-1) != after.argmax(-1)).sum()),
            "max_probability_change": float(np.abs(before - after).max(initial=0.0)),
        }
    return result


def read_card(path: Path) -> str:
    """Read a model's card, or begin one.

    Raises `InputError` if it cannot be read, or has no one place for the measured part.
    """
    try:
        card = path.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        return HEADLINE
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"the model's card {path} cannot be read: {error}") from error
    try:
        with_measured(card, "")
    except InputError as error:
        raise InputError(f"{path} cannot be used: {error}") from error
    return card


def with_measured(card: str, part: str) -> str:
    """Replace the measured part of a card, or add it at the end.

    Raises `InputError` if only one of the two marks around it is there.
    """
    before, start, rest = card.partition(START)
    _, end, after = rest.partition(END)
    if bool(start) != bool(end) or (not start and END in card):
        raise InputError(f"the model's card must have both of {START} and {END}, or neither")
    return before + part + after if start else f"{card.rstrip()}\n\n{part}\n"


def _measured(
    model: Model,
    precision: str,
    size: int,
    recipe: Mapping[str, Any],
    accuracy: Mapping[str, Mapping[str, Any]],
) -> str:
    """Write the measured part of a card as Markdown; `size` is that of all files in bytes."""
    config = model.config
    count = sum(leaf.size for leaf in jax.tree.leaves(model.params))
    sizes = [
        ("encoder", f"{config.layers} layers, {config.heads} heads, width {config.width}"),
        ("longest sentence", f"{config.positions} tokens, `[CLS]` included"),
        ("vocabulary", f"{len(model.text):,} words, special tokens included"),
        ("parameters", f"{count:,}, stored as {precision}"),
        ("size", f"{size / 1e6:.2f} MB, all files together"),
        *((name.replace("_", " "), str(recipe[name])) for name in _SETTINGS if name in recipe),
    ]
    head = (
        "sentences",
        Column("number", "{:,}".format),
        Column("accuracy", "{:.4f}".format),
        Column("before rounding", "{:.4f}".format),
        "predictions changed",
        Column("largest change of a probability", "{:.1e}".format),
    )
    names = ("n", "accuracy", "accuracy_trained", "changed", "max_probability_change")
    rows = [
        (split, *("–" if entry[name] is None else entry[name] for name in names))
        for split, entry in accuracy.items()
    ]
    tables = [Table.of(("", ""), sizes, labels=2), Table.of(head, rows)]
    return "\n\n".join([START, *(table.to_markdown() for table in tables), END])
