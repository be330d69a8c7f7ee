"""Readers of text: corpora, schemas, sentences from files and from the command line."""

from __future__ import annotations

import contextlib
import csv
import gzip
import io
import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

from fuzzing.cases import Case, Reader
from fuzzing.mutate_text import mutate_bytes, mutate_case, mutate_text
from jaxflow.commands._console import read_sentences
from jaxflow.commands.parser import parse
from jaxflow.eval.pronouns.schemas import parse_schema, read_schemas
from jaxflow.train.formats import read_full, read_labelled, read_simple, read_subjects

__all__ = ["READERS"]

SIMPLE = "VBZ\tthe key to the cabinets\nVBP\tthe keys  to the cabinet\nVBP\tmen\n"
SUBJECTS = (
    "label\tprefix\tsubject_index\tn_attractors\nVBZ\tthe key to the cabinets\t1\t1\n"
    "VBP\tthe keys\t1\t0\n"
)
FULL = (
    "id\tsentence\tverb_pos\tsubj_index\tverb_index\tn_diff_intervening\n"
    "1\tthe keys to the cabinet are here .\tVBP\t2\t6\t1\n"
    '2\t"the ""key"" is here"\tVBZ\t2\t3\t0\n'
)
SST2 = "a fine film\t1\n dull and lifeless \t0\nit is what it is\t1\n"
HIDDEN = "a fine film\t-1\ndull\t-1\n"
SCHEMAS = (
    "# made by hand\npair\tsentence\treferent_1\tfiller_1\treferent_2\tfiller_2\tintended\n"
    "a\tAnn met Paul near [MASK] car.\tAnn\ther\tPaul\this\tAnn\n"
    "a\tAnn met Paul at [MASK] house.\tAnn\ther\tPaul\this\t-\n"
)
SENTENCES = "the keys to the cabinet\r\n\n  a cat \u2028 sleeps\n"


def text_change(rng: Random, name: str, content: bytes) -> bytes:
    return mutate_text(rng, content)


def text_case(rng: Random, case: Case, others: Sequence[Case]) -> Case:
    return mutate_case(rng, case, others, text_change)


def gzip_case(rng: Random, case: Case, others: Sequence[Case]) -> Case:
    """Change what is packed, or the packed bytes."""
    (content,) = case.values()
    assert content is not None
    if rng.random() < 0.3:
        return {"table.tsv.gz": mutate_bytes(rng, content)}
    return {"table.tsv.gz": gzip.compress(mutate_text(rng, gzip.decompress(content)), 1)}


def _lines(content: bytes | None) -> list[str]:
    assert content is not None
    lines = content.decode("utf-8").split("\n")
    return [line.rstrip("\r") for line in (lines[:-1] if lines[-1] == "" else lines)]


def _spaced(words: str) -> str:
    return re.sub(" +", " ", words).strip(" ")


def simple_oracle(folder: Path, case: Case, value: Any) -> None:
    expected = []
    for line in _lines(case["numpred.test.3"]):
        label, text = line.split("\t")
        expected.append((_spaced(text), {"VBZ": 0, "VBP": 1}[label], 3, -1))
    assert [tuple(row) for row in value] == expected
    assert expected


def subjects_oracle(folder: Path, case: Case, value: Any) -> None:
    expected = []
    for line in _lines(case["subjects.tsv"])[1:]:
        label, text, subject, attractors = line.split("\t")
        words = _spaced(text)
        assert int(subject) < len(words.split(" "))
        expected.append((words, {"VBZ": 0, "VBP": 1}[label], int(attractors), int(subject)))
    assert [tuple(row) for row in value] == expected
    assert expected


def _table(text: str) -> list[tuple[Any, ...]]:
    expected = []
    for row in csv.DictReader(io.StringIO(text, newline=""), delimiter="\t"):
        words = [word for word in row["sentence"].split(" ") if word]
        prefix = words[: int(row["verb_index"]) - 1]
        label = {"VBZ": 0, "VBP": 1}[row["verb_pos"]]
        subject = int(row["subj_index"]) - 1
        assert 0 <= subject < len(prefix)
        expected.append((" ".join(prefix), label, int(row["n_diff_intervening"]), subject))
    assert expected
    return expected


def full_oracle(folder: Path, case: Case, value: Any) -> None:
    content = next(iter(case.values()))
    assert content is not None
    if "table.tsv.gz" in case:
        content = gzip.decompress(content)
    text = "".join(f"{line}\n" for line in _lines(content))
    assert [tuple(row) for row in value] == _table(text)


def labelled_oracle(folder: Path, case: Case, value: Any) -> None:
    rows = [line.split("\t") for line in _lines(case["rows.tsv"])]
    assert [tuple(row) for row in value] == [(text.strip(), int(label)) for text, label in rows]
    assert {label for _, label in value} in ({0}, {1}, {0, 1}, {-1})


def schemas_oracle(folder: Path, case: Case, value: Any) -> None:
    content = case["schemas.tsv"]
    assert content is not None
    text = content.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
    lines = [line for line in text.split("\n") if line.strip() and line[:1] != "#"]
    names = [name.strip() for name in lines[0].split("\t")]
    rows = [dict(zip(names, map(str.strip, line.split("\t")), strict=True)) for line in lines[1:]]
    assert len(rows) == len(value)
    for row, schema in zip(rows, value, strict=True):
        assert row["sentence"] == schema.sentence
        assert (row["referent_1"], row["referent_2"]) == schema.referents
        assert (row["filler_1"], row["filler_2"]) == schema.fillers
        meant = None if schema.intended is None else schema.referents[schema.intended]
        assert row.get("intended", "-") == (meant or "-")
        assert row["sentence"].find(row["referent_1"]) >= 0
        assert row["sentence"].find(row["referent_2"]) >= 0


def sentences_oracle(folder: Path, case: Case, value: Any) -> None:
    content = case["sentences.txt"]
    assert content is not None
    text = content.removeprefix(b"\xef\xbb\xbf").decode("utf-8")
    blank = [line for line in text.split("\n") if not line.strip()]
    assert [line.strip("\r") for line in text.split("\n") if line not in blank] == value
    assert not any(unicodedata.category(char) == "Cs" for line in value for char in line)


def arguments(folder: Path) -> Any:
    """Read a command line, NUL between its arguments, as the system hands one over."""
    content = (folder / "arguments").read_bytes()
    given = [part.decode("utf-8", "surrogateescape") for part in content.split(b"\0")]
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            return given, parse(given)
    except SystemExit as end:  # help was asked for
        if end.code:
            raise
        return given, None


def arguments_oracle(folder: Path, case: Case, value: Any) -> None:
    given, command = value
    if command is None:
        assert {"-h", "--help"} & set(given) or given == []


def arguments_case(rng: Random, case: Case, others: Sequence[Case]) -> Case:
    def change(rng: Random, name: str, content: bytes) -> bytes:
        parts = content.split(b"\0")
        place = rng.randrange(len(parts))
        what = rng.randrange(4)
        if what == 0:
            parts[place] = mutate_text(rng, parts[place]).replace(b"\0", b"")[:100_000]
        elif what == 1:
            del parts[place]
        elif what == 2:
            parts.insert(place, rng.choice(parts))
        else:
            rng.shuffle(parts)
        return b"\0".join(parts)

    (content,) = case.values()
    assert content is not None
    return {"arguments": change(rng, "arguments", content)}


def text_only(rng: Random, case: Case, others: Sequence[Case]) -> Case:
    """Change text that no file holds."""
    return {"text": mutate_text(rng, case["text"] or b"")}


def schema_text(folder: Path) -> Any:
    return parse_schema((folder / "text").read_bytes().decode("utf-8", "surrogateescape"))


def one(name: str, *contents: str) -> Any:
    """Good cases of one file."""
    return lambda: [{name: content.encode()} for content in contents]


COMMANDS = (
    "explain\0the keys to the cabinet", "explain\0--file\0-\0--json", "train\0--out\0run",
    "attribute\0in.npz\0--out\0out.npz\0--method\0flow\0--residual\0000.5",
    "reproduce\0pronouns\0--model\0x", "evaluate\0x", "figures\0--help",
)  # fmt: skip

READERS = (
    Reader(
        "corpus, simple",
        one("numpred.test.3", SIMPLE, SIMPLE.replace("\n", "\r\n"), "VBZ\tx"),
        lambda folder: list(read_simple(folder / "numpred.test.3")),
        text_case,
        simple_oracle,
        share=3,
    ),
    Reader(
        "corpus, subjects",
        one("subjects.tsv", SUBJECTS),
        lambda folder: list(read_subjects(folder / "subjects.tsv")),
        text_case,
        subjects_oracle,
        share=3,
    ),
    Reader(
        "corpus, full",
        one("table.tsv", FULL, FULL.replace("\n", "\r\n")),
        lambda folder: list(read_full(folder / "table.tsv")),
        text_case,
        full_oracle,
        share=3,
    ),
    Reader(
        "corpus, full and packed",
        lambda: [{"table.tsv.gz": gzip.compress(FULL.encode())}],
        lambda folder: list(read_full(folder / "table.tsv.gz")),
        gzip_case,
        full_oracle,
        share=2,
    ),
    Reader(
        "sst2",
        one("rows.tsv", SST2),
        lambda folder: list(read_labelled(folder / "rows.tsv")),
        text_case,
        labelled_oracle,
        share=3,
    ),
    Reader(
        "sst2, labels hidden",
        one("rows.tsv", HIDDEN, SST2),
        lambda folder: list(read_labelled(folder / "rows.tsv", hidden=True)),
        text_case,
        labelled_oracle,
        share=2,
    ),
    Reader(
        "pronoun schemas",
        one("schemas.tsv", SCHEMAS),
        lambda folder: read_schemas(folder / "schemas.tsv"),
        text_case,
        schemas_oracle,
        share=3,
    ),
    Reader(
        "pronoun schema as text",
        one("text", "Ann met Paul near [MASK] car. | Ann=her | Paul=his"),
        schema_text,
        text_only,
        share=2,
        names_file=False,
    ),
    Reader(
        "sentences",
        one("sentences.txt", SENTENCES),
        lambda folder: read_sentences(folder / "sentences.txt"),
        text_case,
        sentences_oracle,
        share=3,
    ),
    Reader(
        "command line",
        one("arguments", *COMMANDS),
        arguments,
        arguments_case,
        arguments_oracle,
        share=0.02,
        names_file=False,
    ),
)
