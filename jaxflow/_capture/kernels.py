"""Attention of known fused kernels, by their own products with unit values.

What a kernel returns is linear in the values: with unit vectors in their place it returns its
weights, whatever its mask, scale and bias are.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxflow._capture import internals

#: Name of a kernel -> layout of its queries, keys and values.
KNOWN = {
    "_flash_attention_kernel": "...nd",
    "splash_mha_fwd_no_residuals": "...nd",
    "mha_forward": "...nhd",
}


def reference(name: str, eqn: Any) -> Callable[..., list[Any]] | None:
    """Return a function of a known kernel's operands that computes the same by its weights.

    None for kernels that are not JAX's own, with shared heads, or that return more than a product.
    """
    shapes = [getattr(atom.aval, "shape", ()) for atom in eqn.invars]
    main = [
        i
        for i, atom in enumerate(eqn.invars)
        if internals.is_floating(atom.aval) and len(shapes[i]) >= 3
    ][:3]
    own = "jax/experimental/pallas/ops" in internals.kernel_source(eqn)
    if name not in KNOWN or not own or len(main) < 3 or len(eqn.outvars) != 1:
        return None
    q, k, v = main
    heads_inside = KNOWN[name] == "...nhd"
    tokens = -3 if heads_inside else -2
    lead = [shapes[i][:tokens] + shapes[i][tokens + 1 : -1] for i in main]
    if not (lead[0] == lead[1] == lead[2]) or shapes[k][tokens] != shapes[v][tokens]:
        return None
    product = "...qhd,...khd->...hqk" if heads_inside else "...qd,...kd->...qk"
    summed = "...hqk,...khd->...qhd" if heads_inside else "...qk,...kd->...qd"

    def run(*operands: Any) -> list[Any]:
        values = operands[v]
        count, width = values.shape[tokens], values.shape[-1]
        blocks = []
        for begin in range(0, count, width):
            unit = jnp.eye(count, width, -begin, values.dtype)
            unit = unit[:, None] if heads_inside else unit
            given = [*operands[:v], jnp.broadcast_to(unit, values.shape), *operands[v + 1 :]]
            (found,) = internals.bind(eqn, given)
            blocks.append(jnp.swapaxes(found, -3, -2) if heads_inside else found)
        weights = jnp.concatenate(blocks, -1)[..., :count].astype(jnp.float32)
        alive = weights.sum(-1, keepdims=True) > 0  # some keys are not masked
        # The product of queries and keys says whose tokens they are.
        tokens_of = 0 * jnp.einsum(product, operands[q], operands[k])
        logits = jnp.where(alive, jnp.log(weights), 0.0) + tokens_of
        used = (jax.nn.softmax(logits) * alive).astype(values.dtype)
        return [jnp.einsum(summed, used, values).astype(eqn.outvars[0].aval.dtype)]

    return run
