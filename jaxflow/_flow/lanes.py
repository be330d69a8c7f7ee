"""Many pairs at once: a numba type for the machine's vectors.

Statement: all sinks of one source see the same edges and differ only in what they demand, so the
same steps serve `LANES` of them at a time, one in each lane of a vector. Compilers do not find this
by themselves in loops over arrays that might overlap; a type of its own says it once. It is wider
than any machine's vectors: the parts of one step are independent and hide each other's latency.
"""

from __future__ import annotations

import operator
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic as _intrinsic
from numba.extending import models, overload, register_model

from jaxflow._flow.compiled import counting

__all__ = [
    "LANES",
    "at_least",
    "broadcast",
    "exceeds",
    "least",
    "load",
    "lowered",
    "most",
    "raised",
    "space",
    "spread",
    "store",
    "total",
]

# What numba makes of a function is not what its signature says to a type checker.
intrinsic: Any = _intrinsic

LANES = 16
_VECTOR = ir.VectorType(ir.DoubleType(), LANES)


class Lanes(types.Type):
    """`LANES` doubles in a vector register."""

    def __init__(self) -> None:
        super().__init__(name="Lanes")


lanes = Lanes()


@register_model(Lanes)
class LanesModel(models.PrimitiveModel):
    """Tells numba that the type is an LLVM vector."""

    def __init__(self, manager: Any, numba_type: Any) -> None:
        super().__init__(manager, numba_type, _VECTOR)


@counting
def space(shape: tuple[int, ...]) -> np.ndarray:
    """Return zeros whose rows of whole lanes begin at a line of the cache.

    Vectors that lie across two lines take twice as long to load, and numba's own arrays do so or
    not from one run to the next.
    """
    size = 1
    for length in shape:
        size *= length
    room = np.zeros(size + 8)
    begin = (64 - room.ctypes.data % 64) % 64 // 8
    return room[begin : begin + size].reshape(shape)


def _pointer(
    context: Any,
    builder: Any,
    array_type: Any,
    array: Any,
    row: Any,
    column: Any,
    kind: Any = _VECTOR,
) -> Any:
    view = context.make_array(array_type)(context, builder, array)
    shape = cgutils.unpack_tuple(builder, view.shape)
    strides = cgutils.unpack_tuple(builder, view.strides)
    item = cgutils.get_item_pointer2(
        context, builder, view.data, shape, strides, array_type.layout, [row, column]
    )
    return builder.bitcast(item, kind.as_pointer())


@intrinsic
def load(typingctx: Any, array: Any, row: Any, column: Any) -> Any:
    """Return the lanes that start at ``array[row, column]``."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        item = _pointer(context, builder, signature.args[0], *arguments)
        return builder.load(item, align=8)

    return lanes(array, types.intp, types.intp), generate


@intrinsic
def store(typingctx: Any, array: Any, row: Any, column: Any, value: Any) -> Any:
    """Write lanes to ``array[row, column]`` and the places after it."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        item = _pointer(context, builder, signature.args[0], *arguments[:3])
        builder.store(arguments[3], item, align=8)
        return context.get_dummy_value()

    return types.void(array, types.intp, types.intp, lanes), generate


def _everywhere(builder: Any, number: Any) -> Any:
    empty = ir.Constant(_VECTOR, ir.Undefined)
    first = builder.insert_element(empty, number, ir.Constant(ir.IntType(32), 0))
    zeros = ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES)
    return builder.shuffle_vector(first, empty, zeros)


@intrinsic
def broadcast(typingctx: Any, array: Any, row: Any, column: Any) -> Any:
    """Return lanes that all hold ``array[row, column]``; no index is negative."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        array, row, column = arguments
        item = _pointer(context, builder, signature.args[0], array, row, column, ir.DoubleType())
        return _everywhere(builder, builder.load(item))

    return lanes(array, types.intp, types.intp), generate


@intrinsic
def spread(typingctx: Any, number: Any) -> Any:
    """Return lanes that all hold one number."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return _everywhere(builder, arguments[0])

    return lanes(types.float64), generate


@intrinsic
def least(typingctx: Any, left: Any, right: Any) -> Any:
    """Return the smaller number of each lane."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.select(builder.fcmp_ordered("<", *arguments), *arguments)

    return lanes(lanes, lanes), generate


@intrinsic
def most(typingctx: Any, left: Any, right: Any) -> Any:
    """Return the larger number of each lane."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.select(builder.fcmp_ordered(">", *arguments), *arguments)

    return lanes(lanes, lanes), generate


@intrinsic
def exceeds(typingctx: Any, left: Any, right: Any) -> Any:
    """Return 1 in lanes where `left` is larger than `right`, 0 in the others."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        one, zero = (ir.Constant(_VECTOR, [number] * LANES) for number in (1.0, 0.0))
        return builder.select(builder.fcmp_ordered(">", *arguments), one, zero)

    return lanes(lanes, lanes), generate


def _multiply_add(builder: Any, value: Any, factor: Any, amount: Any) -> Any:
    kind = ir.FunctionType(_VECTOR, [_VECTOR] * 3)
    function = cgutils.get_or_insert_function(builder.module, kind, f"llvm.fmuladd.v{LANES}f64")
    return builder.call(function, [factor, amount, value])


@intrinsic
def raised(typingctx: Any, value: Any, factor: Any, amount: Any) -> Any:
    """Return ``value + factor * amount``, fused where the machine does that in one step."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return _multiply_add(builder, *arguments)

    return lanes(lanes, lanes, lanes), generate


@intrinsic
def lowered(typingctx: Any, value: Any, factor: Any, amount: Any) -> Any:
    """Return ``value - factor * amount``, fused where the machine does that in one step."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        value, factor, amount = arguments
        return _multiply_add(builder, value, builder.fneg(factor), amount)

    return lanes(lanes, lanes, lanes), generate


@intrinsic
def at_least(typingctx: Any, left: Any, right: Any) -> Any:
    """Return an int64 with bit i set where lane i of `left` is no smaller than of `right`."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        flags = builder.fcmp_ordered(">=", *arguments)
        return builder.zext(builder.bitcast(flags, ir.IntType(LANES)), ir.IntType(64))

    return types.int64(lanes, lanes), generate


@intrinsic
def total(typingctx: Any, value: Any) -> Any:
    """Return the sum over the lanes."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kind = ir.FunctionType(ir.DoubleType(), [ir.DoubleType(), _VECTOR])
        function = cgutils.get_or_insert_function(
            builder.module, kind, f"llvm.vector.reduce.fadd.v{LANES}f64"
        )
        zero = ir.Constant(ir.DoubleType(), 0.0)
        return builder.call(function, [zero, arguments[0]], fastmath=["reassoc"])

    return types.float64(lanes), generate


def _arithmetic(name: str) -> Any:
    @intrinsic
    def compute(typingctx: Any, left: Any, right: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return getattr(builder, name)(*arguments)

        return lanes(lanes, lanes), generate

    # numba wants both signatures alike, annotations included.
    def on_lanes(left: Any, right: Any) -> Any:
        return compute(left, right)

    def choose(left: Any, right: Any) -> Any:
        return on_lanes if isinstance(left, Lanes) and isinstance(right, Lanes) else None

    return choose


overload(operator.add)(_arithmetic("fadd"))
overload(operator.sub)(_arithmetic("fsub"))
overload(operator.mul)(_arithmetic("fmul"))
overload(operator.truediv)(_arithmetic("fdiv"))
