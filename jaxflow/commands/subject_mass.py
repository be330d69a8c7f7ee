"""``jaxflow subject-mass``."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import tyro

import jaxflow.commands.progress as progress
from jaxflow.errors import InputError

__all__ = ["CompareSubjects"]


@dataclasses.dataclass(frozen=True)
class CompareSubjects:
    """Measure how much of what reaches [CLS] comes from the subject noun, a run beside another."""

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """Folders of finished runs on one corpus; later ones are compared with the first."""
    split: str = "test"
    """Which sentences."""
    data: Path | None = None
    """Where the corpus lies now, if it has moved since training."""
    threads: int | None = None
    """Threads for attention flow; by default all cores."""
    json: Path | None = None
    """Write the numbers to this file too."""

    def run(self) -> None:
        """Measure and print."""
        from jaxflow.eval.report.text import json_text
        from jaxflow.eval.subject_mass import compare_runs
        from jaxflow.eval.subject_table import mass_record, mass_table
        from jaxflow.files import write_together

        if not self.runs:
            raise InputError("expected the folder of at least one run, got none")
        with progress.counting("measuring") as report:
            found = compare_runs(
                self.runs, split=self.split, data=self.data, threads=self.threads, report=report
            )
        print(mass_table(found))
        if self.json is not None:
            text = json_text(mass_record(found))
            write_together(
                self.json.parent,
                {self.json.name: lambda path: _write(path, text)},
            )
            print(f"wrote {self.json}")


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
