"""Saturation against what its definition says about the flow table."""

from __future__ import annotations

import numpy as np
from flow_graphs import KINDS, attention_of, pad, softmax

import jaxflow
from jaxflow.attention import edge_weights


def test_definition_on_every_kind():
    rng = np.random.default_rng(0)
    batch = np.stack([attention_of(kind, rng, 5, 2, 6) for kind in sorted(KINDS)])
    result = jaxflow.saturation(batch)
    table = jaxflow.flow(batch)
    bound = np.minimum(1, edge_weights(batch)[:, 0].sum(-2))
    np.testing.assert_allclose(result.bound, bound, rtol=0, atol=1e-15)
    reached = table >= bound[:, None, None] - 1e-9
    assert (result.reached == reached).all()
    np.testing.assert_allclose(result.share, reached.mean((-2, -1)), rtol=0, atol=1e-15)


def test_identity_never_reaches_but_its_own_column():
    result = jaxflow.saturation(np.broadcast_to(np.eye(4), (5, 1, 4, 4)))
    assert (result.reached == np.eye(4, dtype=bool)).all()
    assert (result.share == 0.25).all()


def test_even_attention_saturates_with_depth():
    attention = softmax(np.random.default_rng(0).normal(size=(7, 4, 6, 6)))
    share = jaxflow.saturation(attention).share
    assert share[0] == 0
    assert share[-1] == 1


def test_rows_in_float32_do_not_hide_it():
    attention = attention_of("dense", np.random.default_rng(0), 7, 2, 6)
    exact, narrow = jaxflow.saturation(attention), jaxflow.saturation(attention.astype(np.float32))
    assert (exact.reached == narrow.reached).all()


def test_padding_counts_nowhere():
    attention = attention_of("peaky", np.random.default_rng(6), 4, 2, 5)
    wide, mask = pad(attention, 4)
    alone, padded = jaxflow.saturation(attention), jaxflow.saturation(wide, mask=mask)
    assert (padded.bound[5:] == 0).all()
    assert not padded.reached[:, 5:].any()
    assert not padded.reached[..., 5:].any()
    assert (padded.reached[:, :5, :5] == alone.reached).all()
    np.testing.assert_allclose(padded.share, alone.share, rtol=0, atol=1e-15)


def test_sources_and_layers_choose():
    attention = attention_of("peaky", np.random.default_rng(7), 5, 2, 6)
    full = jaxflow.saturation(attention)
    some = jaxflow.saturation(attention, sources=0, layers=[-1, 1])
    assert (some.reached == full.reached[[4, 1]][:, :1]).all()
    np.testing.assert_allclose(some.share, some.reached.mean((-2, -1)), rtol=0, atol=1e-15)
