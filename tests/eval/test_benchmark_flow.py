"""The flow benchmark: all solvers agree, and every comparison is what it says. Nothing is timed."""

from pathlib import Path

import networkx
import numpy as np
import pytest
from benchmark_records import SHORT, check_record

from jaxflow._flow.definition import flow_by_definition
from jaxflow.attention import check_attention, edge_weights
from jaxflow.eval.benchmarks import flow_peers
from jaxflow.eval.benchmarks.attentions import KINDS, synthetic_attention
from jaxflow.eval.benchmarks.flow import run_flow
from jaxflow.eval.benchmarks.flow_absorption import WITH, WITHOUT
from jaxflow.eval.benchmarks.flow_batches import AROUND, THREADS, mixed_attention
from jaxflow.eval.benchmarks.flow_growth import fit_slope
from jaxflow.eval.benchmarks.flow_plan import FULL, FlowPlan, FlowWork, Growth, fit_plan
from jaxflow.eval.benchmarks.flow_table import BATCH, CALL, EDMONDS_KARP, KERNEL
from jaxflow.eval.benchmarks.record import is_own
from jaxflow.eval.benchmarks.trained import (
    Trained,
    corpus_attention,
    from_shipped,
    trained_attention,
)

REAL_DATA = Path(__file__).parents[2] / "../shared/data/agreement"
SIZES = {"batch_sentences": 3, "call_sentences": 2, "budget": SHORT}


def errors(comparison):
    return {entry["name"]: entry["error"] for entry in comparison["contenders"]}


def test_flow_agrees_with_networkx_on_every_kind_of_attention():
    works = tuple(FlowWork(kind, 3, 5) for kind in KINDS)
    plan = FlowPlan(works, 3, 1, batch=FlowWork("peaky", 2, 4), **SIZES)
    *tables, threads, call = check_record(list(run_flow(plan)))
    assert len(tables) == len(KINDS)
    for comparison in tables:
        assert comparison["reference"] == "networkx preflow_push"
        assert comparison["settings"]["sentences"] == 3
        found = errors(comparison)
        assert list(found)[:3] == [KERNEL, BATCH, CALL]
        assert max(found.values()) <= 1e-9
        for name in flow_peers.OPTIONAL:
            assert (name in found) != (name in comparison["missing"])
        parts = {entry["name"]: len(entry["parts"]) for entry in comparison["contenders"]}
        assert parts[KERNEL] == parts[CALL] == 3
        assert parts[EDMONDS_KARP] == 1
        assert f"{EDMONDS_KARP}: 1 of the 3 sentences" in comparison["notes"]
        floor = 3 * 5 * 5 * 8 / comparison["settings"]["bandwidth"]
        assert comparison["settings"]["floor_seconds"] == pytest.approx(floor)
    assert errors(threads) == dict.fromkeys(THREADS.values(), 0)
    assert errors(call) == {KERNEL: 0, CALL: 0, AROUND: None}
    assert (threads["settings"]["sentences"], call["settings"]["sentences"]) == (3, 2)


def test_slow_peers_are_named_where_they_are_left_out(monkeypatch):
    monkeypatch.setattr("jaxflow.eval.benchmarks.flow_table._NETWORKX", 1)
    plan = FlowPlan((FlowWork("diffuse", 2, 3),), 1, batch=FlowWork("diffuse", 2, 3), **SIZES)
    first = next(iter(run_flow(plan)))
    assert EDMONDS_KARP in first.missing
    assert EDMONDS_KARP not in {timing.name for timing in first.timings}


def test_growth_has_a_line_for_everyone_and_its_slopes():
    growth = Growth("tokens", (3, 4, 6), FlowWork("trained-like", 2, 0))
    plan = FlowPlan((), 1, growths=(growth,), batch=FlowWork("peaky", 2, 3), **SIZES)
    *sizes, last, _, _ = check_record(list(run_flow(plan)))
    for tokens, comparison in zip((3, 4, 6), (*sizes, last), strict=True):
        assert comparison["settings"]["measure"] == "growth"
        assert (comparison["settings"]["tokens"], comparison["settings"]["layers"]) == (tokens, 2)
        assert max(errors(comparison).values()) <= 1e-9
    assert "slopes" not in sizes[0]["settings"]
    slopes = last["settings"]["slopes"]
    for name in (KERNEL, CALL, EDMONDS_KARP):
        assert (slopes[name]["from"], slopes[name]["to"]) == (3, 6)
        times = [
            next(entry["seconds"] for entry in one["contenders"] if entry["name"] == name)
            for one in (*sizes, last)
        ]
        x, y = np.log([3, 4, 6]), np.log(times)
        expected = np.cov(x, y)[0, 1] / np.var(x, ddof=1)
        assert slopes[name]["slope"] == pytest.approx(expected)


def test_a_peer_out_of_patience_is_left_out_of_larger_sizes():
    growth = Growth("layers", (1, 2), FlowWork("diffuse", 0, 3))
    batch = FlowWork("peaky", 2, 3)
    plan = FlowPlan((), 1, growths=(growth,), patience=0.0, batch=batch, **SIZES)
    first, second, *_ = run_flow(plan)
    assert EDMONDS_KARP not in first.missing
    assert "at 1 layers" in second.missing[EDMONDS_KARP]
    assert [timing.name for timing in second.timings] == [KERNEL, CALL]
    assert second.reference == ""


def test_slopes_of_known_growth():
    sizes = np.array([16, 24, 32, 48])
    assert fit_slope(sizes, 3e-6 * sizes**2.5) == pytest.approx(2.5)
    assert fit_slope(sizes, np.full(4, 7.0)) == pytest.approx(0)


def test_absorption_agrees_with_the_kernel_without():
    work = FlowWork("trained-like", 4, 9)
    plan = FlowPlan((), 2, absorption=(work,), batch=FlowWork("peaky", 2, 3), **SIZES)
    comparison = check_record(list(run_flow(plan)))[0]
    assert list(errors(comparison)) == [WITH, WITHOUT]
    assert max(errors(comparison).values()) <= 1e-9


def test_sources_in_reverse_order_do_without_the_layer_below():
    """What the comparison without absorption rests on: the kernel must not read that layer."""
    from jaxflow._flow.kernel import fill

    n = 6
    edges = np.asarray(edge_weights(synthetic_attention("peaky", 3, n)[0]))[None]
    layers, tokens = np.arange(3), np.arange(n)
    exact = np.empty((1, 3, n, n))
    fill(edges, layers, tokens, exact, 0, 1, 0, n, 0, 3)
    for sources, reads in ((tokens, True), (tokens[::-1].copy(), False)):
        table = np.full((1, 3, n, n), 9.0)  # says that everything below is saturated
        fill(edges, layers, sources, table, 0, 1, 0, n, 2, 3)
        wrong = np.abs(table[0, 2] - exact[0, 2][sources]).max()
        assert (wrong > 1e-3) == reads


def test_a_made_up_test_set_has_every_kind_and_many_lengths():
    groups = mixed_attention(60, layers=2)
    assert sum(len(group) for group in groups) == 60
    lengths = [group.shape[-1] for group in groups]
    assert len(set(lengths)) == len(lengths) > 5
    for group in groups:
        assert group.dtype == np.float32
        check_attention(group)
    plan = FlowPlan((), 1, corpus_sentences=12, batch=FlowWork("peaky", 2, 3), **SIZES)
    *_, corpus = check_record(list(run_flow(plan)))
    assert corpus["settings"]["sentences"] == 12


def test_a_plan_is_fitted_to_what_was_asked():
    sized = fit_plan(FULL, (4,), 3)
    assert sized.works == tuple(FlowWork(kind, 3, 4) for kind in KINDS)
    assert (sized.growths, sized.absorption, sized.corpus_sentences) == ((), (), 0)
    trained = fit_plan(FULL, trained=Trained(None, None))
    assert [work.tokens for work in trained.works if work.kind == "trained"] == [9, 20, 44]
    assert [work.kind for work in (*trained.absorption, trained.batch)] == [
        "trained", "bert-like", "trained"
    ]  # fmt: skip
    assert trained.growths == FULL.growths


@pytest.mark.skipif(
    not REAL_DATA.is_dir(), reason="the real corpus ../shared/data/agreement is not here"
)
def test_the_model_that_comes_along_reads_a_corpus():
    trained = from_shipped(REAL_DATA)
    attention = trained_attention(trained, 9, sentences=3)
    assert attention.shape == (3, 6, 8, 9, 9)
    check_attention(attention)
    groups = corpus_attention(trained, 20)
    assert sum(len(group) for group in groups) == 20
    for group in groups:
        check_attention(group)


def test_own_names_are_told_from_others():
    assert all(
        is_own(name) for name in (KERNEL, BATCH, CALL, WITH, WITHOUT, *THREADS.values(), AROUND)
    )
    assert not any(is_own(name) for name in (EDMONDS_KARP, *flow_peers.OPTIONAL))


@pytest.mark.parametrize("kind", KINDS)
def test_peers_fill_the_table_by_its_definition(kind):
    attention = synthetic_attention(kind, 3, 4, heads=2)[0]
    edges = edge_weights(check_attention(attention)[0])
    source = 3
    expected = [
        [flow_by_definition(edges, layer, source, sink) for sink in range(4)] for layer in range(3)
    ]
    solvers = {"edmonds_karp": flow_peers.edmonds_karp, "preflow_push": flow_peers.preflow_push}
    solvers |= flow_peers.optional_peers()[0]
    for solver in solvers.values():
        np.testing.assert_allclose(solver(edges, source), expected, atol=1e-9)


def test_edmonds_karp_gets_the_idle_edges_too(monkeypatch):
    sizes = []

    def measure(graph, *arguments, **options):
        sizes.append(graph.number_of_edges())
        return 0.0

    monkeypatch.setattr(networkx, "maximum_flow_value", measure)
    flow_peers.edmonds_karp(np.zeros((2, 3, 3)), 0)
    assert sizes == [2 * 9] * (2 * 3)  # one call a (layer, sink)


@pytest.mark.parametrize("kind", KINDS)
def test_synthetic_attention_is_attention(kind):
    attention = synthetic_attention(kind, 2, 6, heads=3, sentences=2)
    assert attention.shape == (2, 2, 3, 6, 6)
    check_attention(attention)
    np.testing.assert_array_equal(attention, synthetic_attention(kind, 2, 6, heads=3, sentences=2))
    assert kind != "causal" or not np.triu(attention, 1).any()
