"""Test every command on unusable input: exit 2, one line naming the error, nothing written."""

from __future__ import annotations

import os
import pickle
import shutil

import figure_data
import numpy as np
import pytest
from small_sst2 import tiny_bert, write_corpus

from jaxflow.commands.evaluate import Evaluate
from jaxflow.commands.leaderboard import Leaderboard
from jaxflow.commands.pronouns import ReproducePronouns
from jaxflow.commands.reproduce import Reproduce
from jaxflow.errors import InputError
from jaxflow.eval.paper.report import Evaluation, write_reports
from jaxflow.models import Gpt2Config, Model, init, save_pretrained
from jaxflow.train.lock import hold

SMALL = "--layers 1 --heads 2 --width 16 --epochs 1 --batch 32 --positions 12"

#: A command line, with the names of folders in braces, and what its complaint must name.
CASES = [
    ("--no-such-option", "no-such-option"),
    ("no-such-command", "no-such-command"),
    ("train", "--out"),
    ("train --out run --epochs many", "many"),
    ("train --out run --corpus other", "other"),
    ("train --out run --corpus simple", "name it with --data"),
    ("train --out run --data nothing", "nothing does not exist"),
    ("train --out run --data empty", "numpred.train"),
    ("train --out run --data {corpus} --flow-weight 1", "must be 0 for the corpus simple"),
    (f"train --out run --data {{corpus}} {SMALL} --batch 5000", "at least one batch of 5000"),
    (f"train --out file/run --data {{corpus}} {SMALL}", "cannot be written"),
    ("train --out {copy} --learning-rate 0.5", "learning_rate is 0.001, not 0.5"),
    (f"reproduce --out file/out --data {{corpus}} {SMALL}", "cannot be written"),
    ("reproduce sst2 --data {corpus} --model {sst2}", "expected the file train.tsv"),
    ("reproduce sst2 --data {reviews} --model {gpt2}", "reads the attention of [CLS]"),
    ("reproduce sst2 --data {reviews} --model {published} --target output", "choose difference"),
    ("reproduce sst2 --data {reviews} --model {sst2} --samples 61", "at most 60, the dev sentence"),
    ("reproduce sst2 --data {reviews} --model {sst2} --paper-samples 0", "paper_samples must be"),
    ("reproduce pronouns --model {masked} --sentence Ann", "a sentence must be given as"),
    ("reproduce pronouns --model {masked} --schemas none.tsv", "none.tsv cannot be read"),
    ("reproduce pronouns --model {masked} --out file/inside", "file/inside cannot be written"),
    ("reproduce pronouns --model {published}", "tensors in"),
    ("reproduce decoders", "examples/decoders.py"),
    ("reproduce digits --epochs 2", "examples/digits.py"),
    ("subject-mass run", "examples/subject_mass.py"),
    ("evaluate", "Missing from jaxflow evaluate"),
    ("evaluate nothing", "no run at nothing"),
    ("evaluate {run} --samples 61", "from 1 to the 60"),
    ("evaluate {run} --out file", "cannot be written"),
    ("evaluate {run} --processes 2", "--shards"),
    ("explain", "expected a sentence"),
    ("explain keys --run nowhere", "no trained model at nowhere"),
    ("explain keys --run x --model y", "expected --run or --model, got both"),
    ("explain --file nowhere.txt", "nowhere.txt"),
    ("explain --file latin.txt", "must be text"),
    ("explain keys --model {masked}", "must have one [MASK], got 0"),
    ("explain keys --cut cabinet", "cut must be a token of the sentence 'keys' or an index"),
    ("explain keys --cut 2", "from 0 to 1, got '2'"),
    (f"explain {'keys ' * 21} --png a.png", "at most 20 sentences, got 21"),
    ("explain keys --discard 0.5", "discard must be asked for with --image only"),
    ("explain --image x.png", "image needs --model with a vision Transformer"),
    ("explain --image x.png --json --model {published}", "json must not be asked for"),
    ("export {run} out --data nowhere", "nowhere"),
    ("export {run} out --precision float8", "float8"),
    ("export {run} file", "folder file"),
    ("export {run}", "jaxflow export"),
    ("figures nowhere", "no tables.json in nowhere"),
    ("figures results --run nowhere", "no trained model at nowhere"),
    ("figures results --out results/tables.json", "cannot be written"),
    ("attribute missing.npz", "No such file"),
    ("attribute empty", "directory"),
    ("attribute a.npz --method raw --residual 0.5", "residual has no meaning"),
    ("attribute a.npz --method head-rollout --heads 1", "heads has no meaning"),
    ("attribute a.npz --threads 1", "threads has no meaning"),
    ("attribute a.npz --layers 3", "from -2 to 1"),
    ("attribute a.npz --sources a", "sources must be whole numbers"),
    ("attribute a.npz --out a.npz", "another file"),
    ("attribute a.npz --method lime", "method"),
    ("attribute a.npz --words", "words has no meaning without --model"),
    ("attribute missing.txt --model agreement", "missing.txt must be text"),
    ("edges --by alti", "by must be asked for with a sentence"),
    ("edges keys --by beauty/flow", "edge weight must be one of"),
    ("edges keys --by head-8", "head must be from 0 to 7, got 8"),
    ("edges keys --layer 6", "layer must be from -6 to 5 for this model, got 6"),
    ("benchmark flow --tokens many", "tokens must be whole numbers"),
    ("benchmark rollout --layers 0", "layers must be at least 1"),
    ("benchmark flow --run one --data two", "expected one of them"),
    ("benchmark flow --model folder", "--model is for the benchmark models"),
    ("benchmark nothing", "nothing"),
    ("edges good --model {rating}", "label must name the number to explain"),
    ("edges good --model {rating} --by norm --label 1", "label has no meaning for methods without"),
    ("leaderboard", "expected the folder of a run, or --data"),
    ("leaderboard nowhere", "no trained model at nowhere"),
    ("leaderboard --sort beauty", "sort must be one of spearman_blank_out"),
    ("leaderboard --model x", "model needs --data with dev.tsv"),
    ("leaderboard --data nowhere", "nowhere"),
    ("leaderboard --prompts x", "prompts need --model with a language model"),
    ("leaderboard --model x --prompts nowhere", "nowhere must be a text file or a JSON list"),
    ("leaderboard --model x --prompts x --data y", "data must not be asked for with --prompts"),
    ("leaderboard --units words", "units must be asked for with --prompts only"),
]  # fmt: skip


@pytest.fixture(scope="module")
def places(tmp_path_factory, trained_run, corpus):
    """Folders by the names that stand in braces, all read only."""
    folder = tmp_path_factory.mktemp("places")
    classes = {"head": "classification", "labels": ("negative", "positive")}
    bare = tiny_bert()
    sizes = {"vocabulary": bare.config.vocabulary, "positions": 14, "layers": 1, "heads": 2}
    gpt2 = Gpt2Config(**sizes, width=8, pad_id=0, **classes)
    models = {
        "sst2": tiny_bert(**classes),
        "masked": tiny_bert(head="masked-lm"),
        "published": bare,
        "rating": tiny_bert(**classes, problem="regression"),
        "gpt2": Model(gpt2, init(gpt2), bare.tokenizer),
    }
    for name, model in models.items():
        save_pretrained(folder / name, model)
    found = {name: folder / name for name in models}
    reviews = write_corpus(folder / "reviews")
    return {**found, "run": trained_run, "corpus": corpus, "reviews": reviews}


def attention(*shape, dtype=np.float64):
    values = np.random.default_rng(0).random((*shape, shape[-1])) + 0.1
    return (values / values.sum(-1, keepdims=True)).astype(dtype)


@pytest.fixture
def prepare(here, places):
    """A function: the arguments of a command line, with what it names put into the folder."""
    (here / "file").write_text("in the way")

    def split(line):
        if "empty" in line:
            (here / "empty").mkdir()
        if "latin" in line:
            (here / "latin.txt").write_bytes(b"caf\xe9")
        if "a.npz" in line:
            np.savez(here / "a.npz", attention=attention(2, 2, 4))
        if "results" in line:
            found = Evaluation(figure_data.tables(), scores=figure_data.scores())
            write_reports(here / "results", found, {})
        if "{copy}" in line:
            shutil.copytree(places["run"], here / "copy")
        return [word.format(**places, copy="copy") for word in line.split()]

    return split


@pytest.mark.parametrize(("line", "part"), CASES)
def test_unusable_options_are_one_line(refused, prepare, line, part):
    refused(*prepare(line), parts=[part])


def test_a_damaged_corpus_is_named_by_file_and_line(refused, here, corpus):
    """Every way a row can be wrong is tested with its reader."""
    shutil.copytree(corpus, here / "data")
    whole = (corpus / "numpred.val").read_bytes()
    file = here / "data" / "numpred.val"
    for content, part in (
        (whole.replace(b"\nVBP", b"\nVBD", 1), "numpred.val, line "),
        (whole[: whole.rindex(b"\t") - 1], "numpred.val, line 30"),  # within the last label
        (b"VBZ\tcaf\xe9\n", "numpred.val"),
        (b"", "numpred.val"),
        (None, "numpred.val"),
    ):
        file.unlink() if content is None else file.write_bytes(content)
        refused("train", "--out", "run", "--data", "data", parts=[part])


def test_a_damaged_run(refused, here, trained_run):
    shutil.copytree(trained_run, here / "run")
    for file in [*(here / "run" / "checkpoints").rglob("*"), *(here / "run" / "model").iterdir()]:
        if file.is_file() and (file.suffix == ".safetensors" or "checkpoints" in file.parts):
            file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    refused("train", "--out", "run", parts=["run/checkpoints", "delete that folder"])
    refused("evaluate", "run", "--samples", "2", parts=["damaged"])


def test_a_cache_that_cannot_be_written(refused, here, corpus, monkeypatch):
    (here / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(here / "file"))
    refused("train", "--out", "run", "--data", corpus, parts=["cache", "XDG_CACHE_HOME"])


GOOD = attention(2, 2, 4)
ARRAYS = {
    "'attention'": {"other": GOOD},
    "pickled": {"attention": np.array([{}, None], dtype=object)},
    "'tokens' is one of pickled": {"attention": GOOD, "tokens": np.array([{}] * 4, dtype=object)},
    "rank 3": {"attention": GOOD[0]},
    "rank 0": {"attention": np.array("a")},
    "sum to 1": {"attention": GOOD * 3},
    "mask must have the shape (4,)": {"attention": GOOD, "mask": np.ones(3, bool)},
    "boolean": {"attention": GOOD, "mask": np.ones(4)},
    "tokens must have the shape (4,)": {"attention": GOOD, "tokens": np.array(["a"])},
}


@pytest.mark.parametrize("part", ARRAYS)
def test_arrays_that_are_no_attention(refused, here, part):
    np.savez(here / "bad.npz", **ARRAYS[part])
    refused("attribute", "bad.npz", parts=[part])


def test_files_that_hold_no_arrays(refused, here):
    np.savez(here / "good.npz", attention=GOOD)
    np.save(here / "array.npy", GOOD)
    whole = (here / "good.npz").read_bytes()
    for content, part in (
        (whole[:-60], "npz"),
        (whole[:200] + bytes(40) + whole[240:], "damaged"),
        (pickle.dumps(GOOD), "must be an npz file"),
        ((here / "array.npy").read_bytes(), "must be an npz file"),
    ):
        (here / "bad.npz").write_bytes(content)
        refused("attribute", "bad.npz", parts=[part])


HELD = {
    "evaluate": lambda out: Evaluate(out.parent, out=out),
    "shards": lambda out: Evaluate(out.parent, out=out, shards=2),
    "leaderboard": lambda out: Leaderboard((out.parent,), out=out),
    "reproduce": lambda out: Reproduce(out=out),
    "pronouns": lambda out: ReproducePronouns(out=out),
}


@pytest.mark.parametrize("name", HELD)
def test_a_folder_in_use_is_refused_and_what_was_left_half_written_cleared(name, tmp_path):
    out = tmp_path / "out"
    said = f"out is in use by process {os.getpid()} on "
    with hold(out), pytest.raises(InputError, match=said):
        HELD[name](out).run()
    assert not out.exists()
    if name in ("evaluate", "shards"):  # before the command finds that there is no run
        out.mkdir()
        (out / ".tables.md.4194305.part").touch()  # no process has that number
        with pytest.raises(InputError, match="no run at"):
            HELD[name](out).run()
        assert list(out.iterdir()) == []
