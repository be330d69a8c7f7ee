"""How much of the paper's gradient score is rounding.

The score sums a gradient over the coordinates of an embedding: the derivative for adding the same
number to all of them. A LayerNorm takes that number off again, so where embeddings are normalised
before anything else reads them the sum is 0, and what is computed is rounding. Two measurements say
so without appeal to the formula: how far the sum falls below the sum of magnitudes, in single and
in double precision, and whether the ranks of the tokens stay the same between the two.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxflow
from jaxflow.eval.stats import Cell, summarise
from jaxflow.models import Model
from jaxflow.train.batches import EncodedSplit, evaluation_batches

__all__ = ["Rounding", "measure_rounding"]

_BATCH = 16


@dataclasses.dataclass(frozen=True)
class Rounding:
    """What is left of ``|Σ_d g_d|``, with g the gradient of the predicted class's logit.

    Attributes
    ----------
    single, double
        Median of ``|Σ_d g_d| / Σ_d |g_d|`` over all tokens with a gradient, in float32 and in
        float64: 1 where all coordinates have one sign, near the precision where they cancel.
    agreement
        Spearman's correlation per sentence between the float32 score and the float64 one: 1 for a
        quantity of the model, around 0 for rounding.
    norm_agreement
        The same for the norm ``‖g‖₂``.
    """

    single: float
    double: float
    agreement: Cell
    norm_agreement: Cell


def measure_rounding(
    model: Model, split: EncodedSplit, lengths: tuple[int, ...], *, seed: int = 0
) -> Rounding:
    """Compute the gradients of a split's sentences in both precisions and compare.

    Parameters
    ----------
    model
        A classifier.
    split, lengths
        Its sentences, and the lengths to pad them to.
    seed
        Of the bootstrap behind the intervals.
    """
    ratios: dict[str, list[np.ndarray]] = {"single": [], "double": []}
    agreements: dict[str, list[np.ndarray]] = {"sum": [], "norm": []}
    gradient = _gradient(model)
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf), jnp.float64), model.params)
    for rows, batch in evaluation_batches(split, lengths, _BATCH):
        tokens = batch["tokens"]
        found = {"single": np.asarray(gradient(model.params, tokens))[: len(rows)]}
        with jax.enable_x64(True):
            found["double"] = np.asarray(gradient(wide, tokens))[: len(rows)]
        mask = tokens[: len(rows)] != split.pad_id
        for name, values in found.items():
            # Summed as the precision has it: what is left may depend on the order of the sum.
            size = np.abs(values[mask]).sum(-1)
            ratios[name].append(np.abs(values[mask].sum(-1))[size > 0] / size[size > 0])
        for name, score in (
            ("sum", lambda values: np.abs(values.sum(-1))),
            ("norm", lambda values: np.sqrt((values**2).sum(-1))),
        ):
            one, other = (score(values).astype(np.float64) for values in found.values())
            agreements[name].append(np.asarray(jaxflow.spearman(one, other, mask)))
    cells = summarise(np.stack([np.concatenate(part) for part in agreements.values()], 1), seed)
    return Rounding(
        single=float(np.median(np.concatenate(ratios["single"]))),
        double=float(np.median(np.concatenate(ratios["double"]))),
        agreement=cells[0],
        norm_agreement=cells[1],
    )


def _gradient(model: Model) -> Callable[[Any, np.ndarray], jax.Array]:
    """Build ``(params, tokens [B, n]) -> gradients [B, n, D]`` of the predicted class's logit."""
    apply: Callable[..., Any] = model.module.apply
    padding = model.config.pad_id  # type: ignore[union-attr]

    @jax.jit
    def gradient(params: Any, tokens: jax.Array) -> jax.Array:
        def score(embeddings: jax.Array) -> jax.Array:
            output = apply(params, embeddings, tokens != padding, method="encode")
            return jnp.asarray(output.logits.max(-1).sum())

        return jax.grad(score)(apply(params, tokens, method="embed"))

    return gradient
