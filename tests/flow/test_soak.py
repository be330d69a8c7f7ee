"""Compute flow of a hundred thousand sentences: constant memory, reproducible results."""

import functools
import gc
import itertools
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from attentions import FLOW_KINDS, attention_of

import jaxflow

STATM = Path("/proc/self/statm")

pytestmark = [
    pytest.mark.nightly,
    pytest.mark.soak,
    pytest.mark.skipif(not STATM.exists(), reason="there is no /proc/self/statm to read memory of"),
]

BATCH = 200
KEPT = 4 * 2**20  # bytes, less than the results alone would take, were they kept


def resident():
    gc.collect()
    return int(STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def sentences(n, layers=4):
    """`BATCH` attentions of all kinds, as a model would give them."""
    kinds = itertools.islice(itertools.cycle(FLOW_KINDS), BATCH)
    shape = (layers, 1, n, n)
    return np.stack([attention_of(kind, at, shape) for at, kind in enumerate(kinds)], dtype="f4")


def test_a_hundred_thousand_sentences():
    batches, threads = [sentences(n) for n in (2, 9, 5, 7, 3)], (1, None, 3)

    def call(number):
        batch = batches[number % len(batches)]
        return jaxflow.flow(batch, sources=0, threads=threads[number % len(threads)])

    first = [call(number) for number in range(30)][: len(batches)]
    grown = []
    # Other tests of this process may still be freeing memory; what is kept for each sentence is
    # kept every time.
    while not grown or (grown[-1] >= KEPT and len(grown) < 3):
        before = resident()
        for number in range(100_000 // BATCH):
            assert np.array_equal(call(number), first[number % len(batches)])
        grown.append(resident() - before)
    assert grown[-1] < KEPT, grown


@pytest.mark.parametrize("derived", [False, True], ids=["flow", "derivative"])
def test_through_jit(derived):
    batch = jnp.asarray(sentences(16))

    value = functools.partial(jaxflow.flow, sources=0)
    function = jax.jit(jax.grad(lambda a: value(a).sum()) if derived else value)
    expected = [np.asarray(function(one)) for one in batch]
    function(batch)
    for number in range(2600):
        if number == 600:
            before = resident()
        assert np.array_equal(function(batch[number % BATCH]), expected[number % BATCH])
        if number % 300 == 0:  # a batch, which uses threads
            assert np.array_equal(function(batch), expected)
    # Each sentence takes 4 kB, twice that in float64.
    assert resident() - before < KEPT


def test_many_callers_at_once():
    batches = [sentences(n) for n in (4, 9, 7)]
    expected = [jaxflow.flow(batch, sources=0, threads=1) for batch in batches]
    cuts = [jaxflow.flow_cut(batch[0], layer=-1, source=0, sink=1) for batch in batches]

    def call(number):
        batch, table, cut = (part[number % 3] for part in (batches, expected, cuts))
        same = np.array_equal(jaxflow.flow(batch, sources=0, threads=1 + number % 3), table)
        return same and jaxflow.flow_cut(batch[0], layer=-1, source=0, sink=1) == cut

    with ThreadPoolExecutor(6) as pool:
        assert all(pool.map(call, range(30)))
        before = resident()
        assert all(pool.map(call, range(120)))
        assert resident() - before < 2 * KEPT
