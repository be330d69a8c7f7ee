r"""Test which methods differ: paired permutation tests of all pairs, Holm-corrected, and ranks.

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
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from jaxflow.errors import InputError
from jaxflow.eval.stats import holm

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
