"""A benchmark's record as a Markdown page: goals first, then everything that was measured."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from jaxflow.eval.benchmarks.figures import bytes_text
from jaxflow.eval.benchmarks.goals import check_goals
from jaxflow.eval.benchmarks.lookup import Entry, find
from jaxflow.eval.benchmarks.page_tables import (
    contender_table,
    floor_table,
    growth_tables,
    markdown_table,
)

__all__ = ["to_page"]

_OPENING = """# Benchmarks

The project against other people's code on the same work, on one machine, as
`jaxflow benchmark` measured it. This page, its plots and
[the record behind them](benchmarks.json) are written by one command:

```sh
jaxflow benchmark --full --data DIR --docs docs
```

DIR holds the public agreement corpus, whose test sentences the model that comes along reads: its
attention is called "trained" below (that of a run of `jaxflow train` with `--run RUN` instead). The
other kinds are made up: "diffuse" and "peaky" are softmaxes of normal scores, "bert-like" mixes
heads on the first and last token, on neighbours and on content, "trained-like" mixes heads whose
queries all look at the same few keys with local ones, and in "causal" no query looks ahead. Nothing
is left out: a goal that was missed is listed with its figure, and a peer that did not take part
with the reason."""

_GOALS = """A ratio says how many times longer the other one takes. For tables it is that to the
kernel from finished edge weights, which is what the other solvers start from too; "whole call" is
the ratio to `jaxflow.flow`, which starts from the attention and checks it. Where a goal is "at
most", it is the other way round: ours over theirs."""

FLOOR = "**The floor: one read of the edge weights at the machine's copy bandwidth**"

# Title, introduction, plot, and the settings of the comparisons below it.
_SECTIONS: tuple[tuple[str, str, str | None, Mapping[str, Any]], ...] = (
    (
        "The table of one sentence",
        "All flows from one token, `[CLS]` or the last one under a causal mask, of all layers.",
        None,
        {"benchmark": "flow", "measure": "table"},
    ),
    (
        "All sources, and what absorption gives",
        "A sink that all sources of one layer have brought to its bound needs no work in the "
        "layers above.",
        None,
        {"benchmark": "flow", "measure": "absorption"},
    ),
    (
        "Growth with the tokens",
        "A peer's line ends where one sentence took it too long.",
        "flow-tokens",
        {"benchmark": "flow", "measure": "growth", "axis": "tokens"},
    ),
    (
        "Growth with the layers",
        "",
        "flow-layers",
        {"benchmark": "flow", "measure": "growth", "axis": "layers"},
    ),
    ("Two threads", "", None, {"benchmark": "flow", "measure": "threads"}),
    (
        "The call around the kernel",
        "What checks, head fusion, residual and copies cost beside the flows themselves.",
        None,
        {"benchmark": "flow", "measure": "call"},
    ),
    ("A test set", "", None, {"benchmark": "flow", "measure": "corpus"}),
    (
        "Rollout",
        "Compilation is in the first call only.",
        "rollout",
        {"benchmark": "rollout"},
    ),
    ("One training step", "", "train", {"benchmark": "train"}),
    (
        "The forward pass of a published model",
        "Compilation is in the first call only.",
        "models",
        {"benchmark": "models", "measure": "forward"},
    ),
    ("Loading a published model", "", None, {"benchmark": "models", "measure": "load"}),
)


def to_page(record: Entry, plots: Mapping[str, str]) -> str:
    """Write the page.

    Parameters
    ----------
    record
        As `jaxflow.eval.benchmarks.record.record` makes it.
    plots
        Plot -> its address from the page.
    """
    blocks = [_OPENING, "## Goals", _GOALS, _goal_table(record)]
    blocks += ["## Machine", _machine(record), "## Method", record["method"]]
    for title, text, plot, settings in _SECTIONS:
        found = find(record, **settings)
        if found:
            blocks += [f"## {title}", text]
            if plot is not None and plot in plots:
                blocks.append(f"![{title}]({plots[plot]})")
            blocks += _growth(found) if settings.get("measure") == "growth" else _section(found)
    return "\n\n".join(block for block in blocks if block) + "\n"


def _goal_table(record: Entry) -> str:
    verdicts = {True: "reached", False: "**missed**", None: "not measured"}
    rows = [
        [goal.work, goal.against, goal.wanted, goal.reached, verdicts[goal.met], goal.detail]
        for goal in check_goals(record)
    ]
    return markdown_table(["work", "against", "goal", "reached", "", "detail"], rows)


def _machine(record: Entry) -> str:
    machine = record["machine"]
    load = ", ".join(f"{value:.2f}" for value in machine["load"]) or "unknown"
    versions = ", ".join(f"{name} {value}" for name, value in record["versions"].items())
    memory = bytes_text(machine["memory"]) or "unknown"
    return "\n".join(
        [
            f"- processor: {machine['processor']}, {machine['cores']} cores for this process",
            f"- memory: {memory}",
            f"- system: {machine['system']}",
            f"- load when it began (1, 5, 15 minutes): {load}",
            f"- versions: {versions}",
        ]
    )


def _growth(found: Sequence[Entry]) -> Iterator[str]:
    yield from growth_tables(found)
    left_out = {
        f"{peer}: {reason}"
        for comparison in found
        for peer, reason in comparison["missing"].items()
    }
    few = {note for comparison in found for note in comparison["notes"] if " of the " in note}
    yield _bullets(sorted(left_out) + sorted(few))
    yield FLOOR
    yield floor_table(found)


def _section(found: Sequence[Entry]) -> Iterator[str]:
    # What every comparison says of itself is said once.
    shared = [note for note in found[0]["notes"] if all(note in one["notes"] for one in found)]
    if shared and len(found) > 1:
        yield _bullets(shared)
    else:
        shared = []
    floors = [comparison for comparison in found if "floor_seconds" in comparison["settings"]]
    for comparison in found:
        yield f"**{_first_up(comparison['work'])}**"
        yield contender_table(comparison)
        yield _bullets(
            [
                *([f"error against {comparison['reference']}"] if comparison["reference"] else []),
                *(f"{peer}: {reason}" for peer, reason in comparison["missing"].items()),
                *(note for note in comparison["notes"] if note not in shared),
            ]
        )
    if floors:
        yield FLOOR
        yield floor_table(floors)


def _bullets(lines: Sequence[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def _first_up(text: str) -> str:
    return text[:1].upper() + text[1:]
