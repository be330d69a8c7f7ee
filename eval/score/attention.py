"""Compute token attention from npz files of any framework or from a model; name edge methods."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

import jaxflow
from jaxflow.attention import (
    HALVES,
    as_array,
    check_attention,
    length_mask,
    resolve_indices,
    resolve_tokens,
    take_rows,
)
from jaxflow.edges import (
    AGGREGATORS,
    EdgeWeight,
    Propagation,
    edge_weight,
    propagations,
)
from jaxflow.edges._aggregate import Aggregator
from jaxflow.edges.trace import among_tokens
from jaxflow.errors import InputError
from jaxflow.eval.io.npz import read_npz
from jaxflow.eval.score.reading import Reading, reader
from jaxflow.files import write_together
from jaxflow.models import Model, ViTConfig

BATCH = 16  # texts a run of the model
STEP = 16  # texts are padded to a multiple of this, so that little is compiled

Method = Literal["raw", "rollout", "flow", "head-rollout"]


@dataclasses.dataclass(frozen=True, eq=False)
class SavedAttention:
    """Attention as a file holds it.

    Attributes
    ----------
    attention
        ``[..., L, H, n, n]``.
    mask
        bool ``[..., n]``, or None where all tokens are real.
    tokens
        ``[..., n]`` or ``[n]``, text or numbers; None where the file has none.
    half
        The half precision that the file holds, which `jaxflow.widen` has made float32; else None.
    """

    attention: NDArray[np.floating]
    mask: NDArray[np.bool_] | None
    tokens: NDArray[Any] | None
    half: str | None = None


@dataclasses.dataclass(frozen=True)
class AttributionOptions:
    """Options of token attention; None takes the method's default.

    Attributes
    ----------
    method
        ``raw``, ``rollout``, ``flow`` or ``head-rollout``.
    residual
        Share of the residual connection; raw attention has none.
    heads
        ``mean``, ``max``, ``min`` or the index of one head; head rollout does not fuse them.
    layers, sources
        0-based indices of the layers and of the tokens explained that are kept.
    threads, patient
        For flow: see `jaxflow.flow`.
    """

    method: Method = "rollout"
    residual: float | None = None
    heads: str | int | None = None
    layers: tuple[int, ...] | None = None
    sources: tuple[int, ...] | None = None
    threads: int | None = None
    patient: bool = False

    def __post_init__(self) -> None:
        if self.patient and self.method != "flow":
            raise InputError(f"patient has no meaning for the method {self.method}: leave it out")
        idle = {"raw": ("residual", "threads"), "rollout": ("threads",), "flow": ()}
        for name in idle.get(self.method, ("heads", "threads")):
            if getattr(self, name) is not None:
                raise InputError(
                    f"{name} has no meaning for the method {self.method}: leave it out"
                )


@dataclasses.dataclass(frozen=True, eq=False)
class Attribution:
    """Token attention and its source.

    Attributes
    ----------
    token_attention
        ``[..., L', S, n]``, for head rollout ``[..., L', H, S, n]``.
    source
        What it was computed from.
    options
        How, with every default spelt out.
    """

    token_attention: NDArray[np.floating]
    source: SavedAttention
    options: Mapping[str, Any]


def read_attention(path: Path) -> SavedAttention:
    """Read the arrays ``attention``, ``mask`` and ``tokens`` of an npz file.

    Half precision is made float32 by `jaxflow.widen`, its rows divided by their sums. Raises
    `InputError` if there is no such file, it is damaged or no npz, an array is missing or holds
    pickled objects, or the shapes do not go together.
    """
    arrays = read_npz(path, ("attention", "mask", "tokens"))
    if "attention" not in arrays:
        raise InputError(f"{path} must hold an array named 'attention', and has none")
    attention, mask = as_array("attention", arrays["attention"]), arrays.get("mask")
    half = str(attention.dtype) if str(attention.dtype) in HALVES else None
    try:
        attention = attention if half is None else jaxflow.widen(attention, mask)
        check_attention(attention, mask)
    except InputError as error:
        raise InputError(f"{path} cannot be used: {error}") from error
    tokens = arrays.get("tokens")
    if tokens is not None:
        fitting = ((*attention.shape[:-4], attention.shape[-1]), attention.shape[-1:])
        if tokens.shape not in fitting:
            raise InputError(
                f"{path} cannot be used: tokens must have the shape {fitting[0]} to go with "
                f"attention {attention.shape}, got {tokens.shape}"
            )
    return SavedAttention(np.asarray(attention), mask, tokens, half)


def attribute(saved: SavedAttention, options: AttributionOptions) -> Attribution:
    """Compute token attention.

    Raises
    ------
    InputError
        If an option or an index is not usable.
    """
    attention, mask = saved.attention, saved.mask
    n = attention.shape[-1]
    layers = list(resolve_indices("layers", options.layers, attention.shape[-4]))
    # With a mask, negative ones are places from the end of each text.
    sources = list(resolve_indices("sources", options.sources, n, signed=mask is not None))
    residual = 0.5 if options.residual is None else options.residual
    heads = "mean" if options.heads is None else options.heads

    chosen: dict[str, Any] = {"method": options.method, "layers": layers, "sources": sources}
    if options.method != "raw":
        chosen["residual"] = residual
    if options.method != "head-rollout":
        chosen["heads"] = heads
    given: dict[str, Any] = {name: chosen[name] for name in ("residual", "heads") if name in chosen}
    if options.method == "flow":
        given |= {"sources": sources, "layers": layers}
        given |= {"threads": options.threads, "patient": options.patient}
        return Attribution(jaxflow.flow(attention, mask=mask, **given), saved, chosen)
    if options.method == "raw":
        raw = jaxflow.raw_attention(attention, mask=mask, **given)
        values = np.take(take_rows(raw, resolve_tokens("sources", sources, n, mask)), layers, -3)
        return Attribution(np.asarray(values), saved, chosen)
    function: Any = jaxflow.rollout if options.method == "rollout" else jaxflow.head_rollout
    needed = attention[..., : max(layers) + 1, :, :, :]
    if options.sources is not None:
        given["sources"] = sources
    rows = function(needed, mask=mask, **given)
    axis = -3 if options.method == "rollout" else -4
    return Attribution(np.take(rows, layers, axis), saved, chosen)


def write_attribution(path: Path, attribution: Attribution) -> None:
    """Write ``token_attention``, ``mask``, ``tokens`` if there were any, and the options, as npz.

    How is ``method`` (text) and ``options`` (JSON text). Raises `InputError` if the file cannot be
    written.
    """
    options = {name: value for name, value in attribution.options.items() if name != "method"}
    arrays = {
        "token_attention": attribution.token_attention,
        "method": np.array(attribution.options["method"]),
        "options": np.array(json.dumps(options)),
    }
    for name in ("mask", "tokens"):
        if (values := getattr(attribution.source, name)) is not None:
            arrays[name] = values

    def write(part: Path) -> None:
        with open(part, "wb") as file:
            np.savez_compressed(file, allow_pickle=False, **arrays)

    write_together(path.parent, {path.name: write})


def attention_of(
    model: Model,
    texts: Sequence[str],
    pairs: Sequence[str] | None = None,
    *,
    words: bool = False,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> SavedAttention:
    """Run a model on texts and return its attention in the form of a file.

    Attention is float32 ``[S, L, H, n, n]`` with n the longest text's tokens, with the mask of real
    tokens and the tokens as text; of a model with attention sinks it is that among tokens. `pairs`
    are the second texts, one for each. Pieces of one word are joined where `words` is set, as
    `join` does; `report` is called with how many texts are done, and of how many. Raises
    `InputError` if a text is empty, too long for the model or no valid Unicode, the pairs are not
    as many, or the model is of images.
    """
    if isinstance(model.config, ViTConfig):
        raise InputError("the model must be one of text, got one of images")
    if not texts:
        raise InputError("texts must hold at least one, got none")
    if pairs is not None and len(pairs) != len(texts):
        raise InputError(f"pairs must be one for each text, {len(texts)} in all, got {len(pairs)}")
    read = reader(model, words=words, answer=False)
    seconds = [None] * len(texts) if pairs is None else pairs
    readings = [read(*both) for both in zip(texts, seconds, strict=True)]
    n = max(len(reading.units) for reading in readings)
    config = model.config
    attention = np.zeros((len(texts), config.layers, config.heads, n, n), np.float32)
    order = np.argsort([len(reading.ids) for reading in readings], kind="stable")
    for begin in range(0, len(order), BATCH):
        rows = order[begin : begin + BATCH]
        for row, found in zip(rows, _run(model, [readings[row] for row in rows]), strict=True):
            m = len(found[0, 0])
            attention[row, :, :, :m, :m] = found
        report(begin + len(rows), len(order))
    mask = length_mask([len(reading.units) for reading in readings], n)
    tokens = np.array(
        [
            [*(unit.text for unit in reading.units), *[""] * (n - len(reading.units))]
            for reading in readings
        ]
    )
    return SavedAttention(attention, mask, tokens)


def _run(model: Model, readings: Sequence[Reading]) -> list[NDArray[np.float32]]:
    longest = max(len(reading.ids) for reading in readings)
    n = min(-(-longest // STEP) * STEP, model.config.positions)
    # The last batch is filled up with its first text, so that it is compiled with the others.
    rows = [*readings, *[readings[0]] * (BATCH - len(readings))]
    ids = np.stack([reading.padded(n, model.text.pad_id) for reading in rows])
    mask = length_mask([len(reading.ids) for reading in rows], n)
    types = np.stack([reading.padded_types(n) for reading in rows])
    inputs = {"token_types": types} if model.has_segments else {}
    output = model(ids, mask, **inputs)
    attention = np.asarray(among_tokens(output.attention, output.sink))
    return [
        join(attention[place, :, :, : len(reading.ids), : len(reading.ids)], reading.members)
        for place, reading in enumerate(readings)
    ]


def join(attention: NDArray[np.float32], members: Sequence[int]) -> NDArray[np.float32]:
    """Join tokens to units: attention to a unit is the sum, from it the mean over its tokens.

    From ``[..., n, n]`` and the unit of each token, in order, to ``[..., m, m]``; rows that summed
    to 1 still do (Clark et al., What Does BERT Look At?, BlackboxNLP 2019, section 4.1).
    """
    begins = np.flatnonzero(np.diff(members, prepend=-1))
    if len(begins) == attention.shape[-1]:
        return attention
    sizes = np.diff(begins, append=len(members)).astype(np.float32)
    summed = np.add.reduceat(attention, begins, axis=-1)
    return (np.add.reduceat(summed, begins, axis=-2) / sizes[:, None]).astype(np.float32)


EdgeMethod = tuple[EdgeWeight, Aggregator] | Propagation
"""An edge weight with its aggregator, or a method that needs none."""

#: Methods that score a sentence by default; those on gradients where the model has an output.
USUAL = ("raw/rollout", "raw/flow", "norm/rollout", "alti/rollout", "gradient/product")


def edge_method(name: str) -> EdgeMethod:
    """Read ``EDGE/AGGREGATOR`` or a propagation; an edge weight alone is followed by rollout.

    Raises `InputError` if there is no such edge weight, propagation or aggregator.
    """
    edge, slash, how = name.partition("/")
    if edge in propagations():
        if slash:
            raise InputError(f"{edge} combines the layers itself: leave out /{how}")
        return propagations()[edge]
    for known in AGGREGATORS:
        if known == (how if slash else "rollout"):
            return edge_weight(edge), known
    raise InputError(f"aggregator must be one of {', '.join(AGGREGATORS)}, got {how!r}")


def method_name(method: EdgeMethod) -> str:
    """Return ``EDGE/AGGREGATOR``, or the name of a propagation."""
    return method.name if isinstance(method, Propagation) else f"{method[0].name}/{method[1]}"


def usual_methods(model: Model) -> tuple[str, ...]:
    """Return `USUAL`, without a head those that need no gradient."""
    headless = model.config.head == "none"
    return tuple(name for name in USUAL if not (headless and name.startswith("gradient")))
