"""Compare each architecture with transformers in what test_differential.py does not draw.

Drawn models have many heads, sizes, activations and tokenizers. Here are the queries of padding,
other padding tokens, values, gradients, channels, and the way back to transformers.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch_models
from tiny_models import assert_same_parameters
from torch_models import assert_close, assert_same_numbers, tokens_with_padding

from jaxflow.errors import InputError
from jaxflow.models import EncoderOutput, Model, load, save_pretrained
from jaxflow.models.model import roll_up

#: By name: the class of theirs, what differs from the tiniest sizes, and the padding's number.
EXAMPLES: dict[str, tuple[str, dict[str, Any], int]] = {
    "bert": ("BertForSequenceClassification", {"num_labels": 3}, 0),
    "bert masked": ("BertForMaskedLM", {"tie_word_embeddings": False, "pad_token_id": 3}, 3),
    "distilbert": ("DistilBertForSequenceClassification", {"num_labels": 3, "pad_token_id": 3}, 3),
    "roberta": ("RobertaForSequenceClassification", {"num_labels": 3, "pad_token_id": 3}, 3),
    "roberta masked": ("RobertaForMaskedLM", {"tie_word_embeddings": False}, 1),
    "gpt2": ("GPT2ForSequenceClassification", {"num_labels": 3, "pad_token_id": 3}, 3),
    "gpt2 lm": ("GPT2LMHeadModel", {"pad_token_id": 0, "n_inner": 15}, 0),
    "gpt2 untied": ("GPT2LMHeadModel", {"pad_token_id": 0, "tie_word_embeddings": False}, 0),
    "vit": ("ViTForImageClassification", {"num_labels": 3}, 0),
}


@dataclasses.dataclass(frozen=True)
class Example:
    """A model of theirs, ours read from its files in `folder`, their input, and what both answer.

    A mask of None leaves them to find the padding.
    """

    folder: Path
    theirs: Any
    ours: Model
    inputs: np.ndarray
    mask: np.ndarray | None
    expected: torch_models.TorchOutput
    output: EncoderOutput

    @property
    def real(self) -> np.ndarray:
        """Tokens that are not padding; every patch of an image."""
        every = np.ones((len(self.inputs), self.output.hidden.shape[2]), bool)
        return every if self.mask is None else self.mask


def make_example(
    folder: Path,
    name: str,
    changes: dict[str, Any],
    inputs: np.ndarray,
    mask: np.ndarray | None = None,
    **options: Any,
) -> Example:
    theirs = torch_models.random_model(name, changes)
    ours = load(torch_models.write(theirs, folder))
    expected = torch_models.run(theirs, inputs, mask)
    return Example(folder, theirs, ours, inputs, mask, expected, ours(inputs, mask, **options))


def images(height: int = 8, width: int = 12, channels: int = 3) -> np.ndarray:
    shape = (2, height, width, channels)
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


@pytest.fixture(scope="module", params=EXAMPLES)
def example(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Example:
    name, changes, pad_id = EXAMPLES[request.param]
    folder = tmp_path_factory.mktemp("example")
    if name.startswith("ViT"):
        return make_example(folder, name, changes, images(), values=True)
    tokens = tokens_with_padding((7, 5, 2), pad_id)
    return make_example(folder, name, changes, tokens, tokens != pad_id, values=True)


def test_numbers_are_those_of_transformers_of_padding_too(example: Example) -> None:
    largest = example.expected.attention.max(-1)  # neither even nor one token's: it could fail
    assert 1 / example.expected.attention.shape[-1] + 0.05 < np.median(largest) < 0.95
    assert_same_numbers(example.output, example.expected)
    attention = np.asarray(example.output.attention)
    np.testing.assert_allclose(attention.sum(-1), 1, atol=1e-6)
    padded = np.broadcast_to(~example.real[:, None, None, None, :], attention.shape)
    assert not attention[padded].any()
    if example.ours.config.causal:
        assert not attention[..., ~np.tri(attention.shape[-1], dtype=bool)].any()


def test_there_and_back_through_transformers(example: Example, tmp_path: Path) -> None:
    save_pretrained(tmp_path, example.ours)
    assert_same_parameters(load(tmp_path), example.ours)
    back = torch_models.read(tmp_path, type(example.theirs).__name__)
    again = torch_models.run(back, example.inputs, example.mask)
    np.testing.assert_array_equal(again.logits, example.expected.logits)
    assert back.config.id2label == example.theirs.config.id2label


def test_logits_are_read_off_what_is_pooled(example: Example) -> None:
    pooled = example.output.pooled
    if example.ours.config.head != "classification":
        assert pooled is None
        return
    readout = example.ours.params["params"]["readout"]
    logits = pooled @ readout["kernel"] + readout.get("bias", np.zeros(3))[None]
    assert_close(example.output.logits, logits)
    bare = load(example.folder, head="none")(example.inputs, example.mask)
    if bare.pooled is not None:  # the pooler is not the classification head's
        assert_close(bare.pooled, pooled)
    own = example.theirs.config.model_type in ("distilbert", "roberta")
    assert own == (bare.pooled is None)
    assert bare.logits is None


def test_padding_on_the_left(tmp_path: Path) -> None:
    tokens = tokens_with_padding((8, 3, 1), 1, left=True)
    found = make_example(tmp_path / "roberta", "RobertaForMaskedLM", {}, tokens, tokens != 1)
    assert_same_numbers(found.output, found.expected)
    # Padding takes no position.
    assert_close(found.ours(tokens[1:2, -3:]).logits, found.output.logits[1:2, -3:])
    tokens = tokens_with_padding((8, 3, 1), 0, left=True)
    mask, pad = tokens != 0, {"pad_token_id": 0}
    found = make_example(tmp_path / "gpt2", "GPT2LMHeadModel", pad, tokens, mask)
    # Padding in front may attend to nothing: theirs then attends to everything, ours does not.
    assert_same_numbers(found.output, found.expected, mask)
    assert not np.moveaxis(np.asarray(found.output.attention), 3, 1)[~mask].any()


def test_a_mask_that_the_model_finds_itself(tmp_path: Path) -> None:
    tokens = tokens_with_padding((7,), 0)
    found = make_example(tmp_path, "BertForMaskedLM", {}, tokens)
    assert_same_numbers(found.output, found.expected)
    padded = found.ours(np.pad(tokens, ((0, 0), (0, 3))))
    assert_close(padded.logits[:, :7], found.output.logits)
    assert_close(padded.hidden[:, :, :7], found.output.hidden)


def test_another_head_of_a_checkpoint(tmp_path: Path) -> None:
    tokens = tokens_with_padding((7, 4), 0)
    found = make_example(tmp_path, "BertForPreTraining", {}, tokens, tokens != 0)
    assert_same_numbers(found.output, found.expected)
    output = load(tmp_path, head="none")(tokens)
    assert output.logits is None
    assert_close(output.hidden, found.expected.hidden)
    # The pooler of such a checkpoint is read by its head for the next sentence.
    theirs = torch_models.run(torch_models.base(found.theirs), tokens, tokens != 0)
    assert_close(output.pooled, theirs.pooled)
    for head in ("lm", "something"):
        with pytest.raises(InputError, match=f"head must be one of none, .* bert, got '{head}'"):
            load(tmp_path, head=head)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"missing: classifier\.bias, classifier\.weight"):
        load(tmp_path, head="classification")


def test_gpt2_without_a_padding_token(tmp_path: Path) -> None:
    tokens = tokens_with_padding((9, 9), 0)
    tokens[0, -1] = tokens[1, 0] = 0
    found = make_example(tmp_path / "lm", "GPT2LMHeadModel", {}, tokens)
    assert found.ours.config.pad_id is None
    assert_same_numbers(found.output, found.expected)
    assert np.asarray(found.output.attention)[1, :, :, :, 0].all()
    short = found.ours(tokens[:, :5])  # later tokens change nothing before
    assert_close(short.logits, found.output.logits[:, :5])
    one = tokens_with_padding((7,), 0)
    found = make_example(tmp_path / "one", "GPT2ForSequenceClassification", {}, one)
    assert_same_numbers(found.output, found.expected)


def test_roberta_counts_positions_by_tokens_not_by_the_mask(tmp_path: Path) -> None:
    tokens = tokens_with_padding((16, 5), 1)
    mask = tokens != 1
    mask[0, 2] = False  # real, and not attended to
    found = make_example(tmp_path, "RobertaModel", {}, tokens, mask)
    assert_same_numbers(found.output, found.expected)
    with pytest.raises(InputError, match=r"^tokens must be at most 16 a sentence .* got 17"):
        found.ours(tokens_with_padding((17,), 1))


@pytest.mark.parametrize(
    ("changes", "pixels"),
    [
        ({"image_size": 9, "patch_size": 3, "num_channels": 1}, images(9, 9, 1)),
        ({"image_size": [10, 6], "patch_size": 2, "num_channels": 2}, images(10, 6, 2)),
        ({"num_channels": 5}, images(channels=5)),
    ],
    ids=str,
)
def test_images_of_other_sizes_and_channels(
    changes: dict[str, Any], pixels: np.ndarray, tmp_path: Path
) -> None:
    found = make_example(tmp_path, "ViTModel", changes, pixels)
    assert_same_numbers(found.output, found.expected)
    assert (*found.ours.config.image, found.ours.config.channels) == pixels.shape[1:]


def test_classes_of_the_patches_mean_and_hidden_patches(tmp_path: Path) -> None:
    """No model of theirs has that readout, but its parts can be put together so."""
    import torch

    found = make_example(tmp_path, "ViTForImageClassification", {"num_labels": 4}, images())
    fields = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(fields | {"jaxflow_readout": "mean"}))
    mean = load(tmp_path)
    with torch.no_grad():
        normed = torch_models.base(found.theirs).layernorm(
            torch.tensor(found.expected.hidden[:, -1])
        )
        pooled = normed[:, 1:].mean(1)
        logits = found.theirs.classifier(pooled)
    output = mean(found.inputs)
    assert_close(output.pooled, pooled.numpy())
    assert_close(output.logits, logits.numpy())
    assert np.abs(logits.numpy() - found.expected.logits).max() > 0.05

    mask = np.ones((2, mean.config.positions), bool)
    mask[0, 1 + 4] = False  # second row, second column of two rows of three patches
    other = found.inputs.copy()
    other[0, 4:, 4:8] += 1
    for ours in (found.ours, mean):
        first, second = ours(found.inputs, mask), ours(other, mask)
        np.testing.assert_array_equal(first.logits, second.logits)
        assert not np.asarray(first.attention)[0, ..., ~mask[0]].any()
        assert np.abs(ours(other).logits - ours(found.inputs).logits).max() > 1e-3

    for shape in ((2, 12, 8, 3), (8, 12, 3)):
        with pytest.raises(InputError, match=r"^pixels must be of shape \[images, 8, 12, 3\], got"):
            found.ours(np.zeros(shape, np.float32))
    with pytest.raises(InputError, match=r"^pixels must be normalised floating-point .* uint8"):
        found.ours(np.zeros((1, 8, 12, 3), np.uint8))


def test_values_are_what_attention_adds_to_the_stream(example: Example) -> None:
    config, values = example.ours.config, example.output.values
    batch, n = example.real.shape
    size = config.width // config.heads
    assert values.vectors.shape == (batch, config.layers, config.heads, n, size)
    parts = (example.output.attention, values.vectors, values.projection)
    wide = (np.asarray(part, np.float64) for part in parts)
    mine = np.einsum("blhij,blhjd,lhdk->blik", *wide, optimize=True)
    mine = mine + np.asarray(values.bias, np.float64)[None, :, None]
    theirs = torch_models.written_to_the_stream(example.theirs, example.inputs, example.mask)
    assert np.abs(theirs).mean() > 0.05
    rows = np.broadcast_to(example.real[:, None], mine.shape[:3])
    assert_close(mine[rows], theirs[rows])


def test_the_halves_the_logits_alone_and_the_loop_agree(example: Example) -> None:
    model = example.ours
    module: Any = model.module
    whole = dict(jax.tree.leaves_with_path(example.output))

    def agrees(run: Callable[..., Any], params: Any) -> None:
        found = jax.jit(run)(params, example.inputs, example.mask)
        for path, leaf in jax.tree.leaves_with_path(found):
            assert_close(leaf, whole[path])

    def halves(params: Any, given: Any, _: Any) -> Any:
        embeddings = module.apply(params, given, method="embed")
        return module.apply(params, embeddings, jnp.asarray(example.real), method="encode")

    agrees(halves, model.params)
    rolled = roll_up(model.config, model.params)
    agrees(
        lambda params, *given: rolled.module.apply(params, *given, values=True),
        {"params": rolled.params},
    )
    classify = jax.jit(lambda params, given: module.apply(params, given, method="classify"))
    assert_close(classify(model.params, example.inputs), example.output.logits)


def our_gradient(example: Example, weights: np.ndarray) -> np.ndarray:
    model = example.ours
    module: Any = model.module

    def score(embeddings: jax.Array) -> jax.Array:
        real = jnp.asarray(example.real)
        output: Any = module.apply(model.params, embeddings, real, method="encode")
        return (output.logits * weights).sum()

    embeddings = module.apply(model.params, example.inputs, method="embed")
    return np.array(jax.jit(jax.grad(score))(embeddings))


def their_gradient(example: Example, weights: np.ndarray) -> np.ndarray:
    """Differentiate the embeddings that leave the table, or the patches and the class token."""
    import torch

    theirs, inputs = example.theirs, example.inputs
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
            "attention_mask": torch.tensor(example.real, dtype=torch.long),
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
    logits = example.expected.logits
    weights = np.random.default_rng(2).normal(size=logits.shape).astype(np.float32)
    if logits.ndim == 3:  # padding's logits do not count
        weights = weights * example.real[..., None] / np.sqrt(logits.shape[-1])
    mine, other = our_gradient(example, weights), their_gradient(example, weights)
    if example.inputs.ndim == 4:
        mine[:, 0] = mine[:, 0].sum(0)
    assert np.abs(other).max() > 0.05
    assert_close(mine, other)
