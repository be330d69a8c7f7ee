"""Time a training step and published models against PyTorch and the transformers library.

Both are optional peers, imported only when they are timed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import multiprocessing
import os
import statistics
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np

from jaxflow.errors import InputError
from jaxflow.eval.benchmarks.timing import (
    Budget,
    Comparison,
    Contender,
    Timing,
    bytes_text,
    measure,
    ratio_text,
    take_turns,
)
from jaxflow.models import (
    AgreementEncoder,
    BertConfig,
    EncoderConfig,
    EncoderOutput,
    Model,
    init,
    load,
    save_pretrained,
)
from jaxflow.models.tokenizer import CLS, UNK
from jaxflow.train.config import TrainConfig
from jaxflow.train.step import agreement_loss, init_state, make_optimizer, make_step

#: The sizes of the 6-layer MiniLM that most sentence encoders are made from.
MINILM = BertConfig(layers=6, heads=12, width=384, hidden_width=1536, pooler=True)

#: Works of the forward pass as (sentences a batch, tokens).
QUICK = ((64, 64), (1, 16))
FULL = ((1, 16), (64, 16), (64, 64), (8, 256))

OURS, THEIRS = "jaxflow.models.load", "transformers from_pretrained"
_STEPS = 10_000  # of the training schedule


def run_train(
    budget: Budget, model: EncoderConfig | None = None, batch: int = 128, n: int = 16
) -> Iterator[Comparison]:
    """Yield the comparison of one training step, from the same parameters."""
    model = model or EncoderConfig()
    config = TrainConfig(dropout=model.dropout, batch=batch)
    rng = np.random.default_rng(0)
    tokens = rng.integers(UNK + 1, model.vocabulary, (batch, n), np.int32)
    tokens[:, 0] = CLS
    labels = rng.integers(0, model.classes, batch, np.int32)
    optimizer = make_optimizer(config, _STEPS)
    step = make_step(agreement_loss(model, config), optimizer, config.seed)
    state = init_state(init(model, config.seed), optimizer)
    params = jax.tree.map(np.array, state.params)  # a step donates its state

    def own() -> float:
        nonlocal state
        state, metrics = step(state, tokens=jnp.asarray(tokens), labels=jnp.asarray(labels))
        return float(metrics["loss"])  # waits for the step

    contenders, missing = [Contender("jaxflow, float32", own, compiles=True)], {}
    if importlib.util.find_spec("torch"):
        output = cast(EncoderOutput, AgreementEncoder(model).apply(params, tokens))
        for name, half in (("PyTorch, float32", False), ("PyTorch, bfloat16 autocast", True)):
            peer, logits = make_torch_step(params, model, config, bfloat16=half)
            largest = float(np.abs(np.asarray(output.logits) - logits(tokens)).max())
            run = partial(peer, tokens, labels)

            def error(_: Any, largest: float = largest) -> float:
                return largest

            contenders.append(Contender(name, run, error, compiles=True))
    else:
        missing = {"PyTorch": "not installed"}
    yield Comparison(
        "train",
        f"one step, batch {batch} x {n} tokens, {model.layers} layers, width {model.width}",
        {"batch": batch, "tokens": n, "model": model.to_dict()},
        take_turns(contenders, budget),
        "our encoder's logits, without dropout",
        missing,
        (
            "forward, backward, both dropouts, clipping, AdamW and schedule; PyTorch with its "
            "fused attention and AdamW, all cores for both",
            "ours computes the last block's feed-forward layer at [CLS] only, where the class is "
            "read; PyTorch computes it for every token; freed memory stays with the process",
        ),
    )


def make_torch_step(
    params: Any, model: EncoderConfig, config: TrainConfig, *, bfloat16: bool
) -> tuple[Callable[..., float], Callable[..., np.ndarray]]:
    """Return the same training step, which keeps its own state, and logits, in PyTorch."""
    import torch
    import torch.nn.functional as functional

    weights: dict[str, Any] = {}  # by path, such as blocks_0/qkv/kernel; kernels as [out, in]
    for path, leaf in jax.tree_util.tree_leaves_with_path(params["params"]):
        name = "/".join(str(part.key) for part in path)
        array = np.array(leaf.T if name.endswith("kernel") else leaf, order="C")
        weights[name] = torch.from_numpy(array).requires_grad_()
    groups: list[dict[str, Any]] = [
        {"params": [w for w in weights.values() if w.ndim > 1]},
        {"params": [w for w in weights.values() if w.ndim <= 1], "weight_decay": 0.0},
    ]
    rate, decay = config.learning_rate, config.weight_decay
    optimizer = torch.optim.AdamW(groups, rate, (0.9, 0.98), weight_decay=decay, fused=True)
    warmup = max(1, round(config.warmup * _STEPS))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: min(
            step / warmup, 0.5 + 0.5 * float(np.cos(np.pi * (step - warmup) / (_STEPS - warmup)))
        ),
    )

    def norm(name: str, stream: Any) -> Any:
        scale, bias = weights[f"{name}/scale"], weights[f"{name}/bias"]
        return functional.layer_norm(stream, (model.width,), scale, bias, 1e-5)

    def dense(name: str, stream: Any) -> Any:
        return functional.linear(stream, weights[f"{name}/kernel"], weights[f"{name}/bias"])

    def forward(tokens: Any, train: bool) -> Any:
        rate, (batch, n) = model.dropout if train else 0.0, tokens.shape
        allowed = (tokens != model.pad_id)[:, None, None, :]  # [B, 1, 1, n]
        stream = functional.embedding(tokens, weights["word/embedding"]) + weights["position"][:n]
        stream = functional.dropout(stream, rate)
        for block in (f"blocks_{layer}" for layer in range(model.layers)):
            fused = dense(f"{block}/qkv", norm(f"{block}/norm_attention", stream))
            fused = fused.view(batch, n, 3, model.heads, model.width // model.heads)
            query, key, value = fused.permute(2, 0, 3, 1, 4)  # each [B, H, n, D / H]
            mixed = functional.scaled_dot_product_attention(query, key, value, allowed, rate)
            mixed = mixed.transpose(1, 2).reshape(batch, n, model.width)
            stream = stream + functional.dropout(dense(f"{block}/attention_out", mixed), rate)
            up = dense(f"{block}/up", norm(f"{block}/norm_feed_forward", stream))
            down = dense(f"{block}/down", functional.gelu(up, approximate="tanh"))
            stream = stream + functional.dropout(down, rate)
        return dense("readout", norm("norm", stream[:, 0]))

    def half() -> contextlib.AbstractContextManager[Any]:
        return torch.autocast("cpu", torch.bfloat16, enabled=bfloat16)

    def step(tokens: np.ndarray, labels: np.ndarray) -> float:
        inputs = torch.from_numpy(tokens).long()
        dropped = (torch.rand(inputs.shape) < config.word_dropout) & (inputs > UNK)
        with half():
            logits = forward(torch.where(dropped, UNK, inputs), True)
        loss = functional.cross_entropy(logits.float(), torch.from_numpy(labels).long())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights.values(), config.clip)
        optimizer.step()
        schedule.step()
        return float(loss.detach())

    def logits(tokens: np.ndarray) -> np.ndarray:
        with torch.no_grad(), half():
            return forward(torch.from_numpy(tokens).long(), False).float().numpy()

    return step, logits


def run_models(
    works: Sequence[tuple[int, int]],
    budget: Budget,
    *,
    folder: Path | None = None,
    config: BertConfig = MINILM,
    loads: int = 3,
) -> Iterator[Comparison]:
    """Yield a comparison of the forward pass for each (sentences, tokens), and one of loading.

    `folder` holds a published BERT, DistilBERT or RoBERTa; without it the model has `config`'s
    sizes and random parameters. Each contender loads it in `loads` processes.

    Raises `InputError` if the folder holds another model, or a batch has too many tokens for it.
    """
    with tempfile.TemporaryDirectory() as scratch:
        which = "random" if folder is None else "given"
        if folder is None:
            folder = Path(scratch) / "model"
            save_pretrained(folder, Model(config, init(config), None))
        model = load(folder, head="none")
        if not isinstance(model.config, BertConfig):
            raise InputError(
                f"the model must be BERT, DistilBERT or RoBERTa, got another kind in {folder}"
            )
        config = model.config
        words = (
            f"a {which} {config.kind} of {config.layers} layers, width {config.width}, "
            f"{config.heads} heads"
        )
        installed = all(map(importlib.util.find_spec, ("torch", "transformers")))
        missing = {} if installed else {"transformers": "not installed"}
        peer = read_transformers(folder) if installed else None
        for batch, n in works:
            rng = np.random.default_rng(0)
            tokens = rng.integers((config.pad_id or 0) + 1, config.vocabulary, (batch, n), np.int32)
            yield Comparison(
                "models",
                f"forward pass, batch {batch} x {n} tokens, {words}",
                {"measure": "forward", "batch": batch, "tokens": n, "model": config.to_dict()},
                take_turns(_forward(model, peer, tokens), budget),
                "our attention and hidden states" if installed else "",
                missing,
                ("both return the attention and hidden states of every layer, float32, all cores",),
            )
        tiny = dataclasses.replace(
            config, vocabulary=(config.pad_id or 0) + 2, positions=2, layers=1, heads=1, width=8,
            hidden_width=8,
        )  # fmt: skip
        save_pretrained(Path(scratch) / "tiny", Model(tiny, init(tiny), None))
        loaders = (OURS, THEIRS) if installed else (OURS,)
        timings = time_loading(loaders, Path(scratch) / "tiny", folder, loads)
        size = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
        yield Comparison(
            "models",
            f"loading {words}",
            {"measure": "load", "file": size, "model": config.to_dict()},
            timings,
            missing=missing,
            notes=(
                "every load in a process of its own, which has loaded a tiny model before; done "
                f"when every parameter has been read; the file has {bytes_text(size)}",
                *(
                    f"peak memory of {one.name}: {ratio_text(one.peak_memory / size)} the file"
                    for one in timings
                    if one.peak_memory is not None
                ),
            ),
        )


def _forward(model: Model, peer: Any, tokens: np.ndarray) -> list[Contender]:
    def own() -> EncoderOutput:
        return jax.block_until_ready(model(tokens))

    contenders = [Contender("jaxflow.models", own, compiles=True)]
    if peer is not None:
        import torch

        ids = torch.from_numpy(tokens).long()
        ones = torch.ones_like(ids)

        @torch.inference_mode()
        def theirs() -> Any:
            return peer(ids, ones, output_attentions=True, output_hidden_states=True)

        def error(output: Any) -> float:
            return difference(output, own())

        contenders.append(Contender("transformers, eager attention", theirs, error, True))
    return contenders


def read_transformers(folder: Path) -> Any:
    """Load a model without a head, with the attention implementation that returns weights."""
    import torch
    from transformers import AutoModel
    from transformers.utils import logging

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    logging.disable_progress_bar()
    logging.set_verbosity_error()  # a checkpoint's head is left out on purpose
    return AutoModel.from_pretrained(folder, attn_implementation="eager").eval()


def difference(output: Any, ours: EncoderOutput) -> float:
    """Return the largest difference of attention and hidden states from ours."""
    pairs = ((output.attentions, ours.attention), (output.hidden_states, ours.hidden))
    return max(
        float(np.abs(layer.numpy() - own).max())
        for theirs, stacked in pairs
        for layer, own in zip(theirs, np.asarray(stacked).swapaxes(0, 1), strict=True)
    )


def time_loading(names: Sequence[str], tiny: Path, folder: Path, rounds: int) -> tuple[Timing, ...]:
    """Time loading a checkpoint, in a fresh process for each round, the contenders in turns."""
    found: dict[str, list[tuple[float, int | None]]] = {name: [] for name in names}
    context = multiprocessing.get_context("spawn")  # a forked one begins with the parent's memory
    for name in [*names] * rounds:
        with ProcessPoolExecutor(1, mp_context=context) as pool:
            found[name].append(pool.submit(load_once, name, tiny, folder).result())
    timings = []
    for name, loads in found.items():
        seconds = [taken for taken, _ in loads]
        peak = max((peak for _, peak in loads if peak is not None), default=None)
        middle = statistics.median(seconds)
        timings.append(Timing(name, middle, min(seconds), rounds, seconds[0], None, peak))
    return tuple(timings)


def load_once(name: str, tiny: Path, folder: Path) -> tuple[float, int | None]:
    """Return seconds and bytes of loading a folder in this process, after a tiny one."""

    def ours(folder: Path) -> Any:
        model = load(folder, head="none")
        return model, jax.block_until_ready(model.params)

    def theirs(folder: Path) -> Any:
        module = read_transformers(folder)
        for parameter in module.parameters():  # the library maps the file: read every page
            parameter.sum()
        return module

    run = ours if name == OURS else theirs
    run(tiny)
    seconds, _, peak = measure(partial(run, folder))
    return seconds, peak
