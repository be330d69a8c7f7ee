"""Time attention rollout against other implementations, and its rows against attention itself."""

from __future__ import annotations

import dataclasses
import importlib.util
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

import jaxflow
from jaxflow import QueryKey
from jaxflow.errors import InputError
from jaxflow.eval.benchmarks.flow import synthetic_attention
from jaxflow.eval.benchmarks.timing import Budget, Comparison, Contender, take_turns

HEADS = 8
#: Works as (sentences a batch, tokens, layers).
QUICK = ((32, 20, 6), (8, 64, 12))
FULL = tuple((batch, n, layers) for batch in (1, 32) for n in (20, 64, 128) for layers in (6, 12))
#: Lengths of one causal layer of 8 heads of 64.
ROWS_QUICK: tuple[int, ...] = (2048,)
ROWS_FULL: tuple[int, ...] = (1024, 4096, 8192)
WIDTH, BLOCK, MANY = 64, 64, 64
DENSE = 4096  # tokens up to which the matrix of all pairs is built too


def run_rollout(works: Sequence[tuple[int, int, int]], budget: Budget) -> Iterator[Comparison]:
    """Yield one comparison for each work ``(sentences a batch, tokens, layers)``."""
    for batch, n, layers in works:
        attention = synthetic_attention("bert-like", layers, n, heads=HEADS, sentences=batch)
        contenders, missing = _contenders(attention.astype(np.float32))
        yield Comparison(
            "rollout",
            f"{batch} sentences of {n} tokens, {layers} layers, {HEADS} heads, float32",
            {"batch": batch, "tokens": n, "layers": layers, "heads": HEADS},
            take_turns(contenders, budget),
            "NumPy in float64",
            missing,
            (
                "all start from the attention of every head and keep every layer's result; one row "
                "is that of the first token after every layer",
            ),
        )


def _contenders(attention: NDArray[np.float32]) -> tuple[list[Contender], dict[str, str]]:
    expected = numpy_rollout(attention.astype(np.float64))
    array = jnp.asarray(attention)  # [B, L, H, n, n]
    compiled, baseline = jax.jit(jaxflow.rollout), jax.jit(einsum_rollout)
    one_row = partial(jaxflow.rollout, sources=0)

    def error(result: Any) -> float:
        rows = np.shape(result)[-2]
        return float(np.abs(np.asarray(result, np.float64) - expected[..., :rows, :]).max())

    def wait(function: Any) -> Any:
        return lambda: jax.block_until_ready(function(array))

    contenders = [
        Contender("jaxflow.rollout in jit", wait(compiled), error, True),
        Contender("jaxflow.rollout, input checked", wait(jaxflow.rollout), error, True),
        Contender("one row, in jit", wait(jax.jit(one_row)), error, True),
        Contender("one row, input checked", wait(one_row), error, True),
        Contender("einsum in jit", wait(baseline), error, True),
        Contender("NumPy, a sentence at a time", lambda: numpy_rollout(attention), error),
    ]
    if not importlib.util.find_spec("torch"):
        return contenders, {"PyTorch": "not installed"}
    import torch

    tensor = torch.from_numpy(attention)
    name = "PyTorch, a sentence at a time"
    return [*contenders, Contender(name, lambda: torch_rollout(tensor), error, True)], {}


def run_rows(lengths: Sequence[int], budget: Budget) -> Iterator[Comparison]:
    """Yield one comparison for each length: rows of one layer, and attention by blocks."""
    for n in lengths:
        rng = np.random.default_rng(0)
        arrays = rng.normal(size=(4, HEADS, n, WIDTH)).astype(np.float32)
        yield Comparison(
            "rows",
            f"a causal layer of {n} tokens, {HEADS} heads of {WIDTH}, float32",
            {"tokens": n, "layers": 1, "heads": HEADS},
            take_turns(_row_contenders(arrays), budget),
            "NumPy in float64, as a share of the value",
            notes=("errors are of rows that start from 64 tokens, of one row",),
        )


def _row_contenders(arrays: NDArray[np.float32]) -> list[Contender]:
    queries, keys, values, gradients = (jnp.asarray(one) for one in arrays)
    n = queries.shape[1]
    forward = jax.jit(blockwise_attention)
    _, normalisers = forward(queries, keys, values)
    places = np.unique(np.random.default_rng(1).integers(n, size=MANY))
    weights = np.zeros((1, n), np.float32)
    weights[0, places] = np.random.default_rng(2).random(len(places))
    expected = _expected_row(arrays[0], arrays[1], places, weights[0, places])

    def error(result: Any) -> float:
        found = np.asarray(result, np.float64)[0, 0, : len(expected)]
        return float(np.abs(found / expected - 1).max())

    plain = QueryKey(queries, keys, causal=True)
    kept = QueryKey(queries, keys, causal=True, normalisers=normalisers)
    pulled = QueryKey(
        queries, keys, causal=True, normalisers=normalisers, values=values, gradients=gradients
    )

    kernel = np.random.default_rng(4).normal(size=(HEADS, WIDTH, HEADS * WIDTH))
    normed = dataclasses.replace(pulled, projection=jnp.asarray(kernel, jnp.float32))

    def contender(name: str, layer: QueryKey, rows: Any, check: Any = None, **options: Any) -> Any:
        rows = jnp.asarray(rows)
        call = jax.jit(lambda layer, rows: jaxflow.rollout_rows([layer], weights=rows, **options))
        return Contender(name, lambda: jax.block_until_ready(call(layer, rows)), check, True)

    given: dict[str, Any] = {"residual": 0}
    many = np.random.default_rng(3).random((MANY, n), np.float32)
    contenders = [
        Contender(
            "attention by blocks",
            lambda: jax.block_until_ready(forward(queries, keys, values)),
            compiles=True,
        ),
        contender("1 row, normalisers kept", kept, weights, error, **given),
        contender("1 row", plain, weights, error, **given),
        contender(f"{MANY} rows, normalisers kept", kept, many, **given),
        contender("1 row of attention x gradient", pulled, weights, edge="gradient", how="product"),
        contender("1 row of norms", normed, weights, edge="norm", residual=0),
    ]
    if n > DENSE:
        return contenders

    @jax.jit
    def dense(queries: jax.Array, keys: jax.Array, rows: jax.Array) -> jax.Array:
        logits = jnp.einsum("hid,hjd->hij", queries, keys) * WIDTH**-0.5
        allowed = jnp.tril(jnp.ones((n, n), bool))[None]
        attention = jax.nn.softmax(jnp.where(allowed, logits, -jnp.inf), -1)
        return jnp.asarray((rows @ attention.mean(0))[None])

    rows = jnp.asarray(weights)
    run = lambda: jax.block_until_ready(dense(queries, keys, rows))  # noqa: E731
    return [*contenders, Contender("1 row of the whole matrix", run, error, True)]


def blockwise_attention(
    queries: jax.Array, keys: jax.Array, values: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Attend causally by blocks with a running maximum; return mixed values and normalisers."""
    heads, n, width = queries.shape
    size = min(BLOCK, n)
    if n % size:
        raise InputError(f"tokens must be a multiple of {size}, got {n}")

    def cut(array: jax.Array, place: Any) -> jax.Array:
        return jax.lax.dynamic_slice_in_dim(array, place * size, size, 1)

    def row(_: None, a: jax.Array) -> tuple[None, tuple[jax.Array, jax.Array]]:
        def step(b: Any, carry: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
            top, total, mixed = carry
            logits = jnp.einsum("hid,hjd->hij", cut(queries, a), cut(keys, b)) * width**-0.5
            place = jnp.arange(size)
            later = place[None, :] + b * size > place[:, None] + a * size
            logits = jnp.where(later[None], -1e30, logits)
            above = jnp.maximum(top, logits.max(-1))
            shrink, weights = jnp.exp(top - above), jnp.exp(logits - above[..., None])
            more = jnp.einsum("hij,hjd->hid", weights, cut(values, b))
            return above, total * shrink + weights.sum(-1), mixed * shrink[..., None] + more

        shape = (heads, size)
        start = jnp.full(shape, -1e30), jnp.zeros(shape), jnp.zeros((*shape, width))
        top, total, mixed = jax.lax.fori_loop(0, a + 1, step, start)
        return None, (mixed / total[..., None], top + jnp.log(total))

    mixed, normalisers = jax.lax.scan(row, None, jnp.arange(n // size))[1]
    mixed, normalisers = jnp.moveaxis(mixed, 0, 1), jnp.moveaxis(normalisers, 0, 1)
    return mixed.reshape(values.shape), normalisers.reshape(heads, n)


def _expected_row(
    queries: NDArray[np.floating],
    keys: NDArray[np.floating],
    places: NDArray[np.integer],
    weights: NDArray[np.floating],
) -> NDArray[np.float64]:
    """Return the row ``[n]`` of these tokens' weights times the mean attention of the heads."""
    later = np.arange(keys.shape[1]) > places[:, None]
    total = np.zeros(keys.shape[1])
    for query, key in zip(queries.astype(np.float64), keys.astype(np.float64), strict=True):
        parts = np.exp(np.where(later, -np.inf, query[places] @ key.T * WIDTH**-0.5))
        total += weights @ (parts / parts.sum(-1, keepdims=True)) / len(keys)
    return total[: places.max() + 1]  # 0 after that: none of these tokens sees it


def numpy_rollout(attention: NDArray[np.floating]) -> NDArray[np.floating]:
    """Loop over sentences and layers, as the paper's code does."""
    results = []
    for sentence in attention:
        edges = sentence.mean(1) + np.eye(sentence.shape[-1], dtype=attention.dtype)
        edges /= edges.sum(-1, keepdims=True)
        joint = [edges[0]]
        for layer in edges[1:]:
            joint.append(layer @ joint[-1])
        results.append(np.stack(joint))
    return np.stack(results)


def einsum_rollout(attention: jax.Array) -> jax.Array:
    """Multiply whole batches with einsum, the layers unrolled."""
    identity = jnp.eye(attention.shape[-1], dtype=attention.dtype)[None, None]
    edges = (attention.mean(2) + identity) / 2
    joint = [edges[:, 0]]
    for layer in range(1, edges.shape[1]):
        joint.append(jnp.einsum("bij,bjk->bik", edges[:, layer], joint[-1]))
    return jnp.stack(joint, 1)


def torch_rollout(attention: Any) -> Any:
    """Loop over sentences and layers in PyTorch, as tools for vision transformers do."""
    import torch

    results = []
    with torch.no_grad():
        for sentence in attention:
            joint: list[Any] = []
            for layer in sentence:
                edges = layer.mean(0) + torch.eye(layer.shape[-1], dtype=layer.dtype)
                edges = edges / edges.sum(-1, keepdim=True)
                joint.append(torch.matmul(edges, joint[-1]) if joint else edges)
            results.append(torch.stack(joint))
        return torch.stack(results)
