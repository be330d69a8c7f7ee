"""Where classes are read off, sentence by sentence, and the rows that stand there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

import jaxflow
from jaxflow._flow.table import flow_of_tops
from jaxflow.models import Model
from jaxflow.models.inputs import last_real

__all__ = ["flow_at", "flow_of_tops_at", "read_places", "rows_at", "saturated_at"]


def read_places(model: Model, mask: Any) -> jax.Array:
    """Return the token that each sentence's class is read off: the last real one, or the first.

    Parameters
    ----------
    model
        A model with classes.
    mask
        ``[B, n]`` boolean, True at real tokens.
    """
    mask = jnp.asarray(mask)
    return last_real(mask) if model.config.reads_last else jnp.zeros(len(mask), int)


def rows_at(token_attention: Any, places: Any) -> jax.Array:
    """Take one row a sentence: ``[B, L, n, n]`` and ``[B]`` to ``[B, L, n]``."""
    at = jnp.asarray(places)[:, None, None, None]
    return jnp.take_along_axis(jnp.asarray(token_attention), at, -2)[:, :, 0]


def flow_at(
    attention: Any, places: Any, mask: Any, *, residual: float, threads: int | None = None
) -> NDArray[np.float64]:
    """Return the flow from one token a sentence.

    Parameters
    ----------
    attention
        ``[B, L, H, n, n]``.
    places
        ``[B]``, the tokens.
    mask
        ``[B, n]`` boolean, True at real tokens.
    residual, threads
        As in `jaxflow.flow`.

    Returns
    -------
    ndarray
        float64 ``[B, L, n]``.
    """

    def flows(these: Any, source: int) -> Any:
        options: dict[str, Any] = {"residual": residual, "mask": mask[these], "threads": threads}
        return jaxflow.flow(attention[these], sources=source, **options)[:, :, 0]

    return _by_place(flows, np.asarray(places))


def flow_of_tops_at(
    tops: Any, below: Any, places: Any, mask: Any, *, threads: int | None = None
) -> NDArray[np.float64]:
    """Return the flow from one token a sentence where top layers have edges of their own.

    Parameters
    ----------
    tops, below
        ``[B, L, n, n]``, as in `jaxflow._flow.table.flow_of_tops`.
    places, mask, threads
        As in `flow_at`, whose result this is like.
    """

    def flows(these: Any, source: int) -> Any:
        options: dict[str, Any] = {"mask": mask[these], "sources": source, "threads": threads}
        return flow_of_tops(tops[these], below[these], **options)[:, :, 0]

    return _by_place(flows, np.asarray(places))


def saturated_at(
    attention: Any, places: Any, mask: Any, *, residual: float, threads: int | None = None
) -> NDArray[np.bool_]:
    """Return where the flow from one token a sentence is at its bound, bool ``[B, L, n]``.

    Parameters as in `flow_at`.
    """

    def reached(these: Any, source: int) -> Any:
        options: dict[str, Any] = {"residual": residual, "mask": mask[these], "threads": threads}
        return jaxflow.saturation(attention[these], sources=source, **options).reached[:, :, 0]

    return _by_place(reached, np.asarray(places))


def _by_place(work: Callable[[Any, int], Any], places: NDArray[Any]) -> NDArray[Any]:
    """Work sentence by sentence where their tokens differ, on all at once where they do not."""
    known = np.unique(places)
    if len(known) == 1:
        return np.asarray(work(slice(None), int(known[0])))
    parts = [(np.flatnonzero(places == place), int(place)) for place in known]
    done = [(rows, np.asarray(work(rows, place))) for rows, place in parts]
    found = np.empty((len(places), *done[0][1].shape[1:]), done[0][1].dtype)
    for rows, values in done:
        found[rows] = values
    return found
