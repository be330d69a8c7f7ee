"""Mutations of bytes and of text: flips, cuts, splices, large numbers, characters out of place."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from random import Random

from fuzzing.cases import Case

__all__ = ["NUMBERS", "WORDS", "mutate_bytes", "mutate_case", "mutate_text"]

#: Numbers at and beyond the edges of the types that hold them.
NUMBERS = (
    b"0", b"-0", b"1", b"-1", b"2", b"7", b"00012", b"+3", b"1.5", b"1e3", b"1e999", b"-1e999",
    b"NaN", b"Infinity", b"-Infinity", b"nan", b"inf", b"0x10", b"1_000", b"127", b"128", b"255",
    b"256", b"32768", b"65536", b"999999", b"16777216", b"16777217", b"1000000000", b"2147483647",
    b"2147483648", b"4294967295", b"4294967296", b"9223372036854775807", b"9223372036854775808",
    b"18446744073709551615", b"18446744073709551616", b"1152921504606846976", b"9" * 400,
    b"9" * 5000, "٣".encode(), "²".encode(),
)  # fmt: skip

#: Text that has ended programs.
WORDS = (
    b"", b" ", b"\t", b"\n", b"\r", b"\r\n", b"\0", b"\x1b[31m", b"\x7f", b"\xff", b"\xfe\xff",
    b"\xc3", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xef\xbb\xbf", "\u2028".encode(),
    "\u202e".encode(), "\u0085".encode(), "\u00a0".encode(), "\u3000".encode(),
    "\U0010ffff".encode(), "e\u0301".encode(), "\u0130".encode(), "ß".encode(), "שלום".encode(),
    "\U0001f469\u200d\U0001f680".encode(), b'"', b"'", b'""', b"\\", b"\\u0000", b"\\ud800", b"#",
    b"|", b"=", b"[MASK]", b"[PAD]", b"[CLS]", b"[UNK]", b"[SEP]", b"<s>", b"<mask>", b"##", b"VBZ",
    b"VBP", b"</script><img src=x onerror=alert(1)>", b"{{7*7}}", b"%s%n", b"{0}", b"../", b"-",
    b"--help", b"(" * 400, b"[" * 3000, b'{"a":' * 3000, b"a" * 5000, b"\t" * 300, b"\n" * 300,
)  # fmt: skip


def _place(rng: Random, data: bytes) -> int:
    return rng.randint(0, len(data))


def _span(rng: Random, data: bytes, longest: int = 64) -> tuple[int, int]:
    begin = _place(rng, data)
    return begin, min(len(data), begin + rng.randint(1, longest))


def _flip(rng: Random, data: bytes) -> bytes:
    if not data:
        return data
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 8))):
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _set(rng: Random, data: bytes) -> bytes:
    if not data:
        return data
    place = rng.randrange(len(data))
    return data[:place] + bytes([rng.choice((0, 1, 9, 10, 32, 127, 128, 255))]) + data[place + 1 :]


def _truncate(rng: Random, data: bytes) -> bytes:
    return data[: _place(rng, data)]


def _behead(rng: Random, data: bytes) -> bytes:
    return data[_place(rng, data) :]


def _delete(rng: Random, data: bytes) -> bytes:
    begin, end = _span(rng, data)
    return data[:begin] + data[end:]


def _repeat(rng: Random, data: bytes) -> bytes:
    begin, end = _span(rng, data)
    return data[:begin] + data[begin:end] * rng.choice((2, 3, 50)) + data[end:]


def _insert_word(rng: Random, data: bytes) -> bytes:
    place = _place(rng, data)
    return data[:place] + rng.choice(WORDS) + data[place:]


def _insert_noise(rng: Random, data: bytes) -> bytes:
    place = _place(rng, data)
    return data[:place] + rng.randbytes(rng.randint(1, 24)) + data[place:]


def _number(rng: Random, data: bytes) -> bytes:
    places = list(re.finditer(rb"-?\d+(?:\.\d+)?", data[:20_000]))
    if not places:
        return _insert_word(rng, data)
    found = rng.choice(places)
    return data[: found.start()] + rng.choice(NUMBERS) + data[found.end() :]


def _line(rng: Random, data: bytes) -> bytes:
    lines = data.split(b"\n")
    which = rng.randrange(len(lines))
    what = rng.randrange(5)
    if what == 0:
        del lines[which]
    elif what == 1:
        lines.insert(which, rng.choice(lines))
    elif what == 2:
        rng.shuffle(lines)
    elif what == 3:
        lines[which] += b"\r"
    else:
        lines[which] = rng.choice(WORDS) + lines[which] + rng.choice(WORDS)
    return b"\n".join(lines)


def _cell(rng: Random, data: bytes) -> bytes:
    lines = data.split(b"\n")
    which = rng.randrange(len(lines))
    cells = lines[which].split(b"\t")
    place = rng.randrange(len(cells))
    what = rng.randrange(5)
    if what == 0:
        del cells[place]
    elif what == 1:
        cells.insert(place, rng.choice(cells))
    elif what == 2:
        cells[place] = rng.choice(NUMBERS)
    elif what == 3:
        cells[place] = rng.choice(WORDS)
    else:
        other = rng.randrange(len(cells))
        cells[place], cells[other] = cells[other], cells[place]
    lines[which] = b"\t".join(cells)
    return b"\n".join(lines)


_BYTES = (_flip, _set, _truncate, _behead, _delete, _repeat, _insert_word, _insert_noise)
_TEXT = (_number, _number, _line, _line, _cell, _cell, *_BYTES)


def _times(rng: Random) -> int:
    return rng.choice((1, 1, 1, 2, 3, 6))


def mutate_bytes(rng: Random, data: bytes) -> bytes:
    """Change any bytes."""
    for _ in range(_times(rng)):
        data = rng.choice(_BYTES)(rng, data)
    return data


def mutate_text(rng: Random, data: bytes) -> bytes:
    """Change text of lines, cells and numbers."""
    for _ in range(_times(rng)):
        data = rng.choice(_TEXT)(rng, data)
    return data


def mutate_case(
    rng: Random,
    case: Case,
    others: Sequence[Case],
    change: Callable[[Random, str, bytes], bytes],
) -> dict[str, bytes | None]:
    """Change one file or a few of a case, or which files there are.

    Parameters
    ----------
    rng
        Of the case.
    case, others
        The good case, and all of them.
    change
        Makes a file of one of that name.
    """
    made = dict(case)
    for _ in range(rng.choice((1, 1, 1, 2))):
        name = rng.choice(sorted(made))
        content = made[name]
        what = rng.random()
        if what < 0.01 and len(made) > 1:
            del made[name]
        elif what < 0.015:
            made[name] = None
        elif what < 0.02:
            made[name] = b""
        elif what < 0.04:
            made[name] = rng.choice(others).get(name)
        elif what < 0.06 and content:
            other = rng.choice(others).get(name) or b""
            made[name] = _truncate(rng, content) + _behead(rng, other)
        elif content is not None:
            try:
                made[name] = change(rng, name, content)
            except (ValueError, LookupError, TypeError, ArithmeticError, RecursionError):
                made[name] = mutate_bytes(rng, content)  # changed too far to be changed as its kind
    return made
