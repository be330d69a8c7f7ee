"""Published models written: a folder that the ``transformers`` library reads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import flax.traverse_util
import numpy as np

from jaxflow.errors import InputError
from jaxflow.files import write_together
from jaxflow.models.bert import BertConfig
from jaxflow.models.gpt2 import Gpt2Config
from jaxflow.models.model import Model
from jaxflow.models.names import COPIES, PREFIXES, PublishedConfig, rules, to_published
from jaxflow.models.published import KINDS, kind_of
from jaxflow.models.subword import ROLES, SubwordTokenizer
from jaxflow.models.tokenizer import WordTokenizer
from jaxflow.models.vit import ViTConfig
from jaxflow.models.weights import OPTIONAL_FILES

__all__ = ["save_pretrained", "write_published"]


def save_pretrained(folder: Path, model: Model) -> None:
    """Write a model as the ``transformers`` library reads it.

    ``config.json``, ``model.safetensors``, and the tokenizer's or the image processor's files.

    Raises
    ------
    InputError
        If the model is an `AgreementEncoder`, whose like that library has not, or the folder cannot
        be written.
    """
    from safetensors.numpy import save

    config = model.config
    if not isinstance(config, BertConfig | Gpt2Config | ViTConfig):
        raise InputError(
            "only BERT, DistilBERT, RoBERTa, GPT-2 and ViT can be written for transformers, got an "
            "agreement encoder: use jaxflow export"
        )
    if isinstance(model.tokenizer, WordTokenizer):
        raise InputError("a tokenizer of whole words cannot be written for transformers")
    flat = flax.traverse_util.flatten_dict(model.params["params"], sep=".")
    prefix = "" if config.head == "none" else PREFIXES[kind_of(config)]
    tensors = {}
    for rule in rules(config):
        parts = to_published(rule, np.asarray(flat[rule.ours]))
        for name, part in zip(rule.published, parts, strict=True):
            tensors[f"{prefix if rule.backbone else ''}{name}"] = part
    for copy, name in COPIES.items():
        if name in tensors and f"{copy.removesuffix('bias')}weight" in tensors:  # a decoder apart
            tensors[copy] = tensors[name]
    content = {"model.safetensors": save(tensors, metadata={"format": "pt"})}
    if isinstance(config, ViTConfig):
        content["preprocessor_config.json"] = _bytes(_image_settings(config))
    if isinstance(model.tokenizer, SubwordTokenizer):
        content["tokenizer.json"] = model.tokenizer.backend.to_str(pretty=True).encode()
        content["tokenizer_config.json"] = _bytes(_token_settings(model.tokenizer, config))
    # Last of all: until then the folder holds no model.
    content["config.json"] = _bytes(write_published(config))
    stale = [name for name in OPTIONAL_FILES if name not in content]
    write_together(Path(folder), content, remove=["config.json", *stale])


def _image_settings(config: ViTConfig) -> dict[str, Any]:
    return {
        "image_processor_type": "ViTImageProcessor",
        "do_resize": True,
        "do_rescale": True,
        "do_normalize": True,
        "size": {"height": config.image[0], "width": config.image[1]},
        "resample": 2,
        "rescale_factor": 1 / 255,
        "image_mean": list(config.mean),
        "image_std": list(config.std),
    }


def _token_settings(tokenizer: SubwordTokenizer, config: Any) -> dict[str, Any]:
    named = {
        f"{role}_token": tokenizer.decode([tokenizer.special[role]])[0]
        for role in ROLES
        if role in tokenizer.special
    }
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": config.positions,
        **named,
    }


def _bytes(value: Any) -> bytes:
    return (json.dumps(value, indent=2, allow_nan=False, ensure_ascii=False) + "\n").encode()


def write_published(config: PublishedConfig) -> dict[str, Any]:
    """Turn a configuration into the content of a ``config.json``."""
    kind = kind_of(config)
    shared: dict[str, Any] = {
        "model_type": kind,
        "architectures": [KINDS[kind][config.head]],
        "dtype": "float32",
    }
    if config.labels:
        shared["id2label"] = {str(number): label for number, label in enumerate(config.labels)}
        shared["label2id"] = {label: number for number, label in enumerate(config.labels)}
    if isinstance(config, Gpt2Config):
        return shared | {
            "vocab_size": config.vocabulary,
            "n_positions": config.positions,
            "n_layer": config.layers,
            "n_head": config.heads,
            "n_embd": config.width,
            "n_inner": config.hidden_width,
            "activation_function": config.activation,
            "layer_norm_epsilon": config.epsilon,
            "resid_pdrop": config.dropout,
            "attn_pdrop": config.attention_dropout,
            "embd_pdrop": config.embedding_dropout,
            "tie_word_embeddings": config.tied,
            "pad_token_id": config.pad_id,
        }
    if isinstance(config, BertConfig) and kind == "distilbert":
        return shared | {
            "vocab_size": config.vocabulary,
            "max_position_embeddings": config.positions,
            "n_layers": config.layers,
            "n_heads": config.heads,
            "dim": config.width,
            "hidden_dim": config.hidden_width,
            "activation": config.activation,
            "dropout": config.dropout,
            "attention_dropout": config.attention_dropout,
            "seq_classif_dropout": config.readout_dropout,
            "tie_word_embeddings": config.tied,
            "pad_token_id": config.pad_id,
        }
    sizes = {
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "hidden_size": config.width,
        "intermediate_size": config.block.hidden_width,
        "hidden_act": config.activation,
        "layer_norm_eps": config.epsilon,
        "hidden_dropout_prob": config.dropout,
        "attention_probs_dropout_prob": config.attention_dropout,
    }
    if isinstance(config, ViTConfig):
        side = config.image[0] if config.image[0] == config.image[1] else list(config.image)
        own = {} if config.readout == "cls" else {"jaxflow_readout": config.readout}
        return (
            shared
            | sizes
            | {"image_size": side, "patch_size": config.patch, "num_channels": config.channels}
            | own
        )
    return (
        shared
        | sizes
        | {
            "vocab_size": config.vocabulary,
            "max_position_embeddings": config.positions + config.first_position,
            "type_vocab_size": config.token_types,
            "classifier_dropout": config.readout_dropout,
            "tie_word_embeddings": config.tied,
            "pad_token_id": config.pad_id,
        }
    )
