"""Define layer normalisation, GELU and the matrix product of attention, with their derivatives.

`PLAIN` has them as formulas, differentiable in every mode of JAX. `TRAINING` has the same
values with a reverse derivative written out, and no forward one: it needs fewer passes over memory
than automatic differentiation, and orders small matrix products as compilers handle them best. On
a CPU that saves a quarter of a training step.
"""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

EPSILON = 1e-5
"""Added to the variance by layer normalisation where nothing else is given, as in GPT-2."""

#: Activations by their names in published configurations, but for the two that Layers has.
_NAMED: dict[str, Callable[[jax.Array], jax.Array]] = {
    "relu": jax.nn.relu,
    "silu": jax.nn.silu,
    "quick_gelu": lambda values: values * jax.nn.sigmoid(1.702 * values),
    "mish": lambda values: values * jnp.tanh(jax.nn.softplus(values)),
    "relu2": lambda values: jnp.square(jax.nn.relu(values)),
    "relu6": jax.nn.relu6,
    "leaky_relu": jax.nn.leaky_relu,
    "hardswish": jax.nn.hard_swish,
    "tanh": jnp.tanh,
    "sigmoid": jax.nn.sigmoid,
    "linear": lambda values: values,
}
ACTIVATIONS = ("gelu_new", "gelu_pytorch_tanh", "gelu", *_NAMED)
"""The activations of feed-forward layers, by the names that published configurations use."""

SPELLINGS = {
    "gelu_python": "gelu",
    "gelu_fast": "gelu_new",
    "gelu_accurate": "gelu_new",
    "gelu_python_tanh": "gelu_new",
    "swish": "silu",
}
"""Other names of the same functions."""

_SLOPE, _CUBE = math.sqrt(2 / math.pi), 0.044715


class Layers(NamedTuple):
    r"""The functions that a block is made of.

    Attributes
    ----------
    layer_norm
        From values ``[..., D]``, scale and bias ``[D]`` and epsilon to
        :math:`(x - \bar x) / \sqrt{\mathrm{var}(x) + \epsilon} \cdot s + b`.
    gelu
        GPT-2's :math:`\frac{x}{2} (1 + \tanh(\sqrt{2 / \pi} (x + 0.044715 x^3)))`.
    exact_gelu
        BERT's :math:`x \Phi(x)`, Φ the normal distribution function.
    product
        Matrix product of ``[..., m, k]`` and ``[..., k, d]``.
    """

    layer_norm: Callable[..., jax.Array]
    gelu: Callable[[jax.Array], jax.Array]
    exact_gelu: Callable[[jax.Array], jax.Array]
    product: Callable[[jax.Array, jax.Array], jax.Array]

    def activation(self, name: str) -> Callable[[jax.Array], jax.Array]:
        """Return the activation of one of the names in `ACTIVATIONS`."""
        if name in ("gelu_new", "gelu_pytorch_tanh"):
            return self.gelu
        return self.exact_gelu if name == "gelu" else _NAMED[name]


def _normal(values: jax.Array, epsilon: float) -> tuple[jax.Array, jax.Array]:
    values = values.astype(jnp.promote_types(values.dtype, jnp.float32))
    centred = values - values.mean(-1, keepdims=True)
    inverse = jax.lax.rsqrt(jnp.square(centred).mean(-1, keepdims=True) + epsilon)
    return centred * inverse, inverse


def _layer_norm(
    values: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float = EPSILON
) -> jax.Array:
    scale, bias = (jnp.expand_dims(part, range(values.ndim - 1)) for part in (scale, bias))
    # Statistics are in float32 also for half precision; the result has the input's precision.
    return (_normal(values, epsilon)[0] * scale + bias).astype(values.dtype)


def rms_norm(values: jax.Array, scale: jax.Array, epsilon: float) -> jax.Array:
    """Divide ``[..., D]`` by its root mean square and multiply by scale ``[D]``."""
    wide = values.astype(jnp.promote_types(values.dtype, jnp.float32))
    inverse = jax.lax.rsqrt(jnp.square(wide).mean(-1, keepdims=True) + epsilon)
    scale = jnp.expand_dims(scale, range(values.ndim - 1))
    return (wide * inverse * scale).astype(values.dtype)


def _gelu(values: jax.Array) -> jax.Array:
    return 0.5 * values * (1 + jnp.tanh(_SLOPE * (values + _CUBE * values**3)))


def _exact_gelu(values: jax.Array) -> jax.Array:
    halved = 0.5 * values  # one constant less: some compilers write each out at the values' size
    return halved + halved * jax.lax.erf(values * math.sqrt(0.5))


def exact(method: Callable[..., Any]) -> Callable[..., Any]:
    """Multiply at full precision in a method ``(values, mask, train, ...)``, unless it trains.

    The default on accelerators is TF32 or bfloat16, which attention would be off by.
    """

    @functools.wraps(method)
    def run(
        self: Any, values: Any, mask: Any, train: bool = False, *more: Any, **named: Any
    ) -> Any:
        fast = contextlib.nullcontext()
        with fast if train else jax.default_matmul_precision("highest"):
            return method(self, values, mask, train, *more, **named)

    return run


def _product(left: jax.Array, right: jax.Array) -> jax.Array:
    return left @ right


PLAIN = Layers(_layer_norm, _gelu, _exact_gelu, _product)

_train_layer_norm = jax.custom_vjp(_layer_norm, nondiff_argnums=(3,))
_train_gelu = jax.custom_vjp(_gelu)
_train_exact_gelu = jax.custom_vjp(_exact_gelu)
_train_product = jax.custom_vjp(_product)


def _layer_norm_kept(
    values: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float
) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    scale, bias = (jnp.expand_dims(part, range(values.ndim - 1)) for part in (scale, bias))
    normal, inverse = _normal(values, epsilon)
    # The derivative takes the values' dtype from this array.
    kept = (normal, inverse, scale, jnp.zeros((), values.dtype))
    return (normal * scale + bias).astype(values.dtype), kept


def _layer_norm_pulled(
    _: float, kept: tuple[jax.Array, ...], pull: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    normal, inverse, scale, like = kept
    inner = pull * scale
    along = (inner * normal).mean(-1, keepdims=True)
    back = (inner - inner.mean(-1, keepdims=True) - normal * along) * inverse
    rows = tuple(range(pull.ndim - 1))
    of_scale, of_bias = (pull * normal).sum(rows), pull.sum(rows)
    return back.astype(like.dtype), of_scale.astype(scale.dtype), of_bias.astype(scale.dtype)


def _gelu_kept(values: jax.Array) -> tuple[jax.Array, jax.Array]:
    return _gelu(values), values


def _gelu_pulled(values: jax.Array, pull: jax.Array) -> tuple[jax.Array]:
    # With the barrier tanh is computed again, which costs less than writing and reading it.
    values = jax.lax.optimization_barrier(values)
    tanh = jnp.tanh(_SLOPE * (values + _CUBE * values**3))
    inner = _SLOPE * (1 + 3 * _CUBE * values**2)
    return (pull * 0.5 * (1 + tanh + values * (1 - tanh**2) * inner),)


def _exact_gelu_kept(values: jax.Array) -> tuple[jax.Array, jax.Array]:
    return _exact_gelu(values), values


def _exact_gelu_pulled(values: jax.Array, pull: jax.Array) -> tuple[jax.Array]:
    values = jax.lax.optimization_barrier(values)  # as above
    share = 0.5 * (1 + jax.lax.erf(values * math.sqrt(0.5)))
    density = jnp.exp(-0.5 * values**2) / math.sqrt(2 * math.pi)
    return (pull * (share + values * density),)


def _product_kept(
    left: jax.Array, right: jax.Array
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return left @ right, (left, right)


def _product_pulled(
    kept: tuple[jax.Array, jax.Array], pull: jax.Array
) -> tuple[jax.Array, jax.Array]:
    left, right = kept
    # Without the barrier the transposition is folded into the product, and batches of small
    # products with a transposed left side are several times slower than any others on a CPU.
    return pull @ right.mT, jax.lax.optimization_barrier(left.mT) @ pull


_train_layer_norm.defvjp(_layer_norm_kept, _layer_norm_pulled)
_train_gelu.defvjp(_gelu_kept, _gelu_pulled)
_train_exact_gelu.defvjp(_exact_gelu_kept, _exact_gelu_pulled)
_train_product.defvjp(_product_kept, _product_pulled)

TRAINING = Layers(_train_layer_norm, _train_gelu, _train_exact_gelu, _train_product)


def layers_of(train: bool) -> Layers:
    """Return `TRAINING` while training, else `PLAIN`."""
    return TRAINING if train else PLAIN
