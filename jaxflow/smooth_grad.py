"""SmoothGrad: the gradient averaged over noisy copies of the embeddings."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxflow.attention import Array, as_array, check_count, in_own_precision
from jaxflow.errors import InputError
from jaxflow.gradients import Score, check_embeddings, gradient

__all__ = ["smooth_grad"]


def smooth_grad(
    score: Score,
    embeddings: Any,
    key: jax.Array,
    samples: int = 32,
    noise: float = 0.15,
    *,
    mask: Any = None,
) -> Array:
    r"""Euclidean norm of the gradient averaged over noisy copies of the embeddings.

    Parameters
    ----------
    score
        Pure JAX function, embeddings ``[..., n, d]`` to ``[...]``.
    embeddings
        ``[..., n, d]`` floating point.
    key
        Of `jax.random`: the same key and shape give the same noise.
    samples
        Noisy copies, at least 1, one gradient each, one after the other.
    noise
        Deviation of the normal noise as a share of the range (largest less least coordinate) of
        each example's embeddings, not negative. 0 gives `gradient_norm`.
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
        If the embeddings have another rank or dtype, the score or the mask another shape, `samples`
        is not a positive whole number or `noise` is not a number of at least 0.

    Notes
    -----
    .. math:: s_t = \Big\| \frac{1}{S} \sum_{s = 1}^S
              \frac{\partial f}{\partial e_t} (e + \varepsilon_s) \Big\|_2, \qquad
              \varepsilon_s \sim \mathcal{N}(0, \sigma^2), \quad
              \sigma = \text{noise} \cdot (\max e - \min e)

    The norm is of the average, so that directions that change from copy to copy cancel. A sum of
    coordinates would be rounding error where a model normalises its embeddings (`input_gradient`).

    References
    ----------
    .. [1] Smilkov et al., *SmoothGrad: removing noise by adding noise*, 2017.
    """
    values = check_embeddings("embeddings", embeddings)
    samples = check_count("samples", samples)
    number = isinstance(noise, int | float | np.number) and not isinstance(noise, bool)
    if not number or not 0 <= noise < np.inf:
        raise InputError(f"noise must be a number of at least 0, got {noise!r}")
    if mask is not None:
        mask = as_array("mask", mask)
        if mask.shape != values.shape[:-1] or mask.dtype != np.bool_:
            raise InputError(
                f"mask must be boolean of shape {values.shape[:-1]}, got {mask.dtype} {mask.shape}"
            )

    def attribute(given: Array) -> jax.Array:
        centre = jnp.asarray(given)
        real = jnp.ones(centre.shape[:-1], bool) if mask is None else jnp.asarray(mask)
        counted = jnp.broadcast_to(real[..., None], centre.shape)
        largest = jnp.where(counted, centre, -jnp.inf).max((-2, -1), keepdims=True)
        least = jnp.where(counted, centre, jnp.inf).min((-2, -1), keepdims=True)
        # An example without any real token has no range; none of its tokens scores.
        deviation = jnp.where(largest >= least, noise * (largest - least), 0)

        def add(total: jax.Array, key: jax.Array) -> tuple[jax.Array, None]:
            drawn = jax.random.normal(key, centre.shape, centre.dtype)
            return total + gradient(score, centre + deviation * drawn), None

        keys = jax.random.split(key, samples)
        total, _ = jax.lax.scan(add, jnp.zeros_like(centre), keys)
        return jnp.where(real, jnp.sqrt(((total / samples) ** 2).sum(-1)), 0)

    return in_own_precision(attribute, values)
