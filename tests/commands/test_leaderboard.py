"""Test ``jaxflow leaderboard``: the sentences drawn, the output and the files."""

from __future__ import annotations

import json

import leaderboard_data
import numpy as np
import pytest

from jaxflow.commands import main

FILES = {f"leaderboard.{end}" for end in ("md", "json", "parquet", "html")}


@pytest.fixture
def drawn(monkeypatch):
    """Make up what a board would find; returns the models and sentences it was asked about."""
    seen = []

    def run_board(model, cases, **options):
        seen.append((model, cases))
        options["report"]("scoring", len(cases), len(cases))
        return leaderboard_data.board(cases, seed=len(seen))

    monkeypatch.setattr("jaxflow.eval.leaderboard.board.run_board", run_board)
    return seen


def test_the_bundled_model_on_a_corpus(drawn, here, corpus, agreement, capsys):
    assert main(["leaderboard", "--data", str(corpus), "--samples", "12", "--seed", "3"]) == 0
    ((model, cases),) = drawn
    assert model.config == agreement.config
    assert len(cases) == 12
    # The subjects are those that the corpus names, counted with [CLS].
    lines = (corpus / "subjects.tsv").read_text(encoding="utf-8").splitlines()[1:]
    known = {fields[1]: int(fields[2]) + 1 for fields in (line.split("\t") for line in lines)}
    encode = agreement.whole_words.encode
    by_tokens = {tuple(encode(prefix)): at for prefix, at in known.items()}
    for row, length, subject in zip(cases.tokens, cases.lengths, cases.subject, strict=True):
        assert by_tokens[tuple(row[:length].tolist())] == subject
    out = here / "runs" / "leaderboard"
    plots = {"critical-difference.svg", "layers.svg"}
    assert {path.name for path in out.iterdir()} == FILES | plots
    record = json.loads((out / "leaderboard.json").read_text(encoding="utf-8"))
    assert record["sentences"] == 12
    assert record["config"]["seed"] == 3
    printed = capsys.readouterr().out
    assert record["methods"][0]["name"] in printed
    assert printed.count("wrote ") == 6


def test_a_published_model_on_labelled_sentences(drawn, published, here):
    (here / "data").mkdir()
    for name, count in (("train", 3), ("dev", 9)):
        lines = [f"the key number {place} .\t{place % 2}\n" for place in range(count)]
        (here / "data" / f"{name}.tsv").write_text("".join(lines), encoding="utf-8")
    options = ["--model", str(published), "--data", "data", "--out", "board"]
    assert main(["leaderboard", *options, "--sort", "deletion_auc"]) == 0
    ((model, cases),) = drawn
    assert model.config.labels == ("negative", "neutral", "positive")
    assert cases.labels.tolist() == [place % 2 for place in range(9)]
    assert (cases.subject == -1).all()
    np.testing.assert_array_equal(cases.special, np.isin(cases.tokens, [0, 2, 3, 4]))
    assert {path.name for path in (here / "board").iterdir()} > FILES
