"""Attention that some framework saved, and the token attention worked out from it, as npz files."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

import jaxflow
from jaxflow.attention import check_attention
from jaxflow.errors import InputError
from jaxflow.eval.io.npz import read_npz
from jaxflow.files import write_together

__all__ = [
    "Attribution",
    "AttributionOptions",
    "Method",
    "SavedAttention",
    "attribute",
    "read_attention",
    "write_attribution",
]

Method = Literal["raw", "rollout", "flow", "head-rollout"]


@dataclasses.dataclass(frozen=True, eq=False)
class SavedAttention:
    """What a file holds.

    Attributes
    ----------
    attention
        ``[..., L, H, n, n]``.
    mask
        bool ``[..., n]``, or None where all tokens are real.
    tokens
        ``[..., n]`` or ``[n]``, text or numbers; None where the file has none.
    """

    attention: NDArray[np.floating]
    mask: NDArray[np.bool_] | None
    tokens: NDArray[Any] | None


@dataclasses.dataclass(frozen=True)
class AttributionOptions:
    """How token attention is worked out; None takes the method's default.

    Attributes
    ----------
    method
        ``raw``, ``rollout``, ``flow`` or ``head-rollout``.
    residual
        Share of the residual connection; raw attention has none.
    heads
        ``mean``, ``max``, ``min`` or the index of one head; head rollout keeps them apart.
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
    """Token attention and where it came from.

    Attributes
    ----------
    token_attention
        ``[..., L', S, n]``, for head rollout ``[..., L', H, S, n]``.
    source
        What it was worked out from.
    options
        How, with every default spelt out.
    """

    token_attention: NDArray[np.floating]
    source: SavedAttention
    options: Mapping[str, Any]


def read_attention(path: Path) -> SavedAttention:
    """Read the arrays ``attention``, ``mask`` and ``tokens`` of an npz file.

    Raises
    ------
    InputError
        If there is no such file, it is damaged or no npz, an array is missing or holds pickled
        objects, or the shapes do not go together.
    """
    arrays = read_npz(path, ("attention", "mask", "tokens"))
    if "attention" not in arrays:
        raise InputError(f"{path} must hold an array named 'attention', and has none")
    attention, mask = arrays["attention"], arrays.get("mask")
    try:
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
    return SavedAttention(attention, mask, tokens)


def attribute(saved: SavedAttention, options: AttributionOptions) -> Attribution:
    """Work out token attention.

    Raises
    ------
    InputError
        If an option or an index is not usable.
    """
    attention, mask = saved.attention, saved.mask
    layers = _indices("layers", options.layers, attention.shape[-4])
    sources = _indices("sources", options.sources, attention.shape[-1])
    residual = 0.5 if options.residual is None else options.residual
    heads = "mean" if options.heads is None else options.heads

    chosen: dict[str, Any] = {"method": options.method, "layers": layers, "sources": sources}
    if options.method == "flow":
        values = jaxflow.flow(
            attention,
            residual=residual,
            heads=heads,
            mask=mask,
            sources=sources,
            layers=layers,
            threads=options.threads,
            patient=options.patient,
        )
        return Attribution(values, saved, chosen | {"residual": residual, "heads": heads})
    if options.method == "head-rollout":
        chosen["residual"] = residual
        result = jaxflow.head_rollout(attention, residual=residual, mask=mask)
        values = np.asarray(result)[..., layers, :, :, :][..., sources, :]
        return Attribution(values, saved, chosen)
    chosen["heads"] = heads
    if options.method == "raw":
        result = jaxflow.raw_attention(attention, heads=heads, mask=mask)
    else:
        chosen["residual"] = residual
        result = jaxflow.rollout(attention, residual=residual, heads=heads, mask=mask)
    values = np.asarray(result)[..., layers, :, :][..., sources, :]
    return Attribution(values, saved, chosen)


def write_attribution(path: Path, attribution: Attribution) -> None:
    """Write an npz file, beside its place and then renamed.

    It holds ``token_attention``, ``mask`` and ``tokens`` where there were any, ``method`` (text)
    and ``options`` (JSON text).

    Raises
    ------
    InputError
        If the file cannot be written.
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


def _indices(name: str, given: tuple[int, ...] | None, size: int) -> list[int]:
    """Return the indices as numbers from 0."""
    if given is None:
        return list(range(size))
    for index in given:
        if not -size <= index < size:
            raise InputError(f"{name} must be indices from {-size} to {size - 1}, got {index}")
    return [index % size for index in given]
