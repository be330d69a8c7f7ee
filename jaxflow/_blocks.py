r"""Compute attention, and products with it, by blocks of queries and keys: no matrix of all pairs.

With the logits of a head :math:`s_{ij} = q_i \cdot k_j / \sqrt{d}` and each query's log-normaliser
:math:`z_i = \log \sum_j e^{s_{ij}}` the weights of a block are :math:`e^{s_{ij} - z_i}`. So one
pass over the blocks gives the normalisers, with the mixed values as flash attention computes them,
and another one any product with the weights. Blocks in which no query may attend to a key are
skipped. All here is of one text: queries ``[H, n, d]``, keys ``[K, n, d]`` and values ``[K, n, m]``
of K key heads, each of which serves g = H / K heads in a row.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from numpy.typing import NDArray

Edges = Callable[[Any, Any], jax.Array]  # numbers of a block of queries and one of keys -> [B, B]

_einsum = partial(jnp.einsum, precision=lax.Precision.HIGHEST)


@dataclasses.dataclass(frozen=True)
class Pattern:
    """Which keys each query may attend to, how logits are made, and the tokens of a block.

    As in `jaxflow.QueryKey`.
    """

    causal: bool
    window: int | None = None
    chunk: int | None = None
    scale: float = 1.0
    soft_cap: float | None = None
    block: int = 512

    def firsts(self, n: int) -> NDArray[np.int32]:
        """Return each block's first token; the last block ends with the text, and may overlap."""
        size = min(self.block, n)
        return np.minimum(np.arange(0, n, size, dtype=np.int32), n - size)

    def reached(self, n: int) -> NDArray[np.bool_]:
        """Return whether any query of a block (row) may attend to any key of a block (column)."""
        first = self.firsts(n)
        query, key, last = first[:, None], first[None], min(self.block, n) - 1
        seen = np.ones((len(first), len(first)), bool)
        if self.causal:
            seen &= key <= query + last
        if self.window is not None:
            seen &= query - (key + last) < self.window
            seen &= key - (query + last) < self.window
        if self.chunk is not None:
            seen &= query // self.chunk <= (key + last) // self.chunk
            seen &= key // self.chunk <= (query + last) // self.chunk
        return seen

    def allowed(self, n: int, mask: jax.Array | None, a: Any, b: Any) -> jax.Array | None:
        """Return which pairs of query block a and key block b count, ``[B, B]``, None for all.

        A pair of tokens counts in one block only.
        """
        size = min(self.block, n)
        key = jnp.arange(size)[None] + jnp.minimum(b * size, n - size)
        query = jnp.arange(size)[:, None] + jnp.minimum(a * size, n - size)
        rules = [key >= b * size] if n % size else []
        if self.causal:
            rules.append(key <= query)
        if self.window is not None:
            rules.append(abs(query - key) < self.window)
        if self.chunk is not None:
            rules.append(query // self.chunk == key // self.chunk)
        if mask is not None:
            rules.append(self.cut(mask, b, -1)[None])
        if not rules:
            return None
        found = jnp.ones((size, size), bool)
        for rule in rules:
            found &= rule
        return found

    def cut(self, array: jax.Array, place: Any, axis: int = -2) -> jax.Array:
        """Return the block with this number of an array that has the tokens on `axis`."""
        n = array.shape[axis]
        size = min(self.block, n)
        return lax.dynamic_slice_in_dim(array, jnp.minimum(place * size, n - size), size, axis)

    def join(self, blocks: jax.Array, n: int, axis: int) -> jax.Array:
        """Return the blocks ``[count, ...]`` joined along the (negative) axis of the tokens."""
        size = min(self.block, n)
        count = len(blocks)
        whole = jnp.moveaxis(blocks[: count - 1], 0, axis - 1)
        shape = list(blocks.shape[1:])
        shape[axis] = (count - 1) * size
        rest = lax.slice_in_dim(blocks[-1], size - (n - (count - 1) * size), size, axis=axis)
        return jnp.concatenate([whole.reshape(shape), rest], axis)

    def logits(self, query: jax.Array, key: jax.Array) -> jax.Array:
        """Return ``[g, B, B]`` of the queries ``[g, B, d]`` of one key head ``[B, d]``."""
        kind = jnp.promote_types(query.dtype, jnp.float32)
        found = _einsum("gid,jd->gij", query, key, preferred_element_type=kind) * self.scale
        return found if self.soft_cap is None else self.soft_cap * jnp.tanh(found / self.soft_cap)


def _sweep(
    reached: NDArray[np.bool_],
    begin: Callable[[Any], Any],
    step: Callable[[Any, Any, Any], Any],
    end: Callable[[Any, Any], Any],
) -> Any:
    """For each row of blocks go through the blocks that it reaches; return the stacked ends."""
    low = reached.argmax(1)
    high = reached.shape[1] - reached[:, ::-1].argmax(1)

    def row(_: None, at: tuple[jax.Array, ...]) -> tuple[None, Any]:
        a, low, high = at
        return None, end(a, lax.fori_loop(low, high, partial(step, a), begin(a)))

    places = (np.arange(len(low)), low, high)
    return lax.scan(row, None, tuple(jnp.asarray(one, jnp.int32) for one in places))[1]


def _grouped(array: jax.Array, heads: int) -> jax.Array:
    """Return ``[K, g, ...]`` of ``[H, ...]``."""
    return array.reshape(heads, len(array) // heads, *array.shape[1:])


# --- attention


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def attend(
    pattern: Pattern,
    queries: jax.Array,
    keys: jax.Array,
    values: jax.Array,
    sinks: jax.Array | None,
    mask: jax.Array | None,
) -> tuple[jax.Array, jax.Array]:
    """Return the mixed values ``[H, n, m]`` and the log-normalisers ``[H, n]``.

    `sinks` ``[H]`` are logits that every query has in addition, without values. A query without
    any key has the normaliser infinity, and mixes to 0.
    """
    count, n = keys.shape[:2]
    grouped = _grouped(queries, count)  # [K, g, n, d]
    kind = jnp.promote_types(queries.dtype, jnp.float32)
    size = min(pattern.block, n)
    floor = jnp.finfo(kind).min

    def begin(_: Any) -> tuple[jax.Array, ...]:
        shape = (*grouped.shape[:2], size)
        # Above the logits of pairs that are not allowed, so that those count as 0.
        top = jnp.full(shape, floor / 2, kind)
        return top, jnp.zeros(shape, kind), jnp.zeros((*shape, values.shape[-1]), kind)

    def step(a: Any, b: Any, carry: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        allowed = pattern.allowed(n, mask, a, b)

        def head(_: None, given: Any) -> tuple[None, tuple[jax.Array, ...]]:
            (top, total, mixed), query, key, value = given
            logits = pattern.logits(query, key)
            if allowed is not None:
                logits = jnp.where(allowed[None], logits, floor)
            above = jnp.maximum(top, logits.max(-1))
            shrink = jnp.exp(top - above)
            weights = jnp.exp(logits - above[..., None])
            total = total * shrink + weights.sum(-1)
            more = _einsum("gij,jd->gid", weights, value, preferred_element_type=kind)
            return None, (above, total, mixed * shrink[..., None] + more)

        cut = pattern.cut
        return lax.scan(head, None, (carry, cut(grouped, a), cut(keys, b), cut(values, b)))[1]

    def end(_: Any, carry: tuple[jax.Array, ...]) -> tuple[jax.Array, jax.Array]:
        top, total, mixed = carry
        if sinks is not None:
            sink = _grouped(sinks.astype(kind), count)[..., None]  # [K, g, 1]
            above = jnp.maximum(top, sink)
            shrink = jnp.exp(top - above)
            total = total * shrink + jnp.exp(sink - above)
            top, mixed = above, mixed * shrink[..., None]
        some = total > 0
        total = jnp.where(some, total, 1)
        return mixed / total[..., None], jnp.where(some, top + jnp.log(total), jnp.inf)

    mixed, normalisers = _sweep(pattern.reached(n), begin, step, end)
    mixed, normalisers = pattern.join(mixed, n, -2), pattern.join(normalisers, n, -1)
    return mixed.reshape(len(queries), n, -1), normalisers.reshape(len(queries), n)


def _attend_kept(pattern: Pattern, *given: Any) -> tuple[Any, Any]:
    found = attend(pattern, *given)
    return found, (*given, *found)


def _attend_pulled(pattern: Pattern, kept: Any, pulls: Any) -> tuple[Any, ...]:
    queries, keys, values, sinks, mask, mixed, normalisers = kept
    pull, shift = pulls
    shift = (pull * mixed).sum(-1) - shift
    return *_pulled(pattern, queries, keys, values, sinks, mask, normalisers, pull, shift), None


def _pulled(
    pattern: Pattern,
    queries: jax.Array,
    keys: jax.Array,
    values: jax.Array,
    sinks: jax.Array | None,
    mask: jax.Array | None,
    normalisers: jax.Array,
    pull: jax.Array,
    shift: jax.Array,
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array | None]:
    r"""Return the gradients with respect to queries, keys, values and sinks.

    Of logits it is :math:`P_{ij} (g_i \cdot v_j - c_i)`, with g the `pull` ``[H, n, m]`` on the
    mixed values and c the `shift` ``[H, n]``.
    """
    count, n = keys.shape[:2]
    given = tuple(_grouped(one, count) for one in (queries, pull))  # [K, g, n, ...]
    scalars = tuple(_grouped(one, count) for one in (normalisers, shift))  # [K, g, n]
    cut, kind = pattern.cut, normalisers.dtype
    size = min(pattern.block, n)

    def block(a: Any, b: Any, repeated: Any) -> tuple[jax.Array, jax.Array]:
        """Return the gradient of the logits, and the weights, ``[K, g, B, B]``."""
        allowed = pattern.allowed(n, mask, a, b)

        def head(_: None, at: Any) -> tuple[None, Any]:
            query, pull, normaliser, shift, key, value = at
            logits = pattern.logits(query, key)
            weights = jnp.exp(logits - normaliser[..., None])
            if allowed is not None:
                weights = jnp.where(allowed[None], weights, 0)
            if repeated is not None:
                weights = jnp.where(repeated[None, :, None], 0, weights)
            slopes = weights * (_einsum("gid,jd->gij", pull, value) - shift[..., None])
            if pattern.soft_cap is not None:
                slopes = slopes * (1 - (logits / pattern.soft_cap) ** 2)
            return None, (slopes * pattern.scale, weights)

        parts = (*(cut(one, a) for one in given), *(cut(one, a, -1) for one in scalars))
        slopes, weights = lax.scan(head, None, (*parts, cut(keys, b), cut(values, b)))[1]
        return slopes, weights

    def of_queries(a: Any, b: Any, total: jax.Array) -> jax.Array:
        return total + _einsum("kgij,kjd->kgid", block(a, b, None)[0], cut(keys, b))

    def of_keys(b: Any, a: Any, totals: tuple[jax.Array, jax.Array]) -> Any:
        # A token of two blocks of queries is counted in the first.
        token = jnp.arange(size) + jnp.minimum(a * size, n - size)
        slopes, weights = block(a, b, token < a * size if n % size else None)
        query, pull = (cut(one, a) for one in given)
        products = ((slopes, query), (weights, pull))
        more = (_einsum("kgij,kgid->kjd", *pair) for pair in products)
        return tuple(total + one for total, one in zip(totals, more, strict=True))

    def zeros(*shape: int) -> jax.Array:
        return jnp.zeros(shape, kind)

    reached, last = pattern.reached(n), lambda _, carry: carry
    start = zeros(*given[0].shape[:2], size, queries.shape[-1])
    found = _sweep(reached, lambda _: start, of_queries, last)
    of_query = pattern.join(found, n, -2).reshape(queries.shape).astype(queries.dtype)
    starts = tuple(zeros(count, size, one.shape[-1]) for one in (keys, values))
    # Columns of the last block that the one before has too are left out by joining.
    found = _sweep(reached.T, lambda _: starts, of_keys, last)
    of_key, of_value = (pattern.join(one, n, -2) for one in found)
    of_sink = None
    if sinks is not None:
        share = jnp.exp(sinks.astype(kind)[:, None] - normalisers)  # [H, n]
        of_sink = -(share * shift).sum(-1).astype(sinks.dtype)
    return of_query, of_key.astype(keys.dtype), of_value.astype(values.dtype), of_sink


attend.defvjp(_attend_kept, _attend_pulled)


# --- products with the weights


def down(pattern: Pattern, weights: jax.Array, edges: Edges) -> jax.Array:
    """Return ``[R, n]``, the product of rows of `weights` ``[R, n]`` with the matrix of `edges`."""
    n = weights.shape[-1]
    size = min(pattern.block, n)

    def step(b: Any, a: Any, total: jax.Array) -> jax.Array:
        rows = pattern.cut(weights, a, -1)
        if n % size:  # a token of two blocks of queries is counted in the first
            token = jnp.arange(size) + jnp.minimum(a * size, n - size)
            rows = jnp.where(token[None] < a * size, 0, rows)
        return total + _einsum("ri,ij->rj", rows, edges(a, b))

    start = jnp.zeros((len(weights), size), weights.dtype)
    found = _sweep(pattern.reached(n).T, lambda _: start, step, lambda _, total: total)
    return pattern.join(found, n, -1)


def row_sums(pattern: Pattern, n: int, edges: Edges, dtype: Any) -> jax.Array:
    """Return ``[n]``, the sums of the rows of the matrix of `edges`."""

    def step(a: Any, b: Any, total: jax.Array) -> jax.Array:
        return total + edges(a, b).sum(-1)

    start = jnp.zeros(min(pattern.block, n), dtype)
    found = _sweep(pattern.reached(n), lambda _: start, step, lambda _, total: total)
    return pattern.join(found, n, -1)


def attention_edges(
    pattern: Pattern,
    queries: jax.Array,
    keys: jax.Array,
    normalisers: jax.Array,
    mask: jax.Array | None,
    factors: tuple[jax.Array, jax.Array] | None = None,
    *,
    positive: bool = False,
) -> Edges:
    """Return the edges of attention, the mean over heads; 0 where a key is not allowed.

    With `factors`, gradients ``[H, n, m]`` with respect to the mixed values and the values
    ``[K, n, m]``, each weight is multiplied with its own gradient; `positive` keeps only products
    above 0 then, head by head.
    """
    count, n = keys.shape[:2]
    grouped = _grouped(queries, count)
    scalars = _grouped(normalisers, count)
    cut = pattern.cut
    size = min(pattern.block, n)

    def edges(a: Any, b: Any) -> jax.Array:
        def head(total: jax.Array, given: Any) -> tuple[jax.Array, None]:
            query, normaliser, key, *pair = given
            logits = pattern.logits(query, key)
            slopes = None
            if pair:
                slopes = _einsum("gid,jd->gij", *pair, preferred_element_type=total.dtype)
            for place in range(len(query)):  # one loop over the block, however many heads
                each = jnp.exp(logits[place] - normaliser[place, :, None])
                if slopes is not None:
                    each = each * slopes[place]
                total = total + (jnp.maximum(each, 0) if positive else each)
            return total, None

        given = [cut(grouped, a), cut(scalars, a, -1), cut(keys, b)]
        if factors is not None:
            given += [cut(_grouped(factors[0], count), a), cut(factors[1], b)]
        start = jnp.zeros((size, size), normalisers.dtype)
        total = lax.scan(head, start, tuple(given))[0] / len(queries)
        allowed = pattern.allowed(n, mask, a, b)
        return total if allowed is None else jnp.where(allowed, total, 0)

    return edges


def uniform_edges(pattern: Pattern, n: int, mask: jax.Array | None, dtype: Any) -> Edges:
    """Return the edges of attention that is uniform over the keys that a query may attend to."""
    size = min(pattern.block, n)

    def seen(a: Any, b: Any) -> jax.Array:
        allowed = pattern.allowed(n, mask, a, b)
        return jnp.ones((size, size), dtype) if allowed is None else allowed.astype(dtype)

    count = jnp.maximum(row_sums(pattern, n, seen, dtype), 1)
    return lambda a, b: seen(a, b) / pattern.cut(count, a, -1)[:, None]


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def attention_rows(
    pattern: Pattern,
    weights: jax.Array,
    queries: jax.Array,
    keys: jax.Array,
    sinks: jax.Array | None,
    normalisers: jax.Array,
    mask: jax.Array | None,
) -> jax.Array:
    """Return ``[R, n]``: rows of `weights` times the mean attention of the heads.

    The gradient takes the normalisers as a function of queries, keys and sinks, whether they were
    kept or not: there is none with respect to them.
    """
    edges = attention_edges(pattern, queries, keys, normalisers, mask)
    return down(pattern, weights, edges)


def _rows_kept(pattern: Pattern, *given: Any) -> tuple[jax.Array, Any]:
    return attention_rows(pattern, *given), given


def _rows_pulled(pattern: Pattern, given: Any, pull: jax.Array) -> tuple[Any, ...]:
    # The product is linear in the weights, so the pull takes the part of values.
    weights, queries, keys, sinks, normalisers, mask = given
    heads, (count, n) = len(queries), keys.shape[:2]
    values = jnp.broadcast_to(pull.T[None] / heads, (count, n, len(pull)))
    on_mixed = jnp.broadcast_to(weights.T[None], (heads, n, len(pull)))
    mixed, _ = attend(pattern, queries, keys, values, sinks, mask)  # [H, n, R]
    shift = (on_mixed * mixed).sum(-1)
    found = _pulled(pattern, queries, keys, values, sinks, mask, normalisers, on_mixed, shift)
    of_queries, of_keys, _, of_sinks = found
    return mixed.sum(0).T, of_queries, of_keys, of_sinks, jnp.zeros_like(normalisers), None


attention_rows.defvjp(_rows_kept, _rows_pulled)
