"""Score models, compare methods and report results."""

from importlib import import_module as _import_module
from typing import Any as _Any

# Imported when first used, so that one part does not import all others.
_MODULES = {
    "Cell": "stats",
    "Column": "report",
    "PairedTest": "stats",
    "ProtocolConfig": "paper.protocol",
    "Table": "report",
    "TokenScores": "paper.protocol",
    "choose": "paper.protocol",
    "compare": "stats",
    "explain_answer": "explain.answer",
    "summarise": "stats",
    "VisionOptions": "explain.vision",
    "occlusion_maps": "explain.patches",
    "patch_gradients": "explain.patches",
    "patch_scores": "explain.vision",
    "token_scores": "paper.protocol",
}

__all__ = [
    "Cell",
    "Column",
    "PairedTest",
    "ProtocolConfig",
    "Table",
    "TokenScores",
    "VisionOptions",
    "choose",
    "compare",
    "explain_answer",
    "occlusion_maps",
    "patch_gradients",
    "patch_scores",
    "summarise",
    "token_scores",
]


def __getattr__(name: str) -> _Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(_import_module(f"{__name__}.{_MODULES[name]}"), name)
