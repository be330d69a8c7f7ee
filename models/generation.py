"""Continue a text by a language model: greedy or drawn tokens, with keys and values kept."""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from jaxflow.errors import InputError
from jaxflow.models.blocks import Cache
from jaxflow.models.decoder import DecoderConfig
from jaxflow.models.gpt2 import Gpt2Config
from jaxflow.models.model import Model, make_module


@dataclasses.dataclass(frozen=True)
class Generated:
    """Texts with their continuations.

    Attributes
    ----------
    tokens
        ``[B, T]``, the prompt's tokens, then the new ones; after an end token the padding token, or
        the end token again where there is none.
    counts
        ``[B]``, how many tokens are new, the end token among them.
    log_probabilities
        ``[B, N]``, of each new token; 0 after an end token.
    attention
        ``[B, L, H, N, T]``: row k is that of the token which the k-th new one was predicted from.
        It equals that row in one forward pass over the whole text. None unless it was asked for.
    """

    tokens: NDArray[np.int32]
    counts: NDArray[np.int32]
    log_probabilities: NDArray[np.float32]
    attention: NDArray[np.float32] | None = None


def generate(
    model: Model,
    tokens: Any,
    new: int = 50,
    *,
    temperature: float = 0.0,
    seed: int = 0,
    end_ids: tuple[int, ...] | None = None,
    attention: bool = False,
) -> Generated:
    """Continue texts by a language model.

    The prompt is read once, and its keys and values are kept; each new token is one step of a
    compiled loop, which ends where all texts have ended.

    Parameters
    ----------
    model
        A `Decoder` or a `Gpt2` with the head ``lm``.
    tokens
        ``[B, n]`` whole numbers, or ``[n]`` of one text; prompts of one length, without padding.
    new
        How many tokens at most.
    temperature
        0 takes the most probable token; above it tokens are drawn from softmax(logits /
        temperature).
    seed
        Of the draws.
    end_ids
        Tokens that end a text; None takes the model's own.
    attention
        Whether to return the attention of the new tokens.

    Returns
    -------
    Generated
        With the axis B also for one text.

    Raises
    ------
    InputError
        If the model predicts no next tokens, a number is impossible, or the text would be longer
        than the model's positions.
    """
    config = model.config
    if not isinstance(config, DecoderConfig | Gpt2Config) or config.head != "lm":
        raise InputError(
            "text must be continued by a language model such as Llama or GPT-2 with the head lm, "
            f"got {type(config).__name__.removesuffix('Config')} with the head {config.head}"
        )
    tokens = np.asarray(tokens)
    tokens = tokens[None] if tokens.ndim == 1 else tokens
    if tokens.ndim != 2 or not np.issubdtype(tokens.dtype, np.integer) or not tokens.size:
        raise InputError(
            "tokens must be whole numbers of shape [texts, tokens], at least one, got "
            f"{tokens.dtype} {tokens.shape}"
        )
    if tokens.min() < 0 or tokens.max() >= config.vocabulary:
        raise InputError(
            f"tokens must be numbers from 0 to {config.vocabulary - 1}, got {tokens.min()} to "
            f"{tokens.max()}"
        )
    if isinstance(new, bool) or not isinstance(new, int) or new < 1:
        raise InputError(f"new must be a whole number of at least 1, got {new!r}")
    if not 0 <= temperature < np.inf:
        raise InputError(f"temperature must be at least 0, got {temperature}")
    length = tokens.shape[1] + new
    if length > config.positions:
        raise InputError(
            f"prompt and new tokens must be at most {config.positions} together for this model, "
            f"got {tokens.shape[1]} and {new}"
        )
    ends = getattr(config, "end_ids", ()) if end_ids is None else tuple(end_ids)
    fill = config.pad_id if config.pad_id is not None else (*ends, 0)[0]
    found = _run(
        config, new, ends, fill, temperature > 0, attention, model.params,
        tokens.astype(np.int32), jax.random.key(seed), max(temperature, 1e-6),
    )  # fmt: skip
    host: Any = jax.tree.map(np.asarray, found)
    return Generated(*host)


@partial(jax.jit, static_argnames=("config", "new", "ends", "fill", "drawn", "with_attention"))
def _run(
    config: Any, new: int, ends: tuple[int, ...], fill: int, drawn: bool, with_attention: bool,
    params: Any, prompt: jax.Array, rng: jax.Array, temperature: jax.Array,
) -> tuple[Any, ...]:  # fmt: skip
    """Return the fields of `Generated`."""
    module, (batch, n), block = make_module(config), prompt.shape, config.block
    length = n + new
    mask = jnp.ones((batch, length), bool)

    def step(tokens: jax.Array, cache: Cache) -> Any:
        return module.apply(params, tokens, mask, cache, method="step")

    dtype = jax.tree.leaves(params)[0].dtype
    empty = jnp.zeros((config.layers, batch, block.groups, length, block.size), dtype)
    logits, rows, cache = step(prompt, Cache(empty, empty, jnp.zeros(config.layers, jnp.int32)))
    row = rows[..., -1:, :]
    attention = jnp.zeros((*row.shape[:3], new if with_attention else 0, length), row.dtype)
    tokens = jnp.concatenate([prompt, jnp.full((batch, new), fill, prompt.dtype)], 1)
    counts, logs = jnp.zeros(batch, jnp.int32), jnp.zeros((batch, new), jnp.float32)

    def going(state: tuple[Any, ...]) -> jax.Array:
        return (state[0] < new) & ~state[-1].all()

    def advance(state: tuple[Any, ...]) -> tuple[Any, ...]:
        number, tokens, logits, row, cache, counts, logs, attention, done = state
        chosen = logits.argmax(-1)
        if drawn:
            key = jax.random.fold_in(rng, number)
            chosen = jax.random.categorical(key, logits / temperature)
        log = jnp.take_along_axis(jax.nn.log_softmax(logits), chosen[:, None], -1)[:, 0]
        chosen = jnp.where(done, fill, chosen).astype(tokens.dtype)
        tokens = tokens.at[:, n + number].set(chosen)
        logs = logs.at[:, number].set(jnp.where(done, 0, log))
        if with_attention:
            attention = jax.lax.dynamic_update_slice(attention, row, (0, 0, 0, number, 0))
        counts = counts + ~done
        done = done | jnp.isin(chosen, jnp.array(ends, tokens.dtype))
        logits, row, cache = step(chosen[:, None], cache)
        return number + 1, tokens, logits, row, cache, counts, logs, attention, done

    state = (0, tokens, logits, row, cache, counts, logs, attention, jnp.zeros(batch, bool))
    _, tokens, _, _, _, counts, logs, attention, _ = jax.lax.while_loop(going, advance, state)
    return tokens, counts, logs, attention if with_attention else None
