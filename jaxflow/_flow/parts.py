"""Compile functions that call each other into one module, and hand records on by address.

numba compiles a function on its own, together with all that it calls, and again inside each of its
callers: of functions nested eight deep most code is optimised and assembled eight times. A `part`
is translated once for each function that is called from Python (`entry`), into the module of that
function. And numba hands a named tuple of arrays on as a hundred numbers, at every call; a record
is handed on as one address.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, get_type_hints
from weakref import WeakKeyDictionary

from llvmlite import ir
from numba import njit as _njit
from numba import types
from numba.core import cgutils
from numba.core.compiler import Flags, compile_internal
from numba.core.imputils import lower_getattr_generic as _lower_getattr_generic
from numba.core.runtime.context import NRTContext
from numba.core.typing.templates import AttributeTemplate
from numba.extending import infer_getattr, models, register_model
from numba.extending import intrinsic as _intrinsic

# A function compiled by numba does not have the type that its signature declares.
njit: Any = _njit
intrinsic: Any = _intrinsic
_lower_attributes: Any = _lower_getattr_generic

#: Compile a function that is called from Python, and keep it on disk.
entry: Any = njit(nogil=True, cache=True, error_model="numpy", no_cfunc_wrapper=True, _nrt=False)
#: Copy a function that makes a named tuple into the functions that call it.
maker: Any = njit(inline="always", _nrt=False)

#: The types that a part may return, by its annotation.
results: dict[Any, Any] = {
    type(None): types.none,
    bool: types.boolean,
    int: types.int64,
    float: types.float64,
}


def part(function: Callable[..., Any]) -> Any:
    """Compile a function into the module of whichever entry calls it.

    It returns what its annotation says. It makes no array, so it need not count references to
    those that its callers keep: numba counts them by atomic steps at every call and every view,
    which for short sentences took longer than their flows.
    """
    known: Any = WeakKeyDictionary()
    result = results[get_type_hints(function)["return"]]

    def call(typingctx: Any, *given: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            library = context.active_code_library
            found = known.setdefault(library, {})
            if signature not in found:
                flags: Any = Flags()
                flags.no_compile = flags.no_cpython_wrapper = flags.no_cfunc_wrapper = True
                flags.error_model = "numpy"
                found[signature] = compile_internal(
                    context.typing_context, context, library,
                    function, signature.args, signature.return_type, flags, {},
                ).fndesc  # fmt: skip
                # Only callers in this module need it: LLVM may inline it for good.
                name = found[signature].mangled_name
                library.get_function(name).linkage = "linkonce_odr"
            return context.call_internal(builder, found[signature], signature, arguments)

        return result(*given), generate

    # numba reads the number and the names of the arguments off the signature.
    own = inspect.signature(function)
    context = inspect.Parameter("typingctx", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    described: Any = call
    described.__signature__ = own.replace(parameters=[context, *own.parameters.values()])
    described.__name__ = function.__name__
    return intrinsic(call)


class Borrowed(types.Type):
    """The address of a named tuple that an entry keeps."""

    def __init__(self, record: Any) -> None:
        self.record = record
        super().__init__(name=f"Borrowed({record.instance_class.__name__})")

    @property
    def key(self) -> Any:
        """Return what makes the type: the tuple's own."""
        return self.record


@register_model(Borrowed)
class BorrowedModel(models.PrimitiveModel):
    """The type's representation: a pointer."""

    def __init__(self, manager: Any, numba_type: Any) -> None:
        record = manager.lookup(numba_type.record).get_value_type()
        super().__init__(manager, numba_type, record.as_pointer())


@infer_getattr
class BorrowedAttributes(AttributeTemplate):
    """The fields' types."""

    key = Borrowed

    def generic_resolve(self, value: Any, attr: str) -> Any:  # type: ignore[override]
        """Return the type of a field."""
        return value.record.types[value.record.fields.index(attr)]


@_lower_attributes(Borrowed)
def _load(context: Any, builder: Any, kind: Any, value: Any, attr: str) -> Any:
    return builder.load(cgutils.gep_inbounds(builder, value, 0, kind.record.fields.index(attr)))


@intrinsic
def borrow(typingctx: Any, record: Any) -> Any:
    """Return the address of a named tuple, valid until the calling function returns."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return cgutils.alloca_once_value(builder, arguments[0])

    return Borrowed(record)(record), generate


class Blocks(types.Type):
    """A chain of blocks of memory, of which each begins with the address of the one before."""

    def __init__(self) -> None:
        super().__init__(name="Blocks")


_WORD = ir.IntType(64)


@register_model(Blocks)
class BlocksModel(models.PrimitiveModel):
    """The type's representation: where the last block's address is."""

    def __init__(self, manager: Any, numba_type: Any) -> None:
        super().__init__(manager, numba_type, _WORD.as_pointer())


blocks = Blocks()


@intrinsic
def no_blocks(typingctx: Any) -> Any:
    """Return an empty chain, which `free` must empty again."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return cgutils.alloca_once_value(builder, _WORD(0))

    return blocks(), generate


def _free(builder: Any, chain: Any) -> None:
    loop, body, end = (builder.append_basic_block(name) for name in ("free", "one", "freed"))
    builder.branch(loop)
    builder.position_at_end(loop)
    last = builder.load(chain)
    builder.cbranch(builder.icmp_unsigned("==", last, _WORD(0)), end, body)
    builder.position_at_end(body)
    block = builder.inttoptr(last, _WORD.as_pointer())
    builder.store(builder.load(block), chain)
    NRTContext(None, True).free(builder, builder.bitcast(block, cgutils.voidptr_t))
    builder.branch(loop)
    builder.position_at_end(end)


@intrinsic
def free(typingctx: Any, chain: Any) -> Any:
    """Free the blocks, and with them all arrays that were made from them."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        _free(builder, arguments[0])
        return context.get_dummy_value()

    return types.none(chain), generate


def _new_block(builder: Any, chain: Any, size: Any) -> Any:
    """Return the address of zeros in a new block, or 0 after freeing all where there is none."""
    kind = ir.FunctionType(_WORD, [chain.type, _WORD])
    function = cgutils.get_or_insert_function(builder.module, kind, "jaxflow.new_block")
    if function.is_declaration:
        function.linkage = "internal"
        (chain_, size_), inner = function.args, ir.IRBuilder(function.append_basic_block())
        size_ = inner.add(size_, _WORD(128))
        block = NRTContext(None, True).allocate_unchecked(inner, size_)
        with inner.if_then(cgutils.is_null(inner, block), likely=False):
            _free(inner, chain_)
            inner.ret(_WORD(0))
        cgutils.memset(inner, block, size_, 0)
        inner.store(inner.load(chain_), inner.bitcast(block, chain_.type))
        start = inner.ptrtoint(block, _WORD)
        inner.store(start, chain_)
        inner.ret(inner.and_(inner.add(start, _WORD(64 + 8)), _WORD(-64)))
    return builder.call(function, [chain, size])


def _zeros_of(dtype: Any) -> Any:
    """Return an intrinsic: zeros of a type and shape, aligned to cache lines.

    Vectors across two cache lines take twice as long to load, and the alignment of numba's own
    arrays differs from run to run. The memory is a block of the chain; there is no other reference.
    """

    @intrinsic
    def zeros(typingctx: Any, chain: Any, shape: Any) -> Any:
        kind = types.Array(dtype, len(shape), "C")

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            chain, lengths = arguments[0], cgutils.unpack_tuple(builder, arguments[1])
            item = context.get_data_type(dtype)
            itemsize = _WORD(context.get_abi_sizeof(item))
            strides = [itemsize]
            for length in reversed(lengths):
                strides.insert(0, builder.mul(strides[0], length))
            start = _new_block(builder, chain, strides.pop(0))
            with builder.if_then(builder.icmp_unsigned("==", start, _WORD(0)), likely=False):
                context.call_conv.return_user_exc(builder, MemoryError, ("no memory for flow",))
            array = context.make_array(kind)(context, builder)
            context.populate_array(
                array, data=builder.inttoptr(start, item.as_pointer()), shape=lengths,
                strides=strides, itemsize=itemsize, meminfo=None,
            )  # fmt: skip
            return array._getvalue()

        return kind(chain, shape), generate

    return zeros


zeros = _zeros_of(types.float64)
zero_ints = _zeros_of(types.int64)
zero_words = _zeros_of(types.uint64)
zero_flags = _zeros_of(types.boolean)


def _chosen(symbol: str) -> Any:
    """Return an intrinsic: the second of two numbers if it compares so with the first, or that.

    As ``max`` or ``min``, which numba compiles as functions of any number of arguments.
    """

    @intrinsic
    def choose(typingctx: Any, left: Any, right: Any) -> Any:
        whole = isinstance(left, types.Integer) and isinstance(right, types.Integer)
        kind = types.int64 if whole else types.float64

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            left, right = arguments
            compare = builder.icmp_signed if whole else builder.fcmp_ordered
            return builder.select(compare(symbol, right, left), right, left)

        return kind(kind, kind), generate

    return choose


larger, smaller = _chosen(">"), _chosen("<")
