"""Readers of the public agreement files, row by row.

Two layouts are in use: the *simple* one (``VBZ|VBP``, a tab, the sentence up to its verb) and the
*full* one (``agr_50_mostcommon_10K.tsv``, 18 columns under a header). Both are described by Linzen,
Dupoux and Goldberg (2016), TACL 4. Nothing is skipped or mended: the first unusable row raises an
error that names file and line. Only runs of spaces between words count as one.
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
_MOST_DIGITS = 9
# A packed file may unfold to a line of any length.
_LONGEST_LINE = 1 << 20


class Example(NamedTuple):
    """One sentence prefix and what is known of it.

    Attributes
    ----------
    prefix : str
        The words before the verb, separated by single spaces.
    label : int
        0 for a singular verb (VBZ), 1 for a plural one (VBP).
    n_attractors : int
        Common nouns between subject and verb of the other number; -1 if unknown.
    subject_index : int
        Place of the subject among the words of the prefix, from 0; -1 if unknown.
    """

    prefix: str
    label: int
    n_attractors: int
    subject_index: int


def read_simple(path: str | Path) -> Iterator[Example]:
    """Read one ``numpred.*`` file of the simple layout.

    Parameters
    ----------
    path : path
        A name that ends in ``.1`` ... ``.5`` states the number of attractors of its rows.

    Yields
    ------
    Example
        In file order; the subject index is always unknown.

    Raises
    ------
    InputError
        If the file is missing, empty or not UTF-8, or at the first row without a tab, with an
        unknown label or an empty prefix.
    """
    path = Path(path)
    suffix = path.suffix[1:]
    n_attractors = int(suffix) if suffix in set("12345") else UNKNOWN
    number = 0
    for number, line in lines_of(path):
        label, tab, text = line.partition("\t")
        if not tab:
            raise InputError(
                f"{path}, line {number}: expected a label, a tab and the sentence up to its verb, "
                f"but there is no tab in {shown(line)}."
            )
        if "\t" in text:
            raise InputError(f"{path}, line {number}: expected one tab, but there are more.")
        yield Example(
            _prefix(text, path, number), _label(label, path, number), n_attractors, UNKNOWN
        )
    need_rows(path, number)


def read_subjects(path: str | Path) -> Iterator[Example]:
    """Read ``subjects.tsv``: label, prefix, subject index and attractors, under a header.

    Parameters
    ----------
    path : path
        The header is ``label prefix subject_index n_attractors``, separated by tabs.

    Yields
    ------
    Example
        In file order, with nothing unknown.

    Raises
    ------
    InputError
        As `read_simple`, and for other columns or a subject index outside the prefix.
    """
    path = Path(path)
    number = 0
    for number, line in lines_of(path):
        cells = line.split("\t")
        if number == 1:
            if tuple(cells) != SUBJECT_COLUMNS:
                raise InputError(
                    f"{path}, line 1: expected the header {' '.join(SUBJECT_COLUMNS)} (separated "
                    f"by tabs), but found {shown(line)}."
                )
            continue
        if len(cells) != len(SUBJECT_COLUMNS):
            raise InputError(
                f"{path}, line {number}: expected {len(SUBJECT_COLUMNS)} columns separated by "
                f"tabs, but found {len(cells)}."
            )
        prefix = _prefix(cells[1], path, number)
        subject = _integer(cells[2], "subject_index", path, number)
        _check_subject(subject, prefix.count(" ") + 1, 0, path, number)
        attractors = _integer(cells[3], "n_attractors", path, number)
        yield Example(prefix, _label(cells[0], path, number), attractors, subject)
    need_rows(path, number - 1)


def read_full(path: str | Path) -> Iterator[Example]:
    """Read ``agr_50_mostcommon_10K.tsv``, gzipped or not, by the names in its header.

    Parameters
    ----------
    path : path
        Gzipped if the name ends in ``.gz``. The prefix is made of the words of ``sentence``
        before ``verb_index``; both indices count from 1.

    Yields
    ------
    Example
        In file order, with nothing unknown.

    Raises
    ------
    InputError
        If the file is missing, empty, truncated or not UTF-8, lacks a needed column, or at the
        first row with a wrong number of cells, an unknown label or an index out of range.
    """
    path = Path(path)
    number = 0

    def texts() -> Iterator[str]:
        nonlocal number
        for number, line in lines_of(path):  # noqa: B007
            yield line + "\n"

    # The authors wrote the file with Python's csv module, so a word may hold a quoted quote.
    rows = csv.reader(texts(), delimiter="\t")
    header: list[str] = []
    try:
        header = next(rows, [])
        missing = [name for name in FULL_COLUMNS if name not in header]
        if number and missing:
            raise InputError(
                f"{path}, line 1: expected a header with the columns {', '.join(FULL_COLUMNS)}, "
                f"but {', '.join(missing)} cannot be found in it."
            )
        places = [header.index(name) for name in FULL_COLUMNS if header]
        count = 0
        for count, cells in enumerate(rows, start=1):  # noqa: B007
            if len(cells) != len(header):
                raise InputError(
                    f"{path}, line {number}: expected {len(header)} columns as in the header, but "
                    f"found {len(cells)}."
                )
            if any("\n" in cell for cell in cells):
                raise InputError(
                    f"{path}, line {number}: a quoted cell runs over the end of the line."
                )
            yield _full_row([cells[place] for place in places], path, number)
    except csv.Error as error:
        raise InputError(f"{path}, line {number}: not a tab-separated row ({error}).") from error
    need_rows(path, count if header else 0)


def _full_row(cells: list[str], path: Path, number: int) -> Example:
    """Make the example of one row; ``cells`` are those of `FULL_COLUMNS`."""
    sentence, verb_pos, subj_index, verb_index, attractors = cells
    words = [word for word in sentence.split(" ") if word]
    verb = _integer(verb_index, "verb_index", path, number)
    if not 1 <= verb <= len(words):
        raise InputError(
            f"{path}, line {number}: expected a verb_index from 1 to {len(words)}, the length of "
            f"the sentence, but found {verb}."
        )
    prefix = _prefix(" ".join(words[: verb - 1]), path, number)
    subject = _integer(subj_index, "subj_index", path, number)
    _check_subject(subject, verb - 1, 1, path, number)
    count = _integer(attractors, "n_diff_intervening", path, number)
    return Example(prefix, _label(verb_pos, path, number), count, subject - 1)


def lines_of(path: Path) -> Iterator[tuple[int, str]]:
    """Yield line numbers, from 1, and lines without their end; gunzip where the name says so."""
    number = 0
    try:
        with path.open("rb") as raw:
            source: BinaryIO | gzip.GzipFile = raw
            if path.suffix == ".gz":
                source = gzip.GzipFile(fileobj=raw)
            lines = iter(partial(source.readline, _LONGEST_LINE + 1), b"")
            for number, line in enumerate(lines, start=1):
                if len(line) > _LONGEST_LINE:
                    raise InputError(
                        f"{path}, line {number}: expected at most {_LONGEST_LINE:,} bytes a line, "
                        "but this one is longer."
                    )
                yield number, line.rstrip(b"\r\n").decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path}, line {number}: expected UTF-8 text, but byte {error.start + 1} of the line "
            f"is 0x{error.object[error.start]:02x}."
        ) from error
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise InputError(
            f"{path}: the gzip file is truncated or damaged after line {number}; fetch it again."
        ) from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error}).") from error


def _label(name: str, path: Path, number: int) -> int:
    if name not in LABELS:
        raise InputError(
            f"{path}, line {number}: expected the label VBZ or VBP, but found {shown(name)}."
        )
    return LABELS[name]


def _prefix(text: str, path: Path, number: int) -> str:
    prefix = " ".join(word for word in text.split(" ") if word)
    if not prefix.strip():
        raise InputError(f"{path}, line {number}: the prefix before the verb is empty.")
    return prefix


def _integer(text: str, column: str, path: Path, number: int) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= _MOST_DIGITS):
        raise InputError(
            f"{path}, line {number}: expected a whole number in the column {column}, but found "
            f"{shown(text)}."
        )
    return int(text)


def _check_subject(subject: int, n_words: int, first: int, path: Path, number: int) -> None:
    if not first <= subject < first + n_words:
        raise InputError(
            f"{path}, line {number}: expected a subject index from {first} to "
            f"{first + n_words - 1}, a word of the prefix, but found {subject}."
        )


def need_rows(path: Path, count: int) -> None:
    """Raise unless a file had rows."""
    if count < 1:
        raise InputError(f"{path}: expected at least one row, but the file has none.")


def shown(text: str) -> str:
    """Return a text in quotes, cut where it is long."""
    return repr(text if len(text) <= 40 else text[:37] + "...")


LABEL_NAMES = ("negative", "positive")
UNLABELLED = -1
"""What GLUE writes for a label it does not give away."""


class Labelled(NamedTuple):
    """A sentence and its label: 0 negative, 1 positive, -1 not given."""

    sentence: str
    label: int


def read_labelled(path: str | Path, *, hidden: bool = False) -> Iterator[Labelled]:
    """Read a file of ``sentence<TAB>label`` lines.

    Parameters
    ----------
    path : path
        UTF-8 text without a header.
    hidden : bool
        Whether the labels may all be -1, as those of GLUE's test split are.

    Yields
    ------
    Labelled
        In file order; spaces around a sentence are dropped.

    Raises
    ------
    InputError
        If the file is missing, empty or not UTF-8, or at the first row without exactly one tab,
        with an empty sentence, or with another label than 0 or 1. Labels of -1 are taken where
        they may be hidden, and only if all are.
    """
    path = Path(path)
    names = {str(label): label for label in range(len(LABEL_NAMES))}
    number, first = 0, ""
    for number, line in lines_of(path):
        sentence, tab, label = line.partition("\t")
        if not tab:
            raise InputError(
                f"{path}, line {number}: expected a sentence, a tab and its label, but there is no "
                f"tab in {shown(line)}."
            )
        if "\t" in label:
            raise InputError(f"{path}, line {number}: expected one tab, but there are more.")
        if not sentence.strip():
            raise InputError(f"{path}, line {number}: the sentence is empty.")
        first = first or label
        if hidden and first == str(UNLABELLED):
            if label != first:
                raise InputError(
                    f"{path}, line {number}: the labels are all -1 (not given) up to here, but "
                    f"this one is {shown(label)}."
                )
            yield Labelled(sentence.strip(), UNLABELLED)
            continue
        if label not in names:
            raise InputError(
                f"{path}, line {number}: expected the label 0 (negative) or 1 (positive), but "
                f"found {shown(label)}."
            )
        yield Labelled(sentence.strip(), names[label])
    need_rows(path, number)
