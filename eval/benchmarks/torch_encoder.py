"""The agreement encoder and its training step in PyTorch, starting from the same parameters.

PyTorch is an optional peer, imported only in here and only when called.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from numpy.typing import NDArray

from jaxflow.models import EncoderConfig
from jaxflow.models.tokenizer import UNK
from jaxflow.train.config import TrainConfig

__all__ = ["forward", "make_torch_step", "torch_parameters"]

Parameters = dict[str, Any]


def torch_parameters(variables: Any) -> Parameters:
    """Copy the encoder's variables to tensors by their path, such as ``blocks_0/qkv/kernel``.

    Kernels are transposed to ``[out, in]``, which is how PyTorch's linear layer wants them.
    """
    import torch

    tensors: Parameters = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(variables["params"]):
        name = "/".join(str(part.key) for part in path)
        values = np.array(leaf.T if name.endswith("kernel") else leaf, order="C")
        tensors[name] = torch.from_numpy(values).requires_grad_()
    return tensors


def forward(parameters: Parameters, config: EncoderConfig, tokens: Any, train: bool = False) -> Any:
    """Return the logits ``[B, C]`` of ``[B, n]`` tokens."""
    import torch.nn.functional as functional

    rate = config.dropout

    def norm(name: str, values: Any) -> Any:
        scale, bias = parameters[f"{name}/scale"], parameters[f"{name}/bias"]
        return functional.layer_norm(values, (config.width,), scale, bias, 1e-5)

    def dense(name: str, values: Any) -> Any:
        return functional.linear(values, parameters[f"{name}/kernel"], parameters[f"{name}/bias"])

    def drop(values: Any) -> Any:
        return functional.dropout(values, rate, train)

    batch, n = tokens.shape
    allowed = (tokens != config.pad_id)[:, None, None, :]  # [B, 1, 1, n]
    words = functional.embedding(tokens, parameters["word/embedding"])
    stream = drop(words + parameters["position"][:n])
    for block in (f"blocks_{layer}" for layer in range(config.layers)):
        fused = dense(f"{block}/qkv", norm(f"{block}/norm_attention", stream))
        fused = fused.view(batch, n, 3, config.heads, config.width // config.heads)
        query, key, value = fused.permute(2, 0, 3, 1, 4)  # each [B, H, n, D / H]
        mixed = functional.scaled_dot_product_attention(
            query, key, value, attn_mask=allowed, dropout_p=rate if train else 0.0
        )
        mixed = mixed.transpose(1, 2).reshape(batch, n, config.width)
        stream = stream + drop(dense(f"{block}/attention_out", mixed))
        up = dense(f"{block}/up", norm(f"{block}/norm_feed_forward", stream))
        stream = stream + drop(dense(f"{block}/down", functional.gelu(up, approximate="tanh")))
    return dense("readout", norm("norm", stream[:, 0]))


def make_torch_step(
    variables: Any, model: EncoderConfig, config: TrainConfig, steps: int, *, bfloat16: bool = False
) -> Callable[[NDArray[np.integer], NDArray[np.integer]], float]:
    """Build a training step ``(tokens [B, n], labels [B]) -> loss`` that keeps its own state.

    Word dropout, dropout, clipping, AdamW (fused, decay on matrices only), warm-up and cosine, as
    `jaxflow.train.step` does them.
    """
    import torch

    parameters = torch_parameters(variables)
    matrices = [tensor for tensor in parameters.values() if tensor.ndim > 1]
    others = [tensor for tensor in parameters.values() if tensor.ndim <= 1]
    groups = [
        {"params": matrices, "weight_decay": config.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=config.learning_rate, betas=(0.9, 0.98), fused=True)
    warmup = max(1, round(config.warmup * steps))

    def factor(step: int) -> float:
        if step < warmup:
            return step / warmup
        return 0.5 * (1 + float(np.cos(np.pi * min(1.0, (step - warmup) / (steps - warmup)))))

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)

    def step(tokens: NDArray[np.integer], labels: NDArray[np.integer]) -> float:
        inputs = torch.from_numpy(tokens).long()
        gone = (torch.rand(inputs.shape) < config.word_dropout) & (inputs > UNK)
        inputs = torch.where(gone, UNK, inputs)
        half = torch.autocast("cpu", torch.bfloat16) if bfloat16 else contextlib.nullcontext()
        with half:
            logits = forward(parameters, model, inputs, train=True)
        loss = torch.nn.functional.cross_entropy(logits.float(), torch.from_numpy(labels).long())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters.values(), config.clip)
        optimizer.step()
        schedule.step()
        return float(loss.detach())

    return step
