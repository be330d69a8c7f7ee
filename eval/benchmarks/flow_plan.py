"""What the flow benchmark does: kinds of attention, sizes, and the time for each contender."""

from __future__ import annotations

import dataclasses
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from jaxflow.eval.benchmarks.attentions import KINDS, synthetic_attention
from jaxflow.eval.benchmarks.timing import Budget
from jaxflow.eval.benchmarks.trained import Trained, trained_attention

__all__ = ["FULL", "QUICK", "FlowPlan", "FlowWork", "Growth", "attention_for", "fit_plan"]


@dataclasses.dataclass(frozen=True)
class FlowWork:
    """Kind of attention (``trained`` needs a model, and has its layers), layers, tokens."""

    kind: str
    layers: int
    tokens: int

    @property
    def source(self) -> int:
        """The token explained; a decoder's last, since the first one sees nothing but itself."""
        return self.tokens - 1 if self.kind == "causal" else 0


@dataclasses.dataclass(frozen=True)
class Growth:
    """Tables of growing size: `axis` takes the `values`, all else is as in `work`."""

    axis: Literal["tokens", "layers"]
    values: tuple[int, ...]
    work: FlowWork

    def at(self, value: int) -> FlowWork:
        """Return the work at one of the values."""
        tokens = value if self.axis == "tokens" else self.work.tokens
        layers = value if self.axis == "layers" else self.work.layers
        return FlowWork(self.work.kind, layers, tokens)


@dataclasses.dataclass(frozen=True)
class FlowPlan:
    """What the flow benchmark does.

    Attributes
    ----------
    works
        The tables of one sentence that every solver fills.
    sentences, slow_sentences
        For how many different sentences, and for how many of them networkx does.
    growths
        The same tables as tokens or layers grow.
    patience
        A peer that took more seconds than this for a sentence is left out of larger ones.
    absorption
        Tables of all sources, with and without what the layer below says.
    batch, batch_sentences, call_sentences
        One thread against two, and the call around the kernel, on so many sentences.
    corpus_sentences
        Test sentences of mixed length, or 0.
    budget
        Time for each contender.
    """

    works: tuple[FlowWork, ...]
    sentences: int = 8
    slow_sentences: int = 2
    growths: tuple[Growth, ...] = ()
    patience: float = 4.0
    absorption: tuple[FlowWork, ...] = ()
    batch: FlowWork = FlowWork("trained-like", 6, 20)
    batch_sentences: int = 256
    call_sentences: int = 64
    corpus_sentences: int = 0
    budget: Budget = dataclasses.field(default_factory=Budget)

    def sentences_for(self, work: FlowWork) -> int:
        """How many sentences a work is done for: fewer where one of them takes long."""
        return min(self.sentences, 8 if work.tokens <= 44 else 4 if work.tokens <= 64 else 2)


QUICK = FlowPlan(
    works=(*(FlowWork(kind, 6, 9) for kind in KINDS), FlowWork("trained-like", 6, 20)),
    sentences=2,
    slow_sentences=1,
    growths=(
        Growth("tokens", (6, 9, 14, 20), FlowWork("trained-like", 6, 0)),
        Growth("layers", (2, 4, 8), FlowWork("trained-like", 0, 6)),
    ),
    patience=0.2,
    absorption=(FlowWork("trained-like", 6, 20),),
    corpus_sentences=500,
)
FULL = FlowPlan(
    works=(
        *(FlowWork(kind, 6, n) for n in (9, 20) for kind in KINDS),
        FlowWork("trained-like", 6, 44),
        FlowWork("bert-like", 6, 44),
        FlowWork("bert-like", 12, 64),
        FlowWork("bert-like", 12, 128),
        FlowWork("causal", 12, 128),
    ),
    growths=(
        Growth("tokens", (16, 24, 32, 48, 64, 96, 128, 192), FlowWork("trained-like", 6, 0)),
        Growth("layers", (2, 3, 4, 6, 8, 12, 16, 24), FlowWork("trained-like", 0, 20)),
    ),
    absorption=(FlowWork("trained-like", 6, 44), FlowWork("bert-like", 12, 64)),
    corpus_sentences=2000,
    budget=Budget(seconds=8.0),
)


def fit_plan(
    plan: FlowPlan,
    lengths: tuple[int, ...] | None = None,
    layers: int | None = None,
    trained: Trained | None = None,
) -> FlowPlan:
    """Fit a plan to what a user asked for.

    Parameters
    ----------
    plan
        The plan.
    lengths, layers
        If given, only tables and batches of these sizes are done, on every kind of attention.
    trained
        If given, the attention of this model joins the tables, and stands for "trained-like" in the
        rest but for the growth, which needs more sizes than its corpus has.
    """
    if lengths is not None or layers is not None:
        works: tuple[FlowWork, ...] = tuple(
            FlowWork(kind, layers or 6, n) for n in lengths or (9, 20) for kind in KINDS
        )
        batch = FlowWork(plan.batch.kind, layers or 6, works[-1].tokens)
        plan = dataclasses.replace(
            plan, works=works, batch=batch, growths=(), absorption=(), corpus_sentences=0
        )
    if trained is not None:
        own = lengths or tuple(
            dict.fromkeys(work.tokens for work in plan.works if work.kind == "trained-like")
        )
        plan = dataclasses.replace(
            plan,
            works=(*(FlowWork("trained", 0, n) for n in own), *plan.works),
            batch=_on_run(plan.batch),
            absorption=tuple(_on_run(work) for work in plan.absorption),
        )
    return plan


def _on_run(work: FlowWork) -> FlowWork:
    return FlowWork("trained", 0, work.tokens) if work.kind == "trained-like" else work


def attention_for(work: FlowWork, sentences: int, trained: Trained | None) -> NDArray[np.float64]:
    """Return attention ``[B, L, H, n, n]`` of a work, float64, B at most `sentences`.

    Raises
    ------
    InputError
        If it is a trained model's and that has none to give.
    """
    if work.kind == "trained":
        assert trained is not None
        return trained_attention(trained, work.tokens, sentences=sentences)
    return synthetic_attention(work.kind, work.layers, work.tokens, sentences=sentences)
