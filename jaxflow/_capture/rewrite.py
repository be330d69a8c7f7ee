"""Evaluate a traced program again with arrays from inside it as further results.

What is tapped within a scan comes back stacked; within a branch that was not taken it is zeros;
within a while loop it is a buffer of `capacity` iterations. Weights are replaced where an edit asks
for it. Programs in which nothing is tapped are evaluated as they stand.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import Jaxpr
from jax.sharding import PartitionSpec

from jaxflow._capture import internals
from jaxflow._capture.kernels import reference
from jaxflow._capture.values import At, Path, Tap
from jaxflow.errors import InputError

Taps = dict[int, Any]
#: Replace the operands of an equation before it is applied, knowing where in the loops it is.
Edit = Callable[[list[Any], "State"], list[Any]]


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is taken out of a program and what is put in.

    Attributes
    ----------
    taps
        Number of a result -> the array.
    edits
        Equation -> what replaces its operands.
    capacity
        Iterations kept of a while loop.
    kernels
        Equation -> a function of its operands that is called in its place.
    """

    taps: Mapping[int, Tap] = dataclasses.field(default_factory=dict)
    edits: Mapping[At, Edit] = dataclasses.field(default_factory=dict)
    capacity: int | None = None
    kernels: Mapping[At, Callable[..., Any]] = dataclasses.field(default_factory=dict)

    @cached_property
    def at(self) -> dict[At, list[tuple[int, Tap]]]:
        """Equation -> what is taken out there."""
        found: dict[At, list[tuple[int, Tap]]] = {}
        for number, tap in self.taps.items():
            found.setdefault(tap.at, []).append((number, tap))
        return found

    @cached_property
    def active(self) -> set[Path]:
        """The programs in or below which something is done."""
        return _prefixes([*self.at, *self.edits, *self.kernels])

    @cached_property
    def edited(self) -> set[Path]:
        """The programs in or below which something is replaced."""
        return _prefixes([*self.edits, *self.kernels])


def _prefixes(places: Iterable[At]) -> set[Path]:
    return {at.path[:n] for at in places for n in range(len(at.path) + 1)}


@dataclasses.dataclass(frozen=True)
class State:
    """Where in the loops an evaluation is: the iterations, and the arrays that belong to them."""

    iterations: tuple[Any, ...] = ()
    arrays: Any = None  # equation -> array without the leading axes of the loops so far


def evaluate(
    plan: Plan,
    jaxpr: Jaxpr,
    constants: Sequence[Any],
    inputs: Sequence[Any],
    state: State,
    path: Path = (),
) -> tuple[list[Any], Taps]:
    """Return a program's results, and what is tapped in it and below."""
    known: dict[Any, Any] = dict(zip(jaxpr.constvars, constants, strict=True))
    known.update(zip(jaxpr.invars, inputs, strict=True))
    taps: Taps = {}

    def read(atom: Any) -> Any:
        return atom.val if internals.is_literal(atom) else known[atom]

    last = _last_uses(jaxpr)
    for index, eqn in enumerate(jaxpr.eqns):
        values = [read(atom) for atom in eqn.invars]
        at = At(path, index)
        edit = plan.edits.get(at)
        if edit is not None:
            values = edit(values, state)
        for number, tap in plan.at.get(at, ()):
            if not tap.output:
                taps[number] = values[tap.position]
        kernel = plan.kernels.get(at)
        below = [scope for scope in _scopes(eqn, path, index) if scope in plan.active]
        if kernel is not None:
            results = jax.tree.leaves(kernel(*values))
        elif below:
            results, found = _HIGHER.get(eqn.primitive.name, _called)(
                plan, eqn, values, state, path, index
            )
            taps.update(found)
        else:
            results = internals.bind(eqn, values)
        for number, tap in plan.at.get(at, ()):
            if tap.output:
                taps[number] = results[tap.position]
        known.update(zip(eqn.outvars, results, strict=True))
        for var in last.get(index, ()):
            known.pop(var, None)
    return [read(atom) for atom in jaxpr.outvars], taps


def with_references(
    jaxpr: Jaxpr, constants: list[Any], arrays: list[Any], kernels: Mapping[str, Any], known: bool
) -> tuple[Jaxpr, list[Any]]:
    """Return a program in which fused kernels are replaced by functions, and its constants.

    With `known`, the kernels of JAX are too.

    Raises `InputError` if a function returns other shapes than the kernel.
    """
    found = {}
    for at, eqn in _equations(jaxpr, ()):
        name = internals.kernel_name(eqn)
        function = kernels.get(name) or (reference(name, eqn) if known else None)
        if name and function is not None:
            found[at] = _checked(name, function, eqn)
    if not found:
        return jaxpr, constants
    plan = Plan(kernels=found)

    def run(*values: Any) -> list[Any]:
        return evaluate(plan, jaxpr, constants, values, State())[0]

    again, consts, _ = internals.trace(run, arrays)
    return again, consts


def _checked(name: str, function: Callable[..., Any], eqn: Any) -> Callable[..., Any]:
    def call(*values: Any) -> list[Any]:
        results = jax.tree.leaves(function(*values))
        got = [(one.shape, one.dtype) for one in results]
        expected = [(var.aval.shape, var.aval.dtype) for var in eqn.outvars]
        if got != expected:
            raise InputError(f"kernels[{name!r}] must return arrays like {expected}, got {got}")
        return results

    return call


def _equations(jaxpr: Jaxpr, path: Path) -> Iterator[tuple[At, Any]]:
    for number, eqn in enumerate(jaxpr.eqns):
        yield At(path, number), eqn
        if internals.kernel_name(eqn):  # its own program is one of blocks
            continue
        for scope, program in zip(
            _scopes(eqn, path, number), internals.programs(eqn), strict=False
        ):
            yield from _equations(internals.opened(program)[0], scope)


def _last_uses(jaxpr: Jaxpr) -> dict[int, list[Any]]:
    """Return the variables that are not needed after each equation, so that memory is freed."""
    kept = {id(atom) for atom in jaxpr.outvars}
    last: dict[Any, int] = {}
    for index, eqn in enumerate(jaxpr.eqns):
        for atom in (*eqn.invars, *eqn.outvars):
            if not internals.is_literal(atom) and id(atom) not in kept:
                last[atom] = index
    uses: dict[int, list[Any]] = {}
    for var, index in last.items():
        uses.setdefault(index, []).append(var)
    return uses


def _scopes(eqn: Any, path: Path, index: int) -> list[Path]:
    count = len(eqn.params["branches"]) if eqn.primitive.name == "cond" else 1
    return [(*path, (index, which)) for which in range(count)]


def _inside(
    plan: Plan, program: Any, inputs: Sequence[Any], state: State, scope: Path
) -> tuple[list[Any], Taps]:
    jaxpr, constants = internals.opened(program)
    return evaluate(plan, jaxpr, constants, inputs, state, scope)


def _called(
    plan: Plan, eqn: Any, values: list[Any], state: State, path: Path, index: int
) -> tuple[list[Any], Taps]:
    """Evaluate a program that is called once."""
    scope = (*path, (index, 0))
    name, params = eqn.primitive.name, eqn.params

    def run(*inputs: Any) -> tuple[list[Any], Taps]:
        return _inside(plan, internals.inner_program(eqn), inputs, state, scope)

    if name in ("remat", "remat2", "checkpoint"):
        options = {"prevent_cse": params["prevent_cse"], "policy": params["policy"]}
        return jax.checkpoint(run, **options)(*values)
    if name in ("jit", "pjit") and internals.has_shardings(params):
        return _placed(run, params, values)
    own_rules = ("custom_jvp", "custom_vjp", "custom_vmap", "linear_call")
    if name.startswith(own_rules) and scope not in plan.edited:
        # The results keep the derivative rule that was written for them.
        _, taps = run(*values)
        return internals.bind(eqn, values), taps
    return run(*values)


def _placed(run: Any, params: Any, values: list[Any]) -> tuple[list[Any], Taps]:
    """Keep where a compiled call states that its arguments and results are placed."""

    def constrain(array: Any, sharding: Any) -> Any:
        if type(sharding).__name__ == "UnspecifiedValue":
            return array
        return lax.with_sharding_constraint(array, sharding)

    given = [constrain(*pair) for pair in zip(values, params["in_shardings"], strict=True)]
    results, taps = run(*given)
    placed = [constrain(*pair) for pair in zip(results, params["out_shardings"], strict=True)]
    return placed, taps


def _scan(
    plan: Plan, eqn: Any, values: list[Any], state: State, path: Path, index: int
) -> tuple[list[Any], Taps]:
    params, scope = eqn.params, (*path, (index, 0))
    n, m = params["num_consts"], params["num_carry"]
    constants, carried, sequences = values[:n], values[n : n + m], values[n + m :]
    counting = scope in plan.edited
    # Only arrays of the sites below have this loop's axis first.
    inner, outer = _split(state.arrays, scope)

    def body(carry: Any, rows: Any) -> Any:
        row, mine, number = rows
        now = State((*state.iterations, number) if counting else (), {**outer, **mine})
        results, taps = _inside(plan, params["jaxpr"], [*constants, *carry, *row], now, scope)
        return tuple(results[:m]), (results[m:], taps)

    numbers = jnp.arange(params["length"]) if counting else None
    options = {name: params[name] for name in ("length", "reverse", "unroll")}
    last, (stacked, taps) = lax.scan(body, tuple(carried), (sequences, inner, numbers), **options)
    return [*last, *stacked], taps


def _split(arrays: Any, scope: Path) -> tuple[dict[Any, Any], dict[Any, Any]]:
    known = arrays or {}
    inner = {k: v for k, v in known.items() if k.path[: len(scope)] == scope}
    return inner, {k: v for k, v in known.items() if k not in inner}


def _cond(
    plan: Plan, eqn: Any, values: list[Any], state: State, path: Path, index: int
) -> tuple[list[Any], Taps]:
    which, *operands = values
    scopes = _scopes(eqn, path, index)

    def branch(program: Any, scope: Path) -> Callable[..., Any]:
        return lambda *inputs: _inside(plan, program, inputs, state, scope)

    branches = [branch(*pair) for pair in zip(eqn.params["branches"], scopes, strict=True)]
    shapes = [jax.eval_shape(one, *operands)[1] for one in branches]

    def padded(one: Callable[..., Any], mine: Any) -> Callable[..., Any]:
        def run(*inputs: Any) -> Any:
            results, taps = one(*inputs)
            for other in shapes:
                for number, shape in other.items():
                    if number not in mine:
                        taps[number] = jnp.zeros(shape.shape, shape.dtype)
            return results, taps

        return run

    runs = [padded(*pair) for pair in zip(branches, shapes, strict=True)]
    return lax.switch(which, runs, *operands)


def _while(
    plan: Plan, eqn: Any, values: list[Any], state: State, path: Path, index: int
) -> tuple[list[Any], Taps]:
    params, scope = eqn.params, (*path, (index, 0))
    if scope in plan.edited and state.arrays:
        raise InputError("attention within a while loop has no gradient: use a scan")
    n, m = params["cond_nconsts"], params["body_nconsts"]
    condition, constants, carried = values[:n], values[n : n + m], values[n + m :]

    def body(number: Any, now: Any) -> Any:
        inner = State((*state.iterations, number), state.arrays)
        return _inside(plan, params["body_jaxpr"], [*constants, *now], inner, scope)

    shapes = jax.eval_shape(body, jnp.zeros((), jnp.int32), carried)[1]
    size = plan.capacity or 0
    buffers = {k: jnp.zeros((size, *one.shape), one.dtype) for k, one in shapes.items()}
    judge, fixed = internals.opened(params["cond_jaxpr"])

    def go(carry: Any) -> Any:
        _, now, _ = carry
        return evaluate(Plan(), judge, fixed, [*condition, *now], State())[0][0]

    def step(carry: Any) -> Any:
        number, now, kept = carry
        results, taps = body(number, now)
        kept = {k: one.at[number].set(taps[k], mode="drop") for k, one in kept.items()}
        return number + 1, results, kept

    _, last, taps = lax.while_loop(go, step, (jnp.zeros((), jnp.int32), list(carried), buffers))
    return last, taps


def _shard_map(
    plan: Plan, eqn: Any, values: list[Any], state: State, path: Path, index: int
) -> tuple[list[Any], Taps]:
    params, scope = eqn.params, (*path, (index, 0))
    if scope in plan.edited:
        raise InputError("attention within shard_map cannot be edited: edit it outside")
    specs = {
        number: tap.spec or ()
        for number, tap in plan.taps.items()
        if tap.at.path[: len(scope)] == scope
    }

    def run(*inputs: Any) -> Any:
        results, taps = _inside(plan, params["jaxpr"], inputs, state, scope)
        return results, {k: internals.replicated(one, specs[k]) for k, one in taps.items()}

    mapped = jax.shard_map(
        run,
        in_specs=tuple(params["in_specs"]),
        out_specs=(list(params["out_specs"]), {k: PartitionSpec(*one) for k, one in specs.items()}),
        **internals.shard_map_options(params),
    )
    return mapped(*values)


_HIGHER: dict[str, Callable[..., tuple[list[Any], Taps]]] = {
    "scan": _scan,
    "cond": _cond,
    "while": _while,
    "shard_map": _shard_map,
}
