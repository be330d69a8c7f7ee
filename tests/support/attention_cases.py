"""Attention written by hand in many ways: each function returns its output and its weights.

A case takes parameters and data and returns ``(output, [weights, ...])``, the weights
``[..., H, q, k]`` as they are multiplied with the values. `NONE` are functions whose softmax is no
attention, `LOST` attention that cannot be taken and is to be listed as missed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

B, N, H, D = 2, 5, 4, 3
W = H * D
softmax = jax.nn.softmax
CASES: dict[str, Callable[..., Any]] = {}
NONE: dict[str, Callable[..., Any]] = {}
LOST: dict[str, Callable[..., Any]] = {}


def _draw(seed: int, *shape: int) -> jax.Array:
    return jax.random.normal(jax.random.key(seed), shape) / np.sqrt(shape[-2] if shape[1:] else 1)


PARAMS = {
    "q": _draw(1, W, W),
    "k": _draw(2, W, W),
    "v": _draw(3, W, W),
    "o": _draw(4, W, W),
    "kv": _draw(5, W, 2 * D),  # two groups
    "one": _draw(6, W, D),
    "bias": _draw(7, H, N, N),
    "sink": _draw(8, H, 1),
    "mix": jnp.eye(H) + 0.1 * _draw(9, H, H),
    "vec": _draw(10, D, 1)[:, 0],
    "memory": _draw(11, 7, W),
    "query": _draw(12, 1, W),
    "experts": _draw(13, W, 3),
    "expert": _draw(14, 3, W, W),
    "vec_of_width": _draw(15, W),
}
X, Y = 2 * _draw(20, B, N, W), 2 * _draw(21, B, N, W)
Z = 2 * _draw(22, B, 6, W)
KEEP = jnp.asarray([[True] * 5, [True] * 3 + [False] * 2])


def into(table: dict[str, Callable[..., Any]]) -> Callable[[Any], Any]:
    """Return a decorator that enters a function into a table."""

    def enter(function: Callable[..., Any]) -> Callable[..., Any]:
        table[function.__name__] = function
        return function

    return enter


case, no_attention, unlisted = into(CASES), into(NONE), into(LOST)


def heads(x: Any) -> Any:
    return x.reshape(*x.shape[:-1], -1, D)


def qkv(p: Any, x: Any, y: Any = None) -> Any:
    y = x if y is None else y
    return heads(x @ p["q"]), heads(y @ p["k"]), heads(y @ p["v"])


def logits(q: Any, k: Any) -> Any:
    return jnp.einsum("bqhd,bkhd->bhqk", q, k) / np.sqrt(D)


def out(p: Any, w: Any, v: Any) -> Any:
    o = jnp.einsum("bhqk,bkhd->bqhd", w, v)
    return o.reshape(*o.shape[:2], -1) @ p["o"]


def attend(p: Any, q: Any, k: Any, v: Any) -> Any:
    w = softmax(logits(q, k))
    return out(p, w, v), [w]


def by_hand(change: Callable[..., Any]) -> Callable[..., Any]:
    """Return self-attention whose softmax is `change` of parameters and logits."""

    def run(p: Any, x: Any, y: Any, z: Any) -> Any:
        q, k, v = qkv(p, x)
        w = change(p, logits(q, k))
        return out(p, w, v), [w]

    return run


def share(e: Any, more: Any = None) -> Any:
    total = e.sum(-1, keepdims=True)
    return e / (total if more is None else total + more)


def keep_some(s: Any) -> Any:
    return jax.random.bernoulli(jax.random.key(3), 0.8, s.shape)


def sink_in_the_denominator(p, s):
    m = jnp.maximum(s.max(-1, keepdims=True), p["sink"][:, None])
    return share(jnp.exp(s - m), jnp.exp(p["sink"][:, None] - m))


def sink_as_a_column(p, s):
    column = jnp.broadcast_to(p["sink"][None, :, None], (B, H, N, 1))
    return softmax(jnp.concatenate([s, column], -1))[..., :-1]


def talking_heads(p, s):
    s = jnp.einsum("bhqk,hg->bgqk", s, p["mix"])
    return jnp.einsum("bhqk,hg->bgqk", softmax(s), p["mix"])


def heads_joined(p, s):
    near = softmax(jnp.where(jnp.tri(N, dtype=bool), s[:, :2], -1e9))
    return jnp.concatenate([near, softmax(s[:, 2:])], 1)


TRIANGLE, REAL = jnp.tril(jnp.ones((N, N), bool)), KEEP[:, None, None]
FAR = np.abs(np.arange(N)[:, None] - np.arange(N)) > 1
#: Self-attention by its weights as a function of parameters and logits.
WEIGHTS: dict[str, Callable[..., Any]] = {
    "plain": lambda p, s: softmax(s),
    "no_maximum": lambda p, s: share(jnp.exp(s)),
    "own_maximum": lambda p, s: (e := jnp.exp(s - s.max(-1, keepdims=True))) / e.sum(-1)[..., None],
    "reciprocal": lambda p, s: (e := jnp.exp(s)) * (1.0 / e.sum(-1, keepdims=True)),
    "power": lambda p, s: (e := jnp.exp(s)) * e.sum(-1, keepdims=True) ** -1,
    "log_softmax": lambda p, s: jnp.exp(jax.nn.log_softmax(s)),
    "logsumexp": lambda p, s: jnp.exp(s - jax.nn.logsumexp(s, -1, keepdims=True)),
    "causal": lambda p, s: softmax(jnp.where(TRIANGLE, s, -1e30)),
    "padding": lambda p, s: softmax(jnp.where(REAL, s, jnp.finfo(s.dtype).min)),
    "additive_mask": lambda p, s: softmax(s + jnp.where(KEEP, 0.0, -1e9)[:, None, None]),
    "where_argument": lambda p, s: softmax(s, where=REAL, axis=-1),
    "masked_exponential": lambda p, s: share(jnp.exp(s) * REAL, 1e-9),
    "masked_after_and_normalised": lambda p, s: share(softmax(s) * REAL),
    "soft_cap": lambda p, s: softmax(5 * jnp.tanh(s / 5)),
    "relative_bias": lambda p, s: softmax(s + p["bias"]),
    "window": lambda p, s: softmax(jnp.where(FAR, -jnp.inf, s)),
    "sink_in_the_denominator": sink_in_the_denominator,
    "sink_as_a_column": sink_as_a_column,
    "one_more": lambda p, s: (e := jnp.exp(s)) / (1 + e.sum(-1, keepdims=True)),
    "half_precision": lambda p, s: softmax(s.astype(jnp.bfloat16).astype(jnp.float32)).astype(
        jnp.bfloat16
    ),
    "dropout_by_select": lambda p, s: jnp.where(keep_some(s), softmax(s) / 0.8, 0),
    "dropout_by_product": lambda p, s: softmax(s) * keep_some(s).astype(s.dtype) / 0.8,
    "talking_heads": talking_heads,
    "gate_of_heads": lambda p, s: softmax(s) * jax.nn.sigmoid(p["sink"])[:, None],
    "difference": lambda p, s: softmax(s) - 0.3 * softmax(2 * s + 1),
    "base_two": lambda p, s: share(jnp.exp2(s)),
    "heads_joined": heads_joined,
    "exponentials_squared": lambda p, s: share(jnp.exp(s / 3) ** 2),
    "heads_stacked": lambda p, s: jnp.stack([softmax(s[:, i]) for i in range(H)], 1),
    "chunks_of_queries_joined": lambda p, s: jnp.concatenate(
        [softmax(s[:, :, :2]), softmax(s[:, :, 2:])], 2
    ),
    "softmax_in_a_map": lambda p, s: lax.map(softmax, s),
    "head_written_over": lambda p, s: softmax(s).at[:, 1].set(0),
    "heads_by_index": lambda p, s: softmax(s)[:, jnp.array([1, 0, 3, 2])],
}
CASES |= {name: by_hand(weights) for name, weights in WEIGHTS.items()}


@case
def jax_nn(p, x, y, z):
    q, k, v = qkv(p, x)
    return heads_out(p, jax.nn.dot_product_attention(q, k, v)), [softmax(logits(q, k))]


@case
def mask_argument(p, x, y, z):
    q, k, v = qkv(p, x)
    w = softmax(logits(q, k)) * jnp.abs(y[:, None, None, :, 0])
    w = w / (w.sum(-1, keepdims=True) + 1e-13)
    return out(p, w, v), [w]


@case
def exponentials_times_a_mask_argument(p, x, y, z):
    q, k, v = qkv(p, x)
    e = jnp.exp(logits(q, k)) * jnp.abs(y[:, None, None, :, 0])
    w = e / e.sum(-1, keepdims=True)
    return out(p, w, v), [w]


@case
def product_in_a_map(p, x, y, z):
    q, k, v = qkv(p, x)
    w = softmax(logits(q, k))
    o = lax.map(lambda one: jnp.einsum("hqk,khd->qhd", *one), (w, v))
    return o.reshape(B, N, W) @ p["o"], [w]


@case
def mean_of_heads(p, x, y, z):
    w = softmax(logits(*qkv(p, x)[:2])).mean(1)
    return w @ x @ p["o"], [w[:, None]]


@case
def one_softmax_of_two_parts(p, x, y, z):
    q, k, v = qkv(p, x)
    e = jnp.exp(logits(q, k[:, :3])), jnp.exp(logits(q, k[:, 3:]))
    total = sum(one.sum(-1, keepdims=True) for one in e)
    w = [one / total for one in e]
    return out(p, w[0], v[:, :3]) + out(p, w[1], v[:, 3:]), w


@case
def softmax_cut_in_two(p, x, y, z):
    q, k, v = qkv(p, x, jnp.concatenate([z, x], 1))
    w = softmax(logits(q, k))
    return out(p, w[..., :6], v[:, :6]) + out(p, w[..., 6:], v[:, 6:]), [w[..., :6], w[..., 6:]]


@case
def composite(p, x, y, z):
    return lax.composite(lambda p, x: CASES["plain"](p, x, x, x), "own.attention")(p, x)


def lost(change: Callable[..., Any]) -> Callable[..., Any]:
    """Return attention whose weights are `change` of the softmax, which is not followed."""

    def run(p: Any, x: Any, y: Any, z: Any) -> Any:
        q, k, v = qkv(p, x)
        return out(p, change(p, x, softmax(logits(q, k))), v)

    return run


CHANGED: dict[str, Callable[..., Any]] = {
    "rounded": lambda p, x, w: jnp.round(255 * w) / 255,
    "sharpened": lambda p, x, w: share(w**2),
    "squared_as_a_matrix": lambda p, x, w: w @ w,
    "out_of_a_branch": lambda p, x, w: lax.cond(x[0, 0, 0] > 9, lambda: w, lambda: w**2),
    "carried_by_a_loop": lambda p, x, w: lax.scan(lambda c, _: (0.5 * c, None), w, None, length=2)[
        0
    ],
    "complement": lambda p, x, w: jnp.eye(N) - w,
    "gate_of_keys": lambda p, x, w: w * jax.nn.sigmoid(x @ p["vec_of_width"])[:, None, None],
    "written_into": lambda p, x, w: w.at[:, 1].set(jnp.abs(x[:, :, :N])),
    "sorted_queries": lambda p, x, w: jnp.take_along_axis(w, jnp.argsort(x[:, None, :, :1], 2), 2),
}
LOST |= {name: lost(change) for name, change in CHANGED.items()}


@unlisted
def window_by_gather(p, x, y, z):
    near = (jnp.arange(N)[:, None] + jnp.arange(-1, 2)) % N
    k, v = (x @ p["k"])[:, near], (x @ p["v"])[:, near]
    w = softmax(jnp.einsum("bnd,bnwd->bnw", x @ p["q"], k))
    return jnp.einsum("bnw,bnwd->bnd", w, v) @ p["o"]


@unlisted
def best_keys_by_gather(p, x, y, z):
    q, k, v = (x @ p[name] for name in "qkv")
    best, which = lax.top_k(q @ k.swapaxes(1, 2), 3)
    return jnp.einsum("bnk,bnkd->bnd", softmax(best), jax.vmap(lambda v, i: v[i])(v, which))


@unlisted
def window_by_stack(p, x, y, z):
    k, v = (jnp.stack([jnp.roll(x @ p[n], i, 1) for i in (-1, 0, 1)], 2) for n in "kv")
    w = softmax(jnp.einsum("bnd,bnwd->bnw", x @ p["q"], k))
    return jnp.einsum("bnw,bnwd->bnd", w, v) @ p["o"]


@unlisted
def total_by_cumsum(p, x, y, z):
    e = jnp.exp(x @ x.swapaxes(1, 2) / 9)
    return e / jnp.cumsum(e, -1)[..., -1:] @ x


@unlisted
def graph_attention(p, x, y, z):
    x, to, start = x[0], jnp.arange(9) // 2, jnp.arange(9) % N
    e = jnp.exp(((x @ p["q"])[to] * (x @ p["k"])[start]).sum(-1))
    w = e / jax.ops.segment_sum(e, to, N)[to]
    return jax.ops.segment_sum(w[:, None] * (x @ p["v"])[start], to, N)


@unlisted
def slots(p, x, y, z):
    w = softmax(jnp.einsum("sd,bnd->bns", p["memory"], x @ p["k"]))
    w = w / w.sum(1, keepdims=True)
    return jnp.einsum("bns,bnd->bsd", w, x @ p["v"])


@unlisted
def efficient_attention(p, x, y, z):
    q, k = softmax(x @ p["q"], -1), softmax(x @ p["k"], 1)
    return q @ jnp.einsum("bnd,bne->bde", k, x @ p["v"]) @ p["o"]


def heads_out(p, o):
    return o.reshape(*o.shape[:2], -1) @ p["o"]


@case
def keys_first(p, x, y, z):
    q, k, v = qkv(p, x)
    w = softmax(jnp.einsum("bkhd,bqhd->bkhq", k, q) / np.sqrt(D), axis=1)
    return heads_out(p, jnp.einsum("bkhd,bkhq->bqhd", v, w)), [w.transpose(0, 2, 3, 1)]


@case
def heads_last(p, x, y, z):
    q, k, v = qkv(p, x)
    w = softmax(jnp.einsum("bqhd,bkhd->bqkh", q, k), axis=2)
    return heads_out(p, jnp.einsum("bqkh,bkhd->bqhd", w, v)), [w.transpose(0, 3, 1, 2)]


@case
def merged_batch(p, x, y, z):
    q, k, v = (jnp.moveaxis(one, 2, 1).reshape(B * H, N, D) for one in qkv(p, x))
    w = softmax(q @ k.transpose(0, 2, 1))
    o = (w @ v).reshape(B, H, N, D).transpose(0, 2, 1, 3)
    return heads_out(p, o), [w.reshape(B, H, N, N)]


@case
def one_example(p, x, y, z):
    q, k, v = (one[0] for one in qkv(p, x))
    w = softmax(jnp.einsum("qhd,khd->hqk", q, k))
    return jnp.einsum("hqk,khd->qhd", w, v).reshape(N, W) @ p["o"], [w]


@case
def one_head(p, x, y, z):
    w = softmax((x @ p["q"]) @ (x @ p["k"]).transpose(0, 2, 1))
    return w @ (x @ p["v"]) @ p["o"], [w[:, None]]


@case
def head_by_head(p, x, y, z):
    q, k, v = qkv(p, x)
    w = [softmax(q[:, :, h] @ k[:, :, h].swapaxes(1, 2)) for h in range(2)]
    o = [w[h] @ v[:, :, h] for h in range(2)]
    return jnp.concatenate(o, -1) @ p["o"][: 2 * D], [one[:, None] for one in w]


@case
def projection_of_each_head(p, x, y, z):
    q, k, v = qkv(p, x)
    w = softmax(logits(q, k))
    o = jnp.einsum("bhqk,bkhd->bhqd", w, v)
    return jnp.einsum("bhqd,hde->bqe", o, p["o"].reshape(H, D, W)), [w]


@case
def values_projected_first(p, x, y, z):
    q, k, v = qkv(p, x)
    w = softmax(logits(q, k))
    u = jnp.einsum("bkhd,hde->bhke", v, p["o"].reshape(H, D, W))
    return jnp.einsum("bhqk,bhke->bqe", w, u), [w]


def _groups(p, x):
    k, v = jnp.split(x @ p["kv"], 2, -1)
    return heads(x @ p["q"]), jnp.stack([k, -k], 2), jnp.stack([v, 2 * v], 2)


@case
def grouped_by_repeat(p, x, y, z):
    q, k, v = _groups(p, x)
    k, v = (jnp.repeat(one, 2, axis=2) for one in (k, v))
    return attend(p, q, k, v)


@case
def grouped_by_reshape(p, x, y, z):
    q, k, v = _groups(p, x)
    q = q.reshape(B, N, 2, 2, D)
    w = softmax(jnp.einsum("bqcgd,bkcd->bcgqk", q, k))
    o = jnp.einsum("bcgqk,bkcd->bqcgd", w, v)
    return o.reshape(B, N, W) @ p["o"], [w.reshape(B, H, N, N)]


@case
def multi_query(p, x, y, z):
    q, k, v = heads(x @ p["q"]), x @ p["one"], x @ p["one"]
    w = softmax(jnp.einsum("bqhd,bkd->bhqk", q, k))
    return heads_out(p, jnp.einsum("bhqk,bkd->bqhd", w, v)), [w]


@case
def cross(p, x, y, z):
    q, k, v = qkv(p, x, z)
    return attend(p, q, k, v)


@case
def additive_scores(p, x, y, z):
    q, k, v = qkv(p, x, z)
    s = jnp.tanh(q[:, :, None] + k[:, None]) @ p["vec"]
    w = softmax(s.transpose(0, 3, 1, 2))
    return out(p, w, v), [w]


@case
def pooling(p, x, y, z):
    w = softmax(x @ p["query"][0])
    return jnp.einsum("bk,bkd->bd", w, x) @ p["o"], [w[:, None, None]]


@case
def pooling_by_product(p, x, y, z):
    w = softmax((x @ p["query"].T), axis=1)
    return (w * x).sum(1) @ p["o"], [w.swapaxes(1, 2)[:, None]]


@case
def learned_queries(p, x, y, z):
    q = heads(p["memory"] @ p["q"])
    k, v = heads(x @ p["k"]), heads(x @ p["v"])
    w = softmax(jnp.einsum("qhd,bkhd->bhqk", q, k))
    return out(p, w, v), [w]


@case
def product_and_sum(p, x, y, z):
    q, k, v = qkv(p, x)
    w = softmax(logits(q, k))
    o = (w[..., None] * v.transpose(0, 2, 1, 3)[:, :, None]).sum(3)
    return heads_out(p, o.transpose(0, 2, 1, 3)), [w]


@case
def late(p, x, y, z):
    q, k, v = qkv(p, x)
    e = jnp.exp(logits(q, k))
    total = e.sum(-1)
    o = jnp.einsum("bhqk,bkhd->bqhd", e, v) / total.transpose(0, 2, 1)[..., None]
    return heads_out(p, o), [e / total[..., None]]


@case
def late_by_reciprocal(p, x, y, z):
    q, k, v = qkv(p, x)
    s = logits(q, k)
    e = jnp.exp(s - s.max(-1, keepdims=True))
    o = jnp.einsum("bhqk,bkhd->bhqd", e, v) * (1 / e.sum(-1, keepdims=True))
    return heads_out(p, o.transpose(0, 2, 1, 3)), [softmax(s)]


@case
def two_dimensional_windows(p, x, y, z):
    image = jnp.stack([x[:, :4, :], y[:, :4, :]], 1)[:, :, :, :W]  # [B, 2, 4, W]
    tiles = image.reshape(B, 2, 2, 2, W).transpose(0, 2, 1, 3, 4).reshape(B, 2, 4, W)
    q, k, v = (heads(tiles @ p[name]) for name in "qkv")
    w = softmax(jnp.einsum("btqhd,btkhd->bthqk", q, k))
    o = jnp.einsum("bthqk,btkhd->btqhd", w, v).reshape(B, 2, 4, W)
    return o @ p["o"], [w]


@case
def decoding_with_a_cache(p, x, y, z):
    new = x[:, -1:]
    q = heads(new @ p["q"])
    cache = heads(jnp.zeros((B, N + 2, W)).at[:, : N - 1].set(x[:, :-1] @ p["k"]))
    stored = heads(jnp.zeros((B, N + 2, W)).at[:, : N - 1].set(x[:, :-1] @ p["v"]))
    k = lax.dynamic_update_slice(cache, heads(new @ p["k"]), (0, N - 1, 0, 0))
    v = lax.dynamic_update_slice(stored, heads(new @ p["v"]), (0, N - 1, 0, 0))
    w = softmax(jnp.where(jnp.arange(N + 2) < N, logits(q, k), -1e30))
    return out(p, w, v), [w]


def layer(p, x):
    q, k, v = qkv(p, x)
    w = softmax(logits(q, k))
    return x + out(p, w, v), w


def listed(found: Any) -> Any:
    return found[0], [found[1]]


@case
def unrolled_layers(p, x, y, z):
    weights = []
    for _ in range(3):
        x, w = layer(p, x)
        weights.append(w)
    return x, weights


@case
def scan_over_layers(p, x, y, z):
    return listed(lax.scan(lambda x, s: layer({**p, "q": s * p["q"]}, x), x, jnp.arange(1.0, 4)))


@case
def reversed_scan(p, x, y, z):
    scales = jnp.arange(1.0, 4)
    return listed(lax.scan(lambda x, s: layer({**p, "q": s * p["q"]}, x), x, scales, reverse=True))


@case
def nested_scans(p, x, y, z):
    def outer(x, s):
        return lax.scan(lambda x, t: layer({**p, "q": (s + t) * p["q"]}, x), x, jnp.arange(2.0))

    return listed(lax.scan(outer, x, jnp.arange(3.0)))


@case
def rematerialised(p, x, y, z):
    return listed(jax.checkpoint(layer)(p, x))


@case
def scan_of_rematerialised(p, x, y, z):
    return listed(lax.scan(lambda x, _: jax.checkpoint(layer)(p, x), x, None, length=2))


@case
def fixed_loop(p, x, y, z):
    def body(i, carry):
        x, w = layer(p, carry[0])
        return x, carry[1].at[i].set(w)

    return listed(lax.fori_loop(0, 2, body, (x, jnp.zeros((2, B, H, N, N)))))


@case
def branch(p, x, y, z):
    return listed(
        lax.cond(x.sum() < 1e9, lambda: layer(p, x), lambda: (x, jnp.zeros((B, H, N, N))))
    )


@case
def mapped(p, x, y, z):
    def one(x):
        q, k, v = (heads(x @ p[name]) for name in "qkv")
        w = softmax(jnp.einsum("qhd,khd->hqk", q, k))
        return jnp.einsum("hqk,khd->qhd", w, v).reshape(N, W) @ p["o"], w

    return listed(jax.vmap(one)(x))


@case
def mapped_over_heads(p, x, y, z):
    def head(q, k, v):
        w = softmax(q @ k.T)
        return w @ v, w

    q, k, v = qkv(p, x)
    o, w = jax.vmap(jax.vmap(head, 1, (1, 0)))(q, k, v)
    return heads_out(p, o), [w]


@case
def custom_derivatives(p, x, y, z):
    @jax.custom_vjp
    def attend(x):
        return layer(p, x)

    attend.defvjp(lambda x: (attend(x), x), lambda x, g: (g[0],))
    return listed(attend(x))


@case
def custom_forward_derivatives(p, x, y, z):
    @jax.custom_jvp
    def attend(x):
        return layer(p, x)

    attend.defjvp(lambda primals, tangents: (attend(*primals), (tangents[0], attend(*primals)[1])))
    return listed(attend(x))


@case
def compiled_within(p, x, y, z):
    return listed(jax.jit(layer)(p, x))


@case
def memory(p, x, y, z):
    w = softmax(x @ p["memory"].T)
    return w @ p["memory"], [w[:, None]]


@case
def hidden_units_as_memory(p, x, y, z):
    w = softmax(x @ p["q"])
    return w @ p["o"], [w[:, None]]


# What is no attention


@no_attention
def classifier(p, x, y, z):
    return softmax(x.mean(1) @ p["experts"])


@no_attention
def cross_entropy(p, x, y, z):
    return -(jax.nn.log_softmax(x @ p["experts"]) * jnp.eye(3)[jnp.arange(N) % 3]).sum()


@no_attention
def router(p, x, y, z):
    gates = softmax(x @ p["experts"])
    return jnp.einsum("bne,bned->bnd", gates, jnp.einsum("bnd,edf->bnef", x, p["expert"]))


@no_attention
def best_experts(p, x, y, z):
    gates, which = lax.top_k(softmax(x @ p["experts"]), 2)
    every = jnp.einsum("bnd,edf->bnef", x, p["expert"])
    chosen = jnp.take_along_axis(every, which[..., None], 2)
    return (gates[..., None] * chosen).sum(2)


@no_attention
def fixed_support(p, x, y, z):
    return softmax(x.mean(1) @ p["experts"]) @ jnp.linspace(-1, 1, 3)


@no_attention
def linear_attention(p, x, y, z):
    q, k, v = (jax.nn.elu(one) + 1 for one in qkv(p, x))
    total = jnp.einsum("bqhd,bhd->bqh", q, k.sum(1))
    return jnp.einsum("bqhd,bkhd,bkhe->bqhe", q, k, v) / total[..., None]


@no_attention
def mean_of_tokens(p, x, y, z):
    return jnp.einsum("k,bkd->bd", jnp.ones(N) / N, x)
