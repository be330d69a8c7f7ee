"""``config.json`` of published checkpoints, read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jaxflow.errors import InputError
from jaxflow.models.bert import BertConfig
from jaxflow.models.config import LARGEST, MOST_LAYERS, Head
from jaxflow.models.gpt2 import Gpt2Config
from jaxflow.models.names import PublishedConfig
from jaxflow.models.vit import ViTConfig

__all__ = ["KINDS", "kind_of", "read_published"]

#: The architectures, by ``model_type``, and the names of their heads' classes.
KINDS: dict[str, dict[Head, str]] = {
    "bert": {
        "none": "BertModel",
        "classification": "BertForSequenceClassification",
        "masked-lm": "BertForMaskedLM",
    },
    "distilbert": {
        "none": "DistilBertModel",
        "classification": "DistilBertForSequenceClassification",
        "masked-lm": "DistilBertForMaskedLM",
    },
    "roberta": {
        "none": "RobertaModel",
        "classification": "RobertaForSequenceClassification",
        "masked-lm": "RobertaForMaskedLM",
    },
    "gpt2": {
        "none": "GPT2Model",
        "classification": "GPT2ForSequenceClassification",
        "lm": "GPT2LMHeadModel",
    },
    "vit": {"none": "ViTModel", "classification": "ViTForImageClassification"},
}
# Two heads in one: the masked tokens are what can be read here.
_ALIASES: dict[str, Head] = {"BertForPreTraining": "masked-lm"}

# What changes the numbers and is not built here, with the only value that is.
_ONLY: dict[str, Any] = {
    "position_embedding_type": "absolute",
    "is_decoder": False,
    "add_cross_attention": False,
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
    "qkv_bias": True,
    "embedding_size": None,
}

# Beyond these, too, nothing is made; names of classes take memory, though no file may hold them.
_MOST_CLASSES, _MOST_CHANNELS = 1 << 16, 1 << 10
_LARGEST_PIXEL = 1_000  # pixels are from 0 to 1, their means and deviations too


def kind_of(config: PublishedConfig) -> str:
    """Return the ``model_type`` of a configuration."""
    if isinstance(config, BertConfig):
        return config.kind
    return "gpt2" if isinstance(config, Gpt2Config) else "vit"


def read_published(
    fields: Mapping[str, Any],
    *,
    head: Head | None = None,
    classes: int | None = None,
    pooler: bool = False,
    images: Mapping[str, Any] | None = None,
) -> PublishedConfig:
    """Turn the content of a ``config.json`` into a configuration.

    Parameters
    ----------
    fields
        The JSON object.
    head
        The head that is wanted; None takes the one that the file names.
    classes
        How many classes the checkpoint's head has, where the file does not name them.
    pooler
        Whether the checkpoint has what classes are read off, for a model without a head.
    images
        The content of ``preprocessor_config.json``, for a model of images.

    Raises
    ------
    InputError
        If the architecture is none of `KINDS`, is changed in a way that is not built here (pruned
        heads, relative positions, cross-attention), or a size is missing or impossible.
    """
    kind = fields.get("model_type")
    if not isinstance(kind, str) or kind not in KINDS:
        raise InputError(
            f"model_type must be one of {', '.join(KINDS)}, got {kind!r}: other architectures are "
            "not built here"
        )
    if fields.get("pruned_heads"):
        raise InputError(
            "pruned_heads must be empty: a model whose layers have different heads has no "
            "attention of one shape; load the checkpoint from before pruning"
        )
    for name, only in _ONLY.items():
        if name in fields and fields[name] != only and fields[name] is not None:
            raise InputError(
                f"{name} must be {only!r} for a model built here, got {fields[name]!r}"
            )
    head = head or _head(kind, fields)
    if head not in KINDS[kind]:
        raise InputError(f"head must be one of {', '.join(KINDS[kind])} for {kind}, got {head!r}")
    labels = _labels(fields, classes) if head == "classification" else ()
    if kind == "gpt2":
        return _gpt2(fields, head, labels)
    if kind == "vit":
        return _vit(fields, head, labels, images or {})
    return _bert(kind, fields, head, labels, pooler)


def _head(kind: str, fields: Mapping[str, Any]) -> Head:
    named = fields.get("architectures") or [KINDS[kind]["none"]]
    if not isinstance(named, list) or not isinstance(named[0], str):
        raise InputError(f"architectures must be a list of names, got {named!r}")
    for head, name in KINDS[kind].items():
        if named[0] == name:
            return head
    if named[0] in _ALIASES:
        return _ALIASES[named[0]]
    raise InputError(
        f"architectures must name one of {', '.join(KINDS[kind].values())}, got {named[0]!r}: "
        f"give the head to read, one of {', '.join(KINDS[kind])}"
    )


def _labels(fields: Mapping[str, Any], classes: int | None) -> tuple[str, ...]:
    named = fields.get("id2label")
    if named is None:
        count = _size(
            fields, "num_labels", classes if classes is not None else 2, largest=_MOST_CLASSES
        )
        return tuple(f"LABEL_{number}" for number in range(count))
    try:
        labels = {int(number): str(label) for number, label in named.items()}
    except (AttributeError, ValueError) as error:
        raise InputError(f"id2label must map numbers to names, got {named!r}") from error
    if sorted(labels) != list(range(len(labels))):
        raise InputError(f"id2label must name the classes from 0 on, got {sorted(labels)}")
    return tuple(labels[number] for number in range(len(labels)))


def _size(
    fields: Mapping[str, Any], name: str, default: int | None = None, *, largest: int = LARGEST
) -> int:
    value = fields.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= largest:
        raise InputError(f"{name} must be a whole number from 0 to {largest:,}, got {value!r}")
    return value


def _rate(fields: Mapping[str, Any], name: str, default: float) -> float:
    value = fields.get(name, default)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise InputError(f"{name} must be a number from 0 to 1, got {value!r}")
    return float(value)


def _flag(fields: Mapping[str, Any], name: str, default: bool) -> bool:
    value = fields.get(name, default)
    if not isinstance(value, bool):
        raise InputError(f"{name} must be true or false, got {value!r}")
    return value


def _channel_values(images: Mapping[str, Any], name: str, channels: int) -> tuple[float, ...]:
    values = images.get(name, (0.5,) * channels)
    if not isinstance(values, list | tuple) or not all(
        isinstance(value, int | float) and abs(value) <= _LARGEST_PIXEL for value in values
    ):
        raise InputError(f"{name} must be a list of numbers of at most 1,000, got {values!r}")
    return tuple(map(float, values))


def _bert(
    kind: str, fields: Mapping[str, Any], head: Head, labels: tuple[str, ...], pooler: bool
) -> BertConfig:
    pad_id = _size(fields, "pad_token_id", {"roberta": 1}.get(kind, 0))
    positions = _size(fields, "max_position_embeddings", 512)
    sizes: dict[str, Any]
    rates: dict[str, Any]
    manner: dict[str, Any]
    if kind == "distilbert":
        sizes = {
            "layers": _size(fields, "n_layers", 6, largest=MOST_LAYERS),
            "heads": _size(fields, "n_heads", 12),
            "width": _size(fields, "dim", 768),
            "hidden_width": _size(fields, "hidden_dim", 3072),
        }
        rates = {
            "dropout": _rate(fields, "dropout", 0.1),
            "attention_dropout": _rate(fields, "attention_dropout", 0.1),
            "readout_dropout": _rate(fields, "seq_classif_dropout", 0.2),
        }
        manner = {"activation": fields.get("activation", "gelu"), "epsilon": 1e-12}
    else:
        sizes = {
            "layers": _size(fields, "num_hidden_layers", 12, largest=MOST_LAYERS),
            "heads": _size(fields, "num_attention_heads", 12),
            "width": _size(fields, "hidden_size", 768),
            "hidden_width": _size(fields, "intermediate_size", 3072),
        }
        dropout = _rate(fields, "hidden_dropout_prob", 0.1)
        rates = {
            "dropout": dropout,
            "attention_dropout": _rate(fields, "attention_probs_dropout_prob", 0.1),
            "readout_dropout": _rate(fields, "classifier_dropout", dropout),
        }
        manner = {
            "activation": fields.get("hidden_act", "gelu"),
            "epsilon": _rate(fields, "layer_norm_eps", 1e-12),
        }
    return BertConfig(
        kind=kind,  # type: ignore[arg-type]
        head=head,
        vocabulary=_size(fields, "vocab_size", 50_265 if kind == "roberta" else 30_522),
        positions=positions - (pad_id + 1 if kind == "roberta" else 0),
        token_types=0 if kind == "distilbert" else _size(fields, "type_vocab_size", 2),
        labels=labels,
        pooler=pooler and head == "none" and kind != "distilbert",
        tied=_flag(fields, "tie_word_embeddings", True),
        pad_id=pad_id,
        **sizes,
        **rates,
        **manner,
    )


def _gpt2(fields: Mapping[str, Any], head: Head, labels: tuple[str, ...]) -> Gpt2Config:
    width = _size(fields, "n_embd", 768)
    inner = fields.get("n_inner")
    pad_id = fields.get("pad_token_id")
    return Gpt2Config(
        head=head,
        vocabulary=_size(fields, "vocab_size", 50_257),
        positions=_size(fields, "n_positions", 1024),
        layers=_size(fields, "n_layer", 12, largest=MOST_LAYERS),
        heads=_size(fields, "n_head", 12),
        width=width,
        hidden_width=4 * width if inner is None else _size(fields, "n_inner"),
        labels=labels,
        activation=fields.get("activation_function", "gelu_new"),
        epsilon=_rate(fields, "layer_norm_epsilon", 1e-5),
        dropout=_rate(fields, "resid_pdrop", 0.1),
        attention_dropout=_rate(fields, "attn_pdrop", 0.1),
        embedding_dropout=_rate(fields, "embd_pdrop", 0.1),
        tied=_flag(fields, "tie_word_embeddings", True),
        pad_id=None if pad_id is None else _size(fields, "pad_token_id"),
    )


def _vit(
    fields: Mapping[str, Any], head: Head, labels: tuple[str, ...], images: Mapping[str, Any]
) -> ViTConfig:
    channels = _size(fields, "num_channels", 3, largest=_MOST_CHANNELS)
    side = fields.get("image_size", 224)
    image = tuple(side) if isinstance(side, list) else (side, side)
    if len(image) != 2 or not all(isinstance(part, int) and 1 <= part <= 1 << 16 for part in image):
        raise InputError(f"image_size must be one or two whole numbers of pixels, got {side!r}")
    patch = fields.get("patch_size", 16)
    if isinstance(patch, list) and len(patch) == 2 and patch[0] == patch[1]:
        patch = patch[0]
    return ViTConfig(
        head=head,
        image=image,
        patch=_size({"patch_size": patch}, "patch_size"),
        channels=channels,
        layers=_size(fields, "num_hidden_layers", 12, largest=MOST_LAYERS),
        heads=_size(fields, "num_attention_heads", 12),
        width=_size(fields, "hidden_size", 768),
        hidden_width=_size(fields, "intermediate_size", 3072),
        labels=labels,
        activation=fields.get("hidden_act", "gelu"),
        epsilon=_rate(fields, "layer_norm_eps", 1e-12),
        dropout=_rate(fields, "hidden_dropout_prob", 0.0),
        attention_dropout=_rate(fields, "attention_probs_dropout_prob", 0.0),
        mean=_channel_values(images, "image_mean", channels),
        std=_channel_values(images, "image_std", channels),
        readout=fields.get("jaxflow_readout", "cls"),
    )
