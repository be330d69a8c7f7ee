"""From a causal encoder to the tables and figures of its early tokens, and their files."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from jaxflow.errors import InputError
from jaxflow.eval.decoders import score_decoder
from jaxflow.eval.decoders_report import to_decoders_markdown
from jaxflow.eval.decoders_tables import DecoderTables, build_decoder_tables
from jaxflow.eval.paper.protocol import ProtocolConfig
from jaxflow.eval.plots.decoders import draw_correlations, draw_first_token
from jaxflow.eval.plots.style import save
from jaxflow.eval.report.text import json_text
from jaxflow.files import write_together
from jaxflow.models import Model
from jaxflow.train.batches import EncodedSplit

__all__ = ["SPLITS", "pick_splits", "study_decoder", "write_decoders"]

#: Splits that are looked at by default, where a corpus has them.
SPLITS = ("test", "subjects")


def pick_splits(names: Sequence[str], split: str | None) -> tuple[str, ...]:
    """Return which splits to look at: the one asked for, or `SPLITS` as far as they are there.

    Raises
    ------
    InputError
        If there is no such split.
    """
    if split is None:
        return tuple(name for name in SPLITS if name in names)
    if split not in names:
        raise InputError(f"split must be one of {', '.join(names)}, got {split!r}")
    return (split,)


def study_decoder(
    model: Model,
    splits: Mapping[str, EncodedSplit],
    lengths: tuple[int, ...],
    protocol: ProtocolConfig,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, DecoderTables]:
    """Measure a causal encoder on each of the splits.

    Parameters
    ----------
    model, splits, lengths, protocol, report
        As for `jaxflow.eval.decoders.score_decoder`.

    Returns
    -------
    dict
        The tables by split.
    """
    scores = score_decoder(model, splits, lengths, protocol, report)
    return {name: build_decoder_tables(found, protocol.seed) for name, found in scores.items()}


def write_decoders(
    out: Path,
    found: Mapping[str, DecoderTables],
    *,
    accuracy: Mapping[str, Mapping[str, float | int]],
    config: Mapping[str, Any],
    versions: Mapping[str, str],
) -> list[Path]:
    """Write ``tables.md``, ``tables.json``, ``config.json`` and the figures, or none of them.

    Parameters
    ----------
    out
        Folder, made if it is not there.
    found
        The tables by split; the figures ``first-token.svg`` and ``correlations.svg`` are of the
        first one.
    accuracy
        Of the model, split -> ``accuracy`` and ``n``.
    config, versions
        What made it.

    Returns
    -------
    list of Path
        The files.

    Raises
    ------
    InputError
        If the folder cannot be written to.
    """
    made_with = {"config": config, "versions": versions}
    texts = {
        "tables.md": to_decoders_markdown(found, accuracy, made_with),
        # Thousands of cells, which indented would fill a megabyte.
        "tables.json": json_text({"splits": found, "accuracy": accuracy, **made_with}, indent=None),
        "config.json": json_text(made_with),
    }
    first = next(iter(found.values()))
    figures = {
        "first-token.svg": draw_first_token(first),
        "correlations.svg": draw_correlations(first),
    }
    writers: dict[str, Callable[[Path], None]] = {
        name: partial(_write_text, text=text) for name, text in texts.items()
    }
    writers |= {name: partial(save, figure, form="svg") for name, figure in figures.items()}
    return write_together(out, writers)


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
