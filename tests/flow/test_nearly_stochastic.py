"""Rows that sum to 1 only nearly, as in float32: flow is still the flow of these very edges."""

from __future__ import annotations

import numpy as np
import pytest
from flow_graphs import KINDS, attention_of

import jaxflow
from jaxflow._flow.fallback import flow_by_definition
from jaxflow.attention import edge_weights


@pytest.mark.parametrize("off", [0.0, 1e-6, 9e-5])
@pytest.mark.parametrize("kind", sorted(KINDS))
def test_exact_whatever_rows_sum_to(kind, off):
    rng = np.random.default_rng(sorted(KINDS).index(kind))
    for layers, n in ((6, 12), (8, 9)):
        attention = attention_of(kind, rng, layers, 2, n)
        attention *= 1 + off * rng.uniform(-1, 1, (*attention.shape[:-1], 1))
        attention = attention.astype(np.float32)
        edges = edge_weights(attention.astype(np.float64))
        every, one = jaxflow.flow(attention), jaxflow.flow(attention, sources=0)
        for layer in (3, layers - 2, layers - 1):
            for sink in rng.integers(n, size=3):
                expected = flow_by_definition(edges, layer, 0, int(sink))
                cut = jaxflow.flow_cut(attention, layer=layer, source=0, sink=int(sink))
                found = every[layer, 0, sink], one[layer, 0, sink], cut.value
                assert found == pytest.approx([expected] * 3, rel=0, abs=1e-9)
