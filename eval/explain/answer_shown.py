"""Show an explained answer: as a page, in a terminal, as JSON and as Parquet."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from jaxflow.eval.explain.answer import METHODS, AnswerExplanation
from jaxflow.eval.plots.style import ink, paint, visible
from jaxflow.eval.report import Column, Table, json_text, to_json
from jaxflow.files import Content
from jaxflow.html.answer import AnswerContent, visible_text, write_answer_page

if TYPE_CHECKING:
    from rich.console import Console

FORMAT = "jaxflow-answer-1"
_SINK = 1e-3  # a share below this is rounding
_UNITS = {"ratio": "times its position", "share": "share", "value": "nats"}


def as_answer_page(found: AnswerExplanation) -> str:
    """Return the HTML document of an explained answer."""
    return write_answer_page(
        AnswerContent(
            prompt=found.prompt_tokens,
            answer=found.answer_tokens,
            scores=found.scores,
            unit_scores={name: found.unit_scores(name) for name in found.scores},
            kinds=[METHODS[name].kind for name in found.scores],
            spans=found.target.spans,
            layers=[f"after layer {layer + 1}" for layer in found.layers],
            units=found.units,
            notes=_notes(found),
        )
    )


def _notes(found: AnswerExplanation) -> list[str]:
    methods = {name: METHODS[name] for name in found.scores}
    lines = [f"Explained is {found.target.text}."]
    if any(method.family in ("rollout", "gradient") for method in methods.values()):
        lines.append(
            f"Each layer keeps {found.residual:.0%} of a token and mixes the rest by its "
            "attention. Darker is more, relative to the row's largest score. The share of a group "
            "of tokens is the sum of theirs, exactly."
        )
    if found.sinks == "drop":
        lines.append(
            "The first token, on which attention rests, and attention sinks are left out: "
            "shares are of the rest."
        )
    elif found.sink > _SINK:
        lines.append(
            f"Up to {found.sink:.0%} of what a row holds went to attention sinks, which are no "
            "tokens: its scores sum to the rest, of which printed shares are."
        )
    if any(method.normalised for method in methods.values()):
        lines.append(
            "Normalised: divided by what uniform attention gives a token for its position alone; "
            "without that the first tokens of a prompt get most of everything."
        )
    if any(method.family == "removal" for method in methods.values()):
        lines.append(
            "Removal: by how much what is explained falls without a unit of the prompt, each "
            "removed in turn; what lies between units stays. Where it rises the colour is orange."
        )
    if "gradient-x-input" in methods:
        lines.append("Gradient x input: signed, and summed over a unit; orange is below 0.")
    return lines


def print_answer(console: Console, found: AnswerExplanation, most: int = 3) -> None:
    """Print the prompt shaded for the whole answer, and the top units of each sentence of it."""
    from rich.text import Text

    name = next(iter(found.scores))
    kind = METHODS[name].kind
    whole = found.scores[name][-1][:, : len(found.members)].mean(0).astype(np.float64)
    line = Text()
    for token, paper in zip(found.prompt_tokens, paint(np.maximum(whole, 0)), strict=True):
        colours = (f"rgb({','.join(map(str, colour))})" for colour in (ink(paper), paper))
        line.append(visible_text(token), style=" on ".join(colours))
    console.print(Text(f"prompt, shaded by {name} for {found.target.text}", "bold"))
    console.print(line, soft_wrap=True)
    console.print(Text("answer", "bold"))
    console.print(Text(visible_text(found.answer)), soft_wrap=True)
    scores = found.unit_scores(name)[-1]
    if kind == "share":
        scores = scores / np.maximum(scores.sum(-1, keepdims=True), 1e-30)
    form = {"ratio": "{:.2f}x", "share": "{:.1%}", "value": "{:+.3f}"}[kind]
    rows = []
    for part, tokens in _parts(found):
        value = scores[tokens, :-1].sum(0) if kind == "value" else scores[tokens, :-1].mean(0)
        for place, at in enumerate(np.argsort(-value, kind="stable")[:most].tolist()):
            title = "" if place else visible(part.strip())
            rows.append((title, form.format(value[at]), visible(_one_line(found.units[at]))))
    words = Column("unit of the prompt", text=True)
    head: list[str | Column] = ["part of the answer", _UNITS[kind], words]
    Table.of(head, rows).print(console)
    for note in _notes(found):
        console.print(Text(note, "dim"), soft_wrap=True)


def _parts(found: AnswerExplanation) -> list[tuple[str, list[int]]]:
    """Return the answer's explained parts, its sentences by default: text and rows."""
    if found.target.kind == "tokens":
        return _sentences(found.answer_tokens)
    return [
        ("".join(found.answer_tokens[begin:end]), [row])
        for row, (begin, end) in enumerate(found.target.spans)
    ]


def _one_line(text: str, most: int = 60) -> str:
    text = " ".join(text.split())
    return text if len(text) <= most else text[: most - 1] + "…"


def _sentences(tokens: Sequence[str]) -> list[tuple[str, list[int]]]:
    """Split an answer's tokens after . ! ? and line breaks: each part's text and tokens."""
    parts: list[tuple[str, list[int]]] = []
    text, held = "", list[int]()
    for place, token in enumerate(tokens):
        text, held = text + token, [*held, place]
        if re.search(r"[.!?]\s*$|\n", token) and text.strip():
            parts.append((text, held))
            text, held = "", []
    if held:
        parts.append((text, held))
    return parts


def as_answer_json(found: AnswerExplanation) -> str:
    """Write an explained answer as strict JSON text.

    ``{"format": "jaxflow-answer-1", "prompt", "answer", "prompt_tokens", "answer_tokens",
    "log_probabilities": [T], "target": {"kind", "spans": [R], "text", "token", "against"},
    "values": [R], "units": [U texts], "members": [P], "layers": [K], "residual", "sinks",
    "scores": {method: [K][R][P + T]}, "unit_scores": {method: [K][R][U + 1]}}``; methods without
    layers have one in place of K.
    """
    names = [each.name for each in dataclasses.fields(found) if each.name != "target"]
    record = {
        "format": FORMAT,
        **{name: to_json(getattr(found, name)) for name in names},
        "target": found.target.record(),
    }
    record["unit_scores"] = {name: to_json(found.unit_scores(name)) for name in found.scores}
    return json_text(record, indent=None)


def as_answer_parquet(found: AnswerExplanation) -> Content:
    """Write one row for each method, layer, explained number and token before it."""
    return partial(_write_parquet, found)


def _write_parquet(found: AnswerExplanation, path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    tables = []
    for name, values in found.scores.items():
        layer, row, token = (axis.ravel() for axis in np.indices(values.shape))
        spans = np.array(found.target.spans)[row]
        kept = token < len(found.members) + spans[:, 1] - 1
        members = np.concatenate([found.members, np.full(len(found.answer_tokens), -1)])
        depths = np.array(found.layers if METHODS[name].layered else [-1], np.int16) + 1
        tables.append(
            pa.table(
                {
                    "method": pa.array([name] * int(kept.sum())).dictionary_encode(),
                    "layer": depths[layer[kept]],
                    "answer_token": spans[kept, 0].astype(np.int32),
                    "token": token[kept].astype(np.int32),
                    "unit": members[token[kept]].astype(np.int32),
                    "score": values.ravel()[kept],
                }
            )
        )
    pq.write_table(pa.concat_tables(tables).unify_dictionaries(), path, compression="zstd")
