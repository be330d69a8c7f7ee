"""Flow for a long time: a hundred thousand sentences, memory flat, every result the same."""

from __future__ import annotations

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
MIB = 2**20

pytestmark = [
    pytest.mark.soak,
    pytest.mark.nightly,
    pytest.mark.skipif(
        not STATM.exists(), reason="memory is read from /proc/self/statm, which is not here"
    ),
]

BATCH = 200
WARM, CALLS = 300, 2000
KEPT = 4 * MIB  # less than the results alone would take, were they kept


def resident() -> int:
    gc.collect()
    return int(STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def sentences(n: int, layers: int = 4) -> np.ndarray:
    """`BATCH` attentions of all kinds, as a model would give them."""
    rng, kinds = np.random.default_rng(n), itertools.cycle(FLOW_KINDS)
    batch = [attention_of(next(kinds), rng, (layers, 1, n, n)) for _ in range(BATCH)]
    return np.stack(batch).astype(np.float32)


def test_a_hundred_thousand_sentences():
    batches = [sentences(n) for n in (2, 9, 5, 7, 3)]
    calls = 100_000 // BATCH
    threads = (1, None, 3)

    def call(number: int) -> np.ndarray:
        return jaxflow.flow(
            batches[number % len(batches)], sources=0, threads=threads[number % len(threads)]
        )

    first = [call(number) for number in range(2 * len(batches) * len(threads))][: len(batches)]
    assert calls * BATCH == 100_000
    grown = []
    # Other tests of this process may still be letting go of what was theirs; what is kept for each
    # sentence is kept every time.
    while not grown or (grown[-1] >= KEPT and len(grown) < 3):
        before, made = resident(), 0
        for number in range(calls):
            table = call(number)
            made += table.nbytes
            assert np.array_equal(table, first[number % len(batches)])
        assert made > 3 * KEPT
        grown.append(resident() - before)
    assert grown[-1] < KEPT, grown


@pytest.mark.parametrize("derived", [False, True], ids=["flow", "derivative"])
def test_through_jit(derived):
    batch = jnp.asarray(sentences(16))

    def value(attention: jax.Array) -> jax.Array:
        return jaxflow.flow(attention, sources=0)

    function = jax.jit(jax.grad(lambda a: value(a).sum()) if derived else value)

    def call(number: int) -> np.ndarray:
        # Sentences one by one and, now and then, a batch of them, which uses threads.
        chosen = batch if number % WARM == 0 else batch[number % BATCH]
        return np.asarray(function(chosen))

    first = [call(number) for number in range(BATCH + 1)]
    for number in range(BATCH + 1, 2 * WARM + CALLS):
        if number == 2 * WARM:
            before = resident()
        expected = first[0 if number % WARM == 0 else number % BATCH or BATCH]
        assert np.array_equal(call(number), expected)
    # Each sentence takes 4 kB, twice that in float64.
    assert resident() - before < KEPT


def test_many_callers_at_once():
    batches = [sentences(n) for n in (4, 9, 7)]
    expected = [jaxflow.flow(batch, sources=0, threads=1) for batch in batches]
    cuts = [jaxflow.flow_cut(batch[0], layer=-1, source=0, sink=1) for batch in batches]

    def call(number: int) -> bool:
        batch, table, cut = (part[number % 3] for part in (batches, expected, cuts))
        same = np.array_equal(jaxflow.flow(batch, sources=0, threads=1 + number % 3), table)
        return same and jaxflow.flow_cut(batch[0], layer=-1, source=0, sink=1) == cut

    with ThreadPoolExecutor(6) as pool:
        assert all(pool.map(call, range(30)))
        before = resident()
        assert all(pool.map(call, range(120)))
        assert resident() - before < 2 * KEPT
