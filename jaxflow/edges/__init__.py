"""Edge weights and aggregators: what the graph's edges hold, and how layers combine."""

from jaxflow.edges.aggregate import AGGREGATORS, aggregate
from jaxflow.edges.catalogue import edge_weight, edge_weights, weigh
from jaxflow.edges.kind import EdgeWeight
from jaxflow.edges.trace import BlockWeights, Norm, Trace

__all__ = [
    "AGGREGATORS",
    "BlockWeights",
    "EdgeWeight",
    "Norm",
    "Trace",
    "aggregate",
    "edge_weight",
    "edge_weights",
    "weigh",
]
