"""Test ``jaxflow reproduce sst2`` end to end, with fine-tuning and with a classifier."""

from __future__ import annotations

import itertools
import json
import re
import shutil

import numpy as np
import pytest
from small_sst2 import tiny_bert, write_corpus

from jaxflow.commands import main
from jaxflow.eval.paper.scores import ROWS, TARGETS, SentenceScores, load_extra
from jaxflow.models import load, save_pretrained

FILES = {"tables.md", "tables.json", "tables.csv", "scores.npz", "config.json"}


def run(folder, model, out, *options):
    given = {"--data": folder / "sst2", "--model": model, "--out": folder / out, "--threads": 1}
    words = [str(part) for pair in given.items() for part in pair]
    assert main(["reproduce", "sst2", *words, *options]) == 0


@pytest.fixture(scope="module")
def reproduced(tmp_path_factory):
    """A bare model and what the command makes of it."""
    folder = tmp_path_factory.mktemp("reproduced")
    write_corpus(folder / "sst2")
    save_pretrained(folder / "bare", tiny_bert())
    options = ["--epochs", "1", "--batch", "50", "--learning-rate", "2e-2"]
    run(folder, folder / "bare", "out", *options)
    return folder, options


def test_a_bare_model_is_fine_tuned_and_its_tables_are_those_of_the_scores(reproduced):
    out = reproduced[0] / "out"
    assert {path.name for path in out.iterdir()} == {*FILES, "run"}
    assert load(out / "run").config.labels == ("negative", "positive")
    found = json.loads((out / "tables.json").read_text())
    accuracy = json.loads((out / "run" / "accuracy.json").read_text())
    assert found["accuracy_by_split"] == accuracy
    assert list(accuracy) == ["dev"]  # the test's labels are not given
    assert found["samples"] == found["authors_protocol"]["samples"] == 60
    scores, extra = SentenceScores.load(out / "scores.npz"), load_extra(out / "scores.npz")
    for target, row in itertools.product(TARGETS, ROWS):
        values = scores.correlations[target][row]
        (cell,) = found["tables"][target][row]
        assert cell["mean"] == pytest.approx(np.nanmean(values))
        assert cell["nan"] == np.isnan(values).sum()
        (cell,) = found["authors_protocol"]["tables"][target][row]
        assert cell["mean"] == pytest.approx(extra[f"authors/{target}/{row}"].mean())
        assert cell["nan"] == 0
    config = json.loads((out / "config.json").read_text())["config"]
    assert config["finetuning"]["epochs"] == 1
    assert config["finetuning_seconds"] > 0
    assert config["protocol"]["paper_samples"] == 100


def test_a_classifier_is_evaluated_as_it_is(reproduced, capsys):
    folder, _ = reproduced
    run(folder, folder / "out" / "run", "again")
    assert {path.name for path in (folder / "again").iterdir()} == FILES
    printed = " ".join(capsys.readouterr().out.split())  # lines are wrapped
    assert "Table 3 by the authors' protocol: input gradients" in printed
    assert "Table 3, corrected" in printed
    assert "No comparison with the paper: its model has 6 layers, this one has 1" in printed
    assert re.search(r"dev 0\.\d{4}", printed)
    old, new = (
        json.loads((folder / name / "tables.json").read_text()) for name in ("out", "again")
    )
    for name in ("tables", "authors_protocol", "accuracy_by_split"):
        assert old[name] == new[name]
    assert new["config"]["finetuning"] is None


def test_a_second_time_nothing_is_trained(reproduced, capsys):
    folder, options = reproduced
    out = folder / "out"
    first = json.loads((out / "tables.json").read_bytes())
    shutil.rmtree(out / "run" / "model")
    left = out / ".tables.md.4194305.part"  # by one that was killed: no such process
    left.touch()
    run(folder, folder / "bare", "out", *options)
    assert "going on after step 4" in capsys.readouterr().err
    assert json.loads((out / "tables.json").read_bytes())["tables"] == first["tables"]
    assert (out / "run" / "model" / "model.safetensors").is_file()
    assert not left.exists()
