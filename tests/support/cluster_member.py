"""Run one task of a batch system; see `tests/train/test_many_processes.py`."""

from __future__ import annotations

import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec

from jaxflow.commands._options import HostOptions
from jaxflow.errors import InputError
from jaxflow.train.mesh import AXIS, layout_of


def main() -> int:
    """Join by the batch system's settings alone, and add a number of every process."""
    try:
        joined = HostOptions(cluster=True).join()
    except InputError as error:
        print(f"jaxflow: error: {error}", file=sys.stderr)
        return 2
    layout = layout_of()

    def total(own: jax.Array) -> jax.Array:
        return jax.lax.psum(own.sum(), AXIS)

    place = jax.sharding.NamedSharding(layout.mesh, PartitionSpec(AXIS))
    own = np.full(len(jax.local_devices()), 10.0**joined.index, np.float32)
    spread = jax.make_array_from_process_local_data(place, own)
    added = jax.jit(
        jax.shard_map(
            total, mesh=layout.mesh, in_specs=PartitionSpec(AXIS), out_specs=PartitionSpec()
        )
    )(jnp.asarray(spread))
    print(json.dumps([joined.index, joined.count, float(added)]), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
