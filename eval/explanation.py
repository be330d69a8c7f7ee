"""Explain one text or pair: the model's prediction, and every method's score of each token.

A table runs the same program thousands of times, an explanation runs it once. So the layers are a
loop (`jaxflow.models.model`), and two programs are compiled in parallel with fewer optimisations.
The scores are those of `jaxflow.eval.score.engine`.
"""

from __future__ import annotations

import dataclasses
import functools
import io
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from os import PathLike
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

import jaxflow
from jaxflow._flow.fallback import flow_rows_scaled
from jaxflow._flow.table import graph_edges
from jaxflow.attention import check_residual, length_mask
from jaxflow.edges import Propagation, Trace, aggregate, propagate
from jaxflow.edges.trace import among_tokens
from jaxflow.errors import InputError
from jaxflow.eval.explain.bottleneck import Bottleneck, bottlenecks
from jaxflow.eval.plots.style import is_constant
from jaxflow.eval.report import Table
from jaxflow.eval.score.attention import EdgeMethod, edge_method
from jaxflow.eval.score.engine import GRADIENTS, at_bound, gradient_scores, readout_logits
from jaxflow.eval.score.reading import Reading, Token, piece_text, reader
from jaxflow.eval.score.target import (
    Replacement,
    Scoring,
    Target,
    label_number,
    scoring_of,
)
from jaxflow.files import Content, write_together
from jaxflow.models import Answer, EncoderConfig, Model, ViTConfig, answer_values
from jaxflow.models.model import ModelConfig, make_module, roll_up
from jaxflow.models.tracing import special_tokens, tracer

#: An agreement encoder's classes: the number of the verb that continues the sentence.
CLASSES = ("singular", "plural")
#: The methods of the command line, and how they are shown; others by their names.
METHODS = {
    "raw": "raw attention",
    "rollout": "rollout",
    "flow": "flow",
    # Not its sum, as in the paper's tables: where the embeddings are normalised before anything
    # reads them, as in this encoder, the sum is nothing but rounding.
    "gradient_norm": "gradient norm",
    "blank_out": "blank-out",
}

#: Those that need no output.
ON_ATTENTION = ("raw", "rollout", "flow")

# Sentences are padded to a multiple of this, so that those of similar length share what is
# compiled; the padding changes no score.
STEP = 16

RESIDUAL = 0.5  # the paper's
#: How many of a language model's tokens are named.
SHOWN = 5
_WIDTH = 100  # columns of the table as text

_SINKS = (
    "Attention sinks, which are no tokens, are left out: raw, rollout and flow are of attention "
    "among tokens, each head's row divided by what its sink left"
)

# On a CPU this halves the time to compile; it costs some five milliseconds a short sentence. The
# backward pass, which takes longer to compile, is not optimised further either.
FORWARD: dict[str, Any] = {"xla_cpu_use_fusion_emitters": False}
BACKWARD: dict[str, Any] = {**FORWARD, "xla_backend_optimization_level": 0}
# Blanked copies of a sentence are worked through in parts that need no more bytes than this.
_MEMORY = 1 << 26


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Explanation:
    """The prediction and the scores of a text, a pair, or the input of a function, of n tokens.

    Special tokens are among them. Where word pieces are joined, a token here is a word. A model
    without a head predicts nothing: there are the scores of attention alone.

    Attributes
    ----------
    text
        The text as it was given; "" of a function.
    tokens
        The n tokens: strings, with what the model read as `seen`, and `known`.
    probabilities
        Class -> probability; of a language model the likeliest `SHOWN` tokens. Labels that do not
        exclude each other have one each, and the outputs of a regression are the numbers
        themselves. Empty without a head, and of a function.
    scores
        Method -> float64 ``[n]``. Of a method with layers it is the row of `readout` after the
        layer `layer`. Their scales differ from method to method.
    agreement
        float64 ``[M, M]``: Spearman's correlation of every two methods over the n tokens, in the
        order of `scores`; NaN where one of them is constant.
    layers
        Every method that has layers -> float64 ``[L, n]``: the row of `readout`, every layer.
    saturated
        bool ``[n]``: flow from `layer` is at its bound, the token's column of the lowest layer, and
        depends on nothing else.
    attention
        float32 ``[L, H, n, n]``, what the methods on attention started from.
    scoring
        Target of the gradient, and the token that replaces blanked-out ones; None without a head,
        and of a function.
    cuts
        The minimum cuts of the tokens given to `with_cuts`.
    readout
        The token that the prediction is computed from: ``[CLS]``, the mask, or the last one.
    pair
        The second text, if there is one.
    explained
        The class, label, token or output that gradient and blank-out are of; "" without a head.
    layer
        The layer of the scores, from 0.
    residual
        Share of the residual connection, for rollout and flow.
    function
        The name of a function; "" of a model's text.
    value
        What `target` returned for a function; None without one.
    remarks
        What was left out of the attention, in sentences.
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
    layer: int = -1
    residual: float = RESIDUAL
    function: str = ""
    value: float | None = None
    remarks: tuple[str, ...] = ()

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
        """The text, or both texts; of a function the tokens."""
        text = self.text or " ".join(self.tokens)
        return text if self.pair is None else f"{text} | {self.pair}"

    @property
    def constant(self) -> tuple[str, ...]:
        """The methods whose scores are the same for all tokens: they rank none."""
        return tuple(name for name, values in self.scores.items() if is_constant(values))

    @property
    def unknown(self) -> tuple[str, ...]:
        """The words that the vocabulary does not have, each once, in the sentence's order."""
        return tuple(dict.fromkeys(token.text for token in self.tokens if not token.known))

    def __repr__(self) -> str:
        title = self.title if len(self.title) <= 40 else self.title[:39] + "…"
        answer = f", {self.prediction}" if self.prediction else ""
        return f"<Explanation of {title!r}{answer}: {', '.join(self.scores)}>"

    def __str__(self) -> str:
        """Return the table, shaded where standard output is a terminal."""
        from rich.console import Console

        from jaxflow.eval.explain.text import print_explanation

        file = io.StringIO()
        console = Console(
            file=file, width=_WIDTH, force_terminal=sys.stdout.isatty(), force_jupyter=False
        )
        print_explanation(console, self)
        return file.getvalue().rstrip("\n")

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        """Show the table in IPython's terminal."""
        printer.text(str(self))

    def _repr_html_(self) -> str:
        """Show the page in a notebook."""
        from jaxflow.eval.explain.page import as_page
        from jaxflow.html.notebook import Page

        return Page(as_page([self]))._repr_html_()

    def to_json(self) -> str:
        """Return strict JSON text, one explanation in the form of ``jaxflow explain --json``."""
        from jaxflow.eval.explain.text import as_json

        return as_json([self])

    def to_dataframe(self) -> Any:
        """Return a `pandas.DataFrame`: a row for each token, its text and every method's score.

        Raises `InputError` if pandas is not installed.
        """
        try:
            import pandas
        except ModuleNotFoundError as error:
            raise InputError("to_dataframe needs pandas: pip install pandas") from error
        return pandas.DataFrame({"token": [token.text for token in self.tokens], **self.scores})

    def save(self, path: str | PathLike[str]) -> Path:
        """Write the explanation to a file, atomically: .html, .png, .json, .csv or .txt.

        Returns
        -------
        Path
            The file.

        Raises
        ------
        InputError
            If the name ends in something else, or the file cannot be written.
        """
        if not isinstance(path, (str, PathLike)):
            raise InputError(f"path must be the name of a file, got {path!r}")
        path = Path(path)
        if path.suffix not in SAVED:
            raise InputError(f"path must end in one of {', '.join(SAVED)}, got {str(path)!r}")
        write_together(path.parent, {path.name: SAVED[path.suffix](self)})
        return path


def _as_html(explanation: Explanation) -> Content:
    from jaxflow.eval.explain.page import as_page

    return as_page([explanation])


def _as_png(explanation: Explanation) -> Content:
    from jaxflow.eval.explain.picture import save_png

    return lambda path: save_png([explanation], path)


def _as_csv(explanation: Explanation) -> Content:
    rows = zip(explanation.tokens, *explanation.scores.values(), strict=True)
    head = ["token", *explanation.scores]
    return Table.of(head, [(token.text, *map(float, row)) for token, *row in rows]).to_csv()


#: Ending of a file's name -> its content.
SAVED: Mapping[str, Callable[[Explanation], Content]] = {
    ".html": _as_html,
    ".png": _as_png,
    ".json": Explanation.to_json,
    ".csv": _as_csv,
    ".txt": lambda explanation: f"{explanation}\n",
}


def explainer(
    model: Model,
    *,
    methods: Sequence[str] | None = None,
    words: bool = False,
    target: Target | None = None,
    replacement: Replacement | None = None,
    label: str | int | None = None,
    layer: int = -1,
    residual: float = RESIDUAL,
    threads: int | None = None,
) -> Callable[..., Explanation]:
    """Prepare a model for explaining texts; the arguments are those of `jaxflow.explain`.

    `methods` of None are `METHODS`, without a head those of attention. With `words` the pieces of
    a word are joined: it attends with the mean of its pieces' attention and is attended with their
    sum, its gradient norm is their sum, and all of it is blanked out at once. `target` and
    `replacement` of None are the defaults of `jaxflow.eval.score.target`; gradients with respect
    to attention are those of the logit. `label` of None is the predicted class, of labels that do
    not exclude each other the one with the highest probability.

    Returns the function from ``(text, pair=None)`` to an `Explanation`, compiled for every new
    multiple of 16 tokens. Raises `InputError` if the model is one of images, is an agreement
    encoder of other classes than singular and plural, or cannot serve an argument.
    """
    _check(model)
    residual = float(check_residual(residual))
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
    chosen = _chosen(methods, scoring is not None, words)
    layer = resolve_place("layer", layer, model.config.layers, " for this model")
    number = label_number(model, label)
    read = reader(model, words=words)
    score = _sentence_scores(model, scoring, number, chosen, residual)

    def explain(text: str, pair: str | None = None) -> Explanation:
        reading = read(text, pair)
        n, m = len(reading.ids), len(reading.units)
        padded = min(-(-n // STEP) * STEP, model.config.positions)
        members = np.concatenate([reading.members, np.arange(n, padded)]).astype(np.int32)
        ids, types = reading.padded(padded, model.text.pad_id), reading.padded_types(padded)
        found = score(ids, types, members, (reading.place, reading.readout, n))

        attention = found["attention"][:, :, :m, :m]
        rows = {name: found[name][:, :m].astype(np.float64) for name in ("raw", "rollout")}
        rows["flow"], saturated = flow_rows(attention, reading.readout, residual, layer)
        edges = {name: method for name, method in chosen.items() if not isinstance(method, str)}
        if edges:
            rows |= _edge_rows(model, reading, edges, number, residual, threads)
        layers, scores = {}, {}
        for name, method in chosen.items():
            key = method if isinstance(method, str) else name
            if key in rows:
                layers[name] = rows[key]
                scores[name] = rows[key][layer]
            else:
                scores[name] = found[key][:m].astype(np.float64)
        values = _named(model, found.get("values", np.zeros(0)).astype(np.float64))
        return Explanation(
            text=text,
            tokens=reading.units,
            probabilities=values,
            scores=scores,
            agreement=agreement_of(np.stack(list(scores.values()))),
            layers=layers,
            saturated=saturated,
            attention=attention,
            scoring=scoring,
            readout=reading.readout,
            pair=pair,
            explained=max(values, key=values.__getitem__, default="")
            if number is None
            else list(values)[number],
            layer=layer,
            residual=residual,
            remarks=(_SINKS,) if getattr(model.config, "sinks", False) else (),
        )

    return explain


def _chosen(methods: Sequence[str] | None, head: bool, words: bool) -> dict[str, str | EdgeMethod]:
    """Return each method by its name: what the programs here call it, or an edge weight's.

    Raises `InputError` if there is no such method, or the model or joined words cannot serve it.
    """
    if methods is None:
        return {name: name for name in METHODS if head or name in ON_ATTENTION}
    found = {name: resolve_method(name) for name in method_names(methods)}
    for name, method in found.items():
        if isinstance(method, str):
            needs_output = method not in ON_ATTENTION
        else:
            needs_output = "gradient" in needs_of(method)
            if words:
                raise InputError(
                    f"{name} has no joined words, because it is computed token by token: leave out "
                    "words, or choose raw, rollout, flow, blank-out or a gradient"
                )
        if needs_output and not head:
            raise InputError(
                f"{name} needs an output to explain, which a model without a head has not: choose "
                f"methods on attention such as {', '.join(ON_ATTENTION)}"
            )
    return found


def method_names(methods: Sequence[str]) -> tuple[str, ...]:
    """Return the names, or raise `InputError` if there are none."""
    names = () if isinstance(methods, str) or not hasattr(methods, "__iter__") else tuple(methods)
    if not names:
        raise InputError(f"methods must be a sequence of names such as rollout, got {methods!r}")
    return names


def resolve_method(name: str) -> str | EdgeMethod:
    """Return an edge method, or what the programs here call another one, by its name.

    Raises `InputError` if there is none.
    """
    if not isinstance(name, str):
        raise InputError(f"methods must be names such as rollout, got {name!r}")
    plain = name.replace("_", "-")
    if name in ON_ATTENTION:
        return name
    if plain == "blank-out" or plain in GRADIENTS:
        return plain.replace("-", "_")
    try:
        return edge_method(name)
    except InputError as error:
        if "/" in name:
            raise
        others = (*ON_ATTENTION, "blank-out", *GRADIENTS, "EDGE/AGGREGATOR")
        raise InputError(
            f"method must be one of {', '.join(others)} (jaxflow edges lists the edge weights), "
            f"got {name!r}"
        ) from error


def needs_of(method: EdgeMethod) -> tuple[str, ...]:
    """Return the fields of a trace that an edge method reads."""
    return method.needs if isinstance(method, Propagation) else method[0].needs


def _edge_rows(
    model: Model,
    reading: Reading,
    methods: Mapping[str, EdgeMethod],
    number: int | None,
    residual: float,
    threads: int | None,
) -> dict[str, NDArray[np.float64]]:
    """Return the readout's row of every layer, float64 ``[L, n]``, by each edge method.

    Gradients and relevance are of the logit of output `number`, None the highest.
    """
    n = len(reading.ids)
    padded = min(-(-n // STEP) * STEP, model.config.positions)
    ids = reading.padded(padded, model.text.pad_id)[None]
    types = reading.padded_types(padded)[None] if model.has_segments else None
    mask = np.arange(padded)[None] < n
    run = _traced(model.config, number)
    found = run(model.params, ids, mask, np.array([reading.place]), types)
    found = dataclasses.replace(found, special=special_tokens(model, jnp.asarray(ids)))
    rows = edge_rows(found, methods, reading.place, residual, threads)
    return {name: values[:, :n] for name, values in rows.items()}


@functools.lru_cache(maxsize=16)
def _traced(config: ModelConfig, number: int | None) -> Callable[..., Trace]:
    """Return the program of a trace whose gradients are of the readout's logit `number`."""

    def run(params: Any, tokens: Any, mask: Any, places: Any, types: Any) -> Trace:
        def target(logits: jax.Array) -> jax.Array:
            read = readout_logits(logits, places)
            return read.max(-1) if number is None else read[:, number]

        trace = tracer(config, None if config.head == "none" else target)
        return trace(params, tokens, mask, types)

    return jax.jit(run)


def edge_rows(
    found: Trace,
    methods: Mapping[str, EdgeMethod],
    readout: int,
    residual: float,
    threads: int | None = None,
) -> dict[str, NDArray[np.float64]]:
    """Return the row of a token by edge methods, float64 ``[L, n]`` each, from a trace of one text.

    `methods` are by name, `readout` is the token, the others are as in `jaxflow.edges.aggregate`.
    Raises `InputError` if the trace lacks what a method needs.
    """
    rows: dict[str, NDArray[np.float64]] = {}
    for name, method in methods.items():
        if isinstance(method, Propagation):
            row: Any = propagate(found, method)[0, :, readout]
        else:
            options: dict[str, Any] = {"sources": readout, "threads": threads, "residual": residual}
            edge, how = method
            row = aggregate(found, edge, how, **options)[0, :, 0]
        rows[name] = np.asarray(row, np.float64)
    return rows


def resolve_place(name: str, place: int, count: int, of: str) -> int:
    """Return the index of one of `count` layers or tokens from 0, or raise `InputError`."""
    if isinstance(place, bool) or not isinstance(place, int | np.integer):
        raise InputError(f"{name} must be a whole number, got {place!r}")
    if not -count <= place < count:
        raise InputError(f"{name} must be from {-count} to {count - 1}{of}, got {place}")
    return int(place) % count


def title_of(method: str) -> str:
    """Return how a method is shown."""
    return METHODS.get(method, method)


def _sentence_scores(
    model: Model,
    scoring: Scoring | None,
    label: int | None,
    chosen: Mapping[str, Any],
    residual: float,
) -> Callable[..., dict[str, Any]]:
    """Return the function that scores single sentences, compiled for every new padded length n.

    It maps the numbers of a sentence ``[n]``, their token types ``[n]``, the unit ``[n]`` that each
    token is a member of, and three numbers (the token and the unit that are read out, the number of
    real tokens) to float32 ``values`` ``[C]`` of the readout, ``attention`` ``[L, H, n, n]``,
    ``raw`` and ``rollout`` ``[L, n]`` (rows of the unit read out), and the gradients and
    ``blank_out`` ``[n]`` that are among the `chosen`; of attention alone without `scoring`. A
    `label` of None is the predicted.
    """
    rolled = roll_up(model.config, model.params)
    wanted = tuple(name for name in chosen.values() if isinstance(name, str))
    gradients = tuple(name for name in wanted if name.replace("_", "-") in GRADIENTS)
    parts = _programs(
        model.config,
        model.has_segments,
        scoring,
        label,
        gradients,
        "blank_out" in wanted,
        residual,
        _MEMORY,
    )

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


# Kept, so that a model that is explained again is not compiled again.
@functools.lru_cache(maxsize=16)
def _programs(
    config: ModelConfig,
    segments: bool,
    scoring: Scoring | None,
    label: int | None,
    gradients: tuple[str, ...],
    blank: bool,
    residual: float,
    memory: int,
) -> list[Callable[..., dict[str, jax.Array]]]:
    """Return the programs of `_sentence_scores`."""
    apply: Callable[..., Any] = make_module(config, rolled=True).apply
    answered = "none" if scoring is None else scoring.answer
    outputs = config.vocabulary if answered == "tokens" else 0  # type: ignore[union-attr]

    def given_types(types: jax.Array, rows: jax.Array) -> dict[str, jax.Array]:
        return {"token_types": jnp.broadcast_to(types, rows.shape)} if segments else {}

    def answer(
        params: Any, rows: jax.Array, types: jax.Array, mask: jax.Array, place: jax.Array
    ) -> Any:
        """Return values ``[B, C]`` and the attention of rows ``[B, n]``."""
        embeddings = apply(params, rows, method="embed")
        every = jnp.broadcast_to(mask, rows.shape)
        inputs = {"tokens": rows, **given_types(types, rows)}
        output = apply(params, embeddings, every, method="encode", **inputs)
        attention = among_tokens(output.attention, output.sink)
        if scoring is None:
            return None, attention
        places = jnp.broadcast_to(place, len(rows))
        values = answer_values(readout_logits(output.logits, places), scoring.answer)
        return values, attention

    def forward(params: Any, tokens: Any, types: Any, members: Any, numbers: Any) -> Any:
        n, (place, readout, length) = tokens.size, numbers
        mask = length_mask(length, n)
        join = _join(members, mask)
        found: dict[str, Any] = {}
        if scoring is None or not blank:
            values, attentions = answer(params, tokens[None], types, mask, place)
            found |= {} if values is None else {"values": values[0]}
        else:
            copies = jnp.where(join, scoring.token_id, tokens[None])
            needs = copies.size * (n * config.heads * config.layers + outputs) * 4
            if needs <= memory:
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
                    batch_size=max(1, memory // (needs // n)),
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
        rolled_out = jaxflow.rollout(attention, residual=residual, mask=units, sources=readout)
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
        names = [name.replace("_", "-") for name in gradients]
        found = gradient_scores(names, apply, scoring, *given, types)
        join = _join(members, mask)
        return {
            name: jnp.matmul(join.astype(each[0].dtype), each[0], precision="highest")
            for name, each in zip(gradients, found.values(), strict=True)
        }

    parts = [_jit_with(forward, FORWARD)]
    if gradients:
        parts.append(_jit_with(gradient, BACKWARD))
    return parts


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
    cuts = bottlenecks(
        explanation.attention, tokens, wanted, explanation.residual, explanation.readout
    )
    return dataclasses.replace(explanation, cuts=cuts)


def flow_rows(
    attention: NDArray[np.floating], readout: int, residual: float, layer: int
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return the readout's row of flow for every layer, and where that of `layer` is at its bound.

    The values of `jaxflow.flow` and `jaxflow.saturation`, without compiling their kernel.
    """
    edges, _ = graph_edges(attention, residual, "mean", None)
    rows = flow_rows_scaled(edges, readout)
    return rows, at_bound(edges[: layer + 1], rows[layer])


def agreement_of(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return Spearman's correlation of every two rows of ``[M, n]``, NaN where one is constant.

    The value of `jaxflow.spearman`, in NumPy: compiling that takes longer than the work.
    """
    mine, others = scores[:, :, None], scores[:, None, :]
    # Twice the ranks minus their mean: whole numbers, so constants and ties come out exact.
    ranks = ((others < mine).sum(-1) - (others > mine).sum(-1)).astype(np.float64)
    product = ranks @ ranks.T
    norm = np.sqrt(np.diag(product)[:, None] * np.diag(product)[None])
    return np.where(norm > 0, product / np.where(norm > 0, norm, 1), np.nan).clip(-1, 1)
