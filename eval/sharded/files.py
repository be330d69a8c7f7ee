"""Write and read shards, a Parquet file each with one row a sentence."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jaxflow.errors import InputError
from jaxflow.eval.paper.scores import SCORES, SentenceScores
from jaxflow.eval.paper.tables import SPOILT
from jaxflow.files import write_together

_KEY = b"jaxflow"  # of the file's own metadata
_NUMBERS = ("row", "label", "length")  # columns of one whole number a sentence


@dataclass(frozen=True, eq=False)
class Shard:
    """Results of S of the sentences."""

    scores: SentenceScores
    rows: np.ndarray  # [S], each sentence's place in its split
    labels: np.ndarray  # [S]
    right: dict[str, int]  # split -> how many of the shard's part of it are classified rightly
    plan: str  # checksum of the plan that the shard belongs to

    def columns(self) -> dict[str, NDArray]:
        """Return the arrays by the name of their column."""
        return {"row": self.rows, "label": self.labels, **self.scores.arrays}

    def checksum(self) -> str:
        """Return the SHA-256 of all that is read back: Parquet's own leaves some of a file out."""
        about = json.dumps({"right": self.right, "plan": self.plan}, sort_keys=True)
        digest = hashlib.sha256(about.encode())
        for values in self.columns().values():
            digest.update(np.ascontiguousarray(values).tobytes())
        return digest.hexdigest()


def write_shard(path: Path, shard: Shard) -> None:
    """Write a shard, atomically.

    Columns are ``row`` and ``label``, ``length``, and for each score a list of one float64 a layer.

    Raises `InputError` if the folder cannot be written.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = {}
    for name, values in shard.columns().items():
        flat = pa.array(np.ascontiguousarray(values).reshape(-1))
        lists = values.ndim > 1
        columns[name] = pa.FixedSizeListArray.from_arrays(flat, values.shape[1]) if lists else flat
    about = json.dumps(
        {"right": shard.right, "plan": shard.plan, "checksum": shard.checksum()}, sort_keys=True
    )
    table = pa.table(columns).replace_schema_metadata({_KEY: about.encode()})
    write_together(path.parent, {path.name: lambda part: pq.write_table(table, part)})


def read_shard(path: Path) -> Shard:
    """Read what `write_shard` wrote.

    Raises `InputError` if the file is missing, damaged or none of these.
    """
    import pyarrow.parquet as pq

    with _refused(path):
        with pq.ParquetFile(path) as file:
            _check_columns(file, path.stat().st_size)
            table = file.read()
        arrays = {name: _array(table[name]) for name in (*SCORES, *_NUMBERS)}
        about: dict[str, Any] = json.loads((table.schema.metadata or {})[_KEY])
        right, plan = dict(about["right"]), about["plan"]
        if type(plan) is not str or any(type(count) is not int for count in right.values()):
            raise ValueError("its metadata is of other kinds")
        rows, labels = arrays.pop("row"), arrays.pop("label")
        scores = SentenceScores(arrays, arrays["saturated"].shape[1])
        shard = Shard(scores, rows, labels, right, plan)
        if about["checksum"] != shard.checksum():
            raise ValueError("its checksum is another")
        return shard


@contextmanager
def _refused(path: Path) -> Iterator[None]:
    """Turn what is raised in a block into an InputError that names the shard."""
    import pyarrow as pa

    try:
        yield
    except (OSError, pa.ArrowException, *SPOILT) as error:
        raise InputError(
            f"the shard {path} cannot be read, delete it to have it made again: "
            f"{' '.join(str(error).split()) or type(error).__name__}"
        ) from error


def _check_columns(file: Any, size: int) -> None:
    """Raise `InputError`, before reading, if a ParquetFile of `size` bytes is not a shard.

    The numbers of `row` differ, so that each takes one byte at least.
    """
    import pyarrow as pa

    if not 0 < file.metadata.num_rows <= size:
        raise ValueError(f"it claims {file.metadata.num_rows} sentences in {size} bytes")
    kinds = {field.name: field.type for field in file.schema_arrow}
    for name in _NUMBERS:
        if not pa.types.is_integer(kinds[name]):
            raise ValueError(f"{name} must be whole numbers, got {kinds[name]}")
    layers = getattr(kinds["saturated"], "list_size", 0)
    for name in SCORES:
        if kinds[name] != pa.list_(pa.float64(), layers):
            raise ValueError(f"{name} must be {layers} numbers a sentence, got {kinds[name]}")


def _array(column: Any) -> NDArray:
    """Return a column as an array, of lists of one length float64 ``[S, L]``."""
    import pyarrow as pa

    column = column.combine_chunks()
    if not pa.types.is_fixed_size_list(column.type):
        if column.null_count:
            raise ValueError("a number is missing")
        return np.asarray(column.to_numpy())
    if column.null_count or column.values.null_count:
        raise ValueError("a score is missing")
    values = column.flatten().to_numpy(zero_copy_only=False)
    return np.asarray(values, np.float64).reshape(len(column), -1)


@dataclass(frozen=True, eq=False)
class StoredScores(Mapping[str, NDArray]):
    """The arrays of `SentenceScores`, each read from all shards at every access and not kept.

    Reading raises `InputError` if a file is gone or damaged. The file's checksum, which covers all
    scores, is checked by `read_shard` only.
    """

    paths: Sequence[Path]  # in the order of their sentences
    sizes: Sequence[int]  # sentences of each
    layers: int
    length: NDArray[np.integer]  # of all sentences

    def __getitem__(self, name: str) -> NDArray:
        import pyarrow.parquet as pq

        if name == "length":
            return self.length
        whole = np.empty((len(self.length), self.layers))
        begin = 0
        for path, size in zip(self.paths, self.sizes, strict=True):
            with _refused(path), pq.ParquetFile(path) as file:
                _check_columns(file, path.stat().st_size)
                part = _array(file.read([name])[name])
            if part.shape != (size, self.layers):
                raise InputError(f"the shard {path} has been changed while it was read: start anew")
            whole[begin : begin + size] = part
            begin += size
        return whole

    def __contains__(self, name: object) -> bool:
        return name in (*SCORES, "length")

    def __iter__(self) -> Iterator[str]:
        return iter((*SCORES, "length"))

    def __len__(self) -> int:
        return len(SCORES) + 1
