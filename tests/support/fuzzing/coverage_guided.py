"""Atheris, where it is installed (``pip install atheris``): it keeps what reaches new code.

It has no wheel for every Python and system, so nothing else needs it. A reader's input is the
content of one of its files, which the first byte chooses; the others are good.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fuzzing.campaign import scratch
from fuzzing.cases import Case, Reader
from fuzzing.check import FAULTS, judge

__all__ = ["corpus", "explore", "unpack"]


def unpack(reader: Reader, seeds: Sequence[Case], data: bytes) -> Case:
    """Make a case of the bytes that the fuzzer gives."""
    seed = dict(seeds[data[0] % len(seeds)] if data else seeds[0])
    names = sorted(seed)
    place = (data[0] // len(seeds)) % len(names) if data else 0
    seed[names[place]] = data[1:]
    return seed


def corpus(seeds: Sequence[Case]) -> list[bytes]:
    """Return the bytes that `unpack` makes the good cases of."""
    made = []
    for first in range(256):
        seed = seeds[first % len(seeds)]
        names = sorted(seed)
        if first // len(seeds) >= len(names):
            continue
        made.append(bytes([first]) + (seed[names[first // len(seeds)]] or b""))
    return made


def explore(reader: Reader, runs: int = -1, instrument: Sequence[str] = ("jaxflow",)) -> None:
    """Fuzz one reader until a fault is found, or so many runs are over; ends the process.

    What was found is written by Atheris to ``crash-...`` in the folder of the call.
    """
    try:
        import atheris
    except ImportError as error:
        raise SystemExit(
            "atheris is not installed: pip install atheris, on a Python and system that it "
            "knows, or leave --atheris out"
        ) from error
    # The modules are there already: what they hold is instrumented where it lies.
    modules: list[Any] = [
        module
        for name, module in list(sys.modules.items())
        if name.split(".")[0] in instrument and getattr(module, "__file__", None)
    ]
    for module in modules:
        for name, value in list(vars(module).items()):
            if getattr(value, "__module__", None) == module.__name__ and hasattr(value, "__code__"):
                setattr(module, name, atheris.instrument_func(value))
    seeds = reader.seeds()
    with scratch() as folder, scratch() as good:
        for number, content in enumerate(corpus(seeds)):
            (good / str(number)).write_bytes(content)
        case_folder = Path(folder)

        def once(data: bytes) -> None:
            verdict = judge(reader, unpack(reader, seeds, data), case_folder)
            if verdict.kind in FAULTS:
                raise RuntimeError(f"{verdict.kind}: {verdict.detail}")

        arguments = [sys.argv[0], f"-runs={runs}", "-max_len=65536", str(good)]
        atheris.Setup(arguments, once, enable_python_coverage=True)
        atheris.Fuzz()
