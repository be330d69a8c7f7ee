"""Rollout against the ways in which others compute it: batch x length x depth."""

from __future__ import annotations

import dataclasses
import importlib.util
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

import jaxflow
from jaxflow.eval.benchmarks.attentions import synthetic_attention
from jaxflow.eval.benchmarks.record import Comparison
from jaxflow.eval.benchmarks.timing import Budget, Contender, take_turns

__all__ = ["FULL", "QUICK", "RolloutPlan", "RolloutWork", "run_rollout"]


@dataclasses.dataclass(frozen=True)
class RolloutWork:
    """Sentences a batch, tokens a sentence, layers and heads."""

    batch: int
    tokens: int
    layers: int
    heads: int = 8


@dataclasses.dataclass(frozen=True)
class RolloutPlan:
    """What the rollout benchmark does: the works, and the time for each contender."""

    works: tuple[RolloutWork, ...]
    budget: Budget = dataclasses.field(default_factory=Budget)


QUICK = RolloutPlan((RolloutWork(32, 20, 6), RolloutWork(8, 64, 12)))
FULL = RolloutPlan(
    tuple(
        RolloutWork(batch, tokens, layers)
        for batch in (1, 32)
        for tokens in (20, 64, 128)
        for layers in (6, 12)
    ),
    Budget(seconds=1.5),
)


def run_rollout(plan: RolloutPlan) -> Iterator[Comparison]:
    """Yield one comparison after the other."""
    for work in plan.works:
        yield _compare(work, plan.budget)


def _compare(work: RolloutWork, budget: Budget) -> Comparison:
    attention = synthetic_attention(
        "bert-like", work.layers, work.tokens, heads=work.heads, sentences=work.batch
    ).astype(np.float32)
    on_device = jnp.asarray(attention)
    exact = numpy_rollout(attention.astype(np.float64))

    def error(result: Any) -> float:
        return float(np.abs(np.asarray(result, np.float64) - exact).max())

    # One compiled function for this comparison; inside jit there are no values to check.
    compiled = jax.jit(jaxflow.rollout)
    baseline = jax.jit(einsum_rollout)
    contenders = [
        Contender(
            "jaxflow.rollout in jit",
            lambda: jax.block_until_ready(compiled(on_device)),
            error,
            True,
        ),
        Contender(
            "jaxflow.rollout, input checked",
            lambda: jax.block_until_ready(jaxflow.rollout(on_device)),
            error,
            True,
        ),
        Contender("einsum in jit", lambda: jax.block_until_ready(baseline(on_device)), error, True),
        Contender("NumPy, a sentence at a time", lambda: numpy_rollout(attention), error),
    ]
    missing = {}
    if importlib.util.find_spec("torch"):
        import torch

        tensor = torch.from_numpy(attention)
        contenders.append(
            Contender("PyTorch, a sentence at a time", lambda: torch_rollout(tensor), error, True)
        )
    else:
        missing["PyTorch"] = "not installed"
    return Comparison(
        benchmark="rollout",
        work=f"{work.batch} sentences of {work.tokens} tokens, {work.layers} layers, "
        f"{work.heads} heads, float32",
        settings=dataclasses.asdict(work),
        reference="NumPy in float64",
        timings=tuple(take_turns(contenders, budget)),
        missing=missing,
        notes=("all start from the attention of every head and keep every layer's result",),
    )


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
        identity = torch.eye(attention.shape[-1], dtype=attention.dtype)
        for sentence in attention:
            joint: list[Any] = []
            for layer in sentence:
                edges = layer.mean(0) + identity
                edges = edges / edges.sum(-1, keepdim=True)
                joint.append(torch.matmul(edges, joint[-1]) if joint else edges)
            results.append(torch.stack(joint))
        return torch.stack(results)
