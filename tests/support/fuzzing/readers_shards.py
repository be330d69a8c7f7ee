"""Readers of an evaluation in shards: a shard's Parquet file, and the plan of all of them."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import io
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from fuzzing.cases import Case, Reader
from fuzzing.mutate_text import mutate_bytes, mutate_case
from fuzzing.readers_records import json_case
from jaxflow.eval.paper.scores import ENTROPY_ROWS, ROWS, TARGETS, SentenceScores
from jaxflow.eval.sharded.files import Shard, read_shard, write_shard
from jaxflow.eval.sharded.run import claim_plan

__all__ = ["PLAN", "READERS", "changed_shard", "shard_seeds"]

SHARD = "shard-00000-of-00001.parquet"
_LAYERED = (
    *(f"{target}/{row}" for target in TARGETS for row in ROWS),
    *(f"entropy/{row}" for row in ENTROPY_ROWS),
    "saturated",
)
#: Numbers as Parquet's footer and page headers have them: a few bits a byte, zigzag.
_VARINTS = (
    b"\x00", b"\x01", b"\x02", b"\x7f", b"\x80\x01", b"\xfe\xff\x03", b"\xfe\xff\xff\xff\x0f",
    b"\xff\xff\xff\xff\x0f", b"\x80\x80\x80\x80\x20", b"\xfe\xff\xff\xff\xff\xff\xff\xff\xff\x01",
    b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", b"\x80\x80\x80\x80\x80\x80\x80\x80\x40",
)  # fmt: skip


@functools.cache
def shard_seeds() -> list[Case]:
    made = []
    for rows, constant in ((3, False), (40, False), (40, True)):
        rng = np.random.default_rng(rows)

        def numbers(rows: int = rows, same: bool = constant, rng: Any = rng) -> np.ndarray:
            values = np.full((rows, 2), 0.25) if same else rng.normal(size=(rows, 2))
            return np.asarray(values)

        scores = SentenceScores(
            correlations={target: {row: numbers() for row in ROWS} for target in TARGETS},
            saturated=numbers(),
            entropy={row: numbers() for row in ENTROPY_ROWS},
            length=np.arange(3, 3 + rows, dtype=np.int32),
        )
        places = np.arange(rows, dtype=np.int64) * 2
        shard = Shard(scores, places, np.ones(rows, np.int32), {"test": 2, "test_1": 1}, "f" * 64)
        with tempfile.TemporaryDirectory() as name:
            write_shard(Path(name) / SHARD, shard)
            made.append({SHARD: (Path(name) / SHARD).read_bytes()})
    return made


def shard_case(rng: Random, case: Case, others: Sequence[Case]) -> Case:
    """Change bytes, the footer's, a page's header, or columns, at times sealed anew."""

    def change(rng: Random, name: str, content: bytes) -> bytes:
        what = rng.random()
        # What has been changed already is not for pyarrow to change, which may end with it.
        if what < 0.15 or all(content != other.get(name) for other in others):
            return mutate_bytes(rng, content)
        if what < 0.5:
            return _footer(rng, content)
        if what < 0.75:
            return _page(rng, content)
        return _columns(rng, content)

    return mutate_case(rng, case, others, change)


def _numbers(rng: Random, data: bytes) -> bytes:
    for _ in range(rng.choice((1, 1, 2, 4))):
        place = rng.randint(0, len(data))
        data = data[:place] + rng.choice(_VARINTS) + data[place + rng.choice((0, 1, 1, 1, 2, 5)) :]
    return data


def _footer(rng: Random, data: bytes) -> bytes:
    """Change the footer, whose length behind it stays right most of the time."""
    length = int.from_bytes(data[-8:-4], "little")
    body, footer = data[: -8 - length], data[-8 - length : -8]
    edge = rng.choice((30, 400, len(footer)))  # the schema comes first, then the row group
    part = (_numbers if rng.random() < 0.6 else mutate_bytes)(rng, footer[:edge])
    footer = part + footer[edge:]
    stated = len(footer) if rng.random() < 0.95 else rng.choice((0, length, 2**31, 2**32 - 1))
    return body + footer + stated.to_bytes(4, "little") + data[-4:]


def _page(rng: Random, data: bytes) -> bytes:
    """Change the header of a page, or the levels and numbers behind it."""
    import pyarrow.parquet as pq

    group = pq.ParquetFile(io.BytesIO(data)).metadata.row_group(0)
    column = group.column(rng.randrange(group.num_columns))
    place = rng.choice((column.data_page_offset, column.dictionary_page_offset or 4))
    size = rng.choice((24, 60))
    head = data[place : place + size]
    changed = (_numbers if rng.random() < 0.6 else mutate_bytes)(rng, head)
    if rng.random() < 0.7:  # of the same length, so that what follows stays in its place
        changed = changed[:size].ljust(size, b"\0")
    return data[:place] + changed + data[place + size :]


def _columns(rng: Random, data: bytes) -> bytes:
    """Write columns of other kinds, lengths or names, with what the file says of itself kept."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pq.read_table(pa.BufferReader(data))
    about = json.loads(table.schema.metadata[b"jaxflow"])
    name = rng.choice(table.column_names)
    place, values = table.column_names.index(name), table[name].to_pylist()
    what = rng.randrange(10)
    if what == 0:
        table = table.remove_column(place)
    elif what == 1:
        other = rng.choice(table.column_names)
        table = table.set_column(place, name, table[other])
    elif what == 2:
        values[rng.randrange(len(values))] = None
        table = table.set_column(place, name, pa.array(values))
    elif what == 3:
        kind = rng.choice((pa.float32(), pa.int8(), pa.float64(), pa.string(), pa.bool_()))
        one = rng.choice((1, 0, 7))
        made = ["x" if kind == pa.string() else kind.to_pandas_dtype()(one)] * len(values)
        table = table.set_column(place, name, pa.array(made, kind))
    elif what == 4:
        # Lists of other lengths, which add up to the same all the same.
        made = [[0.5] * (1, 3)[row % 2] for row in range(len(values))]
        table = table.set_column(place, name, pa.array(made))
    elif what == 5:
        made = [[0.5, None] for _ in values]
        table = table.set_column(place, name, pa.array(made))
    elif what == 6:
        table = table.slice(rng.randrange(len(values)), rng.randint(0, 3))
    elif what == 7:
        table = pa.concat_tables([table] * rng.choice((2, 2, 500)))
    elif what == 8:
        table = table.append_column(name, table[name])
    else:
        about[rng.choice(sorted(about))] = rng.choice((None, [], {"a": "x"}, "x", 7, {"a": 10**30}))
    return changed_shard(table, about, seal=rng.random() < 0.7, packing=rng.choice(
        ("snappy", "none", "zstd", "gzip")))  # fmt: skip


def changed_shard(table: Any, about: dict[str, Any], *, seal: bool, packing: str = "none") -> bytes:
    """Write a table as a shard, sealed as one who means harm can where it can be at all."""
    import pyarrow.parquet as pq

    if seal:
        with contextlib.suppress(Exception):
            about = {**about, "checksum": _checksum(table, about)}
    buffer = io.BytesIO()
    text = {b"jaxflow": json.dumps(about).encode()}
    pq.write_table(table.replace_schema_metadata(text), buffer, compression=packing)
    return buffer.getvalue()


def _checksum(table: Any, about: dict[str, Any]) -> str:
    told = {"plan": about["plan"], "right": about["right"]}
    digest = hashlib.sha256(json.dumps(told, sort_keys=True).encode())
    numbers = ("row", "label")
    for name in (*numbers, *_LAYERED, "length"):
        column = table[name].combine_chunks()
        layered = np.float64 if name in _LAYERED else None
        flat = column if layered is None else column.flatten()
        digest.update(np.asarray(flat.to_numpy(zero_copy_only=False), layered).tobytes())
    return digest.hexdigest()


def shard_oracle(folder: Path, case: Case, value: Any) -> None:
    """Every number is the one that stands in its row of the table."""
    import pyarrow.parquet as pq

    (table,) = [pq.read_table(folder / name) for name in case]
    arrays = {**value.scores.arrays(), "row": value.rows, "label": value.labels}
    assert arrays.keys() <= set(table.column_names)
    for name, found in arrays.items():
        assert len(found) == len(table)
        assert found.dtype.kind == ("i" if name in ("row", "label", "length") else "f")
        np.testing.assert_array_equal(found, np.array(table[name].to_pylist()))
    assert all(type(count) is int for count in value.right.values())
    (stated,) = [pq.read_metadata(folder / name).metadata for name in case]
    about = json.loads(stated[b"jaxflow"])
    assert (value.right, value.plan) == (about["right"], about["plan"])


PLAN: dict[str, Any] = {
    "shards": 3, "sentences": 10, "protocol": {"samples": 10, "seed": 0, "score": "p"},
    "model": "a" * 64, "corpus": "b" * 64, "lengths": [8, 16], "versions": {"jax": "1"},
}  # fmt: skip


def plan_oracle(folder: Path, case: Case, value: Any) -> None:
    """What is taken for the plan is the plan."""
    stated = json.loads(case.get("plan.json") or json.dumps(PLAN))
    assert {name: stated[name] for name in PLAN} == PLAN
    assert json.loads((folder / "plan.json").read_bytes()) == stated


READERS = (
    Reader(
        "scores of a shard",
        shard_seeds,
        lambda folder: read_shard(folder / SHARD),
        shard_case,
        shard_oracle,
        share=1,
    ),
    Reader(
        "plan of shards",
        lambda: [{"plan.json": json.dumps(PLAN, indent=2).encode()}],
        lambda folder: claim_plan(folder, PLAN),
        json_case,
        plan_oracle,
        share=1,
    ),
)
