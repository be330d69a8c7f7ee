"""Write the page of the faults injected and their results."""

from __future__ import annotations

from typing import Any

from faulting.trials import KINDS, WORK_NAMES
from fuzzing.harness import FAULTS, as_table
from numeric_limits import as_section

INTRODUCTION = """\
# Reliability

Runs are killed, disks fill up, files are truncated, and input may be malicious. The tests inject
these faults into whole commands and count the outcomes. One command runs the tests and writes this
page from the counts, which are in [reliability.json](reliability.json).

```sh
python -m tests.reliability --run counts
```

It runs for about an hour, mostly on one core, and continues after an interruption. The three
campaigns can also be run separately: `python -m tests.fuzz`, `tests.faults` and `tests.numbers`.
"""

#: Campaigns, and how the page's are run.
CAMPAIGNS = {
    "fuzz": ("--cases", "1050000"),
    "faults": ("--kill", "120", "--damages", "600"),
    "numbers": (),
}

PROMISES = """\
## Guarantees

**After a kill at any moment** (`kill -9`), no file under its final name is incomplete: a file is
written under a temporary name, synchronised to disk and renamed. The same command then continues
from the files that are complete, and its results have the same bytes as those of an uninterrupted
run. A lock ends with the process that holds it.

**After SIGTERM or SIGINT**, training finishes its step, writes a checkpoint, reports this in one
line and exits with 143 or 130; the metrics of the continued run are those of an uninterrupted run.
Every other command stops without incomplete files and with the same status. A second signal ends
the process at once.

**Two runs on one folder**: the second is refused, with one sentence that names the process that
holds the lock. The lock is `filelock`'s, on `.lock` in the folder. On a file system without locks
(some network file systems) nothing is locked.

**A damaged checkpoint** is detected by its checksum and moved to `checkpoints-damaged` in the run's
folder. The checkpoint before it is used, which is reported in one line. The run is refused only if
no checkpoint is intact.

**A full disk, a read-only folder or a lost permission** gives one sentence, exit status 2 and no
incomplete file. After the fault is removed, the same command gives the results of an undisturbed
run.

**A loss or a gradient that is not finite**, or a loss above 10,000, stops the run with an error
that names the step; the last good checkpoint is kept.

**Malicious input** is processed or refused with one line, within a second and with bounded memory.

**Numerical errors** are within the bounds below, in single and half precision, for one token and
for thousands, for one layer and for 96. The number of threads and the version of Python change no
bit.
"""

LIMITS = """\
## Limits

- Times differ between runs: `seconds` in `metrics.jsonl`, the milliseconds of the leaderboard.
  Orbax gives the files of checkpoints random names; the tests compare their numbers.
- A power failure was not tested. Files are synchronised before they are renamed, folders are not.
- JAX writes the compiled programs that `jaxflow leaderboard` keeps in the user's cache directly
  under their final names. A truncated one is not used: its program is compiled again, each time.
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
    note = f"\n{counts['note']}\n" if "note" in counts else ""
    return "\n".join([INTRODUCTION + note, _sums(counts), PROMISES, _faults(counts["faults"]),
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
        ("malicious files", total["cases"], total["cases"] - sum(total[kind] for kind in FAULTS)),
    ]
    lines = ["| | cases | survived | failed |", "|---|---:|---:|---:|"]
    lines += [f"| {name} | {tried:,} | {held:,} | {tried - held:,} |" for name, tried, held in rows]
    return "\n".join(lines) + "\n"


def _faults(faults: dict[str, Any]) -> str:
    lines = [
        "## Faults in whole commands",
        "",
        "Each trial runs a command on a small corpus, causes the fault at a random moment, checks "
        "every file under its final name, and runs the same command again to its end. The trial is "
        "survived if every file after the fault is one of an undisturbed run, if all files and "
        "numbers at the end are those of an undisturbed run, and if no temporary file is left. "
        "“In time” counts the trials in which the fault occurred before the command had ended.",
        "",
        "| fault | command | tried | in time | survived |",
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
        lines += ["", f"The run has made {sums['tried']:,} trials so far, of at least {asked:,}."]
    return "\n".join(lines) + "\n"


def _damages(faults: dict[str, Any]) -> str:
    made = faults["damages"]
    return (
        "## Damaged checkpoints\n\n"
        "Every file of a checkpoint was truncated at every 4 KiB boundary, from length 0 on "
        f"({made['cut']:,} cases), and a random bit of a file flipped ({made['flip']:,} cases). In "
        f"{made['tried'] - len(made['wrong']):,} of {made['tried']:,} cases the damage was found "
        "and reported in one line, the damaged checkpoint was moved, and the one before was used.\n"
    )


def _fuzz(found: dict[str, Any]) -> str:
    cases, asked = found["total"]["cases"], found["asked"]
    unfinished = f" The run has made {cases:,} of {asked:,} cases so far." if cases < asked else ""
    return (
        "## Malicious input\n\n"
        "Valid files of every format that jaxflow reads are truncated, repeated, spliced and "
        "rewritten at random. A reader fails if it crashes, takes more than a second, needs more "
        "memory than the size of the file justifies, does not refuse with one line, or accepts a "
        f"file that an independent reader does not accept.{unfinished}\n\n" + as_table(found)
    )
