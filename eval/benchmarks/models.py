"""Published models against the transformers library: the forward pass, and loading a checkpoint."""

from __future__ import annotations

import dataclasses
import importlib.util
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxflow.errors import InputError
from jaxflow.eval.benchmarks.figures import bytes_text, ratio_text
from jaxflow.eval.benchmarks.machine import describe_machine
from jaxflow.eval.benchmarks.model_loading import LOADERS, OURS, time_loading
from jaxflow.eval.benchmarks.record import Comparison
from jaxflow.eval.benchmarks.timing import Budget, Contender, take_turns
from jaxflow.models import BertConfig, EncoderOutput, Model, init, load, save_pretrained

__all__ = ["FORWARD", "FULL", "MINILM", "PEER", "QUICK", "ModelPlan", "ModelWork", "run_models"]

FORWARD, PEER = "jaxflow.models", "transformers, eager attention"

#: The sizes of the 6-layer MiniLM that most sentence encoders are made from.
MINILM = BertConfig(layers=6, heads=12, width=384, hidden_width=1536, pooler=True)

_ABSENT = "not installed, so only our own figures are here"


@dataclasses.dataclass(frozen=True)
class ModelWork:
    """Sentences a batch, and tokens a sentence."""

    batch: int
    tokens: int


@dataclasses.dataclass(frozen=True)
class ModelPlan:
    """What the benchmark of published models does.

    Attributes
    ----------
    works
        The batches of the forward pass.
    config
        The model, with random parameters.
    folder
        A published BERT, DistilBERT or RoBERTa instead of it.
    budget
        The time for each contender.
    loads
        How many processes load it, of each contender.
    """

    works: tuple[ModelWork, ...]
    config: BertConfig = MINILM
    folder: Path | None = None
    budget: Budget = dataclasses.field(default_factory=lambda: Budget(seconds=4.0))
    loads: int = 3


QUICK = ModelPlan((ModelWork(64, 64), ModelWork(1, 16)))
FULL = ModelPlan(
    (ModelWork(1, 16), ModelWork(64, 16), ModelWork(64, 64), ModelWork(8, 256)),
    budget=Budget(seconds=12.0, rounds=40),
    loads=5,
)


def run_models(plan: ModelPlan) -> Iterator[Comparison]:
    """Yield a comparison for each batch, and that of loading.

    Raises
    ------
    InputError
        If the folder holds no BERT, DistilBERT or RoBERTa, or a batch has too many tokens for it.
    """
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "model" if plan.folder is None else plan.folder
        if plan.folder is None:
            save_pretrained(folder, Model(plan.config, init(plan.config), None))
        model = load(folder, head="none")
        config = model.config
        if not isinstance(config, BertConfig):
            raise InputError(
                "the model must be BERT, DistilBERT or RoBERTa, got another architecture in "
                f"{folder}"
            )
        missing, peer = {"transformers": _ABSENT}, None
        if all(importlib.util.find_spec(package) for package in ("torch", "transformers")):
            from jaxflow.eval.benchmarks.transformers_peer import read_module, use_threads

            use_threads(describe_machine()["cores"])
            missing, peer = {}, read_module(folder)
        for work in plan.works:
            yield _forward(model, config, peer, work, plan, missing)
        # Read first, so that imports are no part of the time.
        tiny = dataclasses.replace(
            config, vocabulary=config.pad_id + 2, positions=2, layers=1, heads=1, width=8,
            hidden_width=8,
        )  # fmt: skip
        save_pretrained(Path(scratch) / "tiny", Model(tiny, init(tiny), None))
        yield _loading(Path(scratch) / "tiny", folder, config, plan, missing)


def _forward(
    model: Model,
    config: BertConfig,
    peer: Any,
    work: ModelWork,
    plan: ModelPlan,
    missing: dict[str, str],
) -> Comparison:
    rng = np.random.default_rng(0)
    shape = (work.batch, work.tokens)
    tokens = rng.integers(config.pad_id + 1, config.vocabulary, shape, np.int32)

    def own() -> EncoderOutput:
        return jax.block_until_ready(model(tokens))

    contenders = [Contender(FORWARD, own, compiles=True)]
    if peer is not None:
        from jaxflow.eval.benchmarks.transformers_peer import difference, forward

        contenders.append(
            Contender(
                PEER,
                partial(forward, peer, tokens),
                lambda output: difference(output, own()),
                compiles=True,
            )
        )
    return Comparison(
        benchmark="models",
        work=f"forward pass with attention and hidden states, batch {work.batch} x {work.tokens} "
        f"tokens, {_in_words(config, plan)}",
        settings={"measure": "forward", **dataclasses.asdict(work), **_settings(config, plan)},
        reference="" if peer is None else "our attention and hidden states",
        timings=tuple(take_turns(contenders, plan.budget)),
        missing=missing,
        notes=(
            "both return the attention and the hidden states of every layer, float32, from the "
            "same checkpoint on all cores; ours stacked in one array each, theirs a layer each",
        ),
    )


def _loading(
    tiny: Path, folder: Path, config: BertConfig, plan: ModelPlan, missing: dict[str, str]
) -> Comparison:
    names = [name for name in LOADERS if name == OURS or not missing]
    size = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    timings = time_loading(names, tiny, folder, plan.loads)
    notes = [
        "every load in a process of its own, which has loaded a tiny model of the same kind "
        "before, so that imports are no part of it; done when every parameter has been read; ours "
        f"reads the tokenizer too, where there is one; the file has {bytes_text(size)}",
    ]
    notes += [
        f"peak memory of {timing.name}: {ratio_text(timing.peak_memory / size)} the file"
        for timing in timings
        if timing.peak_memory is not None
    ]
    return Comparison(
        benchmark="models",
        work=f"loading {_in_words(config, plan)}",
        settings={"measure": "load", "file": size, **_settings(config, plan)},
        reference="",
        timings=tuple(timings),
        missing=missing,
        notes=tuple(notes),
    )


def _settings(config: BertConfig, plan: ModelPlan) -> dict[str, Any]:
    names = ("kind", "layers", "heads", "width", "hidden_width", "vocabulary")
    sizes = {name: getattr(config, name) for name in names}
    return sizes | {"random": plan.folder is None}


def _in_words(config: BertConfig, plan: ModelPlan) -> str:
    which = "random" if plan.folder is None else "given"
    return (
        f"a {which} {config.kind} of {config.layers} layers, width {config.width}, "
        f"{config.heads} heads"
    )
