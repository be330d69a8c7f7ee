"""The configuration of a run: it survives its file, and impossible values are named."""

import json

import pytest
from small_corpus import small_config

from jaxflow.errors import InputError
from jaxflow.train.config import TrainConfig


def test_a_configuration_survives_its_file(tmp_path):
    config = small_config(tmp_path, learning_rate=0.1 + 0.2)
    assert TrainConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    assert TrainConfig.from_dict({}) == TrainConfig()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("epochs", 0), ("batch", -1), ("positions", 0), ("dropout", 1.0), ("word_dropout", -0.1),
        ("attractor_share", 1.0), ("warmup", 1.5), ("learning_rate", 0.0), ("clip", 0.0),
        ("seed", -1), ("checkpoint_every", 0), ("learning_rate", float("nan")),
        ("weight_decay", -0.1), ("buckets", (0, 8)),
    ],
)  # fmt: skip
def test_impossible_values_are_named(name, value):
    with pytest.raises(InputError, match=name):
        TrainConfig(**{name: value})
