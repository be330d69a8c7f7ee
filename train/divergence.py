"""When a run is past saving: a loss or a gradient that is not finite, a loss beyond all measure."""

from __future__ import annotations

import math
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np

from jaxflow.errors import InputError
from jaxflow.train.step import Metrics

__all__ = ["check_steps"]

# A mean cross entropy of 1e4 says that right answers are held for impossible at odds of exp(1e4).
EXPLODED = 1e4


def check_steps(last: int, found: Sequence[Metrics], flow_weight: float = 0.0) -> None:
    """Refuse to go on after a step whose loss or gradient is out of all bounds.

    Parameters
    ----------
    last
        The number of the last step, from 1.
    found
        What the steps up to that one found.
    flow_weight
        Of the regulariser's term in the loss.

    Raises
    ------
    InputError
        Naming the first such step.
    """
    if not found:
        return
    losses = np.asarray(jnp.stack([metrics.loss for metrics in found]), np.float64)
    if found[0].subject_share is not None:
        shares = [metrics.subject_share for metrics in found if metrics.subject_share is not None]
        losses = losses - flow_weight * np.asarray(jnp.stack(shares), np.float64)
    norms = np.asarray(jnp.stack([metrics.gradient_norm for metrics in found]), np.float64)
    for step, (loss, norm) in enumerate(zip(losses, norms, strict=True), last - len(found) + 1):
        if not math.isfinite(loss) or loss > EXPLODED:
            what = f"the loss is {loss:.6g}"
        elif not math.isfinite(norm):
            what = f"the gradient's norm is {norm:.6g}"
        else:
            continue
        raise InputError(
            f"{what} at step {step}: training stopped, the last good checkpoint is kept; try a "
            "lower learning rate"
        )
