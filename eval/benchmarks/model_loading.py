"""What loading a checkpoint takes: time and memory, each load in a fresh process."""

from __future__ import annotations

import multiprocessing
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from jaxflow.eval.benchmarks.memory import PeakMemory
from jaxflow.eval.benchmarks.timing import Timing

__all__ = ["LOADERS", "OURS", "THEIRS", "Loading", "load_once", "time_loading"]

OURS, THEIRS = "jaxflow.models.load", "transformers from_pretrained"


class Loading(NamedTuple):
    """Seconds that a load took, and bytes that memory rose in it; None where that is not seen."""

    seconds: float
    peak_memory: int | None


def time_loading(names: Sequence[str], tiny: Path, folder: Path, rounds: int) -> list[Timing]:
    """Load a checkpoint again and again, the contenders in turns.

    Parameters
    ----------
    names
        Who loads, of `LOADERS`.
    tiny
        A small checkpoint of the same architecture, loaded before anything is measured.
    folder
        The checkpoint.
    rounds
        How many processes for each.
    """
    found: dict[str, list[Loading]] = {name: [] for name in names}
    for _ in range(rounds):
        for name in names:
            # A fork would begin with the parent's memory, and with its libraries' threads missing.
            context = multiprocessing.get_context("spawn")
            with ProcessPoolExecutor(1, mp_context=context) as pool:
                found[name].append(pool.submit(load_once, name, tiny, folder).result())
    timings = []
    for name, loadings in found.items():
        seconds = [loading.seconds for loading in loadings]
        peaks = [one.peak_memory for one in loadings if one.peak_memory is not None]
        timings.append(
            Timing(
                name=name,
                seconds=statistics.median(seconds),
                fastest=min(seconds),
                rounds=rounds,
                first_call=seconds[0],
                error=None,
                peak_memory=max(peaks, default=None),
            )
        )
    return timings


def load_once(name: str, tiny: Path, folder: Path) -> Loading:
    """Load the tiny checkpoint, then measure how the other is loaded in this process."""
    load = LOADERS[name]()
    load(tiny)
    with PeakMemory() as peak:
        start = time.perf_counter()
        kept = load(folder)
        seconds = time.perf_counter() - start
    del kept  # not before: what is loaded counts
    return Loading(seconds, peak.bytes)


def _our_loader() -> Callable[[Path], Any]:
    import jax

    from jaxflow.models import load

    def read(folder: Path) -> Any:
        model = load(folder, head="none")
        jax.block_until_ready(model.params)
        return model

    return read


def _their_loader() -> Callable[[Path], Any]:
    from jaxflow.eval.benchmarks.transformers_peer import read_module

    def read(folder: Path) -> Any:
        module = read_module(folder)
        # The library maps the file, of which nothing is in memory before it is used.
        for parameter in module.parameters():
            parameter.sum()
        return module

    return read


#: Contender -> what imports its library and returns what loads a folder.
LOADERS: dict[str, Callable[[], Callable[[Path], Any]]] = {
    OURS: _our_loader,
    THEIRS: _their_loader,
}
