"""Hypothesis's own way to the readers: files of their grammars, made smaller where one fails."""

from __future__ import annotations

import io
import json
import struct
from random import Random
from typing import Any

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from fuzzing.cases import Case, Reader

__all__ = ["cases", "json_objects", "npz_files", "safetensors_files", "tables"]

#: What cells and values are made of: numbers at the edges, marks that mean something, any text.
CELLS = st.one_of(
    st.sampled_from(["VBZ", "VBP", "0", "1", "-1", "the key", "the  keys", "", " ", '"', "-", "#"]),
    st.integers(-3, 9).map(str),
    st.integers().map(str),
    st.text(max_size=12),
)
_SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-2, 20),
    st.integers(),
    st.floats(),
    st.text(st.characters(), max_size=12),
)
_VALUES = st.recursive(
    _SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=6,
)


def tables(header: str, columns: int) -> st.SearchStrategy[bytes]:
    """Lines of cells between tabs, most with as many as the header has."""
    row = st.one_of(
        st.lists(CELLS, min_size=columns, max_size=columns), st.lists(CELLS, max_size=columns + 2)
    ).map("\t".join)
    ends = st.sampled_from(["\n", "\n", "\r\n", "\r", ""])
    body = st.lists(st.tuples(row, ends).map("".join), max_size=5).map("".join)
    return body.map(lambda text: (header + text).encode("utf-8", "surrogatepass"))


def json_objects(good: dict[str, Any]) -> st.SearchStrategy[bytes]:
    """An object with some of the fields of a good one, some changed, some that it has not."""

    def dump(fields: dict[str, Any]) -> bytes:
        return json.dumps(fields).encode()

    changed = st.dictionaries(st.sampled_from(sorted(good)), _VALUES, max_size=3)
    kept = st.sets(st.sampled_from(sorted(good)))
    extra = st.dictionaries(st.text(max_size=5), _SCALARS, max_size=1)
    return st.builds(
        lambda kept, changed, extra: dump(
            {name: good[name] for name in sorted(kept)} | changed | extra
        ),
        kept | st.just(set(good)),
        changed,
        st.just({}) | extra,
    )


def npz_files() -> st.SearchStrategy[bytes]:
    """Good npz files of any arrays under the names that are read."""
    shapes = st.one_of(
        arrays.array_shapes(min_dims=0, max_dims=5, min_side=0, max_side=3),
        st.just((1, 1, 2, 2)),
    )
    kinds = st.one_of(
        st.sampled_from([np.dtype(np.float32), np.dtype(np.float64), np.dtype(np.bool_)]),
        arrays.scalar_dtypes(),
        arrays.unicode_string_dtypes(max_len=3),
    )
    values = arrays.arrays(kinds, shapes)

    def save(given: dict[str, Any]) -> bytes:
        buffer = io.BytesIO()
        np.savez(buffer, **given)
        return buffer.getvalue()

    return st.dictionaries(
        st.sampled_from(["attention", "mask", "tokens", "other"]), values, max_size=3
    ).map(save)


def safetensors_files() -> st.SearchStrategy[bytes]:
    """Headers with entries that fit their bytes, or not, over bodies of any length."""
    numbers = st.integers(0, 12) | st.integers(0, 2**64)
    entry = st.fixed_dictionaries(
        {
            "dtype": st.sampled_from(["F32", "F16", "BF16", "F64", "I32", "F8_E4M3", "?"]),
            "shape": st.lists(numbers, max_size=3),
            "data_offsets": st.lists(numbers, min_size=2, max_size=2),
        }
    )
    header = st.dictionaries(st.text(max_size=4), entry, max_size=3)

    def fitting(count: int) -> tuple[dict[str, Any], bytes]:
        name = {"a": {"dtype": "F32", "shape": [count], "data_offsets": [0, 4 * count]}}
        return name, bytes(4 * count)

    pairs = st.tuples(header, st.binary(max_size=64)) | st.integers(0, 9).map(fitting)

    def write(pair: tuple[dict[str, Any], bytes], off: int) -> bytes:
        text = json.dumps(pair[0]).encode()
        return struct.pack("<Q", max(0, len(text) + off)) + text + pair[1]

    return st.builds(write, pairs, st.just(0) | st.integers(-9, 9))


def cases(reader: Reader) -> st.SearchStrategy[Case]:
    """Mutations of a reader's good cases, with Hypothesis choosing what the fuzzer draws."""
    seeds = reader.seeds()
    return st.builds(
        lambda rng, seed: reader.mutate(rng, seed, seeds),
        st.integers(0, 2**32).map(Random),
        st.sampled_from(seeds),
    )
