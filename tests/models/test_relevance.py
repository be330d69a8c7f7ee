"""Compare relevance through decoders with the same rules by torch's automatic derivatives."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import pytest
from session import refused
from traces import model, tokens

from jaxflow.models import attention_relevance

torch = pytest.importorskip("torch", reason="the oracle: pip install 'jaxflow[test]'")


def divide(part: Any, whole: Any) -> Any:
    return torch.where(whole == 0, 0, part / (whole + 1e-9))


def pull(function: Any, relevance: Any, *inputs: Any) -> Any:
    """Return each input times the derivative of ``relevance / function``."""
    leaves = [each.detach().requires_grad_() for each in inputs]
    whole = function(*leaves)
    slopes = torch.autograd.grad(whole, leaves, divide(relevance, whole.detach()))
    return [leaf.detach() * slope for leaf, slope in zip(leaves, slopes, strict=True)]


def linear(values: Any, kernel: Any, relevance: Any) -> Any:
    def positive(up: Any, down: Any) -> Any:
        return up @ kernel.clamp(min=0) + down @ kernel.clamp(max=0)

    return sum(pull(positive, relevance, values.clamp(min=0), values.clamp(max=0)))


def product(function: Any, relevance: Any, *factors: Any) -> Any:
    return [each / 2 for each in pull(function, relevance, *factors)]


def add(relevance: Any, *addends: Any) -> Any:
    parts = pull(lambda one, other: one + other, relevance, *addends)
    sums = [part.sum() for part in parts]
    total = sum(abs(each) for each in sums)
    scales = [abs(each) / total * relevance.sum() / each for each in sums]
    return [part * scale for part, scale in zip(parts, scales, strict=True)]


def block(config: Any, weights: Any, stream: Any, attention: Any, relevance: Any) -> Any:
    """Return the relevance of a block's stream ``[n, D]`` and attention ``[H, n, n]``."""

    def norm(values: Any, name: str) -> Any:
        if name not in weights:
            return values
        centred = values if config.rms else values - values.mean(-1, keepdim=True)
        scaled = centred / (centred.square().mean(-1, keepdim=True) + config.epsilon).sqrt()
        return scaled * weights[name]["scale"] + weights[name].get("bias", 0)

    def dense(values: Any, name: str) -> Any:
        return values @ weights[name]["kernel"] + weights[name].get("bias", 0)

    def split(values: Any) -> Any:
        return values.reshape(n, -1, config.head_width).transpose(0, 1)

    def turn(values: Any) -> Any:
        rotary = config.rotary[0]
        powers = torch.arange(0, rotary.width, 2, dtype=torch.float64) / rotary.width
        angles = torch.arange(n)[:, None] * rotary.theta**-powers
        cosine, sine = angles.cos(), angles.sin()
        one, other, rest = values.split(
            [rotary.width // 2, rotary.width // 2, config.head_width - rotary.width], -1
        )
        return torch.cat([one * cosine - other * sine, other * cosine + one * sine, rest], -1)

    n, group = len(stream), config.heads // config.key_heads
    read = norm(stream, "norm_attention")
    sizes = [config.heads * config.head_width, *[config.key_heads * config.head_width] * 2]
    query, key, value = (split(part) for part in dense(read, "qkv").split(sizes, -1))
    query, key = norm(query, "norm_query"), norm(key, "norm_key")

    def scores(query: Any, key: Any) -> Any:
        return turn(query) @ turn(key).repeat_interleave(group, 0).mT

    def mix(attention: Any, value: Any) -> Any:
        return attention @ value.repeat_interleave(group, 0)

    flat = mix(attention, value).transpose(0, 1).reshape(n, -1)
    written = norm(dense(flat, "attention_out"), "norm_attention_out")
    middle = stream + written
    given = norm(stream if config.parallel else middle, "norm_feed_forward")
    activation = {
        "silu": torch.nn.functional.silu,
        "gelu": torch.nn.functional.gelu,
        "gelu_pytorch_tanh": lambda x: torch.nn.functional.gelu(x, approximate="tanh"),
    }[config.activation]
    gate, *others = dense(given, "up").chunk(1 + config.gated, -1)
    factors = activation(gate), *others
    expanded = factors[0] * others[0] if others else factors[0]
    added = norm(dense(expanded, "down"), "norm_feed_forward_out")

    of_added, of_middle = add(relevance, added, middle)
    of_expanded = linear(expanded, weights["down"]["kernel"], of_added)
    if others:
        of_expanded = torch.cat(product(torch.mul, of_expanded, *factors), -1)
    of_given = linear(given, weights["up"]["kernel"], of_expanded)
    of_middle = of_middle if config.parallel else of_middle + of_given
    of_written, of_stream = add(of_middle, written, stream)
    of_stream = of_stream + of_given if config.parallel else of_stream
    of_flat = linear(flat, weights["attention_out"]["kernel"], of_written)
    paid, of_value = product(mix, split(of_flat), attention, value)
    of_fused = [*product(scores, paid, query, key), of_value]
    joined = torch.cat([part.transpose(0, 1).reshape(n, -1) for part in of_fused], -1)
    return of_stream + linear(read, weights["qkv"]["kernel"], joined), paid


@pytest.mark.parametrize(
    "kind",
    [
        "LlamaForCausalLM", "Qwen3ForCausalLM", "MistralForSequenceClassification",
        "Gemma2ForCausalLM", "GPTNeoXForCausalLM",
    ],
)  # fmt: skip
def test_relevance_through_decoders_is_that_of_torch(kind: str):
    one, ids = model(kind), tokens(kind)
    config, mask = one.config, ids != 0
    with jax.enable_x64(True):
        params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), one.params)
        output = one.module.apply(params, ids, mask)
        start = np.zeros(output.logits.shape)
        place = (np.arange(2), mask.sum(-1) - 1) if config.head == "lm" else (np.arange(2),)
        start[(*place, 1)] = 1
        found = attention_relevance(config, params, output, mask, start)
        output, found = jax.device_get((output, found))
    weights = jax.tree.map(torch.tensor, params["params"])
    for row, n in enumerate(mask.sum(-1)):
        stream = torch.tensor(output.hidden[row, :, :n])
        if config.head == "lm":
            centred = stream[-1] if config.rms else stream[-1] - stream[-1].mean(-1, keepdim=True)
            scale = (centred.square().mean(-1, keepdim=True) + config.epsilon).rsqrt()
            normed = centred * scale * weights["norm"]["scale"] + weights["norm"].get("bias", 0)
            relevance = linear(normed, weights["decoder"].T, torch.tensor(start[row, :n]))
        else:
            pooled = torch.tensor(output.pooled[row])
            relevance = torch.zeros_like(stream[-1])
            kernel = weights["readout"]["kernel"]
            relevance[-1] = linear(pooled, kernel, torch.tensor(start[row]))
        for layer in reversed(range(config.layers)):
            part = jax.tree.map(lambda leaf, at=layer: leaf[at], weights["blocks"])
            attention = torch.tensor(output.attention[row, layer, :, :n, :n], dtype=torch.float64)
            relevance, paid = block(config, part, stream[layer], attention, relevance)
            paid = paid.numpy()
            np.testing.assert_allclose(
                found[row, layer, :, :n, :n], paid, rtol=1e-5, atol=1e-6 * abs(paid).max()
            )
        # Every rule keeps the total, and what was explained is 1.
        assert relevance.sum().item() == pytest.approx(1, abs=1e-4)
        assert not found[row, :, :, n:].any()


def test_a_mixture_of_experts_has_no_rule():
    one, ids = model("GptOssForCausalLM"), tokens("GptOssForCausalLM")
    output = one(ids)
    with refused("relevance has no rule for a mixture of experts"):
        attention_relevance(one.config, one.params, output, ids != 0, output.logits)
