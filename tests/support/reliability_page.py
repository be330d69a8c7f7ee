"""Write the page of the faults injected and their results."""

from __future__ import annotations

from typing import Any

from faulting.trials import KINDS, WORK_NAMES
from fuzzing.harness import FAULTS, as_table
from numeric_limits import as_section

INTRODUCTION = """\
# Reliability

Runs are killed, disks fill up, files are cut off, and what is read may be hostile. The tests
inject these faults into whole commands and count what comes of them. This page is made of the
counts by one command; the counts are in [reliability.json](reliability.json).

```sh
python -m tests.reliability --run counts
```

It runs for about an hour, on one core for the most part, and goes on where it was cut off. The
three campaigns are commands of their own too: `python -m tests.fuzz`, `tests.faults` and
`tests.numbers`.
"""

#: Campaigns, and how the page's are run.
CAMPAIGNS = {
    "fuzz": ("--cases", "1050000"),
    "faults": ("--kill", "120", "--damages", "600"),
    "numbers": (),
}

PROMISES = """\
## What is promised

**Killed at any moment** (`kill -9`), a command leaves no half-written file under its final name:
files are written beside their place, put on the disk and renamed. The same command then goes on
from what is kept and ends with the bytes of a run that nothing disturbed. A lock never outlives
its holder.

**Told to stop** (SIGTERM, SIGINT), training finishes its step, writes a checkpoint, says so in
one line and exits with 143 or 130; the metrics go on as if it had never stopped. Every other
command stops without half-written files and with the same status. A second signal ends the
process at once.

**Two runs on one folder**: the second is refused, in one sentence that names the process that has
it. The lock is `filelock`'s on `.lock` in the folder. Where a file system has none (some network
file systems) nothing is locked.

**A damaged checkpoint** is found by its checksum and moved to `checkpoints-damaged` in the run's
folder; the one before is used, and one line says so. Only if none is whole the run is refused.

**A full disk, a read-only folder, a permission lost on the way**: one sentence, exit status 2,
nothing half-written. When the fault is gone the same command ends as if nothing had been.

**A loss or a gradient that is not finite**, or a loss beyond 10,000, stops the run and names the
step; the last good checkpoint is kept.

**Hostile input** is answered or refused in one line, within a second and within bounded memory.

**Numbers** are off by no more than the bounds below, in single and half precision, at one token and
at thousands, at one layer and at 96; threads and versions of Python change no bit.
"""

LIMITS = """\
## What is not

- Times differ from run to run: `seconds` in `metrics.jsonl`, the milliseconds of the leaderboard.
  The checkpoints' files have names that Orbax draws at random; their numbers are
  compared.
- A power cut was not tried. Files are synchronised before they are renamed, folders are not.
- JAX writes the compiled programs that `jaxflow leaderboard` keeps in the user's cache straight
  to their place. One that is cut off is not used: its program is compiled again, each time.
"""


def shortened(found: dict[str, Any]) -> dict[str, Any]:
    """Return counts without the accounts of single cases."""

    def short(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: short(item) for name, item in value.items() if name != "told"}
        return value

    return dict(short(found))


def as_page(counts: dict[str, Any]) -> str:
    """Write the page in Markdown."""
    return "\n".join([INTRODUCTION, _sums(counts), PROMISES, _faults(counts["faults"]),
                      _damages(counts["faults"]), _fuzz(counts["fuzz"]),
                      as_section(counts["numbers"]), LIMITS])  # fmt: skip


def _all(faults: dict[str, Any]) -> dict[str, int]:
    tallies = [tally for each in faults["faults"].values() for tally in each.values()]
    return {name: sum(tally[name] for tally in tallies) for name in ("tried", "struck", "survived")}


def _sums(counts: dict[str, Any]) -> str:
    trials, damages = _all(counts["faults"]), counts["faults"]["damages"]
    total = counts["fuzz"]["total"]
    rows = [
        ("faults in whole commands", trials["tried"], trials["survived"]),
        ("damaged checkpoints", damages["tried"], damages["tried"] - len(damages["wrong"])),
        ("hostile files", total["cases"], total["cases"] - sum(total[kind] for kind in FAULTS)),
    ]
    lines = ["| | cases tried | survived | lost |", "|---|---:|---:|---:|"]
    lines += [f"| {name} | {tried:,} | {held:,} | {tried - held:,} |" for name, tried, held in rows]
    return "\n".join(lines) + "\n"


def _faults(faults: dict[str, Any]) -> str:
    lines = [
        "## Faults in whole commands",
        "",
        "Each trial is a command on a small corpus, the fault at a random moment, a look at every "
        "file under its final name, and the same command again to its end. It is survived if each "
        "file that stood there was one of an undisturbed run, if the end is that of an undisturbed "
        "run, every file and number compared, and if nothing is left over. Struck are the trials "
        "in which the fault came before the command had ended.",
        "",
        "| fault | command | tried | struck | survived |",
        "|---|---|---:|---:|---:|",
    ]
    for kind, (what, _) in KINDS.items():
        for work in WORK_NAMES:
            tally = faults["faults"].get(kind, {}).get(work)
            if tally:
                numbers = " | ".join(f"{tally[n]:,}" for n in ("tried", "struck", "survived"))
                lines.append(f"| {what} | {work} | {numbers} |")
    sums = _all(faults)
    lines.append(f"| all | | {sums['tried']:,} | {sums['struck']:,} | {sums['survived']:,} |")
    if not faults["finished"]:
        asked = sum(faults["asked"].values())
        lines += ["", f"The run had made {sums['tried']:,} trials so far, of at least {asked:,}."]
    return "\n".join(lines) + "\n"


def _damages(faults: dict[str, Any]) -> str:
    made = faults["damages"]
    return (
        "## Damaged checkpoints\n\n"
        "Every file of a checkpoint was cut off at every 4 KiB boundary, its beginning included "
        f"({made['cut']:,} cases), and a random bit of a file flipped ({made['flip']:,} cases). In "
        f"{made['tried'] - len(made['wrong']):,} of {made['tried']:,} cases the damage was found, "
        "said in one line, the damaged checkpoint moved aside and the one before used.\n"
    )


def _fuzz(found: dict[str, Any]) -> str:
    cases, asked = found["total"]["cases"], found["asked"]
    unfinished = f" The run had made {cases:,} of {asked:,} cases so far." if cases < asked else ""
    return (
        "## Hostile input\n\n"
        "Good files of every kind that is read are cut, repeated, spliced and rewritten at random. "
        "A reader is at fault if it crashes, takes more than a second or more memory than the file "
        "warrants, does not refuse in one line, or takes a file for what an independent reader "
        f"says it is not.{unfinished}\n\n" + as_table(found)
    )
