"""``jaxflow leaderboard``: which sentences it draws, what it prints and leaves behind."""

from __future__ import annotations

import json

import leaderboard_data
import numpy as np
import pytest
from small_corpus import write_small_corpus
from tiny_models import tiny

from jaxflow.commands import main
from jaxflow.models import load, save_pretrained

FILES = {f"leaderboard.{end}" for end in ("md", "json", "parquet", "html")}


@pytest.fixture(autouse=True)
def _surroundings(tmp_path_factory, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "board-cache"))
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def drawn(monkeypatch):
    """Make up what a board would find; returns the models and sentences it was asked about."""
    seen = []

    def run_board(model, cases, **options):
        seen.append((model, cases))
        options["report"]("scoring", len(cases), len(cases))
        return leaderboard_data.board(cases, seed=len(seen))

    monkeypatch.setattr("jaxflow.eval.leaderboard.board.run_board", run_board)
    monkeypatch.setattr("jaxflow.eval.leaderboard.significance.PERMUTATIONS", 500)
    monkeypatch.setattr(
        "jaxflow.eval.leaderboard.significance.permutation_tests.__kwdefaults__",
        {"permutations": 500, "seed": 0},
    )
    return seen


def test_the_model_that_comes_along_on_a_corpus(drawn, tmp_path, capsys):
    data = write_small_corpus(tmp_path / "corpus")
    assert main(["leaderboard", "--data", str(data), "--samples", "12", "--seed", "3"]) == 0
    (model, cases), *rest = drawn
    assert not rest
    assert model.config == load("agreement").config
    assert len(cases) == 12
    # The subjects are those that the corpus names, counted with [CLS].
    lines = (data / "subjects.tsv").read_text(encoding="utf-8").splitlines()[1:]
    known = {fields[1]: int(fields[2]) + 1 for fields in (line.split("\t") for line in lines)}
    tokenizer = load("agreement").whole_words
    by_tokens = {tuple(tokenizer.encode(prefix)): at for prefix, at in known.items()}
    for row, length, subject in zip(cases.tokens, cases.lengths, cases.subject, strict=True):
        assert by_tokens[tuple(row[:length].tolist())] == subject
    out = tmp_path / "runs" / "leaderboard"
    assert {path.name for path in out.iterdir()} == FILES | {
        "critical-difference.svg",
        "layers.svg",
    }
    record = json.loads((out / "leaderboard.json").read_text(encoding="utf-8"))
    assert record["sentences"] == 12
    assert record["config"]["seed"] == 3
    printed = capsys.readouterr().out
    assert record["methods"][0]["name"] in printed
    assert printed.count("wrote ") == 6


def test_a_published_model_on_labelled_sentences(drawn, tmp_path):
    save_pretrained(tmp_path / "model", tiny())
    data = tmp_path / "data"
    data.mkdir()
    for name, count in (("train", 3), ("dev", 9)):
        lines = [f"the key number {place} .\t{place % 2}\n" for place in range(count)]
        (data / f"{name}.tsv").write_text("".join(lines), encoding="utf-8")
    options = ["--model", str(tmp_path / "model"), "--data", str(data), "--out", "board"]
    assert main(["leaderboard", *options, "--sort", "deletion_auc"]) == 0
    ((model, cases),) = drawn
    assert model.config.labels == ("negative", "neutral", "positive")
    assert cases.labels.tolist() == [place % 2 for place in range(9)]
    assert (cases.subject == -1).all()
    np.testing.assert_array_equal(cases.special, np.isin(cases.tokens, [0, 2, 3, 4]))
    assert {path.name for path in (tmp_path / "board").iterdir()} > FILES


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ([], "expected the folder of a run, or --data"),
        (["nowhere"], "no trained model at nowhere"),
        (["--sort", "beauty"], "sort must be one of spearman_blank_out"),
        (["--model", "x"], "model needs --data with dev.tsv"),
        (["--data", "nowhere"], "nowhere"),
    ],
)
def test_unusable_requests_are_one_line(arguments, complaint, capsys):
    assert main(["leaderboard", *arguments]) == 2
    err = capsys.readouterr().err
    assert complaint in err
    assert err.count("\n") == 1
