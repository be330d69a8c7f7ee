"""Checkpoints in several files, and what may be wrong with their list."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch_models
from checkpoints import assert_same_parameters, refused

from jaxflow.models import Model, load


@pytest.fixture
def sharded(masked: Path, tmp_path: Path) -> Path:
    theirs = torch_models.read(masked, "BertForPreTraining")
    folder = torch_models.write(theirs, tmp_path / "sharded", max_shard_size="8KB")
    assert len(list(folder.glob("model-*.safetensors"))) > 3
    assert not (folder / "model.safetensors").exists()
    return folder


def index_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "model.safetensors.index.json").read_text())
    return found


def test_shards_are_one_model(sharded: Path, model: Model) -> None:
    assert_same_parameters(load(sharded), model)


def test_a_lost_shard_is_named(sharded: Path) -> None:
    lost = sorted(sharded.glob("model-*.safetensors"))[1]
    lost.unlink()
    assert refused(sharded) == f"{sharded} must hold every shard, {lost.name} missing"


def test_a_shard_that_is_cut_off_is_named(sharded: Path) -> None:
    shard = sorted(sharded.glob("model-*.safetensors"))[1]
    shard.write_bytes(shard.read_bytes()[:-1])
    assert refused(sharded).startswith(f"{shard} is cut off at ")


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{",
        "{}",
        '{"weight_map": []}',
        '{"weight_map": {}}',
        '{"weight_map": {"a": 1}}',
        '{"weight_map": {"a": ["b"]}}',
        '{"weight_map": {"a": null, "b": "c"}}',
        '{"weight_map": {"a": "../elsewhere.safetensors"}}',
        '{"weight_map": {"a": "/etc/hostname"}}',
        '{"weight_map": {"a": ".."}}',
        '{"weight_map": {"a": ""}}',
        '{"weight_map": {"a": "\\u0000"}}',
        "[" * 100_000,
    ],
    ids=lambda content: content[:40] or "empty",
)
def test_damaged_lists_of_shards(content: str, sharded: Path) -> None:
    for shard in sharded.glob("model-*.safetensors"):
        shard.rename(sharded.parent / "elsewhere.safetensors")
    (sharded / "model.safetensors.index.json").write_text(content)
    message = refused(sharded)
    assert str(sharded) in message
    assert "shard" in message


def test_a_tensor_in_two_shards_is_refused(sharded: Path) -> None:
    shards = sorted(sharded.glob("model-*.safetensors"))
    shards[1].write_bytes(shards[0].read_bytes())
    assert "more than once" in refused(sharded)
