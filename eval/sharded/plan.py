"""What all processes of an evaluation in shards must agree on, as a record beside the shards."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxflow.errors import InputError
from jaxflow.eval.paper.evaluate import versions
from jaxflow.eval.paper.protocol import ProtocolConfig
from jaxflow.models import Model
from jaxflow.train.config import TrainConfig
from jaxflow.train.corpus import StoredSplit
from jaxflow.train.run import write_json

__all__ = ["checksum", "claim_plan", "plan_of"]


def plan_of(
    model: Model,
    config: TrainConfig,
    protocol: ProtocolConfig,
    splits: Mapping[str, StoredSplit],
    chosen: np.ndarray,
    shards: int,
) -> dict[str, Any]:
    """Say in JSON what shards depend on: places and numbers of threads are none of it."""
    params, corpus = hashlib.sha256(), hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(model.params):
        params.update(jax.tree_util.keystr(path).encode())
        params.update(np.ascontiguousarray(leaf).tobytes())
    for name, split in splits.items():
        corpus.update(name.encode())
        for numbers in (split.rows, split.words, split.n_attractors):
            corpus.update(np.ascontiguousarray(numbers).tobytes())
    fields = dataclasses.asdict(protocol)
    del fields["threads"]
    return {
        "shards": shards,
        "sentences": len(chosen),
        "protocol": fields,
        "model": params.hexdigest(),
        "corpus": corpus.hexdigest(),
        "lengths": list(config.lengths),
        "versions": versions(),
    }


def claim_plan(folder: Path, record: dict[str, Any]) -> None:
    """Write the plan into the folder, or check that it is the one that is there."""
    path = folder / "plan.json"
    if not path.exists():
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(
                f"the folder {folder} cannot be written: {error.strerror or error}"
            ) from error
        # Processes that begin together write the same, each beside its place and renamed.
        write_json(path, record)
    try:
        there = json.loads(path.read_text(encoding="utf-8"))
        changed = [name for name, value in record.items() if there.get(name) != value]
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        raise InputError(f"the plan {path} cannot be read: {error}") from error
    if changed:
        raise InputError(
            f"{folder} holds shards of another evaluation ({', '.join(changed)} differ): choose "
            "another folder with --out, or delete it"
        )


def checksum(plan: dict[str, Any]) -> str:
    """Return a plan's checksum, which every shard of it carries."""
    return hashlib.sha256(json.dumps(plan, sort_keys=True).encode()).hexdigest()
