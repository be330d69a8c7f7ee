"""Test ``jaxflow figures``: which figures it draws from which files."""

from __future__ import annotations

import json
from types import SimpleNamespace

import figure_data
import pytest

from jaxflow.commands import main
from jaxflow.eval.paper.report import Evaluation, write_reports

TABLES = {"agreement-blank-out", "agreement-gradient", "agreement-gradient-norm", "saturation"}
TABLES |= {"entropy"}
SENTENCE = {"maps-raw", "maps-rollout", "maps-flow", "readout", "graph", "bars"}


@pytest.fixture
def results(here):
    found = Evaluation(figure_data.tables(), scores=figure_data.scores())
    write_reports(here / "results", found, {})
    return here / "results"


@pytest.fixture
def explained(monkeypatch):
    """Explain with no model; returns what was loaded and explained."""
    seen = SimpleNamespace(runs=[], sentences=[])
    maps = figure_data.sentence(3, 2)

    def explain(text):
        seen.sentences.append(text)
        words = [SimpleNamespace(text=word) for word in maps.tokens]
        return SimpleNamespace(
            tokens=words, attention=maps.attention, scores=maps.scores, readout=0
        )

    monkeypatch.setattr("jaxflow.eval.explanation.explainer", lambda *_, **__: explain)
    monkeypatch.setattr(
        "jaxflow.commands.figures.named_model", lambda run, _: seen.runs.append(run)
    )
    return seen


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
    assert main(["figures", "results"]) == 0
    wanted = TABLES | SENTENCE | {"lengths", "training"}
    assert names(results / "figures") == {f"{name}.svg" for name in wanted}
    captured = capsys.readouterr()
    assert captured.err == ""
    assert captured.out.count("wrote ") == len(wanted)
    assert [path.absolute() for path in explained.runs] == [run]
    assert explained.sentences == ["the key to the cabinets"]


def test_the_run_above_what_evaluate_leaves(results, explained, here, capsys):
    run = make_run(here / "run")
    results = results.rename(run / "evaluation")
    sentences = ["--sentence", "a b", "--sentence", "c"]
    assert main(["figures", "run/evaluation", *sentences]) == 0
    assert [path.absolute() for path in explained.runs] == [run]
    assert explained.sentences == ["a b", "c"]
    assert capsys.readouterr().err == ""
    wanted = TABLES | {"lengths", "training"}
    wanted |= {f"sentence-{k}-{name}" for k in (1, 2) for name in SENTENCE}
    assert names(results / "figures") == {f"{name}.svg" for name in wanted}


def test_a_published_model(results, published, here, capsys):
    options = ["--model", str(published), "--words", "--sentence", "the key $x$ unlikely <b>"]
    assert main(["figures", "results", *options]) == 0
    assert names(results / "figures") == {f"{name}.svg" for name in TABLES | SENTENCE | {"lengths"}}
    assert "unlikely" in (results / "figures" / "bars.svg").read_text(encoding="utf-8")
    assert "left out, figures of training" in capsys.readouterr().err


def test_what_cannot_be_drawn_is_named(results, here, monkeypatch, capsys):
    monkeypatch.setattr("jaxflow.models.hub.BUNDLED", here / "none")
    (results / "scores.npz").unlink()
    assert main(["figures", "results", "--out", "out", "--format", "svg,png"]) == 0
    assert names(here / "out") == {f"{name}.{form}" for name in TABLES for form in ("svg", "png")}
    lines = capsys.readouterr().err.splitlines()
    for line, part in zip(lines, ("scores.npz", "metrics.jsonl", "no model"), strict=True):
        assert line.startswith("jaxflow: left out, figures of ")
        assert part in line
