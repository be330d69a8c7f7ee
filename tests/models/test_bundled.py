"""Test the bundled model: size, checksum, and predictions on sentences written by hand."""

from __future__ import annotations

import json
import re
from pathlib import Path

import jax
import numpy as np
import pytest

from jaxflow.errors import InputError
from jaxflow.models import Model, load
from jaxflow.models.hub import bundled_model, bundled_names

# What English has, and the probability of a plural verb that the trained model gave before its
# parameters were rounded to half precision.
SENTENCES = {
    "the keys to the cabinet": ("plural", 0.99982),
    "the key to the cabinets": ("singular", 0.00171),
    "the author of the books": ("singular", 0.00016),
    "the authors of the book": ("plural", 0.99975),
    "the dogs near the old house": ("plural", 0.99973),
    "the dog near the old houses": ("singular", 0.00019),
    "a list of names": ("singular", 0.00016),
    "many people in the city": ("plural", 0.99982),
    "the history of the united states": ("singular", 0.00015),
    "the results of the study": ("plural", 0.99970),
    "the president of the two countries": ("singular", 0.00021),
    "the students who read the book": ("plural", 0.99973),
    "the student who reads the books": ("singular", 0.02389),
    "most of the islands": ("plural", 0.95026),
    "the number of stars in the galaxy": ("singular", 0.00121),
}


@pytest.fixture(scope="module")
def model() -> Model:
    return load("agreement")


@pytest.fixture(scope="module")
def card() -> dict:
    return json.loads((bundled_model() / "config.json").read_text())


def test_it_is_the_papers_encoder_and_small(model: Model) -> None:
    assert bundled_names() == ("agreement",)
    config = model.config
    assert (config.layers, config.heads, config.width, config.classes) == (6, 8, 128, 2)
    assert len(model.text) == config.vocabulary == 10_003
    assert sum(path.stat().st_size for path in bundled_model().iterdir()) <= 6_000_000


def test_it_is_right_on_sentences_written_by_hand(model: Model) -> None:
    tokens = model.tokenizer.encode_batch(list(SENTENCES))
    assert (tokens != 2).all()  # no [UNK]
    plural = np.asarray(model.probabilities(tokens))[:, 1]
    for (sentence, (number, golden)), probability in zip(SENTENCES.items(), plural, strict=True):
        assert ("singular", "plural")[int(probability > 0.5)] == number, sentence
        assert probability == pytest.approx(golden, abs=2e-3), sentence


def test_a_folder_of_another_name_is_not_the_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "agreement").mkdir()
    for path in (Path("agreement"), "./agreement", Path("disagreement")):
        with pytest.raises(InputError, match=r"no trained model at .* bundled model: agreement"):
            load(path)
    with pytest.raises(InputError, match=r"no model 'disagreement' comes .* which has agreement"):
        bundled_model("disagreement")


def test_the_card_says_what_was_measured(model: Model, card: dict) -> None:
    text = (bundled_model() / "README.md").read_text(encoding="utf-8")
    accuracy = json.loads((bundled_model() / "accuracy.json").read_text())
    assert {"val", "test", *(f"test_{number}" for number in range(1, 6))} <= set(accuracy)
    for name, entry in accuracy.items():
        # The card's row, and that rounding has changed no prediction.
        row = f"| {name} | {entry['n']:,} | {entry['accuracy']:.4f} |"
        assert row in text
        assert entry["changed"] == 0
        assert entry["accuracy"] == entry["accuracy_trained"]
        assert entry["max_probability_change"] < 2e-3
    count = sum(leaf.size for leaf in jax.tree.leaves(model.params))
    assert f"{count:,}, stored as float16" in text
    assert card["dtype"] == "float16"


def test_nothing_names_a_path_of_a_machine(card: dict) -> None:
    assert "data" not in card["recipe"]
    for path in bundled_model().iterdir():
        data = path.read_bytes()
        assert not re.search(rb"(?<![\w./:])/(home|root|tmp|work|Users|mnt)/", data), path.name
