r"""How long a table of flows may take, so that days of work are not begun by mistake.

A flow after layer l (0-based) from one source to the n sinks crosses l layers of :math:`n^2` edges,
each sink anew, so that a table takes about

.. math:: c \cdot \text{sentences} \cdot \sum_l l \cdot S \cdot n^3

seconds on one core. c is that of causal attention, the slowest kind (5.0 s for n = 128 and 69 s
for n = 256, 12 layers, all sources, on one core); other kinds take a tenth of it, or less.
"""

from __future__ import annotations

from collections.abc import Sequence

from jaxflow.errors import InputError

__all__ = ["LIMIT", "check_cost", "estimated_seconds"]

LIMIT = 3600.0  # seconds on one core
_COST = 2.5e-10


def estimated_seconds(sentences: int, n: int, layers: Sequence[int], sources: int) -> float:
    """Return the seconds that a table may take on one core.

    Parameters
    ----------
    sentences, n
        Graphs, and tokens of each.
    layers
        0-based, those looked at.
    sources
        How many tokens.
    """
    return _COST * sentences * sum(layers) * sources * float(n) ** 3


def check_cost(sentences: int, n: int, layers: Sequence[int], sources: int) -> None:
    """Refuse what may take more than an hour.

    Raises
    ------
    InputError
        With the estimate, and what to do.
    """
    seconds = estimated_seconds(sentences, n, layers, sources)
    if seconds > LIMIT:
        raise InputError(
            f"flow from {sources:,} sources over {n:,} tokens and {len(layers)} layers"
            + (f" of {sentences:,} sentences" if sentences > 1 else "")
            + f" may take up to {_told(seconds)} on one core: name the sources and layers that are "
            "wanted, or ask again with patient=True"
        )


def _told(seconds: float) -> str:
    hours = seconds / 3600
    return f"{hours:.1f} hours" if hours < 48 else f"{hours / 24:,.0f} days"
