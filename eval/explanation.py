"""One sentence explained: what the model predicts, and what every method says of each token."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from jaxflow.errors import InputError
from jaxflow.eval.bottleneck import Bottleneck, bottlenecks
from jaxflow.eval.instant import instant_scores
from jaxflow.eval.protocol import READOUT
from jaxflow.flow.saturated import TOLERANCE
from jaxflow.flow.scaled import flow_rows_scaled
from jaxflow.flow.table import graph_edges
from jaxflow.models import Model
from jaxflow.models.tokenizer import SPECIAL_TOKENS, UNK

__all__ = ["CLASSES", "METHODS", "Explanation", "Token", "explainer", "with_cuts"]

#: The model's classes, by number: which verb would go on with the sentence.
CLASSES = ("singular", "plural")
#: Every method's name, and how it is shown.
METHODS = {
    "raw": "raw attention",
    "rollout": "rollout",
    "flow": "flow",
    # Not its sum, as in the paper's tables: where the embeddings are normalised before anything
    # reads them, as in this encoder, the sum is nothing but rounding.
    "gradient_norm": "gradient norm",
    "blank_out": "blank-out",
}

# Sentences are padded to a multiple of this, so that those of similar length share what is
# compiled; the padding changes no score.
STEP = 16

RESIDUAL = 0.5  # the paper's


@dataclasses.dataclass(frozen=True)
class Token:
    """A token as it was written and as the model read it.

    Attributes
    ----------
    text
        The word of the sentence, or ``[CLS]``.
    seen
        The entry of the vocabulary that the model got: the word, the word in lower case, or
        ``[UNK]`` where the vocabulary has neither.
    known
        Whether the vocabulary has the word.
    """

    text: str
    seen: str
    known: bool


@dataclasses.dataclass(frozen=True, eq=False)
class Explanation:
    """What a model and every method say of one sentence of n tokens, ``[CLS]`` included.

    Attributes
    ----------
    text
        The sentence as it was given.
    tokens
        The n tokens, ``[CLS]`` first.
    probabilities
        Class (`CLASSES`) -> probability.
    scores
        Method (`METHODS`) -> float64 ``[n]``, none negative: the ``[CLS]`` row of the top layer
        for raw attention, rollout and flow; norm of the input gradient; blank-out of the predicted
        class. Their scales differ from method to method.
    agreement
        float64 ``[M, M]``: Spearman's correlation of every two methods over the n tokens, in the
        order of `METHODS`; NaN where one of them is constant.
    layers
        ``raw``, ``rollout`` and ``flow`` -> float64 ``[L, n]``: the ``[CLS]`` row of every layer.
    saturated
        bool ``[n]``: flow from the top layer is at its bound, the token's column of the lowest
        layer, and depends on nothing else.
    attention
        float32 ``[L, H, n, n]``, what the methods on attention started from.
    cuts
        What holds flow down, for the tokens that `with_cuts` was asked for.
    """

    text: str
    tokens: tuple[Token, ...]
    probabilities: Mapping[str, float]
    scores: Mapping[str, NDArray[np.float64]]
    agreement: NDArray[np.float64]
    layers: Mapping[str, NDArray[np.float64]]
    saturated: NDArray[np.bool_]
    attention: NDArray[np.float32]
    cuts: tuple[Bottleneck, ...] = ()

    @property
    def prediction(self) -> str:
        """The class with the highest probability."""
        return max(self.probabilities, key=self.probabilities.__getitem__)

    @property
    def unknown(self) -> tuple[str, ...]:
        """The words that the vocabulary does not have, each once, in the sentence's order."""
        return tuple(dict.fromkeys(token.text for token in self.tokens if not token.known))


def explainer(model: Model) -> Callable[[str], Explanation]:
    """Prepare a model for explaining sentences.

    Parameters
    ----------
    model
        A trained agreement encoder.

    Returns
    -------
    callable
        From a sentence, its words separated by spaces, to its `Explanation`. It compiles for
        every new multiple of 16 tokens. It raises `InputError` for a sentence that is empty,
        longer than the model's positions or not valid Unicode.

    Raises
    ------
    InputError
        If the model is not one of singular against plural.
    """
    if model.config.classes != len(CLASSES):
        raise InputError(
            f"the model must tell {' from '.join(CLASSES)}, got one of {model.config.classes} "
            "classes"
        )
    score = instant_scores(model, RESIDUAL)

    def explain(text: str) -> Explanation:
        tokens = _read(text, model)
        n = len(tokens)
        padded = min(-(-n // STEP) * STEP, model.config.positions)
        ids = model.tokenizer.encode_batch([" ".join(token.seen for token in tokens[1:])], padded)
        found = score(ids[0])
        probabilities = found["probabilities"].astype(np.float64)

        attention = found["attention"][:, :, :n, :n]
        rows = {name: found[name][:, :n].astype(np.float64) for name in ("raw", "rollout")}
        rows["flow"], saturated = _flow(attention)
        scores = {name: values[-1] for name, values in rows.items()}
        scores |= {
            name: found[name][:n].astype(np.float64) for name in ("gradient_norm", "blank_out")
        }
        return Explanation(
            text=text,
            tokens=tokens,
            probabilities=dict(zip(CLASSES, probabilities.tolist(), strict=True)),
            scores={name: scores[name] for name in METHODS},
            agreement=_agreement(np.stack([scores[name] for name in METHODS])),
            layers=rows,
            saturated=saturated,
            attention=attention,
        )

    return explain


def with_cuts(explanation: Explanation, wanted: Sequence[str]) -> Explanation:
    """Add what holds the flow to some tokens down.

    Parameters
    ----------
    explanation
        Explanation of one sentence.
    wanted
        Tokens as they were written, or their indices from 0; see `bottlenecks`.

    Raises
    ------
    InputError
        If the sentence has no such token.
    """
    tokens = [token.text for token in explanation.tokens]
    cuts = bottlenecks(explanation.attention, tokens, wanted, RESIDUAL)
    return dataclasses.replace(explanation, cuts=cuts)


def _read(text: str, model: Model) -> tuple[Token, ...]:
    """Split a sentence into words and look each one up."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise InputError(f"the sentence {text!r} must be valid Unicode text") from error
    words = text.split()
    if not words:
        raise InputError("a sentence must have at least one word, got an empty one")
    if len(words) + 1 > model.config.positions:
        raise InputError(
            f"a sentence must be at most {model.config.positions - 1} words for this model, got "
            f"{len(words)}: {' '.join(words[:5])} ..."
        )
    first = Token(SPECIAL_TOKENS[1], SPECIAL_TOKENS[1], True)
    return (first, *_look_up(words, model))


def _look_up(words: Iterable[str], model: Model) -> Iterable[Token]:
    for word in words:
        # Special tokens are no words: a sentence that spells one must not be read as padding.
        tries = [
            form
            for form in (word, word.lower())
            if form in model.tokenizer and form not in SPECIAL_TOKENS
        ]
        yield Token(word, tries[0] if tries else SPECIAL_TOKENS[UNK], bool(tries))


def _flow(attention: NDArray[np.float32]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return the ``[CLS]`` row of flow for every layer, and where the top one is at its bound.

    What `jaxflow.flow` and `jaxflow.saturation` say, without the kernel that they would compile.
    """
    edges, _ = graph_edges(attention, RESIDUAL, "mean", None)
    rows = flow_rows_scaled(edges, READOUT)
    slack = TOLERANCE + len(edges) * np.abs(edges.sum(-1) - 1).max()
    return rows, rows[-1] >= np.minimum(1.0, edges[0].sum(0)) - slack


def _agreement(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return Spearman's correlation of every two rows of ``[M, n]``, NaN where one is constant.

    As `jaxflow.spearman` has it, in NumPy: compiling that takes longer than all there is to do.
    """
    mine, others = scores[:, :, None], scores[:, None, :]
    # Twice the ranks minus their mean: whole numbers, so constants and ties come out exact.
    ranks = ((others < mine).sum(-1) - (others > mine).sum(-1)).astype(np.float64)
    product = ranks @ ranks.T
    norm = np.sqrt(np.diag(product)[:, None] * np.diag(product)[None])
    return np.where(norm > 0, product / np.where(norm > 0, norm, 1), np.nan).clip(-1, 1)
