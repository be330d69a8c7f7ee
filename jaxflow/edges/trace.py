"""Hold the intermediate values of a forward pass that edge weights are computed from."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxflow.attention import Array, as_layers, check_layout, check_values, is_traced
from jaxflow.errors import InputError


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Norm:
    """Layer normalisation of every layer, or RMSNorm.

    Attributes
    ----------
    scale, bias
        ``[L, D]``; no bias is None.
    epsilon
        Added to the variance.
    rms
        Whether vectors are divided by their root mean square, no mean subtracted (RMSNorm).
    """

    scale: Array
    bias: Array | None
    epsilon: float = dataclasses.field(metadata={"static": True})
    rms: bool = dataclasses.field(default=False, metadata={"static": True})


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class BlockWeights:
    """The parameters of all blocks, but those of queries and keys.

    Attributes
    ----------
    projection, projection_bias
        ``[L, H, d, D]`` and ``[L, D]``, of the attention's output.
    norm_attention, norm_feed_forward
        Normalisation of a branch's input (`norm_first`), or of the sum after the branch.
    up, up_bias, down, down_bias
        ``[L, D, F]``, ``[L, F]``, ``[L, F, D]`` and ``[L, D]``, of the feed-forward layer. Where
        it is `gated`, `up` is ``[L, D, 2 F]``, the gate first. Experts have an axis after L.
    activation
        ``gelu_new`` (and ``gelu_pytorch_tanh``), ``gelu``, ``relu`` or ``silu``.
    norm_first
        True where branches read normalised values (pre-LayerNorm).
    value, value_bias
        ``[L, D, H, d]`` and ``[L, H, d]``: value vectors are an attention's input times these.
        Only DecompX needs them. Heads that share keys and values have a copy each.
    gated
        Whether the feed-forward layer is act(x G) * (x U), `up` being G and U.
    parallel
        Whether the feed-forward layer reads the block's input, not the stream after attention.
    norm_attention_out, norm_feed_forward_out
        Normalisation of what a branch adds to the stream; None is none.
    router, router_bias, chosen
        ``[L, D, E]`` and ``[L, E]``, the choice among a mixture of experts, and how many are
        chosen; None and 0 without one.
    """

    projection: Array
    projection_bias: Array
    norm_attention: Norm
    norm_feed_forward: Norm
    up: Array
    up_bias: Array
    down: Array
    down_bias: Array
    activation: str = dataclasses.field(metadata={"static": True})
    norm_first: bool = dataclasses.field(metadata={"static": True})
    value: Array | None = None
    value_bias: Array | None = None
    gated: bool = dataclasses.field(default=False, metadata={"static": True})
    parallel: bool = dataclasses.field(default=False, metadata={"static": True})
    norm_attention_out: Norm | None = None
    norm_feed_forward_out: Norm | None = None
    router: Array | None = None
    router_bias: Array | None = None
    chosen: int = dataclasses.field(default=0, metadata={"static": True})


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Trace:
    """A forward pass over n tokens; every field but the attention may be None.

    Fields with a layer axis may be lists or tuples of layers, without that axis, as `transformers`
    returns attention and hidden states.

    Attributes
    ----------
    attention
        ``[..., L, H, n, n]``, rows summing to 1 at real queries, padded keys 0. With a `sink` they
        sum to 1 with its share.
    mask
        ``[..., n]`` boolean, True at real tokens.
    gradient
        ``[..., L, H, n, n]``, of the explained output with respect to the attention of the same
        layer, all layers above recomputed from it.
    vectors
        ``[..., L, H, n, d]``, the value vectors, their bias included.
    stream
        ``[..., L + 1, n, D]``, the input of the first block, then the output of each block.
    blocks
        The blocks' parameters.
    special
        ``[..., n]`` boolean, True at special tokens such as ``[CLS]`` and ``[SEP]``.
    relevance
        ``[..., L, H, n, n]``, the attention's relevance for the explained output, propagated down
        from it layer by layer.
    sink
        ``[..., L, H, n]``, the share of each row that went to an attention sink, a key without a
        token and without a value; None of models without them.
    visible
        ``[..., L, n, n]`` boolean, the keys that a layer's queries may attend to, where layers
        differ in it. None takes those that any head of any layer attends to.
    """

    attention: Array
    mask: Array | None = None
    gradient: Array | None = None
    vectors: Array | None = None
    stream: Array | None = None
    blocks: BlockWeights | None = None
    special: Array | None = None
    relevance: Array | None = None
    sink: Array | None = None
    visible: Array | None = None


#: Fields that are checked wherever a trace has them.
_OPTIONAL = ("sink", "visible")

#: What each field is called in an error message.
_FIELDS = {
    "gradient": "the gradient with respect to attention",
    "vectors": "value vectors",
    "stream": "hidden states",
    "blocks": "the blocks' parameters",
    "special": "which tokens are special",
    "relevance": "relevances of attention (not of experts, for which there is no rule)",
}


def check_trace(trace: Trace, needs: tuple[str, ...], what: str) -> Trace:
    """Check the attention of a trace and the fields that `what` needs; stack lists of layers.

    Raises `InputError` for a field that is missing, does not go with the attention's shape, or,
    where it is not traced, holds NaN.
    """
    missing = [_FIELDS[name] for name in needs if getattr(trace, name) is None]
    if missing:
        raise InputError(
            f"{what} needs {' and '.join(missing)}, which this trace lacks: jaxflow.models.trace "
            "gives all that there is of a model; choose an edge weight that needs less"
        )
    attention, mask = check_layout(trace.attention, trace.mask)
    *batch, layers, heads, n, _ = attention.shape
    needs = (*needs, *(name for name in _OPTIONAL if getattr(trace, name) is not None))
    shapes = {
        "gradient": attention.shape,
        "relevance": attention.shape,
        "vectors": (*batch, layers, heads, n, None),
        "stream": (*batch, layers + 1, n, None),
        "special": (*batch, n),
        "sink": attention.shape[:-1],
        "visible": (*batch, layers, n, n),
    }
    found: dict[str, Any] = {}
    for name in (name for name in shapes if name in needs):
        axis = {"stream": -3, "sink": -3, "visible": -3}.get(name, -4)
        values = as_layers(name, getattr(trace, name), trace.mask, axis)
        wanted = shapes[name]
        if values.ndim != len(wanted) or any(
            size not in (None, given) for size, given in zip(wanted, values.shape, strict=True)
        ):
            raise InputError(
                f"{name} must have the shape {wanted} to go with attention {attention.shape}, None "
                f"being any size, got {values.shape}"
            )
        found[name] = values
        if name in ("special", "visible") or is_traced(values, mask):
            continue
        if name in ("gradient", "relevance"):
            check_values(values, mask, mask, name, "gradient")
        elif not (finite := np.isfinite(np.asarray(values))).all():
            layer = np.argwhere(~finite)[0][len(batch)]
            raise InputError(f"{name} must be finite, got NaN or infinite entries (layer {layer})")
    if not is_traced(attention, mask):
        whole = attention
        if "sink" in found:  # on the diagonal, where a row's sum has it
            own = np.eye(n, dtype=attention.dtype)
            whole = np.asarray(attention) + own * np.asarray(found["sink"])[..., None]
        check_values(whole, mask, mask)
    return dataclasses.replace(trace, attention=attention, mask=mask, **found)


def visible_keys(trace: Trace) -> jax.Array:
    """Return which keys each query can see, ``[..., L, n, n]`` boolean, or 1 in place of L.

    Where the trace does not state it: a model's mask leaves exactly 0 in all heads of all layers,
    and a softmax hardly ever does, so that a key is visible where any head of any layer attends to
    it. Padded keys are visible to no query.
    """
    if trace.visible is None:  # NaN is attention, too
        seen = (jnp.asarray(trace.attention) != 0).any((-4, -3))[..., None, :, :]
    else:
        seen = jnp.asarray(trace.visible)
    return seen if trace.mask is None else seen & jnp.asarray(trace.mask)[..., None, None, :]


def among_tokens(attention: Array, sink: Array | None) -> jax.Array:
    """Return the attention; with sinks that among tokens, rows divided by what sinks left.

    A token all of whose attention went to the sink attends to itself.
    """
    attention = jnp.asarray(attention)
    if sink is None:
        return attention
    total = attention.sum(-1, keepdims=True)
    own = jnp.broadcast_to(jnp.eye(attention.shape[-1], dtype=attention.dtype), attention.shape)
    return jnp.where(total == 0, own, attention / jnp.where(total == 0, 1, total))


#: From one layer's attention ``[..., H, n, n]``, value vectors ``[..., H, n, d]``, input
#: ``[..., n, D]``, parameters (`BlockWeights` without the layer axis) and more to its result.
LayerFunction = Callable[..., jax.Array]


def by_layer(trace: Trace, function: LayerFunction, *more: jax.Array) -> jax.Array:
    """Apply a function layer by layer, so that only one layer's vectors are in memory.

    The trace must have ``vectors``, ``stream`` and ``blocks``. The results, ``[..., n, n]``, get a
    layer axis before their last two. `more` are given to it too, ``[..., L, n, n]``. `function` is
    compiled once where it is a module's function, and again for every new closure.
    """
    assert trace.vectors is not None
    assert trace.stream is not None
    given: Any = (
        jnp.moveaxis(jnp.asarray(trace.attention), -4, 0),
        jnp.moveaxis(jnp.asarray(trace.vectors), -4, 0),
        jnp.moveaxis(jnp.asarray(trace.stream)[..., :-1, :, :], -3, 0),
        trace.blocks,
        *(jnp.moveaxis(array, -3, 0) for array in more),
    )
    return jnp.moveaxis(_mapped(function, given), 0, -3)


@partial(jax.jit, static_argnums=0)
def _mapped(function: LayerFunction, given: Any) -> jax.Array:
    return jax.lax.map(lambda layer: function(*layer), given)
