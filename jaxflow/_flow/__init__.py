"""Compute attention flow: exact maximum flow on the attention graph.

`fallback.flow_by_definition` is the definition in ten lines. From a call to the result: `table`
checks and weighs, `threads` distributes, `kernel` fills a table by way of `layout`, `sweep`,
`retry`, `replay` and `search`, all on `simd`; `long` serves long texts by way of `core`.
numba is imported at the first call only.
"""

from jaxflow._flow.cut import FlowCut, flow_cut
from jaxflow._flow.long import FlowInterval
from jaxflow._flow.table import Saturation, flow, head_flow, saturation

__all__ = ["FlowCut", "FlowInterval", "Saturation", "flow", "flow_cut", "head_flow", "saturation"]
