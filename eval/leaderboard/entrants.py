"""Who is on the board: edge weights through aggregators, gradients, removal, baselines."""

from __future__ import annotations

import dataclasses
from typing import Literal

from jaxflow.edges import AGGREGATORS, EdgeWeight, edge_weights, propagations
from jaxflow.edges.aggregate import Aggregator

__all__ = ["BASELINES", "GRADIENTS", "REFERENCES", "Entrant", "all_entrants", "pairs"]

Family = Literal["edges", "vectors", "gradient", "removal", "baseline"]

#: References that the others are compared with -> how tables call them.
REFERENCES = {"blank-out": "blank-out", "gradient-norm": "gradient norm"}

GRADIENTS = {
    "gradient-norm": "norm of the gradient",
    "gradient-sum": "|sum of the gradient|, the paper's",
    "gradient-x-input": "|gradient x input|",
    "integrated-gradients": "|integrated gradients|",
}
BASELINES = {
    "random": "random",
    "position": "position, last first",
    "uniform": "uniform",
    "column-sum": "column sum of A[1]",
}


@dataclasses.dataclass(frozen=True)
class Entrant:
    """One method.

    Attributes
    ----------
    name
        ``EDGE/AGGREGATOR`` for edge weights; else the name alone.
    title
        How tables call it.
    family
        What it works from.
    source
        Where it comes from.
    layered
        Whether it says something of every layer, or only once.
    """

    name: str
    title: str
    family: Family
    source: str = ""
    layered: bool = False


def pairs() -> list[tuple[EdgeWeight, Aggregator]]:
    """Return all edge weights with all aggregators that differ for them.

    Where the residual connection is in the weights, paths with and without it are one.
    """
    return [
        (edge, how)
        for edge in edge_weights().values()
        for how in AGGREGATORS
        if not (edge.residual and how == "product")
    ]


def all_entrants() -> list[Entrant]:
    """Return everyone, edge weights first."""
    found = [
        Entrant(
            f"{edge.name}/{how}",
            edge.title if how == "none" else f"{edge.title}, {how}",
            "edges",
            edge.source,
            layered=True,
        )
        for edge, how in pairs()
    ]
    found += [
        Entrant(each.name, each.title, "vectors", each.source, layered=True)
        for each in propagations().values()
    ]
    found += [Entrant(name, title, "gradient") for name, title in GRADIENTS.items()]
    found += [Entrant("blank-out", "blank-out", "removal")]
    found += [Entrant(name, title, "baseline") for name, title in BASELINES.items()]
    return found
