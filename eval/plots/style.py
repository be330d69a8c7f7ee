"""Define the look of every figure, draw its common parts, and save figures.

Figures are made at the size at which they are printed: a column is 8.5 cm wide and no text is
smaller than 7 points. Nothing of matplotlib's global state is read for the look or changed.
"""

from __future__ import annotations

import io
import re
import unicodedata
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from jaxflow.errors import InputError
from jaxflow.eval.stats import Cell
from jaxflow.html.style import CONSTANT, SEQUENTIAL, TIE, is_constant, visible

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure
    from matplotlib.legend import Legend


#: Widths in inches: a column of a two-column page (8.5 cm), and the page.
COLUMN, PAGE = 8.5 / 2.54, 17.8 / 2.54
#: Sizes of text in points: the smallest there is, and titles.
SMALL, TITLE = 7.0, 8.0

FORMATS = ("svg", "pdf", "png")

#: Of text, of what is beside the point, and of grids.
INK, GREY, PALE = "#222222", "#767676", "#E2E2E2"
FONT = "DejaVu Sans"  # comes with matplotlib, so that a figure is the same everywhere
DPI = 300

#: Okabe and Ito's colours, which colour-blind people can distinguish; markers and hatches repeat
#: the distinction.
CYCLE = ("#000000", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
MARKERS = ("o", "s", "^", "v", "D", "P", "X")
HATCHES = ("", "", "//", "..", "xx", "\\\\", "++")


@dataclass(frozen=True)
class Look:
    """The style of a method in every figure: its title, colour, marker and dashes."""

    title: str
    colour: str
    marker: str
    dashes: str = "-"


#: Method or baseline -> its look.
LOOKS: Mapping[str, Look] = MappingProxyType(
    {
        "raw": Look("raw", "#D55E00", "s"),
        "rollout": Look("rollout", "#0072B2", "o"),
        "flow": Look("flow", "#009E73", "^"),
        "column_sum": Look("column sum", "#CC79A7", "", "--"),
        "position": Look("position", "#000000", "", ":"),
        "random": Look("random", GREY, "", "-."),
        "gradient_norm": Look("gradient norm", "#56B4E9", "D"),
        "blank_out": Look("blank-out", "#E69F00", "P"),
    }
)


def look(name: str, place: int = 0) -> Look:
    """Return the look of a method; one without its own gets the `place`-th of the cycle."""
    if name in LOOKS:
        return LOOKS[name]
    return Look(
        name.replace("_", " "), CYCLE[place % len(CYCLE)], MARKERS[place % len(MARKERS)], "--"
    )


def new_figure(width: float, height: float, pad: float = 0.04) -> Figure:
    """Return an empty figure of its own, to be given to `finish` once it is drawn; in inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    layout = ConstrainedLayoutEngine(w_pad=pad, h_pad=pad)
    figure = Figure(figsize=(width, height), dpi=100, facecolor="white", layout=layout)
    FigureCanvasAgg(figure)
    return figure


def colour_map() -> Colormap:
    """Return the colours of a score from 0 to 1 as matplotlib takes them; NaN is `CONSTANT`."""
    from matplotlib.colors import LinearSegmentedColormap

    stops = [tuple(channel / 255 for channel in stop) for stop in SEQUENTIAL]
    colours = LinearSegmentedColormap.from_list("jaxflow", stops)
    return colours.with_extremes(bad=f"#{bytes(CONSTANT).hex()}")


def dress(axes: Axes, *, title: str = "", x: str = "", y: str = "", grid: str = "") -> Axes:
    """Give axes their title, labels, thin lines and a grid along ``x``, ``y`` or ``both``."""
    axes.set_facecolor("white")
    axes.spines[["top", "right"]].set_visible(False)
    for spine in axes.spines.values():
        spine.set(linewidth=0.6, color=GREY)
    axes.tick_params(
        which="both", labelsize=SMALL, width=0.6, length=2.5, pad=2, color=GREY, labelcolor=INK
    )
    axes.set_xlabel(x, fontsize=SMALL, color=INK, labelpad=2)
    axes.set_ylabel(y, fontsize=SMALL, color=INK, labelpad=2)
    axes.set_title(title, fontsize=TITLE, color=INK, pad=4, parse_math=False)
    axes.set_axisbelow(True)
    if grid:
        axes.grid(True, axis=grid, color=PALE, linewidth=0.6)  # type: ignore[arg-type]
    return axes


def layer_axis(axes: Axes, layers: int) -> None:
    """Set the layers, counted from 1, along x and label at most 12 of them."""
    step = -(-layers // 12)
    axes.set_xticks(range(1, layers + 1, step))
    axes.set_xlim(0.75, layers + 0.25)


def add_legend(figure: Figure, handles: Sequence[Any], columns: int = 3) -> None:
    """Put a legend below everything else, where it covers nothing."""
    place_legend(
        figure,
        handles,
        loc="outside lower center",
        ncols=columns,
        handlelength=2.2,
        labelspacing=0.3,
        borderaxespad=0.2,
    )


def place_legend(owner: Figure | Axes, handles: Sequence[Any], **options: Any) -> Legend:
    """Put a legend without a frame into a figure or a panel."""
    options = {"frameon": False, "fontsize": SMALL, "columnspacing": 1.2, **options}
    legend = owner.legend(handles=handles, **options)
    for text in legend.get_texts():
        text.set(color=INK, parse_math=False)
    return legend


def finish(figure: Figure) -> Figure:
    """Compute a figure's layout once, so that all its files have the same."""
    from matplotlib.text import Text

    for artist in figure.findobj():
        if isinstance(artist, Text):
            artist.set_fontfamily(FONT)
    with _without_glyph_warnings():
        figure.draw_without_rendering()
    figure.set_layout_engine("none")
    return figure


def save(figure: Figure, path: Path, form: str, *, dpi: int = DPI) -> None:
    """Write a figure in place, whatever the file is called: the same figure gives the same bytes.

    `form` is one of `FORMATS`, else it raises `InputError`; `dpi` are dots an inch of a PNG.
    """
    if form not in FORMATS:
        raise InputError(f"format must be one of {', '.join(FORMATS)}, got {form!r}")
    # Without days and versions, which would make equal pictures unequal files.
    metadata: dict[str, dict[str, str | None]] = {
        "svg": {"Date": None, "Creator": None},
        "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
        "png": {"Software": None},
    }
    buffer = io.BytesIO()
    with _without_glyph_warnings():
        figure.savefig(buffer, format=form, dpi=dpi, facecolor="white", metadata=metadata[form])
    content = buffer.getvalue()
    path.write_bytes(_number_ids(content.decode()).encode() if form == "svg" else content)


@contextmanager
def _without_glyph_warnings() -> Iterator[None]:
    # A character that the font lacks is drawn as a box; the page shows it properly.
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        warnings.filterwarnings("ignore", message="Matplotlib currently does not support")
        yield


def _number_ids(svg: str) -> str:
    """Replace identifiers, which are random hashes unless a global setting salts them."""
    numbers: dict[str, int] = {}

    def rename(found: re.Match[str]) -> str:
        return f"{found[1]}i{numbers.setdefault(found[2], len(numbers))}"

    return re.sub(r'(\bid="|#)(\w*[0-9a-f]{10})(?=["\)])', rename, svg)


def draw_cells(axes: Axes, x: NDArray[np.integer], cells: Sequence[Cell], shown: Look) -> Any:
    """Draw one cell at each place: means as a line, intervals as a band; return the line."""
    low, high = zip(*(cell.ci95 for cell in cells), strict=True)
    axes.fill_between(x, low, high, color=shown.colour, alpha=0.22, linewidth=0, zorder=2)
    means = [cell.mean for cell in cells]
    (line,) = axes.plot(x, means, label=shown.title, zorder=3, **strokes(shown))
    return line


def legend_key(title: str, shown: Look, hollow: bool = False) -> Any:
    """Return one entry of a legend for several lines."""
    from matplotlib.lines import Line2D

    return Line2D([], [], label=title, **strokes(shown, hollow=hollow))


def strokes(shown: Look, dashes: str | None = None, hollow: bool = False) -> Mapping[str, Any]:
    """Return how matplotlib draws a line of that look, with other dashes or hollow markers."""
    return {
        "color": shown.colour,
        "linestyle": shown.dashes if dashes is None else dashes,
        "linewidth": 0.9 if hollow else 1.2,
        "marker": shown.marker or "None",
        "markersize": 3.6,
        "markeredgewidth": 0.8,
        "markerfacecolor": "white" if hollow else shown.colour,
        "markeredgecolor": shown.colour,
    }


Colour = tuple[int, int, int]

#: The note on shading in every picture.
NOTE = (
    "Shaded from 0 to each method's largest score, grey where all are the same: compare tokens "
    "within a method, not numbers between methods."
)

LONGEST = 18  # characters of a token before a picture cuts it


def relative(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Divide scores by their largest one: 0 to 1, all 0 where no score is above 0."""
    top = float(np.max(scores))
    return np.clip(scores / top, 0, 1) if top > 0 else np.zeros_like(scores)


def paint(scores: NDArray[np.float64]) -> list[Colour]:
    """Return the colour of each score ``[n]``, of its share of the largest; grey if constant."""
    if is_constant(scores):
        return [CONSTANT] * len(scores)
    return [shade(share) for share in relative(scores).tolist()]


def shares(scores: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return `relative`, or NaN where all scores are the same: what `colour_map` draws."""
    values = np.asarray(scores, np.float64)
    return np.full_like(values, np.nan) if is_constant(values) else relative(values)


def ranked(scores: NDArray[np.floating]) -> list[list[int]]:
    """Return the places of the scores from the highest down, those that tie as one group."""
    values = np.asarray(scores, np.float64).ravel()
    groups: list[list[int]] = []
    for place in np.argsort(-values, kind="stable").tolist():
        if groups and values[groups[-1][0]] - values[place] <= TIE * np.abs(values).max():
            groups[-1].append(place)
        else:
            groups.append([place])
    return [sorted(group) for group in groups]


def shade(share: float) -> Colour:
    """Return the colour of a relative score from 0 to 1."""
    place = min(max(float(share), 0.0), 1.0) * (len(SEQUENTIAL) - 1)
    low = min(int(place), len(SEQUENTIAL) - 2)
    part = place - low
    red, green, blue = (
        round(start + part * (end - start))
        for start, end in zip(SEQUENTIAL[low], SEQUENTIAL[low + 1], strict=True)
    )
    return red, green, blue


def ink(background: Colour) -> Colour:
    """Return black or white, whichever is easier to read on the colour."""
    red, green, blue = (channel / 255 for channel in background)
    return (0, 0, 0) if 0.2126 * red + 0.7152 * green + 0.0722 * blue > 0.45 else (255, 255, 255)


def clipped(text: str, longest: int = LONGEST) -> str:
    """Make text fit to be drawn: `visible`, nothing that joins characters, cut where it is long.

    Examples
    --------
    >>> clipped("incomprehensibilities")
    'incomprehensibili…'
    """
    # Emoji are joined from several characters that no plain font combines.
    shown = "".join(char for char in visible(text) if unicodedata.category(char) != "Cf")
    return shown if len(shown) <= longest else f"{shown[: longest - 1]}…"
