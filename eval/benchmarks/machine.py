"""Where a benchmark ran."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

__all__ = ["describe_machine", "peer_versions"]

PEERS = ("torch", "transformers", "igraph", "ortools")


def describe_machine() -> dict[str, Any]:
    """Return ``{"processor", "cores", "memory", "system", "load"}``.

    The memory is in bytes and None where it cannot be seen; the load is that of the last 1, 5 and
    15 minutes, empty where a system has none.
    """
    cores = getattr(os, "sched_getaffinity", None)
    return {
        "processor": _processor(),
        "cores": len(cores(0)) if cores else os.cpu_count(),
        "memory": _memory(),
        "system": platform.platform(),
        "load": list(_load()),
    }


def peer_versions() -> dict[str, str]:
    """Return the versions of the optional peers that are installed."""
    found = {}
    for package in PEERS:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _memory() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):  # not every system has it
        return None


def _load() -> tuple[float, ...]:
    try:
        return os.getloadavg()
    except (AttributeError, OSError):  # not every system has it
        return ()
