"""Train as one of several processes; run by `tests/train/test_processes.py`."""

from __future__ import annotations

import json
import sys

import jax
import numpy as np
from mesh_training import losses

from jaxflow.train.distributed import join
from jaxflow.train.mesh import layout_of


def main(coordinator: str, processes: int, process: int) -> None:
    """Join the others and train on all their devices."""
    joined = join(coordinator=coordinator, processes=processes, process=process)
    batch = np.arange(16)
    whole, own = layout_of(), layout_of(own=True)
    found = {
        "process": [joined.index, joined.count],
        "devices": [len(jax.local_devices()), len(jax.devices())],
        "own": own.devices,
        "rows": [[rows.start, rows.stop] for rows in (whole.rows(16), own.rows(16))],
        "put": np.asarray(whole.own(whole.put_batch(batch[whole.rows(16)]))).tolist(),
        "filled": np.asarray(whole.own(whole.put_filled(batch[:5]))).tolist(),
        "whole": losses(whole, 0.0),
        "split": losses(layout_of(shard_params=True), 0.0),
    }
    print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
