"""``jaxflow benchmark``: it runs, its peers agree, its record has its schema. Nothing is timed."""

import json
import re
import sys

import jax
import jax.numpy as jnp
import networkx
import numpy as np
import pytest
from small_corpus import write_small_corpus

from jaxflow import models
from jaxflow.attention import check_attention, edge_weights
from jaxflow.commands import main
from jaxflow.eval.benchmarks import flow_peers, rollout, training
from jaxflow.eval.benchmarks.attentions import KINDS, synthetic_attention, trained_attention
from jaxflow.eval.benchmarks.flow import FlowPlan, FlowWork, run_flow
from jaxflow.eval.benchmarks.record import record
from jaxflow.eval.benchmarks.timing import Budget, Contender, take_turns
from jaxflow.flow.definition import flow_by_definition
from jaxflow.train.config import TrainConfig
from jaxflow.train.data import load_splits

SHORT = Budget(seconds=0.01, rounds=2)
CONTENDER = {"name", "seconds", "fastest", "rounds", "first_call", "error", "ratio"}


@pytest.fixture
def run(tmp_path, monkeypatch):
    """An untrained run on a small corpus: attention is attention."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    data = write_small_corpus(tmp_path / "corpus")
    config = TrainConfig(corpus="simple", data=data, positions=24)
    tokenizer = models.WordTokenizer.build(["the keys to cabinet"])
    encoder = models.EncoderConfig(
        vocabulary=len(tokenizer), positions=24, layers=2, heads=2, width=16
    )
    params = models.AgreementEncoder(encoder).init(jax.random.key(0), jnp.ones((1, 2), jnp.int32))
    folder = tmp_path / "run"
    models.save(folder / "model", models.Model(encoder, params, tokenizer))
    (folder / "config.json").write_text(json.dumps(config.to_dict()), encoding="utf-8")
    return folder


def check_record(comparisons):
    text = json.dumps(record(comparisons), allow_nan=False)
    found = json.loads(text)
    assert set(found) == {"format", "method", "machine", "versions", "comparisons"}
    assert found["format"] == "jaxflow-benchmark-1"
    for comparison in found["comparisons"]:
        assert set(comparison) == {
            "benchmark", "work", "settings", "reference", "contenders", "missing", "notes"
        }  # fmt: skip
        assert comparison["contenders"][0]["ratio"] == 1
        for contender in comparison["contenders"]:
            assert set(contender) == CONTENDER
            assert 0 < contender["fastest"] <= contender["seconds"]
            assert contender["rounds"] >= 1
    return found["comparisons"]


def test_flow_agrees_with_networkx_on_every_kind_of_attention():
    works = tuple(FlowWork(kind, 3, 5) for kind in KINDS)
    plan = FlowPlan(works, FlowWork("peaky", 2, 4), 3, growth=(4, 6), budget=SHORT)
    found = check_record(list(run_flow(plan)))
    assert len(found) == len(KINDS) + 2
    for comparison in found[: len(KINDS)]:
        assert comparison["reference"] == "networkx preflow_push"
        errors = {entry["name"]: entry["error"] for entry in comparison["contenders"]}
        assert errors["jaxflow.flow, 1 thread"] <= 1e-9
        assert errors["networkx edmonds_karp"] <= 1e-9
        batches = [name for name in errors if "one of a batch" in name]
        assert [errors[name] <= 1e-9 for name in batches] == [True]
        for name in flow_peers.OPTIONAL:
            assert (name in errors) != (name in comparison["missing"])
    threads = {entry["name"]: entry["error"] for entry in found[-2]["contenders"]}
    assert threads["jaxflow.flow, all cores"] == 0
    assert isinstance(found[-1]["settings"]["slope"], float)


def test_slow_peers_are_named_where_they_are_left_out(monkeypatch):
    monkeypatch.setattr("jaxflow.eval.benchmarks.flow._EDMONDS_KARP", 1)
    plan = FlowPlan((FlowWork("diffuse", 2, 3),), FlowWork("diffuse", 2, 3), 2, budget=SHORT)
    first = next(iter(run_flow(plan)))
    assert "networkx edmonds_karp" in first.missing
    assert "networkx edmonds_karp" not in {timing.name for timing in first.timings}


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


def test_trained_attention_is_that_of_the_runs_test_sentences(run):
    model = models.load(run)
    test = load_splits(TrainConfig.from_dict(json.loads((run / "config.json").read_text())),
                       model.tokenizer)["test"]  # fmt: skip
    n = int(test.lengths.max())
    row = int(np.flatnonzero(test.lengths == n)[0])
    expected = np.asarray(model(test.tokens[[row], :n]).attention)
    np.testing.assert_allclose(trained_attention(run, n), expected, atol=1e-6)


def test_rollouts_agree():
    plan = rollout.RolloutPlan((rollout.RolloutWork(2, 5, 3, 2),), SHORT)
    (comparison,) = check_record(list(rollout.run_rollout(plan)))
    names = {entry["name"] for entry in comparison["contenders"]}
    assert {"jaxflow.rollout in jit", "einsum in jit", "NumPy, a sentence at a time"} <= names
    assert all(entry["error"] <= 1e-6 for entry in comparison["contenders"])


def tiny_training():
    encoder = models.EncoderConfig(vocabulary=20, positions=8, layers=1, heads=2, width=16)
    return training.TrainPlan(encoder, batch=4, tokens=6, budget=SHORT)


def test_training_without_pytorch_says_so(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    (comparison,) = check_record(list(training.run_train(tiny_training())))
    assert list(comparison["missing"]) == ["PyTorch"]
    assert [entry["name"] for entry in comparison["contenders"]] == ["jaxflow, float32"]


def test_pytorch_runs_the_same_encoder():
    pytest.importorskip("torch")
    (comparison,) = check_record(list(training.run_train(tiny_training())))
    errors = {entry["name"]: entry["error"] for entry in comparison["contenders"]}
    assert errors["PyTorch, float32"] <= 1e-5


def test_turns_are_taken_and_budgets_kept():
    calls = []
    slow = Budget(seconds=0.0, rounds=5)
    contenders = [
        Contender(name, lambda name=name: calls.append(name) or 3.0, lambda result: result - 1)
        for name in "ab"
    ]
    timings = take_turns(contenders, slow)
    # Slower than the budget: the first call is the measurement.
    assert calls == ["a", "b"]
    assert [(timing.rounds, timing.error) for timing in timings] == [(1, 2.0), (1, 2.0)]

    ticks = iter(range(1000))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("time.perf_counter", lambda: float(next(ticks)))
        calls.clear()
        compiling = [Contender(c.name, c.run, compiles=True, units=4) for c in contenders]
        timings = take_turns(compiling, Budget(seconds=10.0, rounds=3))
    # First call, another to count by, then the rounds with the order turned each time.
    assert calls == ["a", "a", "b", "b", "a", "b", "b", "a", "a", "b"]
    assert [timing.rounds for timing in timings] == [3, 3]
    assert [timing.seconds for timing in timings] == [0.25, 0.25]


def test_the_command_prints_and_writes_its_record(tmp_path, capsys):
    file = tmp_path / "new" / "record.json"
    arguments = ["benchmark", "flow", "--tokens", "3,4", "--layers", "2", "--json", str(file)]
    assert main(arguments) == 0
    out = capsys.readouterr().out
    assert "Contenders take turns" in out
    assert "networkx edmonds_karp" in out
    assert "error: largest absolute difference from networkx preflow_push" in out
    for name, (package, _) in flow_peers.OPTIONAL.items():
        assert package in sys.modules or f"{name}: not installed" in out
    found = json.loads(file.read_text(encoding="utf-8"))
    assert len(found["comparisons"]) == 2 * len(KINDS) + 1
    assert [path.name for path in file.parent.iterdir()] == ["record.json"]


def test_a_runs_attention_joins_in(run, capsys):
    arguments = ["benchmark", "flow", "--tokens", "4", "--layers", "2", "--run", str(run)]
    assert main(arguments) == 0
    out = capsys.readouterr().out
    assert "flow: trained attention, 2 layers, 4 tokens" in out
    # As many sentences as there are.
    assert re.search(r"flow: trained attention, \d+ sentences of 4 tokens, 2 layers", out)


def test_a_run_without_sentences_of_a_length_is_refused(run, capsys):
    assert main(["benchmark", "flow", "--tokens", "25", "--run", str(run)]) == 2
    assert "no test sentence of 25 tokens" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["flow", "--tokens", "many"], "tokens must be whole numbers"),
        (["flow", "--tokens", "1"], "at least 2"),
        (["rollout", "--layers", "0"], "layers must be at least 1"),
        (["flow", "--run", "nowhere"], "no run at nowhere"),
        (["nothing"], "nothing"),
    ],
)
def test_bad_options_are_one_line(arguments, part, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["benchmark", *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("jaxflow: error: ")
    assert captured.err.count("\n") == 1
    assert part in captured.err
