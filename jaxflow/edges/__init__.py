"""Provide edge weights of the attention graph, and aggregators that combine the layers."""

from jaxflow.edges._aggregate import AGGREGATORS, aggregate
from jaxflow.edges._cross_relevance import cross_relevance
from jaxflow.edges._norms import reconstruction
from jaxflow.edges._receptive import normalise, receptive_field
from jaxflow.edges.cross import CROSS_AGGREGATORS, aggregate_cross
from jaxflow.edges.cross_trace import CROSS_EDGES, CrossTrace
from jaxflow.edges.decompx import Readout, class_attributions
from jaxflow.edges.registry import (
    EdgeFamily,
    EdgeWeight,
    Propagation,
    edge_families,
    edge_weight,
    edge_weights,
    propagate,
    propagation,
    propagations,
    weigh,
)
from jaxflow.edges.trace import BlockWeights, Norm, Trace

__all__ = [
    "AGGREGATORS",
    "CROSS_AGGREGATORS",
    "CROSS_EDGES",
    "BlockWeights",
    "CrossTrace",
    "EdgeFamily",
    "EdgeWeight",
    "Norm",
    "Propagation",
    "Readout",
    "Trace",
    "aggregate",
    "aggregate_cross",
    "class_attributions",
    "cross_relevance",
    "edge_families",
    "edge_weight",
    "edge_weights",
    "normalise",
    "propagate",
    "propagation",
    "propagations",
    "receptive_field",
    "reconstruction",
    "weigh",
]
