"""Exported models: what is written comes back, and a damaged file is named."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxflow.errors import InputError
from jaxflow.models import AgreementEncoder, EncoderConfig, Model, WordTokenizer, load
from jaxflow.models.exported import FILES, rounded, write_export

TOKENIZER = WordTokenizer.build(["the keys to the cabinet", "a café sleeps"])
CONFIG = EncoderConfig(vocabulary=len(TOKENIZER), positions=8, layers=3, heads=2, width=8)
TOKENS = TOKENIZER.encode_batch(["the keys", "a café to the cabinet"])
RECIPE = {"corpus": "simple", "epochs": 5}
ACCURACY = {"test": {"n": 10, "accuracy": 0.9}}


@pytest.fixture(scope="module")
def model() -> Model:
    shapes = jax.eval_shape(AgreementEncoder(CONFIG).init, jax.random.key(0), TOKENS)
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda leaf: jnp.asarray(rng.normal(size=leaf.shape) * 0.3, leaf.dtype), shapes
    )
    return Model(CONFIG, params, TOKENIZER)


@pytest.fixture
def folder(model: Model, tmp_path: Path) -> Path:
    write_export(tmp_path / "model", model, recipe=RECIPE, accuracy=ACCURACY)
    return tmp_path / "model"


def test_single_precision_comes_back_to_the_bit(model: Model, tmp_path: Path) -> None:
    write_export(tmp_path, model, recipe=RECIPE, accuracy=ACCURACY, precision="float32")
    again = load(tmp_path)
    assert (again.config, again.tokenizer) == (model.config, model.tokenizer)
    jax.tree.map(np.testing.assert_array_equal, again.params, model.params)
    jax.tree.map(np.testing.assert_array_equal, again(TOKENS), model(TOKENS))


def test_half_precision_comes_back_rounded(model: Model, folder: Path) -> None:
    again = load(str(folder))

    def check(mine: Any, other: Any) -> None:
        assert mine.dtype == np.float32
        np.testing.assert_array_equal(mine, np.asarray(other, np.float16).astype(np.float32))

    jax.tree.map(check, again.params, model.params)
    jax.tree.map(np.testing.assert_array_equal, again.params, rounded(model, "float16").params)
    np.testing.assert_allclose(again(TOKENS).logits, model(TOKENS).logits, atol=0.02)
    assert not np.array_equal(again(TOKENS).logits, model(TOKENS).logits)


def test_the_folder_holds_what_it_says(model: Model, folder: Path) -> None:
    assert sorted(path.name for path in folder.iterdir()) == sorted([*FILES, "config.json"])
    card = json.loads((folder / "config.json").read_text())
    assert card["recipe"] == RECIPE
    assert card["precision"] == "float16"
    assert json.loads((folder / "accuracy.json").read_text()) == ACCURACY
    assert (folder / "vocabulary.txt").read_text(encoding="utf-8").split() == [*TOKENIZER.words]
    count = sum(leaf.size for leaf in jax.tree.leaves(model.params))
    assert 2 * count < (folder / "model.safetensors").stat().st_size < 2 * count + 8000


def test_others_read_the_parameters_too(model: Model, folder: Path) -> None:
    """The format is plain: a header's length, a JSON header, the numbers."""
    data = (folder / "model.safetensors").read_bytes()
    size = int.from_bytes(data[:8], "little")
    entry = json.loads(data[8 : 8 + size])["blocks_2.qkv.bias"]
    assert (entry["dtype"], entry["shape"]) == ("F16", [24])
    begin, end = (8 + size + offset for offset in entry["data_offsets"])
    bias = model.params["params"]["blocks_2"]["qkv"]["bias"]
    np.testing.assert_array_equal(
        np.frombuffer(data[begin:end], np.float16), np.asarray(bias).astype(np.float16)
    )


def test_writing_again_gives_the_same_bytes_and_leaves_the_rest(model: Model, folder: Path) -> None:
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    (folder / "README.md").write_text("mine")
    write_export(folder, model, recipe=RECIPE, accuracy=ACCURACY)
    after = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert after == {**before, "README.md": b"mine"}


def test_what_half_precision_cannot_hold_is_refused(model: Model, tmp_path: Path) -> None:
    huge = dataclasses.replace(model, params=jax.tree.map(lambda leaf: leaf * 1e6, model.params))
    with pytest.raises(InputError, match="finite numbers that float16 can hold"):
        write_export(tmp_path / "model", huge, recipe=RECIPE, accuracy=ACCURACY)
    assert not (tmp_path / "model").exists()


def test_a_folder_that_cannot_be_written_is_named(model: Model, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(InputError, match=r"cannot write to the folder .*file"):
        write_export(tmp_path / "file", model, recipe=RECIPE, accuracy=ACCURACY)


def flip(name: str) -> Callable[[Path], Any]:
    def damage(folder: Path) -> None:
        data = bytearray((folder / name).read_bytes())
        data[len(data) // 2] ^= 1
        (folder / name).write_bytes(data)

    return damage


def edit(**changes: Any) -> Callable[[Path], Any]:
    def damage(folder: Path) -> None:
        card = json.loads((folder / "config.json").read_text())
        for name, value in changes.items():
            card[name] = {**card[name], **value} if isinstance(value, dict) else value
        (folder / "config.json").write_text(json.dumps(card))

    return damage


def sign(folder: Path, name: str, data: bytes) -> None:
    """Change a file as if someone had meant it."""
    import hashlib

    (folder / name).write_bytes(data)
    edit(sha256={name: hashlib.sha256(data).hexdigest()})(folder)


DAMAGE: dict[str, tuple[Callable[[Path], Any], str]] = {
    **{f"a bit of {name}": (flip(name), rf"{name} is damaged: its checksum") for name in FILES},
    **{
        f"no {name}": (lambda f, name=name: (f / name).unlink(), rf"{name} cannot be read: No such")
        for name in (*FILES, "config.json")
    },
    "half the parameters": (
        lambda f: (f / FILES[0]).write_bytes((f / FILES[0]).read_bytes()[:3000]),
        "model.safetensors is damaged: its checksum",
    ),
    "half a card": (
        lambda f: (f / "config.json").write_text('{"format": "jaxflow-encoder-export-1'),
        "config.json is damaged",
    ),
    "card of bytes": (
        lambda f: (f / "config.json").write_bytes(b"\xff\xfe"),
        "config.json is damaged",
    ),
    "another format": (edit(format="jaxflow-encoder-export-0"), "not a model of the format"),
    "a card of a list": (lambda f: (f / "config.json").write_text("[]"), "not a model of the form"),
    "no checksums": (edit(sha256=[]), "config.json is damaged"),
    "an unknown size": (edit(encoder={"depth": 2}), "configuration does not fit"),
    "another depth": (edit(encoder={"layers": 2}), "not those of its configuration"),
    "another width": (edit(encoder={"width": 16}), "not those of its configuration"),
    "a short vocabulary": (
        lambda f: sign(f, "vocabulary.txt", b"[PAD]\n[CLS]\n[UNK]\nthe\n"),
        "has 4 words where the model expects",
    ),
    "a vocabulary of bytes": (
        lambda f: sign(f, "vocabulary.txt", b"\xff\n"),
        "vocabulary.* cannot be read: .*utf-8",
    ),
    "no parameters at all": (
        lambda f: sign(f, "model.safetensors", b"nothing"),
        "is no safetensors file",
    ),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_is_one_line_that_names_the_file(
    kind: str, folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    damage, complaint = DAMAGE[kind]
    damage(folder)
    with pytest.raises(InputError, match=complaint) as caught:
        load(folder)
    assert "\n" not in str(caught.value)
    assert str(folder) in str(caught.value) or "configuration does not fit" in str(caught.value)
    captured = capfd.readouterr()
    assert captured.out + captured.err == ""


def test_an_export_can_be_moved(model: Model, folder: Path, tmp_path: Path) -> None:
    shutil.move(folder, tmp_path / "elsewhere")
    assert load(tmp_path / "elsewhere").config == model.config
