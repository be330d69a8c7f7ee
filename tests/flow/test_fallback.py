"""Test flow without numba, by SciPy's integer solver."""

from __future__ import annotations

import importlib
import sys

import numpy as np
import pytest
from attentions import FLOW_KINDS, attention_of, pad_end

import jaxflow
from jaxflow._flow import fallback
from jaxflow._flow.fallback import flow_by_definition, flow_rows_scaled
from jaxflow.attention import edge_weights


@pytest.fixture
def without_numba(monkeypatch):
    monkeypatch.setitem(sys.modules, "jaxflow._flow.kernel", None)


def test_scipy_takes_numbas_place_but_for_cuts(without_numba, monkeypatch):
    batch = np.stack([attention_of(kind, 0, (4, 2, 6, 6)) for kind in FLOW_KINDS])
    wide, mask = pad_end(batch, 2)
    with pytest.warns(RuntimeWarning, match="pip install numba"):
        rough = jaxflow.flow(wide, mask=mask, layers=[-1, 0], sources=[0, 5, 7])
    with pytest.raises(jaxflow.InputError, match="pip install numba"):
        jaxflow.flow_cut(batch[0], layer=1, source=0, sink=0)
    monkeypatch.undo()
    exact = jaxflow.flow(wide, mask=mask, layers=[-1, 0], sources=[0, 5, 7])
    assert rough.shape == exact.shape
    np.testing.assert_allclose(rough, exact, rtol=0, atol=1e-9)


def test_a_compiler_that_fails_is_as_good_as_none(monkeypatch):
    kernel = importlib.import_module("jaxflow._flow.kernel")

    def broken(*arguments):
        raise RuntimeError("LLVM has no target for this processor\nand more lines")

    broken.signatures = []
    for name in ("fill", "add_cuts"):
        monkeypatch.setattr(kernel, name, broken)
    attention = attention_of("dense", 0, (2, 1, 3, 3))
    reason = "cannot compile on this machine: LLVM has no target for this processor"
    with pytest.warns(RuntimeWarning, match=reason):
        rough = jaxflow.flow(attention)
    with pytest.raises(jaxflow.InputError, match=reason):
        jaxflow.flow_cut(attention, layer=1, source=0, sink=0)
    monkeypatch.undo()
    np.testing.assert_allclose(rough, jaxflow.flow(attention), rtol=0, atol=1e-10)


@pytest.mark.parametrize("kind", FLOW_KINDS)
@pytest.mark.parametrize(("layers", "n", "residual"), [(1, 3, 0.5), (4, 7, 0.0), (6, 30, 0.5)])
def test_scipy_equals_the_kernel(kind, layers, n, residual):
    attention = attention_of(kind, 2, (layers, 2, n, n))
    rows = flow_rows_scaled(edge_weights(attention, residual=residual), n // 2)
    table = jaxflow.flow(attention, residual=residual, sources=n // 2)
    np.testing.assert_allclose(rows, table[:, 0], rtol=0, atol=1e-9)


def test_what_a_round_leaves_is_there_and_below_its_bound(monkeypatch):
    edges = edge_weights(attention_of("peaky", 5, (6, 1, 12, 12)))
    exact = [flow_by_definition(edges, 5, 0, sink) for sink in range(12)]

    def flows(*, whole, enough):
        monkeypatch.setattr(fallback, "WHOLE", whole)
        monkeypatch.setattr(fallback, "EXACT", enough)
        graph = fallback._Graph(edges, 0)
        return np.array([graph.flow_to(sink) for sink in range(12)])

    bound = edges.size / 2**12
    left = exact - flows(whole=2**12, enough=bound)
    assert left.min() >= 0
    assert 1e-4 < left.max() <= bound
    np.testing.assert_allclose(flows(whole=2**12, enough=1e-9), exact, rtol=0, atol=1e-9)


def test_equal_tokens_get_the_same_number():
    rows = flow_rows_scaled(edge_weights(np.full((6, 1, 7, 7), 1 / 7)), 0)
    assert len(set(rows[-1].tolist())) == 1
    assert len(set(rows[2, 1:].tolist())) == 1
