"""Measure memory after each of many shards; run by `tests/scale/test_scale.py`."""

from __future__ import annotations

import ctypes
import json
import sys
from pathlib import Path

from jax import monitoring

import jaxflow.eval.sharded.run as sharded
from jaxflow.eval.paper.protocol import ProtocolConfig


class _Heap(ctypes.Structure):
    """What glibc's mallinfo2(3) returns."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            *("arena", "ordblks", "smblks", "hblks", "hblkhd"),
            *("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"),
        )
    ]


def allocated() -> int | None:
    """Return the bytes of the C library's heap in use; None where that is unknown."""
    mallinfo = getattr(ctypes.CDLL(None), "mallinfo2", None)
    if mallinfo is None:
        return None
    mallinfo.restype = _Heap
    heap = mallinfo()
    return int(heap.uordblks + heap.hblkhd)


def main(run: Path, out: Path, shards: int) -> None:
    """Make all shards and print JSON lists, an entry a shard."""
    programs = 0
    seen: dict[str, list[int | None]] = {"resident": [], "allocated": [], "programs": []}

    def count(event: str, _: float, **rest: object) -> None:
        nonlocal programs
        programs += "backend_compile" in event

    def write(path: Path, shard: sharded.Shard) -> None:
        write_shard(path, shard)
        resident = int(Path("/proc/self/statm").read_text().split()[1])
        seen["resident"].append(resident * 4096)
        seen["allocated"].append(allocated())
        seen["programs"].append(programs)

    monitoring.register_event_duration_secs_listener(count)
    write_shard, sharded.write_shard = sharded.write_shard, write
    sharded.open_sharded(run, ProtocolConfig(), out, shards).work()
    print(json.dumps(seen))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
