"""From a trained run to a folder to hand on, with what it is worth measured and written down."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from jaxflow.errors import InputError
from jaxflow.eval.io.card import measured, with_measured
from jaxflow.eval.io.precision import compare_models
from jaxflow.files import write_together
from jaxflow.models import load
from jaxflow.models.disk import Precision, rounded, save
from jaxflow.train.data import load_splits
from jaxflow.train.run import read_config

__all__ = ["export_run", "read_card"]

CARD = "README.md"
HEADLINE = "# An agreement encoder: is the next verb singular or plural?\n"


def export_run(
    run: Path, out: Path, *, data: Path | None = None, precision: Precision = "float16"
) -> list[Path]:
    """Export a finished run.

    Parameters
    ----------
    run
        The run's folder.
    out
        The folder to write; see `jaxflow.models.disk`. The model's card there, ``README.md``,
        keeps its own words, only its measured part is replaced.
    data
        Where the corpus lies now, if it has moved since training.
    precision
        Of the stored parameters.

    Returns
    -------
    list of Path
        The files.

    Raises
    ------
    InputError
        If there is no finished run, its corpus is gone, or a folder cannot be read or written.
    """
    config = read_config(run)
    if config is None:
        raise InputError(f"no run at {run}: expected a folder that jaxflow train wrote")
    if data is not None:
        config = dataclasses.replace(config, data=data)
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
    part = measured(stored, precision=precision, size=size, recipe=recipe, accuracy=accuracy)
    text = with_measured(card, part)
    return [
        *files,
        *write_together(out, {CARD: lambda path: _fill(path, text)}),
    ]


def read_card(path: Path) -> str:
    """Read the card that is there, or begin one.

    Raises
    ------
    InputError
        If it cannot be read, or has no one place for the measured part.
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


def _fill(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
