"""Read and write ``config.json`` of published checkpoints, by one table of field names."""

from __future__ import annotations

import collections
import re
import types
from collections.abc import Mapping
from typing import Any

from jaxflow.errors import InputError
from jaxflow.models.bert import BertConfig
from jaxflow.models.config import (
    LARGEST,
    MOST_CLASSES,
    MOST_LAYERS,
    Head,
    Problem,
    read_field,
)
from jaxflow.models.decoder import DecoderConfig
from jaxflow.models.decoder_files import DECODERS, read_decoder, write_decoder
from jaxflow.models.gpt2 import Gpt2Config
from jaxflow.models.model import PublishedConfig
from jaxflow.models.tensors import heads_in
from jaxflow.models.vit import ViTConfig

# Decoders, by the beginning of their classes' names.
_STEMS = {
    "llama": "Llama", "qwen2": "Qwen2", "qwen3": "Qwen3", "mistral": "Mistral", "phi3": "Phi3",
    "gemma2": "Gemma2", "gemma3_text": "Gemma3Text", "gpt_oss": "GptOss", "gpt_neox": "GPTNeoX",
}  # fmt: skip

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
    **{
        kind: {
            "none": f"{stem}Model",
            "classification": f"{stem}ForSequenceClassification",
            "lm": f"{stem.removesuffix('Text')}ForCausalLM",
        }
        for kind, stem in _STEMS.items()
    },
}
# Two heads in one: only the masked-LM head is built here.
_ALIASES: dict[str, Head] = {"BertForPreTraining": "masked-lm"}

#: Endings of the classes whose head is not built here: their encoder is read without it.
_HEADLESS = (
    "ForTokenClassification",
    "ForQuestionAnswering",
    "ForMultipleChoice",
    "ForNextSentencePrediction",
    "ForCausalLM",
    "LMHeadModel",
    "DoubleHeadsModel",
    "ForMaskedImageModeling",
)
_CLASSES = {
    "bert": "Bert", "distilbert": "DistilBert", "roberta": "Roberta", "gpt2": "GPT2", **_STEMS,
}  # fmt: skip

_PROBLEMS: dict[str, Problem] = {
    "single_label_classification": "single-label",
    "multi_label_classification": "multi-label",
    "regression": "regression",
}

# The other names that the library reads a field by, which count where both are there.
_OTHER_NAMES: dict[str, dict[str, str]] = {
    "distilbert": {
        "hidden_size": "dim",
        "num_attention_heads": "n_heads",
        "num_hidden_layers": "n_layers",
    },
    "gpt2": {
        "hidden_size": "n_embd",
        "max_position_embeddings": "n_positions",
        "num_attention_heads": "n_head",
        "num_hidden_layers": "n_layer",
    },
}

# Fields that change the numbers, with the only value that is built here.
_ONLY: dict[str, Any] = {
    "position_embedding_type": "absolute",
    "is_decoder": False,
    "add_cross_attention": False,
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
    "qkv_bias": True,
    "embedding_size": None,
    "pruned_heads": None,
    "per_layer_config": None,
}

#: Fields of the library's configurations that no number of a model with these heads depends on:
#: how it is run or first drawn, parts that are not built here, and names. Others are not known to
#: that library either, and no model of it reads them.
NO_NUMBERS = frozenset({
    "_name_or_path", "bos_token_id", "chunk_size_feed_forward", "dtype", "encoder_stride",
    "eos_token_id", "initializer_range", "is_encoder_decoder", "label2id", "output_attentions",
    "output_hidden_states", "pooler_act", "pooler_output_size", "qa_dropout",
    "reorder_and_upcast_attn", "return_dict", "sinusoidal_pos_embds", "summary_activation",
    "summary_first_dropout", "summary_proj_to_labels", "summary_type", "summary_use_proj",
    "transformers_version", "use_cache",
})  # fmt: skip

# Our field -> its published name, and the default there, whose type decides how it is read.
_Names = dict[str, tuple[str, Any]]
_TRUNK: _Names = {
    "layers": ("num_hidden_layers", 12),
    "heads": ("num_attention_heads", 12),
    "width": ("hidden_size", 768),
    "hidden_width": ("intermediate_size", 3072),
    "activation": ("hidden_act", "gelu"),
    "epsilon": ("layer_norm_eps", 1e-12),
    "dropout": ("hidden_dropout_prob", 0.1),
    "attention_dropout": ("attention_probs_dropout_prob", 0.1),
}
_TEXT: _Names = {
    "vocabulary": ("vocab_size", 30_522),
    "positions": ("max_position_embeddings", 512),
    "tied": ("tie_word_embeddings", True),
    "pad_id": ("pad_token_id", 0),
}
_BERT: _Names = {
    **_TRUNK,
    **_TEXT,
    "token_types": ("type_vocab_size", 2),
    "readout_dropout": ("classifier_dropout", 0.1),
}
_FIELDS: dict[str, _Names] = {
    "bert": _BERT,
    "roberta": {**_BERT, "vocabulary": ("vocab_size", 50_265), "pad_id": ("pad_token_id", 1)},
    "distilbert": {
        **_TEXT,
        "layers": ("n_layers", 6),
        "heads": ("n_heads", 12),
        "width": ("dim", 768),
        "hidden_width": ("hidden_dim", 3072),
        "activation": ("activation", "gelu"),
        "dropout": ("dropout", 0.1),
        "attention_dropout": ("attention_dropout", 0.1),
        "readout_dropout": ("seq_classif_dropout", 0.2),
    },
    "gpt2": {
        **_TEXT,
        "vocabulary": ("vocab_size", 50_257),
        "positions": ("n_positions", 1024),
        "pad_id": ("pad_token_id", None),
        "layers": ("n_layer", 12),
        "heads": ("n_head", 12),
        "width": ("n_embd", 768),
        "hidden_width": ("n_inner", None),
        "activation": ("activation_function", "gelu_new"),
        "epsilon": ("layer_norm_epsilon", 1e-5),
        "dropout": ("resid_pdrop", 0.1),
        "attention_dropout": ("attn_pdrop", 0.1),
        "embedding_dropout": ("embd_pdrop", 0.1),
    },
    "vit": {
        **_TRUNK,
        "channels": ("num_channels", 3),
        "dropout": ("hidden_dropout_prob", 0.0),
        "attention_dropout": ("attention_probs_dropout_prob", 0.0),
    },
}

# Labels take memory although no file may hold them, and pixels are from 0 to 1.
_LARGEST_PIXEL = 1_000
_LARGEST = {"layers": MOST_LAYERS, "channels": 1 << 10}


def kind_of(config: PublishedConfig) -> str:
    """Return the ``model_type`` of a configuration."""
    if isinstance(config, BertConfig | DecoderConfig):
        return config.kind
    return "gpt2" if isinstance(config, Gpt2Config) else "vit"


def read_published(
    fields: Mapping[str, Any],
    *,
    head: Head | None = None,
    classes: int | None = None,
    tensors: Mapping[str, str] = types.MappingProxyType({}),
    images: Mapping[str, Any] | None = None,
) -> PublishedConfig:
    """Return the configuration that the content of a ``config.json`` describes.

    `head` of None is the one that the file names, or if it names none the one whose tensors are
    there: `tensors` maps names without the encoder's prefix to those in the checkpoint. `classes`
    is the number of classes where the file does not name them, `images` the content of
    ``preprocessor_config.json``.

    Raises `InputError` if the architecture is none of `KINDS`, is changed in a way that is not
    built here (pruned heads, relative positions, cross-attention), or a size is missing or
    impossible.
    """
    kind = fields.get("model_type")
    if not isinstance(kind, str) or kind not in KINDS:
        raise InputError(
            f"model_type must be one of {', '.join(KINDS)}, got {kind!r}: other architectures are "
            "not built here"
        )
    names = _OTHER_NAMES.get(kind, {})
    fields = {**fields, **{names[name]: fields[name] for name in names if name in fields}}
    if quantised := fields.get("quantization_config"):
        method = quantised.get("quant_method") if isinstance(quantised, dict) else None
        raise InputError(
            f"quantization_config must be None, got one of {method or 'an unknown method'}: "
            "quantised models are not read here, save it dequantised"
        )
    for name, only in _ONLY.items():
        if fields.get(name) not in (None, only, {}):
            raise InputError(
                f"{name} must be {only!r} for a model built here, got {fields[name]!r}"
            )
    head = head or _head(kind, fields, tensors)
    if head not in KINDS[kind]:
        raise InputError(f"head must be one of {', '.join(KINDS[kind])} for {kind}, got {head!r}")
    given: dict[str, Any] = {
        "head": head,
        "labels": _labels(fields, classes) if head == "classification" else (),
        "problem": _problem(fields) if head == "classification" else None,
    }
    if kind in DECODERS:
        return read_decoder(kind, fields, **given)
    for ours, (name, default) in _FIELDS[kind].items():
        if name == "classifier_dropout":
            default = given["dropout"]
        given[ours] = read_field(fields, name, default, _LARGEST.get(ours, LARGEST))
    if kind == "gpt2":
        given["hidden_width"] = given["hidden_width"] or 4 * given["width"]
        ends = [fields.get(f"{role}_token_id", 50_256) for role in ("bos", "eos")]
        pad_id = given["pad_id"]
        return Gpt2Config(**given, pad_is_end=pad_id is not None and pad_id in ends)
    if kind == "vit":
        return ViTConfig(**given, **_image_fields(fields, given["channels"], images or {}))
    if kind == "roberta":
        if given["pad_id"] is None:
            raise InputError("pad_token_id must be a number: RoBERTa counts positions from it")
        given["positions"] -= given["pad_id"] + 1
    own: dict[str, Any] = {"pooler": "pooler.dense.weight" in tensors and head == "none"}
    if kind == "distilbert":
        own = {"token_types": 0}
    return BertConfig(kind=kind, **given, **own)  # type: ignore[arg-type]


def write_published(config: PublishedConfig) -> dict[str, Any]:
    """Return the content of a ``config.json`` that describes a configuration."""
    kind = kind_of(config)
    content: dict[str, Any] = {
        "model_type": kind,
        "architectures": [KINDS[kind][config.head]],
        "dtype": "float32",
    }
    if config.labels:
        content["id2label"] = {str(number): label for number, label in enumerate(config.labels)}
        content["label2id"] = {label: number for number, label in enumerate(config.labels)}
    if config.problem:
        names = {ours: name for name, ours in _PROBLEMS.items()}
        content["problem_type"] = names[config.problem]
    if isinstance(config, DecoderConfig):
        return content | write_decoder(config)
    for ours, (name, _) in _FIELDS[kind].items():
        content[name] = getattr(config, ours)
    if kind == "roberta":
        content["max_position_embeddings"] += config.first_position  # type: ignore[union-attr]
    if isinstance(config, Gpt2Config):
        end = config.pad_id if config.pad_is_end else None
        content |= {"bos_token_id": end, "eos_token_id": end}
    if isinstance(config, ViTConfig):
        content["intermediate_size"] = config.block.hidden_width
        one = config.image[0] == config.image[1]
        content["image_size"] = config.image[0] if one else list(config.image)
        content["patch_size"] = config.patch
        if config.readout != "cls":
            content["jaxflow_readout"] = config.readout
    return content


def image_settings(config: ViTConfig) -> dict[str, Any]:
    """Return the content of a ``preprocessor_config.json``."""
    sides = ("height", "width")
    resize = config.image if config.resize is None else config.resize
    settings: dict[str, Any] = {
        "image_processor_type": "ViTImageProcessor",
        "do_resize": bool(resize),
        "do_rescale": True,
        "do_normalize": True,
        "size": dict(zip(sides if len(resize) == 2 else ("shortest_edge",), resize, strict=False)),
        "resample": config.resample,
        "rescale_factor": config.scale,
        "image_mean": list(config.mean),
        "image_std": list(config.std),
    }
    if config.crop is not None:
        settings |= {
            "do_center_crop": True,
            "crop_size": dict(zip(sides, config.crop, strict=True)),
        }
    return settings


def _head(kind: str, fields: Mapping[str, Any], tensors: Mapping[str, str]) -> Head:
    named = fields.get("architectures")
    if not named:
        found = heads_in(kind, tensors)
        if len(found) > 1:
            raise InputError(
                f"architectures must name a class, and is missing, where the file has the heads "
                f"{', '.join(found)}: give the head to read"
            )
        return found[0] if found else "none"
    if not isinstance(named, list) or not isinstance(named[0], str):
        raise InputError(f"architectures must be a list of names, got {named!r}")
    for head, name in KINDS[kind].items():
        if named[0] == name:
            return head
    if named[0] in _ALIASES:
        return _ALIASES[named[0]]
    if named[0] in [f"{_CLASSES.get(kind, 'ViT')}{ending}" for ending in _HEADLESS]:
        return "none"
    raise InputError(
        f"architectures must name one of {', '.join(KINDS[kind].values())}, got {named[0]!r}: "
        f"give the head to read, one of {', '.join(KINDS[kind])}"
    )


def _labels(fields: Mapping[str, Any], classes: int | None) -> tuple[str, ...]:
    named = fields.get("id2label")
    if named is None:
        default = classes if classes is not None else 2
        count = read_field(fields, "num_labels", default, MOST_CLASSES)
        return tuple(f"LABEL_{number}" for number in range(count))
    try:
        labels = {int(number): str(label) for number, label in named.items()}
    except (AttributeError, ValueError) as error:
        raise InputError(f"id2label must map numbers to names, got {named!r}") from error
    if sorted(labels) != list(range(len(labels))):
        raise InputError(f"id2label must name the classes from 0 on, got {sorted(labels)}")
    return _distinct([labels[number] for number in range(len(labels))])


def _distinct(labels: list[str]) -> tuple[str, ...]:
    """Add its number to every name that more than one class has."""
    while len(set(labels)) < len(labels):
        counts = collections.Counter(labels)
        labels = [
            f"{label} ({number})" if counts[label] > 1 else label
            for number, label in enumerate(labels)
        ]
    return tuple(labels)


def _problem(fields: Mapping[str, Any]) -> Problem | None:
    stated = fields.get("problem_type")
    if stated is None:
        return None
    if not isinstance(stated, str) or stated not in _PROBLEMS:
        raise InputError(f"problem_type must be one of {', '.join(_PROBLEMS)}, got {stated!r}")
    return _PROBLEMS[stated]


# Image processors, by the beginning of their names, and their settings where a file has none.
_PROCESSORS: dict[str, dict[str, Any]] = {
    "ViT": {"size": None, "resample": 2, "image_mean": [0.5] * 3, "image_std": [0.5] * 3},
    "DeiT": {
        "size": 256, "do_center_crop": True, "crop_size": 224, "resample": 3,
        "image_mean": [0.5] * 3, "image_std": [0.5] * 3,
    },
    "CLIP": {
        "size": {"shortest_edge": 224}, "do_center_crop": True, "crop_size": 224, "resample": 3,
        "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_std": [0.26862954, 0.26130258, 0.27577711],
    },
}  # fmt: skip
_STEPS = ("do_resize", "do_rescale", "do_normalize", "do_center_crop", "do_convert_rgb")


def _image_fields(
    fields: Mapping[str, Any], channels: int, images: Mapping[str, Any]
) -> dict[str, Any]:
    side = fields.get("image_size", 224)
    image = tuple(side) if isinstance(side, list) else (side, side)
    if len(image) != 2 or not all(isinstance(part, int) and 1 <= part <= 1 << 16 for part in image):
        raise InputError(f"image_size must be one or two whole numbers of pixels, got {side!r}")
    patch = fields.get("patch_size", 16)
    if isinstance(patch, list) and len(patch) == 2 and patch[0] == patch[1]:
        patch = patch[0]
    return {
        "image": image,
        "patch": read_field({"patch_size": patch}, "patch_size", 16),
        "readout": fields.get("jaxflow_readout", "cls"),
        **_preparation(images, image, channels),
    }


def _preparation(
    images: Mapping[str, Any], image: tuple[int, ...], channels: int
) -> dict[str, Any]:
    """Return the fields of a `ViTConfig` that say how a picture becomes pixels."""
    name = images.get("image_processor_type") or images.get("feature_extractor_type") or "ViT"
    kind = re.sub("(ImageProcessor|FeatureExtractor).*", "", str(name))
    if kind not in _PROCESSORS:
        raise InputError(
            f"image_processor_type must be that of {', '.join(_PROCESSORS)}, got {name!r}"
        )
    usual = dict.fromkeys(_STEPS, True) | {"do_center_crop": False} | _PROCESSORS[kind]
    given = usual | {key: value for key, value in images.items() if value is not None}
    steps = {key: value for key, value in given.items() if key.startswith("do_")}
    for step, done in steps.items():
        if not isinstance(done, bool) or (done and step not in _STEPS):
            raise InputError(f"{step} must be {'true or ' * (step in _STEPS)}false, got {done!r}")
    size = given["size"]
    if kind == "CLIP" and not isinstance(size, dict | list):
        size = {"shortest_edge": size}
    resize = () if not steps["do_resize"] else None if size is None else _sides("size", size)
    prepared: dict[str, Any] = {
        "resize": None if resize == image else resize,
        "crop": _sides("crop_size", given["crop_size"]) if steps["do_center_crop"] else None,
        "resample": read_field(given, "resample", 2, 5),
        "scale": read_field(given, "rescale_factor", 1 / 255) if steps["do_rescale"] else 1.0,
        "mean": (0.0,) * channels,
        "std": (1.0,) * channels,
    }
    if steps["do_normalize"]:
        if kind == "ViT" and channels != 3:
            given = {"image_mean": [0.5] * channels, "image_std": [0.5] * channels} | dict(images)
        prepared["mean"] = _channel_values(given, "image_mean")
        prepared["std"] = _channel_values(given, "image_std")
    return prepared


def _sides(name: str, size: Any) -> tuple[int, ...]:
    """Return height and width in pixels, or the shorter side alone."""
    if isinstance(size, dict):
        keys = [key for key, value in size.items() if value is not None]
        size = [size.get(key) for key in ("height", "width", "shortest_edge") if key in keys]
        if sorted(keys) not in (["height", "width"], ["shortest_edge"]):
            size = keys
    sides = tuple(size) if isinstance(size, list | tuple) else (size, size)
    if not 1 <= len(sides) <= 2 or not all(
        isinstance(side, int) and 1 <= side <= 1 << 16 for side in sides
    ):
        raise InputError(f"{name} must be height and width or shortest_edge, got {size!r}")
    return sides


def _channel_values(images: Mapping[str, Any], name: str) -> tuple[float, ...]:
    values = images[name]
    if not isinstance(values, list | tuple) or not all(
        isinstance(value, int | float) and abs(value) <= _LARGEST_PIXEL for value in values
    ):
        raise InputError(f"{name} must be a list of numbers of at most 1,000, got {values!r}")
    return tuple(map(float, values))
