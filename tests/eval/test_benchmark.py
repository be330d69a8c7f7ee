"""Test the benchmark: order of calls, correct peers, one record. No time is checked."""

import sys
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest
from tiny_models import tiny

from jaxflow import InputError, models
from jaxflow._flow.fallback import flow_by_definition
from jaxflow.attention import check_attention, edge_weights
from jaxflow.eval.benchmarks import encoders, flow, rollout
from jaxflow.eval.benchmarks.flow import KINDS, Work, run_flow, synthetic_attention
from jaxflow.eval.benchmarks.timing import (
    Budget,
    Contender,
    Timing,
    bytes_text,
    measure,
    over_parts,
    ratio,
    ratio_text,
    seconds_text,
    take_turns,
    traced_peak,
)

SHORT = Budget(seconds=0.01, rounds=2)
# A large vocabulary, so that memory rises by more than the system's own bookkeeping hides.
TINY = models.BertConfig(
    vocabulary=20_000, positions=8, layers=2, heads=2, width=64, hidden_width=32, pooler=True
)


def errors(comparison):
    return {timing.name: timing.error for timing in comparison.timings}


def test_contenders_take_turns_within_their_budgets(monkeypatch):
    calls = []
    contenders = [
        Contender(name, lambda name=name: calls.append(name) or 3.0, lambda result: result - 1)
        for name in "ab"
    ]
    timings = take_turns(contenders, Budget(seconds=0.0, rounds=5))
    # Slower than the budget: the first call is the measurement; another one counts memory.
    assert calls == (["a", "a", "b", "b"] if sys.platform == "linux" else ["a", "b"])
    assert [(timing.rounds, timing.error) for timing in timings] == [(1, 2.0), (1, 2.0)]

    monkeypatch.setattr("jaxflow.eval.benchmarks.timing._reset_peak", lambda: 0)  # as elsewhere
    ticks = iter(range(1000))
    calls.clear()
    compiling = [Contender(c.name, c.run, compiles=True, units=4) for c in contenders]
    with monkeypatch.context() as patch:
        patch.setattr("time.perf_counter", lambda: float(next(ticks)))
        timings = take_turns(compiling, Budget(seconds=10.0, rounds=3))
    # The first call, another without compilation, then rounds, each in an order of its own.
    rounds = ["".join(calls[at : at + 2]) for at in (4, 6, 8)]
    assert calls[:4] == ["a", "a", "b", "b"]
    assert set(rounds) == {"ab", "ba"}
    assert [timing.seconds for timing in timings] == [0.25, 0.25]
    assert [timing.peak_memory for timing in timings] == [None, None]


def test_parts_are_combined_by_name():
    parts = [
        [Timing("own", 1.0, 1.0, 3, 1.0, 1e-12, 10), Timing("slow", 9.0, 9.0, 3, 2.0)],
        [Timing("own", 4.0, 4.0, 2, 1.0, 1e-11, 30), Timing("slow", 20.0, 20.0, 3, 1.0)],
        [Timing("own", 2.0, 0.5, 3, 1.0, None, 20)],
    ]
    own, slow = over_parts(parts)
    assert own == Timing("own", 2.0, 0.5, 2, 1.0, 1e-11, 30, (1.0, 4.0, 2.0))
    assert (slow.seconds, slow.first_call, slow.error, slow.peak_memory) == (14.5, 2.0, None, None)
    assert ratio(slow, own) == 7.0  # over the sentences that both did: 9 / 1 and 20 / 4


@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is measured on Linux only")
def test_peak_memory_is_that_of_the_call():
    size = 60_000_000

    def allocate():
        temporary = np.ones(size // 8)
        del temporary

    for _ in range(2):  # what the first call gave back must not hide the second
        *_, peak = measure(allocate)
        assert size - 2_000_000 <= peak <= size + 20_000_000  # Linux adds pages up in batches
    assert measure(lambda: None)[2] < 20_000_000
    assert 8_000_000 <= traced_peak(lambda: np.ones(1_000_000)) <= 8_100_000


@pytest.mark.parametrize("kind", KINDS)
def test_solvers_agree_with_the_definition(kind):
    attention = synthetic_attention(kind, 3, 4, heads=2, sentences=2)
    check_attention(attention)
    np.testing.assert_array_equal(attention, synthetic_attention(kind, 3, 4, heads=2, sentences=2))
    assert kind != "causal" or not np.triu(attention, 1).any()
    edges = np.asarray(edge_weights(attention[0]))
    source = 3
    expected = [
        [flow_by_definition(edges, layer, source, sink) for sink in range(4)] for layer in range(3)
    ]
    for solver in flow.available_solvers(1)[0].values():
        np.testing.assert_allclose(solver(edges, source), expected, atol=1e-9)


def test_comparisons_agree_and_name_every_peer():
    works = [
        Work("peaky", 3, 5, 3, slow_sentences=1),
        Work("causal", 2, 4, 3, "batch"),
        Work("diffuse", 8, 20, 1),
    ]
    table, batch, large = run_flow(works, SHORT)
    assert table.reference == flow.PREFLOW_PUSH
    assert list(errors(table))[:3] == [flow.KERNEL, flow.BATCH, flow.CALL]
    assert max(errors(table).values()) <= 1e-9
    assert f"{flow.EDMONDS_KARP}: 1 of the 3 sentences" in table.notes
    assert set(errors(batch).values()) == {0.0}
    assert len(batch.timings) == 4
    for comparison in (table, large):
        for name in ("OR-tools", "igraph", flow.EDMONDS_KARP):
            assert (name in errors(comparison)) != (name in comparison.missing)
    assert flow.EDMONDS_KARP in large.missing
    (rows,) = rollout.run_rows([128], SHORT)
    known = [error for error in errors(rows).values() if error is not None]
    assert len(known) == 3
    assert max(known) <= 2e-6
    (comparison,) = rollout.run_rollout([(2, 5, 3)], SHORT)
    assert len(comparison.timings) + len(comparison.missing) == 7
    assert max(errors(comparison).values()) <= 1e-6


@pytest.mark.parametrize("installed", [True, False])
def test_encoders_and_their_peers_do_the_same_work(installed, monkeypatch):
    if installed:
        pytest.importorskip("torch")
        pytest.importorskip("transformers")
    else:
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    # Threads instead of fresh processes, whose imports take ten seconds.
    threads = lambda count, mp_context: ThreadPoolExecutor(count)  # noqa: E731
    monkeypatch.setattr(encoders, "ProcessPoolExecutor", threads)
    small = models.EncoderConfig(vocabulary=20, positions=8, layers=1, heads=2, width=16)
    (step,) = encoders.run_train(SHORT, small, batch=4, n=6)
    forward, loading = encoders.run_models([(2, 5)], SHORT, config=TINY, loads=1)
    if not installed:
        assert [len(one.timings) for one in (step, forward, loading)] == [1, 1, 1]
        assert step.missing
        assert forward.missing
        return
    assert errors(step)["PyTorch, float32"] <= 1e-5
    assert errors(forward)["transformers, eager attention"] <= 1e-5
    assert [timing.name for timing in loading.timings] == [encoders.OURS, encoders.THEIRS]
    assert loading.timings[0].peak_memory > 0.8 * loading.settings["file"]
    assert loading.timings[0].seconds > 0


def test_difference_covers_every_layer():
    torch = pytest.importorskip("torch")
    ours = models.EncoderOutput(None, np.zeros((1, 2, 3, 4, 4)), np.zeros((1, 3, 4, 5)))
    theirs = SimpleNamespace(
        attentions=[torch.zeros(1, 3, 4, 4) for _ in range(2)],
        hidden_states=[torch.zeros(1, 4, 5) for _ in range(3)],
    )
    assert encoders.difference(theirs, ours) == 0
    theirs.attentions[1][0, 2, 3, 3] = 0.25
    assert encoders.difference(theirs, ours) == 0.25
    theirs.hidden_states[2][0, 3, 4] = -0.5
    assert encoders.difference(theirs, ours) == 0.5


def test_another_architecture_is_refused(tmp_path):
    models.save_pretrained(tmp_path, tiny(causal=True))
    with pytest.raises(InputError, match="must be BERT, DistilBERT or RoBERTa"):
        next(encoders.run_models([(2, 5)], SHORT, folder=tmp_path))


def test_figures_are_short():
    assert [seconds_text(s) for s in (12.345, 0.0123, 4.5e-6)] == ["12.3 s", "12.3 ms", "4.5 µs"]
    assert [ratio_text(r) for r in (15032.7, 69.44, 0.523)] == ["15,033x", "69.4x", "0.523x"]
    assert [bytes_text(b) for b in (40960, 123456789)] == ["41 kB", "123 MB"]
