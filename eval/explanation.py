"""Explain one text or pair: the model's prediction, and every method's score of each token.

A table runs the same program thousands of times, an explanation runs it once. So the layers are a
loop (`jaxflow.models.model`), and two programs are compiled in parallel with fewer optimisations.
The scores are those of `jaxflow.eval.score.engine`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

import jaxflow
from jaxflow._flow.fallback import flow_rows_scaled
from jaxflow._flow.table import graph_edges
from jaxflow.attention import length_mask
from jaxflow.errors import InputError
from jaxflow.eval.explain.bottleneck import Bottleneck, bottlenecks
from jaxflow.eval.plots.style import is_constant
from jaxflow.eval.score.engine import at_bound, gradient_scores, readout_logits
from jaxflow.eval.score.reading import Token, piece_text, reader
from jaxflow.eval.score.target import (
    Replacement,
    Scoring,
    Target,
    label_number,
    scoring_of,
)
from jaxflow.models import Answer, EncoderConfig, Model, ViTConfig, answer_values
from jaxflow.models.model import roll_up

#: An agreement encoder's classes: the number of the verb that continues the sentence.
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

# On a CPU this halves the time to compile; it costs some five milliseconds a short sentence. The
# backward pass, which takes longer to compile, is not optimised further either.
FORWARD: dict[str, Any] = {"xla_cpu_use_fusion_emitters": False}
BACKWARD: dict[str, Any] = {**FORWARD, "xla_backend_optimization_level": 0}
# Blanked copies of a sentence are worked through in parts that need no more bytes than this.
_MEMORY = 1 << 26


@dataclasses.dataclass(frozen=True, eq=False)
class Explanation:
    """The prediction and the scores of a text or a pair of n tokens, special ones included.

    Where word pieces are joined, a token here is a word. A model without a head predicts nothing:
    there are the scores of attention alone.

    Attributes
    ----------
    text
        The text as it was given.
    tokens
        The n tokens.
    probabilities
        Class -> probability; of a language model the likeliest `SHOWN` tokens. Labels that do not
        exclude each other have one each, and the outputs of a regression are the numbers
        themselves. Empty without a head.
    scores
        Method (of `METHODS`) -> float64 ``[n]``, none negative: the row of `readout` on the top
        layer for raw attention, rollout and flow; norm of the input gradient; blank-out, the change
        of the explained output's value. Their scales differ from method to method.
    agreement
        float64 ``[M, M]``: Spearman's correlation of every two methods over the n tokens, in the
        order of `scores`; NaN where one of them is constant.
    layers
        ``raw``, ``rollout`` and ``flow`` -> float64 ``[L, n]``: the row of `readout`, every layer.
    saturated
        bool ``[n]``: flow from the top layer is at its bound, the token's column of the lowest
        layer, and depends on nothing else.
    attention
        float32 ``[L, H, n, n]``, what the methods on attention started from.
    scoring
        Target of the gradient, and the token that replaces blanked-out ones; None without a head.
    cuts
        The minimum cuts of the tokens given to `with_cuts`.
    readout
        The token that the prediction is computed from: ``[CLS]``, the mask, or the last one.
    pair
        The second text, if there is one.
    explained
        The class, label, token or output that gradient and blank-out are of; "" without a head.
    """

    text: str
    tokens: tuple[Token, ...]
    probabilities: Mapping[str, float]
    scores: Mapping[str, NDArray[np.float64]]
    agreement: NDArray[np.float64]
    layers: Mapping[str, NDArray[np.float64]]
    saturated: NDArray[np.bool_]
    attention: NDArray[np.float32]
    scoring: Scoring | None
    cuts: tuple[Bottleneck, ...] = ()
    readout: int = 0
    pair: str | None = None
    explained: str = ""

    @property
    def answer(self) -> Answer:
        """The kind of the model's answer, which decides what `probabilities` are."""
        return "none" if self.scoring is None else self.scoring.answer

    @property
    def prediction(self) -> str:
        """The class with the highest probability, of a regression the output; "" without a head."""
        if self.answer in ("none", "regression"):
            return self.explained
        return max(self.probabilities, key=self.probabilities.__getitem__)

    @property
    def title(self) -> str:
        """The text, or both texts."""
        return self.text if self.pair is None else f"{self.text} | {self.pair}"

    @property
    def constant(self) -> tuple[str, ...]:
        """The methods whose scores are the same for all tokens: they rank none."""
        return tuple(name for name, values in self.scores.items() if is_constant(values))

    @property
    def unknown(self) -> tuple[str, ...]:
        """The words that the vocabulary does not have, each once, in the sentence's order."""
        return tuple(dict.fromkeys(token.text for token in self.tokens if not token.known))


def explainer(
    model: Model,
    *,
    words: bool = False,
    target: Target | None = None,
    replacement: Replacement | None = None,
    label: str | int | None = None,
) -> Callable[..., Explanation]:
    """Prepare a model for explaining texts.

    Parameters
    ----------
    model
        A trained model of text; without a head its attention alone is explained.
    words
        Whether pieces of one word are joined: it attends with the mean of its pieces' attention
        and is attended with their sum, its gradient norm is their sum, and all of it is blanked
        out at once.
    target, replacement
        Target of the gradient and replacement of blank-out; None takes the defaults of
        `jaxflow.eval.score.target`.
    label
        The class, label or output to explain, by name or index; None takes the predicted one, of
        labels that do not exclude each other the one with the highest probability.

    Returns
    -------
    callable
        ``(text, pair=None)`` to its `Explanation`, `pair` the second of two texts; compiled for
        every new multiple of 16 tokens. It raises `InputError` for a text that cannot be read
        (`jaxflow.eval.score.reading`).

    Raises
    ------
    InputError
        If the model is one of images, is an agreement encoder of other classes than singular and
        plural, or cannot serve the target, the replacement or the label.
    """
    _check(model)
    scoring = None
    if model.answer != "none":
        scoring = scoring_of(model, target, replacement)
    else:
        asked = {"target": target, "replacement": replacement, "label": label}
        if given := [name for name, value in asked.items() if value is not None]:
            raise InputError(
                f"{' and '.join(given)} must be None for a model without a head, which predicts "
                "nothing: leave it out"
            )
    number = label_number(model, label)
    read, score = reader(model, words=words), _sentence_scores(model, scoring, number)

    def explain(text: str, pair: str | None = None) -> Explanation:
        reading = read(text, pair)
        n, m = len(reading.ids), len(reading.units)
        padded = min(-(-n // STEP) * STEP, model.config.positions)
        members = np.concatenate([reading.members, np.arange(n, padded)]).astype(np.int32)
        ids, types = reading.padded(padded, model.text.pad_id), reading.padded_types(padded)
        found = score(ids, types, members, (reading.place, reading.readout, n))

        attention = found["attention"][:, :, :m, :m]
        rows = {name: found[name][:, :m].astype(np.float64) for name in ("raw", "rollout")}
        rows["flow"], saturated = _flow(attention, reading.readout)
        scores = {name: values[-1] for name, values in rows.items()}
        scores |= {
            name: found[name][:m].astype(np.float64)
            for name in ("gradient_norm", "blank_out")
            if name in found
        }
        values = _named(model, found.get("values", np.zeros(0)).astype(np.float64))
        return Explanation(
            text=text,
            tokens=reading.units,
            probabilities=values,
            scores=scores,
            agreement=_agreement(np.stack(list(scores.values()))),
            layers=rows,
            saturated=saturated,
            attention=attention,
            scoring=scoring,
            readout=reading.readout,
            pair=pair,
            explained=max(values, key=values.__getitem__, default="")
            if number is None
            else list(values)[number],
        )

    return explain


def _sentence_scores(
    model: Model, scoring: Scoring | None, label: int | None
) -> Callable[..., dict[str, Any]]:
    """Return the function that scores single sentences, compiled for every new padded length n.

    It maps the numbers of a sentence ``[n]``, their token types ``[n]``, the unit ``[n]`` that each
    token is a member of, and three numbers (the token and the unit that are read out, the number of
    real tokens) to float32 ``values`` ``[C]`` of the readout, ``attention`` ``[L, H, n, n]``,
    ``raw`` and ``rollout`` ``[L, n]`` (rows of the unit read out), ``gradient_norm`` and
    ``blank_out`` ``[n]``; of attention alone without `scoring`. A `label` of None is the predicted.
    """
    rolled = roll_up(model.config, model.params)
    apply: Callable[..., Any] = rolled.module.apply
    config = model.config
    outputs = config.vocabulary if model.answer == "tokens" else 0  # type: ignore[union-attr]

    def given_types(types: jax.Array, rows: jax.Array) -> dict[str, jax.Array]:
        return {"token_types": jnp.broadcast_to(types, rows.shape)} if model.has_segments else {}

    def answer(
        params: Any, rows: jax.Array, types: jax.Array, mask: jax.Array, place: jax.Array
    ) -> Any:
        """Return values ``[B, C]`` and the attention of rows ``[B, n]``."""
        embeddings = apply(params, rows, method="embed")
        every = jnp.broadcast_to(mask, rows.shape)
        inputs = {"tokens": rows, **given_types(types, rows)}
        output = apply(params, embeddings, every, method="encode", **inputs)
        if scoring is None:
            return None, output.attention
        places = jnp.broadcast_to(place, len(rows))
        return answer_values(
            readout_logits(output.logits, places), scoring.answer
        ), output.attention

    def forward(params: Any, tokens: Any, types: Any, members: Any, numbers: Any) -> Any:
        n, (place, readout, length) = tokens.size, numbers
        mask = length_mask(length, n)
        join = _join(members, mask)
        found = {}
        if scoring is None:
            _, attentions = answer(params, tokens[None], types, mask, place)
        else:
            copies = jnp.where(join, scoring.token_id, tokens[None])
            needs = copies.size * (n * config.heads * config.layers + outputs) * 4
            if needs <= _MEMORY:
                # The sentence and its blanked copies are one batch: encoded at once, compiled once.
                rows = jnp.concatenate([tokens[None], copies])
                values, attentions = answer(params, rows, types, mask, place)
                chosen = values[0].argmax() if label is None else label
                changed = values[1:, chosen]
            else:
                values, attentions = answer(params, tokens[None], types, mask, place)
                chosen = values[0].argmax() if label is None else label
                changed = jax.lax.map(
                    lambda row: answer(params, row[None], types, mask, place)[0][0, chosen],
                    copies,
                    batch_size=max(1, _MEMORY // (needs // n)),
                )
            found["values"] = values[0]
            # What was blank before stays as it is; rounding is not its effect.
            same = (copies == tokens[None]).all(-1)
            found["blank_out"] = jnp.where(same, 0, jnp.abs(values[0, chosen] - changed))
        units, weights = join.any(-1), join.astype(jnp.float32)
        highest = jax.lax.Precision.HIGHEST  # exact, so that nothing changes where tokens are units
        attention = jnp.einsum(
            "ui,lhij,wj->lhuw", weights, attentions[0], weights, precision=highest
        )
        attention = attention / jnp.maximum(weights.sum(-1), 1)[None, None, :, None]
        rolled_out = jaxflow.rollout(attention, residual=RESIDUAL, mask=units, sources=readout)
        return found | {
            "attention": attention,
            "raw": jnp.asarray(jaxflow.raw_attention(attention, mask=units))[:, readout],
            "rollout": rolled_out[:, 0],
        }

    def gradient(params: Any, tokens: Any, types: Any, members: Any, numbers: Any) -> Any:
        assert scoring is not None
        place, _, length = numbers
        mask = length_mask(length, tokens.size)
        labels = None if label is None else jnp.array([label])
        given = params, tokens[None], mask[None], labels, place[None]
        types = given_types(types, tokens[None]).get("token_types")
        found = gradient_scores(("gradient-norm",), apply, scoring, *given, types)
        norms = found["gradient-norm"][0]
        return {"gradient_norm": _join(members, mask).astype(norms.dtype) @ norms}

    parts = [_jit_with(forward, FORWARD)]
    if scoring is not None:
        parts.append(_jit_with(gradient, BACKWARD))

    def score(
        ids: NDArray[np.int32],
        types: NDArray[np.int32],
        members: NDArray[np.int32],
        numbers: tuple[int, ...],
    ) -> dict[str, NDArray[np.float32]]:
        given = ({"params": rolled.params}, ids, types, members, np.array(numbers, np.int32))
        with ThreadPoolExecutor(2) as pool:
            jobs = [pool.submit(part, *given) for part in parts]
            done = [jax.device_get(job.result()) for job in jobs]
        return {name: values for part in done for name, values in part.items()}

    return score


def _join(members: jax.Array, mask: jax.Array) -> jax.Array:
    """Return bool ``[units, tokens]``: which real tokens are of a unit."""
    return (members[None] == jnp.arange(members.size)[:, None]) & mask[None]


def _jit_with(
    function: Callable[..., dict[str, jax.Array]], options: dict[str, Any]
) -> Callable[..., dict[str, jax.Array]]:
    """Compile with options of the compiler, or without any if it does not support one of them."""
    chosen, plain = jax.jit(function, compiler_options=options), jax.jit(function)

    def call(*arguments: Any) -> dict[str, jax.Array]:
        try:
            return chosen(*arguments)
        except jax.errors.JaxRuntimeError as error:
            if "No such compile option" not in str(error):  # they depend on its version
                raise
            return plain(*arguments)

    return call


def _check(model: Model) -> None:
    config = model.config
    if isinstance(config, ViTConfig):
        raise InputError("the model must be one of text, got one of images: give it --image")
    if isinstance(config, EncoderConfig) and config.classes != len(CLASSES):
        raise InputError(
            f"the model must distinguish {' and '.join(CLASSES)}, got {config.classes} classes"
        )


def _named(model: Model, values: NDArray[np.float64]) -> dict[str, float]:
    """Name the classes with their values, or the likeliest tokens."""
    places = list(range(len(values)))
    if model.answer == "tokens":
        known = min(len(model.text), len(values))
        places = np.argsort(-values[:known], kind="stable")[:SHOWN].tolist()
    return dict(zip(_names(model, places), values[places].tolist(), strict=True))


def _names(model: Model, places: Sequence[int]) -> list[str]:
    if model.answer != "tokens":
        return [model.config.labels[place] for place in places]
    written = [piece_text(model.text, place) for place in places]
    bare = [text.strip() or text for text in written]
    # A word with and without the space before it are two tokens.
    return [
        name if bare.count(name) == 1 else text.replace(" ", "␣")
        for name, text in zip(bare, written, strict=True)
    ]


def with_cuts(explanation: Explanation, wanted: Sequence[str]) -> Explanation:
    """Add the minimum cuts of tokens, as they were written or by index from 0; see `bottlenecks`.

    Raises `InputError` if the sentence has no such token.
    """
    tokens = [token.text for token in explanation.tokens]
    cuts = bottlenecks(explanation.attention, tokens, wanted, RESIDUAL, explanation.readout)
    return dataclasses.replace(explanation, cuts=cuts)


def _flow(
    attention: NDArray[np.float32], readout: int
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return the readout's row of flow for every layer, and where the top one is at its bound.

    The values of `jaxflow.flow` and `jaxflow.saturation`, without compiling their kernel.
    """
    edges, _ = graph_edges(attention, RESIDUAL, "mean", None)
    rows = flow_rows_scaled(edges, readout)
    return rows, at_bound(edges, rows[-1])


def _agreement(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return Spearman's correlation of every two rows of ``[M, n]``, NaN where one is constant.

    The value of `jaxflow.spearman`, in NumPy: compiling that takes longer than the work.
    """
    mine, others = scores[:, :, None], scores[:, None, :]
    # Twice the ranks minus their mean: whole numbers, so constants and ties come out exact.
    ranks = ((others < mine).sum(-1) - (others > mine).sum(-1)).astype(np.float64)
    product = ranks @ ranks.T
    norm = np.sqrt(np.diag(product)[:, None] * np.diag(product)[None])
    return np.where(norm > 0, product / np.where(norm > 0, norm, 1), np.nan).clip(-1, 1)
