"""The same bytes from run to run, and for one thread as for many."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
from flow_graphs import KINDS, attention_of

import jaxflow
from jaxflow._flow.threads import cut_tables
from jaxflow.attention import edge_weights

# One line for every kind of result, each a digest of all its bytes.
REPORT = """
import hashlib, sys
import jax, jax.numpy as jnp, numpy as np
import jaxflow
from flow_graphs import KINDS, attention_of

threads = int(sys.argv[1])
rng = np.random.default_rng(17)
batch = np.stack([attention_of(kind, rng, 5, 2, 9) for kind in sorted(KINDS)]).astype(np.float32)
print(len(batch))

def say(name, *arrays):
    data = b"".join(np.ascontiguousarray(array).tobytes() for array in arrays)
    print(name, hashlib.sha256(data).hexdigest())

say("flow", jaxflow.flow(batch, threads=threads))
say("one", *(jaxflow.flow(sentence, sources=0, threads=threads) for sentence in batch))
say("saturation", *jaxflow.saturation(batch, threads=threads))
cuts = [jaxflow.flow_cut(sentence, layer=-1, source=0, sink=3) for sentence in batch]
say("cuts", *(np.array(cut.edges) for cut in cuts), *(cut.value for cut in cuts))
print([cut.summary() for cut in cuts])
total = lambda attention: (jaxflow.flow(attention, sources=[0, 4], threads=threads) ** 2).sum()
say("jit", jax.jit(lambda attention: jaxflow.flow(attention, threads=threads))(jnp.asarray(batch)))
say("grad", jax.jit(jax.grad(total))(jnp.asarray(batch)))
"""


def report(threads: int, seed: str) -> str:
    path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", REPORT, str(threads)],
        # Nothing may hang on the order of sets, which differs from run to run.
        env={**os.environ, "PYTHONPATH": path, "PYTHONHASHSEED": seed},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_from_run_to_run_and_for_any_number_of_threads():
    first = report(1, "1")
    lines = first.splitlines()
    assert lines[0] == str(len(KINDS))
    assert [line.split()[0] for line in (*lines[1:5], *lines[6:])] == [
        *("flow", "one", "saturation", "cuts", "jit", "grad"),
    ]
    assert report(3, "2") == first


def test_cuts_do_not_depend_on_threads():
    rng = np.random.default_rng(9)
    edges = edge_weights(np.stack([attention_of(kind, rng, 5, 1, 8) for kind in sorted(KINDS)]))
    pulls = rng.normal(size=(len(edges), 5, 8, 8))
    everything = tuple(range(5)), tuple(range(8)), pulls
    one = cut_tables(edges, *everything, 1)
    for threads in (2, 5, None):
        assert np.array_equal(cut_tables(edges, *everything, threads), one)


def test_saturation_does_not_depend_on_threads():
    rng = np.random.default_rng(10)
    batch = np.stack([attention_of(kind, rng, 5, 2, 12) for kind in sorted(KINDS)])
    one = jaxflow.saturation(batch, threads=1)
    for threads in (2, 5, None):
        many = jaxflow.saturation(batch, threads=threads)
        assert all(np.array_equal(a, b) for a, b in zip(one, many, strict=True))
