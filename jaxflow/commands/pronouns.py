"""Provide the command ``jaxflow reproduce pronouns``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import tyro

import jaxflow.commands._console as terminal
from jaxflow.commands._options import folder_name, options, own_name


@options
class ReproducePronouns:
    """Mask a pronoun and compare the model's referent with the one that attention comes from.

    Prints the paper's Figure 4 in numbers, then how often raw attention, rollout and flow prefer
    the referent that the model prefers, over the pairs of sentences that come with jaxflow.
    """

    model: Annotated[str, "PATH|NAME"] = "bert-base-uncased"
    """A masked language model (BERT, DistilBERT or RoBERTa): its folder, or its name on the hub."""
    schemas: Path | None = None
    """A file of sentences to count; by default the 50 pairs that come with jaxflow."""
    sentence: tyro.conf.UseAppendAction[Annotated[tuple[str, ...], "SENTENCE"]] = ()
    """A sentence of your own to show: "Ann met Paul near [MASK] car. | Ann=her | Paul=his". May be
    given several times."""
    out: Path | None = None
    """Folder for the results; by default runs/pronouns-MODEL."""
    threads: int | None = None
    """Threads for attention flow; by default all cores."""

    def run(self) -> None:
        """Measure, print and write."""
        from jaxflow.commands._runtime import compilation_cache
        from jaxflow.eval.pronouns.report import print_study, study, write_study
        from jaxflow.eval.pronouns.schemas import BUNDLED, parse_schema, read_schemas
        from jaxflow.models import load
        from jaxflow.train.lock import hold

        own = [parse_schema(text) for text in self.sentence]
        schemas = read_schemas(self.schemas or BUNDLED)  # refused before a model is fetched
        out = self.out or Path("runs") / f"pronouns-{folder_name(self.model)}"
        with hold(out):
            with compilation_cache():
                model = load(self.model, head="masked-lm")
                with terminal.counting("pronouns") as count:
                    done = study(
                        model,
                        schemas,
                        own=own,
                        described={
                            "model": own_name(self.model),
                            "schemas": "those of jaxflow" if self.schemas is None else self.schemas,
                        },
                        threads=self.threads,
                        report=count,
                    )
            files = write_study(out, done)
            print_study(terminal.console(), done)
            print()
            terminal.print_written(files)
