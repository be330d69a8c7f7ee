"""Edge weights and aggregators: what the graph's edges hold, and how layers combine."""

from jaxflow.edges.aggregate import AGGREGATORS, aggregate
from jaxflow.edges.catalogue import edge_families, edge_weight, edge_weights, weigh
from jaxflow.edges.contributions import reconstruction
from jaxflow.edges.cross import CROSS_AGGREGATORS, aggregate_cross
from jaxflow.edges.cross_relevance import cross_relevance
from jaxflow.edges.cross_trace import CROSS_EDGES, CrossTrace
from jaxflow.edges.kind import EdgeFamily, EdgeWeight
from jaxflow.edges.propagation import Propagation, propagate, propagation, propagations
from jaxflow.edges.readout import Readout, class_attributions
from jaxflow.edges.receptive import normalise, receptive_field
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
