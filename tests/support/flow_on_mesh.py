"""Compute flow of a batch that is split over this process's devices; print how, as JSON."""

from __future__ import annotations

import json
import re
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

import jaxflow
from jaxflow._flow import gradient

TEXTS, LAYERS, HEADS, N = 16, 3, 2, 6
SPLIT = PartitionSpec("batch")
seen: list[int] = []
host_flow = gradient._host_flow


def counted(options: Any, dtype: Any, attention: Any, *more: Any) -> Any:
    seen.append(len(attention))
    return host_flow(options, dtype, attention, *more)


gradient._host_flow = counted
mesh = jax.make_mesh((jax.device_count(),), ("batch",))
weights = np.random.default_rng(0).dirichlet(np.ones(N), (TEXTS, LAYERS, HEADS, N))
attention = jax.device_put(weights.astype(np.float32), NamedSharding(mesh, SPLIT))
on_each = partial(jax.shard_map, mesh=mesh, in_specs=SPLIT, out_specs=SPLIT)

flows = jax.jit(on_each(jaxflow.flow)).lower(attention).compile()
gathers = len(re.findall(r"all-gather|all-to-all|collective-permute", flows.as_text()))
found = jax.block_until_ready(flows(attention))
split = sorted(shard.data.shape[0] for shard in found.addressable_shards)
texts, seen = seen, []
errors = [np.abs(found - jaxflow.flow(weights)).max()]


@jax.jit
@on_each
def in_a_loop(attention: jax.Array) -> jax.Array:
    """The flow of one text after the other."""
    return jax.lax.scan(lambda _, text: (None, jaxflow.flow(text, sources=0)), None, attention)[1]


errors.append(np.abs(in_a_loop(attention) - jaxflow.flow(weights, sources=0)).max())
pull = lambda a: jaxflow.flow(a, sources=0).sum()  # noqa: E731
slopes = jax.jit(on_each(jax.grad(pull)))(attention)
errors.append(np.abs(slopes - jax.grad(pull)(jnp.asarray(weights, jnp.float32))).max())
assert split == texts, (split, texts)
print(
    json.dumps(
        {
            "devices": len(split),
            "gathers": gathers,
            "texts": texts,
            "error": float(max(errors)),
        }
    )
)
