r"""Summarise boards: means, intervals, spread between seeds, equal methods, tests of all pairs.

The tests are paired permutation tests, Holm-corrected.

For two methods with differences :math:`d_s` on the sentences where both are defined, every sign of
a difference is equally likely if neither is better. The p-value is the share of random sign
choices whose :math:`|\sum_s \pm d_s|` reaches the observed one, the observed choice counted in:
:math:`(1 + \#) / (1 + P)`. Two kinds of pairs do without most of the choices:

* very different ones, for which Hoeffding's inequality, :math:`p \le 2 \exp(-(\sum_s d_s)^2 / 2
  \sum_s d_s^2)`, is below what P choices can show: the bound is their p-value;
* similar ones, of which 400 choices have reached the observed sum: the p-value is their share of
  the choices made by then (Besag and Clifford, Sequential Monte Carlo p-values, Biometrika 1991).
"""

from __future__ import annotations

import dataclasses
import itertools
import warnings
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from jaxflow.errors import InputError
from jaxflow.eval.leaderboard.board import MEASURES, Board
from jaxflow.eval.leaderboard.methods import Method, find_method
from jaxflow.eval.stats import Cell, holm, summarise

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
#: So many that a p-value can stay below .05 after a correction for ten thousand pairs.
PERMUTATIONS = 200_000
_CHUNK = 4_000
_LEVEL = 0.05
_ENOUGH = 400  # choices that reach the observed sum: a p-value to 5 %


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
    permutations: int = PERMUTATIONS,
) -> Summary:
    """Summarise boards of the same rows and sentences, one for each training seed, sorted by `key`.

    `seed` and `permutations` are those of bootstrap and tests. Raises `InputError` if the boards
    are of different rows or sentences, or there is no such measure.
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
        measure: compare(
            values[measure][ahead],
            high_is_good=MEASURES[measure],
            permutations=permutations,
            seed=seed,
        )
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


def permutation_tests(
    values: NDArray[np.floating], *, permutations: int = PERMUTATIONS, seed: int = 0
) -> NDArray[np.float64]:
    """Return the p-values float64 ``[R, R]`` of every pair of R methods, not corrected.

    `values` are ``[R, S]``, NaN where a method is not defined. The same random sign choices, at
    most `permutations`, serve all pairs. NaN on the diagonal and where no sentence has both.
    """
    if values.ndim != 2 or np.isinf(values).any():
        raise InputError(f"values must be finite or NaN, [methods, sentences], got {values.shape}")
    count, sentences = values.shape
    table = np.asarray(values, np.float64)
    defined = ~np.isnan(table)
    # Pairs of methods that are defined on the same sentences share all the work: the sum of a
    # difference's signs is the difference of sums.
    patterns, pattern = np.unique(defined, axis=0, return_inverse=True)
    rng = np.random.default_rng(seed)
    pairs = np.array(list(itertools.combinations(range(count), 2)), int).reshape(-1, 2)
    reached = np.zeros(len(pairs), np.int64)
    tried = np.zeros(len(pairs), np.int64)
    groups = _groups(pattern, pairs)
    observed, bound = _observed(table, patterns, pairs, groups)
    both = ~np.isnan(observed)
    # Pairs that a bound has decided, or that are alike in most ways of choosing, need no more.
    going = both & (bound > 1 / (1 + permutations))
    begin = 0
    while begin < permutations and going.any():
        # Few at first: most pairs are decided by then.
        size = min(_CHUNK, permutations - begin, max(500, begin))
        begin += size
        signs = rng.integers(0, 2, (sentences, size), dtype=np.int8).astype(np.float32) * 2 - 1
        for (left, right), all_places in groups.items():
            places = all_places[going[all_places]]
            common = patterns[left] & patterns[right]
            rows = np.unique(pairs[places])
            sums = np.zeros((count, size), np.float32)
            sums[rows] = np.where(common, table[rows], 0).astype(np.float32) @ signs
            for some in np.array_split(places, max(1, len(places) * size // 4_000_000)):
                moved = np.abs(sums[pairs[some, 0]] - sums[pairs[some, 1]])
                # A sum below the observed one by no more than rounding counts as reaching it.
                slack = 1e-5 * np.maximum(observed[some], 1e-6)
                reached[some] += (moved >= (observed[some] - slack)[:, None]).sum(-1)
                tried[some] += size
        going &= reached < _ENOUGH
    p = np.where(tried > 0, (1 + reached) / (1 + tried), bound)
    result = np.full((count, count), np.nan)
    found = np.where(both, p, np.nan)
    result[pairs[:, 0], pairs[:, 1]] = result[pairs[:, 1], pairs[:, 0]] = found
    return result


def _observed(
    table: NDArray[np.float64],
    patterns: NDArray[np.bool_],
    pairs: NDArray[np.integer],
    groups: Mapping[tuple[int, int], NDArray[np.int64]],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return each pair's absolute sum of differences, NaN without any, and Hoeffding's bound."""
    observed = np.full(len(pairs), np.nan)
    bound = np.ones(len(pairs))
    for (left, right), places in groups.items():
        common = patterns[left] & patterns[right]
        if not common.any():
            continue
        kept = table[:, common]
        for some in np.array_split(places, max(1, len(places) * kept.shape[1] // 4_000_000)):
            difference = kept[pairs[some, 0]] - kept[pairs[some, 1]]
            observed[some] = np.abs(difference.sum(-1))
            square = 2 * np.square(difference).sum(-1)
            exponent = np.divide(
                observed[some] ** 2, square, out=np.zeros_like(square), where=square > 0
            )
            bound[some] = np.minimum(2 * np.exp(-exponent), 1)
    return observed, bound


def _groups(
    pattern: NDArray[np.integer], pairs: NDArray[np.integer]
) -> dict[tuple[int, int], NDArray[np.int64]]:
    found: dict[tuple[int, int], list[int]] = {}
    for place, (a, b) in enumerate(pairs):
        left, right = sorted((int(pattern[a]), int(pattern[b])))
        found.setdefault((left, right), []).append(place)
    return {key: np.array(places) for key, places in found.items()}


def compare(
    values: NDArray[np.floating],
    *,
    high_is_good: bool = True,
    permutations: int = PERMUTATIONS,
    seed: int = 0,
) -> Significance:
    """Compare R methods on S sentences by one measure, ``[R, S]``, NaN where it is not defined.

    `high_is_good`: whether rank 1 is the highest. The others are as in `permutation_tests`.
    """
    from scipy.stats import rankdata

    p = permutation_tests(values, permutations=permutations, seed=seed)
    upper = np.triu_indices(len(values), 1)
    corrected = np.full_like(p, np.nan)
    corrected[upper] = holm(p[upper].tolist())
    corrected.T[upper] = corrected[upper]
    somewhere = ~np.isnan(values).all(-1)
    kept = values[somewhere]
    whole = kept[:, ~np.isnan(kept).any(0)]
    ranks = np.full(len(values), np.nan)
    if whole.size:
        ranks[somewhere] = rankdata(-whole if high_is_good else whole, axis=0).mean(-1)
    return Significance(ranks, corrected, whole.shape[1])
