"""Provide made-up results with known values, and every figure of them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING

import numpy as np

import jaxflow
from jaxflow.eval.paper.scores import ENTROPY_ROWS, ROWS, TARGETS, SentenceScores
from jaxflow.eval.paper.tables import Tables, build_tables
from jaxflow.eval.plots import catalogue
from jaxflow.eval.plots.curves import Journey, draw_lengths, draw_training

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WORDS = ("[CLS]", "the", "key", "to", "the", "cabinets", "that", "Mary", "incomprehensibilities")


def scores(layers: int = 6, sentences: int = 50, seed: int = 0) -> SentenceScores:
    """Correlations that rise, fall and stay, row by row, with noise around them."""
    rng = np.random.default_rng(seed)
    up = np.linspace(0.1, 0.7, layers)
    shapes = (up[::-1], up, np.minimum(2 * up, 0.7), 0 * up + 0.5, 0 * up, 0 * up + 0.3)

    def noisy(centre: np.ndarray) -> np.ndarray:
        return centre + 0.2 * rng.normal(size=(sentences, layers))

    arrays = {
        f"{target}/{row}": noisy(shape - 0.1 * k)
        for k, target in enumerate(TARGETS)
        for row, shape in zip(ROWS, shapes, strict=True)
    }
    saturated = np.clip(noisy(up), 0, 1)
    arrays |= {f"entropy/{row}": noisy(shapes[k]) for k, row in enumerate(ENTROPY_ROWS)}
    length = rng.integers(2, 30, sentences)
    return SentenceScores({**arrays, "saturated": saturated, "length": length}, layers)


def tables(layers: int = 6) -> Tables:
    """The tables of `scores`."""
    return build_tables(scores(layers), resamples=100)


def journey(steps: int = 40) -> Journey:
    """A loss that falls and an accuracy that rises."""
    at = 50 * np.arange(1, steps + 1)
    way = np.linspace(0, 1, steps)
    ends = at[steps // 2 - 1 :: steps // 2]
    return Journey(
        curves={"loss": (at, 0.7 - 0.6 * np.sqrt(way)), "accuracy": (at, 0.5 + 0.45 * way)},
        held_out={
            "val": (ends, np.linspace(0.9, 0.97, len(ends))),
            "subjects": (ends, np.linspace(0.7, 0.8, len(ends))),
        },
    )


class Word(str):
    """A word that is a token, too."""

    @property
    def text(self) -> str:
        return str(self)


def sentence(n: int = 6, layers: int = 6, seed: int = 0) -> SimpleNamespace:
    """Random attention over some of the words, again and again where n asks for it."""
    rng = np.random.default_rng(seed)
    attention = rng.dirichlet(np.full(n, 0.3), (layers, 2, n))
    sizes = {"raw": 0.3, "rollout": 0.2, "flow": 1.0, "gradient_norm": 4e-3, "blank_out": 0.5}
    return SimpleNamespace(
        tokens=tuple(map(Word, (WORDS * (n // len(WORDS) + 1))[:n])),
        attention=attention,
        maps={
            "raw": np.asarray(jaxflow.raw_attention(attention)),
            "rollout": np.asarray(jaxflow.rollout(attention)),
            "flow": np.asarray(jaxflow.flow(attention)),
        },
        scores={name: rng.random(n) * size for name, size in sizes.items()},
        readout=0,
    )


def every_figure(layers: int = 6, n: int = 6) -> dict[str, Figure]:
    """Every figure that there is."""
    return {
        **catalogue.table_figures(tables(layers)),
        "lengths": draw_lengths(scores(layers)),
        "training": draw_training(journey()),
        **catalogue.sentence_figures(sentence(n, layers)),
    }
