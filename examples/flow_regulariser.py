"""Train the same model with and without a term of attention flow in its loss, and compare.

    python examples/flow_regulariser.py --out runs/regulariser

With weight w the loss of a sentence is its cross entropy minus w times the subject noun's share of
the flow from [CLS], averaged over the layers. Three runs of one epoch on the built-in grammar, half
an hour on two cores; finished runs in the folder are not trained again. The study is
docs/flow-regulariser.md.
"""

import dataclasses
from pathlib import Path

import numpy as np
import tyro
from subject_mass import compare_runs, subject_table

import jaxflow
from jaxflow import models
from jaxflow.eval import Column, Table
from jaxflow.train import PRESETS, EncodedSplit, Progress, train

#: Subject's token -> the row's title: a larger share is easy where the subject mostly is.
PLACES = {"2": (2, 2), "3": (3, 3), "4 or later": (4, 10**6)}
SATURATED = 500  # sentences on which saturation is measured


def saturated_share(model: models.Model, split: EncodedSplit) -> np.ndarray:
    """Return the share of pairs ([CLS], token) whose flow is at its bound, ``[L]``."""
    tokens = split.tokens[:SATURATED]
    attention = np.asarray(model(tokens).attention)
    mask = tokens != split.pad_id
    reached = jaxflow.saturation(attention, sources=0, mask=mask).reached[:, :, 0]  # [S, L, n]
    return (reached & mask[:, None]).sum((0, 2)) / mask.sum()


def report(progress: Progress) -> None:
    """Print the lines of a training run, such as the accuracy after an epoch."""
    if progress.message:
        print(progress.message)


def main(
    out: Path = Path("runs/regulariser"),
    weights: tuple[float, ...] = (0.0, 0.3, 1.0),
    epochs: int = 1,
    layers: int = 6,
    heads: int = 8,
    width: int = 128,
    batch: int = 128,
    seed: int = 0,
) -> None:
    """Train a run for each weight of the term, and print the subject noun's share of each.

    Parameters
    ----------
    out
        Folder of the runs.
    weights
        Weights of the term; later runs are compared with the first.
    epochs, layers, heads, width, batch, seed
        Of the training runs.
    """
    base = dataclasses.replace(
        PRESETS["synthetic"], epochs=epochs, layers=layers, heads=heads, width=width, batch=batch,
        seed=seed,
    )  # fmt: skip
    runs = []
    for weight in weights:
        run = out / f"weight-{weight:g}"
        config = dataclasses.replace(base, flow_weight=weight)
        train(config, run, report)
        runs.append(run)
    found, split = compare_runs(runs)
    print(subject_table(found).to_markdown(), "\n")

    rows = []
    for title, (first, last) in PLACES.items():
        there = (split.subject_index >= first) & (split.subject_index <= last)
        if not there.any():
            continue
        for name, (shares, right) in found.items():
            cells = (there.sum(), name, right[there].mean(), np.nanmean(shares["flow"][there, -1]))
            rows.append((title, *cells))
    three = "{:.3f}".format
    head = ["subject is token", Column("sentences"), Column("run", text=True)]
    head += [Column("accuracy", three), Column("share of flow at the top", three)]
    print(Table.of(head, rows).to_markdown(), "\n")

    for run in runs:
        shares = ", ".join(map(three, saturated_share(models.load(run), split)))
        print(f"{run}: flows from [CLS] at their bound, by layer: {shares}")


if __name__ == "__main__":
    tyro.cli(main)
