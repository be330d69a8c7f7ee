"""The parts of JAX that may change: names and places of equations, dead code, parameters.

Names and parameters of primitives, and what ``jax.extend`` and ``jax.interpreters`` offer without a
promise, are used here only. They hold for the versions that ``tests/capture`` names.
"""

from __future__ import annotations

import hashlib
import re
from typing import Any

import jax
import numpy as np
from jax.extend import source_info_util
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal
from jax.interpreters import partial_eval


def trace(function: Any, arguments: list[Any]) -> tuple[Jaxpr, list[Any], Any]:
    """Trace a function of arrays; return the program without dead code, its constants, and outputs.

    The outputs are a tree of ``jax.ShapeDtypeStruct``.
    """
    closed, shape = jax.make_jaxpr(function, return_shape=True)(*arguments)
    return without_dead_code(closed.jaxpr), list(closed.consts), shape


def without_dead_code(jaxpr: Jaxpr) -> Jaxpr:
    """Return the program without equations that no output depends on."""
    found: Any = partial_eval.dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars), instantiate=True)
    return found[0]


def bind(eqn: Any, values: list[Any]) -> list[Any]:
    """Apply an equation's primitive to values."""
    params = eqn.primitive.get_bind_params(eqn.params)
    subfuns: Any = ()
    if isinstance(params, tuple):
        subfuns, params = params
    stack = source_info_util.current_name_stack() + eqn.source_info.name_stack
    context = source_info_util.user_context(eqn.source_info.traceback, name_stack=stack)
    with context, eqn.ctx.manager:
        found = eqn.primitive.bind(*subfuns, *values, **params)
    return list(found) if eqn.primitive.multiple_results else [found]


def identity(program: Any) -> Any:
    """Return what two programs must share to compute the same: text, constants and callbacks."""
    jaxpr, constants = opened(program)
    inner: list[Any] = []
    for eqn in jaxpr.eqns:
        for value in eqn.params.values():
            for one in value if isinstance(value, tuple | list) else (value,):
                if isinstance(one, ClosedJaxpr | Jaxpr):
                    inner.append(identity(one)[1:])
        if "callback" in eqn.primitive.name:
            inner.append(tuple(sorted((k, id(v)) for k, v in eqn.params.items() if callable(v))))
    digests = tuple(
        (str(one.dtype), np.shape(one), hashlib.sha256(np.asarray(one).tobytes()).hexdigest())
        for one in constants
        if hasattr(one, "dtype") and not jax.dtypes.issubdtype(one.dtype, jax.dtypes.extended)
    )
    return re.sub(r"0x[0-9a-f]+", "", str(jaxpr)), digests, tuple(inner)


def scope(eqn: Any) -> list[str]:
    """Return the names of the modules and named scopes of an equation, outermost first."""
    names = [getattr(entry, "name", "") for entry in eqn.source_info.name_stack.stack]
    transforms = {"vmap", "jvp", "transpose", "rematted_computation", "checkpoint", "pmap"}
    return [name for name in names if name and "->" not in name and name not in transforms]


def transforms(eqn: Any) -> set[str]:
    """Return the names of the transformations that an equation was made by, such as ``jvp``."""
    stack = eqn.source_info.name_stack.stack
    return {entry.name for entry in stack if type(entry).__name__ == "Transform"}


def place(eqn: Any) -> str:
    """Return the file and line of an equation, ``file.py:12``; ``?`` where it has none."""
    known = re.match(r"(.+?:\d+)", source_info_util.summarize(eqn.source_info))
    return known[1] if known else "?"


_PROGRAMS = {
    "jit": "jaxpr",
    "pjit": "jaxpr",
    "closed_call": "call_jaxpr",
    "core_call": "call_jaxpr",
    "core_closed_call": "call_jaxpr",
    "remat": "jaxpr",
    "remat2": "jaxpr",
    "checkpoint": "jaxpr",
    "custom_jvp_call": "call_jaxpr",
    "custom_vjp_call": "call_jaxpr",
    "custom_vjp_call_jaxpr": "fun_jaxpr",
    "custom_vmap_call": "call",
    "composite": "jaxpr",
    "linear_call": "callee",
}


def inner_program(eqn: Any) -> Any:
    """Return the program that an equation calls once; None if it calls none."""
    parameter = _PROGRAMS.get(eqn.primitive.name)
    return None if parameter is None else eqn.params.get(parameter)


def programs(eqn: Any) -> list[Any]:
    """Return the programs of an equation that are evaluated one by one."""
    if eqn.primitive.name == "cond":
        return list(eqn.params["branches"])
    if eqn.primitive.name == "while":
        return [eqn.params["body_jaxpr"]]
    if eqn.primitive.name in ("scan", "shard_map"):
        return [eqn.params["jaxpr"]]
    inner = inner_program(eqn)
    return [] if inner is None else [inner]


def kernel_name(eqn: Any) -> str:
    """Return the name of a fused kernel; empty for any other equation."""
    name = eqn.primitive.name
    if "pallas" not in name and "dot_product_attention" not in name:
        return ""
    stated = eqn.params.get("name") or eqn.params.get("name_and_src_info")
    return str(stated or kernel_source(eqn) or name).split(" ")[0]


def kernel_source(eqn: Any) -> str:
    """Return the name of the function that a Pallas kernel is, and its file and line."""
    debug = getattr(eqn.params.get("jaxpr"), "debug_info", None)
    return getattr(debug, "func_src_info", None) or ""


def opened(jaxpr: Any) -> tuple[Jaxpr, list[Any]]:
    """Return a program and its constants, whether it has any or not."""
    if isinstance(jaxpr, ClosedJaxpr):
        return jaxpr.jaxpr, list(jaxpr.consts)
    return jaxpr, []


def mesh_axes(eqn: Any) -> tuple[str, ...]:
    """Return the mesh axes that a collective operation runs over."""
    stated = eqn.params.get("axis_name", eqn.params.get("axes", ()))
    names = stated if isinstance(stated, tuple | list) else (stated,)
    return tuple(name for name in names if isinstance(name, str))


def replicated(array: Any, spec: tuple[Any, ...]) -> Any:
    """Return an array that is the same on devices that its spec does not name, in a type of that.

    After an all_gather the type of an array still says that it differs between the devices.
    """
    named = {name for entry in spec for name in entry or ()}
    kind: Any = jax.typeof(array)
    varying = kind.vma if hasattr(kind, "vma") else kind.manual_axis_type.varying
    for name in sorted(varying - named):
        mine = jax.lax.axis_index(name) == 0
        array = jax.lax.psum(jax.numpy.where(mine, array, jax.numpy.zeros_like(array)), name)
    return array


def is_floating(aval: Any) -> bool:
    """Return whether an array of this type has floating-point numbers."""
    return hasattr(aval, "dtype") and bool(jax.numpy.issubdtype(aval.dtype, np.floating))


def is_literal(atom: Any) -> bool:
    """Return whether an operand is a constant number written into the program."""
    return isinstance(atom, Literal)


def has_shardings(params: Any) -> bool:
    """Return whether a compiled call states where its arguments or results are placed."""
    stated = (*params.get("in_shardings", ()), *params.get("out_shardings", ()))
    return any(type(one).__name__ != "UnspecifiedValue" for one in stated)


def shard_map_options(params: Any) -> dict[str, Any]:
    """Return the options of ``jax.shard_map`` that an equation was made with."""
    manual = params.get("newly_manual_axes", params.get("manual_axes", frozenset()))
    return {
        "mesh": params["mesh"],
        "check_vma": params.get("check_vma", True),
        "axis_names": frozenset(manual),
    }
