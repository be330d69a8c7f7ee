"""Vector operations for numba: a type of `LANES` doubles, processed in lockstep.

All sinks of one source have the same edges and differ only in their demands, so the same steps
serve `LANES` sinks at a time, one in each lane of a vector. Compilers do not find this by
themselves in loops over arrays that might overlap. The type is wider than any machine's vectors:
the parts of one step are independent and hide each other's latency.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import lower_builtin, models, register_model, type_callable

from jaxflow._flow.parts import intrinsic, results

LANES = 16
_VECTOR = ir.VectorType(ir.DoubleType(), LANES)


class Lanes(types.Type):
    """`LANES` doubles in a vector register."""

    if TYPE_CHECKING:

        def __add__(self, other: Any) -> Lanes: ...

        __sub__ = __mul__ = __truediv__ = __add__

    def __init__(self) -> None:
        super().__init__(name="Lanes")


lanes = Lanes()


@register_model(Lanes)
class LanesModel(models.PrimitiveModel):
    """The type's representation: an LLVM vector."""

    def __init__(self, manager: Any, numba_type: Any) -> None:
        super().__init__(manager, numba_type, _VECTOR)


results[Lanes] = lanes
results[tuple[Lanes, ...]] = types.UniTuple(lanes, 5)


def _pointer(context: Any, builder: Any, kind: Any, array_type: Any, *arguments: Any) -> Any:
    array, row, column = arguments
    view = context.make_array(array_type)(context, builder, array)
    shape = cgutils.unpack_tuple(builder, view.shape)
    strides = cgutils.unpack_tuple(builder, view.strides)
    item = cgutils.get_item_pointer2(
        context, builder, view.data, shape, strides, array_type.layout, [row, column]
    )
    return builder.bitcast(item, kind.as_pointer())


def _everywhere(builder: Any, number: Any) -> Any:
    empty = ir.Constant(_VECTOR, ir.Undefined)
    first = builder.insert_element(empty, number, ir.Constant(ir.IntType(32), 0))
    nowhere = ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES)
    return builder.shuffle_vector(first, empty, nowhere)


@intrinsic
def load(typingctx: Any, array: Any, row: Any, column: Any) -> Any:
    """Return the lanes that start at ``array[row, column]``."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        item = _pointer(context, builder, _VECTOR, signature.args[0], *arguments)
        return builder.load(item, align=8)

    return lanes(array, types.intp, types.intp), generate


@intrinsic
def store(typingctx: Any, array: Any, row: Any, column: Any, value: Any) -> Any:
    """Write lanes to ``array[row, column]`` and the places after it."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        item = _pointer(context, builder, _VECTOR, signature.args[0], *arguments[:3])
        builder.store(arguments[3], item, align=8)
        return context.get_dummy_value()

    return types.void(array, types.intp, types.intp, lanes), generate


@intrinsic
def broadcast(typingctx: Any, array: Any, row: Any, column: Any) -> Any:
    """Return lanes that all hold ``array[row, column]``; no index is negative."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        item = _pointer(context, builder, ir.DoubleType(), signature.args[0], *arguments)
        return _everywhere(builder, builder.load(item))

    return lanes(array, types.intp, types.intp), generate


@intrinsic
def spread(typingctx: Any, number: Any) -> Any:
    """Return lanes that all hold one number."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return _everywhere(builder, arguments[0])

    return lanes(types.float64), generate


@intrinsic
def total(typingctx: Any, value: Any) -> Any:
    """Return the sum over the lanes."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kind = ir.FunctionType(ir.DoubleType(), [ir.DoubleType(), _VECTOR])
        name = f"llvm.vector.reduce.fadd.v{LANES}f64"
        function = cgutils.get_or_insert_function(builder.module, kind, name)
        zero = ir.Constant(ir.DoubleType(), 0.0)
        return builder.call(function, [zero, arguments[0]], fastmath=["reassoc"])

    return types.float64(lanes), generate


@intrinsic
def lowest(typingctx: Any, word: Any) -> Any:
    """Return the index of the lowest set bit of a non-zero ``uint64``."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.cttz(arguments[0], context.get_constant(types.boolean, True))

    return types.int64(types.uint64), generate


def _binary(build: Callable[..., Any], result: Any = lanes) -> Any:
    """Return an intrinsic of two lanes whose LLVM code is ``build(builder, left, right)``."""

    @intrinsic
    def operation(typingctx: Any, left: Any, right: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return build(builder, *arguments)

        return result(lanes, lanes), generate

    return operation


def _select_greater(builder: Any, left: Any, right: Any) -> Any:
    one, zero = (ir.Constant(_VECTOR, [number] * LANES) for number in (1.0, 0.0))
    return builder.select(builder.fcmp_ordered(">", left, right), one, zero)


def _compare(builder: Any, left: Any, right: Any) -> Any:
    flags = builder.fcmp_ordered(">=", left, right)
    return builder.zext(builder.bitcast(flags, ir.IntType(LANES)), ir.IntType(64))


#: The smaller and the larger number of each lane.
least = _binary(lambda builder, a, b: builder.select(builder.fcmp_ordered("<", a, b), a, b))
most = _binary(lambda builder, a, b: builder.select(builder.fcmp_ordered(">", a, b), a, b))
#: 1 in lanes where the left number is larger, 0 in the others.
exceeds = _binary(_select_greater)
#: An int64 with bit i set where lane i of the left is no smaller than of the right.
at_least = _binary(_compare, types.int64)


def _multiply_add(sign: Callable[..., Any]) -> Any:
    """Return an intrinsic: ``value + sign(factor) * amount``, fused where the processor can."""

    @intrinsic
    def operation(typingctx: Any, value: Any, factor: Any, amount: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            value, factor, amount = arguments
            kind = ir.FunctionType(_VECTOR, [_VECTOR] * 3)
            name = f"llvm.fmuladd.v{LANES}f64"
            function = cgutils.get_or_insert_function(builder.module, kind, name)
            return builder.call(function, [sign(builder, factor), amount, value])

        return lanes(lanes, lanes, lanes), generate

    return operation


#: ``value + factor * amount`` and ``value - factor * amount``.
raised = _multiply_add(lambda builder, factor: factor)
lowered = _multiply_add(lambda builder, factor: builder.fneg(factor))


def _arithmetic(symbol: Any, name: str) -> None:
    """Let an operator of two lanes be an instruction of LLVM."""

    @type_callable(symbol)
    def of_lanes(context: Any) -> Any:
        def choose(left: Any, right: Any) -> Any:
            return lanes if isinstance(left, Lanes) and isinstance(right, Lanes) else None

        return choose

    @lower_builtin(symbol, Lanes, Lanes)
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return getattr(builder, name)(*arguments)


_arithmetic(operator.add, "fadd")
_arithmetic(operator.sub, "fsub")
_arithmetic(operator.mul, "fmul")
_arithmetic(operator.truediv, "fdiv")
