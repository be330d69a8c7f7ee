"""What steps found, as numbers that a run's journal can hold."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import jax.numpy as jnp

from jaxflow.train.step import Metrics

__all__ = ["from_rows", "means", "measured", "to_rows"]


def measured(flow_weight: float = 0.0) -> list[str]:
    """Return the names of what a step finds: the subject's share is the regulariser's."""
    return [name for name in Metrics._fields if name != "subject_share" or flow_weight]


def means(found: Sequence[Metrics], flow_weight: float = 0.0) -> dict[str, float]:
    """Return the mean over steps of each metric, and the regulariser's term in the loss."""
    columns = zip(Metrics._fields, zip(*found, strict=True), strict=True)
    # A step without a regulariser has no share to report.
    values = {name: float(jnp.stack(v).mean()) for name, v in columns if v[0] is not None}
    if "subject_share" in values:
        values["flow_term"] = -flow_weight * values["subject_share"]
    return values


def to_rows(found: Iterable[Metrics]) -> list[dict[str, float]]:
    """Return each step's metrics by name."""
    return [
        {name: float(value) for name, value in metrics._asdict().items() if value is not None}
        for metrics in found
    ]


def from_rows(rows: Iterable[Mapping[str, float]]) -> list[Metrics]:
    """Return what `to_rows` was given, to the bit."""
    return [Metrics(**{name: jnp.float32(value) for name, value in row.items()}) for row in rows]
