"""One sentence explained: what the model predicts, and what every method says of each token."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from jaxflow._flow.fallback import flow_rows_scaled
from jaxflow._flow.table import TOLERANCE, graph_edges
from jaxflow.errors import InputError
from jaxflow.eval.explain.bottleneck import Bottleneck, bottlenecks
from jaxflow.eval.score.instant import instant_scores
from jaxflow.eval.score.reading import Token, reader
from jaxflow.models import EncoderConfig, Model, ViTConfig

__all__ = ["CLASSES", "METHODS", "Explanation", "Token", "explainer", "with_cuts"]

#: An agreement encoder's classes: which verb would go on with the sentence.
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
#: How many of a language model's tokens are named.
SHOWN = 5


@dataclasses.dataclass(frozen=True, eq=False)
class Explanation:
    """What a model and every method say of one sentence of n tokens, special ones included.

    Where word pieces are joined, a token here is a word.

    Attributes
    ----------
    text
        The sentence as it was given.
    tokens
        The n tokens.
    probabilities
        Class -> probability; of a language model the likeliest `SHOWN` tokens.
    scores
        Method (`METHODS`) -> float64 ``[n]``, none negative: the row of `readout` on the top layer
        for raw attention, rollout and flow; norm of the input gradient; blank-out of the predicted
        class or token. Their scales differ from method to method.
    agreement
        float64 ``[M, M]``: Spearman's correlation of every two methods over the n tokens, in the
        order of `METHODS`; NaN where one of them is constant.
    layers
        ``raw``, ``rollout`` and ``flow`` -> float64 ``[L, n]``: the row of `readout`, every layer.
    saturated
        bool ``[n]``: flow from the top layer is at its bound, the token's column of the lowest
        layer, and depends on nothing else.
    attention
        float32 ``[L, H, n, n]``, what the methods on attention started from.
    cuts
        What holds flow down, for the tokens that `with_cuts` was asked for.
    readout
        The token that the prediction is read off: ``[CLS]``, the mask, or the last one.
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
    readout: int = 0

    @property
    def prediction(self) -> str:
        """The class with the highest probability."""
        return max(self.probabilities, key=self.probabilities.__getitem__)

    @property
    def unknown(self) -> tuple[str, ...]:
        """The words that the vocabulary does not have, each once, in the sentence's order."""
        return tuple(dict.fromkeys(token.text for token in self.tokens if not token.known))


def explainer(model: Model, *, words: bool = False) -> Callable[[str], Explanation]:
    """Prepare a model for explaining sentences.

    Parameters
    ----------
    model
        A trained model of text with a head.
    words
        Whether pieces of one word are joined: it attends with the mean of its pieces' attention
        and is attended with their sum, and what follows is worked out on words.

    Returns
    -------
    callable
        From a sentence to its `Explanation`. It compiles for every new multiple of 16 tokens. It
        raises `InputError` for a sentence that is empty, longer than the model's positions or not
        valid Unicode, and, for a masked language model, without one ``[MASK]``.

    Raises
    ------
    InputError
        If the model is one of images, has no head, or is an agreement encoder of other classes
        than singular and plural.
    """
    _check(model)
    read, score = reader(model, words=words), instant_scores(model, RESIDUAL)

    def explain(text: str) -> Explanation:
        reading = read(text)
        n, m = len(reading.ids), len(reading.units)
        padded = min(-(-n // STEP) * STEP, model.config.positions)
        members = np.concatenate([reading.members, np.arange(n, padded)]).astype(np.int32)
        ids = reading.padded(padded, model.text.pad_id)
        found = score(ids, members, reading.place, reading.readout, n)

        attention = found["attention"][:, :, :m, :m]
        rows = {name: found[name][:, :m].astype(np.float64) for name in ("raw", "rollout")}
        rows["flow"], saturated = _flow(attention, reading.readout)
        scores = {name: values[-1] for name, values in rows.items()}
        scores |= {
            name: found[name][:m].astype(np.float64) for name in ("gradient_norm", "blank_out")
        }
        return Explanation(
            text=text,
            tokens=reading.units,
            probabilities=_named(model, found["probabilities"].astype(np.float64)),
            scores={name: scores[name] for name in METHODS},
            agreement=_agreement(np.stack([scores[name] for name in METHODS])),
            layers=rows,
            saturated=saturated,
            attention=attention,
            readout=reading.readout,
        )

    return explain


def _check(model: Model) -> None:
    config = model.config
    if config.head == "none":
        raise InputError(
            "the model must have a head to explain what it predicts, and has none: load one with a "
            "head, or read its attention with jaxflow attribute"
        )
    if isinstance(config, ViTConfig):
        raise InputError("the model must be one of text, got one of images: give it --image")
    if isinstance(config, EncoderConfig) and config.classes != len(CLASSES):
        raise InputError(
            f"the model must tell {' from '.join(CLASSES)}, got one of {config.classes} classes"
        )


def _named(model: Model, probabilities: NDArray[np.float64]) -> dict[str, float]:
    """Name the classes, or the likeliest tokens."""
    if model.config.head == "classification":
        return dict(zip(model.config.labels, probabilities.tolist(), strict=True))
    known = min(len(model.text), len(probabilities))
    likeliest = np.argsort(-probabilities[:known], kind="stable")[:SHOWN]
    names = [token.replace("Ġ", " ").strip() or token for token in model.text.decode(likeliest)]
    entries = zip(names, model.text.decode(likeliest), probabilities[likeliest], strict=True)
    # A word with and without the space before it are two tokens.
    return {
        name if names.count(name) == 1 else token: float(value) for name, token, value in entries
    }


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
    cuts = bottlenecks(explanation.attention, tokens, wanted, RESIDUAL, explanation.readout)
    return dataclasses.replace(explanation, cuts=cuts)


def _flow(
    attention: NDArray[np.float32], readout: int
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return the readout's row of flow for every layer, and where the top one is at its bound.

    What `jaxflow.flow` and `jaxflow.saturation` say, without the kernel that they would compile.
    """
    edges, _ = graph_edges(attention, RESIDUAL, "mean", None)
    rows = flow_rows_scaled(edges, readout)
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
