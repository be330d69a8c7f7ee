"""``jaxflow benchmark``: it runs on a run too and writes what was asked. Nothing is timed."""

import json
import re
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_corpus import write_small_corpus

from jaxflow import models
from jaxflow.commands import main
from jaxflow.eval.benchmarks import flow_peers
from jaxflow.eval.benchmarks.attentions import KINDS
from jaxflow.eval.benchmarks.trained import corpus_attention, from_run, trained_attention
from jaxflow.train.config import TrainConfig
from jaxflow.train.data import load_splits


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


def test_trained_attention_is_that_of_the_runs_test_sentences(run):
    model = models.load(run)
    test = load_splits(TrainConfig.from_dict(json.loads((run / "config.json").read_text())),
                       model.tokenizer)["test"]  # fmt: skip
    n = int(test.lengths.max())
    row = int(np.flatnonzero(test.lengths == n)[0])
    expected = np.asarray(model(test.tokens[[row], :n]).attention)
    np.testing.assert_allclose(trained_attention(from_run(run), n), expected, atol=1e-6)


def test_a_test_set_comes_without_padding(run):
    model = models.load(run)
    config = TrainConfig.from_dict(json.loads((run / "config.json").read_text()))
    test = load_splits(config, model.tokenizer)["test"]
    groups = corpus_attention(from_run(run), 10)
    assert sorted(test.lengths[:10]) == [len(one[0, 0]) for group in groups for one in group]
    for group in groups:
        n = group.shape[-1]
        first = int(np.flatnonzero(test.lengths[:10] == n)[0])
        expected = np.asarray(model(test.tokens[[first], :n]).attention)[0]
        np.testing.assert_allclose(group[0], expected, atol=1e-6)


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
    # Tables, threads, the call.
    assert len(found["comparisons"]) == 2 * len(KINDS) + 2
    assert [path.name for path in file.parent.iterdir()] == ["record.json"]


def test_the_page_is_made_again_from_its_record(tmp_path, capsys):
    arguments = ["benchmark", "flow", "--tokens", "3", "--layers", "2"]
    assert main([*arguments, "--docs", str(tmp_path / "a")]) == 0
    record = tmp_path / "a" / "benchmarks.json"
    capsys.readouterr()
    assert main(["benchmark", "--from", str(record), "--docs", str(tmp_path / "b")]) == 0
    assert "median" not in capsys.readouterr().out  # nothing was timed
    for name in ("benchmarks.md", "benchmarks.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_another_file_is_no_record(tmp_path, capsys):
    other = tmp_path / "other.json"
    other.write_text('{"format": "another"}', encoding="utf-8")
    assert main(["benchmark", "--from", str(other), "--docs", str(tmp_path)]) == 2
    assert "of format jaxflow-benchmark-2, got 'another'" in capsys.readouterr().err


def test_a_runs_attention_joins_in(run, capsys):
    arguments = ["benchmark", "flow", "--tokens", "4", "--layers", "2", "--run", str(run)]
    assert main(arguments) == 0
    out = capsys.readouterr().out
    assert "flow: trained attention, 2 layers, 4 tokens" in out
    assert "flow: trained attention, 256 sentences of 4 tokens in one call, 2 layers" in out
    # A corpus has fewer: they come again.
    (different,) = set(re.findall(r"(\d+) different sentences", out))
    assert 1 <= int(different) < 64


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
        (["flow", "--data", "nowhere"], "nowhere"),
        (["flow", "--run", "one", "--data", "two"], "expected one of them"),
        (["flow", "--model", "folder"], "--model is for the benchmark models"),
        (["models", "--model", "nowhere"], "nowhere"),
        (["nothing"], "nothing"),
        (["--from", "record.json"], "expected --docs"),
        (["--from", "record.json", "--docs", "docs"], "cannot read a benchmark's record"),
    ],
)
def test_bad_options_are_one_line(arguments, part, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["benchmark", *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("jaxflow: error: ")
    assert captured.err.count("\n") == 1
    assert part in captured.err
