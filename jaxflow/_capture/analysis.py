"""Find the attention in a traced program, without numbers.

Every array of the program gets a `Value`: its axes, whether it depends on data, and what it is in
terms of a softmax. Attention is a product that sums over exactly the axes over which one of its
operands was normalised by a softmax.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

from jax.extend.core import Jaxpr

from jaxflow._capture import internals
from jaxflow._capture.axes import Axes, Axis, Labels, Part, constant, is_constant, size_of, uids
from jaxflow._capture.lost import faded, follow, forgotten
from jaxflow._capture.rules import BROADCASTING, RULES, elementwise
from jaxflow._capture.sites import product, reduction
from jaxflow._capture.values import At, Base, Found, Missed, Path, Result, Soft, Tap, Value

_REDUCTIONS = {"reduce_sum", "reduce_max", "reduce_min", "reduce_prod", "argmax", "argmin"}
_REDUCTIONS |= {"reduce_and", "reduce_or"}


class Analysis:
    """Interpret a program on `Value` in place of arrays; collect `found` and `missed`.

    Parameters
    ----------
    capacity
        Iterations that are kept of a ``while`` loop; None keeps none.
    """

    def __init__(self, capacity: int | None = None) -> None:
        self.labels = Labels()
        self.found: list[Found] = []
        self.missed: list[Missed] = []
        self.pending: list[Found] = []  # products that wait to be divided
        self.bodies: dict[Path, bool] = {}  # of the loops: whether it runs from the last
        self.capacity = capacity
        self._scopes: list[list[str]] = []
        self._transforms: list[set[str]] = []
        self._places: list[str] = []
        self._mesh: dict[str, int] = {}  # within shard_map
        self._loops_outside = 0  # of it

    def argument(self, array: Any, data: bool, leaf: bool = False) -> Value:
        """Return the value of an argument, a constant, or of an array that nothing is known of."""
        shape = getattr(array, "shape", ())
        axes = tuple((self.labels.part(size, data),) for size in shape)
        mask = str(getattr(array, "dtype", "")) == "bool"
        return Value(axes, data, self._base(), mask, leaf=leaf)

    def _base(self) -> Base:
        return Base(self.labels.uid())

    def run(
        self, jaxpr: Jaxpr, constants: list[Value], inputs: list[Value], path: Path
    ) -> list[Value]:
        """Return the values of a program's results."""
        known: dict[Any, Value] = dict(zip(jaxpr.constvars, constants, strict=True))
        known.update(zip(jaxpr.invars, inputs, strict=True))

        def read(atom: Any) -> Value:
            if not internals.is_literal(atom):
                return known[atom]
            shape = getattr(atom.val, "shape", ())
            return Value(tuple(map(constant, shape)), False, self._base())

        for index, eqn in enumerate(jaxpr.eqns):
            operands = [read(atom) for atom in eqn.invars]
            known.update(
                zip(eqn.outvars, self._equation(eqn, operands, At(path, index)), strict=True)
            )
        return [read(atom) for atom in jaxpr.outvars]

    def finish(self) -> None:
        """Report exponentials that were not divided by their sum; tell sinks from cuts.

        Columns of a softmax that are cut off are a sink, unless they have a product of their own.
        """
        for site in self.found:
            cuts = [one.cut for one in self.found if one.made and one.made == site.made]
            site.part |= any(cut != site.cut for cut in cuts)
            site.sink &= not site.part
        reason = (
            "exponentials are multiplied with values and not divided by their sum where it is seen"
        )
        for site in self.pending:
            if site not in self.found:
                self.missed.append(Missed(f"{reason} (an online softmax)", site.name, site.source))

    def miss(self, eqn: Any, reason: str) -> None:
        """Report what looks like attention and cannot be taken."""
        self.missed.append(Missed(reason, self.name(eqn), self.place(eqn)))

    def place(self, eqn: Any) -> str:
        """Return the file and line of an equation, or of the call that it is in."""
        found = internals.place(eqn)
        return self._places[-1] if found == "?" and self._places else found

    def name(self, eqn: Any) -> str:
        """Return the path of modules and named scopes of an equation."""
        scopes = [*self._scopes, internals.scope(eqn)]
        return "/".join(name for scope in scopes for name in scope)

    def transforms(self, eqn: Any) -> set[str]:
        """Return the transformations that an equation was made by."""
        return set().union(*self._transforms, internals.transforms(eqn))

    @property
    def loops(self) -> int:
        """The loops around what is looked at."""
        return len(self.bodies)

    def order(self, at: At) -> tuple[int, ...]:
        """Return `Place.order` of an equation."""
        found: list[int] = []
        for depth, (number, which) in enumerate(at.path):
            known = self.bodies.get(at.path[: depth + 1])
            found += [number, 0 if known is None else -2 if known else -1, which]
        return (*found, at.number)

    # Equations

    def _equation(self, eqn: Any, operands: list[Value], at: At) -> list[Value]:
        name = eqn.primitive.name
        if name in BROADCASTING:
            operands = [one.fitted(eqn.outvars[0].aval.shape) for one in operands]
        rule: Any = _CONTROL.get(name) or RULES.get(name)
        if name in _REDUCTIONS:
            rule = reduction
        elif rule is None and internals.inner_program(eqn) is not None:
            rule = _call
        found: list[Value] | None = rule(self, eqn, operands, at) if rule else None
        results = self._default(eqn, operands) if found is None else found
        if internals.programs(eqn):
            return results
        if self._mesh:
            devices = self._devices(eqn, operands)
            results = [one.but(devices=devices) for one in results]
        return follow(self, eqn, operands, results)

    def _default(self, eqn: Any, operands: list[Value]) -> list[Value]:
        """Elementwise where shapes fit; otherwise axes that keep their size stay what they are."""
        self._report_opaque(eqn)
        data = any(one.data for one in operands)
        results = []
        for var in eqn.outvars:
            shape = tuple(getattr(var.aval, "shape", ()))
            fits = [one for one in operands if one.shape == shape]
            others = [one for one in operands if one.axes and one not in fits]
            if (fits and not others) or eqn.primitive.name in BROADCASTING:
                results.append(elementwise(self.labels, operands, var.aval))
                continue
            fresh = self.argument(var.aval, data)
            alike = [one for one in operands if len(one.axes) == len(shape)]
            if alike:
                trio = zip(alike[0].axes, fresh.axes, shape, strict=True)
                kept = tuple(
                    one
                    if size_of(one) == size
                    else (self.labels.part(size, self.labels.is_data(one)),)
                    for one, _, size in trio
                )
                fresh = fresh.but(axes=self.labels.distinct(kept))
            results.append(fresh)
        return results

    def _report_opaque(self, eqn: Any) -> None:
        name = eqn.primitive.name
        if name in ("pure_callback", "io_callback", "ffi_call", "custom_call"):
            self.miss(eqn, f"what {name} computes cannot be seen")
        elif kernel := internals.kernel_name(eqn):
            self.miss(
                eqn,
                f"the fused kernel {kernel} does not return its attention: give what it computes "
                f"in plain JAX as kernels={{{kernel!r}: function}}",
            )

    # Programs within the program

    def inside(
        self, eqn: Any, program: Any, inputs: list[Value], at: At, which: int = 0
    ) -> list[Value]:
        """Return the values of the results of a program that an equation calls."""
        jaxpr, constants = internals.opened(program)
        known = [self.argument(one, False) for one in constants]
        self._scopes.append(internals.scope(eqn))
        self._transforms.append(internals.transforms(eqn))
        self._places.append(self.place(eqn))
        results = self.run(jaxpr, known, inputs, (*at.path, (at.number, which)))
        self._scopes.pop()
        self._transforms.pop()
        self._places.pop()
        return results

    def loop(
        self, eqn: Any, at: At, run: Callable[[list[Value]], list[Value]], carried: list[Value]
    ) -> tuple[list[Value], list[Value]]:
        """Repeat a body until what it carries has settled; return it and the other results."""
        carried = [self._joined(eqn, [one]) for one in carried]
        self.bodies[*at.path, (at.number, 0)] = bool(eqn.params.get("reverse"))
        while True:
            marks = len(self.found), len(self.missed), len(self.pending)
            results = run(carried)
            settled = [self._joined(eqn, pair) for pair in zip(carried, results, strict=False)]
            if all(self._alike(*pair) for pair in zip(carried, settled, strict=True)):
                self.bodies.popitem()
                return settled, results[len(carried) :]
            del self.found[marks[0] :], self.missed[marks[1] :], self.pending[marks[2] :]
            carried = settled

    def _alike(self, one: Value, other: Value) -> bool:
        labels = self.labels
        alike = one.data == other.data and one.devices == other.devices
        alike &= (one.lost is None) == (other.lost is None)
        return alike and all(
            is_constant(x) == is_constant(y) and labels.is_data(x) == labels.is_data(y)
            for x, y in zip(one.axes, other.axes, strict=True)
        )

    def _joined(self, eqn: Any, values: Sequence[Value]) -> Value:
        """Return what an array is that may be any of several."""
        axes = tuple(map(self.labels.merge, zip(*(one.axes for one in values), strict=True)))
        data = any(one.data for one in values)
        mask, leaf = (all(getattr(one, name) for one in values) for name in ("mask", "leaf"))
        devices = frozenset[str]().union(*(one.devices for one in values))
        axes = self.labels.distinct(axes)
        joined = Value(axes, data, self._base(), mask, None, leaf, None, devices)
        return forgotten(self, eqn, values, joined)

    def branches(self, eqn: Any, values: Sequence[Value]) -> Value:
        """Return what a result of a branch is."""
        tags: list[Any] = [one.tag for one in values]
        kept = None
        if all(isinstance(tag, Soft) and tag.over == tags[0].over for tag in tags):
            kept = dataclasses.replace(tags[0], made=None)
        elif all(isinstance(tag, Result) for tag in tags):
            kept = tags[0]
        order = sorted(values, key=lambda one: one.tag is None)
        joined = self._joined(eqn, order)
        return joined if kept is None else joined.but(tag=kept, lost=None)

    # Axes that are sharded over devices

    def sharded(
        self, run: Callable[[list[Value]], list[Value]], eqn: Any, operands: list[Value]
    ) -> list[Value]:
        """Return the values of a shard_map's results."""
        params = eqn.params
        outer = self._mesh, self._loops_outside
        self._mesh, self._loops_outside = dict(params["mesh"].shape), self.loops
        pairs = zip(operands, params["in_specs"], strict=True)
        results = run(
            [
                faded(self, eqn, one).but(
                    axes=self._shards(one.axes, spec),
                    tag=None,
                    devices=frozenset(
                        name for names in _entries(spec, len(one.axes)) for name in names
                    ),
                )
                for one, spec in pairs
            ]
        )
        done = []
        for one, spec, var in zip(results, params["out_specs"], eqn.outvars, strict=True):
            kept = one if isinstance(one.tag, Result) else faded(self, eqn, one).but(tag=None)
            value = kept.but(axes=self._whole(one.axes, spec), devices=frozenset())
            fits = value.shape == tuple(var.aval.shape)
            done.append(value if fits else self.argument(var.aval, one.data))
        self._mesh, self._loops_outside = outer
        return done

    def _factor(self, names: Sequence[str]) -> int:
        return math.prod(self._mesh[name] for name in names)

    def _shards(self, axes: Axes, spec: Any) -> Axes:
        """Return the axes of one shard; the first part of an axis is the one that is sharded."""
        labels, done = self.labels, []
        for axis, names in zip(axes, _entries(spec, len(axes)), strict=True):
            factor, first = self._factor(names), axis[0]
            if names and first.uid is not None and first.size % factor == 0:
                label = labels.new(labels.is_data([first]), names)
                labels.join(first, first._replace(label=label))
                axis = (Part(first.size // factor, first.uid, label), *axis[1:])
            elif names:
                label = labels.new(labels.is_data(axis), names)
                axis = (Part(size_of(axis) // factor, labels.uid(), label),)
            done.append(axis)
        return tuple(done)

    def _whole(self, axes: Axes, spec: Any) -> Axes:
        pairs = zip(axes, _entries(spec, len(axes)), strict=True)
        return tuple(self._spread(x, self._factor(names)) if names else x for x, names in pairs)

    def _spread(self, axis: Axis, factor: float, names: tuple[str, ...] = ()) -> Axis:
        """Return an axis of the same tokens, `factor` times as long and sharded over `names`."""
        labels, first = self.labels, axis[0]
        size = round(first.size * factor)
        if first.label is None:
            return (first._replace(size=size), *axis[1:])
        label = labels.new(labels.data[first.label], names)
        labels.join(first, first._replace(label=label))
        return (first._replace(size=size, label=label), *axis[1:])

    def moved(self, eqn: Any, one: Value) -> list[Value] | None:
        """Return what all_gather and all_to_all return: an axis that is whole, and one sharded."""
        params, names = eqn.params, internals.mesh_axes(eqn)
        whole = params.get("all_gather_dimension", params.get("concat_axis"))
        if not params["tiled"] or params["axis_index_groups"] is not None:
            return None
        axes, factor = list(one.axes), self._factor(names)
        first = axes[whole][0]
        if first.label is None or self.labels.mesh[first.label] != names:
            return None
        axes[whole] = self._spread(axes[whole], factor)
        if "split_axis" in params:
            axis = axes[params["split_axis"]]
            if axis[0].size % factor or (
                axis[0].label is not None and self.labels.mesh[axis[0].label]
            ):
                return None
            axes[params["split_axis"]] = self._spread(axis, 1 / factor, names)
        return [one.but(axes=tuple(axes), tag=None)]

    def _devices(self, eqn: Any, operands: Sequence[Value]) -> frozenset[str]:
        """Return the mesh axes along which the results of an equation differ."""
        found = frozenset[str]().union(*(one.devices for one in operands))
        name, names = eqn.primitive.name, frozenset(internals.mesh_axes(eqn))
        if name == "axis_index":
            return found | names
        gathered = name.startswith(("psum", "pmax", "pmin", "all_gather")) and "scatter" not in name
        return found - names if gathered else found

    def placed(
        self, tap: Tap, axes: Axes, devices: frozenset[str] = frozenset()
    ) -> tuple[Tap, Axes] | None:
        """Add to a tap within shard_map how it is sharded, and give its axes their whole size.

        None where the shards are not pieces along its axes, each along one.
        """
        if not self._mesh:
            return tap, axes
        entries: list[Any] = [None] * (self.loops - self._loops_outside)
        done: list[Axis] = []
        for axis in axes:
            names = [() if p.label is None else self.labels.mesh[p.label] for p in axis]
            if any(names[1:]):
                return None
            entries.append(names[0] or None)
            done.append((axis[0]._replace(size=axis[0].size * self._factor(names[0])), *axis[1:]))
        used = [name for entry in entries for name in entry or ()]
        if len(used) != len(set(used)) or not devices <= set(used):
            return None
        return dataclasses.replace(tap, spec=tuple(entries)), tuple(done)


def _entries(spec: Any, ndim: int) -> list[tuple[str, ...]]:
    """Return the mesh axes of every axis of a partition spec."""
    known = [
        () if entry is None else (entry,) if isinstance(entry, str) else tuple(entry)
        for entry in tuple(spec)
    ]
    return known + [()] * (ndim - len(known))


# Rules of equations with programs of their own


def _call(a: Analysis, eqn: Any, operands: list[Value], at: At) -> list[Value]:
    return a.inside(eqn, internals.inner_program(eqn), operands, at)


def _cond(a: Analysis, eqn: Any, operands: list[Value], at: At) -> list[Value]:
    results = [
        a.inside(eqn, branch, operands[1:], at, which)
        for which, branch in enumerate(eqn.params["branches"])
    ]
    return [a.branches(eqn, values) for values in zip(*results, strict=True)]


def _scan(a: Analysis, eqn: Any, operands: list[Value], at: At) -> list[Value]:
    n, m = eqn.params["num_consts"], eqn.params["num_carry"]
    operands = [faded(a, eqn, one) for one in operands]
    constants, carried, sequences = operands[:n], operands[n : n + m], operands[n + m :]
    rows = [
        one.but(axes=one.axes[1:], tag=None if _normalised_along(one) else one.tag)
        for one in sequences
    ]

    def body(now: list[Value]) -> list[Value]:
        return a.inside(eqn, eqn.params["jaxpr"], [*constants, *now, *rows], at)

    settled, stacked = a.loop(eqn, at, body, carried)
    lengths = [one.axes[0] for one in sequences]
    leading = lengths[0] if lengths else (a.labels.part(eqn.params["length"], False),)
    # The rows keep their identities, to which a softmax refers.
    done = [a.labels.distinct((*one.axes, leading)) for one in stacked]
    return [
        *settled,
        *(
            faded(a, eqn, one).but(axes=(axes[-1], *axes[:-1]))
            for one, axes in zip(stacked, done, strict=True)
        ),
    ]


def _normalised_along(one: Value) -> bool:
    return isinstance(one.tag, Soft) and bool(uids(one.axes[0]) & one.tag.over)


def _while(a: Analysis, eqn: Any, operands: list[Value], at: At) -> list[Value]:
    n, m = eqn.params["cond_nconsts"], eqn.params["body_nconsts"]
    constants = [faded(a, eqn, one) for one in operands[n : n + m]]
    before = len(a.found)

    def body(now: list[Value]) -> list[Value]:
        return a.inside(eqn, eqn.params["body_jaxpr"], [*constants, *now], at)

    pending = len(a.pending)
    settled = a.loop(eqn, at, body, operands[n + m :])[0]
    if a.capacity is None:
        reason = "it is within a while loop, whose length is not known: give capacity="
        a.missed += [Missed(reason, site.name, site.source) for site in a.found[before:]]
        a.pending[pending:] = [one for one in a.pending[pending:] if one not in a.found]
        del a.found[before:]
    return settled


def _shard_map(a: Analysis, eqn: Any, operands: list[Value], at: At) -> list[Value]:
    return a.sharded(lambda inner: a.inside(eqn, eqn.params["jaxpr"], inner, at), eqn, operands)


def _moved(a: Analysis, eqn: Any, operands: list[Value], at: At) -> list[Value] | None:
    return a.moved(eqn, operands[0])


_CONTROL: dict[str, Any] = {
    "all_gather": _moved,
    "all_to_all": _moved,
    "cond": _cond,
    "scan": _scan,
    "while": _while,
    "shard_map": _shard_map,
    "dot_general": product,
}
