"""Test extreme numbers: one token, many layers, ones and zeros, single precision, memory."""

from __future__ import annotations

import numeric_limits as limits
import numpy as np
import pytest
from numeric_limits import random_attention as attention

import jaxflow


def test_rollout_of_thousands_of_tokens_takes_no_more_than_twice_their_attention():
    """Linear in its input: no table of tokens by tokens by heads beside it."""
    found = limits.child(limits.LARGE, "2048")
    assert found["taken"] <= 2.5 * found["bytes"]
    assert found["error"] < 1e-5


@pytest.mark.parametrize(("layers", "n"), [(6, 9), (12, 64), (96, 16)])
def test_single_precision_errs_by_no_more_than_its_rounding(layers, n):
    exact = attention((2, layers, 4, n, n))
    single = exact.astype(np.float32)
    rolled = jaxflow.rollout(exact)
    error = np.abs(jaxflow.rollout(single).astype(np.float64) - rolled)
    share = limits.single_rollout_share(layers, n)
    assert (error <= share[:, None, None] * rolled).all()
    flows = jaxflow.flow(exact, sources=0)
    error = np.abs(jaxflow.flow(single, sources=0) - flows)
    assert (error <= limits.single_flow_share() * flows + 1e-9).all()


def test_ones_and_zeros_are_followed_exactly():
    """Permutations one after the other, without a residual connection."""
    rng = np.random.default_rng(1)
    orders = [rng.permutation(7) for _ in range(96)]
    weights = np.stack([np.eye(7)[order] for order in orders])[:, None].astype(np.float32)
    place = np.arange(7)
    rolled, flows = jaxflow.rollout(weights, residual=0), jaxflow.flow(weights, residual=0)
    # Row i looks at order[i] of the layer below, which looks at ...
    for layer, order in enumerate(orders):
        place = place[order] if layer else order
        reached = np.eye(7)[place]
        np.testing.assert_array_equal(rolled[layer], reached)
        np.testing.assert_array_equal(flows[layer], reached)


@pytest.mark.parametrize("layers", [1, 96])
def test_one_token_is_all_there_is(layers):
    one = np.ones((layers, 3, 1, 1), np.float32)
    for function in (jaxflow.rollout, jaxflow.flow, jaxflow.raw_attention):
        np.testing.assert_array_equal(function(one), np.ones((layers, 1, 1)))


def test_a_sentence_of_padding_is_all_zeros():
    weights = attention((2, 3, 2, 4, 4)).astype(np.float32)
    mask = np.array([[False] * 4, [True] * 4])
    weights[0] = 0
    for function in (jaxflow.rollout, jaxflow.flow, jaxflow.raw_attention, jaxflow.head_flow):
        found = np.asarray(function(weights, mask=mask))
        assert not found[0].any()
        np.testing.assert_allclose(found[1], np.asarray(function(weights[1])), atol=1e-6)
