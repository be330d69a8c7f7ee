"""Test the arguments of flow: batches, padding, choices, threads, and the limit of work."""

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from attentions import FLOW_KINDS, attention_of, pad_end
from session import refused

import jaxflow
from jaxflow._flow import table
from jaxflow._flow import threads as flow_threads
from jaxflow._flow.threads import cut_tables, distribute
from jaxflow.attention import edge_weights
from jaxflow.errors import InputError

SUPPORT = Path(__file__).parents[1] / "support"


def one_of_each(layers, heads, n):
    return np.stack([attention_of(kind, 7, (layers, heads, n, n)) for kind in FLOW_KINDS])


def test_a_batch_is_its_sentences_and_padding_changes_nothing():
    batch = one_of_each(4, 2, 7)
    alone = np.stack([jaxflow.flow(attention) for attention in batch])
    together = jaxflow.flow(batch.reshape(2, -1, 4, 2, 7, 7))
    np.testing.assert_allclose(together.reshape(-1, 4, 7, 7), alone, rtol=0, atol=1e-9)
    wide, mask = pad_end(batch, 3)
    padded = jaxflow.flow(wide, mask=mask)
    np.testing.assert_allclose(padded[..., :7, :7], alone, rtol=0, atol=1e-9)
    assert not padded[..., 7:, :].any()
    assert not padded[..., 7:].any()


def test_sources_and_layers_choose():
    attention = attention_of("dense", 2, (5, 2, 6, 6))
    full = jaxflow.flow(attention)
    some = jaxflow.flow(attention, sources=[3, -1, 3], layers=[4, -4])
    np.testing.assert_allclose(some, full[[4, 1]][:, [3, 5, 3]], rtol=0, atol=1e-9)
    one = jaxflow.flow(attention, sources=2, layers=np.int64(-1))
    assert one.shape == (1, 1, 6)
    np.testing.assert_allclose(one[0, 0], full[4, 2], rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sources": 4}, "sources must be an index from -4 to 3, got 4"),
        ({"sources": [0, -5]}, "sources must be an index from -4 to 3, got -5"),
        ({"sources": 1.5}, "sources must be an index"),
        ({"sources": []}, "sources must name at least one index"),
        ({"layers": 2}, "layers must be an index from -2 to 1, got 2"),
        ({"layers": True}, "layers must be an index"),
        ({"threads": 0}, "threads must be None or a whole number from 1, got 0"),
        ({"threads": "all"}, "threads must be"),
    ],
)
@pytest.mark.parametrize("function", [jaxflow.flow, jaxflow.head_flow, jaxflow.saturation])
def test_unusable_options(function, options, message):
    with refused(f"^{message}"):
        function(attention_of("dense", 0, (2, 2, 4, 4)), **options)


# One line for every kind of result, each a digest of all its bytes.
REPORT = """
import hashlib, sys
import jax, jax.numpy as jnp, numpy as np
import jaxflow
from attentions import FLOW_KINDS, attention_of

threads = int(sys.argv[1])
batch = [attention_of(kind, 17, (5, 2, 9, 9)) for kind in FLOW_KINDS]
batch = np.stack(batch).astype(np.float32)

def show(name, *arrays):
    data = b"".join(np.ascontiguousarray(array).tobytes() for array in arrays)
    print(name, hashlib.sha256(data).hexdigest())

show("flow", jaxflow.flow(batch, threads=threads))
show("one", *(jaxflow.flow(sentence, sources=0, threads=threads) for sentence in batch))
show("heads", jaxflow.head_flow(batch, sources=0, threads=threads))
show("saturation", *jaxflow.saturation(batch, threads=threads))
cuts = [jaxflow.flow_cut(sentence, layer=-1, source=0, sink=3) for sentence in batch]
show("cuts", *(np.array(cut.edges) for cut in cuts), *(cut.value for cut in cuts))
print([cut.summary() for cut in cuts])
total = lambda attention: (jaxflow.flow(attention, sources=[0, 4], threads=threads) ** 2).sum()
show("jit", jax.jit(lambda attention: jaxflow.flow(attention, threads=threads))(jnp.asarray(batch)))
show("grad", jax.jit(jax.grad(total))(jnp.asarray(batch)))
"""


def report(threads, seed):
    path = os.pathsep.join([str(SUPPORT), os.environ.get("PYTHONPATH", "")])
    # Nothing may depend on the order of sets, which differs from run to run.
    environment = {**os.environ, "PYTHONPATH": path, "PYTHONHASHSEED": seed}
    command = [sys.executable, "-c", REPORT, str(threads)]
    return subprocess.run(command, env=environment, stdout=-1, text=True, check=True).stdout


@pytest.mark.nightly
def test_the_same_bytes_from_run_to_run_and_for_any_number_of_threads():
    first = report(1, "1")
    assert first.count("\n") == 8
    assert report(3, "2") == first


def test_threads_change_no_bit():
    batch = one_of_each(5, 2, 12)
    pulls = np.random.default_rng(9).normal(size=(len(batch), 5, 12, 12))

    def results(threads):
        cuts = cut_tables(edge_weights(batch), range(5), range(12), pulls, threads)
        tables = jaxflow.flow(batch, threads=threads), jaxflow.head_flow(batch, threads=threads)
        return cuts, *tables, jaxflow.flow(batch[0], threads=threads)

    expected = results(1)
    for threads in (2, 5, None):
        for found, one in zip(results(threads), expected, strict=True):
            np.testing.assert_array_equal(found, one)


def test_pieces_are_done_once_each_and_the_first_error_counts():
    done = []
    distribute(done.append, range(50), 4)
    assert sorted(done) == list(range(50))

    def refuse(piece):
        if piece in (3, 4):
            raise InputError(f"piece {piece}")

    for threads in (1, 4):
        with refused("piece 3"):
            distribute(refuse, range(5), threads)


def both_ways(monkeypatch, attention, **options):
    """The weights of a small batch and of a large one, which is compiled, or what was raised."""
    results = []
    for many in (1 << 60, 0):
        monkeypatch.setattr(table, "_MANY", many)
        monkeypatch.setattr(table, "_PIECE", 3000)
        try:
            results.append(table.graph_edges(attention, 0.3, **options)[0])
        except InputError as error:
            results.append(str(error))
    return results


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("masked", [False, True])
def test_large_batches_have_the_same_bits(monkeypatch, dtype, masked):
    rng = np.random.default_rng(3)
    batch, mask = rng.dirichlet(np.ones(11), (40, 3, 4, 11)).astype(dtype), None
    if masked:
        mask = rng.random((40, 11)) < 0.7
        mask[:, 0] = True
        batch = batch * mask[:, None, None, None]
        batch /= batch.sum(-1, keepdims=True)
    for heads in ("mean", "max", 2, -1):
        options = {"heads": heads, "mask": mask, "threads": 2}
        plain, compiled = both_ways(monkeypatch, batch, **options)
        np.testing.assert_array_equal(plain, compiled)
        expected = edge_weights(batch.astype(np.float64), residual=0.3, heads=heads, mask=mask)
        np.testing.assert_allclose(plain, expected, rtol=0, atol=1e-7)


@pytest.mark.parametrize("value", [np.nan, np.inf, -0.25, 0.5, "padded"])
def test_large_batches_have_the_same_errors(monkeypatch, value):
    batch, mask = attention_of("dense", 3, (40, 3, 4, 11, 11)), None
    if value == "padded":
        mask = np.arange(40 * 11).reshape(40, 11) % 11 < 10
    else:
        batch[33, 1, 2, 5, 4], batch[7, 1, 2, 5, 4] = value, value / 2
    plain, compiled = both_ways(monkeypatch, batch, heads="mean", mask=mask, threads=2)
    assert plain == compiled
    with refused(f"^{re.escape(plain)}$"):
        jaxflow.rollout(batch, mask=mask)  # which checks the whole at once


@pytest.mark.parametrize("function", [jaxflow.flow, jaxflow.saturation, jaxflow.head_flow])
def test_work_of_days_is_refused_unless_asked_for(function, monkeypatch):
    large = np.broadcast_to(np.float32(1 / 4096), (12, 1, 4096, 4096))  # refused before it is read
    with refused(
        r"may take up to .* days on one core: .*interval=True, seconds=600\) .* name the sources"
    ):
        function(large)
    monkeypatch.setattr(table, "LIMIT", 1e-9)
    attention = attention_of("dense", 0, (3, 2, 5, 5))
    with refused("pass patient=True"):
        function(attention)
    found = function(attention, patient=True)
    monkeypatch.undo()
    np.testing.assert_equal(found, function(attention))


def test_a_long_compilation_is_announced_in_one_line(capsys, monkeypatch):
    monkeypatch.setattr(flow_threads, "PATIENCE", 0.01)
    with flow_threads.announced("attention flow"):
        time.sleep(0.2)
    assert re.fullmatch("jaxflow: compiling attention flow [^\n]*\n", capsys.readouterr().err)
    monkeypatch.undo()
    with flow_threads.announced("attention flow"):
        pass
    assert not capsys.readouterr().err


@pytest.mark.nightly
def test_the_first_flow_of_an_installation_takes_seconds(tmp_path):
    code = (
        "import time, numpy, jaxflow\n"
        "start = time.process_time()\n"
        "jaxflow.flow(numpy.full((3, 1, 4, 4), 0.25))\n"
        "print(time.process_time() - start)"
    )
    environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path)}
    command = [sys.executable, "-c", code]
    first, second = (
        subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        for _ in range(2)
    )
    # Three times what it takes on a free core, for busy ones.
    assert float(first.stdout) < 20
    assert first.stderr == "" or first.stderr.count("\n") == 1
    assert float(second.stdout) < 3
    assert second.stderr == ""


def test_a_token_that_takes_most_attention_counts_as_more_work(monkeypatch):
    n = 20
    even = np.full((4, 1, n, n), 1 / n)
    sink = even * 0.2
    sink[..., 0] += 0.8
    monkeypatch.setattr(table, "LIMIT", 3 * n**3 * 2 * table._DENSE.usual)
    given = {"sources": -1, "layers": -1}
    assert jaxflow.flow(even, **given).shape == (1, 1, n)
    with refused("interval=True"):
        jaxflow.flow(sink, **given)
    bounds = jaxflow.flow(sink, interval=True, seconds=600, **given)
    np.testing.assert_allclose(bounds.lower, jaxflow.flow(sink, patient=True, **given), atol=1e-9)
