"""Test `jaxflow.train.fit` on a Vision Transformer."""

import dataclasses

import jax
import numpy as np
from session import refused
from small_runs import assert_ends_like, journal_of

from jaxflow import models
from jaxflow.models import Model, ViTConfig, init
from jaxflow.train import ArrayBatches, FitConfig, cross_entropy, fit


@dataclasses.dataclass(frozen=True)
class ImageConfig(FitConfig):
    """A run's configuration with a field of its own."""

    patch: int = 2


CONFIG = ImageConfig(seed=1, epochs=4, batch=20, learning_rate=1e-2, checkpoint_every=7)
VIT = ViTConfig(
    image=(4, 4), patch=2, channels=1, layers=1, heads=2, width=16, hidden_width=16,
    labels=("dark", "bright"), mean=(0.5,), std=(0.5,),
)  # fmt: skip


def images(count, seed):
    """Noise that is brighter than its middle or darker."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, count).astype(np.int32)
    pixels = rng.random((count, 4, 4, 1)) + labels[:, None, None, None] - 1
    return {"pixels": pixels.astype(np.float32), "labels": labels}


def run(folder, config=CONFIG, **options):
    model = Model(VIT, init(VIT, config.seed), None)
    apply = model.module.apply
    test = images(64, 2)

    def loss(params, rng, pixels, labels):
        pixels = pixels + 0.1 * jax.random.normal(rng, pixels.shape)
        return cross_entropy(apply(params, pixels, method="classify"), labels)

    def score(predict):
        right = np.asarray(predict(test["pixels"])).argmax(-1) == test["labels"]
        return {"test": {"accuracy": float(right.mean()), "n": 64}}

    batches = ArrayBatches(images(150, 1), config.batch, config.epochs, config.seed)
    return fit(model, batches, config, folder, loss=loss, score=score, watch=score, **options)


def test_it_learns_and_goes_on_bit_for_bit(tmp_path):
    result = run(tmp_path / "whole")
    assert result.accuracy["test"]["accuracy"] > 0.9
    scores = [line["held_out"]["test"] for line in journal_of(tmp_path / "whole") if len(line) == 2]
    assert len(scores) == 4
    assert scores[-1] == result.accuracy["test"]["accuracy"]
    loaded = models.load(tmp_path / "whole")
    test = images(64, 2)
    right = np.asarray(loaded.probabilities(test["pixels"])).argmax(-1) == test["labels"]
    assert right.mean() == result.accuracy["test"]["accuracy"]
    cut = run(tmp_path / "cut", stop_after=14)
    assert (cut.accuracy, cut.held_out) == ({}, {})
    run(tmp_path / "cut")
    assert_ends_like(tmp_path / "cut", tmp_path / "whole")
    with refused(r"another configuration .patch is 2, not 4"):
        run(tmp_path / "whole", dataclasses.replace(CONFIG, patch=4))
