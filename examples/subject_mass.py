"""Measure how much of what reaches [CLS] comes from the subject noun, a run beside another.

    python examples/subject_mass.py runs/plain runs/flow

For every layer, the subject's share of the sum of the [CLS] row of attention flow, rollout and raw
attention, on held-out sentences and without dropout; later runs are compared with the first. Runs
are folders that `jaxflow train` wrote. The study is docs/flow-regulariser.md.
"""

import dataclasses
from pathlib import Path

import numpy as np
import tyro

import jaxflow
from jaxflow import InputError, models
from jaxflow.eval import Column, Table, compare
from jaxflow.train import EncodedSplit, evaluation_batches, load_splits, read_config

METHODS = ("flow", "rollout", "raw")


def subject_mass(
    model: models.Model, split: EncodedSplit, lengths: tuple[int, ...], threads: int | None = None
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Return the subject's share of each sentence's [CLS] row, and which classes are right.

    Parameters
    ----------
    model, split, lengths
        The model, S sentences, and the padded lengths to compile it for.
    threads
        For flow; None takes all cores.

    Returns
    -------
    shares : dict
        Method (`METHODS`) -> float64 ``[S, L]``; NaN where the subject is not known.
    right : ndarray
        bool ``[S]``.
    """
    if not (split.subject_index >= 0).any():
        raise InputError("the split must name the subject, as the built-in grammar's splits do")
    shares = {name: np.full((len(split), model.config.layers), np.nan) for name in METHODS}
    right = np.zeros(len(split), bool)
    for rows, batch in evaluation_batches(split, lengths, 128):
        output = model(batch["tokens"], batch["mask"])
        right[rows] = np.asarray(output.logits).argmax(-1)[: len(rows)] == split.labels[rows]
        attention = np.asarray(output.attention)[: len(rows)]  # [B, L, H, n, n]
        mask = batch["mask"][: len(rows)]
        found = {
            "flow": jaxflow.flow(attention, mask=mask, sources=0, threads=threads),
            "rollout": jaxflow.rollout(attention, mask=mask, sources=0),
            "raw": jaxflow.raw_attention(attention, mask=mask),
        }
        subject = split.subject_index[rows]
        for name, token_attention in found.items():
            row = np.asarray(token_attention, np.float64)[:, :, 0]  # [B, L, n], of [CLS]
            share = np.take_along_axis(row, np.maximum(subject, 0)[:, None, None], -1)[..., 0]
            shares[name][rows] = np.where(subject[:, None] < 0, np.nan, share / row.sum(-1))
    return shares, right


def subject_table(found: dict[str, tuple[dict[str, np.ndarray], np.ndarray]]) -> Table:
    """Tabulate the means of each run, then each later run's differences from the first."""
    three, signed = "{:.3f}".format, "{:+.3f}".format
    layers = next(iter(found.values()))[0]["flow"].shape[1]
    rows = []
    for name, (shares, right) in found.items():
        for method in METHODS:
            cells = map(three, np.nanmean(shares[method], 0))
            rows.append((name, three(right.mean()), method, *cells))
    (base, (first, first_right)), *others = found.items()
    for name, (shares, right) in others:
        for method in METHODS:
            tests = compare(shares[method] - first[method])
            cells = [f"{signed(t.difference)} [{', '.join(map(signed, t.ci95))}]" for t in tests]
            change = signed(right.mean() - first_right.mean())
            rows.append((f"{name} - {base}", change, method, *cells))
    head = ["run", "accuracy", "share of", *(f"L{layer + 1}" for layer in range(layers))]
    columns = [Column(title, text=place in (0, 2)) for place, title in enumerate(head)]
    return Table.of(columns, rows, labels=3)


def compare_runs(
    runs: list[Path], split: str = "test", data: Path | None = None, threads: int | None = None
) -> tuple[dict[str, tuple[dict[str, np.ndarray], np.ndarray]], EncodedSplit]:
    """Measure finished runs on the same sentences; return `subject_mass` by run, and the split."""
    found = {}
    configs = []
    for run in runs:
        config = read_config(run)
        if config is None:
            raise InputError(f"no run at {run}: expected a folder that jaxflow train wrote")
        configs.append(config if data is None else dataclasses.replace(config, data=data))
        for name in ("corpus", "data", "seed", "positions", "layers"):
            if getattr(configs[-1], name) != getattr(configs[0], name):
                raise InputError(f"runs must have the same {name}, and {run} has another")
        model = models.load(run)
        splits = load_splits(configs[-1], model.tokenizer)
        if split not in splits:
            raise InputError(f"split must be one of {', '.join(splits)}, got {split!r}")
        found[str(run)] = subject_mass(model, splits[split], configs[-1].lengths, threads)
    return found, splits[split]


def main(
    runs: tyro.conf.Positional[list[Path]],
    split: str = "test",
    data: Path | None = None,
    threads: int | None = None,
) -> None:
    """Measure how much of what reaches [CLS] comes from the subject noun, a run beside another.

    Parameters
    ----------
    runs
        Folders of finished runs on one corpus; later ones are compared with the first.
    split
        Which held-out sentences.
    data
        Folder of the corpus, if it has moved since training.
    threads
        Threads for attention flow; by default all cores.
    """
    found, sentences = compare_runs(runs, split, data, threads)
    known = sentences.subject_index >= 0
    print(subject_table(found).to_markdown())
    print(
        f"\nMean over {known.sum()} sentences; an even row would give the subject "
        f"{(1 / sentences.lengths[known]).mean():.3f}. Differences with 95 % bootstrap intervals."
    )


if __name__ == "__main__":
    tyro.cli(main)
