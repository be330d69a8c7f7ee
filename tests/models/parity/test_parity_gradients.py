"""Gradients at the embeddings, beside those of torch's own differentiation."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch_models
from model_examples import EXAMPLES, Example, make_example
from model_pairs import assert_close


@pytest.fixture(scope="module", params=EXAMPLES)
def example(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Example:
    return make_example(request.param, tmp_path_factory.mktemp("gradients"))


def weights_of(example: Example) -> np.ndarray:
    """A random weight for each logit, none for what padding says."""
    logits = example.pair.told.logits
    drawn = np.random.default_rng(2).normal(size=logits.shape).astype(np.float32)
    if logits.ndim == 3:
        drawn = drawn * example.mask[..., None] / np.sqrt(logits.shape[-1])
    return drawn


def our_gradient(example: Example, weights: np.ndarray) -> np.ndarray:
    model = example.pair.ours
    module = model.module

    def score(embeddings: jax.Array) -> jax.Array:
        output: Any = module.apply(
            model.params, embeddings, jnp.asarray(example.mask), method="encode"
        )
        return (output.logits * weights).sum()

    embeddings = module.apply(model.params, example.pair.inputs, method="embed")
    return np.array(jax.jit(jax.grad(score))(embeddings))


def their_gradient(example: Example, weights: np.ndarray) -> np.ndarray:
    """Differentiate the embeddings that leave the table, or the patches and the class token."""
    import torch

    theirs, inputs = example.pair.theirs, example.pair.inputs
    kept: list[Any] = []

    def keep(_: Any, __: Any, output: Any) -> None:
        output.retain_grad()
        kept.append(output)

    encoder = torch_models.base(theirs)
    if inputs.ndim == 4:
        part = encoder.embeddings.patch_embeddings
        given = {"pixel_values": torch.tensor(inputs).permute(0, 3, 1, 2)}
    else:
        part = encoder.get_input_embeddings()
        given = {
            "input_ids": torch.tensor(inputs, dtype=torch.long),
            "attention_mask": torch.tensor(example.mask, dtype=torch.long),
        }
    handle = part.register_forward_hook(keep)
    with torch_models.quietly():
        (theirs(**given).logits * torch.tensor(weights)).sum().backward()
    handle.remove()
    gradient = kept[0].grad.numpy().copy()
    if inputs.ndim == 4:  # one class token for all images: its gradient is their sum
        first = encoder.embeddings.cls_token.grad.numpy().copy()
        gradient = np.concatenate([np.repeat(first, len(gradient), 0), gradient], 1)
    theirs.zero_grad()
    return gradient


def test_gradients_at_the_embeddings_are_theirs(example: Example) -> None:
    weights = weights_of(example)
    mine, other = our_gradient(example, weights), their_gradient(example, weights)
    if example.pair.inputs.ndim == 4:
        mine[:, 0] = mine[:, 0].sum(0)
    assert np.abs(other).max() > 0.05
    assert_close(mine, other)
