"""The kernel's call: sentences handed to threads, tables put together again.

The kernel lets go of Python's lock. Every thread writes entries of its own and every entry is
computed in the same way whoever does it, so results do not depend on the number of threads.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from jaxflow.errors import InputError

__all__ = ["flow_tables", "resolve_threads"]


def resolve_threads(threads: Any) -> int:
    """Return how many threads to use; None is the number of cores this process may run on.

    Raises
    ------
    InputError
        If `threads` is neither None nor a whole number from 1.
    """
    if threads is None:
        cores = getattr(os, "sched_getaffinity", None)
        return len(cores(0)) if cores else os.cpu_count() or 1
    if isinstance(threads, bool) or not isinstance(threads, int | np.integer) or threads < 1:
        raise InputError(f"threads must be None or a whole number from 1, got {threads!r}")
    return int(threads)


def flow_tables(
    edges: np.ndarray, layers: tuple[int, ...], sources: tuple[int, ...], threads: int | None
) -> np.ndarray:
    """Return the flows ``[..., L', S, n]`` on edge weights ``[..., L, n, n]``."""
    from jaxflow.flow.kernel import fill

    count = resolve_threads(threads)
    batch, (depth, n) = edges.shape[:-3], edges.shape[-3:-1]
    flat = np.ascontiguousarray(edges).reshape(-1, depth, n, n)
    table = np.empty((len(flat), len(layers), len(sources), n))
    layer_ids, source_ids = np.array(layers), np.array(sources)
    every = len(sources), len(layers)
    if count == 1 or table.size < 1000:
        fill(flat, layer_ids, source_ids, table, 0, len(flat), 0, every[0], 0, every[1])
        return table.reshape(*batch, len(layers), len(sources), n)
    with ThreadPoolExecutor(count) as pool:
        # Small pieces, because sentences differ in how much work they are.
        if len(flat) >= 2 * count:
            step = max(1, len(flat) // (8 * count))
            pieces = [(b, b + step, 0, every[0]) for b in range(0, len(flat), step)]
            ranges = [(0, every[1])]
        else:
            step = max(1, len(sources) // (8 * count))
            starts = range(0, len(sources), step)
            pieces = [(b, b + 1, s, s + step) for b in range(len(flat)) for s in starts]
            # A layer may build on all sources of the layer below it.
            ranges = [(at, at + 1) for at in range(every[1])] if len(pieces) > 1 else [(0, every[1])]
        for bottom, top in ranges:
            jobs = [
                pool.submit(fill, flat, layer_ids, source_ids, table, *piece, bottom, top)
                for piece in pieces
            ]
            for job in jobs:
                job.result()
    return table.reshape(*batch, len(layers), len(sources), n)
