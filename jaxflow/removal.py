"""Score tokens by removal: the change of the prediction when tokens are replaced or removed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np

from jaxflow.attention import Array, ArrayLike, as_array, in_own_precision, is_traced, length_mask
from jaxflow.errors import InputError

Removal = Literal["token", "deletion", "attention"]
REMOVALS: tuple[Removal, ...] = get_args(Removal)


def blank_out(
    predict: Callable[[jax.Array], Array],
    tokens: ArrayLike,
    unk_id: int,
    *,
    label: ArrayLike | int | None = None,
    mask: ArrayLike | None = None,
) -> Array:
    r"""Return the absolute change of a class's probability when each token becomes unknown.

    .. math:: b_t = | p(y \mid x) - p(y \mid x_{t \to \mathrm{UNK}}) |

    as in section 4 of [1]_, with y the gold class. It is `remove_out` with ``how="token"``.

    Parameters
    ----------
    predict
        From tokens ``[B, n]`` to probabilities ``[B, C]``, row by row: rows must not influence
        each other. It is called twice, once with the sentences and once with all their changed
        copies (``B`` = sentences x n) in one batch; a jitted function is the natural choice. Where
        sentences are padded it must recognise padding by the tokens themselves.
    tokens
        ``[..., n]`` whole numbers.
    unk_id
        The unknown word's number; a token that is it already scores exactly 0.
    label
        ``[...]`` gold classes; None takes the class predicted for the whole sentence.
    mask
        ``[..., n]`` boolean, True at real tokens; padded tokens score 0.

    Returns
    -------
    array
        ``[..., n]`` in the dtype of the probabilities, in [0, 1]. A JAX array where these are one,
        else NumPy.

    Raises
    ------
    InputError
        If a shape or dtype is wrong, or a label is not one of the classes.

    References
    ----------
    .. [1] Abnar and Zuidema, *Quantifying Attention Flow in Transformers*, ACL 2020.
    """
    if isinstance(unk_id, bool) or not hasattr(unk_id, "__index__"):
        raise InputError(f"unk_id must be a whole number, got {unk_id!r}")
    return remove_out(
        lambda rows, _: predict(rows), tokens, "token", token_id=unk_id, label=label, mask=mask
    )


def remove_out(
    predict: Callable[[jax.Array, jax.Array], Array],
    tokens: ArrayLike,
    how: Removal,
    *,
    token_id: int | None = None,
    label: ArrayLike | int | None = None,
    mask: ArrayLike | None = None,
) -> Array:
    r"""Return the absolute change of a class's probability when each token is removed in turn.

    .. math:: b_t = | p(y \mid x) - p(y \mid x \setminus t) |

    Parameters
    ----------
    predict
        From tokens ``[B, n]`` and their mask to probabilities ``[B, C]``, row by row. It is called
        twice, as in `blank_out`.
    tokens
        ``[..., n]`` whole numbers.
    how, token_id
        As in `remove`.
    label, mask
        As in `blank_out`.

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
    Deletion moves later tokens to other positions, and may move the token that the class is read
    off: removing ``[CLS]`` by it is hardly meaningful.
    """
    rows, real = _check_tokens(tokens, mask)
    batch, n = rows.shape[:-1], rows.shape[-1]
    number = _check_token_id(how, token_id)
    rows, real = rows.reshape(-1, n), real.reshape(-1, n)

    whole = _probabilities(predict, rows, real)
    classes = _check_label(label, batch, whole)
    shape = (*rows.shape, n)  # [B, n, n]: a copy a token
    copies, masks = _remove(
        jnp.broadcast_to(rows[:, None], shape),
        jnp.broadcast_to(jnp.eye(n, dtype=bool), shape),
        how,
        number,
        jnp.broadcast_to(real[:, None], shape),
    )
    without = _probabilities(predict, copies.reshape(-1, n), masks.reshape(-1, n))
    without = without.reshape(*rows.shape, -1)

    def change(whole: Array, without: Array) -> jax.Array:
        chosen = jnp.asarray(classes)
        before = jnp.take_along_axis(jnp.asarray(whole), chosen[:, None], axis=-1)
        after = jnp.take_along_axis(jnp.asarray(without), chosen[:, None, None], axis=-1)
        return jnp.abs(before - after[..., 0])

    changes = in_own_precision(change, whole, without)
    # A token that stays as it is has no effect, whatever rounding differs between batch shapes.
    counted = real if how != "token" else real & (rows != number)
    if not isinstance(changes, jax.Array) and not is_traced(counted):
        return np.where(np.asarray(counted), changes, changes.dtype.type(0)).reshape(*batch, n)
    return jnp.where(counted, changes, 0).reshape(*batch, n)


def remove(
    tokens: ArrayLike,
    gone: ArrayLike,
    how: Removal,
    *,
    token_id: int | None = None,
    mask: ArrayLike | None = None,
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
        end with `token_id`; ``attention`` leaves them where they are, masked from all others.
    token_id
        The mask token's or the unknown word's number, or of ``deletion`` the padding's; ignored by
        ``attention``.
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
    rows, real = _check_tokens(tokens, mask)
    removed = as_array("gone", gone)
    if removed.shape != rows.shape or removed.dtype != np.bool_:
        raise InputError(
            f"gone must be boolean of shape {rows.shape}, got {removed.dtype} {removed.shape}"
        )
    return _remove(rows, jnp.asarray(removed), how, _check_token_id(how, token_id), real)


def _remove(
    tokens: jax.Array, gone: jax.Array, how: str, token_id: int, mask: jax.Array
) -> tuple[jax.Array, jax.Array]:
    gone = gone & mask
    number = jnp.asarray(token_id, tokens.dtype)
    if how == "token":
        return jnp.where(gone, number, tokens), mask
    if how == "attention":
        return tokens, mask & ~gone
    # Kept tokens move to the front in their order; sorting is stable.
    order = jnp.argsort(gone | ~mask, axis=-1, stable=True)
    left = length_mask((mask & ~gone).sum(-1), tokens.shape[-1])
    return jnp.where(left, jnp.take_along_axis(tokens, order, axis=-1), number), left


def _check_tokens(tokens: ArrayLike, mask: ArrayLike | None) -> tuple[jax.Array, jax.Array]:
    rows = as_array("tokens", tokens)
    if rows.ndim < 1 or 0 in rows.shape:
        raise InputError(f"tokens must have the shape [..., tokens], got {rows.shape}")
    if not np.issubdtype(rows.dtype, np.integer):
        raise InputError(f"tokens must be whole numbers, got {rows.dtype}")
    real = np.ones(rows.shape, bool) if mask is None else as_array("mask", mask)
    if real.shape != rows.shape or real.dtype != np.bool_:
        raise InputError(
            f"mask must be boolean with the shape of tokens {rows.shape}, got {real.dtype} "
            f"{real.shape}"
        )
    return jnp.asarray(rows), jnp.asarray(real)


def _check_token_id(how: Any, token_id: Any) -> int:
    if how not in REMOVALS:
        raise InputError(f"how must be one of {', '.join(REMOVALS)}, got {how!r}")
    if how == "attention":
        return 0
    if isinstance(token_id, bool) or not hasattr(token_id, "__index__"):
        what = "padding's" if how == "deletion" else "mask token's or unknown word's"
        raise InputError(f"token_id must be the {what} number for {how}, got {token_id!r}")
    return int(token_id)


def _probabilities(
    predict: Callable[[jax.Array, jax.Array], Array], rows: jax.Array, mask: jax.Array
) -> Array:
    result = as_array("predict's result", predict(rows, mask))
    if result.ndim != 2 or result.shape[0] != rows.shape[0]:
        raise InputError(
            f"predict must return probabilities [{rows.shape[0]}, classes] for tokens "
            f"{rows.shape}, got {result.shape}"
        )
    return result


def _check_label(
    label: ArrayLike | int | None, batch: tuple[int, ...], probabilities: Array
) -> Array:
    """Return the classes of all sentences, flat; by default the most probable ones."""
    if label is None:
        return probabilities.argmax(-1)
    classes = as_array("label", label)
    if classes.shape != batch or not np.issubdtype(classes.dtype, np.integer):
        raise InputError(
            f"label must be whole numbers of shape {batch}, one a sentence, got {classes.dtype} "
            f"{classes.shape}"
        )
    count = probabilities.shape[-1]
    if not is_traced(classes) and bool(((classes < 0) | (classes >= count)).any()):
        raise InputError(f"label must be a class from 0 to {count - 1}, got {classes}")
    return classes.reshape(-1)
