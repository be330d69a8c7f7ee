"""The command line: what it says, what it leaves behind, and what it does with bad input."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from small_corpus import write_small_corpus

from jaxflow import models
from jaxflow.commands import main

REAL_DATA = Path(__file__).parents[2] / "../shared/data/agreement"
RESULTS = {"config.json", "scores.npz", "tables.csv", "tables.json", "tables.md"}
TINY = ("--layers", "1", "--heads", "2", "--width", "16", "--epochs", "1")
TINY += ("--batch", "32", "--positions", "12", "--seed", "1")


@pytest.fixture(autouse=True)
def _surroundings(tmp_path, tmp_path_factory, monkeypatch):
    """A cache of the tests' own, and a working folder that may be looked through."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cli-cache"))
    monkeypatch.setenv("COLUMNS", "120")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_small_corpus(tmp_path_factory.mktemp("corpus") / "agreement")


@pytest.fixture(scope="module")
def run(tmp_path_factory, data):
    """A trained run; tests that change it take a copy."""
    folder = tmp_path_factory.mktemp("run") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cli-cache"))
        assert main(["train", "--data", str(data), "--out", str(folder), *TINY]) == 0
    return folder


@pytest.fixture
def refused(capfd, tmp_path):
    """A function: run the command, expect exit 2, one line on stderr and no new file."""

    def check(*arguments, parts=()):
        before = sorted(tmp_path.rglob("*"))
        assert main([str(argument) for argument in arguments]) == 2
        out, err = capfd.readouterr()
        assert out == ""
        assert err.count("\n") == 1
        assert err.endswith("\n")
        assert err.startswith("jaxflow: error: ")
        for part in parts:
            assert str(part) in err
        assert sorted(tmp_path.rglob("*")) == before
        return err

    return check


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["--no-such-option"], "no-such-option"),
        (["no-such-command"], "no-such-command"),
        (["train"], "--out"),
        (["train", "--out"], "--out"),
        (["train", "--out", "run", "--epochs", "many"], "many"),
        (["train", "--out", "run", "--epochs", "0"], "epochs must be at least 1"),
        (["train", "--out", "run", "--corpus", "other"], "other"),
        (["train", "--out", "run", "--corpus", "simple"], "name it with --data"),
        (["reproduce", "--dropout", "1.5"], "dropout must be in [0, 1)"),
        (["reproduce", "--seed", "-1"], "seed"),
        (["reproduce", "--threads", "0"], "threads"),
        (["reproduce", "--learning-rate", "nan"], "learning_rate"),
        (["evaluate"], "Missing from jaxflow evaluate"),
        (["evaluate", "run", "--min-tokens", "0"], "min_tokens"),
        (["evaluate", "run", "--seed", "-1"], "seed"),
    ],
)
def test_options_that_cannot_be_used(refused, arguments, part):
    refused(*arguments, parts=[part])


@pytest.mark.parametrize("command", [["evaluate", "nothing"], ["evaluate", "."]])
def test_a_run_that_is_not_there(refused, command):
    refused(*command, parts=["no run at", command[1]])


def test_data_that_is_not_there(refused, tmp_path):
    (tmp_path / "empty").mkdir()
    for command in (["train", "--out", "run"], ["reproduce", "--out", "out"], ["reproduce"]):
        refused(*command, "--data", tmp_path / "nothing", parts=["nothing does not exist"])
        refused(*command, "--data", tmp_path / "empty", parts=["numpred.train"])


BROKEN = {
    "a row without a tab": ("the key", "there is no tab"),
    "an unknown label": ("VBD\tthe key", "VBD"),
    "an empty prefix": ("VBZ\t", "prefix"),
    "a prefix of blanks": ("VBZ\t   ", "prefix"),
    "too many tabs": ("VBZ\tthe\tkey", "one tab"),
}


@pytest.mark.parametrize("kind", BROKEN)
@pytest.mark.parametrize("name", ["numpred.train", "numpred.test"])
def test_a_row_that_cannot_be_used(refused, tmp_path, data, kind, name):
    row, part = BROKEN[kind]
    shutil.copytree(data, tmp_path / "data")
    lines = (data / name).read_text().splitlines()
    lines[17] = row
    (tmp_path / "data" / name).write_text("\n".join(lines) + "\n")
    for command in (["train", "--out", "run"], ["reproduce", "--out", "out"]):
        refused(*command, "--data", tmp_path / "data", parts=[f"{name}, line 18:", part])


def test_files_that_are_missing_truncated_or_no_text(refused, tmp_path, data):
    def command(damage):
        shutil.rmtree(tmp_path / "data", ignore_errors=True)
        shutil.copytree(data, tmp_path / "data")
        damage(tmp_path / "data" / "numpred.val")
        return ["train", "--out", "run", "--data", tmp_path / "data"]

    refused(*command(lambda file: file.unlink()), parts=["numpred.val"])
    refused(*command(lambda file: file.write_text("")), parts=["numpred.val"])
    refused(*command(lambda file: file.write_bytes(b"VBZ\tcaf\xe9\n")), parts=["numpred.val"])
    whole = (data / "numpred.val").read_text()
    place = whole.rindex("\t") - 1  # in the middle of the last label
    refused(*command(lambda file: file.write_text(whole[:place])), parts=["numpred.val, line 30"])


def test_too_little_to_train_on(refused, data):
    options = ["--data", data, *TINY, "--batch", "5000"]
    refused("train", "--out", "run", *options, parts=["at least one batch of 5000"])


def test_sizes_that_do_not_fit(refused, data):
    options = ["--data", data, *TINY, "--width", "15"]
    refused("train", "--out", "run", *options, parts=["width must be a multiple of heads"])


def test_more_samples_than_sentences(refused, run):
    assert not (run / "evaluation").exists()
    refused("evaluate", run, "--samples", "61", parts=["from 1 to the 60", "61"])
    assert not (run / "evaluation").exists()


def test_places_that_cannot_be_written(refused, tmp_path, data, run):
    (tmp_path / "file").write_text("here first")
    for place in (tmp_path / "file", tmp_path / "file" / "out"):
        options = ["--out", place, "--data", data, *TINY]
        refused("train", *options, parts=["cannot be written"])
        refused("reproduce", *options, parts=["cannot be written"])
        refused("evaluate", run, "--out", place, parts=["cannot be written"])
    assert (tmp_path / "file").read_text() == "here first"


def test_a_cache_that_cannot_be_written(refused, tmp_path, data, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    refused("train", "--out", "run", "--data", data, parts=["cache", "XDG_CACHE_HOME"])


def test_another_configuration(refused, tmp_path, run, data):
    shutil.copytree(run, tmp_path / "run")
    changed = ["--out", tmp_path / "run", "--learning-rate", "0.5"]
    refused("train", *changed, parts=["learning_rate is 0.001, not 0.5"])


def test_a_run_without_a_whole_checkpoint(refused, tmp_path, run):
    shutil.copytree(run, tmp_path / "run")
    checkpoints = tmp_path / "run" / "checkpoints"
    for file in checkpoints.rglob("*"):
        if file.is_file():
            file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    refused("train", "--out", tmp_path / "run", parts=[checkpoints, "delete that folder"])


def test_a_damaged_model(refused, tmp_path, run):
    shutil.copytree(run, tmp_path / "run")
    file = tmp_path / "run" / "model" / "model.safetensors"
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    refused("evaluate", tmp_path / "run", "--samples", "2", parts=["damaged"])


def test_a_loss_that_is_not_a_number(capfd, tmp_path, data):
    options = ["--data", str(data), "--out", str(tmp_path / "run"), *TINY]
    assert main(["train", *options, "--learning-rate", "3e38"]) == 2
    err = capfd.readouterr().err
    # Progress goes to stderr too; the error is its last line, and the only one.
    assert err.splitlines()[-1].startswith("jaxflow: error: ")
    assert err.count("jaxflow: error: ") == 1
    assert "Traceback" not in err
    assert not (tmp_path / "run" / "model").exists()


def test_asking_for_help(capfd):
    for arguments in ([], ["--help"]):
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        assert ended.value.code == 0
        shown = capfd.readouterr().out
        for command in ("reproduce", "train", "evaluate", "explain", "attribute", "benchmark"):
            assert command in shown
    with pytest.raises(SystemExit) as ended:
        main(["train", "--help"])
    assert ended.value.code == 0
    shown = capfd.readouterr().out
    for option in ("--out", "--data", "--epochs", "--attractor-share"):
        assert option in shown


def test_help_does_not_load_what_it_does_not_need():
    script = """
import sys
from jaxflow.commands import main
try:
    main(["--help"])
finally:
    heavy = ("flax", "optax", "orbax", "grain", "tensorflow_datasets", "matplotlib", "networkx",
             "numba", "jaxflow.models", "jaxflow.train", "jaxflow.eval")
    print([name for name in heavy if name in sys.modules], file=sys.stderr)
"""
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert ended.returncode == 0
    assert ended.stderr.strip() == "[]"


def test_the_module_is_the_command(tmp_path):
    ended = subprocess.run(
        [sys.executable, "-m", "jaxflow", "evaluate", str(tmp_path / "nothing")],
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 2
    assert ended.stdout == ""
    assert ended.stderr.startswith("jaxflow: error: no run at")
    assert ended.stderr.count("\n") == 1


def test_train_then_evaluate(capfd, tmp_path, data, run):
    shutil.copytree(run, tmp_path / "run")
    # A finished run only reports again; options that were given before need not be repeated.
    assert main(["train", "--out", str(tmp_path / "run")]) == 0
    out, err = capfd.readouterr()
    accuracy = json.loads((run / "accuracy.json").read_text())
    lines = out.splitlines()
    for name, score in accuracy.items():
        line = f"{name:10s} accuracy {score['accuracy']:.4f} of {score['n']}"
        assert any(shown.startswith(line) for shown in lines)
    assert "going on after step" in err

    assert main(["evaluate", str(tmp_path / "run"), "--samples", "20"]) == 0
    out, err = capfd.readouterr()
    folder = tmp_path / "run" / "evaluation"
    assert {path.name for path in folder.iterdir()} == RESULTS
    for name in RESULTS:
        assert f"wrote {folder / name}" in out
    assert "scoring 20/20" in err
    record = json.loads((folder / "tables.json").read_text())
    assert record["samples"] == 20
    assert record["accuracy"] == accuracy["test"]["accuracy"]

    elsewhere = ["--out", str(tmp_path / "words"), "--no-special-tokens", "--min-tokens", "5"]
    assert main(["evaluate", str(tmp_path / "run"), "--seed", "4", *elsewhere]) == 0
    protocol = json.loads((tmp_path / "words" / "config.json").read_text())["config"]["protocol"]
    assert (protocol["special_tokens"], protocol["min_tokens"], protocol["seed"]) == (False, 5, 4)


def test_reproduce_does_all_in_one(capfd, tmp_path, data):
    out = tmp_path / "out"
    command = ["reproduce", "--data", str(data), "--samples", "20", *TINY]
    assert main([*command, "--out", str(out)]) == 0
    shown, progress = capfd.readouterr()
    assert {path.name for path in out.iterdir()} == RESULTS | {"run"}
    record = json.loads((out / "tables.json").read_text())
    assert record["samples"] == 20
    assert record["config"]["train"]["data"] == str(data)
    assert record["config"]["train"]["attractor_share"] == 0.25  # the preset of such a folder
    assert record["config"]["training_seconds"] > 0
    assert len(record["tables"]["blank_out"]["flow"]) == 1
    # The tables are printed with the numbers of the file.
    mean = record["tables"]["blank_out"]["flow"][0]["mean"]
    assert f"{mean:.2f}".replace("0.", ".").replace("-", "−") in shown.replace("-", "−")
    for word in ("Claims", "rollout", "test_1"):
        assert word in shown
    assert "training" in progress
    assert "scoring 20/20" in progress
    tokens = np.asarray([[1, 3, 4]], np.int32)
    assert models.load(out / "run")(tokens).attention.shape == (1, 1, 2, 3, 3)


def test_reproduce_puts_its_results_below_the_working_folder(tmp_path, monkeypatch, data):
    # Without --out; what stops before there is anything leaves no folders behind.
    asked = []

    def stop(config, out, report):
        asked.append(out)
        assert out.parent.is_dir()
        raise ZeroDivisionError

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("jaxflow.train.loop.train", stop)
    with pytest.raises(ZeroDivisionError):
        main(["reproduce", "--seed", "3"])
    with pytest.raises(ZeroDivisionError):
        main(["reproduce", "--data", str(data)])
    assert asked == [Path("runs/synthetic-seed3/run"), Path("runs/simple-seed0/run")]
    assert not (tmp_path / "runs").exists()


@pytest.mark.skipif(
    not REAL_DATA.is_dir(), reason="the real corpus ../shared/data/agreement is not here"
)
def test_the_real_corpus_from_end_to_end(tmp_path, capfd):
    out = tmp_path / "out"
    options = ["--layers", "1", "--heads", "2", "--width", "8", "--epochs", "1"]
    options += ["--batch", "8192", "--positions", "16", "--samples", "40"]
    assert main(["reproduce", "--data", str(REAL_DATA), "--out", str(out), *options]) == 0
    assert {path.name for path in out.iterdir()} == RESULTS | {"run"}
    accuracy = json.loads((out / "run" / "accuracy.json").read_text())
    assert {name: score["n"] for name, score in accuracy.items()} == {
        "val": 1_500, "test": 2_000, "test_1": 1_000, "test_2": 1_000, "test_3": 1_000,
        "test_4": 280, "test_5": 79, "subjects": 4_000,
    }  # fmt: skip
    # 68 % of the natural sentences are singular, most are short: so much is learnt at once.
    assert accuracy["test"]["accuracy"] > 0.5
    # What is too long for the positions is counted, in training and in every split.
    texts = (REAL_DATA / "numpred.test.3").read_text().splitlines()
    long = sum(len(text.split("\t")[1].split()) > 15 for text in texts)
    assert accuracy["test_3"]["too_long"] == long > 0
    assert "exceed 16 tokens and are left out" in capfd.readouterr().err
    record = json.loads((out / "tables.json").read_text())
    assert record["samples"] == 40
    assert record["accuracy_by_split"] == accuracy


@pytest.mark.parametrize(
    ("words", "script"),
    [
        (["reproduce", "decoders"], "examples/decoders.py"),
        (["reproduce", "digits", "--epochs", "2"], "examples/digits.py"),
        (["subject-mass", "run"], "examples/subject_mass.py"),
    ],
)
def test_former_commands_name_their_script(words, script, capsys):
    assert main(words) == 2
    error = capsys.readouterr().err
    assert script in error
    assert error.count("\n") == 1
