r"""Agreement of two scores over the tokens of a sentence: Spearman and Kendall's tau-b, batched.

.. math:: \tau_b = \frac{C - D}{\sqrt{(P - T_a) (P - T_b)}}

with C concordant and D discordant ones of the P pairs of tokens, and :math:`T` pairs tied in one
score (Kendall 1945). Spearman's correlation of average ranks comes out of the same signs of
differences: a token's rank is half their sum.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

__all__ = ["kendall", "of_sentences", "rank_correlations", "spearman_of"]


def rank_correlations(
    scores: jax.Array, reference: jax.Array, mask: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Return Spearman's correlation and Kendall's tau-b of R scores with one reference.

    Parameters
    ----------
    scores
        ``[R, n]``.
    reference, mask
        ``[n]``; tokens where the mask is False do not count.

    Returns
    -------
    tuple of jax.Array
        Two ``[R]``, NaN where either side is constant over the tokens that count.
    """
    pairs = (mask[:, None] & mask[None])[None]
    mine = jnp.where(pairs, jnp.sign(scores[:, :, None] - scores[:, None, :]), 0)
    other = jnp.where(pairs[0], jnp.sign(reference[:, None] - reference[None]), 0)
    return spearman_of(mine, other[None]), kendall(mine, other[None])


of_sentences = jax.jit(jax.vmap(rank_correlations))
"""`rank_correlations` of B sentences: ``[B, R, n]``, ``[B, n]`` and ``[B, n]`` to ``[B, R]``."""


def spearman_of(mine: jax.Array, other: jax.Array) -> jax.Array:
    """Spearman's correlation from signs of differences ``[R, n, n]``."""
    a, b = mine.sum(-1), other.sum(-1)
    return _ratio((a * b).sum(-1), (a * a).sum(-1), (b * b).sum(-1))


def kendall(mine: jax.Array, other: jax.Array) -> jax.Array:
    """Kendall's tau-b from signs of differences ``[R, n, n]``."""
    both = (mine * other).sum((-2, -1))
    return _ratio(both, (mine * mine).sum((-2, -1)), (other * other).sum((-2, -1)))


def _ratio(product: jax.Array, left: jax.Array, right: jax.Array) -> jax.Array:
    size = jnp.sqrt(left * right)
    return jnp.where(size > 0, product / jnp.where(size > 0, size, 1), jnp.nan)
