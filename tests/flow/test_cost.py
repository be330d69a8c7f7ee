"""Work that may take days is not begun unasked."""

from __future__ import annotations

import numpy as np
import pytest

import jaxflow
from jaxflow._flow import table as cost
from jaxflow.errors import InputError

FUNCTIONS = (jaxflow.flow, jaxflow.saturation, jaxflow.head_flow)


def of_many(*shape: int) -> np.ndarray:
    """Uniform attention that takes no memory: refused before it is read."""
    return np.broadcast_to(np.float32(1 / shape[-1]), shape)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_long_work_is_refused_with_its_time(function):
    with pytest.raises(InputError, match=r"may take up to .* days on one core: name the sources"):
        function(of_many(12, 1, 4096, 4096))
    with pytest.raises(InputError, match=r"over 512 tokens and .* of 1,000 sentences may take up"):
        function(of_many(1000, 12, 1, 512, 512))


def test_what_is_asked_for_counts_not_what_there_is():
    assert cost.estimated_seconds(1, 4096, range(12), 1) < cost.LIMIT
    assert cost.estimated_seconds(1, 4096, [0], 4096) == 0  # the lowest layer is read, not searched
    expected = cost.estimated_seconds(1, 100, [3], 7)
    assert cost.estimated_seconds(2, 200, [3, 3], 7) == pytest.approx(expected * 2 * 8 * 2)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_it_is_begun_where_it_is_asked_for_again(function, monkeypatch):
    monkeypatch.setattr(cost, "LIMIT", 1e-9)
    attention = np.random.default_rng(0).dirichlet(np.ones(5), (3, 2, 5))
    with pytest.raises(InputError, match="pass patient=True"):
        function(attention)
    found = function(attention, patient=True)
    monkeypatch.undo()
    np.testing.assert_equal(found, function(attention))
