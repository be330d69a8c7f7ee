"""Attribute a Transformer's output to its input tokens by following attention through all layers.

The functions take arrays and return attributions; they need no model and no data. Models are in
`jaxflow.models`, training in `jaxflow.train`, the paper's tables in ``jaxflow.eval``.
"""

import typing as _typing
from pathlib import Path as _Path

# In a checkout the other packages are next to this folder, in an installed package inside it.
# Without this line, Python started in the checkout would find this folder first and miss them.
if __name__ == "jaxflow" and (_Path(__file__).parents[1] / "pyproject.toml").is_file():
    __path__.append(str(_Path(__file__).parents[1]))

from jaxflow._capture.result import Captured, Place, Site
from jaxflow._capture.torch_models import capture_torch
from jaxflow._capture.transform import attention_gradient, capture, intervene
from jaxflow._explain import explain
from jaxflow._flow import FlowInterval, flow, flow_cut, head_flow, saturation
from jaxflow._rollout import discard, head_rollout, raw_attention, rollout
from jaxflow._rows import QueryKey, rollout_rows
from jaxflow.attention import widen
from jaxflow.correlation import spearman
from jaxflow.errors import InputError
from jaxflow.gradients import (
    completeness_gap,
    gradient_norm,
    gradient_x_input,
    input_gradient,
    integrated_gradients,
    smooth_grad,
)
from jaxflow.graph import attention_graph
from jaxflow.html.notebook import show
from jaxflow.removal import blank_out, remove, remove_out

__all__ = [
    "Captured",
    "FlowInterval",
    "InputError",
    "Place",
    "QueryKey",
    "Site",
    "attention_gradient",
    "attention_graph",
    "blank_out",
    "capture",
    "capture_torch",
    "completeness_gap",
    "discard",
    "explain",
    "flow",
    "flow_cut",
    "gradient_norm",
    "gradient_x_input",
    "head_flow",
    "head_rollout",
    "input_gradient",
    "integrated_gradients",
    "intervene",
    "raw_attention",
    "remove",
    "remove_out",
    "rollout",
    "rollout_rows",
    "saturation",
    "show",
    "smooth_grad",
    "spearman",
    "widen",
]

__version__: str

if not _typing.TYPE_CHECKING:  # else a type checker would accept any name as an attribute

    def __getattr__(name: str) -> str:
        """Read `__version__` from the installed package's metadata when it is accessed."""
        if name == "__version__":
            from importlib.metadata import version

            return version("jaxflow")
        raise AttributeError(f"module 'jaxflow' has no attribute {name!r}")
