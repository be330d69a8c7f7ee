"""Reader of labelled sentences: ``sentence<TAB>label`` lines, row by row.

Nothing is skipped or mended: the first unusable row raises an error that names file and line.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from jaxflow.errors import InputError
from jaxflow.train.formats import lines_of, need_rows, shown

__all__ = ["LABEL_NAMES", "UNLABELLED", "Labelled", "read_labelled"]

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
