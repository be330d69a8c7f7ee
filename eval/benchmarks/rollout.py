"""Time attention rollout against other implementations."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

import jaxflow
from jaxflow.eval.benchmarks.flow import synthetic_attention
from jaxflow.eval.benchmarks.timing import Budget, Comparison, Contender, take_turns

HEADS = 8
#: Works as (sentences a batch, tokens, layers).
QUICK = ((32, 20, 6), (8, 64, 12))
FULL = tuple((batch, n, layers) for batch in (1, 32) for n in (20, 64, 128) for layers in (6, 12))


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
            ("all start from the attention of every head and keep every layer's result",),
        )


def _contenders(attention: NDArray[np.float32]) -> tuple[list[Contender], dict[str, str]]:
    expected = numpy_rollout(attention.astype(np.float64))
    array = jnp.asarray(attention)  # [B, L, H, n, n]
    compiled, baseline = jax.jit(jaxflow.rollout), jax.jit(einsum_rollout)

    def error(result: Any) -> float:
        return float(np.abs(np.asarray(result, np.float64) - expected).max())

    def wait(function: Any) -> Any:
        return lambda: jax.block_until_ready(function(array))

    contenders = [
        Contender("jaxflow.rollout in jit", wait(compiled), error, True),
        Contender("jaxflow.rollout, input checked", wait(jaxflow.rollout), error, True),
        Contender("einsum in jit", wait(baseline), error, True),
        Contender("NumPy, a sentence at a time", lambda: numpy_rollout(attention), error),
    ]
    if not importlib.util.find_spec("torch"):
        return contenders, {"PyTorch": "not installed"}
    import torch

    tensor = torch.from_numpy(attention)
    name = "PyTorch, a sentence at a time"
    return [*contenders, Contender(name, lambda: torch_rollout(tensor), error, True)], {}


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
