"""The page of how an evaluation in shards grows."""

from __future__ import annotations

from typing import Any

__all__ = ["as_page"]

INTRODUCTION = """\
# Scale

`jaxflow evaluate --shards` was run as a user runs it, in processes of its own that were watched
from outside: resident memory twenty times a second, processor time, and how many shards were
there. The encoder is a tiny one ({layers} layer, {heads} heads, width {width}), so that what is
measured is everything around the model: reading, flow, correlations, files, tables. Sentences
are of the built-in grammar, 10 tokens in the mean. This page is made of the numbers by one
command; they are in [scale.json](scale.json).

```sh
python -m tests.scale --sentences {sentences} --shards {shards} --out scale.json
python -m tests.scale --out scale.json --page docs/scale.md
```

Measured on {cores} cores ({machine}) with JAX {jax}, NumPy {numpy} and PyArrow {pyarrow}. Where
the clock and processor time are far apart, other programs were running.
"""

MEMORY = """\
## Memory while shards are made

{sentences:,} sentences in {shards} shards. Resident memory of the process when each tenth of
the shards was there:

| {heads} |
|{rule}|
| {cells} |

From the first tenth to the last shard it grew by {growth:+.1f} MB, {bytes:+.0f} bytes a
sentence scored. The most was {most:.0f} MB while shards were made and {last:.0f} MB in the last
step, which puts them together, draws the bootstrap's resamples and writes the tables.
"""

GROWTH = """\
## Growth with the corpus

Shards hold as many sentences in each corpus. Seconds are of processor time: until the first
shard was there (imports and compiling among it), for all shards at the pace of those behind the
first, and for the last step. An installation's first evaluation, as the first row may be, also
compiles the flow kernel, which is kept: some 40 s and 200 MB.

| sentences | shards | start | shards | last step | a second | memory, shards | last step |
|---:|---:|---:|---:|---:|---:|---:|---:|
"""

EXPONENTS = """
Fitted as a power of the number of sentences, the shards' time grows with exponent {work}, the
last step's with {last}; the most memory with {memory} while shards are made and {memory_last}
in the last step. 1 is growth in proportion, 0 is none.
"""

TOGETHER = """\
## Devices and processes

A quarter of the sentences. Each device has a core of its own, to which its process is confined.
The devices of one process are XLA's on the host's cores
(`--xla_force_host_platform_device_count`).

| processes | devices of each | cores | sentences a second | a second of processor time |
|---:|---:|---:|---:|---:|
"""


def as_page(found: dict[str, Any]) -> str:
    """Write the page in Markdown, of what `scaling.campaign.run` found."""
    records = list(found["growth"].values())
    method = {**found["method"]["model"], **found["method"]["versions"], **found["method"]}
    introduction = INTRODUCTION.format(**method, **found["asked"])
    return "\n".join([introduction, _memory(records[-1]), _growth(found), _together(found)])


def _memory(record: dict[str, Any]) -> str:
    tenths = record["tenths"]
    growth = tenths[-1] - tenths[0]
    return MEMORY.format(
        sentences=record["sentences"],
        shards=record["shards"],
        heads=" | ".join(f"{k}/10" for k in range(1, 11)),
        rule="|".join(["---:"] * 10),
        cells=" | ".join(f"{_mega(value):.1f} MB" for value in tenths),
        growth=_mega(growth),
        bytes=growth / (0.9 * record["sentences"]),
        most=_mega(record["memory_work"]),
        last=_mega(record["memory_last"]),
    )


def _growth(found: dict[str, Any]) -> str:
    lines = [
        f"| {r['sentences']:,} | {r['shards']} | {r['start_processor']:.1f} s "
        f"| {_number(r['work_processor'], '.1f')} s | {r['last_processor']:.1f} s "
        f"| {_number(r['rate_processor'], ',.0f')} | {_mega(r['memory_work']):.0f} MB "
        f"| {_mega(r['memory_last']):.0f} MB |"
        for r in found["growth"].values()
    ]
    fitted = {name: _number(value, ".2f") for name, value in found["exponents"].items()}
    return (
        GROWTH
        + "\n".join(lines)
        + "\n"
        + EXPONENTS.format(
            work=fitted["work_processor"],
            last=fitted["last_processor"],
            memory=fitted["memory_work"],
            memory_last=fitted["memory_last"],
        )
    )


def _together(found: dict[str, Any]) -> str:
    lines = []
    for key, record in found["together"].items():
        devices, processes = map(int, key.split("x"))
        lines.append(
            f"| {processes} | {devices} | {processes * devices} "
            f"| {_number(record['rate'], ',.0f')} | {_number(record['rate_processor'], ',.0f')} |"
        )
    return TOGETHER + "\n".join(lines) + "\n"


def _mega(count: float) -> float:
    return count / 1e6


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
