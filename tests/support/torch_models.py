"""Build models of the transformers library with random parameters, run and compare them."""

from __future__ import annotations

import dataclasses
import functools
import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

#: The smallest sizes that differ for every axis, by the names of each architecture.
SIZES: dict[str, dict[str, Any]] = {
    "Bert": {
        "vocab_size": 37, "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3,
        "intermediate_size": 40, "max_position_embeddings": 16,
    },
    "DistilBert": {
        "vocab_size": 37, "dim": 24, "n_layers": 2, "n_heads": 3, "hidden_dim": 40,
        "max_position_embeddings": 16,
    },
    "GPT2": {
        "vocab_size": 37, "n_embd": 24, "n_layer": 2, "n_head": 3, "n_positions": 16,
        "bos_token_id": 36, "eos_token_id": 36,
    },
    "ViT": {
        "image_size": [8, 12], "patch_size": 4, "hidden_size": 24, "num_hidden_layers": 2,
        "num_attention_heads": 3, "intermediate_size": 40,
    },
}  # fmt: skip
SIZES["Roberta"] = {**SIZES["Bert"], "type_vocab_size": 1, "max_position_embeddings": 18}
#: Those of every decoder but GPT-2.
DECODER = {
    "vocab_size": 37, "hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 6,
    "num_key_value_heads": 2, "intermediate_size": 20, "max_position_embeddings": 16,
    "head_dim": 4, "pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 2,
    "tie_word_embeddings": False,
}  # fmt: skip
#: The norm after the last block, which their last hidden state has passed and ours has not.
CLOSING_NORMS = ("ln_f", "norm", "final_layer_norm")
#: Parity is held to this, absolutely and relatively.
TOLERANCE = 1e-5

#: Where each block adds what attention read to the stream, in a model without a head.
PROJECTIONS = {
    "bert": "encoder.layer.{}.attention.output.dense",
    "roberta": "encoder.layer.{}.attention.output.dense",
    "distilbert": "transformer.layer.{}.attention.out_lin",
    "gpt2": "h.{}.attn.c_proj",
    "llama": "layers.{}.self_attn.o_proj",
    "vit": "layers.{}.attention.o_proj",
}


@functools.cache
def library() -> Any:
    """Return ``transformers``, made quiet; skips where it is not installed."""
    reason = "transformers and torch are the oracle: pip install 'jaxflow[test]'"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pytest.importorskip("torch", reason=reason)
        transformers = pytest.importorskip("transformers", reason=reason)
        transformers.utils.logging.set_verbosity(50)
        transformers.utils.logging.disable_progress_bar()
        for name in ("BertModel", "BertTokenizerFast", "AutoTokenizer", "AutoModel"):
            getattr(transformers, name)  # their modules are imported here
    return transformers


@contextmanager
def quietly() -> Iterator[None]:
    """Ignore the warnings of the other library."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@dataclasses.dataclass(frozen=True)
class TorchOutput:
    """The output of a model of transformers in our form: NumPy, layers on the second axis.

    Attributes
    ----------
    logits, pooled
        As the model returns them; None where it does not.
    attention, hidden
        ``[B, L, H, n, n]`` and ``[B, L + 1, n, D]``.
    """

    logits: np.ndarray | None
    attention: np.ndarray
    hidden: np.ndarray
    pooled: np.ndarray | None


def random_model(name: str, changes: Mapping[str, Any], seed: int = 0) -> Any:
    """Build a model of a class of theirs, every parameter of it drawn at random.

    Scales are such that attention is far from even and each parameter counts.
    """
    import torch

    transformers = library()
    family = name.split("For")[0].split("LM")[0].removesuffix("Model")
    family = family.replace("Gemma3", "Gemma3Text")
    sizes = SIZES.get(family, DECODER) | dict(changes)
    if family in ("Qwen2", "Phi3", "GPTNeoX"):
        del sizes["head_dim"]
    with quietly():
        config = getattr(transformers, f"{family}Config")(**sizes)
        config._attn_implementation = "eager"
        model = getattr(transformers, name)(config).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter_name, parameter in model.named_parameters():
            drawn = torch.randn(parameter.shape, generator=generator)
            is_scale = parameter.ndim == 1 and parameter_name.endswith("weight")
            parameter.copy_(1 + 0.2 * drawn if is_scale else 0.2 * drawn)
    return model


def write(model: Any, folder: Path, **options: Any) -> Path:
    """Save a model as its library does."""
    with quietly():
        model.save_pretrained(folder, **options)
    return folder


def read(folder: Path, name: str) -> Any:
    """Read a model as its library does, with the class of that name."""
    with quietly():
        kind = getattr(library(), name)
        return kind.from_pretrained(folder, attn_implementation="eager").eval()


#: Special tokens of vocabularies, by the model type.
BRACKETS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
ANGLES = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
SPECIAL = {"bert": BRACKETS, "distilbert": BRACKETS, "gpt2": ["<|endoftext|>"], "roberta": ANGLES}
#: Signs that word pieces do not know.
UNKNOWN = set("\u6771\u672c\u0928\U0001f600")


def write_tokenizer(
    folder: Path,
    kind: str,
    texts: Sequence[str],
    words: Sequence[str],
    settings: Mapping[str, Any],
    added: Sequence[str] = (),
) -> None:
    """Write the vocabulary of a model type and its settings as their authors publish them.

    Word pieces are `words` and the signs of `texts`; byte pairs are trained on both. In the
    settings ``added_tokens_decoder`` counts from the first number after the vocabulary.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"model_type": kind}))
    if SPECIAL[kind] is BRACKETS:
        signs = {sign for text in texts for sign in text.lower() + text if not sign.isspace()}
        known = sorted(signs - UNKNOWN)
        pieces = [f"##{sign}" for sign in known if sign.isascii()]
        listed = list(dict.fromkeys([*BRACKETS, *words, *known, *pieces]))
        (folder / "vocab.txt").write_text("\n".join(listed) + "\n", encoding="utf-8")
        if added:
            numbers = {token: len(listed) + place for place, token in enumerate(added)}
            (folder / "added_tokens.json").write_text(json.dumps(numbers))
        if decoder := settings.get("added_tokens_decoder"):
            placed = {len(listed) + int(place): token for place, token in decoder.items()}
            settings = {**settings, "added_tokens_decoder": placed}
    else:
        first = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(
            vocab_size=290, special_tokens=SPECIAL[kind], initial_alphabet=first,
            show_progress=False,
        )  # fmt: skip
        backend = Tokenizer(models.BPE())
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        backend.train_from_iterator([*texts, *[" ".join(words)] * 9], trainer)
        backend.model.save(str(folder))
    if settings:
        (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def read_auto_tokenizer(folder: Path) -> Any:
    with quietly():
        return library().AutoTokenizer.from_pretrained(folder)


def base(model: Any) -> Any:
    """Return a model without its head."""
    return getattr(model, model.base_model_prefix, model)


def run(
    model: Any, tokens: np.ndarray, mask: np.ndarray | None = None, **inputs: np.ndarray
) -> TorchOutput:
    """Run one of their models on tokens ``[B, n]``, or on pixels ``[B, height, width, channels]``.

    A decoder's last hidden state is theirs after the closing norm; what enters that is returned.
    """
    import torch

    entered: list[Any] = []
    norms = [getattr(base(model), norm) for norm in CLOSING_NORMS if hasattr(base(model), norm)]
    for norm in norms:
        handle = norm.register_forward_pre_hook(lambda _, given: entered.append(given[0]))
    if tokens.ndim == 4:
        given = {"pixel_values": torch.tensor(tokens).permute(0, 3, 1, 2)}
    else:
        given = {"input_ids": torch.tensor(tokens, dtype=torch.long)}
    if mask is not None:
        given["attention_mask"] = torch.tensor(mask, dtype=torch.long)
    given |= {key: torch.tensor(value, dtype=torch.long) for key, value in inputs.items()}
    with torch.no_grad(), quietly():
        found = model(**given, output_attentions=True, output_hidden_states=True)
    hidden = list(found.hidden_states)
    if entered:
        handle.remove()
        hidden[-1] = entered[0]
    logits = getattr(found, "logits", getattr(found, "prediction_logits", None))
    pooled = getattr(found, "pooler_output", None)
    return TorchOutput(
        None if logits is None else logits.numpy(),
        np.stack([part.numpy() for part in found.attentions], 1),
        np.stack([part.numpy() for part in hidden], 1),
        None if pooled is None else pooled.numpy(),
    )


def written_to_the_stream(
    model: Any, tokens: np.ndarray, mask: np.ndarray | None = None
) -> np.ndarray:
    """Return what the attention of each block adds to the stream, ``[B, L, n, D]``."""
    found = []
    handles = []
    encoder = base(model)
    path = PROJECTIONS[model.config.model_type]
    for layer in range(model.config.num_hidden_layers):
        part = encoder.get_submodule(path.format(layer))
        handles.append(part.register_forward_hook(lambda _, __, given: found.append(given)))
    run(model, tokens, mask)
    for handle in handles:
        handle.remove()
    return np.stack([part.numpy().reshape(len(tokens), -1, part.shape[-1]) for part in found], 1)


def tokens_with_padding(lengths: Sequence[int], pad_id: int, *, left: bool = False) -> np.ndarray:
    """Draw int32 ``[B, n]`` of 5 to 35, the rest padded."""
    rng = np.random.default_rng(len(lengths))
    tokens = rng.integers(5, 36, (len(lengths), max(lengths))).astype(np.int32)
    for row, length in zip(tokens, lengths, strict=True):
        (row[: len(row) - length] if left else row[length:])[:] = pad_id
    return tokens


def assert_close(mine: Any, other: Any, rows: np.ndarray | None = None) -> None:
    """Compare two arrays of one shape, `rows` of ``[B, n]`` alone where they are given."""
    mine, other = np.asarray(mine), np.asarray(other)
    assert mine.shape == other.shape
    if rows is not None:
        mine, other = mine[rows], other[rows]
    np.testing.assert_allclose(mine, other, rtol=TOLERANCE, atol=TOLERANCE)


def assert_same_numbers(output: Any, expected: TorchOutput, rows: np.ndarray | None = None) -> None:
    """Compare logits, every attention matrix and every hidden state.

    Queries outside of `rows` ``[B, n]`` are passed over: what padding reads is nobody's business.
    """
    assert output.attention.dtype == np.float32
    assert_close(np.moveaxis(output.attention, 3, 1), np.moveaxis(expected.attention, 3, 1), rows)
    assert_close(np.moveaxis(output.hidden, 2, 1), np.moveaxis(expected.hidden, 2, 1), rows)
    if expected.logits is None:
        assert output.logits is None
    else:
        of_tokens = expected.logits.ndim == 3
        assert_close(output.logits, expected.logits, rows if of_tokens else None)
