"""Models on disk: what is written comes back, and damage never passes as a model."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxflow.errors import InputError
from jaxflow.models import (
    AgreementEncoder,
    EncoderConfig,
    EncoderOutput,
    Model,
    WordTokenizer,
    load,
    save,
)

TOKENIZER = WordTokenizer.build(["the keys to the cabinet", "a cat sleeps"])
CONFIG = EncoderConfig(vocabulary=len(TOKENIZER), positions=8, layers=2, heads=2, width=8)
TOKENS = TOKENIZER.encode_batch(["the keys", "a cat to the cabinet"])


def make(seed: int) -> Model:
    shapes = jax.eval_shape(AgreementEncoder(CONFIG).init, jax.random.key(0), TOKENS)
    rng = np.random.default_rng(seed)
    variables = jax.tree.map(
        lambda leaf: jnp.asarray(rng.normal(size=leaf.shape) * 0.3, leaf.dtype), shapes
    )
    return Model(CONFIG, variables, TOKENIZER)


@pytest.fixture(scope="module")
def model() -> Model:
    return make(0)


@pytest.fixture(scope="module")
def saved(model: Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "model"
    save(folder, model)
    return folder


@pytest.fixture
def copy(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "model"))


def assert_same(left: Model, right: Model) -> None:
    assert left.config == right.config
    assert left.tokenizer == right.tokenizer
    jax.tree.map(np.testing.assert_array_equal, left.params, right.params)


def test_a_model_survives_its_folder(model: Model, saved: Path) -> None:
    for path in (saved, saved.parent, str(saved)):
        loaded = load(path)
        assert_same(loaded, model)
    jax.tree.map(np.testing.assert_array_equal, loaded(TOKENS), model(TOKENS))
    assert sorted(path.name for path in saved.iterdir()) == [
        "model.json",
        "params.safetensors",
        "vocabulary.txt",
    ]


def test_a_moved_model_still_loads(
    model: Model, copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy.rename(tmp_path / "elsewhere")
    monkeypatch.chdir(tmp_path)
    assert_same(load("elsewhere"), model)


@pytest.mark.parametrize("convert", [np.asarray, jnp.asarray, np.int64, np.uint8])
def test_a_model_is_called_on_tokens(model: Model, convert: Callable[..., Any]) -> None:
    output = model(convert(TOKENS))
    assert isinstance(output, EncoderOutput)
    expected = jax.jit(AgreementEncoder(CONFIG).apply)(model.params, TOKENS)
    for mine, other in zip(jax.tree.leaves(output), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(mine, other, atol=1e-6)
    probabilities = model.probabilities(convert(TOKENS))
    np.testing.assert_allclose(probabilities.sum(-1), 1, atol=1e-6)
    weights = np.exp(np.asarray(expected.logits, np.float64))
    np.testing.assert_allclose(probabilities, weights / weights.sum(-1, keepdims=True), atol=1e-6)


def test_a_mask_overrules_the_padding_token(model: Model) -> None:
    np.testing.assert_array_equal(model(TOKENS, TOKENS != 0).logits, model(TOKENS).logits)
    everything = model(TOKENS, np.ones(TOKENS.shape, bool))
    assert float(everything.attention.min()) > 0


@pytest.mark.parametrize("number", [-1, len(TOKENIZER)])
def test_tokens_outside_the_vocabulary_are_named(model: Model, number: int) -> None:
    tokens = TOKENS.copy()
    tokens[0, 1] = number
    for call in (model, model.probabilities):
        with pytest.raises(InputError, match=f"tokens must be numbers from 0 to .* {number}"):
            call(tokens)


def test_saving_over_a_model_replaces_it(copy: Path) -> None:
    newer = make(1)
    save(copy, newer)
    assert_same(load(copy), newer)
    assert [path.name for path in copy.parent.iterdir()] == ["model"]


def test_a_failed_save_keeps_the_model_that_was_there(
    model: Model, copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full_disk(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(InputError, match=r"cannot write to the folder .*No space left"):
        save(copy, make(1))
    monkeypatch.undo()
    assert_same(load(copy), model)
    assert [path.name for path in copy.parent.iterdir()] == ["model"]


def test_a_folder_that_cannot_be_written_is_named(model: Model, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(InputError, match="cannot write to the folder"):
        save(tmp_path / "file" / "model", model)


def edit_card(folder: Path, **changes: Any) -> None:
    """Change the card, as if someone had meant it: the configuration's checksum follows."""
    card = json.loads((folder / "model.json").read_text())
    if isinstance(card["config"], dict):
        card["config"] |= changes.pop("config", {})
    card |= changes
    sizes = json.dumps(card["config"], sort_keys=True).encode()
    card["sha256"]["config"] = hashlib.sha256(sizes).hexdigest()
    (folder / "model.json").write_text(json.dumps(card))


def sign(folder: Path, name: str, data: bytes) -> None:
    """Change a file as if someone had meant it."""
    (folder / name).write_bytes(data)
    card = json.loads((folder / "model.json").read_text())
    card["sha256"][name] = hashlib.sha256(data).hexdigest()
    (folder / "model.json").write_text(json.dumps(card))


def flip_a_bit(folder: Path) -> None:
    data = bytearray((folder / PARAMS).read_bytes())
    data[len(data) // 2] ^= 16
    (folder / PARAMS).write_bytes(data)


def swap_parameters(folder: Path) -> None:
    """Put another model's intact parameters under this model's card."""
    other = folder.parent / "other"
    save(other, make(7))
    (other / PARAMS).replace(folder / PARAMS)


def one_head(folder: Path) -> None:
    """Change a number that fits all parameters and means another model."""
    text = (folder / "model.json").read_text()
    assert '"heads": 2' in text
    (folder / "model.json").write_text(text.replace('"heads": 2', '"heads": 1'))


def tensors(folder: Path, dtype: Any) -> bytes:
    from safetensors.numpy import load_file, save

    found = load_file(folder / PARAMS)
    return save({name: leaf.astype(dtype) for name, leaf in found.items()})


def replace_config(folder: Path, config: Any) -> None:
    card = json.loads((folder / "model.json").read_text())
    (folder / "model.json").write_text(json.dumps({**card, "config": config}))
    edit_card(folder)


def drop_config(folder: Path) -> None:
    card = json.loads((folder / "model.json").read_text())
    del card["config"]
    (folder / "model.json").write_text(json.dumps(card))


PARAMS = "params.safetensors"
SHORT = b"[PAD]\n[CLS]\n[UNK]\nthe\n"

DAMAGE: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no folder": (shutil.rmtree, "no trained model at"),
    "no card": (lambda folder: (folder / "model.json").unlink(), "no trained model at"),
    "empty card": (lambda folder: (folder / "model.json").write_text(""), "card .* is damaged"),
    "half a card": (
        lambda folder: (folder / "model.json").write_text('{"format": "jaxfl'),
        "card .* is damaged",
    ),
    "card of bytes": (
        lambda folder: (folder / "model.json").write_bytes(b"\xff\xfe"),
        "card .* is damaged",
    ),
    "card of a list": (
        lambda folder: (folder / "model.json").write_text("[]"),
        "is not a model of the format",
    ),
    "foreign card": (
        lambda folder: (folder / "model.json").write_text('{"model_type": "gpt2"}'),
        "is not a model of the format",
    ),
    "another format": (lambda f: edit_card(f, format="jaxflow-encoder-0"), "is not a model of"),
    "the format before": (
        lambda f: edit_card(f, format="jaxflow-encoder-1"),
        "is of an earlier version .* delete it and give the command that trained it again",
    ),
    "no checksums": (
        lambda f: (f / "model.json").write_text(json.dumps({"format": "jaxflow-encoder-2"})),
        "card .* is damaged",
    ),
    "no configuration": (drop_config, "card .* is damaged"),
    "a list for configuration": (lambda f: replace_config(f, [1]), "configuration does not fit"),
    "one number of it": (one_head, "card .* is damaged: its configuration has another checksum"),
    "an unknown field": (lambda f: edit_card(f, config={"depth": 2}), "configuration does not fit"),
    "an impossible size": (lambda f: edit_card(f, config={"layers": 0}), "layers must be"),
    "a size that is no number": (lambda f: edit_card(f, config={"layers": 2.0}), "layers must be"),
    "another depth": (lambda f: edit_card(f, config={"layers": 3}), "parameters in .* are not"),
    "another width": (lambda f: edit_card(f, config={"width": 16}), "parameters in .* are not"),
    "no vocabulary": (
        lambda f: (f / "vocabulary.txt").unlink(),
        r"file .*vocabulary\.txt cannot be read: No such file",
    ),
    "another vocabulary": (
        lambda f: (f / "vocabulary.txt").write_bytes(SHORT),
        r"file .*vocabulary\.txt is damaged: its checksum",
    ),
    "a short vocabulary": (
        lambda f: sign(f, "vocabulary.txt", SHORT),
        "vocabulary of .* has 4 words where the model expects",
    ),
    "no parameters": (lambda f: (f / PARAMS).unlink(), f"file .*{PARAMS} cannot be read: No such"),
    "truncated parameters": (
        lambda f: (f / PARAMS).write_bytes((f / PARAMS).read_bytes()[:3000]),
        f"file .*{PARAMS} is damaged: its checksum",
    ),
    "a flipped bit": (flip_a_bit, f"file .*{PARAMS} is damaged: its checksum"),
    "another model's parameters": (swap_parameters, f"file .*{PARAMS} is damaged: its checksum"),
    "truncated parameters, signed": (
        lambda f: sign(f, PARAMS, (f / PARAMS).read_bytes()[:3000]),
        f"{PARAMS} is no safetensors file",
    ),
    "numbers that NumPy does not have, signed": (
        lambda f: sign(f, PARAMS, tensors(f, jnp.bfloat16)),
        "parameters in .* must be float16 or float32, got 'BF16'",
    ),
    "other numbers, signed": (
        lambda f: sign(f, PARAMS, tensors(f, np.float64)),
        "parameters in .* must be float16 or float32",
    ),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_is_one_clear_line(kind: str, copy: Path, capfd: pytest.CaptureFixture[str]) -> None:
    damage, complaint = DAMAGE[kind]
    damage(copy)
    with pytest.raises(InputError, match=complaint) as caught:
        load(copy)
    assert "\n" not in str(caught.value)
    captured = capfd.readouterr()
    assert captured.out + captured.err == ""


def test_a_model_cannot_be_changed(model: Model) -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        model.config = EncoderConfig()
