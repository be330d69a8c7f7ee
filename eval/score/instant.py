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
from jaxflow.eval.score.reading import blank_id
from jaxflow.models import EncoderConfig, Model
from jaxflow.models.rolled import roll_up

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


# Rows of blanked copies are worked through in parts that need no more than this.
_MEMORY = 1 << 26


def instant_scores(model: Model, residual: float) -> Callable[..., dict[str, NDArray[np.float32]]]:
    """Prepare a model of text for scoring single sentences.

    Parameters
    ----------
    model
        A model with a head, of the last layer's first token (classes) or of every token.
    residual
        Share of the residual connection in rollout.

    Returns
    -------
    callable
        From the numbers of a sentence, ``[n]`` and padded at will, the unit that each token is a
        member of, ``[n]`` (by default each its own), and the token and the unit that are read out,
        to float32 ``probabilities`` ``[C]`` of the readout's classes or vocabulary, ``attention``
        ``[L, H, n, n]``, ``raw`` and ``rollout`` ``[L, n]`` (rows of the unit read out),
        ``gradient_norm`` ``[n]`` and ``blank_out`` ``[n]``. Compiled for every new n.

    Notes
    -----
    Where tokens are joined, a unit attends with the mean of its tokens' attention and is attended
    with their sum, its gradient norm is their sum, and all of it is blanked out at once. The
    gradient is that of p₀ − p₁ for an agreement encoder, as in the paper, and of the log-odds of
    the predicted output for others: the same ranks where there are two classes.
    """
    encoder, blank = roll_up(model.config, model.params), blank_id(model)
    agreement = isinstance(model.config, EncoderConfig)

    def at(logits: jax.Array, place: jax.Array) -> jax.Array:
        """Return ``[B, C]`` logits of the readout."""
        return logits if logits.ndim == 2 else logits[:, place]

    def answer(params: Any, rows: jax.Array, mask: jax.Array, place: jax.Array) -> Any:
        """Return probabilities ``[B, C]`` and the attention of rows ``[B, n]``."""
        every = jnp.broadcast_to(mask, rows.shape)
        output = encoder.encode(params, encoder.embed(params, rows), every)
        return jax.nn.softmax(at(output.logits, place)), output.attention

    def forward(
        params: Any,
        tokens: jax.Array,
        members: jax.Array,
        place: jax.Array,
        readout: jax.Array,
        length: jax.Array,
    ) -> dict[str, jax.Array]:
        n = tokens.size
        mask = jnp.arange(n) < length
        join = _join(members, mask)
        copies = jnp.where(join, blank, tokens[None])
        needs = copies.size * (n * model.config.heads * model.config.layers + _outputs(model)) * 4
        if needs <= _MEMORY:
            # The sentence and its blanked copies are one batch: encoded at once, compiled once.
            rows = jnp.concatenate([tokens[None], copies])
            probabilities, attentions = answer(params, rows, mask, place)
            chosen = probabilities[:, probabilities[0].argmax()]
            change = jnp.abs(chosen[0] - chosen[1:])
        else:
            probabilities, attentions = answer(params, tokens[None], mask, place)
            label = probabilities[0].argmax()

            def one(row: jax.Array) -> jax.Array:
                return answer(params, row[None], mask, place)[0][0, label]

            size = max(1, _MEMORY // (needs // n))
            changed = jax.lax.map(one, copies, batch_size=size)
            change = jnp.abs(probabilities[0, label] - changed)
        units = join.any(-1)
        weights = join.astype(jnp.float32)
        highest = jax.lax.Precision.HIGHEST  # where tokens are units, nothing is to change
        attention = jnp.einsum(
            "ui,lhij,wj->lhuw", weights, attentions[0], weights, precision=highest
        )
        attention = attention / jnp.maximum(weights.sum(-1), 1)[None, None, :, None]
        rolled = jaxflow.rollout(attention, residual=residual, mask=units)
        raw = jnp.asarray(jaxflow.raw_attention(attention, mask=units))
        return {
            "probabilities": probabilities[0],
            "attention": attention,
            "raw": raw[:, readout],
            "rollout": jnp.asarray(rolled)[:, readout],
            # What was blank before stays as it is; rounding is not its effect.
            "blank_out": jnp.where((copies != tokens[None]).any(-1), change, 0),
        }

    def gradient(
        params: Any,
        tokens: jax.Array,
        members: jax.Array,
        place: jax.Array,
        readout: jax.Array,
        length: jax.Array,
    ) -> dict[str, jax.Array]:
        mask = jnp.arange(tokens.size) < length

        def difference(embeddings: jax.Array) -> jax.Array:
            logits = at(encoder.encode(params, embeddings, mask[None]).logits, place)
            if agreement and logits.shape[-1] == 2:
                probabilities = jax.nn.softmax(logits)
                return probabilities[:, 0] - probabilities[:, 1]
            chosen = jax.nn.one_hot(logits.argmax(-1), logits.shape[-1], dtype=bool)
            others = jnp.where(chosen, -jnp.inf, logits)
            return jnp.where(chosen, logits, 0).sum(-1) - jax.nn.logsumexp(others, axis=-1)

        embeddings = encoder.embed(params, tokens[None])
        norms = jnp.asarray(jaxflow.gradient_norm(difference, embeddings))[0]
        return {"gradient_norm": _join(members, mask).astype(norms.dtype) @ norms}

    parts = jit_with(forward, FORWARD), jit_with(gradient, BACKWARD)

    def score(
        ids: NDArray[np.int32],
        members: NDArray[np.int32] | None = None,
        place: int = 0,
        readout: int = 0,
        length: int | None = None,
    ) -> dict[str, NDArray[np.float32]]:
        members = np.arange(len(ids), dtype=np.int32) if members is None else members
        pad = model.text.pad_id
        length = int((ids != pad).sum()) if length is None else length
        given = (encoder.params, ids, members, np.int32(place), np.int32(readout), np.int32(length))
        with ThreadPoolExecutor(2) as pool:
            jobs = [pool.submit(part, *given) for part in parts]
            done = [jax.device_get(job.result()) for job in jobs]
        return done[0] | done[1]

    return score


def _join(members: jax.Array, mask: jax.Array) -> jax.Array:
    """Return bool ``[units, tokens]``: which real tokens are of a unit."""
    return (members[None] == jnp.arange(members.size)[:, None]) & mask[None]


def _outputs(model: Model) -> int:
    """Return how many numbers a token's answer has."""
    tokens = model.config.head in ("masked-lm", "lm")
    return model.config.vocabulary if tokens else 0  # type: ignore[union-attr]
