"""Compare decoders with transformers: every model type, and every switch of their files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch_models
from safetensors.numpy import load_file, save_file
from session import refused
from torch_models import assert_close, assert_same_numbers, tokens_with_padding

from jaxflow.models import (
    DecoderConfig,
    Gpt2Config,
    Model,
    QueriesKeys,
    init,
    load,
    save_pretrained,
    trace,
)
from jaxflow.models.blocks import Reach, attend, attend_blockwise, within
from jaxflow.models.published import read_published, write_published
from jaxflow.models.rotary import Rotary

N = 12
CONFIGS = (
    "Llama", "Qwen2", "Qwen3", "Mistral", "Phi3", "Gemma2", "Gemma3Text", "GptOss", "GPTNeoX",
)  # fmt: skip
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 8}
LLAMA3 = {
    "rope_type": "llama3", "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}  # fmt: skip
LONG = {"rope_type": "longrope", "short_factor": [1.0, 1.5], "long_factor": [1.2, 3.0]}
WINDOW = {"use_sliding_window": True, "sliding_window": 3, "max_window_layers": 1}
CASES: list[tuple[str, dict[str, Any]]] = [
    ("LlamaForCausalLM", {"tie_word_embeddings": True}),
    ("LlamaForCausalLM", {"attention_bias": True, "mlp_bias": True, "head_dim": None}),
    ("LlamaForCausalLM", {"num_key_value_heads": None, "rope_theta": 50.0}),
    ("LlamaForCausalLM", {"rope_scaling": {"type": "linear", "factor": 3.0}}),
    (
        "LlamaForCausalLM",
        {"rope_scaling": {"type": "dynamic", "factor": 3.0}, "max_position_embeddings": 8},
    ),
    ("LlamaForCausalLM", {"rope_scaling": LLAMA3, "rope_theta": 20.0}),
    ("LlamaForCausalLM", {"rope_scaling": YARN, "rope_theta": 20.0, "hidden_act": "gelu"}),
    ("LlamaForCausalLM", {"rope_scaling": {**YARN, "truncate": False, "beta_fast": 8.0}}),
    ("LlamaForCausalLM", {"rope_scaling": {**YARN, "mscale": 0.7, "mscale_all_dim": 0.5}}),
    ("LlamaModel", {}),
    ("LlamaForSequenceClassification", {"num_labels": 3}),
    ("Qwen2ForCausalLM", {}),
    ("Qwen2ForCausalLM", WINDOW),
    ("Qwen3ForCausalLM", {"attention_bias": True}),
    ("Qwen3Model", WINDOW),
    ("MistralForCausalLM", {"sliding_window": 4}),
    ("MistralForSequenceClassification", {"sliding_window": None, "num_labels": 2}),
    ("Phi3ForCausalLM", {}),
    (
        "Phi3ForCausalLM",
        {"rope_scaling": LONG, "original_max_position_embeddings": 8, "sliding_window": 5},
    ),
    ("Phi3ForCausalLM", {"rope_scaling": LONG, "original_max_position_embeddings": 13}),
    ("Phi3ForCausalLM", {"partial_rotary_factor": 0.5}),
    ("Gemma2ForCausalLM", {"sliding_window": 4, "query_pre_attn_scalar": 9}),
    (
        "Gemma2ForCausalLM",
        {"attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0, "attention_bias": True},
    ),
    ("Gemma2ForSequenceClassification", {"attn_logit_softcapping": None, "num_labels": 3}),
    ("Gemma3ForCausalLM", {"sliding_window": 4, "num_hidden_layers": 7}),
    (
        "Gemma3ForCausalLM",
        {
            "sliding_window": 3,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
            "rope_scaling": {"rope_type": "linear", "factor": 8.0},
            "rope_local_base_freq": 30.0,
            "final_logit_softcapping": 3.0,
        },
    ),
    ("GptOssForCausalLM", {"sliding_window": 4, "num_local_experts": 5, "num_experts_per_tok": 2}),
    ("GPTNeoXForCausalLM", {"rotary_pct": 0.5}),
    (
        "GPTNeoXForCausalLM",
        {"rotary_pct": 1.0, "use_parallel_residual": False, "tie_word_embeddings": True},
    ),
    (
        "GPTNeoXForSequenceClassification",
        {"rotary_pct": 0.5, "attention_bias": False, "num_labels": 2},
    ),
]


def rebuilt(found: QueriesKeys) -> np.ndarray:
    """Attention from queries and keys, by the formula in the docstring."""
    queries, keys = np.asarray(found.queries), np.asarray(found.keys)
    keys = np.repeat(keys, queries.shape[2] // keys.shape[2], 2)
    scores = queries @ keys.swapaxes(-1, -2)
    if found.soft_cap is not None:
        scores = found.soft_cap * np.tanh(scores / found.soft_cap)
    query, key = np.arange(scores.shape[-1])[:, None], np.arange(scores.shape[-1])
    window, chunk = (np.asarray(each)[:, None, None] for each in (found.window, found.chunk))
    seen = (key <= query) & (key > query - window) & (key // chunk == query // chunk)
    seen = seen[None, :, None] & np.asarray(found.mask)[:, None, None, None]
    return np.exp(np.where(seen, scores - np.asarray(found.log_sums)[..., None], -np.inf))


def last_rows(attention: Any, mask: np.ndarray) -> np.ndarray:
    """Rollout of each text's last token from attention ``[B, L, H, n, n]``, by its definition."""
    rows = np.eye(mask.shape[-1])[mask.sum(-1) - 1][:, None]  # [B, 1, n]
    for layer in np.moveaxis(np.nan_to_num(attention).mean(2), 1, 0)[::-1]:
        rows = rows @ layer / 2 + rows / 2
    return rows[:, 0]


@pytest.mark.parametrize(("name", "changes"), CASES)
def test_decoders_are_those_of_transformers(name: str, changes: dict[str, Any], tmp_path: Path):
    theirs = torch_models.random_model(name, changes, len(str(changes)))
    ours = load(torch_models.write(theirs, tmp_path / "theirs"))
    tokens = tokens_with_padding([N, N - 4], 0)
    mask = tokens != 0
    expected, found = torch_models.run(theirs, tokens, mask), ours(tokens, mask)
    assert_same_numbers(found, expected, mask)

    def rows(values: Any, axis: int) -> np.ndarray:
        return np.moveaxis(np.asarray(values), axis, 1)[mask]

    total = found.attention.sum(-1) + (0 if found.sink is None else found.sink)
    assert_close(rows(total, 3), np.ones_like(rows(total, 3)))
    assert (found.sink is not None) == ("GptOss" in name)

    assert_close(rows(rebuilt(ours.queries_keys(tokens, mask)), 3), rows(found.attention, 3))
    for share, sinks in (
        (1, True),
        (1 if found.sink is None else 1 - found.sink[..., None], False),
    ):
        wanted = last_rows(found.attention / share, mask)
        assert_close(ours.rollout_rows(tokens, mask=mask, sinks=sinks)[:, 0, 0], wanted)
    save_pretrained(tmp_path / "ours", ours)
    again = load(tmp_path / "ours")
    assert again.config == ours.config
    read = torch_models.read(tmp_path / "ours", name)
    assert_close(rows(torch_models.run(read, tokens, mask).hidden, 2), rows(found.hidden, 2))
    jax.tree.map(np.testing.assert_array_equal, again.params, ours.params)


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    theirs = torch_models.random_model("LlamaForCausalLM", {})
    return torch_models.write(theirs, tmp_path_factory.mktemp("llama"))


#: Fields of config.json, tensors in place of the file's (None is left out), and what is said.
REFUSED: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    ({"rope_scaling": {"rope_type": "spiral", "factor": 2.0}}, {}, "rope_type must be one of"),
    ({"rope_scaling": {"rope_type": "linear"}}, {}, "factor of linear positions must be above 0"),
    ({"rope_scaling": {**LONG, "short_factor": [1]}}, {}, "short_factor must be a list of 2"),
    ({"rope_scaling": [2.0]}, {}, "rope_parameters must be one JSON object"),
    ({"rope_scaling": {"partial_rotary_factor": 0.3}}, {}, "must leave an even number"),
    (
        {"quantization_config": {"quant_method": "gptq"}}, {},
        "quantization_config must be None, got one of gptq: quantised models are not read",
    ),
    ({"num_key_value_heads": 4}, {}, "heads must be a multiple of key_heads, got 6 on 4"),
    ({"num_hidden_layers": 4}, {}, "missing: layers.3.input_layernorm.weight, "),
    ({"mlp_bias": True}, {}, "missing: layers.0.mlp.down_proj.bias"),
    ({"intermediate_size": 24}, {}, r"of another shape: .*down_proj.weight \[24, 20\] instead of"),
    ({}, {"model.norm.weight": None}, "missing: norm.weight"),
    ({}, {"model.norm.weight": np.ones(23, np.float32)}, r"model.norm.weight \[23\] instead of"),
    ({}, {"model.layers.0.mlp.up_proj.qweight": np.ones(3, np.int32)}, "not of this model: "),
    ({}, {"lm_head.weight": np.ones((37, 24), np.int8)}, "lm_head.weight"),
]  # fmt: skip


@pytest.mark.parametrize(("fields", "tensors", "message"), REFUSED)
def test_files_that_are_not_a_decoders_are_refused(
    fields: dict[str, Any], tensors: dict[str, Any], message: str, llama: Path, tmp_path: Path
):
    config = json.loads((llama / "config.json").read_text())
    config.pop("rope_parameters" if "rope_scaling" in fields else "", None)
    (tmp_path / "config.json").write_text(json.dumps(config | fields))
    held = load_file(llama / "model.safetensors") | tensors
    held = {name: value for name, value in held.items() if value is not None}
    save_file(held, tmp_path / "model.safetensors", {"format": "pt"})
    with refused(message):
        load(tmp_path)


def test_a_prompt_beyond_the_positions_is_refused(llama: Path):
    one = load(llama)
    for call in (one, one.queries_keys, lambda tokens: trace(one, tokens)):
        with refused("at most 16|16 positions"):
            call(np.full((1, 17), 5))


@pytest.mark.parametrize("kind", CONFIGS)
def test_a_configuration_of_nothing_but_its_kind_has_the_usual_sizes(kind: str):
    theirs = getattr(torch_models.library(), f"{kind}Config")()
    full = theirs.to_dict() | {"architectures": None, "eos_token_id": None, "bos_token_id": None}
    config = read_published(full)
    assert read_published({"model_type": theirs.model_type}, head="none") == config
    assert read_published(write_published(config)) == config


@pytest.mark.parametrize("sinks", [None, np.array([0.5, -1, 2, 0], np.float32)])
@pytest.mark.parametrize(("window", "chunk"), [(99, 99), (3, 99), (99, 4)])
def test_attention_by_blocks_of_rows_is_attention(window: int, chunk: int, sinks: Any):
    rng = np.random.default_rng(0)
    query, key, value = rng.normal(size=(3, 2, 4, 11, 6)).astype(np.float32)
    key, value, places = key[:, :2], value[:, :2], np.arange(11)
    real = (places < [[11], [9]])[:, None, None]
    seen = np.tril(np.ones((11, 11), bool)) & (places[:, None] - places < window)
    seen = seen & (places[:, None] // chunk == places // chunk) & real
    reach = Reach(window, chunk)
    np.testing.assert_array_equal(within(reach, places, places) & real, seen)
    more: dict[str, Any] = {"soft_cap": 2.0, "scale": 0.3, "sinks": sinks}
    whole = attend(query, key, value, seen, **more)
    parts, log_sums = attend_blockwise(query, key, value, real, reach, block=4, **more)
    rows = np.broadcast_to(real, (2, 4, 1, 11)).swapaxes(2, 3)[..., 0]
    assert_close(np.asarray(parts.mixed)[rows], np.asarray(whole.mixed)[rows])
    scores = 2 * np.tanh(query @ np.repeat(key, 2, 1).swapaxes(2, 3) * 0.3 / 2)
    total = np.where(seen, np.exp(scores), 0).sum(-1)
    total += 0 if sinks is None else np.exp(sinks)[:, None]
    assert_close(np.asarray(log_sums)[rows], np.log(total)[rows])
    assert_close(
        np.asarray(whole.weights)[rows],
        (np.where(seen, np.exp(scores), 0) / total[..., None])[rows],
    )


SIZES = {"vocabulary": 60, "positions": N, "layers": 2, "heads": 4, "hidden_width": 24}


@pytest.mark.parametrize(
    "config",
    [
        DecoderConfig(
            **SIZES, key_heads=2, head_width=8, width=16, rotary=(Rotary(8),), window=5,
            reaches=("full", "window"), soft_cap=2.0, sinks=True,
        ),
        Gpt2Config(**SIZES, width=32),
    ],
    ids=["decoder", "gpt2"],
)  # fmt: skip
def test_rows_are_those_of_whole_matrices(config: Any) -> None:
    """Of rollout, of attention times gradient and of norms."""
    params = jax.tree.map(lambda leaf: leaf * 8, init(config))
    model = Model(config, params, None)
    tokens = tokens_with_padding([N, N - 4], 0)
    mask = tokens != 0

    source = N - 5

    def score(logits: Any) -> Any:
        return jax.nn.log_softmax(logits)[:, source, 3]

    def explained(offsets: Any) -> tuple[Any, Any]:
        embeddings = model.module.apply(model.params, tokens, method="embed")
        found = model.module.apply(
            model.params, embeddings, mask, method="encode", offsets=offsets, tokens=tokens
        )
        return score(found.logits).sum(), found.attention

    wanted = last_rows(model(tokens, mask).attention, mask)
    assert_close(model.rollout_rows(tokens, mask=mask)[:, 0, 0], wanted)

    shape = (len(tokens), model.config.layers, model.config.heads, N, N)
    slopes, attention = jax.jit(jax.grad(explained, has_aux=True))(jnp.zeros(shape))
    rows = np.eye(N)[[source, source]][:, None]
    steps = np.maximum(np.asarray(attention * slopes), 0).mean(2) * mask[:, None, None]
    for layer in np.moveaxis(steps, 1, 0)[::-1]:
        rows = rows + rows @ layer
    assert (rows > 1e-3).sum() > N / 2
    given: dict[str, Any] = {"mask": mask, "score": score, "edge": "gradient", "how": "paths"}
    found = np.asarray(model.rollout_rows(tokens, source, **given))[:, 0]
    np.testing.assert_allclose(found, rows, rtol=1e-3, atol=1e-5 * rows.max())

    # The same for norms, by the values that the model returns.
    values = np.asarray(model(tokens, mask, values=True).values.vectors)  # [B, L, H, n, d]
    parts = np.einsum("blhij,blhjd,lhde->blije", attention, values, model.projections)
    rows = np.eye(N)[[source, source]][:, None]
    for layer in np.moveaxis(np.linalg.norm(parts, axis=-1), 1, 0)[::-1]:
        rows = rows + rows @ layer
    found = np.asarray(model.rollout_rows(tokens, source, mask=mask, edge="norm", how="paths"))
    np.testing.assert_allclose(found[:, 0], rows, rtol=1e-4, atol=1e-5 * rows.max())
