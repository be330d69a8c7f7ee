"""The subject's part in ``[CLS]`` as a table: a run beside another, a column for every layer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from jaxflow.eval.report.text import layer_names
from jaxflow.eval.stats import compare, summarise
from jaxflow.eval.subject_mass import METHODS, SubjectMass

__all__ = ["mass_record", "mass_table"]


def mass_table(found: Mapping[str, SubjectMass], seed: int = 0) -> str:
    """Write the means of each run, then each later run's difference from the first, as Markdown.

    Parameters
    ----------
    found
        By run, as `jaxflow.eval.subject_mass.compare_runs` gives it.
    seed
        Of the bootstrap intervals of the differences.

    Returns
    -------
    str
        A table with a line for each method of each run, and its layers from L1 (bottom) up.
    """
    first = next(iter(found.values()))
    layers = first.shares["flow"].shape[1]
    head = ["run", "accuracy", "share of", *layer_names(layers)]
    lines = [head, ["---"] * len(head), *_lines(found, seed)]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return (
        f"{table}\n\nMean over {len(first.even)} sentences; an even row would give the subject "
        f"{_three(first.even.mean())}. Differences with 95 % bootstrap intervals."
    )


def _lines(found: Mapping[str, SubjectMass], seed: int) -> Iterator[list[str]]:
    for name, mass in found.items():
        label = [name, _three(mass.accuracy)]
        for method in METHODS:
            yield [*label, method, *map(_three, mass.shares[method].mean(0))]
            label = ["", ""]
    (base, first), *others = found.items()
    for name, mass in others:
        label = [f"{name} − {base}", _three(mass.accuracy - first.accuracy, sign=True)]
        for method in METHODS:
            tests = compare(mass.shares[method] - first.shares[method], seed=seed)
            cells = [
                f"{_three(test.difference, sign=True)} "
                f"[{', '.join(_three(end, sign=True) for end in test.ci95)}]"
                for test in tests
            ]
            yield [*label, method, *cells]
            label = ["", ""]


def mass_record(found: Mapping[str, SubjectMass], seed: int = 0) -> dict[str, Any]:
    """Return the same numbers for a JSON file, an interval with every mean."""
    return {
        name: {
            "accuracy": mass.accuracy,
            "sentences": len(mass.even),
            "even": float(mass.even.mean()),
            "shares": {method: summarise(mass.shares[method], seed) for method in METHODS},
        }
        for name, mass in found.items()
    }


def _three(value: float | np.floating, *, sign: bool = False) -> str:
    """Three decimals, without a leading zero."""
    text = f"{value:+.3f}" if sign else f"{value:.3f}"
    return text.replace("0.", ".", 1) if abs(float(text)) < 1 else text
