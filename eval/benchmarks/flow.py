"""Attention flow against other solvers, as it grows, on threads, and as a call."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from jaxflow.eval.benchmarks.floor import copy_bandwidth
from jaxflow.eval.benchmarks.flow_absorption import compare_absorption
from jaxflow.eval.benchmarks.flow_batches import (
    compare_calls,
    compare_corpus,
    compare_threads,
    mixed_attention,
)
from jaxflow.eval.benchmarks.flow_growth import run_growth
from jaxflow.eval.benchmarks.flow_plan import FlowPlan, FlowWork, attention_for
from jaxflow.eval.benchmarks.flow_table import TableSetup, compare_tables
from jaxflow.eval.benchmarks.record import Comparison
from jaxflow.eval.benchmarks.trained import Trained, corpus_attention

__all__ = ["run_flow"]


def run_flow(plan: FlowPlan, trained: Trained | None = None) -> Iterator[Comparison]:
    """Yield one comparison after the other.

    Parameters
    ----------
    plan
        What to do.
    trained
        A trained model, for works on ``trained`` attention and for the sentences of a test set.

    Raises
    ------
    InputError
        If its corpus has too short sentences only.
    """
    # A corpus that has no such sentences is found out before anything is timed.
    own = {
        work: attention_for(work, plan.batch_sentences, trained)
        for work in (*plan.works, *plan.absorption, plan.batch)
        if work.kind == "trained"
    }

    def attention_of(work: FlowWork, sentences: int) -> NDArray[np.float64]:
        if work in own:
            return own[work][:sentences]
        return attention_for(work, sentences, trained)

    setup = TableSetup(plan.budget, copy_bandwidth(), plan.slow_sentences)
    for work in plan.works:
        attention = attention_of(work, plan.sentences_for(work))
        yield compare_tables(attention, work.source, work.kind, setup)
    for growth in plan.growths:
        yield from run_growth(growth, plan, setup)
    for work in plan.absorption:
        attention = attention_of(work, min(4, plan.sentences_for(work)))
        yield compare_absorption(attention, work.kind, plan.budget)
    kind = plan.batch.kind
    # From here on in float32, as models give it.
    batch = attention_of(plan.batch, plan.batch_sentences).astype(np.float32)
    different = len(batch)
    # A corpus may have fewer sentences of this length: they come again then.
    batch = batch[np.arange(plan.batch_sentences) % different]
    yield compare_threads(batch, kind, different, plan.budget)
    yield compare_calls(
        batch[: plan.call_sentences], kind, min(different, plan.call_sentences), plan.budget
    )
    if plan.corpus_sentences:
        if trained is None:
            groups, kind = mixed_attention(plan.corpus_sentences), "made-up"
        else:
            groups, kind = corpus_attention(trained, plan.corpus_sentences), "trained"
        yield compare_corpus(groups, kind, plan.budget)
