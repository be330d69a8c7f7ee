"""The same numbers in less room: weights rounded to steps, and the heaviest edges only."""

from __future__ import annotations

import dataclasses
import zlib

import numpy as np
from numpy.typing import NDArray

__all__ = ["STEPS", "Edges", "Maps", "heaviest_edges", "rounded_maps"]

#: From finer than a picture can show to what still tells two shades apart.
STEPS = (0.0001, 0.001, 0.002, 0.005)

MOST_EDGES = 5000

LEVEL = 2  # at which Bokeh compresses
SAMPLE = 24  # maps, from which the size of all is told


@dataclasses.dataclass(frozen=True, eq=False)
class Maps:
    """Attention maps in steps.

    Attributes
    ----------
    steps
        uint16 ``[L, K, n, n]``, the mean of the heads and then, if they are kept, each head.
    step
        What 1 in `steps` stands for.
    """

    steps: NDArray[np.uint16]
    step: float

    @property
    def heads(self) -> int:
        """How many heads are there beside their mean."""
        return self.steps.shape[1] - 1


@dataclasses.dataclass(frozen=True, eq=False)
class Edges:
    """The heaviest edges of the attention graph, the heaviest last.

    Attributes
    ----------
    layer, query, key
        int ``[E]``, from 0.
    weight
        float64 ``[E]``.
    total
        How many edges the graph has.
    share
        What part of all weight the E edges carry.
    """

    layer: NDArray[np.intp]
    query: NDArray[np.intp]
    key: NDArray[np.intp]
    weight: NDArray[np.float64]
    total: int
    share: float


def rounded_maps(attention: NDArray[np.floating], budget: int) -> Maps:
    """Round attention as finely as the budget allows.

    Parameters
    ----------
    attention
        ``[L, H, n, n]``.
    budget
        Bytes that the maps may take, compressed and written as text. Where no step is coarse
        enough, only the mean of the heads is kept, in the finest step.
    """
    maps = np.concatenate([attention.mean(1, keepdims=True), attention], 1)
    for step in STEPS:
        rounded = _round(maps, step)
        if _written(rounded) <= budget:
            return Maps(rounded, step)
    return Maps(_round(maps[:, :1], STEPS[0]), STEPS[0])


def _round(maps: NDArray[np.floating], step: float) -> NDArray[np.uint16]:
    return np.rint(maps / step).astype(np.uint16)


def _written(maps: NDArray[np.uint16]) -> int:
    # Base 64 turns 3 bytes into 4; each map is written by itself, with a name for every part.
    flat = maps.reshape(-1, *maps.shape[-2:])
    sample = flat[:: max(1, len(flat) // SAMPLE)]
    sizes = [len(zlib.compress(one.tobytes(), LEVEL)) * 4 // 3 + 120 for one in sample]
    return len(flat) * sum(sizes) // len(sizes)


def heaviest_edges(weights: NDArray[np.float64], most: int = MOST_EDGES) -> Edges:
    """Keep the heaviest edges of a graph with weights ``[L, n, n]``; of equal ones the lowest."""
    flat = weights.ravel()
    kept = np.argsort(-flat, kind="stable")[: min(most, np.count_nonzero(flat))][::-1]
    layer, query, key = np.unravel_index(kept, weights.shape)
    return Edges(
        layer,
        query,
        key,
        flat[kept],
        int(np.count_nonzero(flat)),
        float(flat[kept].sum() / flat.sum()),
    )
