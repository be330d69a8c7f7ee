"""ViT beside the ViT of transformers: square images and others, one channel and three."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch_models
from model_pairs import (
    Pair,
    assert_attention_counts,
    assert_close,
    assert_same_numbers,
    make_pair,
)

from jaxflow.errors import InputError
from jaxflow.models import ViTConfig, load

CONFIGS: dict[str, dict[str, Any]] = {
    "three heads, wider than high": {},
    "one head, one channel, silu": {
        "image_size": 9,
        "patch_size": 3,
        "num_channels": 1,
        "num_attention_heads": 1,
        "hidden_size": 10,
        "num_hidden_layers": 1,
        "hidden_act": "silu",
        "layer_norm_eps": 1e-3,
        "num_labels": 5,
    },
    "five heads, higher than wide, relu": {
        "image_size": [10, 6],
        "patch_size": 2,
        "num_channels": 2,
        "num_attention_heads": 5,
        "hidden_size": 20,
        "num_hidden_layers": 3,
        "hidden_act": "relu",
        "num_labels": 1,
    },
}
HEADS = {"ViTModel": "none", "ViTForImageClassification": "classification"}


def images(changes: dict[str, Any], count: int) -> np.ndarray:
    settings = {"num_channels": 3, **torch_models.SIZES["ViT"], **changes}
    side = settings["image_size"]
    height, width = (side, side) if isinstance(side, int) else side
    shape = (count, height, width, settings["num_channels"])
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


@pytest.fixture(
    scope="module",
    params=[(head, config) for head in HEADS for config in CONFIGS],
    ids=lambda param: f"{param[0]}: {param[1]}",
)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    name, config = request.param
    changes = CONFIGS[config]
    return make_pair(tmp_path_factory.mktemp("vit"), name, changes, images(changes, 2))


def test_all_numbers_are_theirs(pair: Pair) -> None:
    assert_attention_counts(pair)
    assert_same_numbers(pair)


def test_the_configuration_is_theirs(pair: Pair) -> None:
    config = pair.ours.config
    assert isinstance(config, ViTConfig)
    assert config.head == HEADS[type(pair.theirs).__name__]
    assert (*config.image, config.channels) == pair.inputs.shape[1:]
    assert config.positions == pair.output.attention.shape[-1]
    assert pair.ours.tokenizer is None


def test_pooled_is_what_classes_are_read_off(pair: Pair) -> None:
    normed: list[Any] = []
    norm = torch_models.base(pair.theirs).layernorm
    handle = norm.register_forward_hook(lambda _, __, given: normed.append(given))
    torch_models.tell(pair.theirs, pair.inputs)
    handle.remove()
    assert_close(pair.output.pooled, normed[0].numpy()[:, 0])


def test_one_image(tmp_path: Path) -> None:
    pair = make_pair(tmp_path, "ViTForImageClassification", {}, images({}, 1))
    assert_same_numbers(pair)
    both = pair.ours(np.repeat(pair.inputs, 2, 0))
    assert_close(both.logits, np.repeat(pair.told.logits, 2, 0))


def test_classes_may_be_read_off_the_patches_mean(tmp_path: Path) -> None:
    """No model of theirs does, but its parts can be put together so."""
    import torch

    pair = make_pair(tmp_path, "ViTForImageClassification", {"num_labels": 4}, images({}, 2))
    fields = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(fields | {"jaxflow_readout": "mean"}))
    output = load(tmp_path)(pair.inputs)
    with torch.no_grad():
        normed = torch_models.base(pair.theirs).layernorm(torch.tensor(pair.told.hidden[:, -1]))
        pooled = normed[:, 1:].mean(1)
        logits = pair.theirs.classifier(pooled)
    assert_close(output.pooled, pooled.numpy())
    assert_close(output.logits, logits.numpy())
    assert np.abs(logits.numpy() - pair.told.logits).max() > 0.05


@pytest.mark.parametrize("readout", ["cls", "mean"])
def test_a_hidden_patch_is_never_read(readout: str, tmp_path: Path) -> None:
    pair = make_pair(tmp_path, "ViTForImageClassification", {}, images({}, 2))
    fields = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(fields | {"jaxflow_readout": readout}))
    ours = load(tmp_path)
    mask = np.ones((2, ours.config.positions), bool)
    mask[0, 1 + 4] = False  # second row, second column of two rows of three patches
    other = pair.inputs.copy()
    other[0, 4:, 4:8] += 1
    first, second = ours(pair.inputs, mask), ours(other, mask)
    np.testing.assert_array_equal(first.logits, second.logits)
    np.testing.assert_array_equal(
        first.attention[:, :, :, mask[0]], second.attention[:, :, :, mask[0]]
    )
    assert not np.asarray(first.attention)[0, ..., ~mask[0]].any()
    assert np.abs(ours(other).logits - ours(pair.inputs).logits).max() > 1e-3


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((2, 12, 8, 3), r"\[images, 8, 12, 3\], got \(2, 12, 8, 3\)"),
        ((2, 3, 8, 12), r"\[images, 8, 12, 3\], got \(2, 3, 8, 12\)"),
        ((8, 12, 3), r"\[images, 8, 12, 3\], got \(8, 12, 3\)"),
    ],
)
def test_images_of_another_shape_are_refused(
    shape: tuple[int, ...], message: str, tmp_path: Path
) -> None:
    pair = make_pair(tmp_path, "ViTModel", {"num_hidden_layers": 1}, images({}, 1))
    with pytest.raises(InputError, match="^pixels must be of shape " + message):
        pair.ours(np.zeros(shape, np.float32))
    with pytest.raises(InputError, match=r"^pixels must be normalised floating-point .* uint8"):
        pair.ours(np.zeros((1, 8, 12, 3), np.uint8))
