"""Capture attention that is sharded over four devices; print how it compares, as JSON."""

from __future__ import annotations

import json

import jax
import jax.numpy as jnp
from attention_cases import B, H, W, heads, logits, out
from jax import lax
from jax.sharding import AxisType, PartitionSpec

from jaxflow import capture

N = 8
MESH = jax.make_mesh((2, 2), ("x", "y"), axis_types=(AxisType.Auto,) * 2)
KEYS = jax.random.split(jax.random.key(0), 5)
P = {name: jax.random.normal(key, (W, W)) / 3 for name, key in zip("qkvo", KEYS, strict=False)}
X = jax.random.normal(KEYS[4], (B, N, W))
EVERY = PartitionSpec()
HEADS = {**dict.fromkeys("qkv", PartitionSpec(None, "y")), "o": PartitionSpec("y")}
BATCH, TOKENS = PartitionSpec("x"), PartitionSpec("x", "y")


def attend(p, x, y):
    weights = jax.nn.softmax(logits(heads(x @ p["q"]), heads(y @ p["k"])))
    return out(p, weights, heads(y @ p["v"]))


def keys_gathered(p, x):
    return attend(p, x, lax.all_gather(x, "y", axis=1, tiled=True))


def heads_for_tokens(p, x):
    """Each device exchanges its tokens of all heads for all tokens of its heads."""
    swap = lambda t, to: lax.all_to_all(t, "y", 3 - to, to, tiled=True)  # noqa: E731
    q, k, v = (swap(heads(x @ p[name]), 1) for name in "qkv")
    o = jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(logits(q, k)), v)
    return swap(o, 2).reshape(x.shape) @ p["o"]


def heads_by_number(p, x):
    """Each device takes its heads out of the whole matrices."""
    mine = lambda a, axis: lax.dynamic_slice_in_dim(  # noqa: E731
        a, lax.axis_index("y") * (W // 2), W // 2, axis
    )
    mine_of = {name: mine(p[name], int(name == "o") ^ 1) for name in "qkvo"}
    return lax.psum(attend(mine_of, x, x), "y")


def heads_sharded(p, x):
    return lax.psum(attend(p, x, x), "y")


def blocks_of_tokens(p, x):
    return attend(p, x, x)


right = jax.nn.softmax(logits(heads(X @ P["q"]), heads(X @ P["k"])))
found = {}
for function, parameters, spec in (
    (heads_sharded, HEADS, BATCH),
    (keys_gathered, EVERY, TOKENS),
    (heads_for_tokens, EVERY, TOKENS),
    (heads_by_number, EVERY, BATCH),
    (blocks_of_tokens, EVERY, TOKENS),
):
    sharded = jax.shard_map(function, mesh=MESH, in_specs=(parameters, spec), out_specs=spec)
    output, attention = capture(sharded)(P, X)
    found[function.__name__] = {
        "output": float(jnp.abs(output - jax.jit(sharded)(P, X)).max()),
        "weights": [float(jnp.abs(site.weights - right).max()) for site in attention],
        "values": [list(site.values.shape) == [B, H, N, W // H] for site in attention],
        "missed": [one.source for one in attention.missed],
    }
print(json.dumps(found))
