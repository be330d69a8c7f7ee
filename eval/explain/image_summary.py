"""What an image was taken for and which patches that came from, as text and as JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from jaxflow.eval.report.text import json_text, to_json

if TYPE_CHECKING:
    from rich.console import Console

    from jaxflow.eval.explain.vision import ImageExplanation

__all__ = ["as_image_json", "image_record", "print_image_explanation"]

_SHOWN = 5  # classes and patches


def image_record(explanation: ImageExplanation) -> dict[str, Any]:
    """Return an explanation as plain Python values.

    Keys ``image``, ``size`` (height and width), ``prediction``, ``probabilities`` (pairs of class
    and number; names may occur twice), ``readout``, ``options``, ``scores`` (method -> rows
    of columns, the top layer), ``layers`` (method -> the same for each layer) and ``cls_share``
    (method -> number for each layer).
    """
    return {
        "image": explanation.name,
        "size": list(explanation.picture.shape[:2]),
        "prediction": explanation.labels[explanation.prediction],
        "probabilities": [
            [label, probability]
            for label, probability in zip(
                explanation.labels, explanation.probabilities.tolist(), strict=True
            )
        ],
        "readout": explanation.readout,
        "options": to_json(explanation.options),
        "scores": to_json(explanation.scores),
        "layers": to_json(explanation.layers),
        "cls_share": to_json(explanation.cls_share),
    }


def as_image_json(explanation: ImageExplanation) -> str:
    """`image_record` as strict JSON text."""
    return json_text(image_record(explanation))


def print_image_explanation(console: Console, explanation: ImageExplanation) -> None:
    """Print the likeliest classes, and each method's highest patches with their share."""
    from rich.table import Table
    from rich.text import Text

    likely = np.argsort(-explanation.probabilities, kind="stable")[:_SHOWN]
    named = [
        f"{explanation.labels[place]} {explanation.probabilities[place]:.3f}" for place in likely
    ]
    console.print(Text(f"{explanation.name}: ", "bold") + Text(", ".join(named)))
    height, width = explanation.picture.shape[:2]
    rows, columns = next(iter(explanation.scores.values())).shape
    row = "[CLS] row" if explanation.readout == "cls" else "mean of the patches' rows"
    console.print(
        Text(
            f"top layer, {row}, {rows} x {columns} patches of {width / columns:.4g} x "
            f"{height / rows:.4g} pixels; row and column from 1, share of the whole image",
            "dim",
        )
    )
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for name in (
        "",
        "on [CLS]",
        *(f"patch {place + 1}" for place in range(min(_SHOWN, rows * columns))),
    ):
        table.add_column(name, justify="left" if not name else "right", no_wrap=True)
    for name, scores in explanation.scores.items():
        total = np.abs(scores).sum()
        best = np.argsort(-scores, axis=None, kind="stable")[:_SHOWN].tolist()
        cells = [
            f"{place // columns + 1},{place % columns + 1} {scores.flat[place] / total:.1%}"
            if total
            else "-"
            for place in best
        ]
        share = explanation.cls_share.get(name)
        table.add_row(Text(name, "bold"), "" if share is None else f"{share[-1]:.1%}", *cells)
    console.print(table)
