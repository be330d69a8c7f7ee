"""A checkpoint with two heads, which tests may lay out in any way."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch_models

from jaxflow.models import Model, load

Tensors = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def masked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("masked")
    return torch_models.write(torch_models.random_model("BertForPreTraining", {}), folder)


@pytest.fixture(scope="module")
def model(masked: Path) -> Model:
    return load(masked)


@pytest.fixture(scope="module")
def tensors(masked: Path) -> Tensors:
    from safetensors.numpy import load_file

    return load_file(masked / "model.safetensors")


@pytest.fixture
def write(masked: Path, tmp_path: Path) -> Callable[..., Path]:
    """Write tensors, or bytes, beside a copy of the configuration with some fields changed."""

    def written(tensors: Tensors | bytes | None, **fields: Any) -> Path:
        from safetensors.numpy import save_file

        known = json.loads((masked / "config.json").read_text(encoding="utf-8"))
        (tmp_path / "config.json").write_text(json.dumps(known | fields), encoding="utf-8")
        file = tmp_path / "model.safetensors"
        if isinstance(tensors, dict):
            arrays = {name: np.ascontiguousarray(array) for name, array in tensors.items()}
            save_file(arrays, file)
        elif tensors is not None:
            file.write_bytes(tensors)
        return tmp_path

    return written
