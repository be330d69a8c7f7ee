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
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

Edges = Callable[[Any, Any], jax.Array]  # numbers of a block of queries and one of keys -> [B, B]

_einsum = partial(jnp.einsum, precision=lax.Precision.HIGHEST)


def default_block(*, rows: bool) -> int:
    """Return the tokens of a block that are fastest here, for products of rows or for `attend`."""
    size = 128 if jax.default_backend() == "cpu" else 2048
    return size if rows else size // 2


class Limits(NamedTuple):
    """Which keys queries may attend to: real ones ``[n]``, within a window, in the same chunk.

    As in `jaxflow.QueryKey`; None is no limit. Numbers of tokens may be traced.
    """

    mask: Any = None
    window: Any = None
    chunk: Any = None


@dataclasses.dataclass(frozen=True)
class Pattern:
    """What of a layer's attention is known when it is compiled, and the tokens of a block.

    As in `jaxflow.QueryKey`.
    """

    causal: bool
    scale: float
    soft_cap: float | None = None
    block: int = 128

    def firsts(self, n: int) -> jax.Array:
        """Return each block's first token; the last block ends with the text, and may overlap."""
        size = min(self.block, n)
        return jnp.minimum(jnp.arange(0, n, size), n - size)

    def reached(self, n: int, limits: Limits) -> jax.Array:
        """Return whether any query of a block (row) may attend to any key of a block (column)."""
        first, last = self.firsts(n), min(self.block, n) - 1
        query, key = first[:, None], first[None]
        seen = jnp.ones((len(first), len(first)), bool)
        if self.causal:
            seen &= key <= query + last
        if limits.window is not None:
            seen &= query - (key + last) < limits.window
            seen &= key - (query + last) < limits.window
        if limits.chunk is not None:
            seen &= query // limits.chunk <= (key + last) // limits.chunk
            seen &= key // limits.chunk <= (query + last) // limits.chunk
        return seen

    def allowed(self, n: int, limits: Limits, a: Any, b: Any) -> jax.Array | None:
        """Return which pairs of query block a and key block b count, ``[B, B]``, None for all.

        A pair of tokens counts in one block only.
        """
        size = min(self.block, n)
        query, key = self.tokens(n, a)[:, None], self.tokens(n, b)[None]
        rules = [key >= b * size] if n % size else []
        if self.causal:
            rules.append(key <= query)
        if limits.window is not None:
            rules.append(abs(query - key) < limits.window)
        if limits.chunk is not None:
            rules.append(query // limits.chunk == key // limits.chunk)
        if limits.mask is not None:
            rules.append(self.cut(limits.mask, b, -1)[None])
        if not rules:
            return None
        found = jnp.ones((size, size), bool)
        for rule in rules:
            found &= rule
        return found

    def tokens(self, n: int, place: Any) -> jax.Array:
        """Return the numbers ``[B]`` of a block's tokens."""
        size = min(self.block, n)
        return jnp.arange(size) + jnp.minimum(place * size, n - size)

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
    reached: jax.Array,
    begin: Callable[[Any], Any],
    step: Callable[[Any, Any, Any], Any],
    end: Callable[[Any, Any], Any],
) -> Any:
    """For each row of blocks go through the blocks that it reaches; return the stacked ends."""
    count = len(reached)
    low = reached.argmax(1)
    high = count - reached[:, ::-1].argmax(1)

    def row(_: None, at: tuple[jax.Array, ...]) -> tuple[None, Any]:
        a, low, high = at
        return None, end(a, lax.fori_loop(low, high, partial(step, a), begin(a)))

    return lax.scan(row, None, (jnp.arange(count), low, high))[1]


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
    limits: Limits,
) -> tuple[jax.Array, jax.Array]:
    """Return the mixed values ``[H, n, m]`` and the log-normalisers ``[H, n]``.

    `sinks` ``[H]`` are logits that every query has in addition, without values. A query without
    any key has the normaliser infinity, and mixes to 0.
    """
    count, n = keys.shape[:2]
    kind = jnp.promote_types(queries.dtype, jnp.float32)
    size = min(pattern.block, n)
    floor = jnp.finfo(kind).min

    def begin(_: Any) -> tuple[jax.Array, ...]:
        shape = (count, len(queries) // count, size)  # [K, g, B]
        # Above the logits of pairs that are not allowed, so that those count as 0.
        top = jnp.full(shape, floor / 2, kind)
        return top, jnp.zeros(shape, kind), jnp.zeros((*shape, values.shape[-1]), kind)

    def step(a: Any, b: Any, carry: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        allowed = pattern.allowed(n, limits, a, b)

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
        given = (carry, _grouped(cut(queries, a), count), cut(keys, b), cut(values, b))
        if len(queries) == count:  # faster together, but with several heads a key one by one
            return jax.vmap(lambda one: head(None, one)[1])(given)
        return lax.scan(head, None, given)[1]

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

    mixed, normalisers = _sweep(pattern.reached(n, limits), begin, step, end)
    mixed, normalisers = pattern.join(mixed, n, -2), pattern.join(normalisers, n, -1)
    return mixed.reshape(len(queries), n, -1), normalisers.reshape(len(queries), n)


def _attend_kept(pattern: Pattern, *given: Any) -> tuple[Any, Any]:
    found = attend(pattern, *given)
    return found, (*given, *found)


def _attend_pulled(pattern: Pattern, kept: Any, pulls: Any) -> tuple[Any, ...]:
    *given, mixed, normalisers = kept
    pull, shift = pulls
    shift = (pull * mixed).sum(-1) - shift
    return *_pulled(pattern, given, normalisers, pull, shift), None


def _pulled(
    pattern: Pattern,
    given: Sequence[Any],
    normalisers: jax.Array,
    pull: jax.Array,
    shift: jax.Array,
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array | None]:
    r"""Return the gradients with respect to queries, keys, values and sinks, `given` to `attend`.

    Of logits it is :math:`P_{ij} (g_i \cdot v_j - c_i)`, with g the `pull` ``[H, n, m]`` on the
    mixed values and c the `shift` ``[H, n]``.
    """
    queries, keys, values, sinks, limits = given
    count, n = keys.shape[:2]
    cut, kind = pattern.cut, normalisers.dtype
    size = min(pattern.block, n)

    def of_block(a: Any) -> Any:
        """Return queries and pulls ``[K, g, B, ...]``, normalisers and shifts ``[K, g, B]``."""
        parts = [cut(one, a) for one in (queries, pull)]
        parts += [cut(one, a, -1) for one in (normalisers, shift)]
        return tuple(_grouped(one, count) for one in parts)

    def block(a: Any, b: Any, repeated: Any) -> tuple[jax.Array, jax.Array]:
        """Return the gradient of the logits, and the weights, ``[K, g, B, B]``."""
        allowed = pattern.allowed(n, limits, a, b)

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

        slopes, weights = lax.scan(head, None, (*of_block(a), cut(keys, b), cut(values, b)))[1]
        return slopes, weights

    def of_queries(a: Any, b: Any, total: jax.Array) -> jax.Array:
        return total + _einsum("kgij,kjd->kgid", block(a, b, None)[0], cut(keys, b))

    def of_keys(b: Any, a: Any, totals: tuple[jax.Array, jax.Array]) -> Any:
        # A token of two blocks of queries is counted in the first.
        slopes, weights = block(a, b, pattern.tokens(n, a) < a * size if n % size else None)
        query, pull, *_ = of_block(a)
        products = ((slopes, query), (weights, pull))
        more = (_einsum("kgij,kgid->kjd", *pair) for pair in products)
        return tuple(total + one for total, one in zip(totals, more, strict=True))

    def zeros(*shape: int) -> jax.Array:
        return jnp.zeros(shape, kind)

    reached, last = pattern.reached(n, limits), lambda _, carry: carry
    start = zeros(count, len(queries) // count, size, queries.shape[-1])
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


def down(pattern: Pattern, weights: jax.Array, edges: Edges, limits: Limits) -> jax.Array:
    """Return ``[R, n]``, the product of rows of `weights` ``[R, n]`` with the matrix of `edges`."""
    n = weights.shape[-1]
    size = min(pattern.block, n)

    def step(b: Any, a: Any, total: jax.Array) -> jax.Array:
        rows = pattern.cut(weights, a, -1)
        if n % size:  # a token of two blocks of queries is counted in the first
            rows = jnp.where(pattern.tokens(n, a)[None] < a * size, 0, rows)
        return total + _einsum("ri,ij->rj", rows, edges(a, b))

    start = jnp.zeros((len(weights), size), weights.dtype)
    found = _sweep(pattern.reached(n, limits).T, lambda _: start, step, lambda _, total: total)
    return pattern.join(found, n, -1)


def row_sums(pattern: Pattern, n: int, edges: Edges, limits: Limits, dtype: Any) -> jax.Array:
    """Return ``[n]``, the sums of the rows of the matrix of `edges`."""

    def step(a: Any, b: Any, total: jax.Array) -> jax.Array:
        return total + edges(a, b).sum(-1)

    start = jnp.zeros(min(pattern.block, n), dtype)
    found = _sweep(pattern.reached(n, limits), lambda _: start, step, lambda _, total: total)
    return pattern.join(found, n, -1)


def attention_edges(
    pattern: Pattern,
    queries: jax.Array,
    keys: jax.Array,
    normalisers: jax.Array,
    limits: Limits,
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

        given = [_grouped(one, count) for one in (cut(queries, a), cut(normalisers, a, -1))]
        given.append(cut(keys, b))
        if factors is not None:
            given += [_grouped(cut(factors[0], a), count), cut(factors[1], b)]
        start = jnp.zeros((size, size), normalisers.dtype)
        total = lax.scan(head, start, tuple(given))[0] / len(queries)
        allowed = pattern.allowed(n, limits, a, b)
        return total if allowed is None else jnp.where(allowed, total, 0)

    return edges


def norm_edges(
    pattern: Pattern,
    queries: jax.Array,
    keys: jax.Array,
    normalisers: jax.Array,
    limits: Limits,
    values: jax.Array,
    projection: jax.Array,
) -> Edges:
    r"""Return the edges :math:`\lVert \sum_h P^h_{ij} v^h_j W_O^h \rVert_2`.

    By the products :math:`v^h_j W_O^h \cdot v^k_j W_O^k` of each key's heads, which are computed
    once; the projection is ``[H, m, D]``.
    """
    count, n = keys.shape[:2]
    heads, size, cut = len(queries), min(pattern.block, n), pattern.cut
    kind = normalisers.dtype

    def products(place: jax.Array) -> jax.Array:
        value = jnp.repeat(cut(values, place), heads // count, 0)
        moved = _einsum("hjd,hde->hje", value, projection, preferred_element_type=kind)
        return _einsum("hje,kje->hkj", moved, moved)

    blocks = lax.map(products, jnp.arange(len(pattern.firsts(n))))
    cross = pattern.join(blocks, n, -1)  # [H, H, n]

    def edges(a: Any, b: Any) -> jax.Array:
        def weigh(given: tuple[jax.Array, ...]) -> jax.Array:
            query, normaliser, key = given
            return jnp.exp(pattern.logits(query, key) - normaliser[..., None])

        parts = [_grouped(one, count) for one in (cut(queries, a), cut(normalisers, a, -1))]
        weights = lax.map(weigh, (*parts, cut(keys, b))).reshape(heads, size, size)

        crossed = cut(cross, b, -1)

        def head(total: jax.Array, own: jax.Array) -> tuple[jax.Array, None]:
            # Each pair of heads once: a head and those that follow it, around to half of them.
            more = jnp.zeros_like(total)
            for step in range(heads // 2 + 1):
                other = (own + step) % heads
                share = 1 if step in (0, heads / 2) else 2
                more = more + (share * crossed[own, other])[None] * weights[other]
            return total + weights[own] * more, None

        start = jnp.zeros((size, size), kind)
        square = lax.scan(head, start, jnp.arange(heads))[0]
        total = jnp.sqrt(jnp.maximum(square, 0))
        allowed = pattern.allowed(n, limits, a, b)
        return total if allowed is None else jnp.where(allowed, total, 0)

    return edges


def uniform_edges(pattern: Pattern, n: int, limits: Limits, dtype: Any) -> Edges:
    """Return the edges of attention that is uniform over the keys that a query may attend to."""
    size = min(pattern.block, n)

    def seen(a: Any, b: Any) -> jax.Array:
        allowed = pattern.allowed(n, limits, a, b)
        return jnp.ones((size, size), dtype) if allowed is None else allowed.astype(dtype)

    count = jnp.maximum(row_sums(pattern, n, seen, limits, dtype), 1)
    return lambda a, b: seen(a, b) / pattern.cut(count, a, -1)[:, None]


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def attention_rows(
    pattern: Pattern,
    weights: jax.Array,
    queries: jax.Array,
    keys: jax.Array,
    sinks: jax.Array | None,
    normalisers: jax.Array,
    limits: Limits,
) -> jax.Array:
    """Return ``[R, n]``: rows of `weights` times the mean attention of the heads.

    The gradient takes the normalisers as a function of queries, keys and sinks, whether they were
    kept or not: there is none with respect to them.
    """
    edges = attention_edges(pattern, queries, keys, normalisers, limits)
    return down(pattern, weights, edges, limits)


def _rows_kept(pattern: Pattern, *given: Any) -> tuple[jax.Array, Any]:
    return attention_rows(pattern, *given), given


def _rows_pulled(pattern: Pattern, given: Any, pull: jax.Array) -> tuple[Any, ...]:
    # The product is linear in the weights, so the pull takes the part of values.
    weights, queries, keys, sinks, normalisers, limits = given
    heads, (count, n) = len(queries), keys.shape[:2]
    values = jnp.broadcast_to(pull.T[None] / heads, (count, n, len(pull)))
    on_mixed = jnp.broadcast_to(weights.T[None], (heads, n, len(pull)))
    mixed, _ = attend(pattern, queries, keys, values, sinks, limits)  # [H, n, R]
    shift = (on_mixed * mixed).sum(-1)
    given = [queries, keys, values, sinks, limits]
    found = _pulled(pattern, given, normalisers, on_mixed, shift)
    of_queries, of_keys, _, of_sinks = found
    return mixed.sum(0).T, of_queries, of_keys, of_sinks, jnp.zeros_like(normalisers), None


attention_rows.defvjp(_rows_kept, _rows_pulled)
