"""Blank-out: what happens to the prediction when a token is replaced by the unknown word."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxflow.attention import Array, as_array, in_own_precision, is_traced
from jaxflow.errors import InputError

__all__ = ["blank_out"]


def blank_out(
    predict: Callable[[Array], Array],
    tokens: Any,
    unk_id: int,
    *,
    label: Any = None,
    mask: Any = None,
) -> Array:
    r"""Absolute change of a class's probability when each token is blanked out in turn.

    Parameters
    ----------
    predict
        From tokens ``[B, n]`` to probabilities ``[B, C]``, row by row: rows must not influence
        each other. It is called twice, once with the sentences and once with all their blanked
        copies (``B`` = sentences x n) in one batch; a jitted function is the natural choice. Where
        sentences are padded it must tell padding from the tokens themselves.
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

    Notes
    -----
    .. math:: b_t = | p(y \mid x) - p(y \mid x_{t \to \mathrm{UNK}}) |

    as in section 4 of [1]_, with y the gold class.

    References
    ----------
    .. [1] Abnar and Zuidema, *Quantifying Attention Flow in Transformers*, ACL 2020.
    """
    tokens = as_array("tokens", tokens)
    if tokens.ndim < 1 or 0 in tokens.shape:
        raise InputError(f"tokens must have the shape [..., tokens], got {tokens.shape}")
    if not np.issubdtype(tokens.dtype, np.integer):
        raise InputError(f"tokens must be whole numbers, got {tokens.dtype}")
    if isinstance(unk_id, bool) or not hasattr(unk_id, "__index__"):
        raise InputError(f"unk_id must be a whole number, got {unk_id!r}")
    if mask is not None:
        mask = as_array("mask", mask)
        if mask.shape != tokens.shape or mask.dtype != np.bool_:
            raise InputError(
                f"mask must be boolean with the shape of tokens {tokens.shape}, got {mask.dtype} "
                f"{mask.shape}"
            )
    batch, n = tokens.shape[:-1], tokens.shape[-1]
    rows = jnp.asarray(tokens).reshape(-1, n)
    count = rows.shape[0]

    whole = probabilities(predict, rows)
    classes = check_label(label, batch, whole)
    blanked = jnp.where(jnp.eye(n, dtype=bool), jnp.asarray(unk_id, rows.dtype), rows[:, None, :])
    without = probabilities(predict, blanked.reshape(-1, n)).reshape(count, n, -1)

    change = in_own_precision(lambda *both: change_of_class(*both, classes=classes), whole, without)
    scores = change.reshape(*batch, n)
    # A word that is unknown already stays as it is; what two batch shapes round differently is not
    # its effect.
    counted = tokens != unk_id
    counted = counted if mask is None else counted & mask
    namespace = jnp if isinstance(scores, jax.Array) or is_traced(counted) else np
    return namespace.where(counted, scores, namespace.zeros((), scores.dtype))


def change_of_class(whole: Array, without: Array, *, classes: Array) -> jax.Array:
    """Return how far a class's probability moves, ``[B, n]``, of ``[B, C]`` and ``[B, n, C]``."""
    chosen = jnp.asarray(classes)
    before = jnp.take_along_axis(jnp.asarray(whole), chosen[:, None], axis=-1)
    after = jnp.take_along_axis(jnp.asarray(without), chosen[:, None, None], axis=-1)
    return jnp.abs(before - after[..., 0])


def probabilities(predict: Callable[[Array], Array], rows: jax.Array) -> Array:
    """Return what `predict` says of rows of tokens, checked to be ``[B, C]``."""
    result = as_array("predict's result", predict(rows))
    if result.ndim != 2 or result.shape[0] != rows.shape[0]:
        raise InputError(
            f"predict must return probabilities [{rows.shape[0]}, classes] for tokens "
            f"{rows.shape}, got {result.shape}"
        )
    return result


def check_label(label: Any, batch: tuple[int, ...], probabilities: Array) -> Array:
    """Return the classes of all sentences, flat; by default those that are most probable."""
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
