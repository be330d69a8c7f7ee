"""Score the tokens of a batch by pure functions that every command shares.

``apply`` is a module's, ``params`` an argument, so that each caller compiles as it needs: the
tables once for thousands of sentences, an explanation quickly for one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

import jaxflow
from jaxflow._flow.table import TOLERANCE, flow_of_tops
from jaxflow.errors import InputError
from jaxflow.eval.score.target import Scoring, target_value
from jaxflow.models import Model, answer_values
from jaxflow.models.output import last_real, readable
from jaxflow.removal import Removal

Apply = Callable[..., Any]

IG_STEPS = 20  # ranks agree with those of 128 steps to .998 on the agreement encoder
SMOOTH_SAMPLES = 16

#: Scores by gradients at the embeddings -> how tables call them.
GRADIENTS = {
    "gradient-norm": "norm of the gradient",
    "gradient-sum": "|sum of the gradient|, the paper's",
    "gradient-x-input": "|gradient x input|",
    "integrated-gradients": "|integrated gradients|",
    "smooth-grad": "norm of the gradient, noise averaged",
}
#: What is done to each token in turn; the score is the change of the explained output.
REMOVALS = {
    "blank-out": "blank-out",
    "mask-out": "replaced by the mask token",
    "delete-out": "deleted",
    "attention-out": "hidden from attention",
}


def readout_logits(logits: jax.Array, places: Any) -> jax.Array:
    """Return ``[B, C]``: classes as they are, of ``[B, n, V]`` those at the places ``[B]``."""
    if logits.ndim == 2:
        return logits
    return jnp.take_along_axis(logits, jnp.asarray(places)[:, None, None], 1)[:, 0]


def gradient_scores(
    names: Sequence[str],
    apply: Apply,
    scoring: Scoring,
    params: Any,
    tokens: jax.Array,
    mask: jax.Array,
    labels: jax.Array | None = None,
    places: Any = None,
    token_types: Any = None,
) -> dict[str, jax.Array]:
    """Return scores (`GRADIENTS`) of tokens ``[B, n]`` by the gradient of the target; 0 at padding.

    `labels` ``[B]`` are the explained outputs, by default the predicted ones; `places` ``[B]`` the
    tokens that a language model's output is computed from; `token_types` ``[B, n]`` those of two
    texts.
    """
    embeddings = apply(params, tokens, method="embed")
    inputs = {"tokens": tokens}  # which RoBERTa numbers positions by
    inputs |= {} if token_types is None else {"token_types": token_types}

    def score(given: jax.Array) -> jax.Array:
        logits = apply(params, given, mask, method="encode", **inputs).logits
        read = readout_logits(logits, places)
        return target_value(scoring.target, read, labels, scoring.answer)

    def one(name: str) -> Any:
        if name == "gradient-norm":
            return jaxflow.gradient_norm(score, embeddings)
        if name == "gradient-sum":
            return jnp.abs(jaxflow.input_gradient(score, embeddings))
        if name == "gradient-x-input":
            return jnp.abs(jaxflow.gradient_x_input(score, embeddings))
        if name == "smooth-grad":
            key = jax.random.key(0)
            return jaxflow.smooth_grad(score, embeddings, key, SMOOTH_SAMPLES, mask=mask)
        # From the sentence with every token but the first replaced.
        blank = jnp.where(mask & (jnp.cumsum(mask, -1) > 1), scoring.token_id, tokens)
        baseline = apply(params, blank, method="embed")
        return jnp.abs(jaxflow.integrated_gradients(score, embeddings, baseline, steps=IG_STEPS))

    return {name: jnp.where(mask, one(name), 0) for name in names}


def removal_scores(
    name: str,
    model: Model,
    scoring: Scoring,
    params: Any,
    tokens: jax.Array,
    mask: jax.Array,
    labels: jax.Array,
    token_types: Any = None,
    *,
    at_once: bool = False,
) -> jax.Array:
    """Return the change of the answer's value without each token (`REMOVALS`), ``[B, n]``.

    The value is the probability of the class or label, or the number of a regression. Copies of the
    sentences are classified as many at once as there are sentences, or all together.

    Raises `InputError` if the tokenizer lacks the token, or ``mask-out`` is what ``blank-out`` does
    already.
    """
    apply: Apply = model.module.apply
    how, number = _removal(name, model, scoring)
    size, n = tokens.shape
    types = copied = None
    if token_types is not None:
        types = jnp.asarray(token_types)
        copied = jnp.repeat(types, n, axis=0)  # of the copies, a token's type goes with it
        if how == "deletion":
            gone = jnp.tile(jnp.eye(n, dtype=bool), (size, 1))
            real = jnp.repeat(mask, n, axis=0)
            copied, _ = jaxflow.remove(copied, gone, how, token_id=0, mask=real)

    def classify(given: Any) -> jax.Array:
        rows, real, *kinds = given
        inputs = {"token_types": kinds[0]} if kinds else {}
        logits = apply(params, rows, real, method="classify", **inputs)
        return answer_values(logits, scoring.answer)

    def predict(rows: Any, real: Any) -> jax.Array:
        given: tuple[Any, ...] = (rows, real)
        if types is not None:
            given += (types if len(rows) == size else copied,)
        if at_once or len(rows) == size:
            return classify(given)
        groups = tuple(each.reshape(-1, size, n) for each in given)
        return jax.lax.map(classify, groups).reshape(len(rows), -1)

    options: dict[str, Any] = {"label": labels, "mask": mask, "token_id": number}
    return jnp.asarray(jaxflow.remove_out(predict, tokens, how, **options))


def _removal(name: str, model: Model, scoring: Scoring) -> tuple[Removal, int | None]:
    """Return what is done to a token, and the number of the token that takes its place."""
    if name == "blank-out":
        return "token", scoring.token_id
    if name == "attention-out":
        return "attention", None
    role = "mask" if name == "mask-out" else "pad"
    number = getattr(model.text, f"{role}_id")
    if number is None:
        raise InputError(f"{name} needs a {role} token, which the model's tokenizer has not")
    if name == "mask-out" and scoring.replacement == "mask":
        raise InputError("it is blank-out, which replaces by the mask token already")
    return ("token" if name == "mask-out" else "deletion"), number


def read_places(model: Model, tokens: Any, mask: Any) -> jax.Array:
    """Return the token ``[B]`` that each class is computed from: the last real one or the first."""
    mask = jnp.asarray(readable(model.config, tokens, mask))
    return last_real(mask) if model.config.reads_last else jnp.zeros(len(mask), int)


def rows_at(token_attention: Any, places: Any) -> jax.Array:
    """Take one row a sentence: ``[B, L, n, n]`` and ``[B]`` to ``[B, L, n]``."""
    at = jnp.asarray(places)[:, None, None, None]
    return jnp.take_along_axis(jnp.asarray(token_attention), at, -2)[:, :, 0]


def flow_at(
    attention: Any, places: Any, mask: Any, *, residual: float, threads: int | None = None
) -> NDArray[np.float64]:
    """Return the flow from one token a sentence, float64 ``[B, L, n]``.

    `attention` is ``[B, L, H, n, n]``, `places` ``[B]`` are the tokens, and `mask` ``[B, n]`` is
    True at real tokens; the rest as in `jaxflow.flow`.
    """

    def flows(these: Any, source: int) -> Any:
        options: dict[str, Any] = {"residual": residual, "mask": mask[these], "threads": threads}
        return jaxflow.flow(attention[these], sources=source, **options)[:, :, 0]

    return _by_place(flows, places)


def flow_of_tops_at(
    tops: Any, below: Any, places: Any, mask: Any, *, threads: int | None = None
) -> NDArray[np.float64]:
    """Return `flow_at` where top layers have edges of their own, as in `flow_of_tops`."""

    def flows(these: Any, source: int) -> Any:
        options: dict[str, Any] = {"mask": mask[these], "sources": source, "threads": threads}
        return flow_of_tops(tops[these], below[these], **options)[:, :, 0]

    return _by_place(flows, places)


def saturated_at(
    attention: Any, places: Any, mask: Any, *, residual: float, threads: int | None = None
) -> NDArray[np.bool_]:
    """Return where `flow_at` is at its bound, bool ``[B, L, n]``."""

    def reached(these: Any, source: int) -> Any:
        options: dict[str, Any] = {"residual": residual, "mask": mask[these], "threads": threads}
        return jaxflow.saturation(attention[these], sources=source, **options).reached[:, :, 0]

    return _by_place(reached, places)


def at_bound(edges: NDArray[Any], rows: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return where flows ``[..., n]`` through edges ``[L, n, n]`` are at their bound.

    The values of `jaxflow.saturation`, without compiling its kernel.
    """
    slack = TOLERANCE + len(edges) * np.abs(edges.sum(-1) - 1).max()
    found: NDArray[np.bool_] = rows >= np.minimum(1.0, edges[0].sum(0)) - slack
    return found


def at_suffix(edges: NDArray[Any], source: int, row: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return where causal flow ``[n]`` is what the source's top row sends from a token on.

    This is a cut, as no path leads to a later token: from some depth on it is the value of nearly
    every flow, which then does not depend on the layers below. False without a causal mask.
    """
    if np.triu(edges, 1).any():
        return np.zeros(row.shape, bool)
    slack = TOLERANCE + len(edges) * np.abs(edges.sum(-1) - 1).max()
    suffix = np.cumsum(edges[-1, source, ::-1])[::-1]
    found: NDArray[np.bool_] = (row >= suffix - slack) & (np.arange(len(row)) <= source)
    return found


def _by_place(work: Callable[[Any, int], Any], places: Any) -> NDArray[Any]:
    """Call `work` once for each readout token, with the sentences that it is the readout of."""
    places = np.asarray(places)
    known = np.unique(places)
    if len(known) == 1:
        return np.asarray(work(slice(None), int(known[0])))
    parts = [(np.flatnonzero(places == place), int(place)) for place in known]
    done = [(rows, np.asarray(work(rows, place))) for rows, place in parts]
    found = np.empty((len(places), *done[0][1].shape[1:]), done[0][1].dtype)
    for rows, values in done:
        found[rows] = values
    return found
