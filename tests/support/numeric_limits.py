"""Measure errors against their documented bounds, and which results are reproducible bits."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import counting
import ml_dtypes
import numpy as np
import wheel

import jaxflow

DTYPES = {"bfloat16": ml_dtypes.bfloat16, "float16": np.float16}
HALF_UNITS = {"bfloat16": 2.0**-8, "float16": 2.0**-11}
UNIT = 2.0**-24  # of float32
SIZES = ((1, 1), (6, 9), (12, 64), (24, 128), (96, 16))

#: What one Python prints: the digest of every result, by the number of threads.
DIGESTS = """
import hashlib, json
import numpy as np
import jaxflow
from jaxflow.edges import aggregate
from jaxflow.models import load, trace

def digest(values):
    return hashlib.sha256(np.ascontiguousarray(np.asarray(values)).tobytes()).hexdigest()

weights = np.random.default_rng(0).dirichlet(np.ones(12), (30, 6, 4, 12)).astype(np.float32)
model = load("agreement")
tokens = model.whole_words.encode_batch(["the keys to the cabinet", "the dog that the cats chase"])
output, forward = model(tokens), trace(model, tokens)
found = {
    "rollout": digest(jaxflow.rollout(weights)),
    "flow on one thread": digest(jaxflow.flow(weights, threads=1)),
    "flow on two threads": digest(jaxflow.flow(weights, threads=2)),
    "flow of single heads": digest(jaxflow.head_flow(weights, sources=0)),
    "the bundled model's attention": digest(output.attention),
    "the bundled model's logits": digest(output.logits),
}
for edges, way in (("alti", "flow"), ("gradient", "product"), ("norm", "rollout")):
    found[f"{edges} by {way}"] = digest(aggregate(forward, edges, way, sources=0))
print(json.dumps(found))
"""

#: Bytes of an attention, bytes that its rollout took, and what a flow of it is answered with.
LARGE = """
import json, resource, sys
import numpy as np
import jaxflow
from jaxflow.errors import InputError

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

n = int(sys.argv[1])
attention = np.full((4, 4, n, n), 1 / n, np.float32)
jaxflow.rollout(attention[..., :8, :8] * (n / 8))
before = peak()
top = jaxflow.rollout(attention)[-1]
found = {"tokens": n, "bytes": attention.nbytes, "taken": peak() - before,
         "error": float(abs(top.sum(-1) - 1).max()), "refusal": None}
if len(sys.argv) > 2:
    try:
        jaxflow.flow(attention)
    except InputError as error:
        found["refusal"] = str(error)
print(json.dumps(found))
"""


def random_attention(shape: Sequence[int], seed: int = 0, sharp: float = 2.0) -> np.ndarray:
    """Return float64 attention of random scores."""
    scores = sharp * np.random.default_rng(seed).normal(size=shape)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return np.asarray(weights / weights.sum(-1, keepdims=True))


def single_rollout_share(layers: int, n: int) -> np.ndarray:
    r"""Return the share of each layer's rollout that float32 may be off by; ``[L]``.

    An edge has been rounded three times (given, scaled, added), a product's entry n + 1 times more
    a layer, each by the share :math:`u = 2^{-24}`; four times that leaves room for XLA's order.
    """
    return (1 + 4 * (n + 8) * UNIT) ** (1 + np.arange(layers)) - 1


def single_flow_share() -> float:
    """Return the share of flow that float32 may be off by: it is worked out in float64."""
    return 2 * UNIT


def flow_share(dtype: str) -> float:
    """Return the share of flow that half precision may be off by, as `jaxflow.widen` documents."""
    unit = HALF_UNITS[dtype]
    return 2 * unit / (1 - unit) + 1e-6  # and what float32 rounds


def rollout_share(dtype: str, layers: int) -> np.ndarray:
    """Return the share of each layer's rollout that half precision may be off by; ``[L]``."""
    return (1 + flow_share(dtype)) ** (1 + np.arange(layers)) - 1


def child(code: str, *arguments: str, python: str = sys.executable) -> dict[str, Any]:
    """Run code in a Python of its own with the package that users install, and read its JSON."""
    done = subprocess.run(
        [python, "-P", "-c", code, *arguments],
        env=os.environ | {"PYTHONPATH": str(wheel.installed())},
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parent,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return dict(json.loads(done.stdout))


def measure(pythons: Sequence[str] = (sys.executable,), tokens: int = 4096) -> dict[str, Any]:
    """Measure rounding, a large attention, and the digests of results on each interpreter."""
    digests, versions = [], []
    for python in pythons:
        ask = [python, "-c", "import platform; print(platform.python_version())"]
        versions.append(subprocess.run(ask, capture_output=True, text=True, check=True).stdout)
        digests.append(child(DIGESTS, python=python))
    return {
        "rounding": [_rounding(name, *size) for name in ("float32", *DTYPES) for size in SIZES],
        "large": child(LARGE, str(tokens), "flow"),
        "pythons": [version.strip() for version in versions],
        "digests": {name: sorted({found[name] for found in digests}) for name in digests[0]},
        "threads": len({hashes for found in digests for name, hashes in found.items()
                        if name.startswith("flow on")}) == 1,
        "machine": platform.machine(),
    }  # fmt: skip


def _rounding(dtype: str, layers: int, n: int) -> dict[str, Any]:
    """Measure rollout and flow of attention that is rounded, as shares of their exact values."""
    # float16 has no normal numbers below 6e-5: attention that is this flat has none either.
    sharp = 2.0 if dtype == "float32" else 0.5
    exact = random_attention((layers, 1, n, n), seed=layers, sharp=sharp)
    if dtype == "float32":
        rounded: Any = exact.astype(np.float32)
        shares = {"rollout": float(single_rollout_share(layers, n)[-1]),
                  "flow": single_flow_share()}  # fmt: skip
    else:
        rounded = jaxflow.widen(exact.astype(DTYPES[dtype]))
        shares = {"rollout": float(rollout_share(dtype, layers)[-1]), "flow": flow_share(dtype)}
    functions: Mapping[str, Callable[..., Any]] = {
        "rollout": lambda weights: np.asarray(jaxflow.rollout(weights)[-1], np.float64),
        "flow": lambda weights: jaxflow.flow(weights, sources=0, layers=layers - 1)[0, 0],
    }
    found: dict[str, Any] = {"dtype": dtype, "layers": layers, "tokens": n}
    for name, function in functions.items():
        right = function(exact)
        off = np.abs(function(rounded) - right) / right
        found[name] = {"off": float(off.max()), "bound": shares[name]}
    return found


def as_section(found: Mapping[str, Any]) -> dict[str, str]:
    """Write the part of the page of what `measure` found."""
    rows = [
        (row["dtype"], row["layers"], row["tokens"],
         *(f"{row[name][key]:.1e}" for name in ("rollout", "flow") for key in ("off", "bound")))
        for row in found["rounding"]
    ]  # fmt: skip
    head = ("input", "layers", "tokens", "error of rollout", "bound", "error of flow", "bound")
    large, count = found["large"], len(found["pythons"])
    same = [name for name, digests in found["digests"].items() if len(digests) == 1]
    text = (
        f"Rollout of {large['tokens']:,} tokens, 4 layers and 4 heads, needs "
        f"{large['taken'] / large['bytes']:.1f} times the {large['bytes'] / 1e9:.1f} GB of its "
        f"attention, and rows sum to 1 within {large['error']:.0e}. Flow of the same attention is "
        f"refused: “{large['refusal']}”.\n\nOn Python {', '.join(found['pythons'])} "
        f"({found['machine']}) {len(same)} of {len(found['digests'])} results are the same to the "
        f"bit{f' in all {count}' if count > 1 else ''}: {', '.join(same)}. One thread and two "
        f"threads give {'the same' if found['threads'] else 'different'} bits."
    )
    return {"numbers": f"{counting.table(head, rows)}\n\n{text}"}
