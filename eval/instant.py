"""One sentence's scores for someone who waits: quick to compile rather than quick to run.

A table needs the same program thousands of times, one explanation needs it once. So the layers are
a loop, and its two programs are compiled side by side and with less care.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

import jaxflow
from jaxflow.models import Model
from jaxflow.models.rolled import roll_up
from jaxflow.models.tokenizer import PAD, UNK

__all__ = ["instant_scores", "jit_with"]

# On a CPU this halves the time to compile; it costs some five milliseconds a short sentence. The
# backward pass, which takes longer to compile, is not optimised further either.
FORWARD: dict[str, Any] = {"xla_cpu_use_fusion_emitters": False}
BACKWARD: dict[str, Any] = {**FORWARD, "xla_backend_optimization_level": 0}


def jit_with(
    function: Callable[..., dict[str, jax.Array]], options: dict[str, Any]
) -> Callable[..., dict[str, jax.Array]]:
    """Compile with options of the compiler, or without any where it does not know one of them."""
    chosen, plain = jax.jit(function, compiler_options=options), jax.jit(function)

    def call(*arguments: Any) -> dict[str, jax.Array]:
        try:
            return chosen(*arguments)
        except jax.errors.JaxRuntimeError as error:
            if "No such compile option" not in str(error):  # they come and go with its versions
                raise
            return plain(*arguments)

    return call


def instant_scores(
    model: Model, residual: float
) -> Callable[[NDArray[np.int32]], dict[str, NDArray[np.float32]]]:
    """Prepare a model for scoring single sentences.

    Parameters
    ----------
    model
        A trained agreement encoder.
    residual
        Share of the residual connection in rollout.

    Returns
    -------
    callable
        From the numbers of a sentence, ``[n]`` and padded at will, to float32 ``probabilities``
        ``[C]``, ``attention`` ``[L, H, n, n]``, ``raw`` and ``rollout`` ``[L, n]`` (rows of the
        first token), ``gradient_norm`` ``[n]`` of p₀ − p₁ and ``blank_out`` ``[n]`` of the
        predicted class. Compiled for every new n.
    """
    encoder = roll_up(model.config, model.params)

    def forward(params: Any, tokens: jax.Array) -> dict[str, jax.Array]:
        mask = tokens != PAD

        # The sentence and its blanked copies are one batch: encoded at once, compiled once.
        blanked = jnp.where(jnp.eye(tokens.size, dtype=bool), UNK, tokens[None])
        rows = jnp.concatenate([tokens[None], blanked])
        every = jnp.broadcast_to(mask, rows.shape)
        output = encoder.encode(params, encoder.embed(params, rows), every)
        probabilities, attention = jax.nn.softmax(output.logits), output.attention[0]
        chosen = probabilities[:, probabilities[0].argmax()]
        change = jnp.abs(chosen[0] - chosen[1:])
        rolled = jaxflow.rollout(attention, residual=residual, mask=mask)
        return {
            "probabilities": probabilities[0],
            "attention": attention,
            "raw": jnp.asarray(jaxflow.raw_attention(attention, mask=mask))[:, 0],
            "rollout": jnp.asarray(rolled)[:, 0],
            # What was unknown before stays as it is; rounding is not its effect.
            "blank_out": jnp.where(mask & (tokens != UNK), change, 0),
        }

    def gradient(params: Any, tokens: jax.Array) -> dict[str, jax.Array]:
        mask = (tokens != PAD)[None]

        def difference(embeddings: jax.Array) -> jax.Array:
            probabilities = jax.nn.softmax(encoder.encode(params, embeddings, mask).logits)
            return probabilities[:, 0] - probabilities[:, 1]

        embeddings = encoder.embed(params, tokens[None])
        return {"gradient_norm": jnp.asarray(jaxflow.gradient_norm(difference, embeddings))[0]}

    parts = jit_with(forward, FORWARD), jit_with(gradient, BACKWARD)

    def score(ids: NDArray[np.int32]) -> dict[str, NDArray[np.float32]]:
        with ThreadPoolExecutor(2) as pool:
            jobs = [pool.submit(part, encoder.params, ids) for part in parts]
            done = [jax.device_get(job.result()) for job in jobs]
        return done[0] | done[1]

    return score
