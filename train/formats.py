"""Read the public files of agreement and of SST-2, row by row.

Agreement comes in two layouts: the *simple* one (``VBZ|VBP``, a tab, the sentence up to its verb)
and the *full* one (``agr_50_mostcommon_10K.tsv``, 18 columns under a header), both described by
Linzen, Dupoux and Goldberg (2016), TACL 4. SST-2 is lines of ``sentence<TAB>label``. Nothing is
skipped or repaired: the first unusable row raises an error that names file and line. Only runs of
spaces between words count as one.
"""

from __future__ import annotations

import csv
import gzip
import zlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import BinaryIO, NamedTuple

from jaxflow.errors import InputError

SINGULAR, PLURAL = 0, 1
LABELS = {"VBZ": SINGULAR, "VBP": PLURAL}
UNKNOWN = -1
SUBJECT_COLUMNS = ("label", "prefix", "subject_index", "n_attractors")
FULL_COLUMNS = ("sentence", "verb_pos", "subj_index", "verb_index", "n_diff_intervening")
"""The columns that are read, of the eighteen."""

LABEL_NAMES = ("negative", "positive")
UNLABELLED = -1
"""GLUE's label of a sentence whose label it does not publish."""

_MOST_DIGITS = 9
# A compressed file may hold a line of any length.
_LONGEST_LINE = 1 << 20


class Example(NamedTuple):
    """A prefix, words separated by single spaces, and what is known of it.

    `label` is 0 for a singular verb, 1 for a plural one; `n_attractors` the common nouns of the
    other number between subject and verb; `subject_index` a place among the words; -1 is unknown.
    """

    prefix: str
    label: int
    n_attractors: int
    subject_index: int


class Labelled(NamedTuple):
    """A sentence and its label: 0 negative, 1 positive, -1 not given."""

    sentence: str
    label: int


class _Line(NamedTuple):
    """A line of a file, without its end, and the checks of its cells."""

    path: Path
    number: int
    text: str

    def error(self, message: str) -> InputError:
        return InputError(f"{self.path}, line {self.number}: {message}")

    def pair(self, expected: str) -> tuple[str, str]:
        """Return the text before and after the only tab."""
        before, tab, after = self.text.partition("\t")
        if not tab:
            raise self.error(f"expected {expected}, but there is no tab in {_quoted(self.text)}.")
        if "\t" in after:
            raise self.error("expected one tab, but there are more.")
        return before, after

    def label(self, name: str) -> int:
        if name not in LABELS:
            raise self.error(f"expected the label VBZ or VBP, but found {_quoted(name)}.")
        return LABELS[name]

    def prefix(self, text: str) -> str:
        prefix = " ".join(word for word in text.split(" ") if word)
        if not prefix.strip():
            raise self.error("the prefix before the verb is empty.")
        return prefix

    def integer(self, text: str, column: str) -> int:
        if not (text.isascii() and text.isdigit() and len(text) <= _MOST_DIGITS):
            raise self.error(
                f"expected a whole number in the column {column}, but found {_quoted(text)}."
            )
        return int(text)

    def subject(self, text: str, column: str, n_words: int, first: int) -> int:
        """Return the subject's place from 0, which the column counts from `first`."""
        place = self.integer(text, column)
        if not first <= place < first + n_words:
            raise self.error(
                f"expected a subject index from {first} to {first + n_words - 1}, a word of the "
                f"prefix, but found {place}."
            )
        return place - first


def _quoted(text: str) -> str:
    return repr(text if len(text) <= 40 else text[:37] + "...")


def _lines(path: Path, header: int = 0) -> Iterator[_Line]:
    """Yield the lines of a file, decompressed if it is named ``.gz``; raise if it has no rows."""
    number = 0
    try:
        with path.open("rb") as raw:
            source: BinaryIO | gzip.GzipFile = raw
            if path.suffix == ".gz":
                source = gzip.GzipFile(fileobj=raw)
            lines = iter(partial(source.readline, _LONGEST_LINE + 1), b"")
            for number, line in enumerate(lines, start=1):
                if len(line) > _LONGEST_LINE:
                    raise _Line(path, number, "").error(
                        f"expected at most {_LONGEST_LINE:,} bytes a line, but this one is longer."
                    )
                yield _Line(path, number, line.rstrip(b"\r\n").decode("utf-8"))
    except UnicodeDecodeError as error:
        raise _Line(path, number, "").error(
            f"expected UTF-8 text, but byte {error.start + 1} of the line is "
            f"0x{error.object[error.start]:02x}."
        ) from error
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise InputError(
            f"{path}: the gzip file is truncated or damaged after line {number}; fetch it again."
        ) from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error}).") from error
    if number <= header:
        raise InputError(f"{path}: expected at least one row, but the file has none.")


def read_simple(path: str | Path) -> Iterator[Example]:
    """Yield the rows of one ``numpred.*`` file of the simple layout, the subject index unknown.

    A name that ends in ``.1`` ... ``.5`` states the number of attractors of its rows. Raises
    `InputError` if the file is missing, empty or not UTF-8, or at the first row without a tab, with
    an unknown label or an empty prefix.
    """
    path = Path(path)
    suffix = path.suffix[1:]
    n_attractors = int(suffix) if suffix in set("12345") else UNKNOWN
    for line in _lines(path):
        label, text = line.pair("a label, a tab and the sentence up to its verb")
        yield Example(line.prefix(text), line.label(label), n_attractors, UNKNOWN)


def read_subjects(path: str | Path) -> Iterator[Example]:
    """Yield the rows of ``subjects.tsv``: label, prefix, subject index and attractors.

    Its header is ``label prefix subject_index n_attractors``, separated by tabs. Raises
    `InputError` as `read_simple`, and for other columns or a subject index outside the prefix.
    """
    for line in _lines(Path(path), header=1):
        cells = line.text.split("\t")
        if line.number == 1:
            if tuple(cells) != SUBJECT_COLUMNS:
                raise line.error(
                    f"expected the header {' '.join(SUBJECT_COLUMNS)} (separated by tabs), but "
                    f"found {_quoted(line.text)}."
                )
            continue
        if len(cells) != len(SUBJECT_COLUMNS):
            raise line.error(
                f"expected {len(SUBJECT_COLUMNS)} columns separated by tabs, but found "
                f"{len(cells)}."
            )
        prefix = line.prefix(cells[1])
        subject = line.subject(cells[2], "subject_index", prefix.count(" ") + 1, 0)
        attractors = line.integer(cells[3], "n_attractors")
        yield Example(prefix, line.label(cells[0]), attractors, subject)


def read_full(path: str | Path) -> Iterator[Example]:
    """Yield the rows of ``agr_50_mostcommon_10K.tsv``, gzipped if its name ends in ``.gz``.

    The prefix is made of the words of ``sentence`` before ``verb_index``; both indices count from
    1. Raises `InputError` if the file is missing, empty, truncated or not UTF-8, lacks a needed
    column, or at the first row with a wrong number of cells, an unknown label or an index out of
    range.
    """
    path = Path(path)
    line = _Line(path, 0, "")

    def texts() -> Iterator[str]:
        nonlocal line
        for line in _lines(path, header=1):
            yield line.text + "\n"

    # The authors wrote the file with Python's csv module, so a word may hold a quoted quote.
    rows = csv.reader(texts(), delimiter="\t")
    try:
        header = next(rows, [])
        missing = [name for name in FULL_COLUMNS if name not in header]
        if missing:
            raise line._replace(number=1).error(
                f"expected a header with the columns {', '.join(FULL_COLUMNS)}, but "
                f"{', '.join(missing)} cannot be found in it."
            )
        places = [header.index(name) for name in FULL_COLUMNS]
        for cells in rows:
            if len(cells) != len(header):
                raise line.error(
                    f"expected {len(header)} columns as in the header, but found {len(cells)}."
                )
            if any("\n" in cell for cell in cells):
                raise line.error("a quoted cell runs over the end of the line.")
            yield _full_row([cells[place] for place in places], line)
    except csv.Error as error:
        raise line.error(f"not a tab-separated row ({error}).") from error


def _full_row(cells: list[str], line: _Line) -> Example:
    """Return the example of one row, of which `cells` are those of `FULL_COLUMNS`."""
    sentence, verb_pos, subj_index, verb_index, attractors = cells
    words = [word for word in sentence.split(" ") if word]
    verb = line.integer(verb_index, "verb_index")
    if not 1 <= verb <= len(words):
        raise line.error(
            f"expected a verb_index from 1 to {len(words)}, the length of the sentence, but found "
            f"{verb}."
        )
    prefix = line.prefix(" ".join(words[: verb - 1]))
    subject = line.subject(subj_index, "subj_index", verb - 1, 1)
    count = line.integer(attractors, "n_diff_intervening")
    return Example(prefix, line.label(verb_pos), count, subject)


def read_labelled(path: str | Path, *, hidden: bool = False) -> Iterator[Labelled]:
    """Yield the rows of a UTF-8 file of ``sentence<TAB>label`` lines without a header.

    Spaces around a sentence are dropped. Where labels may be `hidden`, they may all be -1, as those
    of GLUE's test split are. Raises `InputError` if the file is missing, empty or not UTF-8, or at
    the first row without exactly one tab, with an empty sentence, or with another label.
    """
    names = {str(label): label for label in range(len(LABEL_NAMES))}
    first = ""
    for line in _lines(Path(path)):
        sentence, label = line.pair("a sentence, a tab and its label")
        if not sentence.strip():
            raise line.error("the sentence is empty.")
        first = first or label
        if hidden and first == str(UNLABELLED):
            if label != first:
                raise line.error(
                    "the labels are all -1 (not given) up to here, but this one is "
                    f"{_quoted(label)}."
                )
            yield Labelled(sentence.strip(), UNLABELLED)
            continue
        if label not in names:
            raise line.error(
                f"expected the label 0 (negative) or 1 (positive), but found {_quoted(label)}."
            )
        yield Labelled(sentence.strip(), names[label])
