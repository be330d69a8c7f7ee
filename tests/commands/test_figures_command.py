"""``jaxflow figures``: which figures it draws from what it finds, and what it refuses."""

from __future__ import annotations

import json
from types import SimpleNamespace

import figure_data
import jax
import jax.numpy as jnp
import pytest

from jaxflow import models
from jaxflow.commands import main
from jaxflow.eval.paper.report import write_reports

TABLES = {"agreement-blank-out", "agreement-gradient", "agreement-gradient-norm", "saturation"}
TABLES |= {"entropy"}
SENTENCE = {"maps-raw", "maps-rollout", "maps-flow", "readout", "graph", "bars"}


@pytest.fixture
def results(tmp_path):
    folder = tmp_path / "results"
    write_reports(folder, scores=figure_data.scores(), tables=figure_data.tables())
    return folder


@pytest.fixture
def explained(monkeypatch):
    """Explain with no model; returns what was loaded and explained."""
    seen = SimpleNamespace(runs=[], sentences=[])
    maps = figure_data.sentence()

    def explain(text):
        seen.sentences.append(text)
        words = [SimpleNamespace(text=word) for word in maps.tokens]
        return SimpleNamespace(
            tokens=words, attention=maps.attention, scores=maps.scores, readout=0
        )

    monkeypatch.setattr("jaxflow.eval.explain.explanation.explainer", lambda model, words: explain)
    monkeypatch.setattr("jaxflow.models.load", seen.runs.append)
    return seen


@pytest.fixture
def no_bundled_model(monkeypatch, tmp_path):
    monkeypatch.setattr("jaxflow.models.hub.BUNDLED", tmp_path / "none")


def make_run(folder):
    (folder / "model").mkdir(parents=True)
    (folder / "model" / "model.safetensors").write_bytes(b"")
    lines = [{"step": 50, "loss": 0.7, "accuracy": 0.5}, {"step": 90, "loss": 0.5, "accuracy": 0.6}]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / "metrics.jsonl").write_text(text, encoding="utf-8")
    return folder


def names(folder):
    return {path.name for path in folder.iterdir()}


def test_all_figures_of_what_reproduce_leaves(results, explained, capsys):
    run = make_run(results / "run")
    assert main(["figures", str(results)]) == 0
    wanted = TABLES | SENTENCE | {"lengths", "training"}
    assert names(results / "figures") == {f"{name}.svg" for name in wanted}
    captured = capsys.readouterr()
    assert captured.err == ""
    assert captured.out.count("wrote ") == len(wanted)
    assert explained.runs == [run]
    assert explained.sentences == ["the key to the cabinets"]


def test_the_run_above_what_evaluate_leaves(results, explained, tmp_path, capsys):
    run = make_run(tmp_path / "run")
    results = results.rename(run / "evaluation")
    assert main(["figures", str(results), "--sentence", "a b", "--sentence", "c"]) == 0
    assert explained.runs == [run]
    assert explained.sentences == ["a b", "c"]
    assert capsys.readouterr().err == ""
    found = names(results / "figures")
    assert {f"sentence-{k}-{name}.svg" for k in (1, 2) for name in SENTENCE} <= found


def test_a_trained_model_in_the_formats_asked_for(results, tmp_path, capsys):
    tokenizer = models.WordTokenizer((*models.tokenizer.SPECIAL_TOKENS, "the", "key"))
    config = models.EncoderConfig(
        vocabulary=len(tokenizer), positions=16, layers=2, heads=2, width=8
    )
    params = models.AgreementEncoder(config).init(jax.random.key(0), jnp.zeros((1, 2), jnp.int32))
    models.save(tmp_path / "run" / "model", models.Model(config, params, tokenizer))
    out = tmp_path / "out"
    arguments = ["figures", str(results), "--run", str(tmp_path / "run"), "--out", str(out)]
    assert main([*arguments, "--sentence", "the key $x$ <b>", "--format", "pdf,png"]) == 0
    wanted = TABLES | SENTENCE | {"lengths"}
    assert names(out) == {f"{name}.{form}" for name in wanted for form in ("pdf", "png")}
    assert "left out, figures of training" in capsys.readouterr().err


@pytest.mark.usefixtures("no_bundled_model")
def test_what_cannot_be_drawn_is_said(results, tmp_path, capsys):
    (results / "scores.npz").unlink()
    assert main(["figures", str(results), "--out", str(tmp_path / "out")]) == 0
    assert names(tmp_path / "out") == {f"{name}.svg" for name in TABLES}
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3
    for line, part in zip(lines, ("scores.npz", "metrics.jsonl", "no model"), strict=True):
        assert line.startswith("jaxflow: left out, figures of ")
        assert part in line


@pytest.mark.usefixtures("no_bundled_model")
@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["nowhere"], "no tables.json in nowhere"),
        (["results", "--format", "gif"], "got 'gif'"),
        (["results", "--format", ""], "svg,pdf,png"),
        (["results", "--run", "nowhere"], "no trained model at nowhere"),
        (["results", "--sentence", "the key"], "no model"),
        (["results", "--out", "results/tables.json"], "cannot be written"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(arguments, part, results, monkeypatch, capsys):
    monkeypatch.chdir(results.parent)
    before = names(results)
    assert main(["figures", *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("jaxflow: error: ")
    assert captured.err.count("\n") == 1
    assert part in captured.err
    assert names(results) == before
