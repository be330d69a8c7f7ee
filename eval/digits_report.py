"""The digits' tables on a terminal, as Markdown and as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxflow.eval.digits import TARGETS, ImageScores
from jaxflow.eval.digits_tables import Contrast, DigitsTables
from jaxflow.eval.explain.overlay import save_overlay
from jaxflow.eval.explain.vision import explain_image
from jaxflow.eval.plots.digits import draw_digits
from jaxflow.eval.plots.style import save
from jaxflow.eval.report.text import (
    UNDEFINED,
    counts,
    interval,
    json_text,
    layer_names,
    mean_std,
    probability,
    short,
    to_json,
)
from jaxflow.eval.stats import Cell
from jaxflow.files import write_together
from jaxflow.models import Model
from jaxflow.train.digits_data import Images

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["print_digits", "to_digits_markdown", "write_digits", "write_example"]

DPI = 130

_ABOUT = (
    "Spearman's correlation over the patches of an image, mean±standard deviation over {images} "
    "test images ({right} of them classified rightly; the class asked about is the predicted one); "
    "95 % bootstrap intervals of the mean. Images on which one side is constant (NaN) are left "
    "out, such as those of a row that is empty but for [CLS]."
)
_SATURATED = "Share of the pairs (readout, patch) whose flow is at its bound"


def write_digits(
    out: Path,
    model: Model,
    scores: ImageScores,
    tables: DigitsTables,
    *,
    accuracy: Mapping[str, Mapping[str, float | int]],
    config: Mapping[str, Any],
    versions: Mapping[str, str],
) -> list[Path]:
    """Write ``tables.md``, ``tables.json``, ``config.json``, ``maps.npz`` and ``overlays.png``.

    Parameters
    ----------
    out
        Folder, made if it is not there.
    model, scores, tables
        What was found.
    accuracy
        Of the model, split -> ``accuracy`` and ``n``.
    config, versions
        What made it.

    Returns
    -------
    list of Path
        The files. Every one is complete before the first takes its place.

    Raises
    ------
    InputError
        If the folder cannot be written to.
    """
    record = {
        "tables": tables.correlations,
        "saturation": tables.saturation,
        "contrasts": list(tables.contrasts),
        "accuracy": accuracy,
        "images": tables.images,
        "right": tables.right,
        "config": config,
        "versions": versions,
    }
    texts = {
        "tables.md": to_digits_markdown(tables, accuracy, config, versions),
        "tables.json": json_text(to_json(record)),
        "config.json": json_text({"config": config, "versions": versions}),
    }
    figure = draw_digits(model, scores)

    def write_text(name: str) -> Any:
        return lambda part: part.write_text(texts[name], encoding="utf-8")

    def write_maps(part: Path) -> None:
        with part.open("wb") as file:  # given a name, NumPy would add an ending to it
            np.savez_compressed(file, **scores.arrays())  # type: ignore[arg-type]

    writers = {name: write_text(name) for name in texts}
    writers["maps.npz"] = write_maps
    writers["overlays.png"] = lambda part: save(figure, part, "png", dpi=DPI)
    return write_together(out, writers)


def write_example(out: Path, model: Model, images: Images) -> list[Path]:
    """Write the first image as ``digit.png`` and what explains it as ``overlay.png``.

    Raises
    ------
    InputError
        If the folder cannot be written to.
    """
    from PIL import Image

    grey = np.rint(255 * images.grey[0, ..., 0]).astype(np.uint8)
    (picture,) = write_together(
        out, {"digit.png": lambda part: Image.fromarray(grey).save(part, format="png")}
    )
    found = explain_image(model, picture, occlusion="mean")
    return [picture, save_overlay(found, out / "overlay.png", smooth=False)]


def to_digits_markdown(
    tables: DigitsTables,
    accuracy: Mapping[str, Mapping[str, float | int]],
    config: Mapping[str, Any],
    versions: Mapping[str, str],
) -> str:
    """Return all tables as a Markdown document."""
    layers = layer_names(len(tables.saturation))
    blocks = [
        "# Maps of digits against occlusion and gradients",
        _ABOUT.format(images=tables.images, right=tables.right),
        "\n".join(f"- {line}" for line in _accuracy_lines(accuracy)),
    ]
    for target, rows in tables.correlations.items():
        lines = [
            [
                f"**{name}**",
                *(_cell(cell) for cell in cells),
                counts(cells, "nan"),
            ]
            for name, cells in rows.items()
        ]
        blocks += [f"## {TARGETS[target]}", _grid(["", *layers, "NaN"], lines)]
    shares = [f"{short(cell.mean)} {interval(cell.ci95)}" for cell in tables.saturation]
    blocks += [f"## {_SATURATED}", _grid(["", *layers], [["heads fused by their mean", *shares]])]
    blocks += [
        "## Row against row at the top layer",
        "Mean difference of the correlations, image by image; Wilcoxon signed-rank tests with "
        "Holm's correction over all lines.",
        _grid(
            ["target", "", "minus", "difference", "95 % interval", "p", "n"],
            [
                [
                    contrast.target.replace("_", " "),
                    contrast.row,
                    contrast.other,
                    *_tested(contrast),
                ]
                for contrast in tables.contrasts
            ],
        ),
        "## Made with",
        f"```json\n{json_text({'config': config, 'versions': versions})}```",
    ]
    return "\n\n".join(blocks) + "\n"


def print_digits(
    console: Console, tables: DigitsTables, accuracy: Mapping[str, Mapping[str, float | int]]
) -> None:
    """Print all tables on a rich console."""
    from rich.table import Table
    from rich.text import Text

    layers = layer_names(len(tables.saturation))
    for line in _accuracy_lines(accuracy):
        console.print(Text(line))
    for target, rows in tables.correlations.items():
        console.print(Text(f"\n{TARGETS[target]}", "bold"))
        table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
        table.add_column("")
        for name in layers:
            table.add_column(name, justify="right", no_wrap=True)
        for name, cells in rows.items():
            table.add_row(
                Text(name),
                *(
                    Text(short(cell.mean), "bold").append(
                        f" {interval(cell.ci95).replace(' ', '')}" if cell.n else "", "not bold dim"
                    )
                    for cell in cells
                ),
            )
        console.print(table)
    shares = "  ".join(
        f"{name} {short(cell.mean)}" for name, cell in zip(layers, tables.saturation, strict=True)
    )
    console.print(Text(f"\n{_SATURATED}: ", "bold") + Text(shares))
    console.print(Text("\nRow against row at the top layer", "bold"))
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for name in ("target", "", "minus"):
        table.add_column(name)
    for name in ("difference", "95 %", "p", "n"):
        table.add_column(name, justify="right", no_wrap=True)
    for contrast in tables.contrasts:
        texts = (contrast.target.replace("_", " "), contrast.row, contrast.other)
        table.add_row(*map(Text, (*texts, *_tested(contrast))))
    console.print(table)
    console.print(Text(f"\n{_ABOUT.format(images=tables.images, right=tables.right)}", "dim"))


def _accuracy_lines(accuracy: Mapping[str, Mapping[str, float | int]]) -> list[str]:
    return [
        f"accuracy, {name}: {found['accuracy']:.4f} of {found['n']}"
        for name, found in accuracy.items()
    ]


def _cell(cell: Cell) -> str:
    # Where nothing is defined, one word says so.
    return f"{mean_std(cell.mean, cell.std)} {interval(cell.ci95)}" if cell.n else UNDEFINED


def _tested(contrast: Contrast) -> list[str]:
    test = contrast.test
    return [
        short(test.difference, sign=True),
        interval(test.ci95),
        probability(contrast.p_holm),
        str(test.n),
    ]


def _grid(head: list[str], lines: list[list[str]]) -> str:
    rows = [head, ["---"] * len(head), *lines]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)
