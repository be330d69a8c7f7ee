"""Mutate files at random: bytes, separated text, JSON trees, and what archives hold."""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import pickle
import re
import struct
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
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


def times(rng: Random) -> range:
    """Return how many changes to make: mostly one."""
    return range(rng.choice((1, 1, 1, 2, 3, 6)))


def mutate_bytes(rng: Random, data: bytes) -> bytes:
    """Cut off, delete, repeat or insert bytes, flip a bit, or set a number of 1 to 8 bytes."""
    for _ in times(rng):
        begin = rng.randint(0, len(data))
        part = data[begin : begin + rng.choice((1, 2, 4, 8, rng.randint(1, 64)))]
        head, tail = data[:begin], data[begin + len(part) :]
        old, top = int.from_bytes(part, "little"), (1 << 8 * len(part)) - 1
        edges = (0, 1, 8, 99, 127, top, top >> 1, old + 1, old - 1, old ^ (1 << rng.randrange(64)))
        number = (rng.choice(edges) & top).to_bytes(len(part), "little")
        data = rng.choice((
            head, part + tail, head + tail, head + part * rng.choice((2, 3, 50)) + tail,
            head + rng.choice((rng.randbytes(9), rng.choice(WORDS))) + part + tail,
            head + number + tail, head + number + tail, head + number + tail,
        ))  # fmt: skip
    return data


def mutate_text(rng: Random, data: bytes) -> bytes:
    """Delete, repeat, exchange or replace lines, cells, words or numbers."""
    for _ in times(rng):
        separator = rng.choice((b"\n", b"\t", b" "))
        parts = data.split(separator)
        place, other = rng.randrange(len(parts)), rng.randrange(len(parts))
        what = rng.randrange(8)
        if what == 0:
            data = mutate_bytes(rng, data)
            continue
        if what == 1 and (found := list(re.finditer(rb"-?\d+(?:\.\d+)?", data[:20_000]))):
            number = rng.choice(found)
            data = data[: number.start()] + rng.choice(NUMBERS) + data[number.end() :]
            continue
        if what == 2:
            del parts[place]
        elif what == 3:
            parts.insert(place, parts[other])
        elif what == 4:
            parts[place] = rng.choice(NUMBERS)
        elif what == 5:
            parts[place] = rng.choice(WORDS) + parts[place] + rng.choice((b"", b"\r", b" "))
        else:
            parts[place], parts[other] = parts[other], parts[place]
        data = separator.join(parts)
    return data


def _places(tree: Any) -> Iterator[tuple[Any, Any]]:
    """Yield all places in a JSON tree, each as what holds it and its key there."""
    keys: Any = list(tree) if isinstance(tree, dict) else range(min(len(tree), 50))
    for key in keys:
        yield tree, key
        if isinstance(tree[key], dict | list):
            yield from _places(tree[key])


def mutate_json(rng: Random, data: bytes) -> bytes:
    """Change JSON as a tree, most of the time, or as text; keys may come twice."""
    tree = json.loads(data)
    places = list(_places(tree)) if isinstance(tree, dict | list) else []
    if not places or rng.random() < 0.12:
        return mutate_text(rng, data)
    raw: list[bytes] = []

    def as_it_stands(value: bytes) -> str:
        raw.append(value)
        return f"raw-{len(raw) - 1}"

    for _ in times(rng):
        (holder, key), (other, there) = rng.choice(places), rng.choice(places)
        with contextlib.suppress(LookupError):  # what was deleted before
            old, what = holder[key], rng.randrange(7)
            if what == 0:
                del holder[key]
            elif what == 1 and isinstance(holder, dict):  # renamed, or named twice
                twice = as_it_stands(json.dumps(key).encode())
                holder[rng.choice((key.upper(), f"{key} ", "", twice))] = old
            elif what == 2:
                holder[key] = json.loads(json.dumps(other[there]))
            elif what == 3 and type(old) is int:
                holder[key] = rng.choice((old + 1, old - 1, -old, old << 20, float(old), str(old)))
            elif what == 4 and isinstance(old, str):
                holder[key] = rng.choice((old.upper(), f"{old} ", old[:-1], old * 2, [old]))
            elif what == 5:
                word = rng.choice(WORDS).decode("utf-8", "replace")
                holder[key] = as_it_stands(json.dumps(word).encode())
            else:
                holder[key] = as_it_stands(rng.choice(VALUES))
    text = json.dumps(tree).encode()
    for number, value in enumerate(raw):
        text = text.replace(f'"raw-{number}"'.encode(), value)
    return text


def mutate_safetensors(rng: Random, data: bytes) -> bytes:
    """Change the header's JSON, whose length stays right, or any bytes."""
    (length,) = struct.unpack("<Q", data[:8])
    header, body = data[8 : 8 + length], data[8 + length :]
    if rng.random() < 0.15:
        length = rng.choice((0, 7, length - 1, length + 1, length + len(body), 2**31, 2**64 - 1))
        return struct.pack("<Q", length) + data[8:]
    if rng.random() < 0.2:
        body = rng.choice((body[: rng.randint(0, len(body))], body + rng.randbytes(9)))
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
    """Change a member, an array's header, a name, or any bytes of the zip."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    name, what = rng.choice(sorted(members)), rng.randrange(10)
    old = members[name]
    if what < 3:
        return mutate_bytes(rng, data)
    if what < 7:  # a header is read as Python: its fields, whose length stays right
        end = 10 + int.from_bytes(old[8:10], "little")
        fields = re.sub(
            rb"(?<=: )(\([^)]*\)|'[^']*'|True|False)(?=, )",
            lambda found: rng.choice((*HEADERS, *[found[0]] * 40)),
            old[10:end],
        )
        members[name] = old[:8] + struct.pack("<H", len(fields) % 65536) + fields + old[end:]
    elif what == 7:
        members[name] = rng.choice((old[:128], b"")) + pickle.dumps([Boom()])
    elif what == 8:
        members[name] = rng.choice((mutate_bytes(rng, old), members[rng.choice(sorted(members))]))
    else:
        new = rng.choice(("attention", "../x.npy", "/etc/x.npy", name.upper(), ""))
        members[new] = members.pop(name)
    return pack(members, rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2)))


def _mutate_lines(rng: Random, data: bytes) -> bytes:
    """Change one line of JSON, or all as text."""
    lines = data.split(b"\n")
    place = rng.randrange(len(lines))
    if rng.random() < 0.4:
        return mutate_text(rng, data)
    lines[place] = mutate_json(rng, lines[place])
    return b"\n".join(lines)


_BY_ENDING: dict[str, Callable[[Random, bytes], bytes]] = {
    "json": mutate_json, "jsonl": _mutate_lines, "safetensors": mutate_safetensors,
    "npz": mutate_npz, **dict.fromkeys(("tsv", "txt", "md", "text", "lock", "3"), mutate_text),
    "gz": lambda rng, data: gzip.compress(mutate_text(rng, gzip.decompress(data)), 1, mtime=0),
}  # fmt: skip


def mutate_file(rng: Random, name: str, content: bytes) -> bytes:
    """Change a file by its ending, sometimes as bytes."""
    if rng.random() < 0.9:
        # What was changed before may be none of its kind any more.
        with contextlib.suppress(Exception):
            return _BY_ENDING[name.rpartition(".")[2]](rng, content)
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
            made[name] = rng.choice((None if name.rpartition(".")[0] else b"", b""))
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
