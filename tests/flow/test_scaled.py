"""Flow by SciPy's integer solver: exact, and even where tokens are on a par."""

from __future__ import annotations

import importlib

import numpy as np
import pytest
from flow_graphs import KINDS, attention_of

import jaxflow
from jaxflow._flow.fallback import flow_by_definition, flow_rows_scaled
from jaxflow.attention import edge_weights


@pytest.mark.parametrize("kind", sorted(KINDS))
@pytest.mark.parametrize("seed", range(4))
def test_equals_the_definition(kind, seed):
    rng = np.random.default_rng([seed, sorted(KINDS).index(kind)])
    layers, n = int(rng.integers(1, 7)), int(rng.integers(1, 8))
    residual = float(rng.choice([0.5, 0.5, 0.0, 0.2, 0.9]))
    edges = edge_weights(attention_of(kind, rng, layers, 2, n), residual=residual)
    source = int(rng.integers(n))
    rows = flow_rows_scaled(edges, source)
    assert rows.shape == (layers, n)
    for layer, sink in np.ndindex(layers, n):
        expected = flow_by_definition(edges, layer, source, sink)
        assert rows[layer, sink] == pytest.approx(expected, rel=0, abs=1e-9)


@pytest.mark.parametrize("n", [30, 64])
def test_equals_the_kernel_on_long_sentences(n):
    attention = attention_of("dense", np.random.default_rng(n), 6, 2, n)
    rows = flow_rows_scaled(edge_weights(attention), 0)
    np.testing.assert_allclose(rows, jaxflow.flow(attention, sources=0)[:, 0], rtol=0, atol=1e-9)


def test_what_a_round_leaves_behind_is_there_and_below_its_bound(monkeypatch):
    scaled = importlib.import_module("jaxflow._flow.fallback")
    edges = edge_weights(attention_of("peaky", np.random.default_rng(5), 6, 1, 12))
    exact = [flow_by_definition(edges, 5, 0, sink) for sink in range(12)]

    def flows(*, whole, enough):
        monkeypatch.setattr(scaled, "WHOLE", whole)
        monkeypatch.setattr(scaled, "EXACT", enough)
        graph = scaled._Graph(edges, 0)
        return np.array([graph.flow_to(sink) for sink in range(12)])

    bound = edges.size / 2**12
    left = exact - flows(whole=2**12, enough=bound)
    assert left.min() >= 0
    assert 1e-4 < left.max() <= bound
    np.testing.assert_allclose(flows(whole=2**12, enough=1e-9), exact, rtol=0, atol=1e-9)


def test_tokens_on_a_par_get_the_same_number():
    edges = edge_weights(np.full((6, 1, 7, 7), 1 / 7))
    rows = flow_rows_scaled(edges, 0)
    assert len(set(rows[-1].tolist())) == 1
    assert len(set(rows[2, 1:].tolist())) == 1


def test_no_way_is_no_flow():
    rows = flow_rows_scaled(np.repeat(np.eye(4)[None], 5, 0), 2)
    np.testing.assert_array_equal(rows, np.repeat(np.eye(4)[2][None], 5, 0))
