"""What attention mixes and where it writes to, beside what the other library's blocks write."""

from __future__ import annotations

import jax
import numpy as np
import pytest
import torch_models
from model_examples import EXAMPLES, Example, make_example
from model_pairs import assert_close

from jaxflow.models import EncoderOutput
from jaxflow.models.model import roll_up


@pytest.fixture(scope="module", params=EXAMPLES)
def example(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Example:
    return make_example(request.param, tmp_path_factory.mktemp("values"), values=True)


def written(output: EncoderOutput) -> np.ndarray:
    """The sum that `Values` promises, ``[B, L, n, D]``, in double precision."""
    values = output.values
    parts = (output.attention, values.vectors, values.projection)
    attention, vectors, projection = (np.asarray(part, np.float64) for part in parts)
    summed = np.einsum("blhij,blhjd,lhdk->blik", attention, vectors, projection, optimize=True)
    return summed + np.asarray(values.bias, np.float64)[None, :, None]


def test_values_are_what_attention_adds_to_the_stream(example: Example) -> None:
    pair = example.pair
    theirs = torch_models.written_to_the_stream(pair.theirs, pair.inputs, pair.mask)
    mine = written(pair.output)
    assert mine.shape == theirs.shape
    assert np.abs(theirs).mean() > 0.05
    rows = np.broadcast_to(example.mask[:, None], mine.shape[:3])
    assert_close(mine[rows], theirs[rows])


def test_values_have_the_shapes_that_are_promised(example: Example) -> None:
    config, values = example.pair.ours.config, example.pair.output.values
    batch, n = example.mask.shape
    size = config.width // config.heads
    assert values.vectors.shape == (batch, config.layers, config.heads, n, size)
    assert values.projection.shape == (config.layers, config.heads, size, config.width)
    assert values.bias.shape == (config.layers, config.width)


def test_encode_of_embed_is_the_call(example: Example) -> None:
    pair = example.pair
    module, params = pair.ours.module, pair.ours.params
    apply = jax.jit(
        lambda params, inputs, mask: module.apply(
            params, module.apply(params, inputs, method="embed"), mask, method="encode"
        )
    )
    output = apply(params, pair.inputs, example.mask)
    assert output.values is None
    for name in ("logits", "attention", "hidden", "pooled"):
        mine, other = getattr(output, name), getattr(pair.output, name)
        assert (mine is None) == (other is None)
        if mine is not None:
            assert_close(mine, other)


def test_the_logits_alone_are_the_same(example: Example) -> None:
    pair = example.pair
    classify = jax.jit(
        lambda params, inputs: pair.ours.module.apply(params, inputs, method="classify")
    )
    assert_close(classify(pair.ours.params, pair.inputs), pair.output.logits)


def test_the_blocks_as_one_loop_say_the_same(example: Example) -> None:
    pair = example.pair
    rolled = roll_up(pair.ours.config, pair.ours.params)
    assert sorted(rolled.params)[0] == "blocks"
    apply = jax.jit(lambda params, *given: rolled.module.apply(params, *given, values=True))
    mine = apply({"params": rolled.params}, pair.inputs, pair.mask)
    leaves = jax.tree.leaves_with_path(mine)
    other = dict(jax.tree.leaves_with_path(pair.output))
    assert len(leaves) == len(other)
    for path, leaf in leaves:
        assert_close(leaf, other[path])
