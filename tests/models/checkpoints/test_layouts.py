"""Every way in which the same parameters are found in published checkpoints."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import pytest
import torch_models
from checkpoints import assert_same_parameters, refused
from model_pairs import assert_close, tokens_with_padding

from jaxflow.models import Model, load

Tensors = dict[str, np.ndarray]


def test_names_may_lack_the_prefix(
    model: Model, tensors: Tensors, write: Callable[..., Path]
) -> None:
    bare = {name.removeprefix("bert."): array for name, array in tensors.items()}
    assert_same_parameters(load(write(bare)), model)


def test_one_tensor_by_two_names_is_refused(tensors: Tensors, write: Callable[..., Path]) -> None:
    name = "embeddings.word_embeddings.weight"
    twice = tensors | {name: tensors[f"bert.{name}"] + 1}
    message = refused(write(twice))
    assert message.startswith("a tensor must have one name, got ")
    assert name in message


def test_the_oldest_names_of_norms(
    model: Model, tensors: Tensors, write: Callable[..., Path]
) -> None:
    old = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace(
            "LayerNorm.bias", "LayerNorm.beta"
        ): array
        for name, array in tensors.items()
    }
    assert "bert.embeddings.LayerNorm.gamma" in old
    assert_same_parameters(load(write(old)), model)


def test_word_embeddings_that_are_stored_twice(
    model: Model, tensors: Tensors, write: Callable[..., Path]
) -> None:
    twice = tensors | {
        "cls.predictions.decoder.weight": tensors["bert.embeddings.word_embeddings.weight"],
        "cls.predictions.decoder.bias": tensors["cls.predictions.bias"],
    }
    assert_same_parameters(load(write(twice)), model)


def test_a_second_copy_that_differs_is_a_decoder(
    tensors: Tensors, write: Callable[..., Path]
) -> None:
    """As transformers has it: the file is believed, not what the configuration says of it."""
    words = tensors["bert.embeddings.word_embeddings.weight"]
    own = tensors | {
        "cls.predictions.decoder.weight": words[::-1] + 0.5,
        "cls.predictions.decoder.bias": tensors["cls.predictions.bias"] - 1,
    }
    folder = write(own, tie_word_embeddings=True)
    ours, theirs = load(folder), torch_models.read(folder, "BertForMaskedLM")
    assert not ours.config.tied
    tokens = tokens_with_padding((5, 3), 0)
    told = torch_models.tell(theirs, tokens, tokens != 0)
    assert_close(ours(tokens).logits, told.logits)


def test_tables_of_constants_and_other_heads_are_passed_over(
    model: Model, tensors: Tensors, write: Callable[..., Path]
) -> None:
    more = {
        "bert.embeddings.position_ids": np.arange(16)[None],
        "qa_outputs.weight": np.zeros((2, 24), np.float32),
        "classifier.weight": np.zeros((2, 24), np.float32),
    }
    assert_same_parameters(load(write(tensors | more)), model)


def test_gpt2s_causal_masks_are_passed_over(tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    theirs = torch_models.random_model("GPT2LMHeadModel", {})
    folder = torch_models.write(theirs, tmp_path)
    before = load(folder)
    known = load_file(folder / "model.safetensors")
    for layer in range(2):
        known[f"transformer.h.{layer}.attn.bias"] = np.tri(16, dtype=bool)[None, None]
        known[f"transformer.h.{layer}.attn.masked_bias"] = np.array(-1e4, np.float32)
    # The first checkpoints have no prefix at all.
    save_file(
        {name.removeprefix("transformer."): array for name, array in known.items()},
        folder / "model.safetensors",
    )
    assert_same_parameters(load(folder), before)


@pytest.mark.parametrize("kind", ["float16", "bfloat16", "float64"])
def test_other_precisions_are_read_into_float32(
    kind: str, tensors: Tensors, model: Model, masked: Path, tmp_path: Path
) -> None:
    import torch
    from safetensors.torch import save_file

    dtype = getattr(torch, kind)
    stored = {name: torch.tensor(array).to(dtype) for name, array in tensors.items()}
    save_file(stored, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_bytes((masked / "config.json").read_bytes())
    found = load(tmp_path)
    name = "bert.encoder.layer.1.output.dense.weight"
    np.testing.assert_array_equal(
        found.params["params"]["blocks_1"]["down"]["kernel"], stored[name].float().numpy().T
    )
    for leaf, exact in zip(
        jax.tree.leaves(found.params), jax.tree.leaves(model.params), strict=True
    ):
        assert leaf.dtype == np.float32
        np.testing.assert_allclose(leaf, exact, rtol=2**-8)


def test_whole_numbers_are_no_parameters(tensors: Tensors, write: Callable[..., Path]) -> None:
    name = "bert.encoder.layer.1.output.dense.weight"
    folder = write(tensors | {name: (100 * tensors[name]).astype(np.int8)})
    message = f"the tensor {name} in {folder} must be one of F16, BF16, F32, F64, got I8"
    assert refused(folder) == message
