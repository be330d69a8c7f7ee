"""Numbers at their ends: one token, many layers, ones and zeros, single precision, much memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import wheel

import jaxflow

ROLLOUT = """
import json, resource, sys
import numpy as np
import jaxflow

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

n = int(sys.argv[1])
attention = np.full((4, 4, n, n), 1 / n, np.float32)
jaxflow.rollout(attention[..., :8, :8] * (n / 8))
before = peak()
top = jaxflow.rollout(attention)[-1]
print(json.dumps([attention.nbytes, peak() - before, float(abs(top.sum(-1) - 1).max())]))
"""


def attention(shape, seed=0, sharp=2.0):
    scores = sharp * np.random.default_rng(seed).normal(size=shape)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


def test_rollout_of_thousands_of_tokens_takes_no_more_than_twice_their_attention():
    """Linear in its input: no table of tokens by tokens by heads beside it."""
    done = subprocess.run(
        [sys.executable, "-P", "-c", ROLLOUT, "2048"],
        env=os.environ | {"PYTHONPATH": str(wheel.installed())},
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parent,
    )
    given, extra, error = json.loads(done.stdout)
    assert extra <= 2.5 * given
    assert error < 1e-5


@pytest.mark.parametrize(("layers", "n"), [(6, 9), (12, 64), (96, 16)])
def test_single_precision_errs_by_no_more_than_its_rounding(layers, n):
    r"""Rounding of entries is relative, \|δ\| ≤ u = 2⁻²⁴, and so is what rollout and flow do of it.

    An edge has been rounded three times (given, scaled, added), a product's entry n + 1 times more
    a layer; flow is worked out in float64 of the edges it is given.
    """
    exact = attention((2, layers, 4, n, n))
    single = exact.astype(np.float32)
    unit = 2.0**-24
    rolled = jaxflow.rollout(exact)
    error = np.abs(jaxflow.rollout(single).astype(np.float64) - rolled)
    bound = (1 + 4 * (n + 8) * unit) ** (1 + np.arange(layers)) - 1
    assert (error <= bound[:, None, None] * rolled).all()
    flows = jaxflow.flow(exact, sources=0)
    error = np.abs(jaxflow.flow(single, sources=0) - flows)
    assert (error <= 2 * unit * flows + 1e-9).all()


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


@pytest.mark.parametrize("function", [jaxflow.flow, jaxflow.head_flow])
def test_threads_share_the_work_and_change_no_bit(function):
    weights = attention((40, 5, 2, 12, 12)).astype(np.float32)
    one = function(weights, threads=1)
    for threads in (2, 3, None):
        np.testing.assert_array_equal(function(weights, threads=threads), one)
