"""Explain an answer: which part of the prompt each of its tokens, or all of it, came from.

What is explained are the numbers of `jaxflow.eval.score.target`, for every method alike.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

import jaxflow
from jaxflow._rows import Edge
from jaxflow.attention import check_residual
from jaxflow.errors import InputError
from jaxflow.eval.explanation import resolve_place
from jaxflow.eval.score.reading import piece_text
from jaxflow.eval.score.target import (
    ContinuedTarget,
    Span,
    Terms,
    TokenName,
    answer_target,
    scoring_of,
    span_of,
    terms_values,
    token_target,
)
from jaxflow.models import Model, SubwordTokenizer
from jaxflow.removal import Removal, remove

Unit = Literal["words", "sentences", "lines", "passages"]

Sinks = Literal["keep", "drop"]


class AnswerMethod(NamedTuple):
    """How a method scores.

    Attributes
    ----------
    family
        ``rollout`` of an edge weight, ``gradient`` rollout of attention x gradient, ``input``
        gradient x input, or ``removal`` of units.
    how
        The edge weight, or what is done to a removed unit.
    normalised
        Whether rows are divided by those of uniform attention.
    """

    family: Literal["rollout", "gradient", "input", "removal"]
    how: str
    normalised: bool = False

    @property
    def layered(self) -> bool:
        """Whether it has a row for each layer."""
        return self.family in ("rollout", "gradient")

    @property
    def kind(self) -> Literal["ratio", "share", "value"]:
        """What its scores are; values are signed and in the units of what is explained."""
        return "ratio" if self.normalised else "share" if self.layered else "value"


#: The methods by their names.
METHODS: Mapping[str, AnswerMethod] = {
    "rollout-normalised": AnswerMethod("rollout", "raw", True),
    "rollout": AnswerMethod("rollout", "raw"),
    "norm/rollout-normalised": AnswerMethod("rollout", "norm", True),
    "norm/rollout": AnswerMethod("rollout", "norm"),
    "gradient/rollout-normalised": AnswerMethod("gradient", "gradient", True),
    "gradient/rollout": AnswerMethod("gradient", "gradient"),
    "gradient-x-input": AnswerMethod("input", ""),
    "removal": AnswerMethod("removal", "deletion"),
    "blank-out": AnswerMethod("removal", "token"),
    "attention-out": AnswerMethod("removal", "attention"),
}
DEFAULT = ("rollout-normalised", "rollout")
NEW = 40  # tokens of an answer at most
_OUTSIDE, _BETWEEN = "(outside the passages)", "(between)"
_BREAKS = {
    "words": r"\S+",
    "sentences": r"\S.*?(?:[.!?]+(?=\s|$)|(?=\n)|\Z)",
    "lines": r"[^\n]*\S[^\n]*",
}


@dataclasses.dataclass(frozen=True, eq=False)
class AnswerExplanation:
    """The scores of an answer of T tokens to a prompt of P, for R explained numbers.

    Attributes
    ----------
    prompt, answer
        The two texts.
    prompt_tokens, answer_tokens
        The texts of their tokens, with the spaces in them.
    log_probabilities
        float32 ``[T]``, of each token of the answer.
    target, values
        The R numbers that are explained, by default the T log-probabilities, and float32 ``[R]``.
    scores
        Method (of `METHODS`) -> float32 ``[K, R, P + T]``, of methods without layers ``[1, R, P +
        T]``; 0 at tokens that come too late. Rows of rollout are those of the token that the
        answer's token was predicted from, of several the mean; a normalised method's are divided by
        `field`. By gradient x input a number's scores are signed; by removal a token has that of
        its unit, by how much the number falls without it.
    field
        float32 ``[K, R, P + T]``: what uniform attention gives each token for its position alone.
    layers
        The K layers, from 0.
    units, members
        The texts of the U units of the prompt, and the unit of each of its tokens ``[P]``.
    residual, sinks
        Share of the residual connection; whether sinks are kept or dropped.
    """

    prompt: str
    answer: str
    prompt_tokens: tuple[str, ...]
    answer_tokens: tuple[str, ...]
    log_probabilities: NDArray[np.float32]
    target: ContinuedTarget
    values: NDArray[np.float32]
    scores: Mapping[str, NDArray[np.float32]]
    field: NDArray[np.float32]
    layers: tuple[int, ...]
    units: tuple[str, ...]
    members: NDArray[np.intp]
    residual: float = 0.5
    sinks: Sinks = "keep"

    def unit_scores(self, method: str) -> NDArray[np.float64]:
        """Return a method's scores of the units, ``[K, R, U + 1]``; the last is the answer so far.

        Rollout of a set of tokens is the sum of theirs, exactly; normalised it is that sum divided
        by the set's `field`. So is gradient x input a sum, and removal is of the unit as a whole.
        """
        known, scores = METHODS[method], self.scores[method]
        if known.family == "removal":
            found = np.zeros((*scores.shape[:2], len(self.units) + 1))
            units, first = np.unique(self.members, return_index=True)
            found[..., units] = scores[..., first]
            return found
        if not known.normalised:
            return self._summed(scores)
        field = self._summed(self.field)
        whole = self._summed(scores * self.field)
        return np.divide(whole, field, out=np.zeros_like(whole), where=field > 0)

    @property
    def sink(self) -> float:
        """The largest mean share, of any method, that went to attention sinks at the top layer."""
        lost = [0.0]
        for name, rows in self.scores.items():
            if METHODS[name].layered:
                plain = rows[-1] * self.field[-1] if METHODS[name].normalised else rows[-1]
                lost.append(1 - float(plain.sum(-1, dtype=np.float64).mean()))
        return max(lost)

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
    generate: int | None = None,
    target: TokenName | Span | None = None,
    against: TokenName | None = None,
    temperature: float = 0.0,
    seed: int = 0,
    chat: bool = False,
    methods: Sequence[str] = DEFAULT,
    layers: Sequence[int] | None = None,
    residual: float = 0.5,
    sinks: Sinks = "keep",
    units: Unit = "words",
    passages: Sequence[str] = (),
) -> AnswerExplanation:
    """Explain a given or generated answer to a prompt, or one token after it.

    Parameters
    ----------
    model
        A causal language model.
    prompt
        Text, or with `chat` what the user says.
    answer
        The answer to explain, as it follows the prompt; None generates one.
    generate, temperature, seed
        Of generation: `jaxflow.models.generate`; by default 40 tokens at most.
    target
        What is explained. None is each token of the answer for itself; ``"answer"`` the whole
        answer's log-probability; a span ``(begin, end)``, or ``"3:7"``, that of these tokens of
        it, from 0. Else a token that may follow the prompt, in place of an answer: its text, its
        number, or ``"#"`` and that.
    against
        With a token as `target`: the difference of the two log-probabilities is explained.
    chat
        Whether the prompt is put into the model's chat template.
    methods
        Of `METHODS`.
    layers
        Layers after which a token is explained, from 0; None takes the top one.
    residual
        Share of the residual connection.
    sinks
        ``drop`` leaves out, of rollout, the first token's column, on which attention rests, and
        the share of learned attention sinks; rows sum to 1 without them.
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
    if sinks not in ("keep", "drop"):
        raise InputError(f"sinks must be keep or drop, got {sinks!r}")
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
    if not len(first):
        raise InputError("the prompt must have at least one token, got none")
    single = target not in (None, "tokens", "answer") and span_of(target) is None
    if single:
        if answer is not None or generate is not None:
            raise InputError(
                f"target {target!r} is a token after the prompt, which takes the place of an "
                "answer: leave out answer and generate, or explain a span of the answer"
            )
        assert isinstance(target, str | int)
        explained = token_target(model, text, target, against)
        continued = np.array([explained.token], np.int32)
    elif against is not None:
        raise InputError("against needs a token as target: the difference of the two is explained")
    else:
        if answer is not None:
            continued = encode_answer(model.text, text, first, answer, template=not chat)
        else:
            new = NEW if generate is None else generate
            continued = generate_answer(model, first, new, temperature, seed)
        explained = answer_target(target, len(continued))  # type: ignore[arg-type]
    ids = np.concatenate([first, continued])
    if len(ids) > model.config.positions:
        raise InputError(
            f"prompt and answer must be at most {model.config.positions} tokens for this model, "
            f"got {len(first)} and {len(continued)}"
        )
    work = _Work(model, ids, len(first), explained, chosen, residual, sinks)
    parts = len(passages) if units == "passages" else len(re.findall(_BREAKS[units], text))
    scores, values, field, picked = _scores(work, methods, members, parts)
    return AnswerExplanation(
        prompt=text,
        answer="".join(piece_text(model.text, number) for number in continued.tolist()),
        prompt_tokens=tuple(piece_text(model.text, number) for number in first.tolist()),
        answer_tokens=tuple(piece_text(model.text, number) for number in continued.tolist()),
        log_probabilities=picked,
        target=explained,
        values=values,
        scores=scores,
        field=field,
        layers=chosen,
        units=names,
        members=members,
        residual=residual,
        sinks=sinks,
    )


def encode_answer(
    tokenizer: SubwordTokenizer, prompt: str, ids: Any, answer: str, *, template: bool = True
) -> NDArray[np.int32]:
    """Return the numbers of an answer's tokens, as they are after a prompt with the numbers `ids`.

    Where the whole text is not split at the end of the prompt, the answer is encoded alone.
    """
    whole = tokenizer.encode(prompt + answer, template=template)
    after = whole[: len(ids)] == list(ids)
    found = whole[len(ids) :] if after else tokenizer.encode(answer, template=False)
    if not found:
        raise InputError("the answer must have at least one token, got none")
    return np.asarray(found, np.int32)


def generate_answer(
    model: Model, prompt: NDArray[np.int32], new: int, heat: float = 0.0, seed: int = 0
) -> NDArray[np.int32]:
    """Return the numbers of the tokens that a model answers with, without an end token."""
    from jaxflow.models.generation import generate

    made = generate(model, prompt, new, temperature=heat, seed=seed)
    found = made.tokens[0, len(prompt) : len(prompt) + int(made.counts[0])]
    ends = getattr(model.config, "end_ids", ())
    found = found[:-1] if len(found) and int(found[-1]) in ends else found
    if not len(found):
        raise InputError(
            "the model must answer with at least one token, and ended at once: give another "
            "prompt, or an answer"
        )
    return found


@dataclasses.dataclass(frozen=True, eq=False)
class _Work:
    """What the methods need: all tokens, `prompt` of them given, and the options."""

    model: Model
    ids: NDArray[np.int32]
    prompt: int
    target: ContinuedTarget
    layers: tuple[int, ...]
    residual: float
    sinks: Sinks

    @property
    def read(self) -> NDArray[np.int32]:
        """The tokens that the model reads, ``[1, n]``: all but the last."""
        return self.ids[None, :-1]

    @property
    def terms(self) -> Terms:
        return self.target.terms(self.ids, self.prompt)

    def rolled(self, stack: Sequence[Any], edge: Edge, rows: slice = slice(None)) -> Any:
        """Return rows of rollout ``[K, R, n + 1]``, with a column for the last token."""
        terms = self.terms
        weights = np.zeros((len(terms.places), self.read.shape[1]), np.float32)
        np.add.at(weights, (np.arange(len(weights))[:, None], terms.places), terms.weights > 0)
        weights /= weights.sum(-1, keepdims=True)
        options: dict[str, Any] = {"residual": self.residual, "layers": self.layers, "edge": edge}
        found = np.asarray(jaxflow.rollout_rows(stack, weights=weights[rows], **options))[0]
        found = np.pad(found.astype(np.float32), ((0, 0), (0, 0), (0, 1)))
        if self.sinks == "drop":
            found[..., 0] = 0
            left = found.sum(-1, keepdims=True)
            found = found / np.where(left > 0, left, 1)
        return found


def _scores(
    work: _Work, methods: Sequence[str], members: NDArray[np.intp], units: int
) -> tuple[dict[str, Any], NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """Return scores by method, what is explained ``[R]``, `field`, and log-probabilities."""
    model, kept = work.model, work.sinks == "keep"
    families = [METHODS[name] for name in methods]
    found = model.queries_keys(work.read, np.ones_like(work.read, bool))
    values = np.asarray(_values(found.logits[0], work.terms))
    each = answer_target(None, len(work.ids) - work.prompt).terms(work.ids, work.prompt)
    picked = np.asarray(_values(found.logits[0], each))
    projection = model.projections if any(one.how == "norm" for one in families) else None
    stack = [layer() for layer in found.layers(sinks=kept, projection=projection)]
    zeros = jnp.zeros((1, 1, work.read.shape[1], 1))
    uniform = [
        jaxflow.QueryKey(zeros, zeros, causal=True, window=layer.window, chunk=layer.chunk)
        for layer in stack
    ]
    field = work.rolled(uniform, "raw")
    rows: dict[str, Any] = {}  # by what is done, so that each is done once
    scores = {}
    for name, method in zip(methods, families, strict=True):
        key = f"{method.family} {method.how}"
        if key not in rows and method.family == "rollout":
            rows[key] = work.rolled(stack, method.how)  # type: ignore[arg-type]
        elif key not in rows and method.family == "gradient":
            rows[key] = _attention_gradients(work)
        elif key not in rows and method.family == "input":
            rows[key] = _gradient_x_input(work)
        elif key not in rows:
            rows[key] = _removed(work, method.how, values, members, units)  # type: ignore[arg-type]
        divided = rows[key] / np.where(field > 0, field, 1) if method.normalised else rows[key]
        scores[name] = divided.astype(np.float32)
    return scores, values, field, picked


_values = jax.jit(terms_values)


def _of_batch(terms: Terms, logits: jax.Array) -> jax.Array:
    """Return the R numbers of one text from ``[1, n, V]``."""
    return terms_values(logits[0], terms)


def _attention_gradients(work: _Work) -> NDArray[np.float32]:
    """Return rows of rollout of attention x gradient, one backward pass for each number."""
    found = []
    for row in range(len(work.target.spans)):
        terms = Terms(*(jnp.asarray(each[row : row + 1]) for each in work.terms))
        given = np.ones_like(work.read, bool)
        made = work.model.queries_keys(
            work.read, given, score=jax.tree_util.Partial(_of_batch, terms)
        )
        layers = made.layers(sinks=work.sinks == "keep")
        found.append(work.rolled(layers, "gradient", slice(row, row + 1)))
    return np.concatenate(found, 1)


def _gradient_x_input(work: _Work) -> NDArray[np.float32]:
    """Return gradient x input ``[1, R, n + 1]``, signed."""
    terms = Terms(*map(jnp.asarray, work.terms))
    score = jax.tree_util.Partial(_of_batch, terms)
    embeddings, gradients = work.model.embedding_gradients(work.read, score)
    found = np.asarray((gradients * embeddings[None]).sum(-1, dtype=jnp.float32))[:, 0]
    return np.pad(found, ((0, 0), (0, 1)))[None]


def _removed(
    work: _Work,
    how: Removal,
    values: NDArray[np.float32],
    members: NDArray[np.intp],
    units: int,
) -> NDArray[np.float32]:
    """Return by how much each number falls without each token's unit, ``[1, R, n + 1]``.

    One forward pass for each of the first `units`; what lies between them stays.
    """
    model, tokens = work.model, jnp.asarray(work.read)
    number = model.text.pad_id or 0
    if how == "token":
        number = scoring_of(model).token_id
    found = np.zeros((1, len(values), len(work.ids)), np.float32)
    for unit in range(units):
        inside = np.flatnonzero(members == unit)
        if not len(inside):
            continue
        gone = np.zeros(work.read.shape, bool)
        gone[0, inside] = True
        terms = work.terms
        if how == "deletion":
            if len(inside) == work.prompt:
                raise InputError(
                    "removal needs a prompt of several units, and here one holds all of it: "
                    "choose smaller units, or blank-out"
                )
            terms = terms._replace(places=terms.places - len(inside))
        ids, real = remove(tokens, gone, how, token_id=number)
        logits = model.queries_keys(ids, real).logits[0]
        found[0][:, inside] = (values - np.asarray(_values(logits, terms)))[:, None]
    return found


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
            found = _place(text, passage.strip(), begin)
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
    empty = [name for at, name in enumerate(names) if at not in members]
    if kind == "passages" and empty:
        raise InputError(
            f"every passage must hold the beginning of a token of the prompt, and {empty[0]!r} "
            "does not: choose larger ones"
        )
    if len(parts) in members:
        names.append(_OUTSIDE if kind == "passages" else _BETWEEN)
    return tuple(names), np.array(members, np.intp)


def _place(text: str, passage: str, begin: int) -> int:
    """Return where a passage begins, as whole words if it stands so anywhere; -1 for nowhere."""
    if not passage:
        return -1
    whole = re.search(rf"(?<!\w){re.escape(passage)}(?!\w)", text[begin:])
    return text.find(passage, begin) if whole is None else begin + whole.start()


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
