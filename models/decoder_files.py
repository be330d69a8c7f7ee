"""Read and write the files of decoders: their ``config.json``, and the names of their tensors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, get_args

from jaxflow.errors import InputError
from jaxflow.models.config import Head, read_field
from jaxflow.models.decoder import DecoderConfig, DecoderKind
from jaxflow.models.rotary import Rotary, read_rotary, write_rotary
from jaxflow.models.tensors import Layout, Rule

DECODERS: tuple[DecoderKind, ...] = get_args(DecoderKind)
_GEMMAS = ("gemma2", "gemma3_text")

# Our field -> its published name, and the default there, whose type decides how it is read.
_FIELDS: dict[str, tuple[str, Any]] = {
    "vocabulary": ("vocab_size", 32_000),
    "positions": ("max_position_embeddings", 2048),
    "layers": ("num_hidden_layers", 32),
    "heads": ("num_attention_heads", 32),
    "key_heads": ("num_key_value_heads", None),
    "head_width": ("head_dim", None),
    "width": ("hidden_size", 4096),
    "hidden_width": ("intermediate_size", 11_008),
    "activation": ("hidden_act", "silu"),
    "epsilon": ("rms_norm_eps", 1e-6),
    "tied": ("tie_word_embeddings", False),
    "pad_id": ("pad_token_id", None),
}
# Defaults that differ from these, by model; with a name where that differs too.
_GEMMA = {
    "vocabulary": 256_000,
    "positions": 8192,
    "layers": 26,
    "heads": 8,
    "key_heads": 4,
    "head_width": 256,
    "width": 2304,
    "hidden_width": 9216,
    "activation": ("hidden_activation", "gelu_pytorch_tanh"),
    "tied": True,
    "pad_id": 0,
}
_QWEN = {
    "vocabulary": 151_936,
    "positions": 32_768,
    "key_heads": 32,
    "hidden_width": 22_016,
}
_OWN: dict[str, dict[str, Any]] = {
    "llama": {},
    "qwen2": _QWEN,
    "qwen3": {**_QWEN, "head_width": 128},
    "mistral": {
        "positions": 131_072,
        "key_heads": 8,
        "hidden_width": 14_336,
    },
    "phi3": {
        "vocabulary": 32_064,
        "positions": 4096,
        "width": 3072,
        "hidden_width": 8192,
        "epsilon": 1e-5,
        "pad_id": 32_000,
    },
    "gemma2": _GEMMA,
    "gemma3_text": {
        **_GEMMA,
        "vocabulary": 262_208,
        "positions": 131_072,
    },
    "gpt_oss": {
        "vocabulary": 201_088,
        "positions": 131_072,
        "layers": 36,
        "heads": 64,
        "key_heads": 8,
        "head_width": 64,
        "width": 2880,
        "hidden_width": 2880,
        "epsilon": 1e-5,
        "experts": ("num_local_experts", 128),
        "chosen": ("num_experts_per_tok", 4),
    },
    "gpt_neox": {
        "vocabulary": 50_432,
        "layers": 44,
        "heads": 64,
        "width": 6144,
        "hidden_width": 24_576,
        "activation": "gelu",
        "epsilon": ("layer_norm_eps", 1e-5),
        "parallel": ("use_parallel_residual", True),
    },
}
# Switches that a model has whatever its file says.
_SWITCHES: dict[str, dict[str, Any]] = {
    "qwen3": {"norm_heads": True},
    "gemma2": {"norm_branches": True, "scaled_words": True},
    "gemma3_text": {"norm_branches": True, "scaled_words": True, "norm_heads": True},
    "gpt_oss": {"sinks": True},
    "gpt_neox": {"rms": False, "gated": False},
}
_THETA = {"gpt_oss": 150_000.0, "gemma3_text": 1_000_000.0}
# Of gpt-oss, where its file names none.
_YARN = {
    "rope_type": "yarn", "factor": 32.0, "beta_fast": 32.0, "beta_slow": 1.0, "truncate": False,
    "original_max_position_embeddings": 4096,
}  # fmt: skip
# Fields with the only value that is built here, by model.
_ONLY = {"use_bidirectional_attention": False, "swiglu_alpha": 1.702, "swiglu_limit": 7.0}
_REACHES = {"full": "full_attention", "window": "sliding_attention", "chunk": "chunked_attention"}


def decoder_fields(kind: str) -> dict[str, tuple[str, Any]]:
    """Return the fields of a configuration that are read by name: ours -> published, default."""
    own = _OWN[kind].items()
    return _FIELDS | {
        name: given if isinstance(given, tuple) else (_FIELDS[name][0], given)
        for name, given in own
    }


def read_decoder(
    kind: DecoderKind, fields: Mapping[str, Any], head: Head, **labels: Any
) -> DecoderConfig:
    """Return the configuration that a ``config.json`` describes; `labels` are its head's fields.

    Raises `InputError` if a size is missing or impossible, or a switch is not built here.
    """
    if "num_experts" in fields:
        fields = {**fields, "num_local_experts": fields["num_experts"]}
    for name, only in _ONLY.items():
        if fields.get(name) not in (None, only):
            raise InputError(f"{name} must be {only} for {kind}, got {fields[name]!r}")
    given: dict[str, Any] = {
        ours: read_field(fields, name, default)
        for ours, (name, default) in decoder_fields(kind).items()
    }
    if not given["heads"]:
        raise InputError("num_attention_heads must be at least 1, got 0")
    if kind == "gpt_neox":
        given |= {"key_heads": None, "head_width": None}  # one of each, whatever is listed
    given["key_heads"] = given["key_heads"] or given["heads"]
    given["head_width"] = given["head_width"] or given["width"] // given["heads"]
    given["biases"] = _biases(kind, fields)
    ends = fields.get("eos_token_id")
    ends = ends if isinstance(ends, list) else [] if ends is None else [ends]
    if not all(type(number) is int for number in ends):
        raise InputError(f"eos_token_id must be numbers of tokens, got {ends}")
    given["end_ids"] = tuple(ends)
    pad_id = given["pad_id"]
    given["pad_is_end"] = pad_id is not None and pad_id in (*ends, fields.get("bos_token_id"))
    given |= _reach(kind, fields, given["layers"])
    if kind in _GEMMAS:
        given["scale"] = _positive(fields, "query_pre_attn_scalar", 256) ** -0.5
        usual = (50.0, 30.0) if kind == "gemma2" else (None, None)
        names = ("attn_logit_softcapping", "final_logit_softcapping")
        caps = [_positive(fields, *each) for each in zip(names, usual, strict=True)]
        given["soft_cap"], given["logit_cap"] = caps
    given["rotary"] = _rotary(kind, fields, given["head_width"], given["positions"])
    first = given["rotary"][0]
    if first.scaling == "dynamic":  # made for texts beyond the positions of its training
        given["positions"] = int(first.factor * given["positions"])
    return DecoderConfig(kind=kind, head=head, **given, **_SWITCHES.get(kind, {}), **labels)


def _biases(kind: str, fields: Mapping[str, Any]) -> tuple[str, ...]:
    """Return which linear layers have biases."""
    if kind == "qwen2":
        return ("qkv",)
    found: list[str] = []
    if kind in ("llama", "qwen3", *_GEMMAS, "gpt_oss", "gpt_neox"):
        usual = kind in ("gpt_oss", "gpt_neox")
        found += ["qkv", "out"] * read_field(fields, "attention_bias", usual)
    if kind == "gpt_neox" or (kind == "llama" and read_field(fields, "mlp_bias", False)):
        found.append("mlp")
    return tuple(found)


def _positive(fields: Mapping[str, Any], name: str, default: Any) -> Any:
    value = fields.get(name, default)
    if value is None and (default is None or name.endswith("softcapping")):
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
        raise InputError(f"{name} must be a number above 0, got {value!r}")
    return float(value)


def _reach(kind: str, fields: Mapping[str, Any], layers: int) -> dict[str, Any]:
    """Return what each layer's tokens attend to: the fields reaches, window and chunk."""
    window = fields.get("sliding_window", None if kind in ("llama", "phi3", "gpt_neox") else 4096)
    if kind == "gpt_oss":
        window = fields.get("sliding_window", 128)
    listed = fields.get("layer_types")
    if kind in ("qwen2", "qwen3"):
        window = window if read_field(fields, "use_sliding_window", False) else None
        first = read_field(fields, "max_window_layers", 28) if window is not None else layers
        usual = ["window" if layer >= first else "full" for layer in range(layers)]
    elif kind in ("gemma2", "gpt_oss", "gemma3_text"):
        every = read_field(fields, "sliding_window_pattern", 6) if kind == "gemma3_text" else 2
        usual = [
            "window" if not every or (layer + 1) % every else "full" for layer in range(layers)
        ]
    else:  # these have one kind of layer, whatever is listed
        listed = None
        windowed = kind in ("mistral", "phi3") and window is not None
        usual = ["window" if windowed else "full"] * layers
    if listed is not None:
        names = {published: ours for ours, published in _REACHES.items()}
        if not isinstance(listed, list) or any(name not in names for name in listed):
            raise InputError(f"layer_types must be of {', '.join(names)}, got {listed!r}")
        usual = [names[name] for name in listed]
    if set(usual) == {"full"} or not usual:
        return {}
    found: dict[str, Any] = {"reaches": tuple(usual), "window": window}
    if "chunk" in usual:
        found["chunk"] = fields.get("attention_chunk_size")
    return found


def _rotary(kind: str, fields: Mapping[str, Any], width: int, positions: int) -> tuple[Rotary, ...]:
    """Return the rotary positions of all layers, or of full ones and of those with a window."""
    given = fields.get("rope_scaling") or fields.get("rope_parameters") or {}
    if not isinstance(given, Mapping):
        raise InputError(f"rope_parameters must be one JSON object, got {given!r}")
    theta = _positive(fields, "rope_theta", _THETA.get(kind, 10_000.0))
    if kind == "gemma3_text":
        nested = _REACHES["full"] in given or _REACHES["window"] in given
        full = (given.get(_REACHES["full"]) if nested else given) or {}
        local = (given.get(_REACHES["window"]) if nested else {}) or {}
        slow = _positive(fields, "rope_local_base_freq", 10_000.0)
        return (
            read_rotary(full, theta, width, positions),
            read_rotary(local, slow, width, positions),
        )
    given = dict(given)
    if kind == "gpt_oss" and not set(given) - {"rope_theta"}:
        given = _YARN | given
    if kind == "gpt_neox":
        theta = _positive(fields, "rotary_emb_base", 10_000.0)
        given.setdefault("partial_rotary_factor", fields.get("rotary_pct", 0.25))
    elif kind == "phi3":
        given.setdefault("partial_rotary_factor", fields.get("partial_rotary_factor", 1.0))
        given.setdefault("rope_type", given.get("type"))
        if given["rope_type"] in ("su", "yarn"):
            given["rope_type"] = "longrope"
        given["original_max_position_embeddings"] = 4096
    if fields.get("original_max_position_embeddings") is not None:
        given["original_max_position_embeddings"] = fields["original_max_position_embeddings"]
    return (read_rotary(given, theta, width, positions),)


def write_decoder(config: DecoderConfig) -> dict[str, Any]:
    """Return the fields of a ``config.json`` that describe a decoder; inverse of `read_decoder`."""
    kind = config.kind
    content = {name: getattr(config, ours) for ours, (name, _) in decoder_fields(kind).items()}
    main = config.rotary[0]
    if main.scaling == "dynamic":
        content["max_position_embeddings"] = main.trained
    written = [write_rotary(rotary, config.head_width) for rotary in config.rotary]
    if len(written) > 1:
        content["rope_parameters"] = dict(
            zip((_REACHES["full"], _REACHES["window"]), written, strict=True)
        )
    else:
        content["rope_parameters"] = written[0]
        if kind == "gpt_neox":
            del content["num_key_value_heads"], content["head_dim"]
            written[0]["partial_rotary_factor"] = main.width / config.head_width
        if kind == "phi3":
            content["original_max_position_embeddings"] = max(main.trained, 1)
    ends: list[int] = list(config.end_ids)
    content["eos_token_id"] = ends[0] if len(ends) == 1 else ends or None
    content["bos_token_id"] = config.pad_id if config.pad_is_end else None
    content["attention_bias"] = "out" in config.biases
    content["mlp_bias"] = "mlp" in config.biases
    content["sliding_window"] = config.window
    if kind in ("qwen2", "qwen3"):
        content["use_sliding_window"] = config.window is not None
    if kind in ("qwen2", "qwen3", *_GEMMAS, "gpt_oss"):
        reaches = config.reaches or ("full",) * config.layers
        content["layer_types"] = [_REACHES[reach] for reach in reaches]
        if config.chunk is not None:
            content["attention_chunk_size"] = config.chunk
    if kind in _GEMMAS:
        assert config.scale is not None
        content["query_pre_attn_scalar"] = round(config.scale**-2)
        content["attn_logit_softcapping"] = config.soft_cap
        content["final_logit_softcapping"] = config.logit_cap
    return content


# Our part of a block -> its published name.
_LLAMA_BLOCK = {
    "norm_attention": "input_layernorm",
    "norm_feed_forward": "post_attention_layernorm",
    "norm_query": "self_attn.q_norm",
    "norm_key": "self_attn.k_norm",
    "attention_out": "self_attn.o_proj",
    "down": "mlp.down_proj",
}
_BLOCKS: dict[str, dict[str, str]] = {kind: _LLAMA_BLOCK for kind in DECODERS}
for _kind in _GEMMAS:
    _BLOCKS[_kind] = {
        **_LLAMA_BLOCK,
        "norm_attention_out": "post_attention_layernorm",
        "norm_feed_forward": "pre_feedforward_layernorm",
        "norm_feed_forward_out": "post_feedforward_layernorm",
    }
_BLOCKS["gpt_neox"] = {
    "norm_attention": "input_layernorm",
    "norm_feed_forward": "post_attention_layernorm",
    "attention_out": "attention.dense",
    "down": "mlp.dense_4h_to_h",
}


def decoder_rules(config: DecoderConfig) -> Iterator[Rule]:
    """Yield the rules of all parameters of a decoder."""
    kind, width, words = config.kind, config.width, config.vocabulary
    neox = kind == "gpt_neox"
    word, norm = ("embed_in", "final_layer_norm") if neox else ("embed_tokens", "norm")
    yield Rule("word.embedding", (f"{word}.weight",), (words, width))
    yield from _norm(config, "norm", norm, width)
    for layer in range(config.layers):
        for rule in _block(config, f"layers.{layer}"):
            yield rule._replace(ours=f"blocks.{rule.ours}", layer=layer)
    if config.head == "classification":
        shape = (config.classes, width)
        yield Rule("readout.kernel", ("score.weight",), shape, "transposed", False)
    if config.head == "lm" and not config.tied:
        yield Rule("decoder", ("lm_head.weight",), (words, width), "same", False)


def _norm(config: DecoderConfig, ours: str, theirs: str, width: int) -> Iterator[Rule]:
    layout: Layout = "one less" if config.kind in _GEMMAS else "same"
    yield Rule(f"{ours}.scale", (f"{theirs}.weight",), (width,), layout)
    if not config.rms:
        yield Rule(f"{ours}.bias", (f"{theirs}.bias",), (width,))


def _dense(
    config: DecoderConfig, part: str, names: list[str], inputs: int, sizes: list[int], biases: str
) -> Iterator[Rule]:
    """Yield a linear layer's rules, made of the published ones of these output sizes."""
    layout: Layout = "joined" if len(names) > 1 else "transposed"
    shapes: tuple[tuple[int, ...], ...] = tuple((size, inputs) for size in sizes)
    published = tuple(f"{name}.weight" for name in names)
    yield Rule(f"{part}.kernel", published, shapes[0], layout, shapes=shapes)
    if biases in config.biases:
        shapes = tuple((size,) for size in sizes)
        published = tuple(f"{name}.bias" for name in names)
        layout = "joined" if len(names) > 1 else "same"
        yield Rule(f"{part}.bias", published, shapes[0], layout, shapes=shapes)


def _block(config: DecoderConfig, stem: str) -> Iterator[Rule]:
    kind, width, hidden = config.kind, config.width, config.hidden_width
    names = {ours: f"{stem}.{theirs}" for ours, theirs in _BLOCKS[kind].items()}
    yield from _norm(config, "norm_attention", names["norm_attention"], width)
    yield from _norm(config, "norm_feed_forward", names["norm_feed_forward"], width)
    if config.norm_branches:
        for part in ("norm_attention_out", "norm_feed_forward_out"):
            yield from _norm(config, part, names[part], width)
    if config.norm_heads:
        for part in ("norm_query", "norm_key"):
            yield from _norm(config, part, names[part], config.head_width)
    queries, keys = config.heads * config.head_width, config.key_heads * config.head_width
    fused = queries + 2 * keys
    if kind == "gpt_neox":  # of each head its query, key and value
        name = f"{stem}.attention.query_key_value"
        heads = config.heads
        yield Rule("qkv.kernel", (f"{name}.weight",), (fused, width), "by head", heads=heads)
        if "qkv" in config.biases:
            yield Rule("qkv.bias", (f"{name}.bias",), (fused,), "by head", heads=heads)
    elif kind == "phi3":
        yield from _dense(config, "qkv", [f"{stem}.self_attn.qkv_proj"], width, [fused], "qkv")
    else:
        parts = [f"{stem}.self_attn.{name}_proj" for name in "qkv"]
        yield from _dense(config, "qkv", parts, width, [queries, keys, keys], "qkv")
    yield from _dense(config, "attention_out", [names["attention_out"]], queries, [width], "out")
    if config.sinks:
        yield Rule("sinks", (f"{stem}.self_attn.sinks",), (config.heads,))
    if config.experts:
        yield from _experts(config, f"{stem}.mlp")
        return
    if kind == "gpt_neox":
        up, sizes = [f"{stem}.mlp.dense_h_to_4h"], [hidden]
    elif kind == "phi3":
        up, sizes = [f"{stem}.mlp.gate_up_proj"], [2 * hidden]
    else:
        up, sizes = [f"{stem}.mlp.{name}_proj" for name in ("gate", "up")], [hidden, hidden]
    yield from _dense(config, "up", up, width, sizes, "mlp")
    yield from _dense(config, "down", [names["down"]], hidden, [width], "mlp")


def _experts(config: DecoderConfig, stem: str) -> Iterator[Rule]:
    count, width, hidden = config.experts, config.width, config.hidden_width
    router = f"{stem}.router"
    yield Rule("experts.router.kernel", (f"{router}.weight",), (count, width), "transposed")
    yield Rule("experts.router.bias", (f"{router}.bias",), (count,))
    for part, name, shape in (
        ("up_kernel", "gate_up_proj", (count, width, 2 * hidden)),
        ("up_bias", "gate_up_proj_bias", (count, 2 * hidden)),
        ("down_kernel", "down_proj", (count, hidden, width)),
        ("down_bias", "down_proj_bias", (count, width)),
    ):
        # Gate and linear part take turns in the files.
        layout: Layout = "alternating" if part.startswith("up") else "same"
        yield Rule(f"experts.{part}", (f"{stem}.experts.{name}",), shape, layout)
