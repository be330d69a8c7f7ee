"""Rules of single operations: how axes move, and what makes a softmax.

A rule takes the analysis, an equation, the values of its operands and its place, and returns the
values of its results, or None where it does not apply.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from jaxflow._capture import internals
from jaxflow._capture.axes import Axes, Axis, Labels, constant, is_constant, size_of, uids, whole
from jaxflow._capture.values import (
    At,
    Base,
    Exp,
    LogSoft,
    Product,
    Result,
    Soft,
    Spread,
    Tap,
    Total,
    Value,
)

Rule = Callable[[Any, Any, list[Value], At], "list[Value] | None"]

#: Elementwise operations of two operands, which may have size 1 where the result is larger.
BROADCASTING = {"add", "add_any", "sub", "mul", "div", "max", "min", "pow", "rem", "atan2"}
BROADCASTING |= {"and", "or", "xor", "eq", "ne", "lt", "le", "gt", "ge", "nextafter"}


def elementwise(labels: Labels, operands: Sequence[Value], aval: Any) -> Value:
    """Return the value of an elementwise operation that makes no softmax."""
    ndim = len(aval.shape)
    full = [one for one in operands if len(one.axes) == ndim]
    full.sort(key=lambda one: one.tag is None)  # identities are those that a softmax refers to
    axes = tuple(labels.merge([one.axes[i] for one in full]) for i in range(ndim))
    data = any(one.data for one in operands)
    mask = str(aval.dtype) == "bool" or (
        any(one.mask for one in operands) and all(one.mask or not one.data for one in operands)
    )
    result = next((one.tag for one in operands if isinstance(one.tag, Result)), None)
    leaf = all(one.leaf or not one.data for one in operands)
    return Value(labels.distinct(axes), data, Base(labels.uid()), mask, result, leaf)


def _new(a: Any, eqn: Any, operands: Sequence[Value]) -> Value:
    return elementwise(a.labels, operands, eqn.outvars[0].aval)


def same(a: Any, eqn: Any, operands: list[Value], at: At) -> list[Value] | None:
    """Return the operands, which are the results."""
    return operands[: len(eqn.outvars)] if len(operands) >= len(eqn.outvars) else None


def bounded(a: Any, eqn: Any, operands: list[Value], at: At) -> list[Value]:
    """Bound an array by parameters, or take absolute values: it stays what it is."""
    value = _new(a, eqn, operands)
    tagged = [one for one in operands if one.tag is not None]
    if len(tagged) == 1 and all(one is tagged[0] or not one.data for one in operands):
        return [value.but(tag=tagged[0].tag)]
    return [value]


# The steps of a softmax


def exponential(a: Any, eqn: Any, operands: list[Value], at: At) -> list[Value]:
    """Take the exponential of logits, or of the logarithm of a softmax."""
    value, tag = _new(a, eqn, operands), operands[0].tag
    if isinstance(tag, LogSoft):
        made = (Tap(at, 0, output=True), value.axes)
        return [value.but(tag=Soft(value.base, tag.over, tag.sink, made, part=tag.part))]
    return [value.but(tag=Exp(operands[0].base))]


def logarithm(a: Any, eqn: Any, operands: list[Value], at: At) -> list[Value]:
    """Take the logarithm of a total."""
    value, tag = _new(a, eqn, operands), operands[0].tag
    if isinstance(tag, Total) and not tag.inverse and not tag.log:
        return [value.but(tag=dataclasses.replace(tag, log=True))]
    return [value]


def power(a: Any, eqn: Any, operands: list[Value], at: At) -> list[Value]:
    """Take a power: one over a total, or exponentials of other logits."""
    value = _new(a, eqn, operands)
    exponent = eqn.params.get("y", 2)
    if isinstance(operands[0].tag, Exp) and exponent > 0:
        return [value.but(tag=Exp(value.base))]
    return [_inverse(value, operands[0]) if exponent == -1 else value]


def _inverse(value: Value, one: Value) -> Value:
    if isinstance(one.tag, Total) and not one.tag.inverse and not one.tag.log:
        return value.but(tag=dataclasses.replace(one.tag, inverse=True))
    return value


def add(a: Any, eqn: Any, operands: list[Value], at: At) -> list[Value]:
    """Add: shifts of logits, terms in a denominator, softmaxes of one layout."""
    one, other = operands
    value = _new(a, eqn, operands)
    for main, term, atom in ((one, other, eqn.invars[1]), (other, one, eqn.invars[0])):
        kept = _kept_by_sum(main, term, atom) or _shift(main, term)
        if kept is not None:
            return [value.but(**kept)]
    return [value]


def subtract(a: Any, eqn: Any, operands: list[Value], at: At) -> list[Value]:
    """Subtract: as adding, and the logarithm of their total from logits."""
    one, other = operands
    value = _new(a, eqn, operands)
    tag = other.tag
    if isinstance(tag, Total) and tag.log and (mine := tag.of(one.base)):
        return [value.but(tag=LogSoft(mine.over, tag.sink, bool(tag.others)))]
    kept = _kept_by_sum(one, other, eqn.invars[1]) or _shift(one, other)
    return [value if kept is None else value.but(**kept)]


def _kept_by_sum(main: Value, term: Value, atom: Any) -> dict[str, Any] | None:
    tag = main.tag
    if isinstance(tag, Total) and isinstance(term.tag, Total):
        one_softmax = not (tag.inverse or tag.log or term.tag.inverse or term.tag.log)
        others = (*tag.others, term.tag, *term.tag.others)
        return {"tag": dataclasses.replace(tag, others=others)} if one_softmax else None
    if isinstance(tag, Total) and not tag.inverse:
        # One more term in the denominator takes a share of its own, unless it is rounding.
        tiny = internals.is_literal(atom) and np.ndim(atom.val) == 0 and abs(atom.val) < 1e-4
        return {"tag": dataclasses.replace(tag, sink=tag.sink or not (tag.log or tiny))}
    if isinstance(tag, Soft):
        if isinstance(term.tag, Soft):
            keys = [
                [bool(uids(x) & t.over) for x in v.axes] for v, t in ((main, tag), (term, term.tag))
            ]
            if keys[0] == keys[1]:
                return {"tag": dataclasses.replace(tag, made=None)}
        if not term.data:
            return {"tag": tag}
    return None


def _shift(main: Value, term: Value) -> dict[str, Any] | None:
    """Logits that differ by a term that is constant along some of their axes."""
    if not term.axes:
        return {"base": main.base}
    pairs = list(zip(main.axes, term.axes, strict=False))
    if not any(is_constant(y) and not is_constant(x) for x, y in pairs):
        return None
    moved = frozenset().union(*(uids(x) for x, y in pairs if not is_constant(y)))
    return {"base": Base(main.base.root, main.base.varying | moved)}


def divide(a: Any, eqn: Any, operands: list[Value], at: At) -> list[Value]:
    """Divide: exponentials by their total."""
    one, other = operands
    value = _new(a, eqn, operands)
    if isinstance(other.tag, Total) and not other.tag.inverse and not other.tag.log:
        done = _normalised(a, value, one, other, 1, at)
        return [done or (value if one.data else _inverse(value, other))]
    return [_scaled(value, one, other)]


def multiply(a: Any, eqn: Any, operands: list[Value], at: At) -> list[Value]:
    """Multiply: by one over a total, by a gate or a mask, by values."""
    value = _new(a, eqn, operands)
    pairs = ((operands[0], operands[1], 1), (operands[1], operands[0], 0))
    for main, term, place in pairs:
        if isinstance(term.tag, Total) and term.tag.inverse:
            done = _normalised(a, value, main, term, place, at)
            if done is not None:
                return [done]
    for main, term, place in pairs:
        spread = _spread(main, term, place, at)
        if spread is not None:
            return [value.but(tag=spread)]
        scaled = _scaled(value, main, term)
        if scaled.tag is not None:
            return [scaled]
    return [value]


def _normalised(a: Any, value: Value, one: Value, total: Value, place: int, at: At) -> Value | None:
    """Return exponentials, or their product with values, over their total."""
    tag, sums = one.tag, total.tag
    mine = sums.of(tag.base) if isinstance(tag, Exp | Soft | Product) else None
    if mine is None:
        return None
    if not isinstance(tag, Product):
        made = (Tap(at, 0, True), value.axes)
        part = bool(sums.others) or (isinstance(tag, Soft) and tag.part)
        return value.but(tag=Soft(value.base, mine.over, sums.sink, made, part=part))
    if whole(tag.over) != whole(mine.over):
        return None
    if tag.site not in a.found:
        tag.site.total = (Tap(at, place), total.axes)
        tag.site.sink, tag.site.inverse = sums.sink, sums.inverse
        tag.site.part = bool(sums.others)
        tag.site.exact = not sums.sink and not sums.others and tag.version == mine.version
        a.found.append(tag.site)
    return value.but(tag=Result(tag.site))


def _scaled(value: Value, main: Value, term: Value) -> Value:
    """Keep what an array is when it is multiplied by a mask, a parameter, or alike for all keys."""
    # An argument is a mask: what a model computes for each key is not.
    tag, free = main.tag, term.mask or term.leaf or not term.data
    if isinstance(tag, Product):
        return value.but(tag=tag)
    if isinstance(tag, Exp) and free:
        return value.but(tag=dataclasses.replace(tag, version=value.base.root))
    if isinstance(tag, Soft) and (free or not _along(term, main, tag)):
        return value.but(tag=tag)
    return value


def _along(term: Value, main: Value, tag: Soft) -> bool:
    """Return whether a factor varies along the keys of a softmax."""
    pairs = zip(term.axes, main.axes, strict=False)
    return any(uids(y) & tag.over and not is_constant(x) for x, y in pairs)


def _spread(main: Value, term: Value, place: int, at: At) -> Spread | None:
    """Weights multiplied with values, which have features that the weights do not have."""
    if not isinstance(main.tag, Soft | Exp) or len(term.axes) != len(main.axes) or term.mask:
        return None
    pairs = zip(main.axes, term.axes, strict=True)
    if not any(is_constant(x) and not is_constant(y) for x, y in pairs):
        return None
    if isinstance(main.tag, Soft) and not _along(term, main, main.tag):
        return None
    return Spread(main.tag, (Tap(at, 1 - place), Tap(at, place)), (main, term))


def select(a: Any, eqn: Any, operands: list[Value], at: At) -> list[Value]:
    """Choose between an array and constants: it stays what it is."""
    value = _new(a, eqn, operands)
    tagged = [one for one in operands[1:] if one.tag is not None]
    rest = [one for one in operands[1:] if one.tag is None]
    if tagged and all(not one.data or not one.axes for one in rest):
        tag = tagged[0].tag
        if isinstance(tag, Exp):
            tag = dataclasses.replace(tag, version=value.base.root)
        return [value.but(tag=tag)]
    return [value]


# Layout


def transpose(a: Any, eqn: Any, operands: list[Value], at: At) -> list[Value]:
    """Move axes."""
    (one,) = operands
    return [one.but(axes=tuple(one.axes[i] for i in eqn.params["permutation"]))]


def reshape(a: Any, eqn: Any, operands: list[Value], at: At) -> list[Value] | None:
    """Regroup parts of axes."""
    axes = a.labels.reshape(operands[0].axes, eqn.params["new_sizes"])
    return None if axes is None else [operands[0].but(axes=axes)]


def squeeze(a: Any, eqn: Any, operands: list[Value], at: At) -> list[Value]:
    """Remove axes of size 1."""
    gone = {int(i) for i in eqn.params["dimensions"]}
    axes = tuple(axis for i, axis in enumerate(operands[0].axes) if i not in gone)
    return [operands[0].but(axes=axes)]


def broadcast(a: Any, eqn: Any, operands: list[Value], at: At) -> list[Value]:
    """Add axes along which the array is constant."""
    shape = eqn.params["shape"]
    axes = [constant(size) for size in shape]
    for axis, i in zip(operands[0].axes, eqn.params["broadcast_dimensions"], strict=True):
        if size_of(axis) == shape[int(i)]:
            axes[int(i)] = axis
    return [operands[0].but(axes=tuple(axes))]


def iota(a: Any, eqn: Any, operands: list[Value], at: At) -> list[Value]:
    """Return numbers along one axis."""
    axes = [constant(size) for size in eqn.params["shape"]]
    along = eqn.params["dimension"]
    axes[along] = (a.labels.part(eqn.params["shape"][along], False),)
    return [Value(tuple(axes), False, Base(a.labels.uid()))]


def cut(a: Any, eqn: Any, operands: list[Value], at: At) -> list[Value]:
    """Cut or extend axes, which stay what they are."""
    one, data = operands[0], any(value.data for value in operands)
    results: list[Value] = []
    for number, var in enumerate(eqn.outvars):
        ranges = [eqn.params.get(name, ()) for name in ("start_indices", "limit_indices")]
        axes: list[Axis] = []
        known = one.axes
        if known and size_of(known[0]) != var.aval.shape[0]:
            moved = [getattr(atom, "val", atom) for atom in eqn.invars[1:2]]
            which = str((eqn.primitive.name, number, moved, [limits[:1] for limits in ranges]))
            known = a.labels.examples(known, which)
        for axis, size in zip(known, var.aval.shape, strict=True):
            if size_of(axis) == size:
                axes.append(axis)
            elif len(axis) == 1:
                axes.append((axis[0]._replace(size=size),))
            else:
                axes.append((a.labels.part(size, a.labels.is_data(axis)),))
        tag = one.tag
        pairs = zip(one.axes, axes, strict=True)
        if isinstance(tag, Soft) and any(
            uids(x) & tag.over and size_of(x) != size_of(y) for x, y in pairs
        ):
            # A column that is cut off took its share: a sink.
            tag = dataclasses.replace(tag, sink=True, cut=(str(ranges), number))
        results.append(one.but(axes=tuple(axes), tag=tag, data=data))
    return results


def concatenate(a: Any, eqn: Any, operands: list[Value], at: At) -> list[Value]:
    """Join arrays along an axis, whose tokens are then those of all."""
    along, aval, labels = eqn.params["dimension"], eqn.outvars[0].aval, a.labels
    parts = [part for one in operands for part in one.axes[along]]
    new = labels.part(aval.shape[along], labels.is_data(parts))
    for part in parts:
        labels.join(new, part)
    examples = along == 0 and len(aval.shape) > 2 and labels.is_data([new])
    if examples:
        labels.join_batches(new.label)
    axes = [
        labels.merge([one.axes[i] for one in operands], join=not examples)
        for i in range(len(aval.shape))
    ]
    axes[along] = (new,)
    if all(is_constant(one.axes[along]) for one in operands):  # a stack
        labels.gather([new])
    return [_joined(a, operands, tuple(axes), along)]


def _joined(a: Any, operands: Sequence[Value], axes: Axes, along: int, new: int = 0) -> Value:
    """Return arrays that are joined `along` an axis: softmaxes over the same other axes are one."""
    axes, data = a.labels.distinct(axes), any(one.data for one in operands)
    leaf = all(one.leaf or not one.data for one in operands)
    tags, kept = [one.tag for one in operands], None
    if all(isinstance(tag, Soft) for tag in tags):
        keys = {
            frozenset(i + new * (i >= along) for i, x in enumerate(one.axes) if uids(x) & tag.over)
            for one, tag in zip(operands, tags, strict=True)
        }
        at = keys.pop()
        if not keys and (new or along not in at):
            over = frozenset().union(*(uids(axes[i]) for i in at))
            sink, part = (any(getattr(tag, name) for tag in tags) for name in ("sink", "part"))
            kept = Soft(Base(a.labels.uid()), over, sink, part=part)
    return Value(axes, data, Base(a.labels.uid()), tag=kept, leaf=leaf)


def stack(a: Any, eqn: Any, operands: list[Value], at: At) -> list[Value]:
    """Join arrays along a new axis."""
    labels, along, aval = a.labels, eqn.params["axis"], eqn.outvars[0].aval
    axes = [labels.merge([one.axes[i] for one in operands]) for i in range(len(aval.shape) - 1)]
    axes.insert(along, (labels.part(aval.shape[along], False),))
    labels.gather(axes[along])
    return [_joined(a, operands, tuple(axes), along, 1)]


def unstack(a: Any, eqn: Any, operands: list[Value], at: At) -> list[Value]:
    """Take an axis apart."""
    (one,) = operands
    axes = tuple(axis for i, axis in enumerate(one.axes) if i != eqn.params["axis"])
    return [one.but(axes=axes, tag=None) for _ in eqn.outvars]


def update(a: Any, eqn: Any, operands: list[Value], at: At) -> list[Value]:
    """Write into an array, such as a cache, whose axes are then those of what is written."""
    (one, new), labels = operands[:2], a.labels
    axes = []
    for axis, other in zip(one.axes, new.axes, strict=True):
        if is_constant(axis):  # zeros vary once something is written into them
            axis = (labels.part(size_of(axis), new.data),)
        if len(axis) == len(other) == 1:
            if labels.is_data(other) and not labels.is_data(axis):
                axis = (axis[0]._replace(label=other[0].label),)
            labels.join(axis[0], other[0])
        axes.append(axis)
    data = one.data or new.data
    return [Value(labels.distinct(tuple(axes)), data, Base(labels.uid()))]


def scatter(a: Any, eqn: Any, operands: list[Value], at: At) -> list[Value] | None:
    """Write constants into a softmax, such as zeros for one head: it stays what it is."""
    one, _, new = operands
    return [one] if isinstance(one.tag, Soft) and not new.data else None


def gather(a: Any, eqn: Any, operands: list[Value], at: At) -> list[Value]:
    """Look up rows: axes of the indices, then of the table."""
    (table, indices), labels = operands, a.labels
    numbers = eqn.params["dimension_numbers"]
    gone = {*numbers.collapsed_slice_dims, *getattr(numbers, "operand_batching_dims", ())}
    window = [i for i in range(len(table.axes)) if i not in gone]
    rows_of = indices.axes[:-1]
    rows = list(rows_of)
    tokens = labels.is_data(p for i in numbers.collapsed_slice_dims for p in table.axes[i])
    axes: list[Axis] = []
    for i, size in enumerate(eqn.outvars[0].aval.shape):
        if i in numbers.offset_dims:
            axis = table.axes[window[numbers.offset_dims.index(i)]]
        else:
            axis = rows.pop(0)
            if tokens and not labels.is_data(axis):
                axis = (labels.part(size, True),)
        if is_constant(axis) or size_of(axis) != size:
            axis = (labels.part(size, labels.is_data(axis)),)
        axes.append(axis)
    if tokens and len(rows_of) > len(gone):  # more than one row for each
        labels.gather([p for i, x in enumerate(axes) if i not in numbers.offset_dims for p in x])
    tag = table.tag if isinstance(table.tag, Soft) and not indices.data else None
    if tag is not None and not tag.over <= uids(part for axis in axes for part in axis):
        tag = None
    data = table.data or indices.data
    return [Value(labels.distinct(tuple(axes)), data, Base(labels.uid()), tag=tag)]


_UNCHANGED = {"convert_element_type", "copy", "copy_p", "stop_gradient", "reduce_precision", "real"}
_UNCHANGED |= {"optimization_barrier", "name", "sharding_constraint", "pvary", "pcast"}
_UNCHANGED |= {"device_put", "psum", "psum_invariant", "psum2", "reshard", "layout_constraint"}
_UNCHANGED |= {"mesh_cast"}

RULES: dict[str, Rule] = {
    "add": add,
    "add_any": add,
    "sub": subtract,
    "mul": multiply,
    "div": divide,
    "exp": exponential,
    "exp2": exponential,
    "log": logarithm,
    "integer_pow": power,
    "square": power,
    "select_n": select,
    "transpose": transpose,
    "reshape": reshape,
    "squeeze": squeeze,
    "broadcast_in_dim": broadcast,
    "iota": iota,
    "concatenate": concatenate,
    "stack": stack,
    "unstack": unstack,
    "dynamic_update_slice": update,
    "gather": gather,
    **dict.fromkeys(("scatter", "scatter-mul", "scatter_mul"), scatter),
    **dict.fromkeys(("max", "min", "clamp", "abs"), bounded),
    **dict.fromkeys(("slice", "dynamic_slice", "split", "pad", "rev"), cut),
    **dict.fromkeys(_UNCHANGED, same),
}
