"""Choose the target of gradients and the token that replaces blanked-out ones.

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
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Literal, get_args

import jax
import jax.numpy as jnp

from jaxflow.errors import InputError
from jaxflow.models import Answer, EncoderConfig, Model, answer_values

Target = Literal["difference", "log-odds", "probability", "predicted", "last", "output"]
Replacement = Literal["mask", "unk"]

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
    if replacement is None:
        unknown = isinstance(config, EncoderConfig) or answer == "regression"
        mask = tokenizer.mask_id is not None and not (unknown and tokenizer.unk_id is not None)
        replacement = "mask" if mask else "unk"
        if not mask and tokenizer.unk_id is None:
            raise InputError(
                "the tokenizer must have a mask token or a token for unknown words to blank words "
                "out, and has neither: name one in its tokenizer_config.json (unk_token)"
            )
    elif replacement not in get_args(Replacement):
        raise InputError(f"replacement must be mask or unk, got {replacement!r}")
    number = tokenizer.mask_id if replacement == "mask" else tokenizer.unk_id
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
