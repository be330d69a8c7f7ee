"""One of several processes that train together: see `tests/train/test_processes.py`."""

from __future__ import annotations

import json
import sys

import jax
from mesh_training import losses

from jaxflow.train.mesh import layout_of
from jaxflow.train.processes import join


def main(coordinator: str, processes: int, process: int) -> None:
    """Join the others and train on all their devices."""
    joined = join(coordinator=coordinator, processes=processes, process=process)
    found = {
        "process": [joined.index, joined.count],
        "devices": [len(jax.local_devices()), len(jax.devices())],
        "own": layout_of(own=True).devices,
        "whole": losses(layout_of(), 0.0),
        "split": losses(layout_of(shard_params=True), 0.0),
    }
    print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
