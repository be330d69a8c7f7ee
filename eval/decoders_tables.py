"""From every sentence's measures to the tables of the decoders study, and what became of the bias.

Every difference is paired: after normalisation minus before, sentence by sentence. Its p-value is
that of a permutation test (random signs), Holm-corrected over all tests of a split.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from jaxflow.eval.decoders import AFTER, NORMALISED, DecoderScores
from jaxflow.eval.leaderboard.significance import PERMUTATIONS, permutation_tests
from jaxflow.eval.paper.tables import length_bands
from jaxflow.eval.stats import RESAMPLES, Cell, compare, holm, summarise

__all__ = [
    "BIASES",
    "GAINS",
    "PERMUTATIONS",
    "Band",
    "Change",
    "DecoderTables",
    "build_decoder_tables",
]

_LEVEL = 0.05

#: Measures that are 0 where there is no bias to early tokens, and those that should be high.
BIASES = ("excess", "position")
GAINS = ("blank_out", "gradient_norm", "subject")
#: Not tested: its differences are those of ``excess``.
_UNTESTED = ("first_token",)
#: What is shown by length, over which tokens, and in which rows.
_BAND_MEASURES = (*BIASES, *GAINS)
_BAND_VARIANTS = ("tokens", "others")
_BAND_ROWS = (*(row for name in NORMALISED for row in (name, AFTER.format(name))), "raw")

_Cells = dict[str, tuple[Cell, ...]]


@dataclasses.dataclass(frozen=True)
class Change:
    """What normalisation changed of one measure at one layer.

    Attributes
    ----------
    difference, ci95
        Mean of after minus before, and its 95 % bootstrap interval.
    p, p_holm
        Of the permutation test, alone and corrected.
    n
        Sentences on which both are defined.
    verdict
        Of a bias: ``gone`` (its interval afterwards has 0 in it), ``weaker``, ``turned, weaker``,
        ``stronger`` or ``turned, stronger``. Of what should be high: ``higher`` or ``lower``. Of
        all: ``same`` where the test does not reject at .05, ``undefined`` without sentences, and
        empty for a measure that is neither.
    """

    difference: float
    ci95: tuple[float, float]
    p: float
    p_holm: float
    n: int
    verdict: str


@dataclasses.dataclass(frozen=True)
class Band:
    """The top layer's cells of the sentences of a length: as in `DecoderTables`, one cell a row."""

    sentences: int
    even: float
    measures: dict[str, dict[str, dict[str, Cell]]]


@dataclasses.dataclass(frozen=True)
class DecoderTables:
    """Everything that the tables show of one split, one cell per layer, bottom to top.

    Attributes
    ----------
    measures
        Over which tokens -> measure -> row -> L cells.
    changes
        Over which tokens -> measure -> method (`NORMALISED`) -> L changes.
    relative
        Method -> L cells: token 0's score over what its place explains.
    bands
        Band of sentence lengths -> the same at the top layer, of the measures that matter.
    even
        Mean even share, 1/n.
    sentences
        How many there are.
    """

    measures: dict[str, dict[str, _Cells]]
    changes: dict[str, dict[str, dict[str, tuple[Change, ...]]]]
    relative: _Cells
    bands: dict[str, Band]
    even: float
    sentences: int

    @property
    def layers(self) -> int:
        """Number of layers L."""
        return len(self.relative[NORMALISED[0]])


def build_decoder_tables(
    scores: DecoderScores,
    seed: int = 0,
    *,
    resamples: int = RESAMPLES,
    permutations: int = PERMUTATIONS,
) -> DecoderTables:
    """Summarise what was measured over the sentences of a split.

    Parameters
    ----------
    scores
        What was measured.
    seed, resamples, permutations
        Of the bootstrap and the permutation tests.
    """
    layers = scores.relative[NORMALISED[0]].shape[1]
    keys = [(v, m, row) for v, found in scores.measures.items() for m in found for row in found[m]]
    columns = [scores.measures[variant][measure][row] for variant, measure, row in keys]
    columns += [scores.relative[name] for name in NORMALISED]
    # All columns in one call: they share the bootstrap's resamples.
    cells = summarise(np.concatenate(columns, 1), seed, resamples=resamples)
    parts = [cells[start : start + layers] for start in range(0, len(cells), layers)]
    measures: dict[str, dict[str, _Cells]] = {}
    for (variant, measure, row), part in zip(keys, parts, strict=False):
        measures.setdefault(variant, {}).setdefault(measure, {})[row] = part
    relative = dict(zip(NORMALISED, parts[len(keys) :], strict=True))
    return DecoderTables(
        measures,
        _changes(scores, measures, seed, resamples, permutations),
        relative,
        _bands(scores, seed, resamples),
        float(np.mean(1 / scores.lengths)),
        len(scores.lengths),
    )


def _changes(
    scores: DecoderScores,
    measures: Mapping[str, Mapping[str, _Cells]],
    seed: int,
    resamples: int,
    permutations: int,
) -> dict[str, dict[str, dict[str, tuple[Change, ...]]]]:
    keys = [
        (variant, measure, name)
        for variant, found in scores.measures.items()
        for measure in found
        if measure not in _UNTESTED
        for name in NORMALISED
    ]
    differences = []
    for variant, measure, name in keys:
        values = scores.measures[variant][measure]
        differences.append(values[AFTER.format(name)] - values[name])
    layers = differences[0].shape[1]
    joined = np.concatenate(differences, 1)
    tests = compare(joined, seed=seed, resamples=resamples)
    p = _sign_tests(joined, permutations, seed)
    corrected = holm(p.tolist())
    changes: dict[str, dict[str, dict[str, tuple[Change, ...]]]] = {}
    for place, (variant, measure, name) in enumerate(keys):
        rows = measures[variant][measure]
        made = []
        for layer in range(layers):
            k = place * layers + layer
            before, after = rows[name][layer], rows[AFTER.format(name)][layer]
            test = tests[k]
            verdict = _verdict(measure, before, after, test.difference, corrected[k])
            made.append(
                Change(test.difference, test.ci95, float(p[k]), corrected[k], test.n, verdict)
            )
        changes.setdefault(variant, {}).setdefault(measure, {})[name] = tuple(made)
    return changes


def _sign_tests(
    differences: NDArray[np.float64], permutations: int, seed: int
) -> NDArray[np.float64]:
    """Return the p-values of K columns of paired differences ``[S, K]``, NaN for an empty one."""
    # Against a row of zeros. A difference of 0 has no say under any sign, so that it may stand for
    # one that is undefined.
    known = ~np.isnan(differences)
    methods = np.vstack([np.where(known, differences, 0).T, np.zeros(len(differences))])
    p = permutation_tests(methods, permutations=permutations, seed=seed)[-1, :-1]
    return np.where(known.any(0), p, np.nan)


def _verdict(measure: str, before: Cell, after: Cell, difference: float, p_holm: float) -> str:
    if measure not in (*BIASES, *GAINS):
        return ""
    if np.isnan(p_holm):
        return "undefined"
    if p_holm >= _LEVEL:
        return "same"
    if measure in GAINS:
        return "higher" if difference > 0 else "lower"
    if after.ci95[0] <= 0 <= after.ci95[1]:
        return "gone"
    size = "weaker" if abs(after.mean) < abs(before.mean) else "stronger"
    return size if before.mean * after.mean > 0 else f"turned, {size}"


def _bands(scores: DecoderScores, seed: int, resamples: int) -> dict[str, Band]:
    keys = [
        (variant, measure, row)
        for variant in _BAND_VARIANTS
        for measure in _BAND_MEASURES
        if measure in scores.measures[variant]
        for row in _BAND_ROWS
    ]
    top = np.stack([scores.measures[v][measure][row][:, -1] for v, measure, row in keys], 1)
    bands: dict[str, Band] = {}
    for label, member in length_bands(scores.lengths).items():
        cells: dict[str, dict[str, dict[str, Cell]]] = {}
        found = summarise(top[member], seed, resamples=resamples)
        for (variant, measure, row), cell in zip(keys, found, strict=True):
            cells.setdefault(variant, {}).setdefault(measure, {})[row] = cell
        even = float(np.mean(1 / scores.lengths[member]))
        bands[label] = Band(int(member.sum()), even, cells)
    return bands
