"""Readers of models: tensors, configurations, tokenizers, and whole folders of all these."""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

import flax.traverse_util
import jax
import ml_dtypes
import numpy as np

from fuzzing import model_files
from fuzzing.cases import Case, Reader
from fuzzing.mutate_binary import mutate_safetensors
from fuzzing.mutate_json import mutate_json
from fuzzing.mutate_text import mutate_bytes, mutate_case, mutate_text
from fuzzing.readers_records import json_case, same_fields
from jaxflow.errors import InputError
from jaxflow.models import EncoderConfig, load
from jaxflow.models.disk import _json, read_folder
from jaxflow.models.published import read_published, write_published
from jaxflow.models.tensors import open_weights, rules
from jaxflow.models.tokenizer import WordTokenizer

__all__ = ["READERS", "change_file", "folder_case", "tensors"]

_TYPES = {
    "F16": np.float16, "F32": np.float32, "F64": np.float64, "BF16": ml_dtypes.bfloat16,
}  # fmt: skip


def change_file(rng: Random, name: str, content: bytes) -> bytes:
    """Change a file of a model as its kind is best changed."""
    if name.endswith(".safetensors"):
        return mutate_safetensors(rng, content)
    if name.endswith(".json"):
        return mutate_json(rng, content)
    return (mutate_text if name.endswith(".txt") else mutate_bytes)(rng, content)


def folder_case(rng: Random, case: Case, others: Sequence[Case]) -> Case:
    return mutate_case(rng, case, others, change_file)


def tensors(content: bytes) -> dict[str, np.ndarray]:
    """Read safetensors by its definition: the header, then slices of what follows."""
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length].decode("utf-8"))
    body = content[8 + length :]
    found = {}
    for name, entry in header.items():
        if name != "__metadata__":
            begin, end = entry["data_offsets"]
            kind = np.dtype(_TYPES[entry["dtype"]])
            assert 0 <= begin <= end <= len(body)
            found[name] = np.frombuffer(body[begin:end], kind).reshape(entry["shape"])
    return found


def read_weights(folder: Path) -> dict[str, np.ndarray]:
    with open_weights(folder) as weights:
        return {name: weights.read(name) for name in weights.shapes}


def weights_oracle(folder: Path, case: Case, value: Any) -> None:
    names = sorted(name for name in case if name.endswith(".safetensors") and case[name])
    if "model.safetensors" in names:
        names = ["model.safetensors"]
    else:
        index = json.loads(case["model.safetensors.index.json"] or b"")
        names = sorted(set(index["weight_map"].values()))
    expected: dict[str, np.ndarray] = {}
    for name in names:
        found = tensors(case[name] or b"")
        assert not expected.keys() & found.keys()
        expected |= found
    assert value.keys() == expected.keys()
    for name, values in value.items():
        assert values.dtype == expected[name].dtype
        assert values.shape == expected[name].shape
        assert values.tobytes() == expected[name].tobytes()


def _tensor_seeds() -> list[Case]:
    from safetensors.numpy import save

    arrays = {
        "a": np.arange(6, dtype=np.float32).reshape(2, 3),
        "b": np.zeros((0, 4), np.float16),
        "c": np.array(1.5),
        "d": np.ones(3, ml_dtypes.bfloat16),
    }
    return [{"model.safetensors": save(arrays, {"format": "pt"})}, {"model.safetensors": save({})}]


def _shard_seeds() -> list[Case]:
    from safetensors.numpy import save

    parts = {f"model-{n}.safetensors": save({f"t{n}": np.ones(n + 1)}) for n in (0, 1)}
    index = {"metadata": {}, "weight_map": {f"t{n}": f"model-{n}.safetensors" for n in (0, 1)}}
    return [{**parts, "model.safetensors.index.json": json.dumps(index).encode()}]


def read_config(folder: Path) -> Any:
    """Read ``config.json`` as far as it goes without tensors, with the names they would have."""
    images = folder / "preprocessor_config.json"
    try:
        config = read_published(
            _json(folder / "config.json"), images=_json(images) if images.is_file() else None
        )
    except InputError as error:  # as `read_folder` does
        raise InputError(f"the model in {folder} cannot be read: {error}") from error
    return config, len(rules(config))


def config_oracle(folder: Path, case: Case, value: Any) -> None:
    config, count = value
    assert count <= 20 * config.layers + 20
    stated = json.loads(case["config.json"] or b"")
    names = {
        "hidden_size": "width", "dim": "width", "n_embd": "width", "vocab_size": "vocabulary",
        "num_hidden_layers": "layers", "n_layers": "layers", "n_layer": "layers",
        "num_attention_heads": "heads", "n_heads": "heads", "n_head": "heads",
    }  # fmt: skip
    # Of an architecture its own names alone are read.
    own = json.loads(json.dumps(write_published(config)))
    for theirs, ours in names.items():
        if theirs in stated and theirs in own:
            assert stated[theirs] == getattr(config, ours)
            assert type(stated[theirs]) is int
    images = None
    if stated["model_type"] == "vit":
        images = {"image_mean": list(config.mean), "image_std": list(config.std)}
    pooler = getattr(config, "pooler", False)
    assert read_published(own, images=images, pooler=pooler) == config


def pretrained_oracle(folder: Path, case: Case, value: Any) -> None:
    """Every parameter is one of the file's numbers, and the model answers."""
    found = tensors(case["model.safetensors"] or b"")
    stored = np.sort(np.concatenate([v.astype(np.float32).ravel() for v in found.values()]))
    ours = np.concatenate([np.asarray(leaf).ravel() for leaf in jax.tree.leaves(value.params)])
    assert all(leaf.dtype == np.float32 for leaf in jax.tree.leaves(value.params))
    places = np.searchsorted(stored, ours)
    same = np.isnan(ours) | (stored[np.minimum(places, len(stored) - 1)] == ours)
    assert same.all()
    if value.tokenizer is not None:
        numbers = value.tokenizer.backend.get_vocab(with_added_tokens=True).values()
        assert max(numbers, default=0) < value.config.vocabulary


def export_case(rng: Random, case: Case, others: Sequence[Case]) -> Case:
    made = folder_case(rng, case, others)
    return model_files.sealed(made) if rng.random() < 0.8 else made


def export_oracle(folder: Path, case: Case, value: Any) -> None:
    same_parameters(case["model.safetensors"] or b"", value)
    lines = (case["vocab.txt"] or b"").decode().split("\n")
    assert list(value.tokenizer.words) == lines[:-1]
    encoder = json.dumps(json.loads(case["config.json"] or b"")["encoder"]).encode()
    encoder_oracle(folder, {"config.json": encoder}, value.config)


def encoder_oracle(folder: Path, case: Case, value: Any) -> None:
    same_fields(value, case["config.json"])
    for name in ("vocabulary", "positions", "layers", "heads", "width", "classes"):
        assert 1 <= getattr(value, name) <= 1 << 24


def read_encoder(folder: Path) -> EncoderConfig:
    """Read the encoder's sizes as `read_folder` does."""
    path = folder / "config.json"
    try:
        fields = json.loads(path.read_bytes())
        return EncoderConfig.from_dict(fields)
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} cannot be read: {error}") from error


def run_case(rng: Random, case: Case, others: Sequence[Case]) -> Case:
    """Change a run's model, four times of five with the checksums written anew."""
    made = folder_case(rng, case, others)
    return model_files.sealed_run(made) if rng.random() < 0.8 else made


def run_oracle(folder: Path, case: Case, value: Any) -> None:
    same_parameters(case["params.safetensors"] or b"", value)
    assert list(value.tokenizer.words) == (case["vocabulary.txt"] or b"").decode().split("\n")[:-1]
    encoder = json.dumps(json.loads(case["model.json"] or b"")["config"]).encode()
    encoder_oracle(folder, {"config.json": encoder}, value.config)


def same_parameters(content: bytes, model: Any) -> None:
    found = tensors(content)
    flat = flax.traverse_util.flatten_dict(model.params["params"], sep=".")
    assert flat.keys() == found.keys()
    for name, leaf in flat.items():
        np.testing.assert_array_equal(np.asarray(leaf), found[name].astype(np.float32))


def name_case(rng: Random, case: Case, others: Sequence[Case]) -> Case:
    return {"name": mutate_text(rng, case["name"] or b"")}


def load_name(folder: Path) -> Any:
    """Load a model by what somebody typed, where it names nothing on the hub."""
    from jaxflow.models.hub import is_hub_name

    text = (folder / "name").read_bytes().decode("utf-8", "surrogateescape")
    if is_hub_name(text) or text in ("", "."):
        raise InputError("a name on the hub, which is not asked here")
    return load(text)


def vocabulary_oracle(folder: Path, case: Case, value: Any) -> None:
    text = (case["vocab.txt"] or b"").decode()
    assert "".join(f"{word}\n" for word in value.words) == text
    assert len(set(value.words)) == len(value.words)
    assert value.decode(range(len(value))) == list(value.words)
    for number, word in enumerate(value.words):
        if " " not in word:
            assert value.encode(word) == [1, number]


_CONFIGURATIONS = ("config.json", "preprocessor_config.json")

READERS = (
    Reader("safetensors", _tensor_seeds, read_weights, folder_case, weights_oracle, share=3),
    Reader(
        "safetensors in shards",
        _shard_seeds,
        read_weights,
        folder_case,
        weights_oracle,
        share=2,
    ),
    Reader(
        "config.json",
        lambda: [
            {name: content for name, content in case.items() if name in _CONFIGURATIONS}
            for case in model_files.published()
        ],
        read_config,
        json_case,
        config_oracle,
        share=3,
    ),
    Reader(
        "encoder's configuration",
        lambda: [{"config.json": json.dumps(model_files.words().config.to_dict()).encode()}],
        read_encoder,
        json_case,
        encoder_oracle,
        share=3,
    ),
    Reader(
        "published model",
        model_files.published,
        read_folder,
        folder_case,
        pretrained_oracle,
        share=0.3,
    ),
    Reader(
        "exported model",
        lambda: [model_files.exported()],
        read_folder,
        export_case,
        export_oracle,
        share=0.1,
    ),
    Reader(
        "run's model",
        lambda: [model_files.run_files()],
        read_folder,
        run_case,
        run_oracle,
        share=0.1,
    ),
    Reader(
        "model's name",
        lambda: [{"name": name} for name in (b"./agreement", b"/tmp/model/x", b"a/b/c", b"~/x")],
        load_name,
        name_case,
        share=0.5,
        names_file=False,
    ),
    Reader(
        "vocabulary of words",
        lambda: [{"vocab.txt": model_files.exported()["vocab.txt"]}],
        lambda folder: WordTokenizer.load(folder / "vocab.txt"),
        folder_case,
        vocabulary_oracle,
        share=2,
    ),
)
