"""Test ``jaxflow``, ``train``, ``evaluate`` and ``reproduce``: output and files."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from jaxflow import models
from jaxflow.commands import _console, main
from jaxflow.train.loop import Progress

REAL_DATA = Path(__file__).parents[2] / "../shared/data/agreement"
RESULTS = {"config.json", "scores.npz", "tables.csv", "tables.json", "tables.md"}
SMALL = ["--layers", "2", "--heads", "2", "--width", "16", "--epochs", "1", "--batch", "32"]
SMALL += ["--positions", "12"]


def test_asking_for_help(capfd):
    for arguments, parts in (
        ([], ("reproduce", "train", "evaluate", "explain", "attribute", "benchmark")),
        (["train", "--help"], ("--out", "--data", "--epochs", "--attractor-share")),
    ):
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        assert ended.value.code == 0
        shown = capfd.readouterr().out
        assert all(part in shown for part in parts)


def test_the_module_is_the_command_and_loads_what_it_needs(tmp_path):
    heavy = ("flax", "optax", "orbax", "grain", "tensorflow_datasets", "matplotlib", "networkx",
             "numba", "jaxflow.models", "jaxflow.train", "jaxflow.eval")  # fmt: skip
    script = f"""
import runpy, sys
try:
    runpy.run_module("jaxflow", run_name="__main__", alter_sys=True)
except SystemExit as end:
    loaded = [name for name in {heavy} if name in sys.modules] if "--help" in sys.argv else []
    sys.exit(f"loaded {{loaded}}" if loaded else end.code)
"""

    def run(*arguments):
        command = [sys.executable, "-c", script, *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True)

    assert run("--help").returncode == 0
    ended = run("evaluate", tmp_path / "nothing")
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.startswith("jaxflow: error: no run at")
    assert ended.stderr.count("\n") == 1


def test_train_again_then_evaluate(capfd, here, trained_run):
    shutil.copytree(trained_run, here / "run")
    # A finished run only reports again; options that were given before need not be repeated.
    assert main(["train", "--out", "run"]) == 0
    out, err = capfd.readouterr()
    accuracy = json.loads((here / "run" / "accuracy.json").read_text())
    for name, score in accuracy.items():
        assert f"{name:10s} accuracy {score['accuracy']:.4f} of {score['n']}" in out
    assert "going on after step" in err

    options = ["--samples", "20", "--no-special-tokens", "--min-tokens", "5", "--seed", "4"]
    assert main(["evaluate", "run", *options]) == 0
    out, err = capfd.readouterr()
    folder = here / "run" / "evaluation"
    assert {path.name for path in folder.iterdir()} == RESULTS
    for name in RESULTS:
        assert f"wrote run/evaluation/{name}" in out
    assert "scoring 20/20" in err
    record = json.loads((folder / "tables.json").read_text())
    assert (record["samples"], record["accuracy"]) == (20, accuracy["test"]["accuracy"])
    protocol = record["config"]["protocol"]
    assert (protocol["special_tokens"], protocol["min_tokens"], protocol["seed"]) == (False, 5, 4)


def test_reproduce_does_all_in_one(capfd, here, corpus):
    command = ["reproduce", "--data", str(corpus), "--samples", "20", "--out", "out", *SMALL]
    assert main(command) == 0
    shown, progress = capfd.readouterr()
    out = here / "out"
    assert {path.name for path in out.iterdir()} == RESULTS | {"run"}
    record = json.loads((out / "tables.json").read_text())
    assert record["samples"] == 20
    assert record["config"]["train"]["data"] == str(corpus)
    assert record["config"]["train"]["attractor_share"] == 0.25  # the preset of such a folder
    assert record["config"]["training_seconds"] > 0
    # The tables are printed with the numbers of the file.
    for cell in record["tables"]["blank_out"]["flow"]:
        text = f"{cell['mean']:.2f}".replace("0.", ".").replace("-", "−")
        assert text in shown.replace("-", "−")
    for word in ("Claims", "rollout", "test_1"):
        assert word in shown
    assert "compiling the step for sentences padded to" in progress
    assert "training" in progress
    assert "scoring 20/20" in progress
    tokens = np.asarray([[1, 3, 4]], np.int32)
    assert models.load(out / "run")(tokens).attention.shape == (1, 2, 2, 3, 3)


def test_reproduce_puts_its_results_below_the_working_folder(here, monkeypatch, corpus):
    """Without --out; what stops before there is anything leaves no folders behind."""
    asked = []

    def stop(config, out, report):
        asked.append(out)
        assert out.parent.is_dir()
        raise ZeroDivisionError

    monkeypatch.setattr("jaxflow.train.loop.train", stop)
    for options in (["--seed", "3"], ["--data", str(corpus)]):
        with pytest.raises(ZeroDivisionError):
            main(["reproduce", *options])
    assert asked == [Path("runs/synthetic-seed3/run"), Path("runs/simple-seed0/run")]
    assert not (here / "runs").exists()


def test_the_subjects_share_of_flow_is_shown_beside_the_loss(capfd):
    with _console.training() as report:
        report(Progress(1, 10, loss=0.5, accuracy=0.75))
        report(Progress(10, 10, loss=0.25, accuracy=0.875, subject_share=0.4375))
    plain, regularised = capfd.readouterr().err.splitlines()
    assert plain.endswith("loss 0.500  accuracy 0.750")
    assert "loss 0.250  accuracy 0.875  subject's share 0.438" in regularised
    assert regularised.endswith("steps/s, 0:00:00 left")  # 9 steps after the first report


@pytest.mark.nightly
@pytest.mark.skipif(not REAL_DATA.is_dir(), reason="../shared/data/agreement is not here")
def test_the_real_corpus_from_end_to_end(here, capfd):
    options = "--layers 1 --heads 2 --width 8 --epochs 1 --batch 8192 --positions 16 --samples 40"
    assert main(["reproduce", "--data", str(REAL_DATA), "--out", "out", *options.split()]) == 0
    accuracy = json.loads((here / "out" / "run" / "accuracy.json").read_text())
    counts = [score["n"] for score in accuracy.values()]
    assert counts == [1_500, 2_000, 1_000, 1_000, 1_000, 280, 79, 4_000]
    # 68 % of the natural sentences are singular, most are short: so much is learnt at once.
    assert accuracy["test"]["accuracy"] > 0.5
    # What is too long for the positions is counted, in training and in every split.
    texts = (REAL_DATA / "numpred.test.3").read_text().splitlines()
    long = sum(len(text.split("\t")[1].split()) > 15 for text in texts)
    assert accuracy["test_3"]["too_long"] == long > 0
    assert "exceed 16 tokens and are left out" in capfd.readouterr().err
    record = json.loads((here / "out" / "tables.json").read_text())
    assert (record["samples"], record["accuracy_by_split"]) == (40, accuracy)
