"""Call the compiled kernel, with the sentences distributed over threads.

The kernel releases Python's lock. Every thread writes entries of its own and every entry is
computed in the same way by whichever thread, so results do not depend on the number of threads.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from threading import Lock, Thread, Timer
from typing import Any, TypeVar

import numpy as np

from jaxflow._flow.fallback import flow_tables_scaled
from jaxflow.attention import Array
from jaxflow.errors import InputError

Piece = TypeVar("Piece")


# Seconds of compilation after which it is announced.
PATIENCE = 2.0


class CompilerError(Exception):
    """numba is not installed, or cannot compile on this machine."""


@contextmanager
def announced(what: str) -> Iterator[None]:
    """Print one line on stderr if the body, a compilation, takes longer than `PATIENCE`."""
    text = f"jaxflow: compiling {what} for this machine, once per installation\n"
    timer = Timer(PATIENCE, lambda: sys.stderr.write(text))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()


def compiled(name: str, *arguments: Any) -> Any:
    """Return a function of `kernel`, compiled by a first call with valid `arguments`.

    Raises `CompilerError` if that fails, for whatever reason a machine may have.
    """
    try:
        function = getattr(importlib.import_module("jaxflow._flow.kernel"), name)
    except ImportError as error:
        raise CompilerError(str(error)) from error
    if not function.signatures:
        try:
            with announced("attention flow"):
                function(*arguments)
        except Exception as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise CompilerError(f"it cannot compile on this machine: {reason}") from error
    return function


def resolve_threads(threads: Any) -> int:
    """Return how many threads to use; None is the number of cores this process may run on."""
    if threads is None:
        cores = getattr(os, "sched_getaffinity", None)
        return len(cores(0)) if cores else os.cpu_count() or 1
    if isinstance(threads, bool) or not isinstance(threads, int | np.integer) or threads < 1:
        raise InputError(f"threads must be None or a whole number from 1, got {threads!r}")
    return int(threads)


def distribute(work: Callable[[Piece], None], pieces: Sequence[Piece], threads: int) -> None:
    """Do `work` on all pieces; each thread, this one among them, takes the next when it is free.

    Of the exceptions that `work` raises, that of the first piece in their order is raised.
    """
    rest = enumerate(pieces)
    lock, failed = Lock(), {}

    def take_pieces() -> None:
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

    others = [Thread(target=take_pieces) for _ in range(min(threads, len(pieces)) - 1)]
    for thread in others:
        thread.start()
    take_pieces()
    for thread in others:
        thread.join()
    if failed:
        raise failed[min(failed)]


def _stages(
    sentences: int, layers: int, sources: int, threads: int
) -> Iterator[list[tuple[int, ...]]]:
    """Divide a table into stages of pieces, each the last six arguments of `kernel.fill`.

    Pieces of a stage can be filled at the same time. They are small, because sentences differ in
    how much work they are.
    """
    if threads == 1:
        yield [(0, sentences, 0, sources, 0, layers)]
    elif sentences >= 2 * threads:
        step = max(1, sentences // (16 * threads))
        yield [(b, b + step, 0, sources, 0, layers) for b in range(0, sentences, step)]
    else:
        # A layer may depend on all sources of the layer below it.
        step = max(1, sources // (8 * threads))
        for at in range(layers):
            starts = range(0, sources, step)
            yield [(b, b + 1, s, s + step, at, at + 1) for b in range(sentences) for s in starts]


def _by_choice(
    function: Callable[..., np.ndarray], sources: np.ndarray, *arrays: np.ndarray
) -> np.ndarray:
    """Call ``function(sources, *arrays)`` for the texts of each choice of sources, ``[..., S]``."""
    batch = sources.shape[:-1]
    flat = [array.reshape(-1, *array.shape[len(batch) :]) for array in arrays]
    choices, which = np.unique(sources.reshape(len(flat[0]), -1), axis=0, return_inverse=True)
    result: Any = None
    for place, choice in enumerate(choices):
        these = which.reshape(-1) == place
        part = function(tuple(choice.tolist()), *(array[these] for array in flat))
        if result is None:
            result = np.empty((len(flat[0]), *part.shape[1:]))
        result[these] = part
    return np.asarray(result).reshape(*batch, *result.shape[1:])


def flow_tables(
    edges: np.ndarray,
    layers: tuple[int, ...],
    sources: tuple[int, ...] | Array,
    threads: int | None,
) -> np.ndarray:
    """Return the flows ``[..., L', S, n]`` on edge weights ``[..., L, n, n]``.

    `sources` are numbers from 0, or an array ``[..., S]`` of each text's own. Where numba cannot
    be used, SciPy takes its place, with a warning.
    """
    if not isinstance(sources, tuple):
        return _by_choice(
            lambda own, edges: flow_tables(edges, layers, own, threads), np.asarray(sources), edges
        )
    count = resolve_threads(threads)
    depth, n = edges.shape[-3:-1]
    flat = np.ascontiguousarray(edges, np.float64).reshape(-1, depth, n, n)
    shape = len(layers), len(sources), n
    first, one = np.zeros(1, np.int64), np.ones((1, 1, 1, 1))
    try:
        fill = compiled("fill", one, first, first, one.copy(), 0, 1, 0, 1, 0, 1)
    except CompilerError as error:
        return flow_tables_scaled(flat, layers, sources, error).reshape(*edges.shape[:-3], *shape)
    table = np.empty((len(flat), *shape))
    layer_ids, source_ids = np.array(layers), np.array(sources)

    def fill_piece(piece: tuple[int, ...]) -> None:
        fill(flat, layer_ids, source_ids, table, *piece)

    few = table.size < 1000
    for pieces in _stages(len(flat), len(layers), len(sources), 1 if few else count):
        distribute(fill_piece, pieces, count)
    return table.reshape(*edges.shape[:-3], *shape)


def cut_tables(
    edges: np.ndarray,
    layers: tuple[int, ...],
    sources: tuple[int, ...] | Array,
    pulls: np.ndarray,
    threads: int | None,
) -> np.ndarray:
    """Return ``[..., L, n, n]``: for every edge the sum of `pulls` over the pairs it is a cut of.

    `pulls` is ``[..., L', S, n]``, a number for every pair, `sources` as in `flow_tables`. Raises
    `InputError` without numba.
    """
    if not isinstance(sources, tuple):
        return _by_choice(
            lambda own, *given: cut_tables(given[0], layers, own, given[1], threads),
            np.asarray(sources),
            edges,
            pulls,
        )
    first, one = np.zeros(1, np.int64), np.ones((1, 1, 1, 1))
    try:
        add_cuts = compiled("add_cuts", one, first, first, one, one.copy(), 0, 1)
    except CompilerError as error:
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

    distribute(add_piece, range(0, len(flat), step), count)
    return result.reshape(edges.shape)
