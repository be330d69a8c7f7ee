"""Mutations of safetensors files, by their headers, and of npz files, by their zip members."""

from __future__ import annotations

import io
import json
import pickle
import struct
import zipfile
from random import Random
from typing import Any

import numpy as np

from fuzzing.mutate_json import mutate_json
from fuzzing.mutate_text import mutate_bytes

__all__ = ["Boom", "mutate_npz", "mutate_safetensors", "pack", "with_header"]

LENGTHS = (0, 1, 7, 8, 100_000_000, 100_000_001, 2**31, 2**32, 2**60, 2**63, 2**64 - 1)
SIZES = (0, 1, 2, 3, 5, 2**16, 2**31, 2**32, 2**60, 2**63 - 1, 2**63, 2**64 - 1, 2**64, -1)
KINDS = ("F16", "BF16", "F32", "F64", "I64", "I32", "U8", "BOOL", "F8_E4M3", "F8_E5M2", "F4",
         "F8_E8M0", "F6_E2M3", "C64", "U64", "f32", "", "X" * 300)  # fmt: skip


def with_header(header: bytes, body: bytes, length: int | None = None) -> bytes:
    """Put a safetensors file together: the header's length, the header, the tensors."""
    return struct.pack("<Q", len(header) if length is None else length) + header + body


def mutate_safetensors(rng: Random, data: bytes) -> bytes:
    """Change a safetensors file: its header's length, an entry of it, or any bytes."""
    if len(data) < 8 or rng.random() < 0.15:
        return mutate_bytes(rng, data)
    (length,) = struct.unpack("<Q", data[:8])
    text, body = data[8 : 8 + length], data[8 + length :]
    what = rng.random()
    if what < 0.1:
        near = length + rng.choice((-8, -1, 1, 8, len(body), len(body) + 1))
        return with_header(text, body, rng.choice((*LENGTHS, min(max(near, 0), 2**64 - 1))))
    if what < 0.2:
        cut = rng.choice((body[: rng.randint(0, len(body))], body + rng.randbytes(9), b""))
        return with_header(text, cut)
    if what < 0.35:
        return with_header(mutate_json(rng, text), body)
    if what < 0.4:
        return with_header(text + b" " * rng.choice((1, 8, 1000)), body)
    try:
        header = json.loads(text)
        names = [name for name in header if name != "__metadata__"]
        for _ in range(rng.choice((1, 1, 2, 3))):
            _edit(rng, header, rng.choice(names), rng.choice(names))
        return with_header(json.dumps(header).encode(), body)
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return mutate_bytes(rng, data)


def _edit(rng: Random, header: dict[str, Any], name: str, other: str) -> None:
    entry = header[name]
    what = rng.randrange(9)
    if what == 0:
        entry["dtype"] = rng.choice(KINDS)
    elif what == 1:
        entry["shape"][rng.randrange(len(entry["shape"]))] = rng.choice(SIZES)
    elif what == 2:
        entry["shape"] = rng.choice(([], [0, 2**60], [1] * 3000, entry["shape"][::-1], [2**40] * 3))
    elif what == 3:
        entry["data_offsets"][rng.randrange(2)] = rng.choice(SIZES)
    elif what == 4:
        entry["data_offsets"] = list(header[other]["data_offsets"])  # overlapping
    elif what == 5:
        header[rng.choice((f"{name}.x", "", "__metadata__", name.upper(), "a\u202e\n\x1b"))] = (
            header.pop(name)
        )
    elif what == 6:
        header[name], header[other] = header[other], header[name]
    elif what == 7:
        shift = rng.choice((-4, -1, 1, 4))
        entry["data_offsets"] = [offset + shift for offset in entry["data_offsets"]]
    else:
        header["__metadata__"] = rng.choice(({}, {"format": "pt"}, {"a": 1}, None, "x", []))


class Boom:
    """What a pickle must never be allowed to make: unpickling it raises."""

    def __reduce__(self) -> Any:
        return (_boom, ())


def _boom() -> None:
    raise SystemExit("a pickle was loaded")


def _npy(descr: str, shape: str, fortran: str, body: bytes, version: bytes = b"\x01\x00") -> bytes:
    text = f"{{'descr': {descr}, 'fortran_order': {fortran}, 'shape': {shape}, }}"
    packed = text.encode("latin1", "replace")
    packed += b" " * (-(len(packed) + 11) % 64) + b"\n"
    form = "<H" if version == b"\x01\x00" else "<I"
    return b"\x93NUMPY" + version + struct.pack(form, len(packed)) + packed + body


def pack(members: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    """Write a zip file of these members."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(zipfile.ZipInfo(name), content, method)
    return buffer.getvalue()


def _members(data: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


_DESCRIPTIONS = (
    "'<f4'", "'<f8'", "'>f4'", "'<f2'", "'|O'", "'<U0'", "'<U1000000000'", "'|V0'", "'|S9'",
    "'<c8'", "'|b1'", "'<i8'", "'<M8[ns]'", "[('a', '<f4')]", "[('a', '|O')]", "'x'", "None", "()",
    "('<f4', (1000000,))", "'<f4'" + " " * 12_000, "(" * 300 + ")" * 300,
)  # fmt: skip
_SHAPES = (
    "()", "(1,)", "(0,)", "(2, 2)", "(1, 1, 2, 2)", "(1, 0, 2, 2)", "(1152921504606846976,)",
    "(18446744073709551616,)", "(-1,)", "(True,)", "(1.0,)", "('a',)", "[1]", "None",
    "(4294967296, 4294967296)", "(2, 2, 3, 3, 2, 2" + ", 1" * 60 + ")",
    "(1" + "0" * 5000 + ",)", "(1,) * 3", "__import__('os')", "(" + "1," * 3000 + ")",
)  # fmt: skip


def _head(data: bytes) -> tuple[str, str, bytes]:
    stream = io.BytesIO(data)
    version = np.lib.format.read_magic(stream)
    assert version == (1, 0)
    shape, _, dtype = np.lib.format.read_array_header_1_0(stream)
    return repr(np.lib.format.dtype_to_descr(dtype)), repr(shape), stream.read()


def mutate_npz(rng: Random, data: bytes) -> bytes:
    """Change an npz file: an array's header, a member, the zip's own records, or any bytes."""
    what = rng.random()
    if what < 0.1:
        return mutate_bytes(rng, data)
    if what < 0.35:
        return _records(rng, data)
    try:
        members = _members(data)
        name = rng.choice(sorted(members))
        members = _member(rng, members, name)
    except Exception:
        return mutate_bytes(rng, data)
    method = rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_DEFLATED))
    if rng.random() < 0.05:
        method = rng.choice((zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA))
    made = pack(members, method)
    return _records(rng, made) if rng.random() < 0.15 else made


def _member(rng: Random, members: dict[str, bytes], name: str) -> dict[str, bytes]:
    old = members[name]
    what = rng.randrange(9)
    if what < 4:
        descr, shape, body = _head(old)
        if rng.random() < 0.6:
            shape = rng.choice(_SHAPES)
        else:
            descr = rng.choice(_DESCRIPTIONS)
        fortran = rng.choice(("False", "False", "True", "1", "None"))
        version = rng.choice((b"\x01\x00", b"\x01\x00", b"\x02\x00", b"\x03\x00", b"\x09\x00"))
        members[name] = _npy(descr, shape, fortran, body, version)
    elif what == 4:
        _, shape, _ = _head(old)
        body = pickle.dumps(rng.choice((Boom(), [Boom()])))
        members[name] = rng.choice((_npy("'|O'", shape, "False", body), body))
    elif what == 5:
        members[name] = mutate_bytes(rng, old)
    elif what == 6:
        del members[name]
    elif what == 7:
        new = rng.choice(("attention", "../x.npy", "/etc/x.npy", "a\0b.npy", name.upper(), ""))
        members[new] = members.pop(name)
    else:
        members[name] = members[rng.choice(sorted(members))]
    return members


def _records(rng: Random, data: bytes) -> bytes:
    """Change fields of the zip's records: sizes, methods, flags, offsets, counts."""
    changed = bytearray(data)
    found = []
    # Signature -> where the fields lie behind it, and their bytes.
    fields = {
        b"PK\x03\x04": [(6, 2), (8, 2), (14, 4), (18, 4), (22, 4), (26, 2), (28, 2)],
        b"PK\x01\x02": [(8, 2), (10, 2), (16, 4), (20, 4), (24, 4), (28, 2), (30, 2), (42, 4)],
        b"PK\x05\x06": [(8, 2), (10, 2), (12, 4), (16, 4), (20, 2)],
    }
    for signature, places in fields.items():
        begin = changed.find(signature)
        while begin >= 0:
            found += [(begin + offset, size) for offset, size in places]
            begin = changed.find(signature, begin + 4)
    for _ in range(rng.choice((1, 1, 2))):
        if not found:
            return mutate_bytes(rng, data)
        place, size = rng.choice(found)
        old = int.from_bytes(changed[place : place + size], "little")
        top = (1 << 8 * size) - 1
        near = (old + 1, old - 1, old * 2, rng.randrange(top))
        new = rng.choice((0, 1, 8, 12, 14, 99, top, top >> 1, *near))
        changed[place : place + size] = (new & top).to_bytes(size, "little")
    return bytes(changed)
