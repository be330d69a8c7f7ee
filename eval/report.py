"""Format numbers as in the paper's tables, values as JSON, and tables for every kind of output.

A number has no leading zero. A table is printed on a console, or written as Markdown or CSV.
"""

from __future__ import annotations

import csv
import io
import json
import math
import platform
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from importlib import metadata
from os import PathLike, fspath
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from jaxflow.errors import InputError
from jaxflow.eval.stats import Cell

if TYPE_CHECKING:
    from rich.console import Console

_PACKAGES = ("jaxflow", "jax", "jaxlib", "flax", "optax", "numpy", "scipy", "numba", "networkx")
#: Text of an undefined number.
UNDEFINED = "n/a"


def short(value: float, *, sign: bool = False) -> str:
    """Format a number with two decimals, ``.69`` or ``-.11``; with `sign` also ``+.02``.

    Examples
    --------
    >>> short(0.694), short(-0.11), short(0.02, sign=True), short(-0.001), short(1)
    ('.69', '-.11', '+.02', '.00', '1.00')
    """
    if math.isnan(value):
        return UNDEFINED
    text = f"{value:+.2f}"
    if float(text) == 0 or (text[0] == "+" and not sign):
        text = text[1:]
    return text.replace("0.", ".", 1) if abs(float(text)) < 1 else text


def mean_std(mean: float, std: float) -> str:
    """Format a mean and a standard deviation, ``.69±.27``."""
    return UNDEFINED if math.isnan(mean) else f"{short(mean)}±{short(std)}"


def interval(ci95: tuple[float, float]) -> str:
    """Format an interval, ``[.68, .70]``."""
    return UNDEFINED if math.isnan(ci95[0]) else f"[{short(ci95[0])}, {short(ci95[1])}]"


def column_format(values: ArrayLike) -> str:
    """Return the format of a column: three digits of its largest value, at least three decimals.

    Examples
    --------
    >>> [format(value, column_format([0.41, 0.0001])) for value in (0.41, 0.0001)]
    ['0.410', '0.000']
    >>> column_format([0.00146, 0.0002]), column_format([2.3e-7, 0]), column_format([123.4])
    ('.5f', '.2e', '.1f')
    """
    sizes = np.abs(np.asarray(values, np.float64))
    largest = sizes[np.isfinite(sizes)].max(initial=0)
    power = math.floor(math.log10(largest)) if largest else 0
    if not -4 <= power <= 5:
        return ".2e"
    return f".{max(1, 3 - power) if power >= 0 else max(3, 2 - power)}f"


def probability(p: float) -> str:
    """Format a p-value to three decimals, ``<.001`` below that."""
    if math.isnan(p):
        return UNDEFINED
    return "<.001" if p < 0.001 else f"{p:.3f}".removeprefix("0")


def counts(cells: Sequence[Cell], field: str) -> str:
    """Format the `n` or `nan` of a row: one number if all layers agree, else one per layer."""
    values = [str(getattr(cell, field)) for cell in cells]
    return values[0] if len(set(values)) == 1 else " ".join(values)


def layer_names(layers: int) -> list[str]:
    """Return the names of layers, ``L1`` (bottom) to ``L6`` (top)."""
    return [f"L{layer + 1}" for layer in range(layers)]


def to_json(value: Any) -> Any:
    """Return the JSON form of a value: None for NaN and infinity, an object for a dataclass.

    Raises `InputError` if something in it has no JSON form.
    """
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, (np.ndarray, np.generic)):
        return to_json(value.tolist())
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: to_json(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): to_json(entry) for key, entry in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, (bytes, bytearray)):
        return [to_json(entry) for entry in value]
    if isinstance(value, PathLike):
        return str(fspath(value))
    raise InputError(
        f"a result must be made of numbers, strings, lists and mappings, got {value!r}"
    )


def json_text(value: Any, *, indent: int | None = 2) -> str:
    """Return a value as JSON text without NaN literals; `indent` None makes it one line."""
    return json.dumps(to_json(value), indent=indent, ensure_ascii=False, allow_nan=False) + "\n"


def versions() -> dict[str, str]:
    """Return the versions that a result depends on."""
    found = {"python": platform.python_version(), "machine": platform.machine()}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:  # run from a checkout that is not installed
            found[package] = "unknown"
    return found


_EMPHASIS = {"bold": "**", "italic": "*"}


def _as_text(value: Any) -> str:
    return short(value) if isinstance(value, float) else str(value)


@dataclass(frozen=True)
class Column:
    """The title and format of a column.

    Attributes
    ----------
    title
        Its heading.
    format
        Returns the text of a value. Strings are shown as they are, None as nothing; by default a
        float gets two decimals.
    text
        Whether it holds words, which are aligned left and wrapped between words, rather than
        numbers, which are aligned right.
    code
        Whether Markdown shows it as code.
    """

    title: str
    format: Callable[[Any], str] = _as_text
    text: bool = False
    code: bool = False

    def show(self, value: Any) -> str:
        """Return a value's text."""
        if isinstance(value, str):
            return value
        return "" if value is None else self.format(value)


@dataclass(frozen=True)
class Table:
    """Columns and rows of values.

    Attributes
    ----------
    columns
        C of them.
    rows
        C values each.
    styles
        None, or for each row how a console shows it (a `rich` style such as ``bold`` or ``dim``);
        Markdown emphasises the first cell of a ``bold`` or ``italic`` row.
    labels
        How many of the first columns name the row: they come again in every part of a table that
        is too wide for its console.
    """

    columns: tuple[Column, ...]
    rows: tuple[tuple[Any, ...], ...]
    styles: tuple[str, ...] = ()
    labels: int = 1

    @classmethod
    def of(
        cls,
        head: Sequence[str | Column],
        rows: Iterable[Sequence[Any]],
        *,
        styles: Sequence[str] = (),
        labels: int = 1,
    ) -> Table:
        """Build a table of titles or columns; a title among the labels is a column of words."""
        columns = tuple(
            Column(title, text=place < labels) if isinstance(title, str) else title
            for place, title in enumerate(head)
        )
        return cls(columns, tuple(map(tuple, rows)), tuple(styles), labels)

    def texts(self) -> list[list[str]]:
        """Return the text of every cell, by row."""
        return [
            [column.show(value) for column, value in zip(self.columns, row, strict=True)]
            for row in self.rows
        ]

    def to_csv(self) -> str:
        """Write the values as CSV: floats to 12 decimals, nothing where undefined."""
        file = io.StringIO()
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([column.title for column in self.columns])
        writer.writerows([_csv(value) for value in row] for row in self.rows)
        return file.getvalue()

    def to_markdown(self, escape: Callable[[str], str] = lambda text: text) -> str:
        r"""Write the table as Markdown, without a newline at the end.

        Parameters
        ----------
        escape
            What to do to the text of a cell; a ``|`` is escaped in any case.

        Examples
        --------
        >>> print(Table.of(["", "L1"], [["raw", 0.694]], styles=["bold"]).to_markdown())
        |  | L1 |
        | --- | ---: |
        | **raw** | .69 |
        """
        lines = [
            [column.title for column in self.columns],
            ["---" if column.text else "---:" for column in self.columns],
        ]
        for place, row in enumerate(self.texts()):
            row = [escape(cell.strip()).replace("\\|", "|").replace("|", "\\|") for cell in row]
            row = [
                f"`{cell}`" if column.code and cell else cell
                for column, cell in zip(self.columns, row, strict=True)
            ]
            mark = _EMPHASIS.get(self.styles[place], "") if self.styles else ""
            lines.append([f"{mark}{row[0]}{mark}", *row[1:]])
        return "\n".join(f"| {' | '.join(line)} |" for line in lines)

    def print(self, console: Console) -> None:
        """Print the table, in parts of some columns each where the console is too narrow.

        Where a table does not fit, its columns move together and titles are broken into lines
        between words, then words of text columns are, and only then does it go on in another part.
        """
        from rich.table import Table as RichTable
        from rich.text import Text

        texts = self.texts()
        for part, widths, gap in self._parts(texts, console.width):
            table = RichTable(box=None, padding=(0, 0, 0, gap), pad_edge=False)
            for place, width in zip(part, widths, strict=True):
                column = self.columns[place]
                table.add_column(
                    Text(column.title),
                    justify="left" if column.text else "right",
                    # Only a console narrower than one column breaks within a number.
                    overflow="fold",
                    width=width if sum(widths) + gap * len(widths) <= console.width + gap else None,
                )
            for place, row in enumerate(texts):
                style = self.styles[place] if self.styles else ""
                table.add_row(*(Text(row[column]) for column in part), style=style)
            console.print(table)

    def _parts(
        self, texts: Sequence[Sequence[str]], width: int
    ) -> Iterable[tuple[list[int], list[int], int]]:
        """Yield the columns of each part, their widths and the space between them."""
        from rich.cells import cell_len

        def longest(texts: Iterable[str]) -> int:
            return max(map(cell_len, texts), default=0)

        every = range(len(self.columns))
        whole, least = [], []
        for place, column in enumerate(self.columns):
            cells = [row[place] for row in texts]
            whole.append(longest([column.title, *cells]))
            words = " ".join(cells).split() if column.text else cells
            least.append(longest([*column.title.split(), *words]))
        for gap in (2, 1):
            if sum(whole) + gap * (len(whole) - 1) <= width:
                yield list(every), whole, gap
                return
        # Labels keep their words together as long as they leave half of the console.
        widths = list(least)
        for place in range(self.labels):
            widths[place] = max(least[place], min(whole[place], width // (2 * self.labels)))
        start = self.labels
        while start < len(every):
            stop, used = start, sum(widths[: self.labels]) + self.labels - 1
            while stop < len(every) and (stop == start or used + 1 + widths[stop] <= width):
                used += 1 + widths[stop]
                stop += 1
            part = [*range(self.labels), *range(start, stop)]
            spread = []
            for place in part:
                wanted = whole[place] - widths[place] if self.columns[place].text else 0
                more = max(0, min(wanted, width - used))
                spread.append(widths[place] + more)
                used += more
            yield part, spread, 1
            start = stop


@dataclass(frozen=True)
class Section:
    """A part of a report: title, text, table and a note under it, each of which may be missing."""

    title: str = ""
    text: str = ""
    table: Table | None = None
    note: str = ""


def print_sections(console: Console, sections: Iterable[Section]) -> None:
    """Print sections on a console, an empty line between them."""
    from rich.text import Text

    for place, section in enumerate(sections):
        if place:
            console.print()
        # As Text: a bracket in it is a bracket, not markup, and numbers keep the line's colour.
        if section.title:
            console.print(Text(section.title, "bold"))
        if section.text:
            console.print(Text(section.text))
        if section.table is not None:
            section.table.print(console)
        if section.note:
            console.print(Text(section.note, "dim"))


def to_markdown(
    title: str,
    sections: Iterable[Section],
    made_with: Any = None,
    *,
    escape: Callable[[str], str] = lambda text: text,
) -> str:
    """Write sections as a Markdown document.

    `made_with`, configuration and versions, is written as JSON at the end; `escape` is applied to
    every text, such as `escaped`.
    """
    blocks = [f"# {title}"]
    for section in sections:
        blocks.append(f"## {escape(section.title)}" if section.title else "")
        blocks.append(escape(section.text))
        blocks.append("" if section.table is None else section.table.to_markdown(escape))
        blocks.append(escape(section.note))
    if made_with is not None:
        blocks += ["## Made with", f"```json\n{json_text(made_with)}```"]
    return "\n\n".join(block for block in blocks if block) + "\n"


def escaped(text: str) -> str:
    """Escape what Markdown would read as markup, in text that others wrote."""
    for mark in ("\\", "|", "*", "_", "`", "<", "["):
        text = text.replace(mark, f"\\{mark}")
    return text


def _csv(value: Any) -> Any:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    return repr(round(value, 12)) if isinstance(value, float) else value
