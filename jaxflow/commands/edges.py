"""Provide the command ``jaxflow edges``."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

import jaxflow.commands._console as terminal
from jaxflow.commands._options import ModelOptions, given, options, paired, refuse
from jaxflow.errors import InputError

if TYPE_CHECKING:
    from rich.console import Console

    from jaxflow.eval.explanation import Explanation


@options
class Edges:
    """List the edge weights and aggregators there are, or score sentences by some of them.

    Without a sentence it lists them. A method is EDGE/AGGREGATOR, such as alti/flow; an edge weight
    alone is followed by rollout, and decompx needs no aggregator. jaxflow leaderboard compares
    their faithfulness.
    """

    sentences: tyro.conf.Positional[Annotated[tuple[str, ...], "SENTENCE"]] = ()
    """Sentences to score, each one argument."""
    by: tyro.conf.UseAppendAction[Annotated[tuple[str, ...], "EDGE/AGGREGATOR"]] = ()
    """A method; may be given several times. By default some of the usual ones."""
    layer: int = -1
    """The layer whose token is explained, from 0; by default the top one."""
    pair: tyro.conf.UseAppendAction[Annotated[tuple[str, ...], "TEXT"]] = ()
    """The second text of a model that reads two; once for each sentence."""
    label: Annotated[str | None, "NAME|INDEX"] = None
    """The class, label or number that gradients are of; by default the one with the highest
    probability."""
    source: ModelOptions = dataclasses.field(default_factory=ModelOptions)
    threads: int | None = None
    """Threads for attention flow; by default all cores."""
    json: Path | None = None
    """Write JSON to this .json file, or print it (-): the scores of all layers."""

    def run(self) -> None:
        """List, or score and print."""
        console = terminal.console()
        if not self.sentences:
            self._list(console)
            return
        found = self._score()
        if self.json is not None:
            record = {"sentences": [_record(one) for one in found]}
            terminal.save(self.json, json.dumps(record, indent=2) + "\n")
            return
        from jaxflow.eval.explain.text import print_scores

        for one in found:
            print_scores(console, one)

    def _list(self, console: Console) -> None:
        from rich.table import Table
        from rich.text import Text

        from jaxflow.edges import AGGREGATORS, edge_families, edge_weights, propagations

        asked = {**given(self, "by", "pair", "label", "json"), **given(self.source)}
        refuse(asked, "be asked for with a sentence to score")
        table = Table(box=None, pad_edge=False)
        for title in ("edge weight", "what it is", "from"):
            table.add_column(title, overflow="fold")
        listed = [(each.name, each.title, each.source) for each in edge_weights().values()]
        listed += [(each.name, each.title, each.source) for each in propagations().values()]
        for name, title, source in listed:
            table.add_row(Text(name), Text(title), Text(source, style="dim"))
        console.print(table)
        for family in edge_families().values():
            print(f"{family.prefix}-NUMBER: the number is {family.number}")
        print(f"aggregators: {', '.join(AGGREGATORS)}")

    def _score(self) -> list[Explanation]:
        from jaxflow.commands._runtime import compilation_cache
        from jaxflow.eval.explanation import explainer, needs_of
        from jaxflow.eval.score.attention import edge_method, method_name, usual_methods

        methods = [method_name(edge_method(name)) for name in self.by]
        asked: dict[str, Any] = {"label": self.label, "layer": self.layer, "threads": self.threads}
        with compilation_cache():
            model = self.source.load()
            needs = [needs_of(edge_method(name)) for name in methods or usual_methods(model)]
            if self.label is not None and not any("gradient" in fields for fields in needs):
                raise InputError("label has no meaning for methods without gradients: leave it out")
            explain = explainer(model, methods=methods or usual_methods(model), **asked)
            return [explain(*both) for both in paired(self.sentences, self.pair)]


def _record(one: Explanation) -> dict[str, Any]:
    return {
        "text": one.text,
        "pair": one.pair,
        "tokens": [token.record() for token in one.tokens],
        "readout": one.readout,
        "scores": {name: values.tolist() for name, values in one.layers.items()},
    }
