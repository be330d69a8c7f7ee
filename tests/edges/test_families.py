"""Edge weights with a number in their names, against the public functions of attention."""

from __future__ import annotations

import numpy as np
import pytest
from traces import traced

import jaxflow
from jaxflow.edges import aggregate, edge_families, edge_weight, edge_weights, weigh
from jaxflow.errors import InputError

KINDS = ("pre", "causal")


@pytest.mark.parametrize("kind", KINDS)
def test_single_heads_are_those_of_the_appendix(kind):
    trace = traced(kind)
    attention, mask = np.asarray(trace.attention), np.asarray(trace.mask)
    rolled = jaxflow.head_rollout(attention, residual=0.3, mask=mask)
    flows = jaxflow.head_flow(attention, residual=0.3, mask=mask, sources=[1, 0])
    for head in range(attention.shape[2]):
        name = f"head-{head}"
        found = aggregate(trace, name, "rollout", residual=0.3)
        np.testing.assert_allclose(found, rolled[:, :, head], atol=1e-6)
        found = aggregate(trace, name, "flow", residual=0.3, sources=[1, 0])
        np.testing.assert_allclose(found, flows[:, :, head], atol=1e-5)
        one = attention[:, :, head] * mask[:, None, :, None]
        np.testing.assert_allclose(aggregate(trace, name, "none"), one, atol=1e-7)
        mean = attention.mean(2) * mask[:, None, :, None]
        wanted = one.copy()
        below = mean[:, 0]
        for layer in range(1, attention.shape[1]):
            wanted[:, layer] = one[:, layer] @ below
            below = mean[:, layer] @ below
        np.testing.assert_allclose(aggregate(trace, name, "product"), wanted, atol=1e-6)


@pytest.mark.parametrize("share", ["0", "0.25", "1"])
def test_a_share_of_the_residual_is_that_of_the_public_functions(share):
    trace = traced("pre")
    attention, mask = np.asarray(trace.attention), np.asarray(trace.mask)
    options = {"residual": float(share), "mask": mask}
    for how, public in (("rollout", jaxflow.rollout), ("flow", jaxflow.flow)):
        found = aggregate(trace, f"residual-{share}", how)
        np.testing.assert_allclose(found, public(attention, **options), atol=1e-5)


@pytest.mark.parametrize("ratio", ["0", "0.5", "0.9"])
def test_discarded_entries_are_those_of_the_public_function(ratio):
    trace = traced("post")
    attention, mask = np.asarray(trace.attention), np.asarray(trace.mask)
    edges = jaxflow.discard(attention, float(ratio), mask=mask)
    for how, public in (("rollout", jaxflow.rollout), ("flow", jaxflow.flow)):
        found = aggregate(trace, f"discard-{ratio}", how)
        np.testing.assert_allclose(found, public(edges, residual=0, mask=mask), atol=1e-5)


def test_families_are_listed_and_asked_for_by_any_number():
    assert set(edge_families()) == {"head", "residual", "discard"}
    assert edge_weight("residual-0.125").name == "residual-0.125"
    without, some = edge_weights(), edge_weights(3)
    assert set(some) - set(without) == {"head-0", "head-1", "head-2"}
    for name, edge in some.items():
        assert edge.name == name
        assert edge_weight(name) == edge or name.startswith(("head", "residual", "discard"))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("head-one", "head must be a whole number from 0, as in head-3, got 'one'"),
        ("head-", "head must be a whole number from 0"),
        ("head-²", "head must be a whole number from 0"),
        ("residual-1.5", "residual must be a share from 0 to 1, as in residual-0.5, got '1.5'"),
        ("residual-nan", "residual must be a share"),
        ("discard-1", "discard must be a share of at least 0 and below 1"),
        ("tail-3", "edge weight must be one of .*, head-NUMBER.*, got 'tail-3'"),
    ],
)
def test_numbers_that_cannot_be_are_named(name, message):
    with pytest.raises(InputError, match=message):
        edge_weight(name)


def test_a_head_that_the_model_has_not_is_named():
    trace = traced("pre")
    heads = np.asarray(trace.attention).shape[2]
    with pytest.raises(InputError, match=f"head must be from 0 to {heads - 1}, got {heads}"):
        weigh(trace, f"head-{heads}")
