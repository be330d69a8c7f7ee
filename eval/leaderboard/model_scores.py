"""Scores that need the model itself: its trace, gradients at the words, and removal of each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

import jaxflow
from jaxflow.edges import Trace
from jaxflow.errors import InputError
from jaxflow.eval.leaderboard.methods import GRADIENTS, REMOVALS
from jaxflow.eval.score.reading import blank_id
from jaxflow.models import Model
from jaxflow.models.tracing import tracer
from jaxflow.removal import Removal

__all__ = ["ModelFunction", "model_functions"]

IG_STEPS = 20  # ranks agree with those of 128 steps to .998 on the agreement encoder
SMOOTH_SAMPLES = 16

ModelFunction = Callable[[Any, jax.Array, jax.Array, jax.Array], Any]
"""From parameters, tokens ``[B, n]``, their mask and the classes ``[B]``."""


def model_functions(model: Model) -> dict[str, ModelFunction]:
    """Build ``trace``, and every method of `GRADIENTS` and `REMOVALS`: ``[B, n]`` of each.

    They depend on the model's configuration and its tokenizer's special tokens, not on its
    parameters. One that the model cannot serve raises `InputError` when it is called.
    """
    built: dict[str, ModelFunction] = {"trace": _trace(model)}
    built |= {name: _gradient(model, name) for name in GRADIENTS}
    built |= {name: _removal(model, name) for name in REMOVALS}
    return built


def _trace(model: Model) -> ModelFunction:
    def traced(params: Any, tokens: jax.Array, mask: jax.Array, labels: jax.Array) -> Trace:
        def logit(logits: jax.Array) -> jax.Array:
            return jnp.take_along_axis(logits, labels[:, None], -1)[:, 0]

        return tracer(model.config, logit)(params, tokens, mask)

    return traced


def _gradient(model: Model, kind: str) -> ModelFunction:
    """Build scores by the gradient of the class's probability."""
    apply: Callable[..., Any] = model.module.apply
    blank = blank_id(model)

    def scores(params: Any, tokens: jax.Array, mask: jax.Array, labels: jax.Array) -> jax.Array:
        embeddings = apply(params, tokens, method="embed")

        def probability(given: jax.Array) -> jax.Array:
            logits = apply(params, given, mask, method="encode").logits
            return jnp.take_along_axis(jax.nn.softmax(logits), labels[:, None], -1)[:, 0]

        if kind == "gradient-norm":
            found = jaxflow.gradient_norm(probability, embeddings)
        elif kind == "gradient-sum":
            found = jnp.abs(jaxflow.input_gradient(probability, embeddings))
        elif kind == "gradient-x-input":
            found = jnp.abs(jaxflow.gradient_x_input(probability, embeddings))
        elif kind == "smooth-grad":
            key = jax.random.key(0)
            found = jaxflow.smooth_grad(probability, embeddings, key, SMOOTH_SAMPLES, mask=mask)
        else:
            unknown = jnp.where(mask & (jnp.cumsum(mask, -1) > 1), blank, tokens)
            baseline = apply(params, unknown, method="embed")
            found = jnp.abs(
                jaxflow.integrated_gradients(probability, embeddings, baseline, steps=IG_STEPS)
            )
        return jnp.where(mask, found, 0)

    return scores


def _removal(model: Model, kind: str) -> ModelFunction:
    """Build scores by how far the class's probability moves without each token."""
    apply: Callable[..., Any] = model.module.apply

    def scores(params: Any, tokens: jax.Array, mask: jax.Array, labels: jax.Array) -> jax.Array:
        size, n = tokens.shape

        def predict(rows: Any, real: Any) -> jax.Array:
            """Classify as many rows at once as there are sentences, not all copies together."""
            groups = (-1, size, n)
            told = jax.lax.map(
                lambda given: jax.nn.softmax(apply(params, *given, method="classify")),
                (rows.reshape(groups), real.reshape(groups)),
            )
            return told.reshape(len(rows), -1)

        def blanked(rows: Any) -> jax.Array:
            return predict(rows, mask if len(rows) == size else jnp.repeat(mask, n, axis=0))

        if kind == "blank-out":
            found = jaxflow.blank_out(blanked, tokens, blank_id(model), label=labels, mask=mask)
            return jnp.asarray(found)
        options: dict[str, Any] = {"label": labels, "mask": mask}
        if kind == "attention-out":
            return jnp.asarray(jaxflow.remove_out(predict, tokens, "attention", **options))
        role = "mask" if kind == "mask-out" else "pad"
        number = getattr(model.text, f"{role}_id")
        if number is None:
            raise InputError(f"{kind} needs a {role} token, which the model's tokenizer has not")
        how: Removal = "token" if kind == "mask-out" else "deletion"
        return jnp.asarray(jaxflow.remove_out(predict, tokens, how, token_id=number, **options))

    return scores
