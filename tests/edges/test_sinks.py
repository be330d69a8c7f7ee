"""Attention without its sinks, against loops."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from traces import traced

from jaxflow.edges import Trace, aggregate, weigh
from jaxflow.errors import InputError

NAMES = ("no-special", "shared-special", "no-first", "shared-first")


def by_loops(trace, name):
    attention = np.asarray(trace.attention, np.float64).mean(-3)
    batch, layers, n, _ = attention.shape
    found = np.zeros_like(attention)
    mask, special = np.asarray(trace.mask), np.asarray(trace.special)
    seen = (np.asarray(trace.attention) > 0).any((1, 2))
    for b, layer, i in np.ndindex(batch, layers, n):
        if not mask[b, i]:
            continue
        sinks = special[b] if name.endswith("special") else np.arange(n) == 0
        others = [j for j in range(n) if mask[b, j] and seen[b, i, j] and not sinks[j]]
        row = attention[b, layer, i]
        kept = sum(row[j] for j in others)
        for j in others:
            if name.startswith("no"):
                found[b, layer, i, j] = row[j] / kept if kept else 0
            else:
                found[b, layer, i, j] = row[j] + (row.sum() - kept) / len(others)
    return found


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", ["pre", "post", "causal"])
def test_weights_are_those_of_loops(kind, name):
    trace = traced(kind)
    found = np.asarray(weigh(trace, name))
    np.testing.assert_allclose(found, by_loops(trace, name), atol=1e-6)
    sums = found.sum(-1)
    np.testing.assert_allclose(sums[sums > 0], 1, atol=1e-5)
    sinks = np.asarray(trace.special) if name.endswith("special") else np.arange(6)[None] == 0
    assert not found[np.broadcast_to(sinks[:, None, None], found.shape)].any()
    if kind == "causal":  # the first token sees itself alone, and nothing is left of that
        assert not found[:, :, 0].any()
        assert not found[..., *np.triu_indices(6, 1)].any()


def test_shares_differ_as_they_say():
    attention = jnp.array([[[0.5, 0.4, 0.1], [0.2, 0.2, 0.6], [1.0, 0.0, 0.0]]])[None]
    trace = Trace(attention, special=jnp.array([True, False, False]))
    dropped = [[0, 0.8, 0.2], [0, 0.25, 0.75], [0, 0, 0]]
    shared = [[0, 0.65, 0.35], [0, 0.3, 0.7], [0, 0, 0]]
    for names, expected in ((NAMES[::2], dropped), (NAMES[1::2], shared)):
        for name in names:
            np.testing.assert_allclose(weigh(trace, name)[0], expected, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_a_row_that_loses_everything_is_all_residual(name):
    trace = Trace(jnp.ones((2, 1, 1, 1)), special=jnp.array([True]))
    assert not np.asarray(weigh(trace, name)).any()
    np.testing.assert_array_equal(aggregate(trace, name, "rollout"), np.ones((2, 1, 1)))
    np.testing.assert_array_equal(aggregate(trace, name, "flow"), np.ones((2, 1, 1)))


@pytest.mark.parametrize("name", NAMES)
def test_padding_and_the_order_of_heads_change_nothing(name):
    trace = traced("post")
    whole = np.asarray(weigh(trace, name))
    real = int(np.asarray(trace.mask[1]).sum())
    alone = Trace(trace.attention[1, ..., :real, :real], special=trace.special[1, :real])
    np.testing.assert_allclose(weigh(alone, name), whole[1, :, :real, :real], atol=1e-6)
    turned = dataclasses.replace(trace, attention=trace.attention[:, :, ::-1])
    np.testing.assert_allclose(weigh(turned, name), whole, atol=1e-6)


def test_special_tokens_must_be_known():
    trace = Trace(jnp.full((1, 1, 2, 2), 0.5))
    with pytest.raises(InputError, match="no-special needs which tokens are special"):
        weigh(trace, "no-special")
    assert weigh(trace, "no-first").shape == (1, 2, 2)
