"""How the parameters are called and laid out in published checkpoints, both ways.

One rule says where one of our parameters is found: the published tensors it is made of, their
shape, and how they are laid out. The published names are those of the ``transformers`` library.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from jaxflow.models.bert import BertConfig
from jaxflow.models.gpt2 import Gpt2Config
from jaxflow.models.vit import ViTConfig

__all__ = [
    "COPIES",
    "PREFIXES",
    "PublishedConfig",
    "Rule",
    "not_needed",
    "rules",
    "to_ours",
    "to_published",
]

PublishedConfig = BertConfig | Gpt2Config | ViTConfig

#: What the names of the encoder begin with in a checkpoint that has a head besides.
PREFIXES = {
    "bert": "bert.",
    "distilbert": "distilbert.",
    "roberta": "roberta.",
    "gpt2": "transformer.",
    "vit": "vit.",
}

#: Tensors that a checkpoint may hold a second time under a name that then counts, if they differ.
COPIES = {
    "cls.predictions.decoder.bias": "cls.predictions.bias",
    "lm_head.decoder.bias": "lm_head.bias",
}

Layout = Literal["same", "transposed", "joined", "patches", "one row", "one image"]


class Rule(NamedTuple):
    """Where one parameter is found.

    Attributes
    ----------
    ours
        Its path here, joined by dots.
    published
        The tensors that it is made of, without the encoder's prefix.
    shape
        Of each of these tensors.
    layout
        ``same``; ``transposed``; ``joined`` along the output, transposed if matrices;
        ``patches``, a convolution's kernel ``[D, channels, side, side]``; ``one row`` of a table
        ``[1, 1, D]``; ``one image`` ``[1, n, D]``.
    backbone
        Whether it belongs to the encoder, and not to the head.
    """

    ours: str
    published: tuple[str, ...]
    shape: tuple[int, ...]
    layout: Layout = "same"
    backbone: bool = True


def _dense(
    ours: str, theirs: str, inputs: int, outputs: int, *, backbone: bool = True, bias: bool = True
) -> Iterator[Rule]:
    yield Rule(f"{ours}.kernel", (f"{theirs}.weight",), (outputs, inputs), "transposed", backbone)
    if bias:
        yield Rule(f"{ours}.bias", (f"{theirs}.bias",), (outputs,), "same", backbone)


def _norm(ours: str, theirs: str, width: int, *, backbone: bool = True) -> Iterator[Rule]:
    yield Rule(f"{ours}.scale", (f"{theirs}.weight",), (width,), "same", backbone)
    yield Rule(f"{ours}.bias", (f"{theirs}.bias",), (width,), "same", backbone)


def _joined(ours: str, theirs: Sequence[str], width: int) -> Iterator[Rule]:
    yield Rule(
        f"{ours}.kernel", tuple(f"{name}.weight" for name in theirs), (width, width), "joined"
    )
    yield Rule(f"{ours}.bias", tuple(f"{name}.bias" for name in theirs), (width,), "joined")


def rules(config: PublishedConfig) -> list[Rule]:
    """Return the rules of all parameters of a configuration."""
    if isinstance(config, BertConfig):
        return list(_bert(config))
    return list(_gpt2(config) if isinstance(config, Gpt2Config) else _vit(config))


_BERT_BLOCK = {
    "attention": [f"attention.self.{name}" for name in ("query", "key", "value")],
    "attention_out": "attention.output.dense",
    "norm_attention": "attention.output.LayerNorm",
    "up": "intermediate.dense",
    "down": "output.dense",
    "norm_feed_forward": "output.LayerNorm",
}
_BLOCKS: dict[str, dict[str, Any]] = {
    "bert": _BERT_BLOCK,
    "roberta": _BERT_BLOCK,
    "distilbert": {
        "attention": [f"attention.{name}_lin" for name in "qkv"],
        "attention_out": "attention.out_lin",
        "norm_attention": "sa_layer_norm",
        "up": "ffn.lin1",
        "down": "ffn.lin2",
        "norm_feed_forward": "output_layer_norm",
    },
    "vit": {
        "attention": [f"attention.attention.{name}" for name in ("query", "key", "value")],
        "attention_out": "attention.output.dense",
        "norm_attention": "layernorm_before",
        "up": "intermediate.dense",
        "down": "output.dense",
        "norm_feed_forward": "layernorm_after",
    },
}


def _blocks(kind: str, stem: str, config: BertConfig | ViTConfig) -> Iterator[Rule]:
    names, width = _BLOCKS[kind], config.width
    hidden = config.block.hidden_width
    for layer in range(config.layers):
        ours, theirs = f"blocks_{layer}", f"{stem}.{layer}"
        yield from _joined(
            f"{ours}.qkv", [f"{theirs}.{name}" for name in names["attention"]], width
        )
        for part, inputs, outputs in (
            ("attention_out", width, width),
            ("up", width, hidden),
            ("down", hidden, width),
        ):
            yield from _dense(f"{ours}.{part}", f"{theirs}.{names[part]}", inputs, outputs)
        for part in ("norm_attention", "norm_feed_forward"):
            yield from _norm(f"{ours}.{part}", f"{theirs}.{names[part]}", width)


def _bert(config: BertConfig) -> Iterator[Rule]:
    width, words, kind = config.width, config.vocabulary, config.kind
    rows = config.positions + config.first_position
    yield Rule("word.embedding", ("embeddings.word_embeddings.weight",), (words, width))
    yield Rule("position", ("embeddings.position_embeddings.weight",), (rows, width))
    if config.token_types:
        name, shape = "embeddings.token_type_embeddings.weight", (config.token_types, width)
        yield Rule("token_type", (name,), shape)
    yield from _norm("norm", "embeddings.LayerNorm", width)
    stem = "transformer.layer" if kind == "distilbert" else "encoder.layer"
    yield from _blocks(kind, stem, config)

    if config.head == "classification":
        dense, readout = {
            "bert": ("pooler.dense", "classifier"),
            "distilbert": ("pre_classifier", "classifier"),
            "roberta": ("classifier.dense", "classifier.out_proj"),
        }[kind]
        yield from _dense("pooler", dense, width, width, backbone=kind == "bert")
        yield from _dense("readout", readout, width, config.classes, backbone=False)
    elif config.pooler:
        yield from _dense("pooler", "pooler.dense", width, width)
    if config.head == "masked-lm":
        dense, norm, bias, table = {
            "bert": (
                "cls.predictions.transform.dense",
                "cls.predictions.transform.LayerNorm",
                "cls.predictions.bias",
                "cls.predictions.decoder.weight",
            ),
            "distilbert": (
                "vocab_transform",
                "vocab_layer_norm",
                "vocab_projector.bias",
                "vocab_projector.weight",
            ),
            "roberta": (
                "lm_head.dense",
                "lm_head.layer_norm",
                "lm_head.bias",
                "lm_head.decoder.weight",
            ),
        }[kind]
        yield from _dense("masked.dense", dense, width, width, backbone=False)
        yield from _norm("masked.norm", norm, width, backbone=False)
        yield Rule("masked.bias", (bias,), (words,), "same", False)
        if not config.tied:
            yield Rule("masked.decoder", (table,), (words, width), "same", False)


def _gpt2(config: Gpt2Config) -> Iterator[Rule]:
    width, hidden = config.width, config.hidden_width
    yield Rule("word.embedding", ("wte.weight",), (config.vocabulary, width))
    yield Rule("position", ("wpe.weight",), (config.positions, width))
    for layer in range(config.layers):
        ours, theirs = f"blocks_{layer}", f"h.{layer}"
        for part, name, inputs, outputs in (
            ("qkv", "attn.c_attn", width, 3 * width),
            ("attention_out", "attn.c_proj", width, width),
            ("up", "mlp.c_fc", width, hidden),
            ("down", "mlp.c_proj", hidden, width),
        ):
            # GPT-2's authors laid their matrices out as ours are.
            yield Rule(f"{ours}.{part}.kernel", (f"{theirs}.{name}.weight",), (inputs, outputs))
            yield Rule(f"{ours}.{part}.bias", (f"{theirs}.{name}.bias",), (outputs,))
        yield from _norm(f"{ours}.norm_attention", f"{theirs}.ln_1", width)
        yield from _norm(f"{ours}.norm_feed_forward", f"{theirs}.ln_2", width)
    yield from _norm("norm", "ln_f", width)
    if config.head == "classification":
        yield from _dense("readout", "score", width, config.classes, backbone=False, bias=False)
    if config.head == "lm" and not config.tied:
        shape = (config.vocabulary, width)
        yield Rule("decoder", ("lm_head.weight",), shape, "same", False)


def _vit(config: ViTConfig) -> Iterator[Rule]:
    width, side = config.width, config.patch
    yield Rule("cls", ("embeddings.cls_token",), (1, 1, width), "one row")
    shape = (1, config.positions, width)
    yield Rule("position", ("embeddings.position_embeddings",), shape, "one image")
    stem = "embeddings.patch_embeddings.projection"
    kernel = (width, config.channels, side, side)
    yield Rule("patches.kernel", (f"{stem}.weight",), kernel, "patches")
    yield Rule("patches.bias", (f"{stem}.bias",), (width,))
    yield from _blocks("vit", "encoder.layer", config)
    yield from _norm("norm", "layernorm", width)
    if config.head == "classification":
        yield from _dense("readout", "classifier", width, config.classes, backbone=False)


def to_ours(rule: Rule, tensors: Sequence[NDArray[Any]]) -> NDArray[np.float32]:
    """Lay published tensors out as the parameter that a rule makes of them."""
    first = np.asarray(tensors[0], np.float32)
    if rule.layout == "joined":
        return np.concatenate([np.asarray(part, np.float32).T for part in tensors], -1)
    if rule.layout == "patches":
        return np.ascontiguousarray(first.transpose(2, 3, 1, 0)).reshape(-1, first.shape[0])
    if rule.layout == "transposed":
        return np.ascontiguousarray(first.T)
    return first.reshape(first.shape[{"one row": 2, "one image": 1}.get(rule.layout, 0) :])


def to_published(rule: Rule, values: NDArray[Any]) -> list[NDArray[np.float32]]:
    """Lay a parameter out as the published tensors that it is made of; undoes `to_ours`."""
    values = np.asarray(values, np.float32)
    if rule.layout == "joined":
        parts = np.split(values, len(rule.published), axis=-1)
        return [np.ascontiguousarray(part.T) for part in parts]
    if rule.layout == "patches":
        width, channels, side, _ = rule.shape
        cut = values.reshape(side, side, channels, width)
        return [np.ascontiguousarray(cut.transpose(3, 2, 0, 1))]
    if rule.layout == "transposed":
        return [np.ascontiguousarray(values.T)]
    assert values.size == math.prod(rule.shape)
    return [np.ascontiguousarray(values).reshape(rule.shape)]


#: Tensors that published checkpoints hold and a model does without: tables of constants, the
#: word embeddings a second time, and heads other than the one that is read.
_NOT_NEEDED = {
    "bert": r"embeddings\.position_ids|cls\..*|pooler\..*|classifier\..*|qa_outputs\..*",
    "distilbert": (
        r"embeddings\.position_ids|vocab_.*|pre_classifier\..*|classifier\..*|qa_outputs\..*"
    ),
    "roberta": r"embeddings\.position_ids|lm_head\..*|pooler\..*|classifier\..*|qa_outputs\..*",
    "gpt2": r"h\.\d+\.attn\.(masked_)?bias|lm_head\.weight|score\.weight",
    "vit": r"embeddings\.mask_token|decoder\..*|pooler\..*|classifier\..*",
}


def not_needed(kind: str, name: str) -> bool:
    """Whether a published tensor, by its name without the encoder's prefix, may be passed over."""
    return re.fullmatch(_NOT_NEEDED[kind], name) is not None
