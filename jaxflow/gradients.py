"""Scores from gradients at the embeddings: what the attention methods are judged against.

``score`` is any pure JAX function from embeddings ``[..., n, d]`` to one number an example
``[...]``; examples of a batch must not influence each other, so that one backward pass serves all.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxflow.attention import Array, as_array, in_own_precision
from jaxflow.errors import InputError

__all__ = [
    "Score",
    "check_embeddings",
    "gradient",
    "gradient_norm",
    "gradient_x_input",
    "input_gradient",
]

Score = Callable[[jax.Array], jax.Array]


def check_embeddings(name: str, value: Any) -> Array:
    """Embeddings ``[..., n, d]`` as an array; `InputError` for another rank or dtype."""
    array = as_array(name, value)
    if array.ndim < 2:
        raise InputError(f"{name} must have the shape [..., tokens, width], got {array.shape}")
    if not jnp.issubdtype(array.dtype, jnp.floating):
        raise InputError(f"{name} must be floating point, got {array.dtype}")
    return array


def gradient(score: Score, embeddings: Array) -> jax.Array:
    """Every example's own gradient, ``[..., n, d]``; `InputError` for a score of another shape."""
    embeddings = jnp.asarray(embeddings)

    def total(values: jax.Array) -> jax.Array:
        scores = jnp.asarray(score(values))
        if scores.shape != embeddings.shape[:-2]:
            raise InputError(
                f"score must return one number an example, shape {embeddings.shape[:-2]}, got "
                f"{scores.shape}"
            )
        return scores.sum()

    return jax.grad(total)(embeddings)


def input_gradient(score: Score, embeddings: Any) -> Array:
    r"""Sum of the gradient over the embedding's coordinates, signed.

    Parameters
    ----------
    score
        Pure JAX function, embeddings ``[..., n, d]`` to ``[...]``.
    embeddings
        ``[..., n, d]`` floating point.

    Returns
    -------
    array
        ``[..., n]`` in the dtype of `embeddings`. The paper's tables take its absolute value. A
        JAX array for JAX input, else NumPy.

    Raises
    ------
    InputError
        If the embeddings have another rank or dtype, or the score another shape.

    Notes
    -----
    .. math:: g_t = \sum_d \frac{\partial f}{\partial e_{t, d}}

    with :math:`f = p_0 - p_1` in [1]_. It is the derivative for adding the same number to all of a
    token's coordinates. Where a model reads its embeddings through nothing but LayerNorms, as a
    pre-LayerNorm Transformer does, that changes nothing, and what this returns is rounding error;
    `gradient_norm` is not blind in that way.

    References
    ----------
    .. [1] Abnar and Zuidema, *Quantifying Attention Flow in Transformers*, ACL 2020, section 4.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> import jaxflow
    >>> jaxflow.input_gradient(lambda e: (e[..., 0, :] ** 2).sum(-1), jnp.ones((2, 3))).tolist()
    [6.0, 0.0]
    """
    values = check_embeddings("embeddings", embeddings)
    return in_own_precision(lambda given: gradient(score, given).sum(-1), values)


def gradient_norm(score: Score, embeddings: Any) -> Array:
    r"""Euclidean norm of the gradient over the embedding's coordinates.

    Parameters
    ----------
    score
        Pure JAX function, embeddings ``[..., n, d]`` to ``[...]``.
    embeddings
        ``[..., n, d]`` floating point.

    Returns
    -------
    array
        ``[..., n]`` in the dtype of `embeddings`, not negative. A JAX array for JAX input, else
        NumPy.

    Raises
    ------
    InputError
        If the embeddings have another rank or dtype, or the score another shape.

    Notes
    -----
    .. math:: g_t = \Big\| \frac{\partial f}{\partial e_t} \Big\|_2

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> import jaxflow
    >>> jaxflow.gradient_norm(lambda e: (e[..., 0, :] ** 2).sum(-1), jnp.ones((2, 4))).tolist()
    [4.0, 0.0]
    """
    values = check_embeddings("embeddings", embeddings)
    return in_own_precision(lambda given: jnp.sqrt((gradient(score, given) ** 2).sum(-1)), values)


def gradient_x_input(score: Score, embeddings: Any) -> Array:
    r"""Gradient times input, summed over the embedding's coordinates, signed.

    Parameters
    ----------
    score
        Pure JAX function, embeddings ``[..., n, d]`` to ``[...]``.
    embeddings
        ``[..., n, d]`` floating point.

    Returns
    -------
    array
        ``[..., n]`` in the dtype of `embeddings`. A JAX array for JAX input, else NumPy.

    Raises
    ------
    InputError
        If the embeddings have another rank or dtype, or the score another shape.

    Notes
    -----
    .. math:: s_t = \sum_d e_{t, d} \frac{\partial f}{\partial e_{t, d}}

    For a linear score this is the exact share of each token.
    """
    values = check_embeddings("embeddings", embeddings)
    return in_own_precision(lambda given: (given * gradient(score, given)).sum(-1), values)
