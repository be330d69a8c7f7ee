"""Attention flow: how much of each input token can reach a token of a higher layer.

Exact maximum flow on the attention graph, one file per stage. Start with `definition`, which says
in ten lines what all the others compute faster. numba is imported at the first call only.
"""

from jaxflow._flow.cut import FlowCut, flow_cut
from jaxflow._flow.heads import head_flow
from jaxflow._flow.saturated import Saturation, saturation
from jaxflow._flow.table import flow

__all__ = ["FlowCut", "Saturation", "flow", "flow_cut", "head_flow", "saturation"]
