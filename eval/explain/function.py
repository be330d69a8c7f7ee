"""Explain the output of any JAX function by the attention that is captured from it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

import jaxflow
from jaxflow._capture.result import Captured, Select
from jaxflow.attention import check_attention, check_residual
from jaxflow.edges import Trace
from jaxflow.errors import InputError
from jaxflow.eval.explanation import (
    ON_ATTENTION,
    Explanation,
    agreement_of,
    edge_rows,
    flow_rows,
    method_names,
    needs_of,
    resolve_method,
    resolve_place,
)
from jaxflow.eval.score.attention import EdgeMethod
from jaxflow.eval.score.reading import Token


@dataclasses.dataclass(frozen=True)
class _Run:
    """One call of the function: arrays ``[B, L, ...]`` of its layers, from the lowest."""

    captured: Captured
    attention: NDArray[np.float32]  # [B, L, H, n, n]
    gradient: NDArray[np.float32] | None
    vectors: NDArray[np.float32] | None  # [B, L, H, n, d]
    values: NDArray[np.float64] | None  # [B], of the target
    batched: bool
    where: str  # name and place of the first layer


def explain_function(
    function: Callable[..., Any],
    inputs: Sequence[Any],
    *,
    tokens: Any,
    mask: Any,
    readout: int | None,
    target: Callable[[Any], Any] | None,
    methods: Sequence[str] | None,
    layer: int,
    residual: float,
    select: Select,
    renormalise: bool,
    data_argnums: int | Sequence[int] | None,
    threads: int | None,
) -> Explanation | tuple[Explanation, ...]:
    """Explain a function's output; the arguments are those of `jaxflow.explain`.

    Returns one explanation, or one for each example of a batch.
    """
    if methods is None:
        methods = ("gradient/product",) * (target is not None) + ("rollout", "flow")
    chosen = {name: _method(name) for name in method_names(methods)}
    residual = float(check_residual(residual))
    how = {"select": select, "data_argnums": data_argnums}
    run = _run(function, inputs, target, chosen, how, renormalise)
    layer = resolve_place("layer", layer, run.attention.shape[1], " for this model")
    count, n = len(run.attention), run.attention.shape[-1]
    masks = _masks(mask, count, n, run)
    names = _token_names(tokens, count, n, run)
    found = []
    for place, real in enumerate(masks):
        (kept,) = np.nonzero(real)
        attention = run.attention[place][:, :, kept[:, None], kept]
        try:
            check_attention(attention, None)
        except InputError as error:
            said = str(error).replace(
                "jaxflow.widen divides rows by their sum",
                "renormalise=True divides rows by their sums",
            )
            raise InputError(f"the attention of {run.where} cannot be explained: {said}") from None
        at = _readout(readout, attention, run)
        rows = {
            "raw": np.asarray(jaxflow.raw_attention(attention))[:, at],
            "rollout": np.asarray(jaxflow.rollout(attention, residual=residual, sources=at))[:, 0],
        }
        rows["flow"], saturated = flow_rows(attention, at, residual, layer)
        edges = {name: method for name, method in chosen.items() if not isinstance(method, str)}
        if edges:
            trace = Trace(
                attention=attention[None],
                gradient=_kept(run.gradient, place, kept, 2),
                vectors=_kept(run.vectors, place, kept, 1),
            )
            rows |= edge_rows(trace, edges, at, residual, threads)
        layers = {name: np.asarray(rows[name], np.float64) for name in chosen}
        scores = {name: values[layer] for name, values in layers.items()}
        found.append(
            Explanation(
                text="",
                tokens=tuple(Token(names[place][index]) for index in kept),
                probabilities={},
                scores=scores,
                agreement=agreement_of(np.stack(list(scores.values()))),
                layers=layers,
                saturated=saturated,
                attention=attention,
                scoring=None,
                readout=at,
                layer=layer,
                residual=residual,
                function=getattr(function, "__name__", type(function).__name__),
                value=None if run.values is None else float(run.values[place]),
                remarks=_remarks(run.captured),
            )
        )
    return tuple(found) if run.batched else found[0]


def _method(name: str) -> str | EdgeMethod:
    """Return an edge method, or the name of one on attention; refuse all others."""
    method = resolve_method(name)
    if isinstance(method, str):
        if method not in ON_ATTENTION:
            raise InputError(
                f"{name} needs the embeddings and the vocabulary of a model, which a function has "
                "not: choose raw, rollout, flow or an edge weight such as gradient/product"
            )
        return method
    if missing := set(needs_of(method)) - {"gradient", "vectors"}:
        raise InputError(
            f"{name} needs {' and '.join(sorted(missing))} of a model's blocks, which are not "
            "captured from a function: choose one that needs attention, its gradient or values"
        )
    return method


def _needs(methods: Mapping[str, str | EdgeMethod], field: str) -> list[str]:
    return [
        name
        for name, method in methods.items()
        if not isinstance(method, str) and field in needs_of(method)
    ]


def _run(
    function: Callable[..., Any],
    inputs: Sequence[Any],
    target: Callable[[Any], Any] | None,
    methods: Mapping[str, str | EdgeMethod],
    how: Mapping[str, Any],
    renormalise: bool,
) -> _Run:
    """Call the function once, with gradients where a method needs them, and stack its layers."""
    differentiated = _needs(methods, "gradient")
    if differentiated and target is None:
        raise InputError(
            f"{differentiated[0]} needs target, a function from the output to the number explained "
            "such as lambda output: output[0, 3]"
        )
    gradients: Any = None
    if differentiated:
        assert target is not None

        def total(output: Any) -> Any:
            value = _value(target, output)
            if not jnp.issubdtype(value.dtype, jnp.floating):
                raise InputError(
                    f"target must return a floating-point number such as a logit, got {value.dtype}"
                )
            return jnp.sum(value)

        output, captured, gradients = jaxflow.attention_gradient(function, total, **how)(*inputs)
    else:
        output, captured = jaxflow.capture(function, **how)(*inputs)
    stacked = captured.stack(renormalise=renormalise)
    if isinstance(stacked, jax.core.Tracer):
        raise InputError(
            "an explanation has numbers, so explain cannot be called within jit, vmap or grad: "
            "call it outside, or use jaxflow.capture there"
        )
    attention = np.asarray(stacked, np.float32)
    if renormalise:  # again, since the sums of half precision were rounded too
        sums = attention.sum(-1, keepdims=True)
        attention = np.asarray(attention / np.where(sums > 0, sums, 1), np.float32)
    first = next(site for site in captured if site not in captured.left_out)
    where = str(first.place)
    if attention.ndim > 5:
        raise InputError(
            f"a function to explain must have one batch axis at most, got attention of shape "
            f"{attention.shape} from {where}: give one example, or use jax.vmap's inner function"
        )
    batched = attention.ndim == 5 and len(attention) > 1

    def lead(values: Any) -> NDArray[np.float32]:
        values = np.asarray(values, np.float32)
        return values[None] if attention.ndim == 4 else values

    gradient = vectors = None
    if gradients is not None:
        gradient = lead(captured.layers(gradients))
    if _needs(methods, "vectors"):
        repeated = [jnp.repeat(site.values, site.place.groups, axis=-3) for site in captured]
        vectors = lead(captured.layers(repeated))
    values = None
    if target is not None:
        values = np.asarray(_value(target, output), np.float64).reshape(-1)
        count = len(lead(attention))
        if values.size != count:
            expected = "one number" if count == 1 else f"one number for each of {count} examples"
            raise InputError(
                f"target must return {expected}, got {values.size}; a batch has its examples along "
                "the first axis of the output, as in lambda output: output[:, 0, 3]"
            )
        if not np.isfinite(values).all():
            raise InputError(f"target must return finite numbers, got {values.tolist()[:8]}")
    return _Run(captured, lead(attention), gradient, vectors, values, batched, where)


def _value(target: Callable[[Any], Any], output: Any) -> Any:
    found = target(output)
    if found is None or isinstance(found, (str, dict)):
        raise InputError(f"target must return a number, got {type(found).__name__}")
    value = jnp.asarray(found)
    if value.ndim > 1:
        raise InputError(
            f"target must return one number, or one for each example, got shape {value.shape}"
        )
    return value


def _kept(
    values: NDArray[np.float32] | None, place: int, kept: NDArray[np.intp], axes: int
) -> NDArray[np.float32] | None:
    """Return one example's real tokens, ``[1, L, H, n, ...]``, in one or two `axes`."""
    if values is None:
        return None
    if axes == 2:
        return values[place][None, :, :, kept[:, None], kept]
    return values[place][None, :, :, kept]


def _masks(mask: Any, count: int, n: int, run: _Run) -> NDArray[np.bool_]:
    if mask is None:
        return np.ones((count, n), bool)
    try:
        found = np.asarray(mask)
    except ValueError:
        raise InputError(f"mask must be boolean [{n}] or [{count}, {n}], got ragged rows") from None
    if found.dtype != bool or found.shape not in ((n,), (count, n)) or not found.any(-1).all():
        raise InputError(
            f"mask must be boolean [{n}] or [{count}, {n}], True at one real token at least, for "
            f"{run.where}, got {found.dtype} {found.shape}"
        )
    return np.broadcast_to(found, (count, n))


def _token_names(tokens: Any, count: int, n: int, run: _Run) -> list[list[str]]:
    """Return the tokens' names, by example; their numbers where none are given."""
    if tokens is None:
        return [[str(place) for place in range(n)]] * count
    if not hasattr(tokens, "__len__"):
        raise InputError(f"tokens must be a list of texts, got {type(tokens).__name__}")
    several = not isinstance(tokens, str) and any(
        isinstance(each, (list, tuple)) or getattr(each, "ndim", 0) for each in tokens
    )
    given = list(tokens) if several else [tokens] * count
    sizes = [
        len(each) if hasattr(each, "__len__") and not isinstance(each, str) else type(each).__name__
        for each in given
    ]
    if len(given) != count or any(size != n for size in sizes):
        raise InputError(
            f"tokens must be one for each of the {n} keys of {run.where}"
            + (f", for each of {count} examples" if count > 1 else "")
            + f", got {', '.join(map(str, sizes[:8]))}"
        )
    return [[str(token) for token in each] for each in given]


def _readout(readout: int | None, attention: NDArray[np.float32], run: _Run) -> int:
    """Return the token explained: by default the last one of a decoder, else the first."""
    n = attention.shape[-1]
    if readout is None:
        return n - 1 if n > 1 and not np.triu(attention, 1).any() else 0
    return resolve_place("readout", readout, n, f", a real token of {run.where}")


def _remarks(captured: Captured) -> tuple[str, ...]:
    left = [f"Left out, {site.kind} attention: {site.place}" for site in captured.left_out]
    layers = [site for site in captured if site not in captured.left_out]
    unclear = next((site for site in layers if not site.place.heads_known), None)
    if unclear is not None:
        left.append(
            f"Which axis is heads is not known, the last batch axis is taken: {unclear.place}; "
            "data_argnums= says which arguments are data"
        )
    return (*left, *(f"Not captured: {one.reason} ({one.source})" for one in captured.missed))
