"""Write and read shards, a Parquet file each with one row a sentence."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jaxflow.errors import InputError
from jaxflow.eval.paper.scores import ENTROPY_ROWS, ROWS, SCORES, TARGETS, SentenceScores
from jaxflow.files import write_together

_KEY = b"jaxflow"  # of the file's own metadata


@dataclass(frozen=True, eq=False)
class Shard:
    """Results of some of the sentences.

    Attributes
    ----------
    scores
        Of S sentences.
    rows, labels
        ``[S]``, each sentence's place in its split, and its class.
    right
        Split -> how many of the shard's part of it the model classifies rightly.
    plan
        Checksum of the plan that the shard belongs to.
    """

    scores: SentenceScores
    rows: np.ndarray
    labels: np.ndarray
    right: dict[str, int]
    plan: str


def write_shard(path: Path, shard: Shard) -> None:
    """Write a shard, atomically.

    Columns are ``row`` and ``label``, ``length``, and for each score a list of one float64 a layer.

    Raises `InputError` if the folder cannot be written.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    arrays = shard.scores.arrays()
    columns = {"row": pa.array(shard.rows), "label": pa.array(shard.labels)}
    for name, values in arrays.items():
        flat = pa.array(np.ascontiguousarray(values).reshape(-1))
        columns[name] = (
            flat
            if values.ndim == 1
            else pa.FixedSizeListArray.from_arrays(flat, shard.scores.layers)
        )
    about = json.dumps(
        {"right": shard.right, "plan": shard.plan, "checksum": _checksum(shard)}, sort_keys=True
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
        if any(table[name].null_count for name in ("row", "label", "length")):
            raise ValueError("a number is missing")
        about: dict[str, Any] = json.loads((table.schema.metadata or {})[_KEY])
        numbers = {name: table[name].to_numpy() for name in ("row", "label", "length")}
        layered = {name: _stacked(table[name].combine_chunks()) for name in SCORES}
        scores = SentenceScores(
            correlations={t: {r: layered[f"{t}/{r}"] for r in ROWS} for t in TARGETS},
            saturated=layered["saturated"],
            entropy={row: layered[f"entropy/{row}"] for row in ENTROPY_ROWS},
            length=numbers["length"],
        )
        right, plan = dict(about["right"]), about["plan"]
        if type(plan) is not str or any(type(count) is not int for count in right.values()):
            raise ValueError("its metadata is of other kinds")
        shard = Shard(scores, numbers["row"], numbers["label"], right, plan)
        if about["checksum"] != _checksum(shard):
            raise ValueError("its checksum is another")
        return shard


def read_shard_scores(path: Path, name: str) -> NDArray[np.float64]:
    """Read the score of one name (`jaxflow.eval.paper.scores.SCORES`) alone, float64 ``[S, L]``.

    The file's checksum, which covers all scores, is checked by `read_shard` only; errors are the
    same.
    """
    import pyarrow.parquet as pq

    with _refused(path), pq.ParquetFile(path) as file:
        _check_columns(file, path.stat().st_size)
        return _stacked(file.read([name])[name].combine_chunks())


@contextmanager
def _refused(path: Path) -> Iterator[None]:
    """Turn what is raised in a block into an InputError that names the shard."""
    import pyarrow as pa

    try:
        yield
    except (
        OSError,
        pa.ArrowException,
        ValueError,
        LookupError,
        AttributeError,
        TypeError,
    ) as error:
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
    for name in ("row", "label", "length"):
        if not pa.types.is_integer(kinds[name]):
            raise ValueError(f"{name} must be whole numbers, got {kinds[name]}")
    layers = getattr(kinds["saturated"], "list_size", 0)
    for name in SCORES:
        if kinds[name] != pa.list_(pa.float64(), layers):
            raise ValueError(f"{name} must be {layers} numbers a sentence, got {kinds[name]}")


def _checksum(shard: Shard) -> str:
    """Return the SHA-256 of all that is read back: Parquet's own leaves some of a file out."""
    about = json.dumps({"right": shard.right, "plan": shard.plan}, sort_keys=True)
    digest = hashlib.sha256(about.encode())
    for values in (shard.rows, shard.labels, *shard.scores.arrays().values()):
        digest.update(np.ascontiguousarray(values).tobytes())
    return digest.hexdigest()


def _stacked(column: Any) -> np.ndarray:
    """Return a column of lists of one length as float64 ``[S, L]``."""
    if column.null_count or column.values.null_count:
        raise ValueError("a score is missing")
    values = column.flatten().to_numpy(zero_copy_only=False)
    return np.asarray(values, np.float64).reshape(len(column), -1)


class ShardScores:
    """The scores of S sentences over L layers, as `jaxflow.eval.paper.scores.Scores`.

    Each array is read from all shards when it is accessed and not kept, so that memory holds only
    those in use.

    Parameters
    ----------
    paths
        The shards' files, in the order of their sentences.
    sizes
        Sentences of each.
    layers
        L.
    length
        Number of tokens with [CLS], int ``[S]``.

    Raises
    ------
    InputError
        When an array is read, if a file is gone or damaged.
    """

    def __init__(
        self, paths: Sequence[Path], sizes: Sequence[int], layers: int, length: NDArray[np.integer]
    ) -> None:
        self._paths, self._ends = tuple(paths), np.cumsum(sizes)
        self.layers, self.length = layers, length

    @property
    def sentences(self) -> int:
        """As of `SentenceScores`."""
        return len(self.length)

    @property
    def correlations(self) -> Mapping[str, Mapping[str, NDArray[np.float64]]]:
        """As of `SentenceScores`."""
        return {
            target: _Arrays({row: f"{target}/{row}" for row in ROWS}, self._read)
            for target in TARGETS
        }

    @property
    def saturated(self) -> NDArray[np.float64]:
        """As of `SentenceScores`."""
        return self._read("saturated")

    @property
    def entropy(self) -> Mapping[str, NDArray[np.float64]]:
        """As of `SentenceScores`."""
        return _Arrays({row: f"entropy/{row}" for row in ENTROPY_ROWS}, self._read)

    def arrays(self) -> Mapping[str, NDArray]:
        """As of `SentenceScores`."""
        return _Arrays({name: name for name in (*SCORES, "length")}, self._read)

    def _read(self, name: str) -> NDArray:
        if name == "length":
            return self.length
        whole = np.empty((self.sentences, self.layers))
        begin = 0
        for path, end in zip(self._paths, self._ends, strict=True):
            part = read_shard_scores(path, name)
            if part.shape != (end - begin, self.layers):
                raise InputError(f"the shard {path} has been changed while it was read: start anew")
            whole[begin:end] = part
            begin = end
        return whole


class _Arrays(Mapping[str, NDArray]):
    """Arrays by name, each read anew at every access."""

    def __init__(self, names: Mapping[str, str], read: Callable[[str], NDArray]) -> None:
        self._names, self._read = names, read

    def __getitem__(self, name: str) -> NDArray:
        return self._read(self._names[name])

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)
