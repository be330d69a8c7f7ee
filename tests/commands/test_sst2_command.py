"""``jaxflow reproduce sst2``, end to end: a bare model is fine-tuned, a classifier is not."""

import json
import re
import shutil

import numpy as np
import pytest
import tyro
from small_sst2 import tiny_bert, write_corpus

from jaxflow.commands.sst2 import ReproduceSst2
from jaxflow.errors import InputError
from jaxflow.eval.paper.scores import ROWS, TARGETS, SentenceScores, load_extra
from jaxflow.models import Gpt2Config, Model, init, load, save_pretrained

FILES = {"tables.md", "tables.json", "tables.csv", "scores.npz", "config.json"}


def run(*arguments):
    """As the subcommand would: the same options, the same parser."""
    tyro.cli(
        ReproduceSst2,
        args=[str(argument) for argument in arguments],
        config=(tyro.conf.FlagCreatePairsOff, tyro.conf.OmitArgPrefixes),
    ).run()


@pytest.fixture(autouse=True)
def _cache(monkeypatch, tmp_path_factory):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "sst2-cache"))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_corpus(tmp_path_factory.mktemp("corpus") / "sst2")


@pytest.fixture(scope="module")
def reproduced(tmp_path_factory, data):
    """A bare model and what the command makes of it."""
    folder = tmp_path_factory.mktemp("reproduced")
    save_pretrained(folder / "bare", tiny_bert())
    options = ("--epochs", 1, "--batch", 50, "--learning-rate", 2e-2, "--threads", 1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "sst2-cache"))
        run("--data", data, "--model", folder / "bare", "--out", folder / "out", *options)
    return folder


def test_a_bare_model_is_fine_tuned_and_its_tables_written(reproduced):
    out = reproduced / "out"
    assert {path.name for path in out.iterdir()} == {*FILES, "run"}
    model = load(out / "run")
    assert model.config.labels == ("negative", "positive")
    found = json.loads((out / "tables.json").read_text())
    accuracy = json.loads((out / "run" / "accuracy.json").read_text())
    assert found["accuracy_by_split"] == accuracy
    assert found["accuracy"] == accuracy["dev"]["accuracy"]
    assert list(accuracy) == ["dev"]  # the test's labels are not given
    assert found["samples"] == found["authors_protocol"]["samples"] == 60
    for tables in (found["tables"], found["authors_protocol"]["tables"]):
        assert set(tables) == set(TARGETS)
        for rows in tables.values():
            assert set(rows) == set(ROWS)
    config = json.loads((out / "config.json").read_text())["config"]
    assert config["finetuning"]["epochs"] == 1
    assert config["finetuning_seconds"] > 0
    assert config["protocol"]["paper_samples"] == 100


def test_the_scores_are_those_behind_the_tables(reproduced):
    out = reproduced / "out"
    found = json.loads((out / "tables.json").read_text())
    scores, extra = SentenceScores.load(out / "scores.npz"), load_extra(out / "scores.npz")
    for target in TARGETS:
        for row in ROWS:
            (cell,) = found["tables"][target][row]
            assert cell["mean"] == pytest.approx(np.nanmean(scores.correlations[target][row]))
            assert cell["nan"] == np.isnan(scores.correlations[target][row]).sum()
            (cell,) = found["authors_protocol"]["tables"][target][row]
            assert cell["mean"] == pytest.approx(extra[f"authors/{target}/{row}"].mean())
            assert cell["nan"] == 0


def test_a_classifier_is_evaluated_as_it_is(reproduced, data, capsys):
    again = reproduced / "again"
    run("--data", data, "--model", reproduced / "out" / "run", "--out", again, "--threads", 1)
    assert {path.name for path in again.iterdir()} == FILES
    printed = " ".join(capsys.readouterr().out.split())  # lines are wrapped
    assert "Table 3 by the authors' protocol: input gradients" in printed
    assert "Table 3, corrected" in printed
    assert "No comparison with the paper: its model has 6 layers, this one has 1" in printed
    assert re.search(r"dev 0\.\d{4}", printed)
    old, new = (
        json.loads((reproduced / name / "tables.json").read_text()) for name in ("out", "again")
    )
    assert old["tables"] == new["tables"]
    assert old["authors_protocol"] == new["authors_protocol"]
    assert old["accuracy_by_split"] == new["accuracy_by_split"]
    assert new["config"]["finetuning"] is None


def test_a_second_time_nothing_is_trained(reproduced, data, capsys):
    tables = (reproduced / "out" / "tables.json").read_bytes()
    shutil.rmtree(reproduced / "out" / "run" / "model")
    left = reproduced / "out" / ".tables.md.4194305.part"  # by one that was killed: no such process
    left.touch()
    options = ("--epochs", 1, "--batch", 50, "--learning-rate", 2e-2, "--threads", 1)
    run("--data", data, "--model", reproduced / "bare", "--out", reproduced / "out", *options)
    assert "going on after step 4" in capsys.readouterr().err
    again = json.loads((reproduced / "out" / "tables.json").read_bytes())
    first = json.loads(tables)
    assert again["tables"] == first["tables"]
    assert (reproduced / "out" / "run" / "model" / "model.safetensors").is_file()
    assert not left.exists()


def test_what_cannot_be_done_is_refused_in_one_sentence(reproduced, data, tmp_path):
    classifier = reproduced / "out" / "run"
    with pytest.raises(InputError, match="samples must be at most 60, the dev sentences, got 61"):
        run("--data", data, "--model", classifier, "--out", tmp_path / "a", "--samples", 61)
    with pytest.raises(InputError, match="paper_samples must be at least 1, got 0"):
        run("--data", data, "--model", classifier, "--out", tmp_path / "a", "--paper-samples", 0)
    with pytest.raises(InputError, match=r"train.tsv and dev.tsv, but .*absent does not exist"):
        run("--data", tmp_path / "absent", "--model", classifier, "--out", tmp_path / "a")
    save_pretrained(tmp_path / "three", tiny_bert(head="classification", labels=("a", "b", "c")))
    with pytest.raises(InputError, match="needs a classifier of two classes"):
        run("--data", data, "--model", tmp_path / "three", "--out", tmp_path / "a")
    bert = tiny_bert()
    gpt2 = Gpt2Config(
        vocabulary=bert.config.vocabulary,
        positions=14,
        layers=1,
        heads=2,
        width=8,
        pad_id=0,
        head="classification",
        labels=("negative", "positive"),
    )
    save_pretrained(tmp_path / "gpt2", Model(gpt2, init(gpt2), bert.tokenizer))
    with pytest.raises(InputError, match=r"reads the attention of .CLS., so"):
        run("--data", data, "--model", tmp_path / "gpt2", "--out", tmp_path / "a")
    assert not (tmp_path / "a").exists()
