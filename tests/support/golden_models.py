"""Build the tiny models whose numbers the methods' authors' programs computed.

See tests/edges/golden/README-relevance.md for where the numbers come from.
"""

from __future__ import annotations

import functools
import json
import tempfile
from pathlib import Path
from typing import Any

import jax
import numpy as np
from safetensors.numpy import save_file

from jaxflow.edges import Trace
from jaxflow.models import Model, ViTConfig, load
from jaxflow.models.tracing import tracer

GOLDEN = Path(__file__).parents[1] / "edges" / "golden"


@functools.cache
def golden(name: str) -> dict[str, np.ndarray]:
    with np.load(GOLDEN / f"relevance_{name}.npz", allow_pickle=False) as numbers:
        return dict(numbers)


def weights(name: str) -> dict[str, np.ndarray]:
    prefix = "weights/"
    return {
        key.removeprefix(prefix): value
        for key, value in golden(name).items()
        if key.startswith(prefix)
    }


@functools.cache
def bert() -> Model:
    """A post-LayerNorm model, read from a folder as it would be published."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "config.json").write_text(str(golden("bert")["config"]), encoding="utf-8")
        save_file(weights("bert"), Path(folder, "model.safetensors"))
        assert json.loads(str(golden("bert")["config"]))["model_type"] == "bert"
        return load(folder)


@functools.cache
def vit() -> Model:
    """A pre-LayerNorm model, its weights by the names that they have here."""
    config = ViTConfig(
        image=(8, 12), patch=4, channels=3, layers=2, heads=3, width=12, hidden_width=20,
        labels=("a", "b", "c"), head="classification", epsilon=1e-6,
    )  # fmt: skip
    params: dict[str, Any] = {}
    for path, value in weights("vit").items():
        *outer, last = path.split("/")
        place = params
        for part in outer:
            place = place.setdefault(part, {})
        place[last] = value
    return Model(config, {"params": params}, None)


@functools.cache
def traced(name: str) -> Trace:
    """The trace of all examples for the golden labels, in float64: NumPy arrays."""
    one, numbers = (bert() if name == "bert" else vit()), golden(name)
    given = numbers["tokens"] if name == "bert" else numbers["pixels"].astype(np.float64)
    mask = given != 0 if name == "bert" else np.ones((2, 7), bool)
    label = numbers["label"]
    with jax.enable_x64(True):
        params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), one.params)
        run = tracer(one.config, lambda logits: logits[np.arange(2), label])
        return jax.tree.map(np.asarray, jax.jit(run)(params, given, mask))
