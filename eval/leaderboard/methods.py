"""List the methods of the board: edge weights by aggregators, gradients, removal, baselines."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Literal

from jaxflow.edges import AGGREGATORS, EdgeWeight, edge_weight, edge_weights, propagations
from jaxflow.edges._aggregate import Aggregator
from jaxflow.errors import InputError
from jaxflow.eval.score.engine import GRADIENTS, REMOVALS

Family = Literal["edges", "vectors", "gradient", "removal", "baseline"]

BASELINES = {
    "random": "random",
    "position": "position, last first",
    "uniform": "uniform",
    "column-sum": "column sum of A[1]",
    "suffix": "readout's attention in the top layer to a token and all later ones",
}
#: Aggregators whose scores are divided by a causal model's receptive field too -> what their
#: names end in.
NORMALISED: dict[Aggregator, str] = {
    "rollout": "rollout-normalised",
    "flow": "flow-normalised",
}


@dataclasses.dataclass(frozen=True)
class Method:
    """One method."""

    name: str  # EDGE/AGGREGATOR for edge weights; else the name alone
    title: str  # in tables
    family: Family  # what it works from; edges and vectors score every layer
    source: str = ""  # where it comes from


def aggregators_of(edge: EdgeWeight) -> tuple[Aggregator, ...]:
    """Return the aggregators that differ for an edge weight.

    Where the residual connection is in the weights, paths with and without it are one.
    """
    known = AGGREGATORS if edge.aggregators is None else edge.aggregators
    return tuple(
        how for how in AGGREGATORS if how in known and not (edge.residual and how == "product")
    )


def all_methods(heads: int = 0, causal: bool = False) -> list[Method]:
    """Return every method, edge weights first.

    The first `heads` heads are methods of their own; for a `causal` model, attention is divided by
    its receptive field too.
    """
    names = [
        f"{edge.name}/{how}"
        for edge in edge_weights(heads).values()
        for how in aggregators_of(edge)
    ]
    if causal:
        names += [f"raw/{normalised}" for normalised in NORMALISED.values()]
    names += [*propagations(), *GRADIENTS, *REMOVALS]
    names += [name for name in BASELINES if causal or name != "suffix"]
    return [find_method(name) for name in names]


def find_method(name: str) -> Method:
    """Return the method of a name, or raise `InputError` if there is none."""
    edge_name, _, how = name.partition("/")
    if how:
        edge = edge_weight(edge_name)
        if how not in (*AGGREGATORS, *NORMALISED.values()):
            raise InputError(f"aggregator must be one of {', '.join(AGGREGATORS)}, got {how!r}")
        title = edge.title if how == "none" else f"{edge.title}, {how.replace('-', ', ')}"
        return Method(name, title, "edges", edge.source)
    if name in propagations():
        each = propagations()[name]
        return Method(name, each.title, "vectors", each.source)
    families: Sequence[tuple[Family, dict[str, str]]] = (
        ("gradient", GRADIENTS),
        ("removal", REMOVALS),
        ("baseline", BASELINES),
    )
    for family, titles in families:
        if name in titles:
            return Method(name, titles[name], family)
    raise InputError(
        f"expected the name of a method such as raw/rollout or blank-out, got {name!r}"
    )
