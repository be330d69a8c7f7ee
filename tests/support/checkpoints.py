"""Compare two models, and check that a folder is refused."""

from __future__ import annotations

from pathlib import Path

import jax
import numpy as np
import pytest

from jaxflow.errors import InputError
from jaxflow.models import Model, load


def assert_same_parameters(left: Model, right: Model) -> None:
    assert left.config == right.config
    assert jax.tree.structure(left.params) == jax.tree.structure(right.params)
    jax.tree.map(np.testing.assert_array_equal, left.params, right.params)


def refused(folder: Path) -> str:
    with pytest.raises(InputError) as caught:
        load(folder)
    message = str(caught.value)
    assert "\n" not in message
    return message
