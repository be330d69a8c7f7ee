"""Transformations of functions: return their attention, change it, differentiate by it."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp

from jaxflow._capture import internals
from jaxflow._capture.analysis import Analysis
from jaxflow._capture.result import Captured, Layout, Place, Select, Site, chosen, layout_of
from jaxflow._capture.rewrite import Plan, State, evaluate, with_references
from jaxflow._capture.values import Found, Tap
from jaxflow.errors import InputError

Stage = Literal["used", "softmax"]


@dataclasses.dataclass(frozen=True)
class _Options:
    select: Any = None
    stage: Stage = "used"
    capacity: int | None = None
    data_argnums: tuple[int, ...] | None = None
    kernels: Mapping[str, Callable[..., Any]] = dataclasses.field(default_factory=dict)
    known: bool = True


@dataclasses.dataclass(frozen=True)
class _Program:
    """A traced function and the attention found in it."""

    jaxpr: Any
    constants: list[Any]
    arrays: list[Any]
    tree: Any
    sites: list[tuple[Found, Layout]]
    missed: tuple[Any, ...]

    def taps(self, stage: Stage) -> dict[int, Tap]:
        """Return the arrays to take out, three numbers a site."""
        found = {}
        for number, (site, layout) in enumerate(self.sites):
            early = stage == "softmax" and layout.made is not None and site.made is not None
            found[3 * number] = site.made[0] if early and site.made else site.weights
            found[3 * number + 1] = site.values
            if site.total is not None:
                found[3 * number + 2] = site.total[0]
        return found

    def captured(self, taps: dict[int, Any], stage: Stage) -> Captured:
        """Arrange what was taken out."""
        sites = []
        for number, (site, layout) in enumerate(self.sites):
            early = stage == "softmax" and layout.made is not None
            how = layout.made if early and layout.made else layout.weights
            weights = how.forward(taps[3 * number], site.loops)
            if site.late and layout.total is not None:
                total = layout.total.forward(taps[3 * number + 2], site.loops)
                weights = weights * total if site.inverse else weights / total
            values = layout.values.forward(taps[3 * number + 1], site.loops)
            sites.append(Site(layout.place, weights, values))
        return Captured(tuple(sites), self.missed)


def _is_array(leaf: Any) -> bool:
    return hasattr(leaf, "dtype") and hasattr(leaf, "shape")


def _trace(function: Callable[..., Any], given: tuple[Any, Any], options: _Options) -> _Program:
    leaves, tree = jax.tree.flatten(given)
    at = [i for i, leaf in enumerate(leaves) if _is_array(leaf)]
    arrays = [leaves[i] for i in at]

    def flat(*values: Any) -> Any:
        filled = list(leaves)
        for i, value in zip(at, values, strict=True):
            filled[i] = value
        args, kwargs = jax.tree.unflatten(tree, filled)
        return function(*args, **kwargs)

    jaxpr, constants, shape = internals.trace(flat, arrays)
    jaxpr, constants = with_references(jaxpr, constants, arrays, options.kernels, options.known)
    data = _data(given, options.data_argnums)
    analysis = Analysis(options.capacity)

    # An array that is given twice has the same tokens both times.
    values = {
        (id(array), data[i]): analysis.argument(array, data[i], leaf=True)
        for i, array in zip(at, arrays, strict=True)
    }
    inputs = [values[id(array), data[i]] for i, array in zip(at, arrays, strict=True)]
    everything = not any(data[i] for i in at)  # nothing is known: all of it may be data
    fixed = [analysis.argument(constant, everything) for constant in constants]
    analysis.run(jaxpr, fixed, inputs, ())
    analysis.finish()
    parameters = bool(constants and not everything) or not all(data[i] for i in at)
    sites = [
        (site, layout_of(site, i, analysis.labels, parameters))
        for i, site in enumerate(analysis.found)
    ]
    count = len(sites)
    kept = [pair for pair in sites if chosen(options.select, pair[1].place, count)]
    if sites and not kept:
        known = "; ".join(dict.fromkeys(str(layout.place) for _, layout in sites))
        raise InputError(f"select must match a site, got {options.select!r} for {known}")
    missed = tuple(dict.fromkeys(analysis.missed))
    out_tree = jax.tree.structure(shape)
    return _Program(jaxpr, constants, arrays, out_tree, kept, missed)


def _data(given: tuple[Any, Any], argnums: tuple[int, ...] | None) -> list[bool]:
    """Return for each leaf of the arguments whether it is data, or a parameter.

    Without `argnums`, an argument is parameters if it is a tree of more than one array, all of them
    floating-point but for single numbers and random keys, that is not a list or tuple of arrays. If
    that leaves no data, the last of several such arguments is data, or the only one.
    """
    args, kwargs = given

    def parameters(argument: Any) -> bool:
        kinds = [jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in arrays(argument)]
        several = isinstance(argument, list | tuple) and not hasattr(argument, "_fields")
        plain = several and all(map(_is_array, argument))
        return len(kinds) > 1 and not plain and all(kinds)

    def arrays(argument: Any) -> list[Any]:
        leaves = [leaf for leaf in jax.tree.leaves(argument) if _is_array(leaf)]
        return [
            leaf
            for leaf in leaves
            if leaf.ndim and not jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        ]

    if argnums is None:
        flags = [not parameters(argument) for argument in args]
        named = {name: not parameters(argument) for name, argument in kwargs.items()}
        every = (*args, *kwargs.values())
        known = zip((*flags, *named.values()), every, strict=True)
        if not any(flag and arrays(argument) for flag, argument in known):
            last = [i for i, argument in enumerate(args) if arrays(argument)][-1:]
            flags = [flag or i in last for i, flag in enumerate(flags)]
            named = dict.fromkeys(named, not last)
    else:
        if any(not -len(args) <= number < len(args) for number in argnums):
            raise InputError(
                f"data_argnums must be positions of the {len(args)} arguments, got {argnums}"
            )
        flags = [i in {n % len(args) for n in argnums} for i in range(len(args))]
        named = dict.fromkeys(kwargs, True)
    spread = (
        tuple(jax.tree.map(lambda _, f=flag: f, a) for a, flag in zip(args, flags, strict=True)),
        {k: jax.tree.map(lambda _, f=named[k]: f, a) for k, a in kwargs.items()},
    )
    return [bool(flag) for flag in jax.tree.leaves(spread)]


def _run(
    program: _Program,
    plan: Plan,
    stage: Stage,
    constants: Sequence[Any],
    arrays: Sequence[Any],
    state: State,
) -> tuple[Any, Captured]:
    results, taps = evaluate(plan, program.jaxpr, constants, arrays, state)
    return jax.tree.unflatten(program.tree, results), program.captured(taps, stage)


class _Compiled:
    """Programs that were compiled, by their text: a function is traced anew at every call.

    So parameters that a function refers to are those of the moment, as they are without `capture`.
    """

    def __init__(self, traced: bool = False) -> None:
        self._known: dict[Any, Any] = {}
        self._traced = traced

    def __call__(self, program: _Program, run: Callable[..., Any], *arguments: Any) -> Any:
        flat = jax.tree.leaves((program.constants, program.arrays, arguments))
        if any(isinstance(leaf, jax.core.Tracer) for leaf in flat):
            return run(program.constants, program.arrays, *arguments)
        if self._traced:  # an edit or a score may refer to arrays that have changed
            closed, shape = jax.make_jaxpr(run, return_shape=True)(
                program.constants, program.arrays
            )
            key = internals.identity(closed)
            if key not in self._known:
                self._known[key] = jax.jit(
                    lambda consts, values: jax.core.eval_jaxpr(closed.jaxpr, consts, *values)
                )
            values = jax.tree.leaves((program.constants, program.arrays))
            results = self._known[key](closed.consts, values)
            return jax.tree.unflatten(jax.tree.structure(shape), results)
        text = internals.identity(program.jaxpr)
        places = tuple((site.weights, layout.place) for site, layout in program.sites)
        key = (text, places, program.tree)
        if key not in self._known:
            self._known[key] = jax.jit(run)
        return self._known[key](program.constants, program.arrays, *arguments)


def capture(
    function: Callable[..., Any],
    *,
    select: Select = None,
    stage: Stage = "used",
    capacity: int | None = None,
    data_argnums: int | Sequence[int] | None = None,
    kernels: Mapping[str, Callable[..., Any]] | None = None,
) -> Callable[..., tuple[Any, Captured]]:
    """Transform a function into one that also returns its attention, whatever it is written with.

    The function is traced to a program as `jax.make_jaxpr` does; every product that contracts the
    axes over which one operand was normalised by a softmax is found in it, and the program is
    evaluated with the operands of these products as further results. The result is an ordinary
    function: `jax.jit`, `jax.vmap`, `jax.grad` and `capture` itself apply to it.

    Parameters
    ----------
    function
        Any function of arrays (and trees of them) that JAX can trace. Arguments that are not arrays
        are constants of the trace.
    select
        The sites to return: a kind, a name or a pattern of names, a number, a sequence of these, or
        a function from a `Place` to bool; None returns all.
    stage
        ``used``: the weights that were multiplied with the values, after dropout and gates.
        ``softmax``: as the softmax returned them, where that is another array of the same shape.
    capacity
        Iterations of ``while`` loops whose attention is kept; unused ones are zeros. None reports
        attention within such loops as missed.
    data_argnums
        Positions of the arguments that are data; the others, and what the function refers to, are
        parameters. By default a tree of floating-point arrays that is no list or tuple is
        parameters, and any other argument data. It decides what is attention over tokens and what
        a router or a learned memory.
    kernels
        Name of a fused kernel (as `Captured.missed` states it) -> a function of the kernel's
        operands that computes the same in plain JAX, and is called in its place. JAX's own Pallas
        kernels (flash and splash attention) are known: their weights are what they return for unit
        vectors as values.

    Returns
    -------
    callable
        A function of the same arguments that returns ``(output, attention)``, the attention as
        `Captured`. Called outside of a transformation it is compiled.

    Raises
    ------
    InputError
        When called: if `select` matches no site.

    Notes
    -----
    Attention without a softmax over its keys (linear, sigmoid, top-k by gathering) is not found.
    Fused kernels, callbacks and online softmax loops cannot be looked into; what of it looks like
    attention is in `Captured.missed`.

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> def attend(x):
    ...     return jax.nn.softmax(x @ x.T) @ x
    >>> output, attention = capture(attend)(jnp.eye(3))
    >>> attention[0].kind, attention.stack().shape
    ('self', (1, 1, 3, 3))
    """
    if stage not in ("used", "softmax"):
        raise InputError(f"stage must be 'used' or 'softmax', got {stage!r}")
    options = _Options(select, stage, capacity, _numbers(data_argnums), kernels or {})
    compiled = _Compiled()

    @functools.wraps(function)
    def captured(*args: Any, **kwargs: Any) -> tuple[Any, Captured]:
        program = _trace(function, (args, kwargs), options)
        plan = Plan(program.taps(stage), capacity=capacity)

        def run(constants: Any, arrays: Any) -> Any:
            return _run(program, plan, stage, constants, arrays, State())

        found: tuple[Any, Captured] = compiled(program, run)
        return found

    return captured


def _numbers(numbers: int | Sequence[int] | None) -> tuple[int, ...] | None:
    if numbers is None:
        return None
    return (numbers,) if isinstance(numbers, int) else tuple(numbers)


def intervene(
    function: Callable[..., Any],
    edit: Callable[[Place, jax.Array], Any],
    *,
    select: Select = None,
    data_argnums: int | Sequence[int] | None = None,
    kernels: Mapping[str, Callable[..., Any]] | None = None,
) -> Callable[..., Any]:
    """Transform a function into one whose attention is replaced.

    Parameters
    ----------
    function
        As in `capture`.
    edit
        A pure function of a `Place` and its weights ``[..., H, q, k]`` that returns other weights
        of that shape, or None to leave them. Within a scan it gets the weights of one iteration,
        whose number is in ``place.iterations``.
    select, data_argnums, kernels
        As in `capture`.

    Returns
    -------
    callable
        A function of the same arguments that returns what `function` does with these weights.

    Raises
    ------
    InputError
        When called: if there is no attention, or an edit returns another shape.

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> def attend(x):
    ...     return jax.nn.softmax(x @ x.T) @ x
    >>> uniform = intervene(attend, lambda place, weights: jnp.full_like(weights, 1 / 3))
    >>> bool(jnp.allclose(uniform(jnp.eye(3)), 1 / 3))
    True
    """
    options = _Options(select, "used", 0, _numbers(data_argnums), kernels or {})
    compiled = _Compiled(traced=True)

    @functools.wraps(function)
    def edited(*args: Any, **kwargs: Any) -> Any:
        program = _trace(function, (args, kwargs), options)
        _require(program)

        def change(layout: Layout, weights: Any, state: State) -> Any:
            place = dataclasses.replace(layout.place, iterations=state.iterations)
            new = edit(place, weights)
            return weights if new is None else new

        edits = {site.weights.at: _editor(site, lay, change) for site, lay in program.sites}
        plan = Plan(edits=edits, capacity=0)

        def run(constants: Any, arrays: Any) -> Any:
            results, _ = evaluate(plan, program.jaxpr, constants, arrays, State())
            return jax.tree.unflatten(program.tree, results)

        return compiled(program, run)

    return edited


def _require(program: _Program) -> None:
    if not program.sites:
        missed = "".join(f"; {one.reason} ({one.source})" for one in program.missed[:3])
        raise InputError(f"the function must have attention by softmax, got none{missed}")


def _editor(site: Found, layout: Layout, change: Callable[..., Any]) -> Callable[..., list[Any]]:
    """Return the function that replaces the weights among the operands of a site's product."""
    if site.late and not site.exact:
        raise InputError(
            "attention that is divided by another sum than that of its own exponentials cannot be "
            f"edited or differentiated: {layout.place}"
        )
    at, how = site.weights.position, layout.weights

    def edit(values: list[Any], state: State) -> list[Any]:
        weights = how.forward(values[at], 0)
        scale = weights.sum(-1, keepdims=True) if site.late else None
        if scale is not None:
            weights = weights / scale
        new = jnp.asarray(change(layout, weights, state))
        if new.shape != weights.shape:
            raise InputError(
                f"edited weights must have shape {weights.shape}, got {new.shape} at {layout.place}"
            )
        if scale is not None:
            new = new * scale
        back = how.backward(new.astype(values[at].dtype))
        return [*values[:at], back, *values[at + 1 :]]

    return edit


def attention_gradient(
    function: Callable[..., Any],
    score: Callable[[Any], Any],
    *,
    select: Select = None,
    data_argnums: int | Sequence[int] | None = None,
    kernels: Mapping[str, Callable[..., Any]] | None = None,
) -> Callable[..., tuple[Any, Captured, tuple[Any, ...]]]:
    r"""Transform a function into one that returns gradients with respect to its attention.

    Parameters
    ----------
    function
        As in `capture`.
    score
        A function of the output that returns a scalar, as ``lambda logits: logits[:, 1].sum()``.
    select, data_argnums, kernels
        As in `capture`.

    Returns
    -------
    callable
        A function of the same arguments that returns ``(output, attention, gradients)``: the
        gradients are a tuple with :math:`\partial\,\mathrm{score} / \partial A` in the shape of
        each site's weights.

    Raises
    ------
    InputError
        When called: if there is no attention, or `score` does not return a scalar.
    """
    # The references of known kernels have no derivative.
    options = _Options(select, "used", None, _numbers(data_argnums), kernels or {}, known=False)
    compiled = _Compiled(traced=True)

    @functools.wraps(function)
    def differentiated(*args: Any, **kwargs: Any) -> tuple[Any, Captured, tuple[Any, ...]]:
        program = _trace(function, (args, kwargs), options)
        _require(program)
        keys = [site.weights.at for site, _ in program.sites]

        def editor(key: Any, site: Found, layout: Layout) -> Any:
            return _editor(site, layout, lambda _, weights, state: weights + state.arrays[key])

        edits = {
            key: editor(key, site, layout)
            for key, (site, layout) in zip(keys, program.sites, strict=True)
        }
        plan = Plan(program.taps("used"), edits)

        def run(constants: Any, arrays: Any) -> Any:
            plain = Plan(program.taps("used"))
            shapes = jax.eval_shape(
                lambda c, a: _run(program, plain, "used", c, a, State())[1], constants, arrays
            )
            zeros = {
                key: jnp.zeros(site.weights.shape, site.weights.dtype)
                for key, site in zip(keys, shapes, strict=True)
            }

            def total(added: Any) -> Any:
                output, found = _run(program, plan, "used", constants, arrays, State((), added))
                value = score(output)
                if jnp.shape(value) != ():
                    raise InputError(f"score must return a scalar, got shape {jnp.shape(value)}")
                return value, (output, found)

            gradients, (output, found) = jax.grad(total, has_aux=True)(zeros)
            return output, found, tuple(gradients[key] for key in keys)

        result: tuple[Any, Captured, tuple[Any, ...]] = compiled(program, run)
        return result

    return differentiated
