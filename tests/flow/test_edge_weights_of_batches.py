"""Large batches take a compiled way to their edge weights: the same bits, the same errors."""

from __future__ import annotations

import importlib

import numpy as np
import pytest

import jaxflow
from jaxflow._flow.threads import distribute
from jaxflow.errors import InputError

table = importlib.import_module("jaxflow._flow.table")  # the package's own name is a function


@pytest.fixture(params=[np.float32, np.float64])
def batch(request):
    rng = np.random.default_rng(3)
    return rng.dirichlet(np.ones(11), (40, 3, 4, 11)).astype(request.param)


def both(monkeypatch, attention, **options):
    """The weights in NumPy's way and in the compiled one, or what was raised."""
    results = []
    for many in (1 << 60, 0):
        monkeypatch.setattr(table, "_MANY", many)
        monkeypatch.setattr(table, "_PIECE", 3000)
        try:
            results.append(table.graph_edges(attention, **options)[0])
        except InputError as error:
            results.append(str(error))
    return results


@pytest.mark.parametrize("heads", ["mean", "max", 2, -1])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("threads", [1, 3])
def test_same_bits(monkeypatch, batch, heads, masked, threads):
    mask = None
    if masked:
        mask = np.random.default_rng(5).random((40, 11)) < 0.7
        mask[:, 0] = True
        batch = batch * mask[:, None, None, None]
        batch /= batch.sum(-1, keepdims=True)
    plain, compiled = both(
        monkeypatch, batch, residual=0.3, heads=heads, mask=mask, threads=threads
    )
    np.testing.assert_array_equal(plain, compiled)
    assert plain.shape == (40, 3, 11, 11)


@pytest.mark.parametrize("value", [np.nan, np.inf, -0.25, 0.5])
def test_same_errors(monkeypatch, batch, value):
    batch[33, 1, 2, 5, 4] = value
    batch[7, 1, 2, 5, 4] = value / 2
    plain, compiled = both(monkeypatch, batch, residual=0.5, heads="mean", mask=None, threads=2)
    assert plain == compiled
    assert plain.startswith("attention ")
    with pytest.raises(InputError) as caught:
        jaxflow.rollout(batch)  # which looks at the whole at once
    assert str(caught.value) == plain


def test_mass_at_a_padded_key_is_refused(monkeypatch, batch):
    mask = np.ones((40, 11), bool)
    mask[:, -1] = False
    plain, compiled = both(monkeypatch, batch, residual=0.5, heads="mean", mask=mask, threads=1)
    assert plain == compiled
    assert "exactly 0 at the keys that mask marks as padding" in plain


def test_pieces_are_shared_out_once_each_and_the_first_error_counts():
    done = []
    distribute(done.append, range(50), 4)
    assert sorted(done) == list(range(50))

    def refuse(piece: int) -> None:
        if piece in (3, 4):
            raise InputError(f"piece {piece}")

    for threads in (1, 4):
        with pytest.raises(InputError, match="piece 3"):
            distribute(refuse, range(5), threads)
