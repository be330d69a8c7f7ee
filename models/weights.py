"""Tensors of a checkpoint in safetensors files, single or sharded; never a pickle."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from numpy.typing import NDArray

from jaxflow.errors import InputError

__all__ = ["OPTIONAL_FILES", "Weights", "open_weights"]

#: What a published model may have besides its configuration and its weights. Left there by an
#: earlier model, a reader would take it for the new one's.
OPTIONAL_FILES = (
    "preprocessor_config.json",
    "model.safetensors.index.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
)

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
_OTHERS = (
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
    "tf_model.h5",
    "flax_model.msgpack",
)
_LONGEST_HEADER = 100_000_000
# What reading JSON of another form than expected may raise.
_MALFORMED = (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError)
_KINDS = ("F16", "BF16", "F32", "F64")


class Weights(NamedTuple):
    """An open checkpoint.

    Attributes
    ----------
    folder
        Where it lies.
    shapes
        Name -> shape of every tensor.
    files
        Name -> the open file that holds it.
    """

    folder: Path
    shapes: dict[str, tuple[int, ...]]
    files: dict[str, Any]

    def read(self, name: str) -> NDArray[Any]:
        """Return one tensor, as stored.

        Raises
        ------
        InputError
            If its numbers are no floating-point ones of 16 bits or more, or cannot be read.
        """
        kind = self.files[name].get_slice(name).get_dtype()
        if kind not in _KINDS:
            raise InputError(
                f"the tensor {name} in {self.folder} must be one of {', '.join(_KINDS)}, got {kind}"
            )
        try:
            # NumPy knows BF16 because JAX is imported.
            tensor: NDArray[Any] = self.files[name].get_tensor(name)
        except Exception as error:  # NumPy's too, for a shape that no array can have
            raise InputError(
                f"the tensor {name} in {self.folder} cannot be read: {error}"
            ) from error
        return tensor


@contextmanager
def open_weights(folder: Path) -> Iterator[Weights]:
    """Open the checkpoint of a folder for the duration of a block; tensors are read one by one.

    Raises
    ------
    InputError
        If there is none, a shard is missing, or a file is damaged or too short; tensors that lie
        beyond a file's end are named.
    """
    from safetensors import SafetensorError, safe_open

    paths = _paths(folder)
    shapes: dict[str, tuple[int, ...]] = {}
    files: dict[str, Any] = {}
    with ExitStack() as stack:
        for path in paths:
            try:
                file = stack.enter_context(safe_open(path, framework="numpy"))
                for name in file.keys():  # noqa: SIM118 (not a mapping)
                    if name in shapes:
                        raise InputError(f"{folder} holds the tensor {name} more than once")
                    shapes[name] = tuple(file.get_slice(name).get_shape())
                    files[name] = file
            except (SafetensorError, OSError) as error:
                raise InputError(_damage(path, error)) from error
        yield Weights(folder, shapes, files)


def _paths(folder: Path) -> list[Path]:
    if (folder / SINGLE).is_file():
        return [folder / SINGLE]
    index = folder / INDEX
    if not index.is_file():
        pickles = [name for name in _OTHERS if (folder / name).is_file()]
        if pickles:
            raise InputError(
                f"{folder} must hold {SINGLE}, and holds {pickles[0]}, which is not read here: "
                "such a file can run code; save the model again as safetensors"
            )
        raise InputError(f"{folder} must hold {SINGLE} or {INDEX}, and holds neither")
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except _MALFORMED as error:
        raise InputError(f"the list of shards {index} is damaged: {error}") from error
    if not names or not all(isinstance(name, str) and Path(name).name == name for name in names):
        raise InputError(f"the list of shards {index} must name files of its folder, got {names}")
    try:
        missing = [name for name in names if not (folder / name).is_file()]
    except OSError as error:  # a name that no file can have
        raise InputError(f"the list of shards {index} cannot be followed: {error}") from error
    if missing:
        raise InputError(f"{folder} must hold every shard, {', '.join(missing)} missing")
    return [folder / name for name in names]


def _damage(path: Path, error: Exception) -> str:
    """Say what is wrong with a file, naming the tensors that lie beyond its end."""
    size = path.stat().st_size
    cut = []
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length <= min(size, _LONGEST_HEADER):
                header = json.loads(file.read(length))
                cut = [
                    name
                    for name, entry in header.items()
                    if name != "__metadata__" and 8 + length + entry["data_offsets"][1] > size
                ]
    except (*_MALFORMED, struct.error):
        pass  # a header that cannot be read is what the error says
    if cut:
        shown = ", ".join(sorted(cut)[:10]) + (f" and {len(cut) - 10} more" if cut[10:] else "")
        return f"{path} is cut off at {size:,} bytes: truncated or lost are {shown}"
    return f"{path} is no safetensors file: {' '.join(str(error).split())}"
