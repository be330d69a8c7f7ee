"""Run mypy once, on the package that users install and on a user's right and wrong code."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import wheel
from session import once_a_session

pytestmark = pytest.mark.quality

HEADER = """\
import jax
import jax.numpy as jnp
import networkx
import numpy as np
import jaxflow

host = np.full((2, 1, 2, 2), 0.5)
device = jnp.full((2, 1, 2, 2), 0.5)
words = ["the", "keys"]
mask = np.ones(2, bool)


class Foreign:
    def __array__(self, dtype: object = None) -> np.ndarray:
        return host


def takes_host(array: np.ndarray) -> None: ...
def takes_device(array: jax.Array) -> None: ...


"""
RIGHT = (
    "takes_host(jaxflow.rollout(host))",
    "takes_host(jaxflow.rollout(Foreign()))",
    "takes_host(jaxflow.rollout(host.tolist(), mask=[True, True]))",
    "takes_host(jaxflow.rollout(attention=host, residual=np.float32(0.3), heads='max', mask=mask))",
    "takes_device(jaxflow.rollout(device, residual=1, heads=0, mask=mask, start_layer=1))",
    "takes_device(jnp.sum(jaxflow.rollout(device)))",
    "takes_device(jax.jit(jaxflow.rollout)(device))",
    "jax.grad(lambda share: jaxflow.rollout(device, residual=share).sum())(0.5)",
    "jaxflow.rollout_rows([jaxflow.QueryKey(host[0], host[1], causal=True)], [0, -1], block=128)",
    "takes_device(jaxflow.raw_attention(device))",
    "takes_host(jaxflow.head_rollout(host, residual=0.2)[-1].mean(0))",
    "takes_device(jaxflow.discard(device, 0.9))",
    "takes_host(jaxflow.widen(host, mask))",
    "takes_host(jaxflow.flow(host, sources=[0, 1], layers=-1, threads=2))",
    "takes_device(jaxflow.flow(device, sources=np.arange(2)))",
    "takes_device(jax.jit(lambda a: jaxflow.flow(a, sources=0))(device))",
    "bounds = jaxflow.flow(device, sinks=[0, 1], interval=True, width=0.01, seconds=2.5)",
    "takes_host(bounds.width + bounds.lower + jaxflow.FlowInterval(host, host).upper)",
    "takes_host(jaxflow.flow(host, sinks=[[0, 1], [1]], interval=False))",
    "takes_host(jaxflow.head_flow(device, layers=range(2)))",
    "takes_host(jaxflow.saturation(host).share)",
    "words += jaxflow.flow_cut(host, layer=-1, source=0, sink=1).describe(words)",
    "takes_host(jaxflow.spearman(host[0], host[1], mask))",
    "takes_device(jaxflow.spearman(host[0], device[1]))",
    "capacity: float = jaxflow.attention_graph(host).edges[(1, 0), (0, 0)]['capacity']",
    "version: str = jaxflow.__version__",
    "label: str = jaxflow.explain('the keys', methods=['rollout'], layer=-2).prediction",
    "found: int = len(jaxflow.explain(['the keys', 'the key'], pair=None))",
    "jaxflow.explain(jnp.sin, device, tokens=words, target=lambda output: output.sum())",
)
WRONG = (
    "jaxflow.rollout('nonsense', residual='x')",
    "jaxflow.rollout('nonsense')",
    "jaxflow.rollout(host, residual='x')",
    "jaxflow.rollout(host, heads=0.5)",
    "jaxflow.rollout(host, mask='all')",
    "jaxflow.rollout(host, 0.5)",
    "jaxflow.rollout(host, start=1)",
    "jaxflow.rollout()",
    "jaxflow.rollout_rows(host, how='flow')",
    "jaxflow.QueryKey(host, host)",
    "takes_device(jaxflow.rollout(host))",
    "takes_host(jaxflow.rollout(device))",
    "jaxflow.raw_attention({'attention': host})",
    "jaxflow.head_rollout(device, residual=None)",
    "jaxflow.discard(host, '0.5')",
    "jaxflow.widen(0.5)",
    "jaxflow.flow(host, sources='all')",
    "jaxflow.flow(host, layers=1.5)",
    "jaxflow.flow(3)",
    "jaxflow.flow(host, sinks='all')",
    "jaxflow.flow(host, interval=True).shape",
    "jaxflow.flow(host, interval=True, width='narrow')",
    "jaxflow.flow(host, interval=True, seconds=[1])",
    "jaxflow.flow(host, width=0.1)",
    "jaxflow.head_flow('nonsense')",
    "jaxflow.saturation(host, residual=[0.5])",
    "jaxflow.flow_cut(host, layer=0, source=0)",
    "jaxflow.flow_cut(host, layer=0, source=0, sink='keys')",
    "jaxflow.spearman(host, 'words')",
    "jaxflow.attention_graph(None)",
    "jaxflow.rolout(host)",
    "jaxflow.explain('the keys', methods=3)",
    "jaxflow.explain(host)",
    "jaxflow.explain('the keys').predicted",
)


def check(folder: Path) -> None:
    folder.mkdir()
    (folder / "user.py").write_text(HEADER + "\n".join((*RIGHT, *WRONG)) + "\n", encoding="utf-8")
    command = ["mypy", "--config-file", str(wheel.ROOT / "pyproject.toml"), "--hide-error-context"]
    done = subprocess.run(
        [sys.executable, "-m", *command, "--cache-dir", os.devnull, "-p", "jaxflow", "-m", "user"],
        cwd=folder,
        env={**os.environ, "MYPYPATH": os.pathsep.join([str(wheel.installed()), str(folder)])},
        capture_output=True,
        text=True,
        check=False,
    )
    (folder / "report.txt").write_text(done.stdout + done.stderr, encoding="utf-8")


@pytest.fixture(scope="module")
def report() -> str:
    """What mypy prints."""
    if importlib.util.find_spec("mypy") is None:
        pytest.skip("mypy is not installed: pip install 'jaxflow[test]'")
    return (once_a_session("types", check) / "report.txt").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def errors(report: str) -> dict[str, str]:
    """The statements of the user's code that mypy rejects, each with what it reports."""
    lines = (HEADER + "\n".join((*RIGHT, *WRONG))).splitlines()
    found = re.findall(r"^user\.py:(\d+): error: (.*)$", report, re.MULTILINE)
    return {lines[int(number) - 1]: error for number, error in found}


def test_the_package_is_well_typed(report: str) -> None:
    assert "user.py" in report, report
    assert set(re.findall(r"^(.+?):\d+: error:", report, re.MULTILINE)) == {"user.py"}, report


@pytest.mark.parametrize("statement", RIGHT)
def test_right_code_passes(errors: dict[str, str], statement: str) -> None:
    assert statement not in errors, errors[statement]


@pytest.mark.parametrize("statement", WRONG)
def test_wrong_code_is_rejected(errors: dict[str, str], statement: str) -> None:
    assert statement in errors
