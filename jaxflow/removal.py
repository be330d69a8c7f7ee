"""Removal: what happens to the prediction when tokens are replaced, deleted or looked away from."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from jaxflow.attention import Array, as_array, in_own_precision, is_traced
from jaxflow.errors import InputError
from jaxflow.occlusion import change_of_class, check_label, probabilities

__all__ = ["REMOVALS", "Removal", "remove", "remove_out"]

Removal = Literal["token", "deletion", "attention"]
REMOVALS: tuple[Removal, ...] = ("token", "deletion", "attention")


def remove(
    tokens: Any, gone: Any, how: Removal, *, token_id: int | None = None, mask: Any = None
) -> tuple[jax.Array, jax.Array]:
    """Remove any tokens of each sentence.

    Parameters
    ----------
    tokens
        ``[..., n]`` whole numbers.
    gone
        ``[..., n]`` boolean, True at the tokens to remove.
    how
        ``token`` puts `token_id` in their place; ``deletion`` closes the sentence up and pads its
        end with `token_id`; ``attention`` leaves them where they are, for nobody to look at.
    token_id
        The mask token's or the unknown word's number, or of ``deletion`` the padding's; of no
        account to ``attention``.
    mask
        ``[..., n]`` boolean, True at real tokens; None takes all. Padding is never removed.

    Returns
    -------
    tuple
        Tokens ``[..., n]`` and their mask. A sentence that loses all its tokens is one of padding.

    Raises
    ------
    InputError
        If a shape or dtype is wrong, `how` is unknown, or `token_id` is missing.
    """
    tokens, mask = _check_tokens(tokens, mask)
    gone = as_array("gone", gone)
    if gone.shape != tokens.shape or gone.dtype != np.bool_:
        raise InputError(
            f"gone must be boolean of shape {tokens.shape}, got {gone.dtype} {gone.shape}"
        )
    return _remove(tokens, jnp.asarray(gone), how, _check_token_id(how, token_id), mask)


def remove_out(
    predict: Callable[[Array, Array], Array],
    tokens: Any,
    how: Removal,
    *,
    token_id: int | None = None,
    label: Any = None,
    mask: Any = None,
) -> Array:
    r"""Absolute change of a class's probability when each token is removed in turn.

    Parameters
    ----------
    predict
        From tokens ``[B, n]`` and their mask to probabilities ``[B, C]``, row by row. It is called
        twice, as in `jaxflow.blank_out`.
    tokens
        ``[..., n]`` whole numbers.
    how, token_id
        As in `remove`.
    label
        ``[...]`` gold classes; None takes the class predicted for the whole sentence.
    mask
        ``[..., n]`` boolean, True at real tokens; padded tokens score 0.

    Returns
    -------
    array
        ``[..., n]`` in the dtype of the probabilities, in [0, 1]; a token that is `token_id`
        already scores exactly 0 where it would be replaced by it. A JAX array where the
        probabilities are one, else NumPy.

    Raises
    ------
    InputError
        If a shape or dtype is wrong, `how` is unknown, `token_id` is missing, or a label is not one
        of the classes.

    Notes
    -----
    .. math:: b_t = | p(y \mid x) - p(y \mid x \setminus t) |

    With ``how="token"`` and the unknown word this is `jaxflow.blank_out`. Deletion moves the tokens
    behind to other positions, and may move what a class is read off: removing ``[CLS]`` so says
    little.
    """
    rows, real = _check_tokens(tokens, mask)
    batch, n = rows.shape[:-1], rows.shape[-1]
    number = _check_token_id(how, token_id)
    rows, real = rows.reshape(-1, n), real.reshape(-1, n)

    whole = probabilities(lambda given: predict(given, real), rows)
    classes = check_label(label, batch, whole)
    shape = (*rows.shape, n)  # [B, n, n]: a copy a token
    copies, masks = _remove(
        jnp.broadcast_to(rows[:, None], shape),
        jnp.broadcast_to(jnp.eye(n, dtype=bool), shape),
        how,
        number,
        jnp.broadcast_to(real[:, None], shape),
    )
    told = probabilities(lambda given: predict(given, masks.reshape(-1, n)), copies.reshape(-1, n))
    without = told.reshape(*rows.shape, -1)

    change = in_own_precision(lambda *both: change_of_class(*both, classes=classes), whole, without)
    # What two batch shapes round differently is not the effect of a token that stays as it is.
    counted = real if how != "token" else real & (rows != number)
    if not isinstance(change, jax.Array) and not is_traced(counted):
        return np.where(np.asarray(counted), change, change.dtype.type(0)).reshape(*batch, n)
    return jnp.where(counted, change, 0).reshape(*batch, n)


def _remove(
    tokens: jax.Array, gone: jax.Array, how: str, token_id: int, mask: jax.Array
) -> tuple[jax.Array, jax.Array]:
    gone = gone & mask
    number = jnp.asarray(token_id, tokens.dtype)
    if how == "token":
        return jnp.where(gone, number, tokens), mask
    if how == "attention":
        return tokens, mask & ~gone
    # What stays keeps its order in front; sorting is stable.
    order = jnp.argsort(gone | ~mask, axis=-1, stable=True)
    kept = (mask & ~gone).sum(-1, keepdims=True)
    left = jnp.broadcast_to(jnp.arange(tokens.shape[-1]), tokens.shape) < kept
    return jnp.where(left, jnp.take_along_axis(tokens, order, axis=-1), number), left


def _check_tokens(tokens: Any, mask: Any) -> tuple[jax.Array, jax.Array]:
    tokens = as_array("tokens", tokens)
    if tokens.ndim < 1 or 0 in tokens.shape:
        raise InputError(f"tokens must have the shape [..., tokens], got {tokens.shape}")
    if not np.issubdtype(tokens.dtype, np.integer):
        raise InputError(f"tokens must be whole numbers, got {tokens.dtype}")
    mask = np.ones(tokens.shape, bool) if mask is None else as_array("mask", mask)
    if mask.shape != tokens.shape or mask.dtype != np.bool_:
        raise InputError(
            f"mask must be boolean with the shape of tokens {tokens.shape}, got {mask.dtype} "
            f"{mask.shape}"
        )
    return jnp.asarray(tokens), jnp.asarray(mask)


def _check_token_id(how: Any, token_id: Any) -> int:
    if how not in REMOVALS:
        raise InputError(f"how must be one of {', '.join(REMOVALS)}, got {how!r}")
    if how == "attention":
        return 0
    if isinstance(token_id, bool) or not hasattr(token_id, "__index__"):
        what = "padding's" if how == "deletion" else "mask token's or unknown word's"
        raise InputError(f"token_id must be the {what} number for {how}, got {token_id!r}")
    return int(token_id)
