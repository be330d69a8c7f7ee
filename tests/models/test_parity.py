"""Compare every architecture with transformers: heads, sizes, padding, values, gradients."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch_models
from model_examples import EXAMPLES, Example, make_example
from model_pairs import (
    Pair,
    assert_attention_counts,
    assert_close,
    assert_same_numbers,
    make_pair,
    tokens_with_padding,
)

from jaxflow.errors import InputError
from jaxflow.models import load
from jaxflow.models.model import roll_up

HEADS = {
    "Bert": ("Model", "ForSequenceClassification", "ForMaskedLM", "ForPreTraining"),
    "DistilBert": ("Model", "ForSequenceClassification", "ForMaskedLM"),
    "Roberta": ("Model", "ForSequenceClassification", "ForMaskedLM"),
    "GPT2": ("Model", "ForSequenceClassification", "LMHeadModel"),
    "ViT": ("Model", "ForImageClassification"),
}
KINDS = {
    "Model": "none", "ForSequenceClassification": "classification", "ForMaskedLM": "masked-lm",
    "ForPreTraining": "masked-lm", "LMHeadModel": "lm", "ForImageClassification": "classification",
}  # fmt: skip
PAD = {"Bert": 0, "DistilBert": 0, "Roberta": 1, "GPT2": 0}
DEFAULT: dict[str, dict[str, Any]] = {"GPT2": {"pad_token_id": 0}}
#: Other sizes, one head, another activation and epsilon, more classes.
SMALL: dict[str, dict[str, Any]] = {
    "Bert": {
        "num_attention_heads": 1, "hidden_size": 10, "num_hidden_layers": 1, "num_labels": 5,
        "hidden_act": "gelu_new", "layer_norm_eps": 1e-3, "type_vocab_size": 3,
    },
    "DistilBert": {
        "n_heads": 1, "dim": 10, "n_layers": 1, "num_labels": 5, "activation": "gelu_pytorch_tanh",
    },
    "Roberta": {
        "num_attention_heads": 1, "hidden_size": 10, "num_hidden_layers": 1, "num_labels": 5,
        "hidden_act": "gelu_new", "layer_norm_eps": 1e-3,
    },
    "GPT2": {
        "n_head": 1, "n_embd": 10, "n_layer": 1, "n_inner": 15, "num_labels": 5,
        "activation_function": "gelu", "layer_norm_epsilon": 1e-3, "pad_token_id": 36,
    },
    "ViT": {
        "image_size": 9, "patch_size": 3, "num_channels": 1, "num_attention_heads": 1,
        "hidden_size": 10, "num_hidden_layers": 1, "hidden_act": "silu", "layer_norm_eps": 1e-3,
        "num_labels": 5,
    },
}  # fmt: skip
#: Five heads, three layers, one class, an untied decoder, another padding token.
LARGE: dict[str, dict[str, Any]] = {
    "Bert": {
        "num_attention_heads": 5, "hidden_size": 20, "num_hidden_layers": 3, "num_labels": 1,
        "hidden_act": "relu", "layer_norm_eps": 1e-5, "tie_word_embeddings": False,
        "pad_token_id": 3,
    },
    "DistilBert": {
        "n_heads": 5, "dim": 20, "n_layers": 3, "num_labels": 1, "activation": "relu",
        "tie_word_embeddings": False, "pad_token_id": 3,
    },
    "GPT2": {
        "n_head": 5, "n_embd": 20, "n_layer": 3, "num_labels": 1, "activation_function": "relu",
        "tie_word_embeddings": False, "pad_token_id": 3,
    },
    "ViT": {
        "image_size": [10, 6], "patch_size": 2, "num_channels": 2, "num_attention_heads": 5,
        "hidden_size": 20, "num_hidden_layers": 3, "hidden_act": "relu", "num_labels": 1,
    },
}  # fmt: skip
LARGE["Roberta"] = LARGE["Bert"] | {"type_vocab_size": 2}
CASES = [
    *((name, head, DEFAULT.get(name, {})) for name, heads in HEADS.items() for head in heads),
    *((name, HEADS[name][1], sizes) for name, sizes in SMALL.items()),
    *((name, HEADS[name][-1], sizes) for name, sizes in LARGE.items() if name != "Bert"),
    ("Bert", "ForMaskedLM", LARGE["Bert"]),
]


def images(changes: dict[str, Any], count: int = 2) -> np.ndarray:
    settings = {"num_channels": 3, **torch_models.SIZES["ViT"], **changes}
    side = settings["image_size"]
    height, width = (side, side) if isinstance(side, int) else side
    shape = (count, height, width, settings["num_channels"])
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


@pytest.fixture(
    scope="module",
    params=CASES,
    ids=lambda case: f"{case[0]}{case[1]}-{case[2].get('num_labels', 'default')}",
)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    name, head, changes = request.param
    folder = tmp_path_factory.mktemp(name)
    if name == "ViT":
        return make_pair(folder, f"ViT{head}", changes, images(changes))
    pad_id = changes.get("pad_token_id", PAD[name])
    tokens = tokens_with_padding((9, 6, 2), pad_id)
    types = None
    if name == "Bert":
        kinds = changes.get("type_vocab_size", 2)
        types = np.random.default_rng(1).integers(0, kinds, tokens.shape)
    return make_pair(folder, f"{name}{head}", changes, tokens, tokens != pad_id, types)


def entering(theirs: Any, module: Any, pair: Pair) -> np.ndarray:
    """Return what a part of theirs returns while it runs."""
    found: list[Any] = []
    handle = module.register_forward_hook(lambda _, __, given: found.append(given))
    torch_models.run(theirs, pair.inputs, pair.mask)
    handle.remove()
    return np.asarray(found[0].detach().numpy())


def test_numbers_are_those_of_transformers(pair: Pair) -> None:
    assert_attention_counts(pair)
    assert_same_numbers(pair)  # queries of padding too
    attention = np.asarray(pair.output.attention)
    np.testing.assert_allclose(attention.sum(-1), 1, atol=1e-6)
    if pair.mask is not None:
        padded = np.broadcast_to(~pair.mask[:, None, None, None, :], attention.shape)
        assert not attention[padded].any()
    if pair.ours.config.causal:
        assert not attention[..., ~np.tri(attention.shape[-1], dtype=bool)].any()


def test_the_configuration_and_what_is_pooled_are_theirs(pair: Pair) -> None:
    config, theirs, pooled = pair.ours.config, pair.theirs, pair.output.pooled
    name = type(theirs).__name__
    architecture = next(kind for kind in HEADS if name.startswith(kind))
    assert config.head == KINDS[name.removeprefix(architecture)]
    assert config.classes == (theirs.num_labels if config.head == "classification" else 0)
    if architecture == "ViT":
        assert (*config.image, config.channels) == pair.inputs.shape[1:]
        expected = entering(theirs, torch_models.base(theirs).layernorm, pair)[:, 0]
    else:
        assert config.tied == theirs.config.tie_word_embeddings
        if architecture == "Roberta":  # its positions begin after the padding's number
            assert config.positions == theirs.config.max_position_embeddings - config.pad_id - 1
        if architecture == "GPT2" and config.head != "lm":
            normed = entering(theirs, torch_models.base(theirs).ln_f, pair)
            expected = normed[np.arange(3), pair.mask.sum(-1) - 1]  # type: ignore[union-attr]
        elif pair.expected_output.pooled is not None:
            expected = pair.expected_output.pooled
        elif config.head == "classification":
            kernel, bias = (
                pair.ours.params["params"]["readout"][key] for key in ("kernel", "bias")
            )
            assert_close(pair.output.logits, pooled @ kernel + bias[None])
            if architecture == "DistilBert":
                assert (np.asarray(pooled) >= 0).all()  # rectified, where BERT takes tanh
            return
        else:
            assert pooled is None
            return
    assert_close(pooled, expected)


@pytest.mark.parametrize(
    "name",
    [
        "BertForSequenceClassification", "DistilBertForSequenceClassification",
        "RobertaForMaskedLM", "GPT2ForSequenceClassification", "GPT2LMHeadModel",
    ],
)  # fmt: skip
def test_padding_on_the_left(name: str, tmp_path: Path) -> None:
    architecture = next(kind for kind in HEADS if name.startswith(kind))
    pad_id, changes = PAD[architecture], DEFAULT.get(architecture, {})
    tokens = tokens_with_padding((8, 3, 1), pad_id, left=True)
    mask = tokens != pad_id
    pair = make_pair(tmp_path, name, changes, tokens, mask)
    if architecture == "GPT2":
        # Padding in front may attend to nothing: theirs then attends to everything, ours does not.
        assert_same_numbers(pair, rows=mask)
        assert not np.moveaxis(np.asarray(pair.output.attention), 3, 1)[~mask].any()
        return
    assert_same_numbers(pair)
    if architecture == "Roberta":  # padding takes no position
        assert_close(pair.ours(tokens[1:2, -3:]).logits, pair.output.logits[1:2, -3:])


def test_a_mask_that_the_model_finds_itself(tmp_path: Path) -> None:
    tokens = tokens_with_padding((7,), 0)
    pair = make_pair(tmp_path, "BertForMaskedLM", {}, tokens)
    assert_same_numbers(pair)
    padded = pair.ours(np.pad(tokens, ((0, 0), (0, 3))))
    assert_close(padded.logits[:, :7], pair.output.logits)
    assert_close(padded.hidden[:, :, :7], pair.output.hidden)


def test_another_head_of_a_checkpoint(tmp_path: Path) -> None:
    tokens = tokens_with_padding((7, 4), 0)
    pair = make_pair(tmp_path, "BertForPreTraining", {}, tokens, tokens != 0)
    output = load(tmp_path, head="none")(tokens)
    assert output.logits is None
    assert_close(output.hidden, pair.expected_output.hidden)
    # The pooler of such a checkpoint is read by its head for the next sentence.
    theirs = torch_models.run(torch_models.base(pair.theirs), tokens, tokens != 0)
    assert_close(output.pooled, theirs.pooled)
    for head in ("lm", "something"):
        with pytest.raises(InputError, match=f"head must be one of none, .* bert, got '{head}'"):
            load(tmp_path, head=head)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"missing: classifier\.bias, classifier\.weight"):
        load(tmp_path, head="classification")


def test_gpt2_without_a_padding_token(tmp_path: Path) -> None:
    tokens = tokens_with_padding((9, 9), 0)
    tokens[0, -1] = tokens[1, 0] = 0
    pair = make_pair(tmp_path / "lm", "GPT2LMHeadModel", {}, tokens)
    assert pair.ours.config.pad_id is None
    assert_same_numbers(pair)
    assert np.asarray(pair.output.attention)[1, :, :, :, 0].all()
    short = pair.ours(tokens[:, :5])  # later tokens change nothing before
    assert_close(short.logits, pair.output.logits[:, :5])
    one = tokens_with_padding((7,), 0)
    assert_same_numbers(make_pair(tmp_path / "one", "GPT2ForSequenceClassification", {}, one))


def test_roberta_counts_positions_by_tokens_not_by_the_mask(tmp_path: Path) -> None:
    tokens = tokens_with_padding((16, 5), 1)
    mask = tokens != 1
    mask[0, 2] = False  # real, and not attended to
    pair = make_pair(tmp_path, "RobertaModel", {}, tokens, mask)
    assert_same_numbers(pair)
    with pytest.raises(InputError, match=r"^tokens must be at most 16 a sentence .* got 17"):
        pair.ours(tokens_with_padding((17,), 1))


def test_distilbert_has_no_segments(tmp_path: Path) -> None:
    tokens = tokens_with_padding((7,), 0)
    pair = make_pair(tmp_path, "DistilBertModel", {}, tokens)
    with pytest.raises(InputError, match=r"^token_types must be None for a model without seg"):
        pair.ours(tokens, token_types=np.zeros_like(tokens))


def test_classes_of_the_patches_mean_and_hidden_patches(tmp_path: Path) -> None:
    """No model of theirs has that readout, but its parts can be put together so."""
    import torch

    pair = make_pair(tmp_path, "ViTForImageClassification", {"num_labels": 4}, images({}))
    fields = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(fields | {"jaxflow_readout": "mean"}))
    mean = load(tmp_path)
    with torch.no_grad():
        normed = torch_models.base(pair.theirs).layernorm(
            torch.tensor(pair.expected_output.hidden[:, -1])
        )
        pooled = normed[:, 1:].mean(1)
        logits = pair.theirs.classifier(pooled)
    output = mean(pair.inputs)
    assert_close(output.pooled, pooled.numpy())
    assert_close(output.logits, logits.numpy())
    assert np.abs(logits.numpy() - pair.expected_output.logits).max() > 0.05

    mask = np.ones((2, mean.config.positions), bool)
    mask[0, 1 + 4] = False  # second row, second column of two rows of three patches
    other = pair.inputs.copy()
    other[0, 4:, 4:8] += 1
    for ours in (pair.ours, mean):
        first, second = ours(pair.inputs, mask), ours(other, mask)
        np.testing.assert_array_equal(first.logits, second.logits)
        assert not np.asarray(first.attention)[0, ..., ~mask[0]].any()
        assert np.abs(ours(other).logits - ours(pair.inputs).logits).max() > 1e-3

    for shape in ((2, 12, 8, 3), (8, 12, 3)):
        with pytest.raises(InputError, match=r"^pixels must be of shape \[images, 8, 12, 3\], got"):
            pair.ours(np.zeros(shape, np.float32))
    with pytest.raises(InputError, match=r"^pixels must be normalised floating-point .* uint8"):
        pair.ours(np.zeros((1, 8, 12, 3), np.uint8))


@pytest.fixture(scope="module", params=EXAMPLES)
def example(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Example:
    return make_example(request.param, tmp_path_factory.mktemp("example"), values=True)


def test_values_are_what_attention_adds_to_the_stream(example: Example) -> None:
    pair, values = example.pair, example.pair.output.values
    config, (batch, n) = pair.ours.config, example.mask.shape
    size = config.width // config.heads
    assert values.vectors.shape == (batch, config.layers, config.heads, n, size)
    parts = (pair.output.attention, values.vectors, values.projection)
    wide = (np.asarray(part, np.float64) for part in parts)
    mine = np.einsum("blhij,blhjd,lhdk->blik", *wide, optimize=True)
    mine = mine + np.asarray(values.bias, np.float64)[None, :, None]
    theirs = torch_models.written_to_the_stream(pair.theirs, pair.inputs, pair.mask)
    assert np.abs(theirs).mean() > 0.05
    rows = np.broadcast_to(example.mask[:, None], mine.shape[:3])
    assert_close(mine[rows], theirs[rows])


def test_the_halves_the_logits_alone_and_the_loop_agree(example: Example) -> None:
    pair, model = example.pair, example.pair.ours
    module: Any = model.module
    whole = dict(jax.tree.leaves_with_path(pair.output))

    def agrees(run: Callable[..., Any], params: Any, given: Any) -> None:
        for path, leaf in jax.tree.leaves_with_path(jax.jit(run)(params, given, pair.mask)):
            assert_close(leaf, whole[path])

    def halves(params: Any, given: Any, _: Any) -> Any:
        embeddings = module.apply(params, given, method="embed")
        return module.apply(params, embeddings, jnp.asarray(example.mask), method="encode")

    agrees(halves, model.params, pair.inputs)
    rolled = roll_up(model.config, model.params)
    agrees(
        lambda params, *given: rolled.module.apply(params, *given, values=True),
        {"params": rolled.params},
        pair.inputs,
    )
    classify = jax.jit(lambda params, given: module.apply(params, given, method="classify"))
    assert_close(classify(model.params, pair.inputs), pair.output.logits)


def our_gradient(example: Example, weights: np.ndarray) -> np.ndarray:
    model = example.pair.ours
    module: Any = model.module

    def score(embeddings: jax.Array) -> jax.Array:
        mask = jnp.asarray(example.mask)
        output: Any = module.apply(model.params, embeddings, mask, method="encode")
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
    logits = example.pair.expected_output.logits
    weights = np.random.default_rng(2).normal(size=logits.shape).astype(np.float32)
    if logits.ndim == 3:  # padding's logits do not count
        weights = weights * example.mask[..., None] / np.sqrt(logits.shape[-1])
    mine, other = our_gradient(example, weights), their_gradient(example, weights)
    if example.pair.inputs.ndim == 4:
        mine[:, 0] = mine[:, 0].sum(0)
    assert np.abs(other).max() > 0.05
    assert_close(mine, other)
