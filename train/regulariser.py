r"""Compute the subject noun's share of the flow to ``[CLS]``, as a term of the training loss.

Statement: flow is differentiable, its derivative being a minimum cut (`jaxflow.flow`), so a share
of it is a term of a loss like any other. The loss of a sentence becomes

.. math:: \text{cross entropy} - w \frac{1}{L} \sum_l \frac{F^{(l)}[s]}{\sum_t F^{(l)}[t]}

with the flows :math:`F^{(l)}` from ``[CLS]`` after layer l to the input tokens, s the subject.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

import jaxflow
from jaxflow.errors import InputError


def subject_share(
    attention: Any, subjects: Any, mask: Any, *, layers: int | Sequence[int] | None = None
) -> jax.Array:
    """Return the subject's share of the flow to ``[CLS]``, ``[B]`` numbers from 0 to 1.

    Of `attention` ``[B, L, H, n, n]``, `subjects` ``[B]``, places among the tokens, -1 where
    unknown, and `mask` ``[B, n]``, averaged over the 0-based `layers` after which ``[CLS]`` is
    taken, all by default. At the top most flows are saturated: their cut is the token's column in
    the lowest layer, and nothing else would be moved; all layers together move all. 0, without a
    derivative, where the subject is unknown. Computed on the host, inside ``jit`` by a callback.
    """
    # Fused here: the host is handed one matrix a layer instead of one for every head.
    fused = jnp.mean(jnp.asarray(attention), axis=2, keepdims=True)  # [B, L, 1, n, n]
    flow = jnp.asarray(jaxflow.flow(fused, mask=mask, sources=0, layers=layers))[:, :, 0]
    known = (subjects >= 0)[:, None]  # [B, 1], beside flow [B, L', n]
    place = jnp.where(known, subjects[:, None], 0)[..., None]
    reached = jnp.take_along_axis(flow, place, axis=-1)[..., 0]  # [B, L']
    return jnp.where(known, reached / jnp.where(known, flow.sum(-1), 1), 0).mean(-1)


def check_derivative() -> None:
    """Raise `InputError` if numba, which finds the minimum cuts, cannot be imported."""
    try:
        import jaxflow._flow.kernel  # noqa: F401
    except ImportError as error:
        raise InputError(
            "a flow_weight above 0 needs numba ('pip install numba'), which cannot be imported: "
            f"{error}"
        ) from error
