"""What happens where numba is missing."""

from __future__ import annotations

import builtins
import importlib
import sys

import numpy as np
import pytest
from flow_graphs import KINDS, attention_of

import jaxflow


@pytest.fixture
def without_numba(monkeypatch):
    monkeypatch.setitem(sys.modules, "jaxflow._flow.kernel", None)


def test_ortools_agrees_within_its_bound(without_numba, monkeypatch):
    pytest.importorskip("ortools", reason="OR-tools is not installed")
    rng = np.random.default_rng(0)
    batch = np.stack([attention_of(kind, rng, 4, 2, 6) for kind in sorted(KINDS)])
    with pytest.warns(RuntimeWarning, match="pip install numba"):
        rough = jaxflow.flow(batch, layers=[-1, 0], sources=[0, 5])
    monkeypatch.undo()
    exact = jaxflow.flow(batch, layers=[-1, 0], sources=[0, 5])
    assert rough.shape == exact.shape
    np.testing.assert_allclose(rough, exact, rtol=0, atol=4 * 36 / 2**41)


def test_neither_is_one_clear_error(without_numba, monkeypatch):
    plain = builtins.__import__

    def no_ortools(name, *args, **kwargs):
        if name.startswith("ortools"):
            raise ImportError(f"No module named {name!r}")
        return plain(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", no_ortools)
    attention = attention_of("dense", np.random.default_rng(0), 2, 1, 3)
    with pytest.raises(jaxflow.InputError, match="pip install numba"):
        jaxflow.flow(attention)


def test_cuts_say_what_they_need(without_numba):
    attention = attention_of("dense", np.random.default_rng(0), 2, 1, 3)
    with pytest.raises(jaxflow.InputError, match="pip install numba"):
        jaxflow.flow_cut(attention, layer=1, source=0, sink=0)


def test_a_compiler_that_fails_is_as_good_as_none(monkeypatch):
    pytest.importorskip("ortools", reason="OR-tools is not installed")
    kernel = importlib.import_module("jaxflow._flow.kernel")

    def broken(*arguments):
        raise RuntimeError("LLVM has no target for this processor\nand more lines")

    broken.signatures = []
    monkeypatch.setattr(kernel, "fill", broken)
    monkeypatch.setattr(kernel, "add_cuts", broken)
    attention = attention_of("dense", np.random.default_rng(0), 2, 1, 3)
    reason = "cannot compile on this machine: LLVM has no target for this processor"
    with pytest.warns(RuntimeWarning, match=reason):
        rough = jaxflow.flow(attention)
    with pytest.raises(jaxflow.InputError, match=reason):
        jaxflow.flow_cut(attention, layer=1, source=0, sink=0)
    monkeypatch.undo()
    np.testing.assert_allclose(rough, jaxflow.flow(attention), rtol=0, atol=1e-10)
