"""Read tensors of published checkpoints from safetensors files, and map their names to ours.

One rule describes where one of our parameters is found: the published tensors it is made of,
their shape, and their layout. The published names are those of the ``transformers`` library.
"""

from __future__ import annotations

import json
import math
import re
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from jaxflow.errors import InputError
from jaxflow.models.bert import BertConfig
from jaxflow.models.config import Head
from jaxflow.models.decoder import DecoderKind
from jaxflow.models.gpt2 import Gpt2Config
from jaxflow.models.subword import VOCABULARIES
from jaxflow.models.vit import ViTConfig

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
_PICKLES = (
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
    "tf_model.h5",
    "flax_model.msgpack",
)
_LONGEST_HEADER = 100_000_000
# The errors of reading JSON of another form than expected.
_MALFORMED = (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError)
_KINDS = ("F16", "BF16", "F32", "F64")

#: Files that a model may have besides its configuration and its weights. One left there by an
#: earlier model would be read as the new one's.
OPTIONAL_FILES = (
    "preprocessor_config.json",
    "generation_config.json",
    "chat_template.jinja",
    "model.safetensors.index.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    *VOCABULARIES,
)

_DECODERS = get_args(DecoderKind)

#: Prefix of the encoder's names in a checkpoint that has a head besides.
PREFIXES = {
    "bert": "bert.",
    "distilbert": "distilbert.",
    "roberta": "roberta.",
    "gpt2": "transformer.",
    "vit": "vit.",
    **dict.fromkeys(_DECODERS, "model."),
    "gpt_neox": "gpt_neox.",
}

#: Tensors that a checkpoint may hold a second time under a name that then counts, if they differ.
COPIES = {
    "cls.predictions.decoder.bias": "cls.predictions.bias",
    "lm_head.decoder.bias": "lm_head.bias",
    "embed_out.weight": "lm_head.weight",
}


class Weights(NamedTuple):
    """An open checkpoint: its folder, and by the tensors' names their shapes and open files."""

    folder: Path
    shapes: dict[str, tuple[int, ...]]
    files: dict[str, Any]

    def read(self, name: str) -> NDArray[Any]:
        """Return one tensor as stored, of floating-point numbers of 16 bits or more."""
        kind = self.files[name].get_slice(name).get_dtype()
        if kind not in _KINDS:
            raise InputError(
                f"the tensor {name} in {self.folder} must be one of {', '.join(_KINDS)}, got {kind}"
            )
        try:
            # NumPy has bfloat16 because JAX is imported.
            tensor: NDArray[Any] = self.files[name].get_tensor(name)
        except Exception as error:  # NumPy's too, for a shape that no array can have
            raise InputError(
                f"the tensor {name} in {self.folder} cannot be read: {error}"
            ) from error
        return tensor


@contextmanager
def open_weights(folder: Path) -> Iterator[Weights]:
    """Open the checkpoint of a folder for the duration of a block; tensors are read one by one."""
    from safetensors import SafetensorError, safe_open

    paths = _paths(folder)
    shapes: dict[str, tuple[int, ...]] = {}
    files: dict[str, Any] = {}
    with ExitStack() as stack:
        for path in paths:
            try:
                file = stack.enter_context(safe_open(path, framework="numpy"))
                for name in file.keys():  # noqa: SIM118 (not a mapping)
                    if name in shapes:
                        raise InputError(f"{folder} holds the tensor {name} more than once")
                    shapes[name] = tuple(file.get_slice(name).get_shape())
                    files[name] = file
            except (SafetensorError, OSError) as error:
                raise InputError(_damage(path, error)) from error
        yield Weights(folder, shapes, files)


def _paths(folder: Path) -> list[Path]:
    if (folder / SINGLE).is_file():
        return [folder / SINGLE]
    index = folder / INDEX
    if not index.is_file():
        pickles = [name for name in _PICKLES if (folder / name).is_file()]
        if pickles:
            raise InputError(
                f"{folder} must hold {SINGLE}, and holds {pickles[0]}, which is not read here: "
                "such a file can run code; save the model again as safetensors"
            )
        raise InputError(f"{folder} must hold {SINGLE} or {INDEX}, and holds neither")
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except _MALFORMED as error:
        raise InputError(f"the list of shards {index} is damaged: {error}") from error
    if not names or not all(isinstance(name, str) and Path(name).name == name for name in names):
        raise InputError(f"the list of shards {index} must name files of its folder, got {names}")
    try:
        missing = [name for name in names if not (folder / name).is_file()]
    except OSError as error:  # a name that no file can have
        raise InputError(f"the list of shards {index} cannot be followed: {error}") from error
    if missing:
        raise InputError(f"{folder} must hold every shard, {', '.join(missing)} missing")
    return [folder / name for name in names]


def _damage(path: Path, error: Exception) -> str:
    """Describe what is wrong with a file, naming the tensors that reach beyond its end."""
    size = path.stat().st_size
    cut = []
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length <= min(size, _LONGEST_HEADER):
                header = json.loads(file.read(length))
                cut = [
                    name
                    for name, entry in header.items()
                    if name != "__metadata__" and 8 + length + entry["data_offsets"][1] > size
                ]
    except (*_MALFORMED, struct.error):
        pass  # the error already reports an unreadable header
    if cut:
        shown = ", ".join(sorted(cut)[:10]) + (f" and {len(cut) - 10} more" if cut[10:] else "")
        return f"{path} is cut off at {size:,} bytes: truncated or lost are {shown}"
    return f"{path} is no safetensors file: {' '.join(str(error).split())}"


Layout = Literal[
    "same", "transposed", "joined", "patches", "one row", "one image", "one less", "by head",
    "alternating",
]  # fmt: skip


class Rule(NamedTuple):
    """The published tensors of one parameter: `ours` is its path here, joined by dots.

    It is made of the tensors `published`, without the encoder's prefix, each of `shape`, laid out
    as ``same``; ``transposed``; ``joined`` along the output, transposed if matrices; ``patches``,
    a convolution's kernel ``[D, channels, side, side]``; ``one row`` of a table ``[1, 1, D]``;
    ``one image`` ``[1, n, D]``; ``one less``, of which ours is 1 more; ``by head``, query, key and
    value of each of `heads` in turn along the output; ``alternating``, our first and second half in
    turn along the last axis. `backbone` is False for what belongs to the head. `layer` is the row
    of ours where layers are stacked, and `shapes` those of tensors of different shapes.
    """

    ours: str
    published: tuple[str, ...]
    shape: tuple[int, ...]
    layout: Layout = "same"
    backbone: bool = True
    layer: int | None = None
    shapes: tuple[tuple[int, ...], ...] = ()
    heads: int = 1

    @property
    def needed(self) -> dict[str, tuple[int, ...]]:
        """The published names and their shapes."""
        shapes = self.shapes or (self.shape,) * len(self.published)
        return dict(zip(self.published, shapes, strict=True))


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


def rules(config: BertConfig | Gpt2Config | ViTConfig) -> list[Rule]:
    """Return the rules of all parameters of a configuration; decoders have their own file."""
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


# Dense layer, norm, bias and table of the masked-LM head.
_MASKED = {
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
    "roberta": ("lm_head.dense", "lm_head.layer_norm", "lm_head.bias", "lm_head.decoder.weight"),
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
        dense, norm, bias, table = _MASKED[kind]
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
            # GPT-2's matrices have the same layout as ours.
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
    """Return a rule's parameter made of published tensors."""
    first = np.asarray(tensors[0], np.float32)
    if rule.layout == "joined":
        return np.concatenate([np.asarray(part, np.float32).T for part in tensors], -1)
    if rule.layout == "patches":
        return np.ascontiguousarray(first.transpose(2, 3, 1, 0)).reshape(-1, first.shape[0])
    if rule.layout == "transposed":
        return np.ascontiguousarray(first.T)
    if rule.layout == "one less":
        return first + np.float32(1)
    if rule.layout == "by head":
        parts = first.reshape(rule.heads, 3, -1, *first.shape[1:]).swapaxes(0, 1)
        return np.ascontiguousarray(parts.reshape(first.shape).T)
    if rule.layout == "alternating":
        return np.concatenate([first[..., ::2], first[..., 1::2]], -1)
    return first.reshape(first.shape[{"one row": 2, "one image": 1}.get(rule.layout, 0) :])


def to_published(rule: Rule, values: NDArray[Any]) -> list[NDArray[np.float32]]:
    """Return the published tensors of a rule's parameter; the inverse of `to_ours`."""
    values = np.asarray(values, np.float32)
    if rule.layout == "joined":
        ends = np.cumsum([shape[0] for shape in rule.needed.values()])[:-1]
        parts = np.split(values, ends, axis=-1)
        return [np.ascontiguousarray(part.T) for part in parts]
    if rule.layout == "patches":
        width, channels, side, _ = rule.shape
        cut = values.reshape(side, side, channels, width)
        return [np.ascontiguousarray(cut.transpose(3, 2, 0, 1))]
    if rule.layout == "transposed":
        return [np.ascontiguousarray(values.T)]
    if rule.layout == "one less":
        return [values - np.float32(1)]
    if rule.layout == "by head":
        cut = values.T.reshape(3, rule.heads, -1, *rule.shape[1:]).swapaxes(0, 1)
        return [np.ascontiguousarray(cut).reshape(rule.shape)]
    if rule.layout == "alternating":
        return [np.stack(np.split(values, 2, -1), -1).reshape(rule.shape)]
    assert values.size == math.prod(rule.shape)
    return [np.ascontiguousarray(values).reshape(rule.shape)]


#: Tensors by which a head is known where the configuration names none.
_SIGNS: dict[str, dict[Head, tuple[str, ...]]] = {
    "bert": {
        "classification": ("pooler.dense.weight", "classifier.weight"),
        "masked-lm": ("cls.predictions.bias",),
    },
    "distilbert": {
        "classification": ("pre_classifier.weight", "classifier.weight"),
        "masked-lm": ("vocab_transform.weight",),
    },
    "roberta": {
        "classification": ("classifier.out_proj.weight",),
        "masked-lm": ("lm_head.dense.weight",),
    },
    "gpt2": {"classification": ("score.weight",), "lm": ("lm_head.weight",)},
    "vit": {"classification": ("classifier.weight",)},
    **{
        kind: {"classification": ("score.weight",), "lm": ("lm_head.weight",)} for kind in _DECODERS
    },
}
_OF_HEADS = (
    r"(cls|classifier|pre_classifier|qa_outputs|lm_head|score|multiple_choice_head|decoder)\..*"
    r"|vocab_(transform|projector|layer_norm)\..*"
)


def heads_in(kind: str, names: Mapping[str, str]) -> list[Head]:
    """Return the heads whose tensors are there: names without the encoder's prefix -> with it."""
    found = [head for head, signs in _SIGNS[kind].items() if set(signs) <= names.keys()]
    prefixed = any(name.startswith(PREFIXES[kind]) for name in names.values())
    if kind in ("gpt2", *_DECODERS) and prefixed and not found and not has_unread_head(names):
        return ["lm"]  # its table is that of the words, and stored once
    return found


def has_unread_head(names: Iterable[str]) -> bool:
    """Return whether any of the tensors is of a head, of whatever kind."""
    return any(re.fullmatch(_OF_HEADS, name) for name in names)


#: Tensors that published checkpoints hold and a model does without: tables of constants, the
#: word embeddings a second time, and heads other than the one that is read.
_NOT_NEEDED = {
    "bert": r"embeddings\.position_ids|cls\..*|pooler\..*|classifier\..*|qa_outputs\..*",
    "distilbert": (
        r"embeddings\.position_ids|vocab_.*|pre_classifier\..*|classifier\..*|qa_outputs\..*"
    ),
    "roberta": r"embeddings\.position_ids|lm_head\..*|pooler\..*|classifier\..*|qa_outputs\..*",
    "gpt2": (
        r"h\.\d+\.attn\.(masked_)?bias|lm_head\.weight|score\.weight|classifier\..*"
        r"|qa_outputs\..*|multiple_choice_head\..*"
    ),
    "vit": r"embeddings\.mask_token|decoder\..*|pooler\..*|classifier\..*",
    **dict.fromkeys(
        _DECODERS,
        r".*rotary_emb\.inv_freq|.*\.attention\.(masked_)?bias"
        r"|(lm_head|embed_out|score|classifier|qa_outputs)\..*",
    ),
}


def not_needed(kind: str, name: str) -> bool:
    """Return whether a published tensor, named without the encoder's prefix, may be ignored."""
    return re.fullmatch(_NOT_NEEDED[kind], name) is not None
