"""From a masked language model to Figure 4, the agreement table and their files."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxflow.eval.plots.pronouns import draw_pronoun_agreement, draw_referents
from jaxflow.eval.plots.style import save
from jaxflow.eval.pronouns.agreement import Agreement, agreement
from jaxflow.eval.pronouns.choice import Case, measure
from jaxflow.eval.pronouns.report import case_record, to_markdown
from jaxflow.eval.pronouns.schemas import PAPER, Schema, read_schemas
from jaxflow.eval.report.text import json_text, versions
from jaxflow.files import write_together

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Study", "study", "write_study"]


@dataclass(frozen=True, eq=False)
class Study:
    """What a model makes of pronouns.

    Attributes
    ----------
    paper
        The paper's two sentences.
    own
        Sentences that were asked for by themselves; shown, not counted.
    cases
        The sentences that are counted.
    found
        The agreement over `cases`.
    config
        What it was made with.
    """

    paper: tuple[Case, ...]
    own: tuple[Case, ...]
    cases: tuple[Case, ...]
    found: Agreement
    config: Mapping[str, Any]


def study(
    model: Any,
    schemas: Sequence[Schema],
    *,
    own: Sequence[Schema] = (),
    described: Mapping[str, Any] | None = None,
    residual: float = 0.5,
    threads: int | None = None,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> Study:
    """Measure the paper's sentences, those that are counted, and further ones.

    Parameters
    ----------
    model
        A masked language model.
    schemas
        The sentences to count.
    own
        Further sentences, which are shown like the paper's.
    described
        What to say in the files of where the model and the sentences are from.
    residual, threads, report
        As for `jaxflow.eval.pronouns.choice.measure`.

    Raises
    ------
    InputError
        If the model or a sentence is not usable, or there is none to count.
    """
    paper = read_schemas(PAPER)
    every = [*paper, *own, *schemas]
    cases = measure(model, every, residual=residual, threads=threads, report=report)
    shown, first = len(paper), len(paper) + len(own)
    config = {**(described or {}), "residual": residual, "architecture": model.config.to_dict()}
    return Study(cases[:shown], cases[shown:first], cases[first:], agreement(cases[first:]), config)


def write_study(out: Path, done: Study) -> list[Path]:
    """Write ``pronouns.md``, ``pronouns.json``, ``config.json`` and the figures, or none of them.

    Parameters
    ----------
    out
        Folder, made if it is not there.
    done
        The study. ``figure4.svg`` has the paper's sentences, ``agreement.svg`` the shares by layer,
        and ``sentences.svg`` the further sentences, if there are any.

    Returns
    -------
    list of Path
        The files.

    Raises
    ------
    InputError
        If the folder cannot be written to.
    """
    made_with = {"config": done.config, "versions": versions()}
    texts = {
        "pronouns.md": to_markdown(done.paper, done.own, done.found, len(done.cases), made_with),
        "pronouns.json": json_text(
            {
                "paper": [case_record(case) for case in done.paper],
                "own": [case_record(case) for case in done.own],
                "agreement": done.found,
                "sentences": [case_record(case) for case in done.cases],
                **made_with,
            }
        ),
        "config.json": json_text(made_with),
    }
    figures: dict[str, Figure] = {
        "figure4.svg": draw_referents(done.paper),
        "agreement.svg": draw_pronoun_agreement(done.found),
    }
    if done.own:
        figures["sentences.svg"] = draw_referents(done.own)
    writers: dict[str, Callable[[Path], None]] = {
        name: partial(_write_text, text=text) for name, text in texts.items()
    }
    writers |= {name: partial(save, figure, form="svg") for name, figure in figures.items()}
    return write_together(out, writers)


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
