"""``config.json`` of published checkpoints, written."""

from __future__ import annotations

from typing import Any

from jaxflow.models.bert import BertConfig
from jaxflow.models.gpt2 import Gpt2Config
from jaxflow.models.names import PublishedConfig
from jaxflow.models.published import KINDS, kind_of
from jaxflow.models.vit import ViTConfig

__all__ = ["write_published"]


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
