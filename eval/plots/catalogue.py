"""Draw all figures of an evaluation, a run and a sentence, and write their files."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

import jaxflow
from jaxflow.errors import InputError
from jaxflow.eval.paper.tables import Tables
from jaxflow.eval.plots.curves import (
    draw_agreement,
    draw_entropy,
    draw_saturation,
)
from jaxflow.eval.plots.maps import draw_graph, draw_layer_maps, draw_readout, draw_token_bars
from jaxflow.eval.plots.style import FORMATS, save
from jaxflow.files import write_together

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from jaxflow.eval.explanation import Explanation


#: Figures by their file's name without its ending.
Figures = dict[str, "Figure"]


def table_figures(tables: Tables) -> Figures:
    """Draw the figures that need only the tables."""
    return {
        **{
            f"agreement-{target.replace('_', '-')}": draw_agreement(tables, target)
            for target in tables.correlations
        },
        "saturation": draw_saturation(tables),
        "entropy": draw_entropy(tables),
    }


def sentence_figures(explanation: Explanation, residual: float = 0.5) -> Figures:
    """Draw one sentence: maps of every layer, the readout's rows, the graph and the bars.

    `residual` is the share of the residual connection in rollout, flow and the graph.
    """
    attention = np.asarray(explanation.attention, np.float64)
    tokens = [token.text for token in explanation.tokens]
    source = explanation.readout
    maps = {
        "raw": np.asarray(jaxflow.raw_attention(attention)),
        "rollout": np.asarray(jaxflow.rollout(attention, residual=residual)),
        "flow": np.asarray(jaxflow.flow(attention, residual=residual)),
    }
    graph = jaxflow.attention_graph(attention, residual=residual)
    title = f"{tokens[source]} over the layers"
    return {
        "maps-raw": draw_layer_maps(maps["raw"], tokens, title="Raw attention", residual=False),
        "maps-rollout": draw_layer_maps(maps["rollout"], tokens, title="Attention rollout"),
        "maps-flow": draw_layer_maps(maps["flow"], tokens, title="Attention flow"),
        "readout": draw_readout(maps, tokens, source=source, title=title),
        "graph": draw_graph(graph, tokens, source=source),
        "bars": draw_token_bars(explanation.scores, tokens),
    }


def check_formats(formats: Sequence[str]) -> None:
    """Refuse formats that figures cannot be written in.

    Raises `InputError` if there is none, or one is unknown.
    """
    unknown = [form for form in formats if form not in FORMATS]
    if unknown or not formats:
        raise InputError(
            f"format must be one or more of {','.join(FORMATS)}, got {','.join(formats)!r}"
        )


def write_figures(
    folder: Path, figures: Mapping[str, Figure], formats: Sequence[str] = ("svg",)
) -> list[Path]:
    """Write figures to a folder, all of them or none.

    Raises `InputError` if a format is unknown or the folder cannot be written to.
    """
    check_formats(formats)
    writers: dict[str, Callable[[Path], None]] = {
        f"{name}.{form}": partial(save, figure, form=form)
        for name, figure in figures.items()
        for form in dict.fromkeys(formats)
    }
    return write_together(folder, writers)
