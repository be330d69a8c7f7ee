"""Writing: there and back through transformers, and never half a model."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch_models
from checkpoints import assert_same_parameters
from model_examples import EXAMPLES, Example, make_example
from model_pairs import assert_close, tokens_with_padding
from tiny_models import tiny

from jaxflow.errors import InputError
from jaxflow.models import (
    AgreementEncoder,
    BertConfig,
    EncoderConfig,
    Model,
    WordTokenizer,
    init,
    load,
    save_pretrained,
    with_head,
)


@pytest.fixture(scope="module", params=EXAMPLES)
def example(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Example:
    return make_example(request.param, tmp_path_factory.mktemp("pretrained"))


def test_there_and_back_through_transformers(example: Example, tmp_path: Path) -> None:
    pair = example.pair
    save_pretrained(tmp_path, pair.ours)
    assert_same_parameters(load(tmp_path), pair.ours)
    back = torch_models.read(tmp_path, type(pair.theirs).__name__)
    told = torch_models.tell(back, pair.inputs, pair.mask)
    np.testing.assert_array_equal(told.logits, pair.told.logits)
    assert back.config.id2label == pair.theirs.config.id2label


@pytest.mark.parametrize("name", ["BertForMaskedLM", "RobertaForMaskedLM", "GPT2LMHeadModel"])
def test_a_decoder_of_its_own_goes_there_and_back(name: str, tmp_path: Path) -> None:
    theirs = torch_models.random_model(name, {"tie_word_embeddings": False})
    ours = load(torch_models.write(theirs, tmp_path / "theirs"))
    assert not ours.config.tied
    save_pretrained(tmp_path / "ours", ours)
    assert_same_parameters(load(tmp_path / "ours"), ours)
    back = torch_models.read(tmp_path / "ours", name)
    tokens = tokens_with_padding((7, 4), 1)
    told = [torch_models.tell(model, tokens, tokens != 1).logits for model in (back, theirs)]
    np.testing.assert_array_equal(*told)


def test_fresh_parameters_are_read_by_transformers(tmp_path: Path) -> None:
    config = BertConfig(
        head="classification",
        vocabulary=37,
        positions=9,
        token_types=1,
        layers=1,
        heads=3,
        width=12,
        hidden_width=20,
        labels=("negative", "neither", "positive"),
        activation="relu",
        epsilon=1e-4,
        dropout=0.25,
        attention_dropout=0.0,
        readout_dropout=0.5,
    )
    model = Model(config, init(config, 3), None)
    save_pretrained(tmp_path, model)
    assert_same_parameters(load(tmp_path), model)
    back = torch_models.read(tmp_path, "AutoModelForSequenceClassification")
    assert list(back.config.id2label.values()) == list(config.labels)
    tokens = tokens_with_padding((8, 3), 0)
    told = torch_models.tell(back, tokens, tokens != 0)
    assert_close(model(tokens).logits, told.logits)


def test_a_model_of_words_is_not_written(tmp_path: Path) -> None:
    config = EncoderConfig(vocabulary=4, positions=4, layers=1, heads=1, width=4)
    model = Model(config, init(config), WordTokenizer(("[PAD]", "[CLS]", "[UNK]", "dog")))
    assert isinstance(model.module, AgreementEncoder)
    with pytest.raises(InputError, match=r"^only BERT, .* can be written .* use jaxflow export$"):
        save_pretrained(tmp_path / "model", model)
    with pytest.raises(InputError, match=r"^an agreement encoder has one head"):
        with_head(model, "none")
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize("left", [0, 1])
@pytest.mark.parametrize("before", [False, True])
def test_writing_that_was_cut_off_shows_no_model(
    left: int, before: bool, model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a folder that is there: whether or not it holds a model, after either of its files."""
    replace = os.replace
    moved: list[Path] = []

    def stop(path: Path, target: Path) -> None:
        if len(moved) == left:
            raise KeyboardInterrupt
        moved.append(target)
        replace(path, target)

    if before:
        save_pretrained(tmp_path, model)
    monkeypatch.setattr(os, "replace", stop)
    with pytest.raises(KeyboardInterrupt):
        save_pretrained(tmp_path, model)
    assert not (tmp_path / "config.json").exists()
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]
    monkeypatch.undo()
    save_pretrained(tmp_path, model)
    assert_same_parameters(load(tmp_path), model)


def test_a_folder_that_cannot_be_written(model: Model, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"^cannot write to the folder .*file"):
        save_pretrained(tmp_path / "file" / "model", model)


def test_an_earlier_models_files_do_not_pass_for_the_new_ones(tmp_path: Path) -> None:
    save_pretrained(tmp_path, tiny())
    (tmp_path / "notes.txt").write_text("mine", encoding="utf-8")
    assert load(tmp_path).tokenizer is not None
    other = tiny()
    save_pretrained(tmp_path, Model(other.config, other.params, None))
    assert load(tmp_path).tokenizer is None
    assert (tmp_path / "notes.txt").exists()
