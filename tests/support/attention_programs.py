"""Attention written at random: layouts, softmaxes, masks, products, loops drawn from a seed."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax


def _shuffled(rng: np.random.Generator, letters: str) -> str:
    return "".join(rng.permutation(list(letters)))


def _einsum(spec: str, *arrays: Any) -> Any:
    return jnp.einsum(spec, *arrays)


def draw(seed: int) -> tuple[Any, tuple[Any, Any, Any], bool]:
    """Return a function of ``(params, x, z)`` with its arguments, and whether it is self-attention.

    The function returns its output and the weights ``[..., H, q, k]``; with a scan the leading axis
    is the layer.
    """
    rng = np.random.default_rng(seed)
    pick = lambda *choices: choices[rng.integers(len(choices))]  # noqa: E731
    b, n, m, d = pick(1, 2, 3), pick(1, 4, 5), pick(4, 6), pick(1, 2, 3)
    c, g = pick((1, 1), (4, 1), (2, 2), (1, 3), (2, 1))  # heads of the values, groups
    w = c * g * d
    itself = bool(rng.integers(3))
    sizes = dict(zip("bcgqkdw", (b, c, g, n, n if itself else m, d, w), strict=True))
    normal = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)  # noqa: E731
    params = {
        "q": normal(w, c, g, d),
        "k": normal(w, c, d) / w**0.5,
        "v": normal(w, c, d),
        "o": normal(c, g, d, w) / w**0.5,
        "bias": normal(c, g, 1, 1),
        "gate": jax.nn.sigmoid(normal(c, g, 1, 1)),
    }
    q_layout, k_layout, v_layout = (_shuffled(rng, s) for s in ("bqcgd", "bkcd", "bkcd"))
    s_layout = _shuffled(rng, "bcgqk")
    o_layout = _shuffled(rng, "bqcgd")
    widened = g > 1 and bool(rng.integers(2))  # keys and values repeated for every head
    mask = pick("none", "causal", "padding", "additive") if itself else pick("none", "additive")
    style = pick("nn", "own", "log", "lse", "reciprocal", "cap", "sink", "masked")
    product = pick("dot", "dot", "sum", "late") if style in ("nn", "own") else pick("dot", "sum")
    gated = bool(rng.integers(4) == 0) and product != "late"
    wrap = pick("none", "jit", "remat", "scan", "cond", "none")
    projection = pick("merged", "einsum", "apart")

    def at(layout: str, letters: str) -> tuple[int, ...]:
        """Shape of an array with some axes, broadcast against another layout."""
        return tuple(sizes[a] if a in letters else 1 for a in layout)

    def softmax(p: Any, s: Any, axis: int, keep: Any) -> tuple[Any, Any, Any]:
        top = s.max(axis, keepdims=True)
        if style == "log":
            return jnp.exp(jax.nn.log_softmax(s, axis)), None, None
        if style == "lse":
            return jnp.exp(s - jax.nn.logsumexp(s, axis, keepdims=True)), None, None
        if style == "sink":
            bias = _einsum(f"cgqk->{s_layout.replace('b', '')}", p["bias"])
            bias = jnp.expand_dims(bias, s_layout.index("b"))
            e = jnp.exp(s - top)
            return e / (e.sum(axis, keepdims=True) + jnp.exp(bias - top)), None, None
        if style == "masked":
            e = jnp.exp(s - top) * keep
            return e / (e.sum(axis, keepdims=True) + 1e-9), None, None
        if style == "reciprocal":
            e = jnp.exp(s)
            return e * (1 / e.sum(axis, keepdims=True)), None, None
        e = jnp.exp(s - top)
        total = e.sum(axis, keepdims=True)
        if style == "own":
            return e / total, e, total
        return jax.nn.softmax(5 * jnp.tanh(s / 5) if style == "cap" else s, axis), e, total

    def attend(p: Any, x: Any, z: Any) -> tuple[Any, Any]:
        y = x if itself else z
        q = _einsum(f"bqw,wcgd->{q_layout}", x, p["q"])
        k = _einsum(f"bkw,wcd->{k_layout}", y, p["k"])
        v = _einsum(f"bkw,wcd->{v_layout}", y, p["v"])
        k_at, v_at = k_layout, v_layout
        if widened:
            k, v = (jnp.repeat(t[..., None], g, -1) for t in (k, v))
            k_at, v_at = k_layout + "g", v_layout + "g"
        s = _einsum(f"{q_layout},{k_at}->{s_layout}", q, k) / np.sqrt(d)
        axis = s_layout.index("k")
        keep = jnp.ones(at(s_layout, "bk"), bool)
        keep = keep.at[tuple(-1 if a in "bk" else 0 for a in s_layout)].set(sizes["k"] == 1)
        if mask == "causal":
            shape = at(s_layout, "qk")
            tri = jnp.tril(jnp.ones((n, n), bool))
            tri = tri if s_layout.index("q") < axis else tri.T
            s = jnp.where(tri.reshape(shape), s, -1e30)
        if mask == "padding":
            s = jnp.where(keep, s, jnp.finfo(jnp.float32).min)
        if mask == "additive":
            s = s + jnp.where(keep, 0.0, -1e9)
        weights, e, total = softmax(p, s, axis, keep)
        if gated:
            gate = _einsum(f"cgqk->{s_layout.replace('b', '')}", p["gate"])
            weights = weights * jnp.expand_dims(gate, s_layout.index("b"))
        if product == "late" and e is not None:
            e = e / total if style == "nn" else e
            o = _einsum(f"{s_layout},{v_at}->bcgqd", e, v)
            if style == "own":
                o = o / _einsum(f"{s_layout}->bcgq", total)[..., None]
            o = _einsum(f"bcgqd->{o_layout}", o)
        elif product == "sum":
            wide = _einsum(f"{s_layout}->bcgqk", weights)[..., None]
            full = _einsum(f"{v_at}->bc{'g' if widened else ''}kd", v)
            full = full if widened else full[:, :, None]
            o = _einsum(f"bcgqd->{o_layout}", (wide * full[:, :, :, None]).sum(4))
        else:
            o = _einsum(f"{s_layout},{v_at}->{o_layout}", weights, v)
        if projection == "merged":
            flat = _einsum(f"{o_layout}->bqcgd", o).reshape(b, n, w)
            o = flat @ p["o"].reshape(w, w)
        elif projection == "einsum":
            o = _einsum(f"{o_layout},cgdw->bqw", o, p["o"])
        else:
            o = _einsum(f"{o_layout},cgdw->bcgqw", o, p["o"]).sum((1, 2))
        seen = _einsum(f"{s_layout}->bcgqk", weights).reshape(b, c * g, n, sizes["k"])
        return jnp.tanh(x + o), seen

    def run(p: Any, x: Any, z: Any) -> tuple[Any, Any]:
        if wrap == "jit":
            return jax.jit(attend)(p, x, z)
        if wrap == "remat":
            return jax.checkpoint(attend)(p, x, z)
        if wrap == "scan":
            return lax.scan(lambda x, _: attend(p, x, z), x, None, length=2)
        if wrap == "cond":
            blank = jnp.zeros((b, c * g, n, sizes["k"]))
            return lax.cond(x[0, 0, 0] < 99, lambda: attend(p, x, z), lambda: (x, blank))
        return attend(p, x, z)

    return run, (params, normal(b, n, w), normal(b, m, w)), itself
