r"""Score tokens by gradients at the embeddings.

All functions take `score`, a pure JAX function f from embeddings ``[..., n, d]`` to one number an
example, ``[...]``, and `embeddings`, the floating-point array ``[..., n, d]`` that f is explained
at. Examples of a batch must be independent, so that one backward pass serves all. Scores are in the
dtype of `embeddings`, a JAX array for JAX input, else NumPy. All raise `InputError` if the
embeddings have another rank or dtype, or f's result another shape.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import overload

import jax
import jax.numpy as jnp
import numpy as np

from jaxflow.attention import Array, ArrayLike, as_array, check_count, in_own_precision
from jaxflow.errors import InputError

Score = Callable[[jax.Array], jax.Array]


@overload
def input_gradient(score: Score, embeddings: jax.Array) -> jax.Array: ...
@overload
def input_gradient(score: Score, embeddings: ArrayLike) -> np.ndarray: ...
def input_gradient(score: Score, embeddings: ArrayLike) -> Array:
    r"""Return the gradient summed over each embedding's coordinates, signed.

    Parameters
    ----------
    score
        Pure JAX function f, embeddings ``[..., n, d]`` to one number an example, ``[...]``;
        examples of a batch must be independent.
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
    pre-LayerNorm Transformer does, that changes nothing, and the result is rounding error;
    `gradient_norm` does not have this blind spot.

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
    values = _check_embeddings(embeddings)
    return in_own_precision(lambda given: _gradient(score, given).sum(-1), values)


@overload
def gradient_norm(score: Score, embeddings: jax.Array) -> jax.Array: ...
@overload
def gradient_norm(score: Score, embeddings: ArrayLike) -> np.ndarray: ...
def gradient_norm(score: Score, embeddings: ArrayLike) -> Array:
    r"""Return the Euclidean norm of the gradient at each embedding.

    .. math:: g_t = \Big\| \frac{\partial f}{\partial e_t} \Big\|_2

    Parameters
    ----------
    score, embeddings
        f and ``[..., n, d]``, as for `input_gradient`, which also states the errors.

    Returns
    -------
    array
        ``[..., n]`` in the dtype of `embeddings`, not negative.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> import jaxflow
    >>> jaxflow.gradient_norm(lambda e: (e[..., 0, :] ** 2).sum(-1), jnp.ones((2, 4))).tolist()
    [4.0, 0.0]
    """
    values = _check_embeddings(embeddings)
    return in_own_precision(lambda given: _norm(_gradient(score, given)), values)


@overload
def gradient_x_input(score: Score, embeddings: jax.Array) -> jax.Array: ...
@overload
def gradient_x_input(score: Score, embeddings: ArrayLike) -> np.ndarray: ...
def gradient_x_input(score: Score, embeddings: ArrayLike) -> Array:
    r"""Return gradient times input, summed over each embedding's coordinates, signed.

    .. math:: s_t = \sum_d e_{t, d} \frac{\partial f}{\partial e_{t, d}}

    For a linear score this is each token's exact share.

    Parameters
    ----------
    score, embeddings
        f and ``[..., n, d]``, as for `input_gradient`, which also states the errors.

    Returns
    -------
    array
        ``[..., n]`` in the dtype of `embeddings`.
    """
    values = _check_embeddings(embeddings)
    return in_own_precision(lambda given: (given * _gradient(score, given)).sum(-1), values)


@overload
def integrated_gradients(
    score: Score, embeddings: jax.Array, baseline: ArrayLike | float | None = ..., steps: int = ...
) -> jax.Array: ...
@overload
def integrated_gradients(
    score: Score, embeddings: ArrayLike, baseline: ArrayLike | float | None = ..., steps: int = ...
) -> np.ndarray: ...
def integrated_gradients(
    score: Score,
    embeddings: ArrayLike,
    baseline: ArrayLike | float | None = None,
    steps: int = 64,
) -> Array:
    r"""Return integrated gradients (Sundararajan, Taly and Yan 2017) from a baseline, signed.

    .. math:: s_t = \sum_d (e_{t,d} - b_{t,d}) \int_0^1
              \frac{\partial f}{\partial e_{t,d}} \big(b + \alpha (e - b)\big) \, d\alpha

    Parameters
    ----------
    score, embeddings
        f and ``[..., n, d]``, as for `input_gradient`.
    baseline
        Broadcasts to the embeddings' shape; None is zero.
    steps
        Nodes of the Gauss-Legendre rule, at least 1. One gradient each, one after the other, so
        memory does not grow with them.

    Returns
    -------
    array
        ``[..., n]`` in the dtype of `embeddings`.

    Raises
    ------
    InputError
        As for `input_gradient`, for a baseline that does not broadcast, and if `steps` is not a
        positive whole number.

    Notes
    -----
    Completeness, :math:`\sum_t s_t = f(e) - f(b)`, holds up to the rule's error, which
    `completeness_gap` returns. Gauss-Legendre nodes reach with 64 gradients the accuracy of a
    Riemann sum of thousands.

    References
    ----------
    .. [1] Sundararajan, Taly and Yan, *Axiomatic Attribution for Deep Networks*, ICML 2017.
    """
    values = _check_embeddings(embeddings)
    places, shares = np.polynomial.legendre.leggauss(check_count("steps", steps))

    def attribute(given: Array) -> jax.Array:
        start = _check_baseline(baseline, given)
        change = jnp.asarray(given) - start
        nodes = jnp.asarray((places + 1) / 2, change.dtype)
        weights = jnp.asarray(shares / 2, change.dtype)

        def add(total: jax.Array, step: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
            node, weight = step
            return total + weight * _gradient(score, start + node * change), None

        integral, _ = jax.lax.scan(add, jnp.zeros_like(change), (nodes, weights))
        return (change * integral).sum(-1)

    return in_own_precision(attribute, values)


@overload
def completeness_gap(
    score: Score,
    embeddings: jax.Array,
    attribution: ArrayLike,
    baseline: ArrayLike | float | None = ...,
) -> jax.Array: ...
@overload
def completeness_gap(
    score: Score,
    embeddings: ArrayLike,
    attribution: ArrayLike,
    baseline: ArrayLike | float | None = ...,
) -> np.ndarray: ...
def completeness_gap(
    score: Score,
    embeddings: ArrayLike,
    attribution: ArrayLike,
    baseline: ArrayLike | float | None = None,
) -> Array:
    r"""Return the error of an attribution's sum, :math:`|\sum_t s_t - (f(e) - f(b))|`.

    Parameters
    ----------
    score, embeddings, baseline
        As given to `integrated_gradients`.
    attribution
        ``[..., n]``, its result.

    Returns
    -------
    array
        ``[...]``, 0 where the attribution is complete.

    Raises
    ------
    InputError
        If a shape does not fit.
    """
    values = _check_embeddings(embeddings)
    scores = as_array("attribution", attribution)
    if scores.shape != values.shape[:-1]:
        raise InputError(f"attribution must have the shape {values.shape[:-1]}, got {scores.shape}")

    def gap(given: Array) -> jax.Array:
        change = score(jnp.asarray(given)) - score(_check_baseline(baseline, given))
        return jnp.abs(jnp.asarray(scores).sum(-1) - change)

    return in_own_precision(gap, values)


@overload
def smooth_grad(
    score: Score,
    embeddings: jax.Array,
    key: jax.Array,
    samples: int = ...,
    noise: float = ...,
    *,
    mask: ArrayLike | None = ...,
) -> jax.Array: ...
@overload
def smooth_grad(
    score: Score,
    embeddings: ArrayLike,
    key: jax.Array,
    samples: int = ...,
    noise: float = ...,
    *,
    mask: ArrayLike | None = ...,
) -> np.ndarray: ...
def smooth_grad(
    score: Score,
    embeddings: ArrayLike,
    key: jax.Array,
    samples: int = 32,
    noise: float = 0.15,
    *,
    mask: ArrayLike | None = None,
) -> Array:
    r"""Return SmoothGrad (Smilkov et al. 2017): the norm of the gradient averaged over noise.

    .. math:: s_t = \Big\| \frac{1}{S} \sum_{s = 1}^S
              \frac{\partial f}{\partial e_t} (e + \varepsilon_s) \Big\|_2, \qquad
              \varepsilon_s \sim \mathcal{N}(0, \sigma^2), \quad
              \sigma = \text{noise} \cdot (\max e - \min e)

    Parameters
    ----------
    score, embeddings
        f and ``[..., n, d]``, as for `input_gradient`.
    key
        Of `jax.random`: the same key and shape give the same noise.
    samples
        Noisy copies, at least 1, one gradient each, one after the other.
    noise
        Standard deviation of the normal noise as a share of the range (largest less least
        coordinate) of each example's embeddings, not negative. 0 gives `gradient_norm`.
    mask
        ``[..., n]`` boolean, True at real tokens: the range is theirs, and the others score 0.

    Returns
    -------
    array
        ``[..., n]`` in the dtype of `embeddings`, not negative. A JAX array for JAX input, else
        NumPy.

    Raises
    ------
    InputError
        As for `input_gradient`, for a mask of another shape, and if `samples` is not a positive
        whole number or `noise` not a number of at least 0.

    Notes
    -----
    The norm is of the average, so that directions that change from copy to copy cancel. A sum of
    coordinates would be rounding error where a model normalises its embeddings (`input_gradient`).

    References
    ----------
    .. [1] Smilkov et al., *SmoothGrad: removing noise by adding noise*, 2017.
    """
    values = _check_embeddings(embeddings)
    samples = check_count("samples", samples)
    number = isinstance(noise, int | float | np.number) and not isinstance(noise, bool)
    if not number or not 0 <= noise < np.inf:
        raise InputError(f"noise must be a number of at least 0, got {noise!r}")
    known = None if mask is None else as_array("mask", mask)
    if known is not None and (known.shape != values.shape[:-1] or known.dtype != np.bool_):
        raise InputError(
            f"mask must be boolean of shape {values.shape[:-1]}, got {known.dtype} {known.shape}"
        )

    def attribute(given: Array) -> jax.Array:
        centre = jnp.asarray(given)
        real = jnp.ones(centre.shape[:-1], bool) if known is None else jnp.asarray(known)
        counted = jnp.broadcast_to(real[..., None], centre.shape)
        largest = jnp.where(counted, centre, -jnp.inf).max((-2, -1), keepdims=True)
        least = jnp.where(counted, centre, jnp.inf).min((-2, -1), keepdims=True)
        # An example without any real token has no range; none of its tokens scores.
        deviation = jnp.where(largest < least, 0, noise * (largest - least))  # NaN stays NaN

        def add(total: jax.Array, key: jax.Array) -> tuple[jax.Array, None]:
            drawn = jax.random.normal(key, centre.shape, centre.dtype)
            return total + _gradient(score, centre + deviation * drawn), None

        keys = jax.random.split(key, samples)
        total, _ = jax.lax.scan(add, jnp.zeros_like(centre), keys)
        return jnp.where(real, _norm(total / samples), 0)

    return in_own_precision(attribute, values)


def _check_embeddings(embeddings: ArrayLike) -> Array:
    array = as_array("embeddings", embeddings)
    if array.ndim < 2:
        raise InputError(f"embeddings must have the shape [..., tokens, width], got {array.shape}")
    if not jnp.issubdtype(array.dtype, jnp.floating):
        raise InputError(f"embeddings must be floating point, got {array.dtype}")
    return array


def _check_baseline(baseline: ArrayLike | float | None, values: Array) -> jax.Array:
    if baseline is None:
        return jnp.zeros_like(values)
    start = jnp.asarray(as_array("baseline", baseline), values.dtype)
    try:
        return jnp.broadcast_to(start, values.shape)
    except ValueError as error:
        raise InputError(
            f"baseline must broadcast to the embeddings' shape {values.shape}, got {start.shape}"
        ) from error


def _gradient(score: Score, embeddings: Array) -> jax.Array:
    """Return every example's own gradient, ``[..., n, d]``."""
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


def _norm(gradient: jax.Array) -> jax.Array:
    return jnp.sqrt((gradient**2).sum(-1))
