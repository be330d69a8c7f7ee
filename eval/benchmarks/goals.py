"""What was to be reached and what was: every goal beside its figure, from a benchmark's record."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from jaxflow.eval.benchmarks.figures import error_text, ratio_text, seconds_text
from jaxflow.eval.benchmarks.flow_absorption import WITHOUT
from jaxflow.eval.benchmarks.flow_batches import THREADS
from jaxflow.eval.benchmarks.flow_table import BATCH, CALL, EDMONDS_KARP, KERNEL
from jaxflow.eval.benchmarks.goal import Goal
from jaxflow.eval.benchmarks.lookup import Entry, contender, find, over
from jaxflow.eval.benchmarks.model_goals import model_goals
from jaxflow.eval.benchmarks.record import is_own

__all__ = ["check_goals"]

# Kind of attention, layers, tokens; the least ratio to edmonds_karp and to the fastest library.
_TABLES = (
    ("trained", 6, 9, 15_000, 70),
    ("trained", 6, 20, 50_000, 150),
    ("trained", 6, 44, None, 200),
    ("bert-like", 12, 64, None, 130),
    ("bert-like", 12, 128, None, 150),
    ("causal", 12, 128, None, 20),
)
_ABSORPTION = ((6, 44, 1.5), (12, 64, 4.0))
_SLOPE = 2.5
_THREADS = 1.8
_ERROR = 1e-9
_CORPUS_SECONDS = 0.5  # "well under a second"
_TRAIN = 1.2


def check_goals(record: Entry) -> list[Goal]:
    """Hold a benchmark's record against the goals.

    Parameters
    ----------
    record
        As `jaxflow.eval.benchmarks.record.record` makes it.

    Returns
    -------
    list of Goal
        All of them, in a fixed order, whether they were measured, reached or missed.
    """
    return [
        *_tables(record),
        *_absorption(record),
        _growth(record),
        *_threads(record),
        *_calls(record),
        _errors(record),
        _training(record),
        *model_goals(record),
    ]


def _tables(record: Entry) -> Iterator[Goal]:
    for kind, layers, tokens, paper, library in _TABLES:
        found = find(record, measure="table", attention=kind, layers=layers, tokens=tokens)
        work = f"{kind} attention, L = {layers}, n = {tokens}" + (
            ", last token" if kind == "causal" else ""
        )
        if paper is not None:
            slow = contender(found[0], EDMONDS_KARP) if found else None
            yield _ratio(work, EDMONDS_KARP, paper, found, slow)
        peers = [
            entry for comparison in found[:1] for entry in comparison["contenders"]
            if not is_own(entry["name"])
        ]  # fmt: skip
        fastest = min(peers, key=lambda entry: float(entry["ratio"]), default=None)
        yield _ratio(work, "the fastest third-party library", library, found, fastest)


def _ratio(work: str, against: str, wanted: float, found: list[Entry], peer: Entry | None) -> Goal:
    goal = Goal(work, against, f"≥ {ratio_text(wanted)}")
    if peer is None:
        return goal
    kernel, call = contender(found[0], KERNEL), contender(found[0], CALL)
    assert kernel is not None
    # Every solver in its best set-up: the kernel's is one call for all sentences.
    best = contender(found[0], BATCH) or kernel
    ratio = over(peer, best)
    detail = [] if peer["name"] == against else [peer["name"]]
    detail += [] if best is kernel else [f"a call a sentence {ratio_text(over(peer, kernel))}"]
    detail += [] if call is None else [f"whole call {ratio_text(over(peer, call))}"]
    detail += [] if kernel["error"] is None else [f"error {error_text(kernel['error'])}"]
    return dataclasses.replace(
        goal, reached=ratio_text(ratio), met=ratio >= wanted, detail=", ".join(detail)
    )


def _absorption(record: Entry) -> Iterator[Goal]:
    for layers, tokens, wanted in _ABSORPTION:
        goal = Goal(
            f"all sources, L = {layers}, n = {tokens}",
            "the same kernel without absorption",
            f"≥ {ratio_text(wanted)}",
        )
        for comparison in find(record, measure="absorption", layers=layers, tokens=tokens)[:1]:
            without = contender(comparison, WITHOUT)
            assert without is not None
            goal = dataclasses.replace(
                goal,
                reached=ratio_text(without["ratio"]),
                met=without["ratio"] >= wanted,
                detail=f"{comparison['settings']['attention']} attention, float64",
            )
        yield goal


def _growth(record: Entry) -> Goal:
    goal = Goal("growth of time with n", "log-log slope", f"≤ {_SLOPE}")
    for comparison in find(record, measure="growth", axis="tokens"):
        slope = comparison["settings"].get("slopes", {}).get(KERNEL)
        if slope:
            return dataclasses.replace(
                goal,
                reached=f"{slope['slope']:.2f}",
                met=slope["slope"] <= _SLOPE,
                detail=f"{comparison['settings']['attention']}, L = "
                f"{comparison['settings']['layers']}, n = {slope['from']} to {slope['to']}",
            )
    return goal


def _threads(record: Entry) -> Iterator[Goal]:
    for way in (KERNEL, CALL):
        goal = Goal(f"two threads, 256 sentences: {way}", "one thread", f"≥ {ratio_text(_THREADS)}")
        for comparison in find(record, measure="threads", sentences=256)[:1]:
            one, two = (contender(comparison, THREADS[way, count]) for count in (1, 2))
            assert one is not None
            assert two is not None
            ratio = over(one, two)
            detail = f"{seconds_text(one['seconds'])}, {seconds_text(two['seconds'])}"
            goal = dataclasses.replace(
                goal, reached=ratio_text(ratio), met=ratio >= _THREADS, detail=detail
            )
        yield goal


def _calls(record: Entry) -> Iterator[Goal]:
    around = Goal("64 sentences: the call without the kernel", "the kernel", "≤ 1x")
    for comparison in find(record, measure="call", sentences=64)[:1]:
        call, kernel = contender(comparison, CALL), contender(comparison, KERNEL)
        assert call is not None
        assert kernel is not None
        rest = over(call, kernel) - 1
        detail = f"call {seconds_text(call['seconds'])}, kernel {seconds_text(kernel['seconds'])}"
        around = dataclasses.replace(around, reached=ratio_text(rest), met=rest <= 1, detail=detail)
    yield around
    limit = f"well under 1 s (≤ {_CORPUS_SECONDS} s)"
    corpus = Goal("2,000 test sentences, all layers, one thread", "the clock", limit)
    for comparison in find(record, measure="corpus", sentences=2000)[:1]:
        call, kernel = contender(comparison, CALL), contender(comparison, KERNEL)
        assert call is not None
        assert kernel is not None
        detail = f"{comparison['settings']['attention']}, kernel {seconds_text(kernel['seconds'])}"
        corpus = dataclasses.replace(
            corpus,
            reached=seconds_text(call["seconds"]),
            met=call["seconds"] <= _CORPUS_SECONDS,
            detail=detail,
        )
    yield corpus


def _errors(record: Entry) -> Goal:
    errors = [
        entry["error"]
        for comparison in find(record, benchmark="flow")
        for entry in comparison["contenders"]
        if is_own(entry["name"]) and entry["error"] is not None
    ]
    goal = Goal("largest error of all flows above", "exact solvers", f"≤ {_ERROR:.0e}")
    if not errors:
        return goal
    return dataclasses.replace(goal, reached=error_text(max(errors)), met=max(errors) <= _ERROR)


def _training(record: Entry) -> Goal:
    goal = Goal("training step, float32", "PyTorch, float32", f"≥ {ratio_text(_TRAIN)}")
    for comparison in find(record, benchmark="train")[:1]:
        own, peer = comparison["contenders"][0], contender(comparison, "PyTorch, float32")
        if peer is not None:
            detail = f"{seconds_text(own['seconds'])}, {seconds_text(peer['seconds'])}"
            ratio = over(peer, own)
            return dataclasses.replace(
                goal, reached=ratio_text(ratio), met=ratio >= _TRAIN, detail=detail
            )
    return goal
