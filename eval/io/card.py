"""The measured part of a model's card: what it is, how it was trained, how good it is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jaxflow.errors import InputError
from jaxflow.models import Model

__all__ = ["END", "START", "measured", "with_measured"]

START, END = "<!-- measured -->", "<!-- end of what was measured -->"

# What of a training configuration decides the model; the rest is where things lie and when.
_SETTINGS = (
    "corpus", "epochs", "batch", "learning_rate", "warmup", "weight_decay", "clip", "dropout",
    "word_dropout", "attractor_share", "flow_weight", "seed",
)  # fmt: skip


def measured(
    model: Model,
    *,
    precision: str,
    size: int,
    recipe: Mapping[str, Any],
    accuracy: Mapping[str, Mapping[str, Any]],
) -> str:
    """Write the measured part as Markdown.

    Parameters
    ----------
    model
        The model.
    precision, size
        How its parameters are stored, and bytes of all its files.
    recipe
        Its training configuration.
    accuracy
        As `jaxflow.eval.io.precision.compare_models` has it.
    """
    import jax

    config = model.config
    count = sum(leaf.size for leaf in jax.tree.leaves(model.params))
    sizes = [
        ("encoder", f"{config.layers} layers, {config.heads} heads, width {config.width}"),
        ("longest sentence", f"{config.positions} tokens, `[CLS]` included"),
        ("vocabulary", f"{len(model.text):,} words, special tokens included"),
        ("parameters", f"{count:,}, stored as {precision}"),
        ("size", f"{size / 1e6:.2f} MB, all files together"),
        *((name.replace("_", " "), recipe[name]) for name in _SETTINGS if name in recipe),
    ]
    blocks = [_table(("", ""), sizes)]
    header = (
        "sentences", "number", "accuracy", "before rounding", "predictions changed",
        "largest change of a probability",
    )  # fmt: skip
    rows = [
        (
            name,
            f"{entry['n']:,}",
            _share(entry["accuracy"]),
            _share(entry["accuracy_trained"]),
            entry["changed"],
            f"{entry['max_probability_change']:.1e}",
        )
        for name, entry in accuracy.items()
    ]
    blocks.append(_table(header, rows))
    return "\n\n".join([START, *blocks, END])


def with_measured(card: str, part: str) -> str:
    """Put the measured part into a card in place of the one that is there, or at its end.

    Raises
    ------
    InputError
        If only one of the two marks around it is there.
    """
    before, start, rest = card.partition(START)
    _, end, after = rest.partition(END)
    if bool(start) != bool(end) or (not start and END in card):
        raise InputError(f"the model's card must have both of {START} and {END}, or neither")
    return before + part + after if start else f"{card.rstrip()}\n\n{part}\n"


def _table(header: tuple[Any, ...], rows: list[tuple[Any, ...]]) -> str:
    lines = [header, ("---",) * len(header), *rows]
    return "\n".join(f"| {' | '.join(str(cell) for cell in line)} |" for line in lines)


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"
