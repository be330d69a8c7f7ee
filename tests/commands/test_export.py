"""Test ``jaxflow export``: the folder loads, and its card has the measured accuracy."""

from __future__ import annotations

import json

import jax
import numpy as np
import pytest
from small_corpus import POSITIONS

from jaxflow import models
from jaxflow.commands import main


@pytest.fixture
def out(trained_run, here, capsys):
    assert main(["export", str(trained_run), "exported"]) == 0
    names = ["config.json", "model.safetensors", "vocab.txt", "accuracy.json", "README.md"]
    assert capsys.readouterr().out == "".join(f"wrote exported/{name}\n" for name in names)
    return here / "exported"


def test_what_is_written_is_what_was_measured(trained_run, corpus, out):
    accuracy = json.loads((out / "accuracy.json").read_text())
    assert set(accuracy) == {"val", "test", "test_1", "test_2", "subjects"}
    model = models.load(out)
    rows = [line.split("\t") for line in (corpus / "numpred.test.1").read_text().splitlines()]
    tokens = model.tokenizer.encode_batch([prefix for _, prefix in rows], POSITIONS)
    guesses = np.asarray(model(tokens, tokens != 0).logits).argmax(-1)
    right = sum(("VBZ", "VBP")[guess] == label for guess, (label, _) in zip(guesses, rows))  # noqa: B905
    entry = accuracy["test_1"]
    assert (entry["n"], entry["accuracy"]) == (len(rows), right / len(rows))
    assert 0 < entry["max_probability_change"] < 0.02
    card = (out / "README.md").read_text()
    assert f"| test_1 | {len(rows)} | {right / len(rows):.4f} |" in card
    config = json.loads((out / "config.json").read_text())
    assert config["recipe"]["epochs"] == 1
    assert "data" not in config["recipe"]
    contents = [path.read_text(encoding="latin-1") for path in out.iterdir()]
    assert not any(str(trained_run.parent) in content for content in contents)


def test_single_precision_changes_nothing(trained_run, here):
    assert main(["export", str(trained_run), "single", "--precision", "float32"]) == 0
    mine, other = models.load(here / "single"), models.load(trained_run)
    jax.tree.map(np.testing.assert_array_equal, mine.params, other.params)
    for entry in json.loads((here / "single" / "accuracy.json").read_text()).values():
        assert (entry["changed"], entry["max_probability_change"]) == (0, 0)


def test_the_cards_own_words_stay_and_half_a_mark_is_refused(trained_run, out, capsys):
    card = out / "README.md"
    first = card.read_text()
    title, rest = first.split("\n", 1)
    card.write_text(f"# Mine\n{rest.replace('| epochs | 1 |', '| epochs | 4 |')}\nMore of mine.\n")
    assert main(["export", str(trained_run), "exported"]) == 0
    assert card.read_text() == f"# Mine\n{rest}\nMore of mine.\n"
    card.write_text("# Without a measured part\n")
    assert main(["export", str(trained_run), "exported"]) == 0
    assert card.read_text() == first.replace(title, "# Without a measured part")

    card.write_text("# Mine\n\n<!-- measured -->\n")
    (out / "config.json").write_bytes(b"{}")
    assert main(["export", str(trained_run), "exported"]) == 2
    assert "must have both of" in capsys.readouterr().err
    assert (out / "config.json").read_bytes() == b"{}"
