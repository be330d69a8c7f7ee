"""``jaxflow export``: a run on disk becomes a folder that loads, with what it is worth measured."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest
from small_corpus import POSITIONS, small_config, write_small_corpus

from jaxflow import models
from jaxflow.commands import main
from jaxflow.train.data import encoder_config, prepare


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """What training leaves behind, without the training."""
    folder = tmp_path_factory.mktemp("exported")
    config = small_config(write_small_corpus(folder / "corpus"))
    tokenizer = prepare(config).tokenizer
    encoder = encoder_config(config, tokenizer)
    params = models.AgreementEncoder(encoder).init(
        jax.random.key(0), np.ones((1, POSITIONS), np.int32)
    )
    # Large enough weights that the classes are not all but even.
    params = jax.tree.map(lambda leaf: leaf * 8 if leaf.ndim > 1 else leaf, params)
    models.save(folder / "run" / "model", models.Model(encoder, params, tokenizer))
    (folder / "run" / "config.json").write_text(json.dumps(config.to_dict()))
    return folder / "run"


@pytest.fixture
def out(run, tmp_path, capsys):
    folder = tmp_path / "exported"
    assert main(["export", str(run), str(folder)]) == 0
    names = ["config.json", "model.safetensors", "vocab.txt", "accuracy.json", "README.md"]
    assert capsys.readouterr().out == "".join(f"wrote {folder / name}\n" for name in names)
    return folder


def right(model, path):
    """Count the sentences of a file that a model gets right, one by one."""
    rows = [line.split("\t") for line in path.read_text().splitlines()]
    guesses = [
        int(model(model.tokenizer.encode_batch([prefix], POSITIONS)).logits[0].argmax())
        for _, prefix in rows
    ]
    return sum(
        ("VBZ", "VBP")[guess] == label for guess, (label, _) in zip(guesses, rows, strict=True)
    ), len(rows)


def test_what_is_written_is_what_was_measured(run, out):
    accuracy = json.loads((out / "accuracy.json").read_text())
    assert set(accuracy) == {"val", "test", "test_1", "test_2", "subjects"}
    count, total = right(models.load(out), run.parent / "corpus" / "numpred.test.1")
    entry = accuracy["test_1"]
    assert entry["n"] == total
    assert entry["accuracy"] == count / total
    assert 0 < entry["max_probability_change"] < 0.02
    card = (out / "README.md").read_text()
    assert f"| test_1 | {total} | {count / total:.4f} |" in card
    assert card.startswith("# ")
    config = json.loads((out / "config.json").read_text())
    assert config["recipe"]["epochs"] == 3
    assert "data" not in config["recipe"]
    assert str(run.parent) not in "".join(
        path.read_text(encoding="latin-1") for path in out.iterdir()
    )


def test_single_precision_changes_nothing(run, tmp_path):
    folder = tmp_path / "single"
    assert main(["export", str(run), str(folder), "--precision", "float32"]) == 0
    mine, other = models.load(folder), models.load(run)
    jax.tree.map(np.testing.assert_array_equal, mine.params, other.params)
    for entry in json.loads((folder / "accuracy.json").read_text()).values():
        assert (entry["changed"], entry["max_probability_change"]) == (0, 0)


def test_the_cards_own_words_stay(run, out):
    card = out / "README.md"
    first = card.read_text()
    title, rest = first.split("\n", 1)
    card.write_text(f"# Mine\n{rest.replace('| epochs | 3 |', '| epochs | 4 |')}\nMore of mine.\n")
    assert main(["export", str(run), str(out)]) == 0
    assert card.read_text() == f"# Mine\n{rest}\nMore of mine.\n"
    card.write_text("# Without a measured part\n")
    assert main(["export", str(run), str(out)]) == 0
    assert card.read_text() == first.replace(title, "# Without a measured part")


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["nowhere", "out"], "no run at nowhere"),
        (["{run}", "out", "--data", "nowhere"], "nowhere"),
        (["{run}", "out", "--precision", "float8"], "float8"),
        (["{run}", "file"], "cannot write to the folder file"),
        (["{run}"], "jaxflow export"),
    ],
)
def test_bad_input_is_one_line(run, arguments, part, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("in the way")
    assert main(["export", *(argument.replace("{run}", str(run)) for argument in arguments)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("jaxflow: error: ")
    assert captured.err.count("\n") == 1
    assert part in captured.err
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_half_a_mark_is_refused_before_anything_is_written(run, out, capsys):
    before = (out / "config.json").read_bytes()
    card = out / "README.md"
    card.write_text("# Mine\n\n<!-- measured -->\n")
    (out / "config.json").write_bytes(b"{}")
    assert main(["export", str(run), str(out)]) == 2
    assert "must have both of" in capsys.readouterr().err
    assert (out / "config.json").read_bytes() == b"{}" != before
