"""Flow against push-relabel of networkx, pair by pair."""

from __future__ import annotations

import numpy as np
import pytest
from flow_graphs import KINDS, attention_of, pad

import jaxflow
from jaxflow._flow.fallback import flow_by_definition
from jaxflow.attention import edge_weights


@pytest.mark.parametrize("kind", sorted(KINDS))
@pytest.mark.parametrize("seed", range(25))
def test_equals_the_definition(kind, seed):
    rng = np.random.default_rng([seed, sorted(KINDS).index(kind)])
    layers, n = int(rng.integers(1, 7)), int(rng.integers(1, 10))
    residual = float(rng.choice([0.5, 0.5, 0.0, 0.2, 0.9]))
    attention = attention_of(kind, rng, layers, 2, n)
    edges = edge_weights(attention, residual=residual)
    table = jaxflow.flow(attention, residual=residual)
    assert table.shape == (layers, n, n)
    for _ in range(8):
        layer, source, sink = pair = tuple(int(rng.integers(k)) for k in (layers, n, n))
        assert table[pair] == pytest.approx(
            flow_by_definition(edges, layer, source, sink), rel=0, abs=1e-9
        )


@pytest.mark.parametrize("heads", ["mean", "max", "min", 0, -1])
def test_heads_are_fused_like_everywhere(heads):
    attention = attention_of("dense", np.random.default_rng(3), 3, 3, 5)
    edges = edge_weights(attention, heads=heads)
    table = jaxflow.flow(attention, heads=heads)
    for source, sink in np.ndindex(5, 5):
        expected = flow_by_definition(edges, 2, source, sink)
        assert table[2, source, sink] == pytest.approx(expected, rel=0, abs=1e-9)


@pytest.mark.parametrize("n", [63, 64, 65, 70])
def test_more_tokens_than_bits_in_a_word(n):
    rng = np.random.default_rng(n)
    attention = attention_of("peaky", rng, 3, 1, n)
    edges = edge_weights(attention)
    table = jaxflow.flow(attention, sources=[0, n - 1])
    for sink in (0, 62, n - 1):
        expected = flow_by_definition(edges, 2, n - 1, sink)
        assert table[2, 1, sink] == pytest.approx(expected, rel=0, abs=1e-9)


def test_float32_is_computed_in_float64():
    attention = attention_of("dense", np.random.default_rng(0), 4, 2, 6).astype(np.float32)
    table = jaxflow.flow(attention)
    assert table.dtype == np.float64
    edges = edge_weights(attention.astype(np.float64))
    for source, sink in np.ndindex(6, 6):
        expected = flow_by_definition(edges, 3, source, sink)
        assert table[3, source, sink] == pytest.approx(expected, rel=0, abs=1e-9)


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_padding_changes_nothing(kind):
    attention = attention_of(kind, np.random.default_rng(5), 4, 2, 6)
    wide, mask = pad(attention, 3)
    table = jaxflow.flow(wide, mask=mask)
    np.testing.assert_allclose(table[:, :6, :6], jaxflow.flow(attention), rtol=0, atol=1e-9)
    assert (table[:, 6:] == 0).all()
    assert (table[:, :, 6:] == 0).all()


def test_a_batch_is_its_sentences():
    rng = np.random.default_rng(8)
    batch = np.stack([attention_of(kind, rng, 4, 2, 7) for kind in sorted(KINDS)])
    table = jaxflow.flow(batch.reshape(2, -1, 4, 2, 7, 7))
    assert table.shape == (2, len(KINDS) // 2, 4, 7, 7)
    alone = np.stack([jaxflow.flow(attention) for attention in batch])
    np.testing.assert_allclose(table.reshape(-1, 4, 7, 7), alone, rtol=0, atol=1e-9)


def test_threads_change_nothing_to_the_last_bit():
    rng = np.random.default_rng(9)
    batch = np.stack([attention_of(kind, rng, 5, 2, 12) for kind in sorted(KINDS)])
    one = jaxflow.flow(batch, threads=1)
    for threads in (2, 3, None):
        assert (jaxflow.flow(batch, threads=threads) == one).all()
    assert (jaxflow.flow(batch[0], threads=2) == one[0]).all()


def test_sources_and_layers_choose():
    attention = attention_of("dense", np.random.default_rng(2), 5, 2, 6)
    full = jaxflow.flow(attention)
    some = jaxflow.flow(attention, sources=[3, -1, 3], layers=[4, -4])
    np.testing.assert_allclose(some, full[[4, 1]][:, [3, 5, 3]], rtol=0, atol=1e-9)
    one = jaxflow.flow(attention, sources=2, layers=np.int64(-1))
    assert one.shape == (1, 1, 6)
    np.testing.assert_allclose(one[0, 0], full[4, 2], rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sources": 4}, "sources must be an index from -4 to 3, got 4"),
        ({"sources": [0, -5]}, "sources must be an index from -4 to 3, got -5"),
        ({"sources": 1.5}, "sources must be an index from -4 to 3, got 1.5"),
        ({"sources": []}, "sources must name at least one index"),
        ({"layers": 2}, "layers must be an index from -2 to 1, got 2"),
        ({"layers": True}, "layers must be an index from -2 to 1, got True"),
        ({"threads": 0}, "threads must be None or a whole number from 1, got 0"),
        ({"threads": "all"}, "threads must be None or a whole number from 1, got 'all'"),
        ({"heads": "sum"}, "heads must be"),
        ({"residual": 2}, "residual must be"),
        ({"mask": np.ones(3, bool)}, "mask must have the shape"),
    ],
)
def test_unusable_options(options, message):
    attention = attention_of("dense", np.random.default_rng(0), 2, 2, 4)
    with pytest.raises(jaxflow.InputError, match="^" + message):
        jaxflow.flow(attention, **options)
