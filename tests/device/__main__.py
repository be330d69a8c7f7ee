"""Compare an accelerator with the CPU: attention, rollout, flow, a training step, an evaluation.

Prints a table of times and errors, and ends with 1 if an error is above its limit. Needs eight
minutes at most; ``--small`` runs on any CPU in a minute, to see that the script works.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxflow
from jaxflow.eval.paper.protocol import ProtocolConfig, device_scores, token_scores
from jaxflow.eval.report import Table
from jaxflow.eval.score.engine import flow_at
from jaxflow.models import BertConfig, DecoderConfig, Gpt2Config, Model, init, load
from jaxflow.models.rotary import Rotary
from jaxflow.train.batches import EncodedSplit, encode_split
from jaxflow.train.config import TrainConfig
from jaxflow.train.corpus import load_corpus
from jaxflow.train.step import agreement_loss, init_state, make_optimizer, make_step

EXACT = 1e-5  # of attention and rollout; a product in TF32 is off by 1e-3

LONGEST = 24  # tokens of the sentences


@dataclasses.dataclass(frozen=True)
class Sizes:
    """How much work there is."""

    batch: int = 32
    tokens: int = 128
    layers: int = 12
    width: int = 768
    long: int = 8192  # tokens of a long text
    sentences: int = 2000
    repeats: int = 5


SMALL = Sizes(batch=4, tokens=16, layers=2, width=32, long=256, sentences=64, repeats=1)


@dataclasses.dataclass(frozen=True)
class Row:
    """Seconds on the device and on the CPU, and the largest difference; None was not measured."""

    work: str
    compiling: float | None
    device: float
    cpu: float | None = None
    error: float | None = None
    limit: float | None = None

    @property
    def good(self) -> bool:
        """Whether the error, a number, is within its limit."""
        return self.limit is None or (self.error is not None and self.error <= self.limit)


def timed(call: Callable[[], Any], repeats: int) -> tuple[float, float, Any]:
    """Return the first call's seconds, the median of the others, and the result."""
    seconds = []
    for _ in range(repeats + 1):
        begun = time.perf_counter()
        result = jax.block_until_ready(call())
        seconds.append(time.perf_counter() - begun)
    return seconds[0], statistics.median(seconds[1:]), result


def difference(found: Any, expected: Any) -> float:
    """Return the largest absolute difference of two trees of arrays; NaN is infinite."""
    worst = 0.0
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        off = np.abs(np.asarray(one, np.float64) - np.asarray(other, np.float64)).max()
        worst = max(worst, float("inf") if np.isnan(off) else float(off))
    return worst


def on_both(
    sizes: Sizes, work: str, function: Any, *given: Any, limit: float, expected: Any = None
) -> Row:
    """Run a function on the device and on the CPU, whose result is the `expected` one if None."""
    runs = []
    for device in dict.fromkeys((jax.devices()[0], jax.devices("cpu")[0])):
        with jax.default_device(device):
            there, call = jax.device_put(given, device), jax.jit(function)
            repeats = min(2, sizes.repeats) if runs else sizes.repeats
            runs.append(timed(lambda: call(*there), repeats))  # noqa: B023
    (compiling, device, found), (_, cpu, other) = runs[0], runs[-1]
    error = difference(found, other if expected is None else expected)
    return Row(work, compiling, device, cpu, error, limit)


def models(sizes: Sizes) -> Iterator[Row]:
    """Attention and logits of models of random weights, and a decoder's rows of a long text."""
    shared: dict[str, Any] = {
        "vocabulary": 1000, "layers": sizes.layers, "heads": 4, "width": sizes.width,
        "hidden_width": 2 * sizes.width,
    }  # fmt: skip
    size = sizes.width // 4
    decoder = DecoderConfig(
        **shared, key_heads=2, head_width=size, rotary=(Rotary(size),), positions=sizes.long
    )
    configs = {
        "BERT": BertConfig(**shared, positions=sizes.tokens, head="none"),
        "GPT-2": Gpt2Config(**shared, positions=sizes.tokens),
        "decoder": decoder,
    }
    rng = np.random.default_rng(0)
    for name, config in configs.items():
        model = Model(config, init(config), None)
        tokens = rng.integers(5, 1000, (sizes.batch, sizes.tokens)).astype(np.int32)
        run = lambda params, tokens, model=model: model.module.apply(params, tokens).attention  # noqa: E731
        yield on_both(sizes, f"attention of {name}", run, model.params, tokens, limit=EXACT)
    text = rng.integers(5, 1000, (1, sizes.long)).astype(np.int32)
    begun = time.perf_counter()
    rows = np.asarray(model.rollout_rows(text, range(-8, 0)))
    off = difference(rows.sum(-1), np.ones((1, 1, 8)))
    seconds = time.perf_counter() - begun
    work = f"rollout, 8 rows of {sizes.long:,} tokens"
    yield Row(work, None, seconds, error=off, limit=10 * EXACT)


def attributions(sizes: Sizes) -> Iterator[Row]:
    """Rollout and flow inside ``jit``, against NumPy and the host."""
    shape = (sizes.batch, sizes.layers, 8, sizes.tokens)
    exact = np.random.default_rng(1).dirichlet(np.full(sizes.tokens, 0.3), shape)
    attention = exact.astype(np.float32)
    expected = [(exact[:, 0].mean(1) + np.eye(sizes.tokens)) / 2]
    for layer in np.moveaxis(exact[:, 1:].mean(2), 1, 0):
        expected.append((layer @ expected[-1] + expected[-1]) / 2)
    whole = np.stack(expected, 1)
    yield on_both(sizes, "rollout", jaxflow.rollout, attention, limit=EXACT, expected=whole)
    one = lambda given: jaxflow.rollout(given, sources=0)  # noqa: E731
    yield on_both(sizes, "rollout, one row", one, attention, limit=EXACT, expected=whole[:, :, :1])
    few = attention[: max(1, sizes.batch // 8)]
    flows = jaxflow.flow(few, sources=0)
    run = lambda given: jaxflow.flow(given, sources=0)  # noqa: E731
    yield on_both(sizes, "flow in jit", run, few, limit=1e-6, expected=flows)


def training(sizes: Sizes, model: Model, split: EncodedSplit) -> Iterator[Row]:
    """The loss of one step at the fast default precision."""
    config: Any = model.config
    optimizer = make_optimizer(TrainConfig(), 100)
    step: Any = make_step(agreement_loss(config, TrainConfig(dropout=0.0)), optimizer, 0)

    def run(params: Any, tokens: Any, labels: Any) -> Any:
        metrics = step(init_state(params, optimizer), tokens=tokens, labels=labels)[1]
        return {name: metrics[name] for name in ("loss", "gradient_norm")}

    tokens = jnp.asarray(split.tokens[: 4 * sizes.batch, :16])
    labels = jnp.asarray(split.labels[: 4 * sizes.batch])
    given = model.params, tokens, labels
    yield on_both(sizes, "a training step", run, *given, limit=0.05)


def evaluation(sizes: Sizes, model: Model, split: EncodedSplit) -> Iterator[Row]:
    """Scores of sentences on the device, with the flow of the batch before on the host."""
    protocol = ProtocolConfig(samples=len(split), batch=sizes.batch).resolved(model)
    programs = device_scores(model, protocol)
    rows = slice(sizes.batch)
    mask = np.arange(LONGEST) < split.lengths[rows, None]
    tokens = np.where(mask, split.tokens[rows, :LONGEST], 0)
    given = model.params, tokens, split.labels[rows], mask
    yield on_both(sizes, "scores of a batch", programs, *given, limit=10 * EXACT)

    attention = np.asarray(programs(*given)["attention"])
    places, options = np.zeros(sizes.batch, int), {"residual": protocol.residual}
    _, host, _ = timed(lambda: flow_at(attention, places, mask, **options), sizes.repeats)
    _, device, _ = timed(lambda: programs(*given), sizes.repeats)
    count = len(split) / sizes.batch
    run = lambda: token_scores(model, split, (LONGEST,), protocol, programs=programs)  # noqa: E731
    compiling, seconds, _ = timed(run, 1)
    yield Row(f"evaluation of {len(split):,} sentences", compiling, seconds)
    yield Row("  one after the other, from a batch", None, count * (device + host))


def measure(sizes: Sizes) -> list[Row]:
    """Return all rows."""
    model = load("agreement")
    if sizes is SMALL:
        config = dataclasses.replace(model.config, layers=2, width=32, heads=2)
        model = Model(config, init(config), model.tokenizer)
    test = load_corpus("synthetic", None, seed=0)["test"]
    split = encode_split(test, model.whole_words, LONGEST)
    kept = np.flatnonzero(split.lengths <= LONGEST)[: sizes.sentences]
    fields = ("tokens", "lengths", "labels", "n_attractors", "subject_index", "rows")
    split = dataclasses.replace(split, **{name: getattr(split, name)[kept] for name in fields})
    return [
        *models(sizes),
        *attributions(sizes),
        *training(sizes, model, split),
        *evaluation(sizes, model, split),
    ]


def main(arguments: list[str] | None = None) -> int:
    """Print the table, write it as JSON if a file is named, and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.device", description=__doc__)
    parser.add_argument("--small", action="store_true", help="little work, for a CPU")
    parser.add_argument("--out", type=Path, help="JSON of the numbers")
    options = parser.parse_args(arguments)
    begun, device = time.perf_counter(), jax.devices()[0]
    rows = measure(SMALL if options.small else Sizes())
    seconds = lambda value: "" if value is None else f"{value:.4f}"  # noqa: E731
    cells = [
        (one.work, seconds(one.compiling), seconds(one.device), seconds(one.cpu),
         *("" if each is None else f"{each:.1e}" for each in (one.error, one.limit)),
         "" if one.limit is None else "yes" if one.good else "NO")
        for one in rows
    ]  # fmt: skip
    head = ("", "first call, s", "device, s", "CPU, s", "error", "limit", "within")
    total = time.perf_counter() - begun
    print(f"{device.platform} ({device.device_kind}), JAX {jax.__version__}, {total:.0f} s\n")
    print(Table.of(head, cells).to_markdown())
    if options.out is not None:
        found = {"device": device.device_kind, "rows": [dataclasses.asdict(one) for one in rows]}
        options.out.write_text(json.dumps(found, indent=1), encoding="utf-8")
    return int(not all(one.good for one in rows))


if __name__ == "__main__":
    sys.exit(main())
