"""Train on several devices or as one of several processes; run by `tests/train/test_mesh.py`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import jax
import numpy as np
from small_corpus import small_config

from jaxflow.errors import InputError
from jaxflow.models import EncoderConfig, init
from jaxflow.train import loop
from jaxflow.train.config import TrainConfig
from jaxflow.train.distributed import join
from jaxflow.train.mesh import Layout, layout_of
from jaxflow.train.step import agreement_loss, init_state, make_optimizer, make_step


def wide_config(data: Path, **options: object) -> TrainConfig:
    """The small run with matrices large enough to be split."""
    return small_config(data, width=32, **options)


def shards(layout: Layout, config: TrainConfig) -> dict[str, list[int]]:
    """Return the sizes of the first device's parts of some arrays."""
    encoder = loop.encoder_config(config, loop.prepare(config).tokenizer)
    state = layout.put_state(init_state(init(encoder), make_optimizer(config, 1)))
    block = state.params["params"]["blocks_0"]
    parts = {
        "kernel": jax.tree.leaves(block, is_leaf=lambda leaf: getattr(leaf, "ndim", 0) == 2),
        "moments": jax.tree.leaves(state.opt_state),
    }
    return {
        name: [
            len([leaf for leaf in leaves if leaf.sharding.shard_shape(leaf.shape) != leaf.shape]),
            len({shard.device for leaf in leaves for shard in leaf.addressable_shards}),
        ]
        for name, leaves in parts.items()
    }


def losses(layout: Layout, flow_weight: float, steps: int = 20) -> list[float]:
    """Loss, and with a weight the subject's share of flow, of every step of a run."""
    config = TrainConfig(flow_weight=flow_weight)
    encoder = EncoderConfig(vocabulary=20, positions=6, layers=2, heads=2, width=32, dropout=0.1)
    optimizer = make_optimizer(config, steps)
    state = layout.put_state(init_state(init(encoder), optimizer))
    step = layout.step(make_step(agreement_loss(encoder, config), optimizer, config.seed))
    rng = np.random.default_rng(0)
    found = []
    for _ in range(steps):
        tokens = rng.integers(3, 20, (16, 6)).astype(np.int32)
        tokens[:, 0] = 1
        batch = {"tokens": tokens, "labels": tokens[:, 1] % 2}
        if flow_weight:
            batch["subjects"] = tokens[:, 2] % 5 + 1
        own = layout.rows(len(tokens))
        state, metrics = step(state, **{name: rows[own] for name, rows in batch.items()})
        found += [float(metrics[name]) for name in ("loss", "subject_share") if name in metrics]
    # Of what comes back to one place, a number that all parameters have a part in.
    whole = jax.tree.leaves(layout.whole(state.params))
    return [*found, float(sum(abs(np.asarray(leaf)).sum() for leaf in whole))]


def parts(data: Path) -> dict[str, object]:
    """What each of eight devices has, and the losses of a few steps on all of them."""
    whole, split, config = layout_of(), layout_of(shard_params=True), wide_config(data)
    rows = whole.put_batch({"tokens": jax.numpy.zeros((16, 3))})["tokens"]
    return {
        "devices": whole.devices,
        "whole": shards(whole, config),
        "split": shards(split, config),
        "rows": rows.sharding.shard_shape(rows.shape),
        "losses": losses(split, 0.0, 4),
    }


def train(data: Path, folder: Path) -> dict[str, object]:
    """Train into folders beside `folder / "one"`, which one device has cut off."""
    loop.LOG_EVERY = 1
    config = wide_config(data)
    whole, split = layout_of(), layout_of(shard_params=True)
    loop.train(config, folder / "eight", layout=whole)
    loop.train(config, folder / "split", layout=split)
    loop.train(config, folder / "one", layout=whole)  # goes on
    loop.train(config, folder / "cut", stop_after=14, layout=split)
    try:
        loop.train(config, folder / "three", layout=layout_of(3))
    except InputError as error:
        refused = str(error)
    three = (folder / "three").exists()
    return {"flow": losses(whole, 0.5), "refused": refused, "three": three}


def together(coordinator: str, processes: int, process: int) -> dict[str, object]:
    """Join the other processes and train on all their devices."""
    joined = join(coordinator=coordinator, processes=processes, process=process)
    batch = np.arange(16)
    whole, own = layout_of(), layout_of(own=True)
    return {
        "process": [joined.index, joined.count],
        "devices": [len(jax.local_devices()), len(jax.devices())],
        "own": own.devices,
        "rows": [[rows.start, rows.stop] for rows in (whole.rows(16), own.rows(16))],
        "put": np.asarray(whole.own(whole.put_batch(batch[whole.rows(16)]))).tolist(),
        "filled": np.asarray(whole.own(whole.put_filled(batch[:5]))).tolist(),
        "whole": losses(whole, 0.0),
        "split": losses(layout_of(shard_params=True), 0.0),
    }


if __name__ == "__main__":
    given = sys.argv[1:]
    if len(given) == 3:
        found = together(given[0], int(given[1]), int(given[2]))
    else:
        found = train(*map(Path, given)) if len(given) == 2 else parts(Path(given[0]))
    print(json.dumps(found), flush=True)
