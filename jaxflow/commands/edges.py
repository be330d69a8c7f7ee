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

    from jaxflow.eval.score.attention import EdgeScores


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
        for one in found:
            _print(console, one, self.layer)

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

    def _score(self) -> list[EdgeScores]:
        from jaxflow.commands._runtime import compilation_cache
        from jaxflow.eval.score.attention import edge_method, score_sentence

        methods = [edge_method(name) for name in self.by] or None
        asked: dict[str, Any] = {"label": self.label, "threads": self.threads}
        with compilation_cache():
            model = self.source.load()
            layers = model.config.layers
            if not -layers <= self.layer < layers:
                raise InputError(
                    f"layer must be from {-layers} to {layers - 1} for this model, got {self.layer}"
                )
            return [
                score_sentence(model, text, methods, pair=pair, **asked)
                for text, pair in paired(self.sentences, self.pair)
            ]


def _print(console: Console, one: EdgeScores, layer: int) -> None:
    """Print tokens down and methods across, each cell shaded by its score."""
    from rich.text import Text

    from jaxflow.eval.explain.text import bound_note, score_table
    from jaxflow.eval.plots.style import NOTE, is_constant, visible

    texts = one.text if one.pair is None else f"{one.text} | {one.pair}"
    console.print(Text(visible(texts), style="bold"), soft_wrap=True)
    depth = len(next(iter(one.scores.values())))
    readout = visible(one.tokens[one.readout].text)
    console.print(Text(f"of {readout} after layer {layer % depth + 1} of {depth}", style="dim"))
    rows = {name: values[layer] for name, values in one.scores.items()}
    console.print(score_table(one.tokens, rows))
    if constant := [name for name, row in rows.items() if is_constant(row)]:
        console.print(f"The same for all tokens: {', '.join(constant)}", soft_wrap=True)
    if one.saturated is not None:
        for note in bound_note(one.saturated[layer]):
            console.print(note.replace("Flow", "raw/flow", 1), soft_wrap=True)
    if console.color_system is not None:
        print(NOTE)


def _record(one: EdgeScores) -> dict[str, Any]:
    return {
        "text": one.text,
        "pair": one.pair,
        "tokens": [dataclasses.asdict(token) for token in one.tokens],
        "readout": one.readout,
        "scores": {name: values.tolist() for name, values in one.scores.items()},
    }
