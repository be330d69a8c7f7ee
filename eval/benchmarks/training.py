"""One training step against the same encoder in PyTorch, from the same parameters."""

from __future__ import annotations

import dataclasses
import importlib.util
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np

from jaxflow.eval.benchmarks.record import Comparison
from jaxflow.eval.benchmarks.timing import Budget, Contender, take_turns
from jaxflow.models import AgreementEncoder, EncoderConfig, EncoderOutput
from jaxflow.models.tokenizer import CLS, UNK
from jaxflow.train.config import TrainConfig
from jaxflow.train.step import init_state, make_optimizer, make_train_step

__all__ = ["FULL", "QUICK", "TrainPlan", "run_train"]

STEPS = 10_000  # of the schedule


@dataclasses.dataclass(frozen=True)
class TrainPlan:
    """What the training benchmark does: the encoder, the batch, and the time for each contender."""

    model: EncoderConfig = dataclasses.field(default_factory=EncoderConfig)
    batch: int = 128
    tokens: int = 16
    budget: Budget = dataclasses.field(default_factory=lambda: Budget(seconds=4.0))


QUICK = TrainPlan()
FULL = TrainPlan(budget=Budget(seconds=12.0, rounds=40))


def run_train(plan: TrainPlan) -> Iterator[Comparison]:
    """Yield the comparison."""
    config = TrainConfig(dropout=plan.model.dropout, batch=plan.batch)
    rng = np.random.default_rng(0)
    tokens = rng.integers(UNK + 1, plan.model.vocabulary, (plan.batch, plan.tokens), np.int32)
    tokens[:, 0] = CLS
    labels = rng.integers(0, plan.model.classes, plan.batch, np.int32)

    optimizer = make_optimizer(config, STEPS)
    first = init_state(plan.model, optimizer, config.seed).params
    variables = jax.tree.map(np.array, first)  # the step gives its own state's memory away
    contenders = [Contender("jaxflow, float32", _own(plan, config, tokens, labels), compiles=True)]
    missing: dict[str, str] = {}
    if importlib.util.find_spec("torch"):
        from jaxflow.eval.benchmarks.torch_encoder import make_torch_step

        for name, half in (("PyTorch, float32", False), ("PyTorch, bfloat16 autocast", True)):
            step = make_torch_step(variables, plan.model, config, STEPS, bfloat16=half)
            apart = _difference(variables, plan, tokens, half)
            contenders.append(
                Contender(name, partial(step, tokens, labels), _always(apart), compiles=True)
            )
    else:
        missing["PyTorch"] = "not installed, so only our own time is here"
    yield Comparison(
        benchmark="train",
        work=f"one step, batch {plan.batch} x {plan.tokens} tokens, {plan.model.layers} layers, "
        f"width {plan.model.width}",
        settings={"batch": plan.batch, "tokens": plan.tokens, "model": plan.model.to_dict()},
        reference="our encoder's logits, without dropout",
        timings=tuple(take_turns(contenders, plan.budget)),
        missing=missing,
        notes=(
            "forward, backward, both dropouts, clipping, AdamW and schedule, from the same "
            "parameters; PyTorch with its fused attention and AdamW, all cores for both",
            "ours computes the last block's feed-forward layer at [CLS] only, where the class is "
            "read; PyTorch computes it for every token; freed memory stays with the process",
        ),
    )


def _own(
    plan: TrainPlan, config: TrainConfig, tokens: np.ndarray, labels: np.ndarray
) -> Callable[[], float]:
    optimizer = make_optimizer(config, STEPS)
    step = make_train_step(plan.model, optimizer, config)
    state = init_state(plan.model, optimizer, config.seed)

    def run() -> float:
        nonlocal state
        state, metrics = step(state, jnp.asarray(tokens), jnp.asarray(labels))
        return float(metrics.loss)  # waits for the step

    return run


def _always(error: float) -> Callable[[Any], float]:
    return lambda _: error


def _difference(variables: Any, plan: TrainPlan, tokens: np.ndarray, half: bool) -> float:
    """Largest difference between the logits of the two encoders, dropout off."""
    import torch

    from jaxflow.eval.benchmarks.torch_encoder import forward, torch_parameters

    output = cast(EncoderOutput, AgreementEncoder(plan.model).apply(variables, tokens))
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=half):
        theirs = forward(torch_parameters(variables), plan.model, torch.from_numpy(tokens).long())
    return float(np.abs(np.asarray(output.logits) - theirs.float().numpy()).max())
