"""Explain one sentence: the model's prediction, and every method's score of each token.

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
from jaxflow._flow.table import TOLERANCE, graph_edges
from jaxflow.errors import InputError
from jaxflow.eval.explain.bottleneck import Bottleneck, bottlenecks
from jaxflow.eval.score.engine import gradient_scores, readout_logits
from jaxflow.eval.score.reading import Token, reader
from jaxflow.eval.score.target import Replacement, Scoring, Target, scoring_of
from jaxflow.models import EncoderConfig, Model, ViTConfig
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
    """The prediction and the scores of one sentence of n tokens, special ones included.

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
    scoring
        Target of the gradient, and the token that replaces blanked-out ones.
    cuts
        The minimum cuts of the tokens given to `with_cuts`.
    readout
        The token that the prediction is computed from: ``[CLS]``, the mask, or the last one.
    """

    text: str
    tokens: tuple[Token, ...]
    probabilities: Mapping[str, float]
    scores: Mapping[str, NDArray[np.float64]]
    agreement: NDArray[np.float64]
    layers: Mapping[str, NDArray[np.float64]]
    saturated: NDArray[np.bool_]
    attention: NDArray[np.float32]
    scoring: Scoring
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


def explainer(
    model: Model,
    *,
    words: bool = False,
    target: Target | None = None,
    replacement: Replacement | None = None,
) -> Callable[[str], Explanation]:
    """Prepare a model for explaining sentences.

    Parameters
    ----------
    model
        A trained model of text with a head.
    words
        Whether pieces of one word are joined: it attends with the mean of its pieces' attention
        and is attended with their sum, its gradient norm is their sum, and all of it is blanked
        out at once.
    target, replacement
        Target of the gradient and replacement of blank-out; None takes the defaults of
        `jaxflow.eval.score.target`. The explained output is the predicted one.

    Returns
    -------
    callable
        From a sentence to its `Explanation`, compiled for every new multiple of 16 tokens. It
        raises `InputError` for a sentence that cannot be read (`jaxflow.eval.score.reading`).

    Raises
    ------
    InputError
        If the model is one of images, has no head, is an agreement encoder of other classes than
        singular and plural, or cannot serve the target or the replacement.
    """
    _check(model)
    scoring = scoring_of(model, target, replacement)
    read, score = reader(model, words=words), _sentence_scores(model, scoring)

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
            scoring=scoring,
            readout=reading.readout,
        )

    return explain


def _sentence_scores(model: Model, scoring: Scoring) -> Callable[..., dict[str, Any]]:
    """Return the function that scores single sentences, compiled for every new padded length n.

    It maps the numbers of a sentence ``[n]``, the unit ``[n]`` that each token is a member of, the
    token and the unit that are read out, and the number of real tokens, to float32
    ``probabilities`` ``[C]`` of the readout, ``attention`` ``[L, H, n, n]``, ``raw`` and
    ``rollout`` ``[L, n]`` (rows of the unit read out), ``gradient_norm`` and ``blank_out`` ``[n]``.
    """
    rolled = roll_up(model.config, model.params)
    apply: Callable[..., Any] = rolled.module.apply
    config = model.config
    outputs = 0 if config.head == "classification" else config.vocabulary  # type: ignore[union-attr]

    def answer(params: Any, rows: jax.Array, mask: jax.Array, place: jax.Array) -> Any:
        """Return probabilities ``[B, C]`` and the attention of rows ``[B, n]``."""
        embeddings = apply(params, rows, method="embed")
        every = jnp.broadcast_to(mask, rows.shape)
        output = apply(params, embeddings, every, method="encode")
        places = jnp.broadcast_to(place, len(rows))
        return jax.nn.softmax(readout_logits(output.logits, places)), output.attention

    def forward(params: Any, tokens: jax.Array, members: jax.Array, numbers: jax.Array) -> Any:
        n, (place, readout, length) = tokens.size, numbers
        mask = jnp.arange(n) < length
        join = _join(members, mask)
        copies = jnp.where(join, scoring.token_id, tokens[None])
        needs = copies.size * (n * config.heads * config.layers + outputs) * 4
        if needs <= _MEMORY:
            # The sentence and its blanked copies are one batch: encoded at once, compiled once.
            rows = jnp.concatenate([tokens[None], copies])
            probabilities, attentions = answer(params, rows, mask, place)
            chosen = probabilities[:, probabilities[0].argmax()]
            change = jnp.abs(chosen[0] - chosen[1:])
        else:
            probabilities, attentions = answer(params, tokens[None], mask, place)
            label = probabilities[0].argmax()
            changed = jax.lax.map(
                lambda row: answer(params, row[None], mask, place)[0][0, label],
                copies,
                batch_size=max(1, _MEMORY // (needs // n)),
            )
            change = jnp.abs(probabilities[0, label] - changed)
        units, weights = join.any(-1), join.astype(jnp.float32)
        highest = jax.lax.Precision.HIGHEST  # exact, so that nothing changes where tokens are units
        attention = jnp.einsum(
            "ui,lhij,wj->lhuw", weights, attentions[0], weights, precision=highest
        )
        attention = attention / jnp.maximum(weights.sum(-1), 1)[None, None, :, None]
        rolled_out = jaxflow.rollout(attention, residual=RESIDUAL, mask=units)
        return {
            "probabilities": probabilities[0],
            "attention": attention,
            "raw": jnp.asarray(jaxflow.raw_attention(attention, mask=units))[:, readout],
            "rollout": jnp.asarray(rolled_out)[:, readout],
            # What was blank before stays as it is; rounding is not its effect.
            "blank_out": jnp.where((copies != tokens[None]).any(-1), change, 0),
        }

    def gradient(params: Any, tokens: jax.Array, members: jax.Array, numbers: jax.Array) -> Any:
        place, _, length = numbers
        mask = jnp.arange(tokens.size) < length
        found = gradient_scores(
            ("gradient-norm",), apply, scoring, params, tokens[None], mask[None], None, place[None]
        )
        norms = found["gradient-norm"][0]
        return {"gradient_norm": _join(members, mask).astype(norms.dtype) @ norms}

    parts = _jit_with(forward, FORWARD), _jit_with(gradient, BACKWARD)

    def score(
        ids: NDArray[np.int32], members: NDArray[np.int32], place: int, readout: int, length: int
    ) -> dict[str, NDArray[np.float32]]:
        numbers = np.array([place, readout, length], np.int32)
        given = ({"params": rolled.params}, ids, members, numbers)
        with ThreadPoolExecutor(2) as pool:
            jobs = [pool.submit(part, *given) for part in parts]
            done = [jax.device_get(job.result()) for job in jobs]
        return done[0] | done[1]

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
    if config.head == "none":
        raise InputError(
            "the model must have a head to explain what it predicts, and has none: load one with a "
            "head, or read its attention with jaxflow attribute"
        )
    if isinstance(config, ViTConfig):
        raise InputError("the model must be one of text, got one of images: give it --image")
    if isinstance(config, EncoderConfig) and config.classes != len(CLASSES):
        raise InputError(
            f"the model must distinguish {' and '.join(CLASSES)}, got {config.classes} classes"
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
    slack = TOLERANCE + len(edges) * np.abs(edges.sum(-1) - 1).max()
    return rows, rows[-1] >= np.minimum(1.0, edges[0].sum(0)) - slack


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
