"""Test agreement encoders on disk: round trip, and errors for damaged files."""

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
from earlier_models import canonical, checksum, earlier
from safetensors.numpy import load as parse
from safetensors.numpy import save as to_bytes
from tiny_models import assert_same_parameters, tiny

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
from jaxflow.models.disk import rounded

TOKENIZER = WordTokenizer.build(["the keys to the cabinet", "a café sleeps"])
CONFIG = EncoderConfig(vocabulary=len(TOKENIZER), positions=8, layers=3, heads=2, width=8)
TOKENS = TOKENIZER.encode_batch(["the keys", "a café to the cabinet"])
RECIPE = {"corpus": "simple", "epochs": 5}
ACCURACY = {"test": {"n": 10, "accuracy": 0.9}}
PARAMETERS = "model.safetensors"


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


@pytest.fixture
def folder(model: Model, tmp_path: Path) -> Path:
    save(tmp_path / "model", model, recipe=RECIPE, accuracy=ACCURACY)
    return tmp_path / "model"


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_model_comes_back_to_the_bit_also_elsewhere(
    model: Model, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert sorted(files(folder)) == ["accuracy.json", "config.json", PARAMETERS, "vocab.txt"]
    shutil.move(tmp_path, moved := tmp_path.with_name(f"{tmp_path.name}-moved"))
    monkeypatch.chdir(moved)
    for path in ("model", Path("model"), "."):  # the last is a run's folder
        loaded = load(path)
        assert (loaded.config, loaded.tokenizer) == (model.config, model.tokenizer)
        assert_same_parameters(loaded, model)
    jax.tree.map(np.testing.assert_array_equal, loaded(TOKENS), model(TOKENS))


def test_half_precision_comes_back_rounded(model: Model, tmp_path: Path) -> None:
    save(tmp_path, model, precision="float16")
    again = load(tmp_path)
    assert_same_parameters(again, rounded(model, "float16"))
    for mine, exact in zip(
        jax.tree.leaves(again.params), jax.tree.leaves(model.params), strict=True
    ):
        assert mine.dtype == np.float32
        np.testing.assert_array_equal(mine, np.asarray(exact, np.float16).astype(np.float32))
    count = sum(leaf.size for leaf in jax.tree.leaves(model.params))
    assert 2 * count < (tmp_path / PARAMETERS).stat().st_size < 2 * count + 8000
    huge = dataclasses.replace(model, params=jax.tree.map(lambda leaf: leaf + 7e4, model.params))
    with pytest.raises(InputError, match="must be finite numbers that float16 can hold"):
        save(tmp_path / "huge", huge, precision="float16")
    assert not (tmp_path / "huge").exists()


def test_the_files_are_plain(model: Model, folder: Path) -> None:
    fields = json.loads((folder / "config.json").read_text())
    assert (fields["model_type"], fields["dtype"]) == ("jaxflow-encoder", "float32")
    assert (fields["encoder"], fields["recipe"]) == (CONFIG.to_dict(), RECIPE)
    assert json.loads((folder / "accuracy.json").read_text()) == ACCURACY
    assert (folder / "vocab.txt").read_text(encoding="utf-8").split() == [*TOKENIZER.words]
    # A header's length, a JSON header, the numbers.
    data = (folder / PARAMETERS).read_bytes()
    size = int.from_bytes(data[:8], "little")
    begin, end = json.loads(data[8 : 8 + size])["blocks_2.qkv.bias"]["data_offsets"]
    np.testing.assert_array_equal(
        np.frombuffer(data[8 + size + begin : 8 + size + end], np.float32),
        model.params["params"]["blocks_2"]["qkv"]["bias"],
    )


def test_saving_again_replaces_the_model_and_leaves_the_rest(model: Model, folder: Path) -> None:
    before = files(folder)
    (folder / "README.md").write_text("mine")
    (folder / "model.json").write_text("of an earlier version")
    save(folder, model, recipe=RECIPE, accuracy=ACCURACY)
    assert files(folder) == {**before, "README.md": b"mine"}
    newer = make(1)
    save(folder, newer)
    assert_same_parameters(load(folder), newer)
    assert sorted(files(folder)) == ["README.md", "config.json", PARAMETERS, "vocab.txt"]


@pytest.mark.parametrize("layout", ["run", "export"])
def test_models_of_earlier_versions_are_read(
    layout: str, model: Model, folder: Path, tmp_path: Path
) -> None:
    old = tmp_path / "old"
    old.mkdir()
    for name, data in earlier(files(folder), layout).items():
        (old / name).write_bytes(data)
    loaded = load(old)
    assert (loaded.config, loaded.tokenizer) == (model.config, model.tokenizer)
    assert_same_parameters(loaded, model)
    parameters = old / ("params.safetensors" if layout == "run" else PARAMETERS)
    parameters.write_bytes(parameters.read_bytes()[:-1] + b"\x11")
    with pytest.raises(InputError, match="is damaged: its checksum does not match"):
        load(old)
    save(old, model)
    assert sorted(files(old)) == ["config.json", PARAMETERS, "vocab.txt"]


def test_the_first_format_of_runs_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.json").write_text('{"format": "jaxflow-encoder-1"}')
    with pytest.raises(InputError, match=r"earlier version .* give the command that trained it"):
        load(tmp_path)


def flip(name: str) -> Callable[[Path], Any]:
    def damage(folder: Path) -> None:
        data = bytearray((folder / name).read_bytes())
        data[len(data) // 2] ^= 1
        (folder / name).write_bytes(data)

    return damage


def edit(**changes: Any) -> Callable[[Path], Any]:
    """Change the configuration; the checksum of the sizes follows, as if someone meant it."""

    def damage(folder: Path) -> None:
        card = json.loads((folder / "config.json").read_text())
        for name, value in changes.items():
            card[name] = {**card[name], **value} if isinstance(value, dict) else value
        if "encoder" in changes:
            card["sha256"]["encoder"] = checksum(canonical(card["encoder"]))
        (folder / "config.json").write_text(json.dumps(card))

    return damage


def sign(name: str, change: Callable[[bytes], bytes]) -> Callable[[Path], Any]:
    """Change a file and its checksum, as if someone meant it."""

    def damage(folder: Path) -> None:
        content = change((folder / name).read_bytes())
        (folder / name).write_bytes(content)
        edit(sha256={name: checksum(content)})(folder)

    return damage


def config_of(change: Callable[[bytes], bytes]) -> Callable[[Path], Any]:
    def damage(folder: Path) -> None:
        path = folder / "config.json"
        path.write_bytes(change(path.read_bytes()))

    return damage


def drop(name: str) -> Callable[[Path], Any]:
    return lambda folder: (folder / name).unlink()


def retyped(dtype: Any) -> Callable[[bytes], bytes]:
    return lambda data: to_bytes({name: leaf.astype(dtype) for name, leaf in parse(data).items()})


SEALED = (PARAMETERS, "vocab.txt", "accuracy.json")
DAMAGE: dict[str, tuple[Callable[[Path], Any], str]] = {
    **{f"a bit of {name}": (flip(name), rf"{name} is damaged: its checksum") for name in SEALED},
    **{
        f"no {name}": (drop(name), rf"{name} cannot be read: .*No such")
        for name in (*SEALED, "config.json")
    },
    "no folder": (shutil.rmtree, "no trained model at"),
    "half a configuration": (config_of(lambda data: data[:20]), "config.json cannot be read"),
    "another model_type": (edit(model_type="jaxflow-2"), "model_type must be one of"),
    "no checksums": (edit(sha256=[]), "config.json is damaged"),
    "no sizes": (edit(sha256={}, encoder=None), "configuration does not fit"),
    "one number of the sizes": (
        config_of(lambda data: data.replace(b'"heads": 2', b'"heads": 1')),
        "config.json is damaged: its sizes have another",
    ),
    "an unknown size": (edit(encoder={"depth": 2}), "configuration does not fit"),
    "an impossible size": (edit(encoder={"layers": 0}), "layers must be"),
    "a size that is no whole number": (edit(encoder={"layers": 2.0}), "layers must be"),
    "another depth": (edit(encoder={"layers": 2}), "not those of its configuration"),
    "another width": (edit(encoder={"width": 16}), "not those of its configuration"),
    "a short vocabulary": (
        sign("vocab.txt", lambda _: b"[PAD]\n[CLS]\n[UNK]\nthe\n"),
        "has 4 words where the model expects",
    ),
    "a vocabulary of bytes": (
        sign("vocab.txt", lambda _: b"\xff\n"),
        "vocabulary.* cannot be read: .*utf-8",
    ),
    "truncated parameters": (sign(PARAMETERS, lambda data: data[:3000]), "is no safetensors file"),
    "numbers that NumPy lacks": (
        sign(PARAMETERS, retyped(jnp.bfloat16)),
        "parameters in .* must be float16 or float32, got 'BF16'",
    ),
    "wider numbers": (sign(PARAMETERS, retyped(np.float64)), "must be float16 or float32"),
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
    captured = capfd.readouterr()
    assert captured.out + captured.err == ""


def test_a_model_is_called_on_tokens(model: Model) -> None:
    expected = jax.jit(AgreementEncoder(CONFIG).apply)(model.params, TOKENS)
    for tokens in (np.int64(TOKENS), jnp.asarray(TOKENS), TOKENS.astype(np.uint8)):
        output = model(tokens)
        assert isinstance(output, EncoderOutput)
        for mine, other in zip(jax.tree.leaves(output), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(mine, other, atol=1e-6)
    everything = model(TOKENS, np.ones(TOKENS.shape, bool))  # overrules the padding token
    assert float(everything.attention.min()) > 0


@pytest.mark.parametrize("number", [-1, len(TOKENIZER)])
def test_tokens_outside_the_vocabulary_are_named(model: Model, number: int) -> None:
    tokens = TOKENS.copy()
    tokens[0, 1] = number
    for call in (model, model.probabilities):
        with pytest.raises(InputError, match=f"tokens must be numbers from 0 to .* {number}"):
            call(tokens)


def test_models_and_tokenizers_are_printed_on_a_screen() -> None:
    model = load("agreement")
    assert "2,478,722 parameters" in repr(model)  # of the paper's encoder
    assert "layers=6" in repr(model)
    assert "10,003 words" in repr(model.tokenizer)
    assert len(repr(model)) < 400
    assert len(repr(model.tokenizer)) < 100
    many = tiny(labels=tuple(f"label {number}" for number in range(1000)))
    assert "16 entries" in repr(many.tokenizer)
    assert len(repr(many)) < 800
