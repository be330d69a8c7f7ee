"""What is wrong with a checkpoint's tensors is one sentence that lists all of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from checkpoints import refused

from jaxflow.errors import InputError
from jaxflow.models import SubwordTokenizer, load

Tensors = dict[str, np.ndarray]


def test_wrong_tensors_are_listed_at_once(tensors: Tensors, write: Callable[..., Path]) -> None:
    wrong = dict(tensors)
    del wrong["bert.encoder.layer.0.attention.self.key.bias"]
    del wrong["cls.predictions.bias"]
    wrong["bert.encoder.layer.2.output.dense.bias"] = np.zeros(24, np.float32)
    wrong["bert.embeddings.position_embeddings.weight"] = np.zeros((15, 24), np.float32)
    wrong["bert.encoder.layer.1.intermediate.dense.weight"] = np.zeros((24, 40), np.float32)
    folder = write(wrong)
    assert refused(folder) == (
        f"the tensors in {folder} are not those of its config.json ("
        "missing: cls.predictions.bias, encoder.layer.0.attention.self.key.bias; "
        "not of this model: bert.encoder.layer.2.output.dense.bias; "
        "of another shape: bert.embeddings.position_embeddings.weight [15, 24] instead of "
        "[16, 24], bert.encoder.layer.1.intermediate.dense.weight [24, 40] instead of [40, 24])"
    )


def test_of_many_wrong_tensors_some_are_listed(
    tensors: Tensors, write: Callable[..., Path]
) -> None:
    message = refused(write({"bert.pooler.dense.bias": tensors["bert.pooler.dense.bias"]}))
    assert "missing: cls.predictions.bias, " in message
    assert message.endswith(" more)")
    assert len(message) < 1500


@pytest.mark.parametrize(
    ("cut", "message"),
    [
        (lambda data, start: 0, "is no safetensors file"),
        (lambda data, start: 5, "is no safetensors file"),
        (lambda data, start: 8, "is no safetensors file"),
        (lambda data, start: start // 2, "is no safetensors file"),
        (lambda data, start: start - 10, "is no safetensors file"),
        (lambda data, start: start, "is cut off at .* more$"),
        (lambda data, start: (start + len(data)) // 2, "is cut off at .* more$"),
        (lambda data, start: len(data) - 1, r"is cut off at .* bytes: truncated or lost are \S+$"),
    ],
    ids=["empty", "5 bytes", "length", "half a header", "most of it", "header", "half", "one less"],
)
def test_files_that_are_cut_off(
    cut: Callable[[bytes, int], int], message: str, masked: Path, write: Callable[..., Path]
) -> None:
    data = (masked / "model.safetensors").read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    folder = write(data[: cut(data, start)])
    with pytest.raises(InputError, match=f"model.safetensors {message}"):
        load(folder)


def test_files_that_are_cut_between_tensors_name_what_is_lost(
    masked: Path, write: Callable[..., Path]
) -> None:
    data = (masked / "model.safetensors").read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    ends = {name: at["data_offsets"][1] for name, at in header.items() if name != "__metadata__"}
    for name, end in sorted(ends.items(), key=lambda entry: entry[1])[-4:-1]:
        lost = sorted(other for other, at in ends.items() if at > end)
        message = refused(write(data[: 8 + length + end]))
        assert message.endswith(f"bytes: truncated or lost are {', '.join(lost)}"), name


@pytest.mark.parametrize("place", [0, 3, 8, 9, 40])
def test_files_with_a_byte_changed_in_the_header(
    place: int, masked: Path, write: Callable[..., Path]
) -> None:
    data = bytearray((masked / "model.safetensors").read_bytes())
    data[place] ^= 0xFF
    refused(write(bytes(data)))


def test_pickles_are_not_opened(write: Callable[..., Path]) -> None:
    folder = write(None)
    assert refused(folder).endswith("or model.safetensors.index.json, and holds neither")
    (folder / "pytorch_model.bin").write_bytes(b"cos\nsystem\n")
    assert refused(folder) == (
        f"{folder} must hold model.safetensors, and holds pytorch_model.bin, which is not read "
        "here: such a file can run code; save the model again as safetensors"
    )


def test_a_tokenizer_larger_than_the_model_is_refused(
    tensors: Tensors, write: Callable[..., Path]
) -> None:
    folder = write(tensors)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *(f"word{number}" for number in range(33))]
    (folder / "vocab.txt").write_text("\n".join(words))
    tokenizer = load(folder).tokenizer
    assert isinstance(tokenizer, SubwordTokenizer)
    assert len(tokenizer) == 37
    (folder / "vocab.txt").write_text("\n".join([*words, "more"]))
    assert refused(folder).endswith("has 38 entries where the model has 37")
