"""Mutate files: bytes, lines, cells, JSON trees, zip members, safetensors headers."""

from __future__ import annotations

import gzip
import io
import json
import pickle
import re
import struct
import zipfile
from collections.abc import Callable, Mapping, Sequence
from random import Random
from typing import Any

#: File name -> content; None is a folder in the file's place.
Case = Mapping[str, bytes | None]

#: Numbers at and beyond the edges of the types that hold them.
NUMBERS = (
    b"0", b"-0", b"1", b"-1", b"2", b"7", b"00012", b"+3", b"1.5", b"1e3", b"1e999", b"-1e999",
    b"NaN", b"-Infinity", b"nan", b"inf", b"0x10", b"1_000", b"127", b"256", b"32768", b"65536",
    b"999999", b"16777217", b"1000000000", b"2147483648", b"4294967296", b"9223372036854775808",
    b"18446744073709551615", b"18446744073709551616", b"1152921504606846976", b"9" * 400,
    b"9" * 5000, "٣".encode(), "²".encode(),
)  # fmt: skip
#: Text that has ended programs.
WORDS = (
    b"", b" ", b"\t", b"\n", b"\r", b"\r\n", b"\0", b"\x1b[31m", b"\x7f", b"\xff", b"\xfe\xff",
    b"\xc3", b"\xed\xa0\x80", b"\xef\xbb\xbf", "\u2028".encode(), "\u202e".encode(),
    "\u0085".encode(), "\u00a0".encode(), "\U0010ffff".encode(), "e\u0301".encode(),
    "\u0130".encode(), "שלום".encode(), "\U0001f469\u200d\U0001f680".encode(), b'"', b'""', b"\\",
    b"\\u0000", b"\\ud800", b"#", b"|", b"=", b"[MASK]", b"[PAD]", b"[CLS]", b"[UNK]", b"<s>",
    b"<mask>", b"##", b"VBZ", b"</script><img src=x onerror=alert(1)>", b"{{7*7}}", b"%s%n", b"{0}",
    b"../", b"-", b"--help", b"(" * 400, b"[" * 3000, b'{"a":' * 3000, b"a" * 5000, b"\t" * 300,
    b"\n" * 300,
)  # fmt: skip
#: Values of JSON and of the headers of arrays, written as they stand.
VALUES = (
    b"null", b"true", b"false", b"[]", b"{}", b'""', b'"x"', b"[null]", b"[[]]", b'{"a": 1}',
    b"[1, 2]", b"[1, 2, 3, 4, 5]", b'"\\ud800"', b'"\\u0000"', b'"\\u001b[31m\\n"', b'"F8_E8M0"',
    b'"' + b"a" * 5000 + b'"', b"[" * 20_000, b"[" * 2000 + b"]" * 2000, *NUMBERS,
)  # fmt: skip
HEADERS = (
    b"'<f8'", b"'>f4'", b"'<f2'", b"'|O'", b"'<U0'", b"'<U1000000000'", b"'|V0'", b"'<c8'",
    b"'|b1'", b"'<M8[ns]'", b"[('a', '|O')]", b"('<f4', (1000000,))", b"()", b"(0,)", b"(-1,)",
    b"(True,)", b"(1.0,)", b"(4294967296, 4294967296)", b"(1,) * 3", b"__import__('os')",
    b"(" + b"1," * 3000 + b")", b"True", b"None",
)  # fmt: skip


class Boom:
    """An object whose unpickling raises, to detect that a pickle was read."""

    def __reduce__(self) -> Any:
        return (exit, ("a pickle was loaded",))


def mutate_bytes(rng: Random, data: bytes) -> bytes:
    """Flip, set, cut off, delete, repeat or insert bytes."""
    for _ in range(rng.choice((1, 1, 1, 2, 3, 6))):
        begin = rng.randint(0, len(data))
        end = min(len(data), begin + rng.randint(1, 64))
        head, part, tail = data[:begin], data[begin:end], data[end:]
        what = rng.randrange(8)
        if what == 0 and part:
            data = head + bytes([part[0] ^ 1 << rng.randrange(8)]) + part[1:] + tail
        elif what == 1 and part:
            data = head + bytes([rng.choice((0, 1, 9, 10, 127, 128, 255))]) + part[1:] + tail
        elif what == 2:
            data = rng.choice((head, part + tail))
        elif what == 3:
            data = head + tail
        elif what == 4:
            data = head + part * rng.choice((2, 3, 50)) + tail
        elif what == 5:
            data = head + rng.randbytes(rng.randint(1, 24)) + part + tail
        else:
            data = head + rng.choice(WORDS) + part + tail
    return data


def _parts(rng: Random, parts: list[bytes], *, order: bool) -> list[bytes]:
    """Change one of the lines, or one of a line's cells."""
    place = rng.randrange(len(parts))
    what = rng.randrange(6)
    if what == 0:
        del parts[place]
    elif what == 1:
        parts.insert(place, rng.choice(parts))
    elif what == 2:
        parts[place] = rng.choice(NUMBERS)
    elif what == 3:
        parts[place] = rng.choice(WORDS) + parts[place] + rng.choice((b"", b"\r", b" "))
    elif what == 4 and order:
        rng.shuffle(parts)
    else:
        other = rng.randrange(len(parts))
        parts[place], parts[other] = parts[other], parts[place]
    return parts


def mutate_text(rng: Random, data: bytes) -> bytes:
    """Change text of lines, cells and numbers."""
    for _ in range(rng.choice((1, 1, 1, 2, 3, 6))):
        lines = data.split(b"\n")
        place = rng.randrange(len(lines))
        what = rng.randrange(4)
        if what == 0:
            data = mutate_bytes(rng, data)
        elif what == 1:
            data = b"\n".join(_parts(rng, lines, order=True))
        elif what == 2:
            lines[place] = b"\t".join(_parts(rng, lines[place].split(b"\t"), order=False))
            data = b"\n".join(lines)
        elif found := list(re.finditer(rb"-?\d+(?:\.\d+)?", data[:20_000])):
            number = rng.choice(found)
            data = data[: number.start()] + rng.choice(NUMBERS) + data[number.end() :]
    return data


def _places(tree: Any) -> list[tuple[Any, Any]]:
    """Return all places in a JSON tree, each as what holds it and its key there."""
    keys: Any = tree if isinstance(tree, dict) else range(min(len(tree), 50))
    found = []
    for key in keys:
        found.append((tree, key))
        if isinstance(tree[key], dict | list):
            found += _places(tree[key])
    return found


def mutate_json(rng: Random, data: bytes) -> bytes:
    """Change JSON as a tree, most of the time, or as text; keys may come twice."""
    tree = json.loads(data)
    places = _places(tree) if isinstance(tree, dict | list) else []
    if not places or rng.random() < 0.12:
        return mutate_text(rng, data)
    raw: dict[str, bytes] = {}

    def stand_in(value: bytes) -> str:
        raw[f"raw-{len(raw)}"] = value
        return f"raw-{len(raw) - 1}"

    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        holder, key = rng.choice(places)
        if (isinstance(holder, list) and key >= len(holder)) or (
            isinstance(holder, dict) and (key not in holder)
        ):
            continue
        old, what = holder[key], rng.randrange(8)
        if what == 0:
            del holder[key]
        elif what == 1 and isinstance(holder, dict):
            holder[rng.choice((key.upper(), f"{key} ", "", rng.choice(sorted(holder))))] = old
        elif what == 2:
            other, there = rng.choice(places)
            with_other = other[there] if not isinstance(other, list) or there < len(other) else 0
            holder[key] = json.loads(json.dumps(with_other))
        elif what == 3 and type(old) is int:
            holder[key] = rng.choice((old + 1, old - 1, -old, old << 20, float(old), str(old)))
        elif what == 4 and isinstance(old, str):
            holder[key] = rng.choice((old.upper(), f"{old} ", old[:-1], old * 2, [old]))
        elif what == 5 and isinstance(holder, dict):  # named twice
            holder[stand_in(json.dumps(key).encode())] = old
        elif what == 6:
            holder[key] = stand_in(
                json.dumps(rng.choice(WORDS).decode("utf-8", "replace")).encode()
            )
        else:
            holder[key] = stand_in(rng.choice(VALUES))
    text = json.dumps(tree).encode()
    for name, value in raw.items():
        text = text.replace(f'"{name}"'.encode(), value)
    return text


def mutate_safetensors(rng: Random, data: bytes) -> bytes:
    """Change the header's length, its JSON or the tensors behind it."""
    (length,) = struct.unpack("<Q", data[:8])
    header, body = data[8 : 8 + length], data[8 + length :]
    what = rng.random()
    if what < 0.15:
        near = max(0, length + rng.choice((-8, -1, 1, 8, len(body), len(body) + 1)))
        return struct.pack("<Q", rng.choice((0, 7, 2**31, 2**60, 2**64 - 1, near))) + data[8:]
    if what < 0.3:
        body = rng.choice((body[: rng.randint(0, len(body))], body + rng.randbytes(9), b""))
    else:
        header = mutate_json(rng, header)
    return struct.pack("<Q", len(header)) + header + body


def pack(members: Mapping[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    """Write a zip file of these members."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(zipfile.ZipInfo(name), content, method)
    return buffer.getvalue()


def mutate_npz(rng: Random, data: bytes) -> bytes:
    """Change an array's header, a member, fields of the zip's own records, or any bytes."""
    what = rng.random()
    if what < 0.35:  # sizes, methods, flags, offsets and counts in the records
        changed = bytearray(data)
        marks = re.finditer(rb"PK\x03\x04|PK\x01\x02|PK\x05\x06", data)
        starts = [found.start() for found in marks]
        for _ in range(rng.choice((1, 1, 2))):
            place = rng.choice(starts) + rng.choice((6, 8, 10, 14, 16, 18, 20, 22, 24, 26, 28, 42))
            size = rng.choice((2, 4))
            old = int.from_bytes(changed[place : place + size], "little")
            top = (1 << 8 * size) - 1
            new = rng.choice((0, 1, 8, 12, 99, top, top >> 1, old + 1, old - 1, rng.randrange(top)))
            changed[place : place + size] = (new & top).to_bytes(size, "little")
        return bytes(changed)
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    name = rng.choice(sorted(members))
    old = members[name]
    if what < 0.75:  # a header is read as Python: its fields, whose length stays right
        end = 10 + int.from_bytes(old[8:10], "little")
        fields = re.sub(
            rb"(?<=: )(\([^)]*\)|'[^']*'|True|False)(?=, )",
            lambda found: rng.choice((*HEADERS, *[found[0]] * 40)),
            old[10:end],
        )
        members[name] = old[:8] + struct.pack("<H", len(fields) % 65536) + fields + old[end:]
    elif what < 0.8:
        members[name] = rng.choice((old[:128], b"")) + pickle.dumps([Boom()])
    elif what < 0.9:
        members[name] = mutate_bytes(rng, old)
    elif what < 0.95:
        new = rng.choice(("attention", "../x.npy", "/etc/x.npy", name.upper(), ""))
        members[new] = members.pop(name)
    else:
        members[name] = members[rng.choice(sorted(members))]
    packing = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2)
    return pack(members, rng.choice(packing))


def _mutate_lines(rng: Random, data: bytes) -> bytes:
    """Change one line of JSON, or all as text."""
    lines = data.split(b"\n")
    place = rng.randrange(len(lines))
    if rng.random() < 0.4:
        return mutate_text(rng, data)
    lines[place] = mutate_json(rng, lines[place])
    return b"\n".join(lines)


def _mutate_gzip(rng: Random, data: bytes) -> bytes:
    return gzip.compress(mutate_text(rng, gzip.decompress(data)), 1)


_BY_ENDING: dict[str, Callable[[Random, bytes], bytes]] = {
    "json": mutate_json,
    "jsonl": _mutate_lines,
    "safetensors": mutate_safetensors,
    "npz": mutate_npz,
    "gz": _mutate_gzip,
    **dict.fromkeys(("tsv", "txt", "md", "text", "lock", "name", "3"), mutate_text),
}


def mutate_file(rng: Random, name: str, content: bytes) -> bytes:
    """Change a file by its ending, or as bytes."""
    change = _BY_ENDING.get(name.rpartition("/")[2].rpartition(".")[2], mutate_bytes)
    if change is not mutate_bytes and rng.random() < 0.1:
        change = mutate_bytes
    try:
        return change(rng, content)
    except Exception:  # changed too far to be changed as its kind
        return mutate_bytes(rng, content)


def mutate_case(rng: Random, case: Case, seeds: Sequence[Case], fixed: str | None = None) -> Case:
    """Change one file or a few, or which files there are; none whose name begins with `fixed`."""
    made = dict(case)
    for _ in range(rng.choice((1, 1, 1, 2))):
        names = sorted(name for name in made if fixed is None or not name.startswith(fixed))
        if not names:
            break
        name, what = rng.choice(names), rng.random()
        content = made[name]
        if what < 0.01 and len(made) > 1:
            del made[name]
        elif what < 0.02:
            made[name] = rng.choice((None, b""))
        elif what < 0.05:  # another's file, or a file under another's name
            made[name] = rng.choice((rng.choice(seeds).get(name), made[rng.choice(names)]))
        elif content is not None:
            made[name] = mutate_file(rng, name, content)
    # A folder in a file's place may hold none of the others, nor a file others.
    return {
        name: content
        for name, content in made.items()
        if not any(other.startswith(f"{name}/") for other in made)
    }
