"""Divide a decoder's rollout and flow by what a token's position explains, and compare.

    python examples/decoders.py --data DIR --epochs 2 --out runs/decoders

A causal encoder's class is computed from its last word. Of every sentence the row of that word is
taken, by raw attention, rollout and flow, as it is and divided by the receptive field: what uniform
causal attention gives each token. Trains the encoder (a finished run in the folder is not trained
again) and prints the shares of the first token, and correlations with the position, with blank-out
and with gradients. The results are in docs/results/decoders.
"""

import dataclasses
from pathlib import Path

import numpy as np
import tyro

import jaxflow
from jaxflow.edges import receptive_field
from jaxflow.eval import ProtocolConfig, Table, choose, compare, summarise, token_scores
from jaxflow.train import PRESETS, EncodedSplit, Progress, train

#: Over which tokens a measure is taken.
TOKENS = {
    "all": "all tokens",
    "words": "words alone, without [CLS]",
    "others": "all tokens but the last word",
}
MEASURES = {
    "first_token": "share of the mass on token 0, [CLS]",
    "position": "Spearman's correlation with the position",
    "blank_out": "Spearman's correlation with blank-out",
    "gradient_norm": "Spearman's correlation with the gradient's norm",
    "subject": "share of the sentences in which the subject noun scores highest",
}


def measure(
    scores: np.ndarray, targets: dict[str, np.ndarray], counted: np.ndarray, subjects: np.ndarray
) -> dict[str, np.ndarray]:
    """Measure rows of scores ``[S, L, n]`` over the tokens that count, bool ``[S, n]``.

    `targets` are ``[S, n]``; `subjects` ``[S]`` is negative where the subject is unknown. Returns
    measure (`MEASURES`) -> float64 ``[S, L]``, NaN where undefined.
    """
    kept = np.where(counted[:, None], scores, 0)
    total = kept.sum(-1)
    found = {"first_token": kept[..., 0] / np.where(total > 0, total, np.nan)}
    place = np.broadcast_to(np.arange(float(counted.shape[1])), counted.shape)
    for name, target in {**targets, "position": place}.items():
        found[name] = np.asarray(jaxflow.spearman(scores, target[:, None], counted[:, None]))
    best = np.where(counted[:, None], scores, -np.inf)
    best = (best == best.max(-1, keepdims=True)) & counted[:, None]  # a tie of k gives each 1/k
    at = np.maximum(subjects, 0)[:, None]
    known = (subjects[:, None] >= 0) & np.take_along_axis(counted, at, -1)
    hit = np.take_along_axis(best, at[..., None], -1)[..., 0] / np.maximum(best.sum(-1), 1)
    found["subject"] = np.where(known, hit, np.nan)
    return found


def study(model, split: EncodedSplit, lengths: tuple[int, ...], samples: int, seed: int) -> None:
    """Print every measure of one split's sentences, before and after normalisation."""
    protocol = ProtocolConfig(samples=min(samples, len(split)), seed=seed, special_tokens=False)
    split = choose(split, protocol)
    scored = token_scores(model, split, lengths, protocol)
    targets = {n: np.nan_to_num(scored.targets[n]) for n in ("blank_out", "gradient_norm")}
    rows = {}
    for name in ("rollout", "flow"):
        before = np.nan_to_num(scored.methods[name])  # [S, L, n]
        _, layers, n = before.shape
        # The first k rows are those of a sentence of k tokens: one field serves all lengths.
        field = receptive_field(n, layers, name)  # [L, n, n]
        field = np.moveaxis(field[:, split.lengths - 1], 1, 0).astype(np.float64)
        rows |= {name: before, f"{name}, uniform attention": field}
        after = np.divide(before, field, out=np.zeros_like(field), where=field > 0)
        rows[f"{name}, normalised"] = after
    rows["raw"] = np.nan_to_num(scored.methods["raw"])
    place = np.arange(scored.counted.shape[1])
    masks = {
        "all": place < split.lengths[:, None],
        "words": scored.counted,
        "others": place < split.lengths[:, None] - 1,
    }
    head = ["", *(f"L{layer + 1}" for layer in range(layers))]
    for tokens, counted in masks.items():
        found = {n: measure(row, targets, counted, split.subject_index) for n, row in rows.items()}
        for name, title in MEASURES.items():
            if (name, tokens) == ("first_token", "words") or np.isnan(found["raw"][name]).all():
                continue
            cells = [
                (row, *(f"{cell.mean:.2f}" for cell in summarise(measured[name], seed)))
                for row, measured in found.items()
            ]
            for method in ("rollout", "flow"):
                change = found[f"{method}, normalised"][name] - found[method][name]
                tests = compare(change, seed=seed)
                ends = [f"{t.difference:+.2f} [{t.ci95[0]:+.2f}, {t.ci95[1]:+.2f}]" for t in tests]
                cells.append((f"{method}, change", *ends))
            print(f"\n{title} ({TOKENS[tokens]})\n\n{Table.of(head, cells).to_markdown()}")


def report(progress: Progress) -> None:
    """Print the lines of a training run, such as the accuracy after an epoch."""
    if progress.message:
        print(progress.message)


def main(
    data: Path | None = None,
    out: Path = Path("runs/decoders"),
    epochs: int | None = None,
    layers: int = 6,
    heads: int = 8,
    width: int = 128,
    samples: int = 2000,
    seed: int = 0,
) -> None:
    """Train a causal encoder and divide its rollout and flow by what positions explain.

    Parameters
    ----------
    data
        A folder of numpred.* files; without it the built-in grammar.
    out
        Folder of the training run.
    epochs, layers, heads, width, seed
        Of the training run.
    samples
        Sentences of a split to score, drawn at random.
    """
    preset = PRESETS["synthetic" if data is None else "simple"]
    config = dataclasses.replace(
        preset, data=data, epochs=epochs or preset.epochs, layers=layers, heads=heads, width=width,
        seed=seed, causal=True,
    )  # fmt: skip
    result = train(config, out, report)
    for name in ("test", "subjects"):
        if name in result.held_out:
            print(f"\n## {name}: accuracy {result.accuracy[name]['accuracy']:.3f}")
            study(result.model, result.held_out[name], config.lengths, samples, seed)


if __name__ == "__main__":
    tyro.cli(main)
