"""The tables as Markdown, each of our rows with the paper's numbers and the difference under it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import isnan
from typing import Any

from jaxflow.eval.paper import reference as paper
from jaxflow.eval.paper.claims import NOTE, Claim
from jaxflow.eval.paper.tables import Tables, beside_paper
from jaxflow.eval.report.text import (
    UNDEFINED,
    accuracy_lines,
    counts,
    interval,
    json_text,
    layer_names,
    mean_std,
    probability,
    short,
)
from jaxflow.eval.stats import Cell

__all__ = ["claim_blocks", "comparison_note", "splits_block", "table_blocks", "to_markdown"]


def to_markdown(
    tables: Tables,
    *,
    claims: Sequence[Claim] = (),
    accuracy: Any = None,
    accuracy_by_split: Mapping[str, Mapping[str, float | int]] | None = None,
    samples: int | None = None,
    config: Any = None,
    versions: Any = None,
) -> str:
    """Both tables, the rows the paper lacks, the claims and what produced them.

    Parameters
    ----------
    tables, claims
        What was found.
    accuracy, accuracy_by_split, samples, config, versions
        As for `jaxflow.eval.paper.tables.record`; what is None is left out.

    Returns
    -------
    str
        A Markdown document. Layers go from L1 (bottom) up; a model of another depth than the
        paper's gets no comparison, and the text says so.
    """
    sentences = tables.sentences if samples is None else samples
    blocks = [
        "# Agreement of token scores with blank-out and input gradients",
        f"Spearman's correlation per sentence, mean±standard deviation over {sentences} sentences; "
        "intervals are 95 % bootstrap intervals of the mean, NaN counts the sentences left out "
        f"because one side is constant. {comparison_note(tables)}",
        "\n".join(f"- {line}" for line in accuracy_lines(accuracy)),
        splits_block(accuracy_by_split or {}),
    ]
    blocks += table_blocks(tables)
    blocks += claim_blocks(claims)
    if config is not None or versions is not None:
        blocks += [
            "## Made with",
            f"```json\n{json_text({'config': config, 'versions': versions})}```",
        ]
    return "\n\n".join(block for block in blocks if block) + "\n"


def table_blocks(tables: Tables, targets: Sequence[str] | None = None) -> list[str]:
    """Give the tables as Markdown blocks: those of `targets` alone, or all there is."""
    blocks = []
    for target, rows in tables.correlations.items():
        if targets is not None and target not in targets:
            continue
        blocks.append(f"## {tables.reference.titles[target]}")
        blocks.append(_compared(tables, target))
        blocks.append(_intervals({paper.ROW_TITLES[row]: cells for row, cells in rows.items()}))
    if targets is not None:
        return blocks
    return [
        *blocks,
        "## Saturated share of the pairs ([CLS], token)",
        "Pairs whose flow is at its bound, the column sum of A[1] cut at 1.",
        _means({"saturated": tables.saturation}),
        _intervals({"saturated": tables.saturation}),
        "## Entropy of the [CLS] row",
        "As a share of its maximum, the logarithm of the number of tokens.",
        _means(tables.entropy),
        _intervals(tables.entropy),
    ]


def claim_blocks(claims: Sequence[Claim]) -> list[str]:
    """Give the claims as Markdown blocks; none where none were tested."""
    return ["## Claims", _claims(claims), NOTE] if claims else []


def comparison_note(tables: Tables) -> str:
    """Say what the numbers are compared with, or why they are not."""
    if tables.layers == paper.LAYERS:
        return f"Paper: {tables.reference.source} ({tables.reference.sentences} sentences)."
    return (
        f"No comparison with the paper: its model has {paper.LAYERS} layers, this one has "
        f"{tables.layers}."
    )


def _compared(tables: Tables, target: str) -> str:
    lines = []
    for row, cells in tables.correlations[target].items():
        lines.append([f"**{paper.ROW_TITLES[row]}**", *_mean_stds(cells)])
        theirs = beside_paper(tables, target, row)
        if theirs is not None:
            lines.append(["paper", *(mean_std(mean, std) for mean, std, _ in theirs)])
            lines.append(["difference", *(short(gap, sign=True) for _, _, gap in theirs)])
    return _grid(["", *layer_names(tables.layers)], lines)


def _means(rows: dict[str, tuple[Cell, ...]]) -> str:
    lines = [[f"**{name}**", *_mean_stds(cells)] for name, cells in rows.items()]
    return _grid(["", *layer_names(len(next(iter(rows.values()))))], lines)


def _intervals(rows: dict[str, tuple[Cell, ...]]) -> str:
    lines = [
        [name, *(interval(cell.ci95) for cell in cells), counts(cells, "n"), counts(cells, "nan")]
        for name, cells in rows.items()
    ]
    layers = layer_names(len(next(iter(rows.values()))))
    return _grid(["95 % interval", *layers, "n", "NaN"], lines)


def splits_block(splits: Mapping[str, Mapping[str, float | int]]) -> str:
    """Give the accuracy by split as a Markdown table; empty where none is known."""
    # Splits may differ in what is known of them: every figure of any is a column.
    names = list(dict.fromkeys(name for figures in splits.values() for name in figures))
    lines = [
        [split, *(_figure(figures[name]) if name in figures else "" for name in names)]
        for split, figures in splits.items()
    ]
    return _grid(["split", *(name.replace("_", " ") for name in names)], lines) if lines else ""


def _figure(value: float | int) -> str:
    return str(value) if isinstance(value, int) else UNDEFINED if isnan(value) else f"{value:.4f}"


def _claims(claims: Sequence[Claim]) -> str:
    return _grid(
        ["", "claim", "target", "verdict", "effect", "95 % interval", "p", "n", "figures"],
        [
            [
                claim.name,
                claim.statement,
                "" if claim.target is None else paper.TARGET_TITLES[claim.target],
                f"**{claim.verdict}**",
                short(claim.effect, sign=True),
                interval(claim.ci95),
                probability(claim.p_holm),
                str(claim.n),
                claim.detail,
            ]
            for claim in claims
        ],
    )


def _mean_stds(cells: Iterable[Cell]) -> list[str]:
    return [mean_std(cell.mean, cell.std) for cell in cells]


def _grid(head: list[str], lines: list[list[str]]) -> str:
    rows = [head, ["---"] * len(head), *lines]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)
