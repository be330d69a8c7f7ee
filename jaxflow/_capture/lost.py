"""Follow what is made of a softmax in ways that are not understood, to report its products.

An array that is computed from a softmax and is none any more is `Lost`. Where it is multiplied with
data and summed over what were its keys, it looks like attention, and is reported as missed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from jaxflow._capture import internals
from jaxflow._capture.axes import Axis, Uid, is_constant, is_of, uids, within
from jaxflow._capture.values import Exp, LogSoft, Lost, Soft, Spread, Value

_SUMS = {"reduce_sum", "cumsum", "dot_general", "scatter-add", "reduce_window_sum"}


def faded(a: Any, eqn: Any, one: Value) -> Value:
    """Return what an array is on the other side of a loop: a softmax stays one."""
    if isinstance(one.tag, Soft):
        return one.but(tag=dataclasses.replace(one.tag, made=None))
    return one.but(tag=None, lost=_mark(a, eqn, one))


def forgotten(a: Any, eqn: Any, values: Sequence[Value], joined: Value) -> Value:
    """Return an array that may be any of several, marked where one of them is of a softmax."""
    for one in values:
        mark = _mark(a, eqn, one)
        if mark is not None:
            return joined.but(lost=_renamed(a, mark, one, joined))
    return joined


def follow(a: Any, eqn: Any, operands: list[Value], results: list[Value]) -> list[Value]:
    """Return the results, marked where a softmax is lost; report what is summed with data."""
    marks = [_mark(a, eqn, one) for one in operands]
    side = next((i for i, mark in enumerate(marks) if mark), None)
    if side is None:
        return results
    lost = None
    if "transpose" not in a.transforms(eqn):  # a backward program has no attention of its own
        lost = _after(a, eqn, operands, marks, side)
    done = []
    for one, var in zip(results, eqn.outvars, strict=True):
        plain = one.tag is None and internals.is_floating(var.aval)
        mark = _renamed(a, lost, operands[side], one) if lost is not None and plain else None
        done.append(one.but(lost=mark))
    return done


def _mark(a: Any, eqn: Any, one: Value) -> Lost | None:
    """Return what an array is that loses its tag in an equation."""
    tag = one.tag
    if isinstance(tag, Soft | LogSoft):
        return Lost(tag.over, a.place(eqn))
    if isinstance(tag, Spread) and isinstance(tag.tag, Soft):
        return Lost(tag.tag.over, a.place(eqn), weighted=True)
    if isinstance(tag, Exp) and eqn.primitive.name in _SUMS:
        return Lost(None, a.place(eqn))
    return one.lost


def _after(
    a: Any, eqn: Any, operands: list[Value], marks: Sequence[Lost | None], side: int
) -> Lost | None:
    """Return what the result of an equation is of the softmax in its operand `side`."""
    name, one, mark = eqn.primitive.name, operands[side], marks[side]
    assert mark is not None
    if name == "dot_general":
        return _contracted(a, eqn, operands, marks, side)
    if name == "div" and (below := marks[1]) is not None and below.keys is None:
        # Exponentials over something that was summed of them: keys are what it is constant along.
        pairs = list(zip(operands[0].axes, operands[1].axes, strict=False))
        keys = uids(part for x, y in pairs if is_constant(y) for part in x)
        keys = keys or uids(part for x, _ in pairs for part in x)
        return dataclasses.replace(below, keys=keys) if keys else None
    if mark.keys is None:
        return mark
    if name.startswith(("reduce_", "arg")) and "axes" in eqn.params:
        gone = [one.axes[int(i)] for i in eqn.params["axes"]]
        if not within(uids(part for axis in gone for part in axis), mark.keys):
            return mark
        if mark.weighted and name == "reduce_sum" and one.lost is not None:
            _report(a, eqn, mark, gone)
        return None
    if name == "scatter-add" and mark.weighted:
        _report(a, eqn, mark, one.axes)
        return None
    values = [v for v, m in zip(operands, marks, strict=True) if not m and v.data and not v.mask]
    if name == "mul" and values:
        pairs = list(zip(one.axes, values[0].axes, strict=False))
        along = any(uids(x) & mark.keys and not is_constant(y) for x, y in pairs)
        features = any(is_constant(x) and not is_constant(y) for x, y in pairs)
        if along and not features and "jvp" in a.transforms(eqn) and not values[0].leaf:
            return None  # a derivative of the softmax
        return dataclasses.replace(mark, weighted=mark.weighted or (along and features))
    return mark


def _contracted(
    a: Any, eqn: Any, operands: list[Value], marks: Sequence[Lost | None], side: int
) -> Lost | None:
    contract, batch = eqn.params["dimension_numbers"]
    one, other, mark = operands[side], operands[1 - side], marks[side]
    assert mark is not None
    summed = [one.axes[i] for i in contract[side]]
    parts = [part for axis in summed for part in axis]
    fixed = {*contract[1 - side], *batch[1 - side]}
    features = any(not is_constant(x) for i, x in enumerate(other.axes) if i not in fixed)
    values = other.data and not other.mask and marks[1 - side] is None and features
    if mark.keys is None or not within(uids(parts), mark.keys):
        if values and mark.keys is not None and a.labels.is_data(parts):
            a.miss(eqn, "a softmax is summed with data over other axes than it was normalised over")
            return None
        return mark
    if values and one.lost is not None:
        _report(a, eqn, mark, summed)
    second = marks[1 - side]  # attention times attention
    theirs = uids(part for i in contract[1 - side] for part in other.axes[i])
    if second is None or second.keys is None or within(theirs, second.keys):
        return None
    return second


def _report(a: Any, eqn: Any, mark: Lost, summed: Sequence[Axis]) -> None:
    keys = mark.keys or frozenset()
    if a.labels.is_data(p for axis in summed for p in axis if p.uid and is_of(p.uid, keys)):
        steps = f"by steps that are not followed, from {mark.source} on"
        a.miss(eqn, f"its weights come from a softmax {steps}")


def _renamed(a: Any, mark: Lost, before: Value, after: Value) -> Lost:
    """Find the keys again: by identity, by place, or as the same tokens; else any axis may be."""
    if mark.keys is None:
        return mark
    parts = [part for axis in after.axes for part in axis if part.uid is not None]
    keys = [part.uid for part in parts if is_of(part.uid, mark.keys)]
    if not keys and len(before.axes) == len(after.axes):
        pairs = zip(before.axes, after.axes, strict=True)
        keys = [uid for x, y in pairs if within(uids(x), mark.keys) for uid in uids(y)]
    if not keys:
        mine = [p for axis in before.axes for p in axis if p.uid and is_of(p.uid, mark.keys)]
        tokens = a.labels.families(mine)
        keys = [part.uid for part in parts if a.labels.families([part]) & tokens]
    found: frozenset[Uid] = frozenset(keys or [part.uid for part in parts])
    return dataclasses.replace(mark, keys=found)
