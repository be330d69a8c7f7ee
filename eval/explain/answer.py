"""Explain an answer token by token: which part of the prompt each of its tokens came from."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

import jaxflow
from jaxflow._rows import Edge
from jaxflow.attention import check_residual
from jaxflow.errors import InputError
from jaxflow.eval.explanation import resolve_place
from jaxflow.eval.plots.style import ink, paint, visible
from jaxflow.eval.report import Column, Table, json_text, to_json
from jaxflow.eval.score.reading import piece_text
from jaxflow.files import Content
from jaxflow.html.answer import AnswerContent, visible_text, write_answer_page
from jaxflow.models import Model, SubwordTokenizer

if TYPE_CHECKING:
    from rich.console import Console

Unit = Literal["words", "sentences", "lines", "passages"]

#: Method -> its edge weight, and whether its rows are divided by those of uniform attention.
METHODS: Mapping[str, tuple[Edge, bool]] = {
    "rollout-normalised": ("raw", True),
    "rollout": ("raw", False),
    "norm/rollout-normalised": ("norm", True),
    "norm/rollout": ("norm", False),
}
DEFAULT = ("rollout-normalised", "rollout")
FORMAT = "jaxflow-answer-1"
_OUTSIDE = "(outside the passages)"
_SINK = 1e-3  # a share below this is rounding
_BREAKS = {
    "words": r"\S+",
    "sentences": r"\S.*?(?:[.!?]+(?=\s|$)|(?=\n)|\Z)",
    "lines": r"[^\n]*\S[^\n]*",
}


@dataclasses.dataclass(frozen=True, eq=False)
class AnswerExplanation:
    """The scores of every token of an answer, for a prompt of P tokens and an answer of T.

    Attributes
    ----------
    prompt, answer
        The two texts.
    prompt_tokens, answer_tokens
        The texts of their tokens, with the spaces in them.
    log_probabilities
        float32 ``[T]``, of each token of the answer.
    scores
        Method (of `METHODS`) -> float32 ``[K, T, P + T]``: row t of layer k is that of the token
        from which the answer's token t was predicted; 0 at later tokens. A normalised method's are
        divided by `field`.
    field
        float32 ``[K, T, P + T]``: what uniform attention gives each token for its position alone.
    layers
        The K layers, from 0.
    units, members
        The texts of the U units of the prompt, and the unit of each of its tokens ``[P]``.
    residual
        Share of the residual connection.
    """

    prompt: str
    answer: str
    prompt_tokens: tuple[str, ...]
    answer_tokens: tuple[str, ...]
    log_probabilities: NDArray[np.float32]
    scores: Mapping[str, NDArray[np.float32]]
    field: NDArray[np.float32]
    layers: tuple[int, ...]
    units: tuple[str, ...]
    members: NDArray[np.intp]
    residual: float = 0.5

    def unit_scores(self, method: str) -> NDArray[np.float64]:
        """Return a method's scores of the units, ``[K, T, U + 1]``; the last is the answer so far.

        Rollout of a set of tokens is the sum of theirs, exactly; normalised it is that sum divided
        by the set's `field`.
        """
        if not METHODS[method][1]:
            return self._summed(self.scores[method])
        field = self._summed(self.field)
        whole = self._summed(self.scores[method] * self.field)
        return np.divide(whole, field, out=np.zeros_like(whole), where=field > 0)

    @property
    def sink(self) -> float:
        """The mean share of the top layer's rollout that went to attention sinks, to no token."""
        name, rows = next(iter(self.scores.items()))
        plain = rows[-1] * self.field[-1] if METHODS[name][1] else rows[-1]
        return max(0.0, 1 - float(plain.sum(-1, dtype=np.float64).mean()))

    def _summed(self, rows: NDArray[np.float32]) -> NDArray[np.float64]:
        count = len(self.units)
        members = np.concatenate([self.members, np.full(len(self.answer_tokens), count)])
        found = np.zeros((count + 1, *rows.shape[:2]))
        np.add.at(found, members, np.moveaxis(rows, -1, 0))
        return np.moveaxis(found, 0, -1)

    def __repr__(self) -> str:
        return (
            f"<AnswerExplanation of {len(self.answer_tokens)} tokens by {len(self.prompt_tokens)}: "
            f"{', '.join(self.scores)}>"
        )


def explain_answer(
    model: Model,
    prompt: str,
    *,
    answer: str | None = None,
    generate: int = 40,
    temperature: float = 0.0,
    seed: int = 0,
    chat: bool = False,
    methods: Sequence[str] = DEFAULT,
    layers: Sequence[int] | None = None,
    residual: float = 0.5,
    units: Unit = "words",
    passages: Sequence[str] = (),
) -> AnswerExplanation:
    """Explain a given or generated answer to a prompt.

    Parameters
    ----------
    model
        A causal language model.
    prompt
        Text, or with `chat` what the user says.
    answer
        The answer to explain, as it follows the prompt; None generates one.
    generate, temperature, seed
        Of generation: `jaxflow.models.generate`.
    chat
        Whether the prompt is put into the model's chat template.
    methods
        Of `METHODS`.
    layers
        Layers after which a token is explained, from 0; None takes the top one.
    residual
        Share of the residual connection.
    units
        What the prompt's tokens are joined to: words, sentences, lines or `passages`.
    passages
        Parts of the prompt, in their order, for the units of that name.

    Raises
    ------
    InputError
        If the model is no causal language model, the text is too long, or an option is unusable.
    """
    if not model.config.reads_last or model.config.head != "lm":
        raise InputError(
            "an answer needs a language model that reads from left to right, such as GPT-2 or "
            f"Llama with the head lm, got {type(model.config).__name__}"
        )
    if not isinstance(model.text, SubwordTokenizer):
        raise InputError("an answer needs a model with a tokenizer of word pieces")
    if unknown := [name for name in methods if name not in METHODS]:
        raise InputError(f"methods must be of {', '.join(METHODS)}, got {', '.join(unknown)}")
    residual = float(check_residual(residual))
    depth = model.config.layers
    chosen = tuple(
        sorted(
            {resolve_place("layer", layer, depth, " for this model") for layer in layers or (-1,)}
        )
    )
    text = model.text.chat(prompt) if chat else prompt
    pieces = model.text.read(text, template=not chat)
    names, members = join_units(text, pieces.spans, units, passages)
    first = np.asarray(pieces.ids, np.int32)
    continued = _continue(model, first, answer, generate, temperature, seed)
    ids = np.concatenate([first, continued])
    if len(ids) > model.config.positions:
        raise InputError(
            f"prompt and answer must be at most {model.config.positions} tokens for this model, "
            f"got {len(first)} and {len(continued)}"
        )
    sources = np.arange(len(first) - 1, len(ids) - 1)
    plain, field, chances = _rows(model, ids[:-1], sources, chosen, methods, residual)
    scores = {}
    for name in methods:
        edge, normalised = METHODS[name]
        rows = np.pad(plain[edge], ((0, 0), (0, 0), (0, 1)))
        divided = rows / np.where(field > 0, field, 1) if normalised else rows
        scores[name] = divided.astype(np.float32)
    picked = np.take_along_axis(chances, continued[:, None], 1)[:, 0]
    return AnswerExplanation(
        prompt=text,
        answer="".join(piece_text(model.text, number) for number in continued.tolist()),
        prompt_tokens=tuple(piece_text(model.text, number) for number in first.tolist()),
        answer_tokens=tuple(piece_text(model.text, number) for number in continued.tolist()),
        log_probabilities=picked,
        scores=scores,
        field=field,
        layers=chosen,
        units=names,
        members=members,
        residual=residual,
    )


def _continue(
    model: Model, prompt: NDArray[np.int32], answer: str | None, new: int, heat: float, seed: int
) -> NDArray[np.int32]:
    """Return the numbers of the answer's tokens, without an end token."""
    if answer is not None:
        assert isinstance(model.text, SubwordTokenizer)
        found = np.asarray(model.text.encode(answer, template=False), np.int32)
    else:
        from jaxflow.models.generation import generate

        made = generate(model, prompt, new, temperature=heat, seed=seed)
        found = made.tokens[0, len(prompt) : len(prompt) + int(made.counts[0])]
        ends = getattr(model.config, "end_ids", ())
        found = found[:-1] if len(found) and int(found[-1]) in ends else found
    if not len(found):
        raise InputError("the answer must have at least one token, got none")
    return found


def _rows(
    model: Model,
    ids: NDArray[np.int32],
    sources: NDArray[np.intp],
    layers: tuple[int, ...],
    methods: Sequence[str],
    residual: float,
) -> tuple[dict[Edge, NDArray[np.float32]], NDArray[np.float32], NDArray[np.float32]]:
    """Return rows by edge weight, ``[K, T, n]``, their field ``[K, T, n + 1]``, log-probabilities.

    Those are ``[T, V]``, of every token of the vocabulary.
    """
    edges = list(dict.fromkeys(METHODS[name][0] for name in methods))
    found = model.queries_keys(ids[None])
    stack = [layer() for layer in found.layers(projection=model.projections)]
    zeros = jnp.zeros((1, 1, len(ids), 1))
    uniform = [
        jaxflow.QueryKey(zeros, zeros, causal=True, window=layer.window, chunk=layer.chunk)
        for layer in stack
    ]
    options: dict[str, Any] = {"residual": residual, "layers": layers}
    rows = {edge: jaxflow.rollout_rows(stack, sources, edge=edge, **options) for edge in edges}
    field = jaxflow.rollout_rows(uniform, sources, **options)
    chances = jax.nn.log_softmax(jnp.asarray(found.logits[0])[sources].astype(jnp.float32))
    values = {edge: np.asarray(each, np.float32)[0] for edge, each in rows.items()}
    padded = np.pad(np.asarray(field, np.float32)[0], ((0, 0), (0, 0), (0, 1)))
    return values, padded, np.asarray(chances)


def join_units(
    text: str, spans: Sequence[tuple[int, int]], kind: Unit, passages: Sequence[str] = ()
) -> tuple[tuple[str, ...], NDArray[np.intp]]:
    """Join the tokens of a text to units: their texts, and the unit of each token.

    A token is of the unit that holds its first character that is no space; one of none, such as a
    special token, goes to a last unit. Raises `InputError` if a passage is not in the text, in
    order, or there is none.
    """
    if kind not in ("words", "sentences", "lines", "passages"):
        raise InputError(f"units must be words, sentences, lines or passages, got {kind!r}")
    if (kind == "passages") != bool(passages):
        raise InputError("units passages and a list of passages go together: give both or neither")
    parts: list[tuple[int, int]] = []
    if kind == "passages":
        begin = 0
        for place, passage in enumerate(passages):
            found = text.find(passage.strip(), begin) if passage.strip() else -1
            if found < 0:
                raise InputError(
                    f"passage {place + 1} must stand in the prompt after those before it, and does "
                    f"not: {passage[:60]!r}"
                )
            begin = found + len(passage.strip())
            parts.append((found, begin))
    else:
        parts = [match.span() for match in re.finditer(_BREAKS[kind], text)]
    starts = np.array([begin for begin, _ in parts] or [0])
    members = []
    for begin, end in spans:
        bare = begin + len(text[begin:end]) - len(text[begin:end].lstrip())
        at = int(np.searchsorted(starts, bare if bare < end else begin, side="right")) - 1
        inside = parts and at >= 0 and bare < parts[at][1] and end > begin
        members.append(at if inside else len(parts))
    names = [text[begin:end] for begin, end in parts]
    if len(parts) in members:
        names.append(_OUTSIDE if kind == "passages" else "(between)")
    return tuple(names), np.array(members, np.intp)


def read_passages(path: Path) -> tuple[str, ...]:
    """Read a JSON list of passages, texts or objects with ``text``; raises `InputError`."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} must be a JSON list of passages: {error}") from error
    if isinstance(found, list):
        texts = [one.get("text") if isinstance(one, dict) else one for one in found]
        kept = [one for one in texts if isinstance(one, str) and one.strip()]
        if texts and len(kept) == len(texts):
            return tuple(kept)
    raise InputError(
        f'{path} must be a JSON list of passages, each a text or an object with "text", none empty'
    )


def as_answer_page(found: AnswerExplanation) -> str:
    """Return the HTML document of an explained answer."""
    return write_answer_page(
        AnswerContent(
            prompt=found.prompt_tokens,
            answer=found.answer_tokens,
            scores=found.scores,
            unit_scores={name: found.unit_scores(name) for name in found.scores},
            normalised=[METHODS[name][1] for name in found.scores],
            layers=[f"after layer {layer + 1}" for layer in found.layers],
            units=found.units,
            notes=_notes(found),
        )
    )


def _notes(found: AnswerExplanation) -> list[str]:
    lines = [
        f"Each layer keeps {found.residual:.0%} of a token and mixes the rest by its attention. "
        "Darker is more, relative to the row's largest score."
    ]
    if found.sink > _SINK:
        lines.append(
            f"{found.sink:.0%} of what a token's row holds went to attention sinks: no token has "
            "it, and shares are of the rest."
        )
    if any("normalised" in name for name in found.scores):
        lines.append(
            "Normalised: divided by what uniform attention gives a token for its position alone; "
            "without that the first tokens of a prompt get most of everything."
        )
    return lines


def print_answer(console: Console, found: AnswerExplanation, most: int = 3) -> None:
    """Print the prompt shaded for the whole answer, and the top units of each sentence of it."""
    from rich.text import Text

    name = next(iter(found.scores))
    whole = found.scores[name][-1][:, : len(found.members)].mean(0).astype(np.float64)
    line = Text()
    for token, paper in zip(found.prompt_tokens, paint(whole), strict=True):
        colours = (f"rgb({','.join(map(str, colour))})" for colour in (ink(paper), paper))
        line.append(visible_text(token), style=" on ".join(colours))
    console.print(Text(f"prompt, shaded by {name} for the whole answer", "bold"))
    console.print(line, soft_wrap=True)
    console.print(Text("answer", "bold"))
    console.print(Text(visible_text(found.answer)), soft_wrap=True)
    scores, normalised = found.unit_scores(name)[-1], METHODS[name][1]
    if not normalised:
        scores = scores / np.maximum(scores.sum(-1, keepdims=True), 1e-30)
    rows = []
    for part, tokens in _sentences(found.answer_tokens):
        mean = scores[tokens, :-1].mean(0)
        for place, at in enumerate(np.argsort(-mean, kind="stable")[:most].tolist()):
            title = "" if place else visible(part.strip())
            value = f"{mean[at]:.2f}x" if normalised else f"{mean[at]:.1%}"
            rows.append((title, value, visible(_one_line(found.units[at]))))
    words = Column("unit of the prompt", text=True)
    head = ["sentence of the answer", "times its position" if normalised else "share", words]
    Table.of(head, rows).print(console)
    for note in _notes(found):
        console.print(Text(note, "dim"), soft_wrap=True)


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
    "log_probabilities": [T], "units": [U texts], "members": [P], "layers": [K], "residual",
    "scores": {method: [K][T][P + T]}, "unit_scores": {method: [K][T][U + 1]}}``.
    """
    fields = dataclasses.fields(found)
    record = {
        "format": FORMAT,
        **{each.name: to_json(getattr(found, each.name)) for each in fields},
    }
    record["unit_scores"] = {name: to_json(found.unit_scores(name)) for name in found.scores}
    return json_text(record, indent=None)


def as_answer_parquet(found: AnswerExplanation) -> Content:
    """Write one row for each method, layer, token of the answer and token before it."""
    return partial(_write_parquet, found)


def _write_parquet(found: AnswerExplanation, path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    tables = []
    for name, values in found.scores.items():
        layer, row, token = (axis.ravel() for axis in np.indices(values.shape))
        kept = token < len(found.members) + row
        members = np.concatenate([found.members, np.full(values.shape[1], -1)])
        tables.append(
            pa.table(
                {
                    "method": pa.array([name] * int(kept.sum())).dictionary_encode(),
                    "layer": np.array(found.layers, np.int16)[layer[kept]] + 1,
                    "answer_token": row[kept].astype(np.int32),
                    "token": token[kept].astype(np.int32),
                    "unit": members[token[kept]].astype(np.int32),
                    "score": values.ravel()[kept],
                }
            )
        )
    pq.write_table(pa.concat_tables(tables).unify_dictionaries(), path, compression="zstd")
