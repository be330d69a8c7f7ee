"""Summarise boards: means, intervals, spread between seeds, equal methods, tests of all pairs.

The tests are Wilcoxon's of paired differences, Holm-corrected over all pairs of methods.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from jaxflow.errors import InputError
from jaxflow.eval.leaderboard.board import MEASURES, Board
from jaxflow.eval.leaderboard.methods import Method, find_method
from jaxflow.eval.stats import Cell, holm, signed_rank, summarise

#: Share of the largest score below which a difference is rounding in single precision.
TOLERANCE = 1e-4
_FEW = 50  # sentences on which most methods differ

#: Measures that methods are tested by, pair by pair.
TESTED = ("comprehensiveness_area", "sufficiency_area", "spearman_blank_out", "spearman_gradient")

#: Headings of the measures in tables; the arrow shows whether high or low is good.
TITLES: Mapping[str, str] = {
    "spearman_blank_out": "ρ blank-out ↑",
    "kendall_blank_out": "τ blank-out ↑",
    "spearman_gradient": "ρ gradient ↑",
    "kendall_gradient": "τ gradient ↑",
    "comprehensiveness": "compreh. ↑",
    "sufficiency": "suffic. ↓",
    "comprehensiveness_area": "compreh. area ↑",
    "sufficiency_area": "suffic. area ↓",
    "deletion_auc": "deletion ↓",
    "insertion_auc": "insertion ↑",
    "subject_hit": "subject hit ↑",
    "entropy": "entropy",
    "at_bound": "flow at bound",
}
_LEVEL = 0.05
_DECIMALS = 6  # of a difference: measures are float32


@dataclasses.dataclass(frozen=True, eq=False)
class Significance:
    """R methods compared by one measure.

    A method that is defined on no sentence has the rank NaN, and the others' ranks do without it.
    """

    ranks: NDArray[np.float64]  # [R], mean over sentences on which all are defined; 1 is the best
    p_holm: NDArray[np.float64]  # [R, R], corrected; NaN on the diagonal and without sentences
    sentences: int  # that the ranks are of

    def groups(self) -> list[tuple[int, ...]]:
        """Return the groups that a critical-difference picture joins, best first.

        A group is a longest run of methods, by rank, of which no two differ.
        """
        order = np.argsort(self.ranks, kind="stable")[: np.count_nonzero(~np.isnan(self.ranks))]
        found: list[tuple[int, int]] = []
        for begin in range(len(order)):
            end = begin
            while end + 1 < len(order) and not any(
                self.p_holm[order[end + 1], order[other]] < _LEVEL
                for other in range(begin, end + 1)
            ):
                end += 1
            if end > begin and not any(b <= begin and end <= e for b, e in found):
                found.append((begin, end))
        return [tuple(int(order[place]) for place in range(b, e + 1)) for b, e in found]


@dataclasses.dataclass(frozen=True)
class Line:
    """One method at one layer."""

    method: Method
    layer: int | None  # from 0; None where it has only one
    final: bool  # whether it is its method's top layer, or only one
    cells: Mapping[str, Cell]  # by measure: over sentences, each one's values averaged over seeds
    spread: Mapping[str, float]  # standard deviation of the seeds' means (ddof 1); NaN for one seed
    milliseconds: float  # for 1,000 sentences, compiling left out; NaN where it costs nothing


@dataclasses.dataclass(frozen=True, eq=False)
class Summary:
    """The board in numbers."""

    lines: tuple[Line, ...]  # every method and layer; main lines (`final`) first, sorted by `key`
    significance: Mapping[str, Significance]  # by measure (`TESTED`): ranks and tests of main lines
    key: str  # the measure that sorts
    sentences: int
    seeds: int
    left_out: Mapping[str, str]  # edge weight or other method -> why it is not there
    equal_methods: tuple[tuple[str, ...], ...] = ()  # groups with equal scores of every token

    @property
    def finals(self) -> tuple[Line, ...]:
        """The methods' main lines, best first."""
        return tuple(line for line in self.lines if line.final)


def _nanmean(values: NDArray[np.floating], axis: int) -> NDArray[np.floating]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # all of a mean's values undefined
        return np.asarray(np.nanmean(values, axis=axis))


def summarise_boards(
    boards: Sequence[Board],
    *,
    key: str = "comprehensiveness_area",
    seed: int = 0,
) -> Summary:
    """Summarise boards of the same rows and sentences, one for each training seed, sorted by `key`.

    `seed` is that of the bootstrap. Raises `InputError` if the boards are of different rows or
    sentences, or there is no such measure.
    """
    if key not in MEASURES:
        raise InputError(f"sort must be one of {', '.join(MEASURES)}, got {key!r}")
    first = boards[0]
    for other in boards[1:]:
        if other.rows != first.rows or not np.array_equal(other.cases.labels, first.cases.labels):
            raise InputError(
                "runs must be of one architecture and corpus to be summarised together: train "
                "them with the same options but for --seed"
            )
    stacked = {name: np.stack([board.measures[name] for board in boards]) for name in MEASURES}
    values = {name: _nanmean(each.astype(np.float64), 0) for name, each in stacked.items()}
    cells = {name: summarise(table.T, seed) for name, table in values.items()}
    spread = {name: _spread(each) for name, each in stacked.items()}
    finals = set(first.final())
    lines = []
    for place, (name, layer) in enumerate(first.rows):
        try:
            method = find_method(name)
        except InputError:  # a method that the list of all methods lacks
            method = Method(name, name, "edges")
        seconds = np.mean([board.scores.seconds.get(name, np.nan) for board in boards])
        lines.append(
            Line(
                method=method,
                layer=layer,
                final=place in finals,
                cells={measure: cells[measure][place] for measure in MEASURES},
                spread={measure: float(spread[measure][place]) for measure in MEASURES},
                milliseconds=float(seconds) * 1e6,
            )
        )
    sign = -1 if MEASURES[key] else 1

    def order(place: int) -> tuple[bool, float]:
        mean = lines[place].cells[key].mean
        return place not in finals, np.inf if np.isnan(mean) else sign * mean

    ranked = sorted(range(len(lines)), key=order)
    ahead = [place for place in ranked if place in finals]
    significance = {
        measure: compare(values[measure][ahead], high_is_good=MEASURES[measure])
        for measure in TESTED
    }
    return Summary(
        lines=tuple(lines[place] for place in ranked),
        significance=significance,
        key=key,
        sentences=len(first.cases),
        seeds=len(boards),
        left_out=first.scores.left_out,
        equal_methods=find_equal(boards, [lines[place].method.name for place in ahead]),
    )


def _spread(values: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the standard deviation between the seeds' means, from ``[seeds, R, S]`` to ``[R]``."""
    if len(values) == 1:
        return np.full(values.shape[1], np.nan)
    means = np.stack([_nanmean(seed, 1) for seed in values]).astype(np.float64)
    return np.asarray(np.std(means, axis=0, ddof=1))


def find_equal(boards: Sequence[Board], names: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    """Group methods whose top layers have the same scores of every token, in every run.

    Two that a model makes equal, such as norms with and without a LayerNorm that the block lacks,
    would look like independent evidence in a table. Groups of two or more, in the order of `names`.
    """
    scores = [board.scores.values for board in boards]
    groups: list[list[str]] = []
    for name in names:
        if not all(name in values for values in scores):
            continue
        for group in groups:
            if all(_close(each[name][:, -1], each[group[0]][:, -1]) for each in scores):
                group.append(name)
                break
        else:
            groups.append([name])
    return tuple(tuple(group) for group in groups if len(group) > 1)


def _close(one: NDArray[np.float32], other: NDArray[np.float32]) -> bool:
    # The first sentences differ already for most methods.
    for part in (slice(_FEW), slice(None)):
        largest = np.abs(one[part]).max(initial=0)
        if not (np.abs(one[part] - other[part]) <= TOLERANCE * largest).all():
            return False
    return True


def compare(values: NDArray[np.floating], *, high_is_good: bool = True) -> Significance:
    """Compare R methods on S sentences by one measure, ``[R, S]``, NaN where it is not defined.

    `high_is_good`: whether rank 1 is the highest. Every pair is tested on the sentences on which
    both are defined. Raises `InputError` if a value is infinite.
    """
    from scipy.stats import rankdata

    table = np.asarray(values, np.float64)
    corrected = np.full((len(table), len(table)), np.nan)
    upper = np.triu_indices(len(table), 1)
    p = [signed_rank(np.round(table[i] - table[i + 1 :], _DECIMALS)) for i in range(len(table))]
    corrected[upper] = holm(np.concatenate(p).tolist())
    corrected.T[upper] = corrected[upper]
    somewhere = ~np.isnan(table).all(-1)
    kept = table[somewhere]
    whole = kept[:, ~np.isnan(kept).any(0)]
    ranks = np.full(len(table), np.nan)
    if whole.size:
        ranks[somewhere] = rankdata(-whole if high_is_good else whole, axis=0).mean(-1)
    return Significance(ranks, corrected, whole.shape[1])
