"""Choose what is explained, and the token that replaces blanked-out ones.

Every command takes both from here. Defaults by the kind of model:

================================================== ============== ===========
model                                              target         replacement
================================================== ============== ===========
two classes                                        ``difference``
more classes, labels that do not exclude each      ``log-odds``
other, or a language model
numbers (a regression)                             ``output``     ``unk``
a mask token in the vocabulary (BERT, RoBERTa ...)                ``mask``
trained with word dropout (the agreement encoder),                ``unk``
or without a mask token (GPT-2)
================================================== ============== ===========

The explained output is the gold class where there is one, else the class, label or token with the
highest probability. Where labels do not exclude each other, the log-odds of one are its logit. With
word pieces ``[UNK]`` hardly occurs in the training of a pretrained model, while ``[MASK]`` replaced
words there. A regression, whose numbers have no scale to compare with, keeps the paper's ``[UNK]``.
A language model without either has ``end``, the token that ends a text (Llama 3, Qwen).

Of a text that a language model continues, sums of log-probabilities are explained, `Terms`: of each
token of the answer, of a token, of two tokens' difference, of a span or of the whole answer. All
methods start from them: gradients are theirs, removal is their change, and rows of rollout are
those of the tokens that they are computed from.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from jaxflow.errors import InputError
from jaxflow.eval.score.reading import piece_text
from jaxflow.models import Answer, EncoderConfig, Model, SubwordTokenizer, answer_values

Target = Literal["difference", "log-odds", "probability", "predicted", "last", "output"]
Replacement = Literal["mask", "unk", "end"]

#: Target of the gradient -> its name in text.
TARGETS: dict[Target, str] = {
    "difference": "p₀ − p₁",
    "log-odds": "the log-odds of the explained output",
    "probability": "the probability of the explained output",
    "predicted": "the logit of the predicted output",
    "last": "the logit of the last class",
    "output": "the output itself",
}
#: Kind of a model's answer -> what it is called in text.
ANSWERS: dict[Answer, str] = {
    "single-label": "one of the classes",
    "multi-label": "labels that do not exclude each other",
    "regression": "a number, no probability",
    "tokens": "a token",
    "none": "none: the model has no head",
}
_SUITED: dict[Target, tuple[Answer, ...]] = {
    "difference": ("single-label",),
    "log-odds": ("single-label", "multi-label", "tokens"),
    "probability": ("single-label", "multi-label", "tokens"),
    "predicted": ("single-label", "multi-label", "tokens"),
    "last": ("single-label", "multi-label"),
    "output": ("regression",),
}


@dataclasses.dataclass(frozen=True)
class Scoring:
    """The target of gradients and the replacement of blanked-out tokens, for one model.

    Attributes
    ----------
    target, replacement
        The two choices.
    token_id, token
        The number of the replacement token, and how the vocabulary writes it.
    answer
        The kind of the model's answer.
    """

    target: Target
    replacement: Replacement
    token_id: int
    token: str
    answer: Answer = "single-label"

    def record(self) -> dict[str, str]:
        """Return the two choices as results record them."""
        return {"target": self.target, "replacement": self.replacement}

    def describe(self) -> str:
        """Return one line for text output."""
        return (
            f"Gradients are of {TARGETS[self.target]}; blank-out replaces a token by {self.token}"
        )


def scoring_of(
    model: Model, target: Target | None = None, replacement: Replacement | None = None
) -> Scoring:
    """Return the choices for a model of text; None takes the default of its kind.

    Raises `InputError` if the target has no meaning for the model's answer, or its tokenizer lacks
    the token.
    """
    config, answer = model.config, model.answer
    classes = config.classes if config.head == "classification" else 0
    two = answer == "single-label" and classes == 2
    if target is None:
        target = "output" if answer == "regression" else "difference" if two else "log-odds"
    elif target not in TARGETS:
        raise InputError(f"target must be one of {', '.join(TARGETS)}, got {target!r}")
    if answer not in _SUITED[target]:
        suited = ", ".join(name for name, answers in _SUITED.items() if answer in answers)
        raise InputError(
            f"target {target} has no meaning for a model whose answer is {ANSWERS[answer]}: "
            f"choose {suited or 'a model with a head'}"
        )
    if target == "difference" and not two:
        raise InputError(f"target difference needs a model with two classes, got {classes}")
    tokenizer = model.text
    ends = (*getattr(config, "end_ids", ()), tokenizer.sep_id, tokenizer.cls_id)
    end = next((number for number in ends if number is not None), None)
    if replacement is None:
        unknown = isinstance(config, EncoderConfig) or answer == "regression"
        mask = tokenizer.mask_id is not None and not (unknown and tokenizer.unk_id is not None)
        replacement = "mask" if mask else "unk"
        if not mask and tokenizer.unk_id is None and answer == "tokens" and end is not None:
            replacement = "end"
        elif not mask and tokenizer.unk_id is None:
            raise InputError(
                "the tokenizer must have a mask token or a token for unknown words to blank words "
                "out, and has neither: name one in its tokenizer_config.json (unk_token)"
            )
    elif replacement not in get_args(Replacement):
        raise InputError(f"replacement must be mask, unk or end, got {replacement!r}")
    number = {"mask": tokenizer.mask_id, "unk": tokenizer.unk_id, "end": end}[replacement]
    if number is None:
        raise InputError(
            f"replacement {replacement} needs a token that the model's tokenizer does not have"
        )
    return Scoring(target, replacement, number, tokenizer.decode([number])[0], answer)


def label_number(model: Model, label: str | int | None) -> int | None:
    """Return the index of the output to explain, None for the predicted one.

    Raises `InputError` if the model has no such label, or several numbers and none is named.
    """
    labels = model.config.labels if model.config.head == "classification" else ()
    if label is None:
        if model.answer == "regression" and len(labels) > 1:
            raise InputError(
                f"label must name the number to explain, one of {', '.join(labels)}, got None"
            )
        return None
    if label in labels:
        return labels.index(str(label))
    if str(label).isdecimal() and int(label) < len(labels):
        return int(label)
    known = (
        f"one of {', '.join(labels)} or an index" if labels else "None for a model of no classes"
    )
    raise InputError(f"label must be {known}, got {label!r}")


def target_value(
    target: Target,
    logits: jax.Array,
    labels: jax.Array | None = None,
    answer: Answer = "single-label",
) -> jax.Array:
    """Return the number ``[B]`` that gradients are taken of, from the readout's logits ``[B, C]``.

    `labels` ``[B]`` are the explained outputs; None takes the predicted ones.
    """
    if target == "predicted":
        return logits.max(-1)
    if target == "last":
        return logits[:, -1]
    if target == "difference":
        probabilities = jax.nn.softmax(logits)
        return probabilities[:, 0] - probabilities[:, 1]
    labels = logits.argmax(-1) if labels is None else labels
    if target == "output" or (target == "log-odds" and answer == "multi-label"):
        return jnp.take_along_axis(logits, labels[:, None], -1)[:, 0]
    if target == "probability":
        return jnp.take_along_axis(answer_values(logits, answer), labels[:, None], -1)[:, 0]
    chosen = jax.nn.one_hot(labels, logits.shape[-1], dtype=bool)
    others = jnp.where(chosen, -jnp.inf, logits)
    return jnp.where(chosen, logits, 0).sum(-1) - jax.nn.logsumexp(others, axis=-1)


def class_logit(labels: jax.Array) -> Callable[[jax.Array], jax.Array]:
    """Return the target of gradients at attention weights: the logits ``[B]`` of the labels.

    The edge weights that use them are defined by it (Chefer et al., 2021), whatever the target of
    gradients at the input.
    """
    return lambda logits: jnp.take_along_axis(logits, labels[:, None], -1)[:, 0]


#: What `ContinuedTarget.kind` may be -> its name in text.
CONTINUED = {
    "tokens": "the log-probability of each token of the answer",
    "token": "the log-probability of a token after the prompt",
    "contrast": "the difference of two tokens' log-probabilities after the prompt",
    "span": "the log-probability of a part of the answer",
    "answer": "the log-probability of the whole answer",
}
#: As a target names a token or a part of an answer.
TokenName = str | int
Span = tuple[int, int]


class Terms(NamedTuple):
    """R numbers that are explained, each a weighted sum of K log-probabilities.

    Attributes
    ----------
    places
        ``[R, K]``, the tokens after which they are predicted.
    ids
        ``[R, K]``, the predicted tokens.
    weights
        float32 ``[R, K]``: 1, -1, or 0 where a number has fewer terms.
    """

    places: Any
    ids: Any
    weights: Any


def terms_values(logits: jax.Array, terms: Terms) -> jax.Array:
    """Return the numbers ``[R]`` that are explained of a text, from its logits ``[n, V]``."""
    taken = logits[terms.places].astype(jnp.float32)  # [R, K, V]
    chosen = jnp.take_along_axis(taken, jnp.asarray(terms.ids)[..., None], -1)[..., 0]
    return ((chosen - jax.nn.logsumexp(taken, -1)) * terms.weights).sum(-1)


@dataclasses.dataclass(frozen=True)
class ContinuedTarget:
    """What is explained of a text's continuation.

    Attributes
    ----------
    kind
        Of `CONTINUED`.
    spans
        The part of the answer of each explained number, from its first token to before its last.
    token, against
        The numbers of the tokens of ``token`` and ``contrast``, else None.
    text
        In words.
    """

    kind: str
    spans: tuple[Span, ...]
    text: str
    token: int | None = None
    against: int | None = None

    def terms(self, ids: NDArray[np.integer], prompt: int) -> Terms:
        """Return the numbers as sums, for a text's tokens ``[n]``, `prompt` of them given."""
        width = max(2 * (self.against is not None), *(end - begin for begin, end in self.spans))
        places = np.full((len(self.spans), width), prompt - 1, np.int32)
        chosen, weights = np.zeros_like(places), np.zeros(places.shape, np.float32)
        for row, (begin, end) in enumerate(self.spans):
            size = end - begin
            places[row, :size] = np.arange(prompt + begin, prompt + end) - 1
            chosen[row, :size], weights[row, :size] = ids[prompt + begin : prompt + end], 1
        if self.against is not None:
            chosen[0, 1], weights[0, 1] = self.against, -1
        return Terms(places, chosen, weights)

    def record(self) -> dict[str, Any]:
        """Return the target as results record it."""
        return dataclasses.asdict(self)


def token_target(
    model: Model, prompt: str, token: TokenName, against: TokenName | None = None
) -> ContinuedTarget:
    """Return the target of a token after a prompt, or of its difference to another.

    A text is a token as it follows the prompt: with a space before it where the prompt ends in
    none and the vocabulary has it so. Raises `InputError` if it is no token of the vocabulary.
    """
    number = _token_number(model, prompt, "target", token)
    text = f"the log-probability of {_shown(model, number)} after the prompt"
    if against is None:
        return ContinuedTarget("token", ((0, 1),), text, number)
    other = _token_number(model, prompt, "against", against)
    if other == number:
        raise InputError(f"against must be another token than target, got {against!r} for both")
    text += f" minus that of {_shown(model, other)}"
    return ContinuedTarget("contrast", ((0, 1),), text, number, other)


def answer_target(target: str | Span | None, count: int) -> ContinuedTarget:
    """Return the target of an answer's `count` tokens: each, all of them, or a span.

    Raises `InputError` if the span is none of the answer.
    """
    if target in (None, "tokens"):
        return ContinuedTarget(
            "tokens", tuple((at, at + 1) for at in range(count)), CONTINUED["tokens"]
        )
    if target == "answer":
        return ContinuedTarget("answer", ((0, count),), CONTINUED["answer"])
    span = span_of(target)
    assert span is not None
    begin, end = span
    if not 0 <= begin < end <= count:
        raise InputError(
            f"target must be a span BEGIN:END within the answer's {count} tokens, from 0 and END "
            f"not among them, got {begin}:{end}"
        )
    text = f"the log-probability of the answer's tokens {begin + 1} to {end}"
    return ContinuedTarget("span", ((begin, end),), text)


def span_of(target: Any) -> Span | None:
    """Return the span that a target names, ``"3:7"`` or two numbers; None if it names none."""
    if isinstance(target, str) and (found := re.fullmatch(r"(\d+):(\d+)", target)):
        return int(found[1]), int(found[2])
    if isinstance(target, Sequence) and not isinstance(target, str):
        if len(target) == 2 and all(type(each) is int for each in target):
            return int(target[0]), int(target[1])
        raise InputError(f"target must be a span of two whole numbers, got {target!r}")
    return None


def _shown(model: Model, number: int) -> str:
    return repr(piece_text(model.text, number))


def _token_number(model: Model, prompt: str, name: str, token: TokenName) -> int:
    """Return a token's number, from its text or ``#`` and the number."""
    tokenizer = model.text
    size = min(len(tokenizer), getattr(model.config, "vocabulary", 0))
    assert isinstance(tokenizer, SubwordTokenizer)
    if isinstance(token, str) and re.fullmatch(r"#\d+", token):
        token = int(token[1:])
    if isinstance(token, int) and not isinstance(token, bool):
        if not 0 <= token < size:
            raise InputError(f"{name} must be a token's number from 0 to {size - 1}, got {token}")
        return token
    if not isinstance(token, str) or not token:
        raise InputError(f"{name} must be a token's text or number, got {token!r}")
    begins = prompt[-1:].isspace() or token[:1].isspace()
    forms = [token] if begins else [f" {token}", token]
    for form in forms:
        ids = tokenizer.encode(form, template=False)
        if len(ids) == 1 and ids[0] != tokenizer.unk_id:
            return ids[0]
    pieces = ", ".join(_shown(model, number) for number in ids)
    raise InputError(
        f"{name} must be one token of the model's vocabulary, got {token!r}, which it writes as "
        f"{pieces or 'nothing'}: name one of these, or explain all of it as an answer"
    )
