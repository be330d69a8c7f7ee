"""The kernel's call: sentences handed to threads, tables put together again.

The kernel lets go of Python's lock. Every thread writes entries of its own and every entry is
computed in the same way whoever does it, so results do not depend on the number of threads.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from threading import Lock, Thread
from typing import Any, TypeVar

import numpy as np

from jaxflow._flow.fallback import flow_tables_by_ortools
from jaxflow.errors import InputError

__all__ = [
    "CompilerError",
    "cut_tables",
    "flow_tables",
    "make_ready",
    "resolve_threads",
    "share_out",
]

Piece = TypeVar("Piece")


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


def share_out(work: Callable[[Piece], None], pieces: Iterable[Piece], threads: int) -> None:
    """Do `work` on all pieces; each thread, this one among them, takes the next when it is free.

    Whatever `work` raises, the first piece in their order that raised decides.
    """
    rest = enumerate(pieces)
    lock, failed = Lock(), {}

    def help_out() -> None:
        while True:
            with lock:
                place, piece = next(rest, (-1, None))
            if piece is None:
                return
            try:
                work(piece)
            except Exception as error:
                failed[place] = error
                return

    others = [Thread(target=help_out) for _ in range(threads - 1)]
    for thread in others:
        thread.start()
    help_out()
    for thread in others:
        thread.join()
    if failed:
        raise failed[min(failed)]


class CompilerError(Exception):
    """numba is there but cannot compile."""


def make_ready(function: Any, *arguments: Any) -> None:
    """Have numba compile a function, by a first call that is right; later calls find it compiled.

    Raises
    ------
    CompilerError
        If that fails, for whatever reason a machine may have.
    """
    if function.signatures:
        return
    try:
        function(*arguments)
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise CompilerError(f"it cannot compile on this machine: {reason}") from error


def _compiled_fill() -> Any:
    from jaxflow._flow.kernel import fill

    first = np.zeros(1, np.int64)
    one = np.ones((1, 1, 1, 1))
    make_ready(fill, one, first, first, one.copy(), 0, 1, 0, 1, 0, 1)
    return fill


def flow_tables(
    edges: np.ndarray, layers: tuple[int, ...], sources: tuple[int, ...], threads: int | None
) -> np.ndarray:
    """Return the flows ``[..., L', S, n]`` on edge weights ``[..., L, n, n]``.

    Raises
    ------
    InputError
        If numba cannot be used, nor OR-tools in its place.
    """
    count = resolve_threads(threads)
    batch, (depth, n) = edges.shape[:-3], edges.shape[-3:-1]
    flat = np.ascontiguousarray(edges, np.float64).reshape(-1, depth, n, n)
    try:
        fill = _compiled_fill()
    except (ImportError, CompilerError) as error:
        table = flow_tables_by_ortools(flat, layers, sources, error)
        return table.reshape(*batch, *table.shape[1:])
    table = np.empty((len(flat), len(layers), len(sources), n))
    layer_ids, source_ids = np.array(layers), np.array(sources)
    every = len(sources), len(layers)
    if count == 1 or table.size < 1000:
        fill(flat, layer_ids, source_ids, table, 0, len(flat), 0, every[0], 0, every[1])
        return table.reshape(*batch, len(layers), len(sources), n)
    # Small pieces, because sentences differ in how much work they are.
    if len(flat) >= 2 * count:
        step = max(1, len(flat) // (16 * count))
        pieces = [(b, b + step, 0, every[0]) for b in range(0, len(flat), step)]
        ranges = [(0, every[1])]
    else:
        step = max(1, len(sources) // (8 * count))
        starts = range(0, len(sources), step)
        pieces = [(b, b + 1, s, s + step) for b in range(len(flat)) for s in starts]
        # A layer may build on all sources of the layer below it.
        ranges = [(at, at + 1) for at in range(every[1])] if len(pieces) > 1 else [(0, every[1])]
    for bottom, top in ranges:

        def fill_piece(piece: tuple[int, ...], bottom: int = bottom, top: int = top) -> None:
            fill(flat, layer_ids, source_ids, table, *piece, bottom, top)

        share_out(fill_piece, pieces, count)
    return table.reshape(*batch, len(layers), len(sources), n)


def cut_tables(
    edges: np.ndarray,
    layers: tuple[int, ...],
    sources: tuple[int, ...],
    pulls: np.ndarray,
    threads: int | None,
) -> np.ndarray:
    """Return ``[..., L, n, n]``: for every edge the sum of `pulls` over the pairs it is a cut of.

    `pulls` is ``[..., L', S, n]``, a number for every pair.

    Raises
    ------
    InputError
        If numba cannot be used.
    """
    try:
        from jaxflow._flow.cuts import add_cuts

        first = np.zeros(1, np.int64)
        one = np.ones((1, 1, 1, 1))
        make_ready(add_cuts, one, first, first, one, one.copy(), 0, 1)
    except (ImportError, CompilerError) as error:
        raise InputError(
            "minimum cuts and the derivative of flow need numba ('pip install numba'), which "
            f"cannot be used: {error}"
        ) from error
    count = resolve_threads(threads)
    depth, n = edges.shape[-3:-1]
    flat = np.ascontiguousarray(edges, np.float64).reshape(-1, depth, n, n)
    pulls = np.ascontiguousarray(pulls, np.float64).reshape(len(flat), len(layers), len(sources), n)
    result = np.zeros_like(flat)
    layer_ids, source_ids = np.array(layers), np.array(sources)
    step = max(1, len(flat) // (8 * count))

    def add_piece(begin: int) -> None:
        add_cuts(flat, layer_ids, source_ids, pulls, result, begin, begin + step)

    share_out(add_piece, range(0, len(flat), step), count)
    return result.reshape(edges.shape)
