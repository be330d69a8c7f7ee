r"""Compute rotary positions: queries and keys turned by angles that grow with their position.

Su et al., RoFormer: Enhanced Transformer with Rotary Position Embedding, 2021. Of a head's first
`width` numbers, number i and number i + width / 2 are a pair, turned at position p by the angle
:math:`p \, \theta^{-2 i / width}`. Scalings change these frequencies for texts longer than those
a model was first trained on, by the names in published configurations: ``linear``, ``dynamic``,
``llama3``, ``yarn`` and ``longrope``.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from jaxflow.errors import InputError

Scaling = Literal["default", "linear", "dynamic", "llama3", "yarn", "longrope"]


@dataclasses.dataclass(frozen=True)
class Rotary:
    """The angles of one kind of layer.

    Attributes
    ----------
    width
        How many numbers of a head are turned, the first ones; an even number.
    theta
        Base of the frequencies.
    scaling
        How they are changed; ``default`` leaves them as they are.
    factor
        By how much texts are longer than at first; not of ``default``.
    trained
        Longest text of the first training, in tokens.
    amplitude
        What cosine and sine are multiplied by (``yarn`` and ``longrope``).
    low, high
        ``llama3``: waves longer than trained / low are slowed by the factor, waves shorter than
        trained / high kept. ``yarn``: the same by turns within the trained length, high to low.
    truncate
        Whether ``yarn`` rounds the bounds to whole pairs.
    short, long
        ``longrope``: a factor for every frequency, for texts up to the trained length and beyond.
    """

    width: int
    theta: float = 10_000.0
    scaling: Scaling = "default"
    factor: float = 1.0
    trained: int = 1
    amplitude: float = 1.0
    low: float = 1.0
    high: float = 4.0
    truncate: bool = True
    short: tuple[float, ...] = ()
    long: tuple[float, ...] = ()

    def frequencies(self, n: int) -> NDArray[np.float32]:
        """Return the angle that each pair is turned by from one token to the next, ``[width/2]``.

        `n` is the text's length, which ``dynamic`` and ``longrope`` depend on.
        """
        theta, factor = self.theta, self.factor
        if self.scaling == "dynamic" and n > self.trained:
            stretched = factor * n / self.trained - (factor - 1)
            theta *= stretched ** (self.width / (self.width - 2))
        exponents = np.arange(0, self.width, 2, dtype=np.float32) / np.float32(self.width)
        # In single precision throughout, as the models were trained.
        found: NDArray[np.float32] = np.float32(1) / np.power(np.float32(theta), exponents)
        if self.scaling == "linear":
            return (found / np.float32(factor)).astype(np.float32)
        if self.scaling == "llama3":
            wave = 2 * math.pi / found
            share = (self.trained / wave - self.low) / (self.high - self.low)
        elif self.scaling == "yarn":
            share = 1 - self._ramp()
        elif self.scaling == "longrope":
            factors = np.asarray(self.long if n > self.trained else self.short, np.float32)
            return (found / factors).astype(np.float32)
        else:
            return found
        share = np.clip(share, 0, 1).astype(np.float32)
        return ((1 - share) * found / np.float32(factor) + share * found).astype(np.float32)

    def _ramp(self) -> NDArray[np.float64]:
        """Return yarn's share of interpolation of every pair, from 0 to 1."""

        def place(turns: float) -> float:
            """Return the pair that turns so often within the trained length."""
            length = self.trained / (2 * math.pi * turns)
            return self.width * math.log(length) / (2 * math.log(self.theta))

        first, last = place(self.high), place(self.low)
        if self.truncate:
            first, last = math.floor(first), math.ceil(last)
        first, last = max(first, 0), min(last, self.width - 1)
        return np.asarray((np.arange(self.width // 2) - first) / (last - first or 0.001))

    def table(self, n: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return cosine and sine of n positions, each ``[n, width/2]``."""
        angles = np.arange(n, dtype=np.float32)[:, None] * self.frequencies(n)
        amplitude = np.float32(self.amplitude)
        return np.cos(angles) * amplitude, np.sin(angles) * amplitude


def rotate(values: jax.Array, cosine: jax.Array, sine: jax.Array) -> jax.Array:
    """Turn queries or keys ``[B, H, n, d]`` by tables ``[n, r/2]``; numbers beyond r stay."""
    half = cosine.shape[-1]
    first, second, rest = values[..., :half], values[..., half : 2 * half], values[..., 2 * half :]
    cosine, sine = (part[None, None].astype(values.dtype) for part in (cosine, sine))
    turned = (first * cosine - second * sine, second * cosine + first * sine)
    return jnp.concatenate([*turned, rest], -1)


def read_rotary(
    given: Mapping[str, Any] | None, theta: float, width: int, positions: int
) -> Rotary:
    """Return the rotary positions that ``rope_parameters`` (or ``rope_scaling``) describe.

    `theta` and `positions`, the longest text of the first training, are those where the object
    `given` names none; of a head's `width` numbers ``partial_rotary_factor`` are turned. Raises
    `InputError` if the scaling is not known, or lacks a number that it needs.
    """
    found = dict(given or {})
    scaling: Any = found.get("rope_type", found.get("type")) or "default"
    if scaling not in get_args(Scaling):
        raise InputError(
            f"rope_type must be one of {', '.join(get_args(Scaling))}, got {scaling!r}: other "
            "scalings of rotary positions are not built here"
        )

    def number(name: str, default: float | None = None) -> float:
        value = found.get(name)
        value = default if value is None else value
        if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
            raise InputError(f"{name} of {scaling} positions must be above 0, got {value!r}")
        return float(value)

    share = number("partial_rotary_factor", 1.0)
    width = int(width * share)
    if width < 2 or width % 2:
        raise InputError(
            f"partial_rotary_factor must leave an even number of a head's numbers, got {width}"
        )
    theta = number("rope_theta", theta)
    if scaling == "default":
        return Rotary(width, theta)
    trained = int(number("original_max_position_embeddings", positions))
    factor = number("factor", positions / trained if scaling in ("yarn", "longrope") else None)
    if trained < 2 or (scaling == "dynamic" and width < 4):
        raise InputError(f"{scaling} positions need more than {trained} positions, {width} numbers")
    if scaling in ("linear", "dynamic"):
        return Rotary(width, theta, scaling, factor, positions)
    if scaling == "llama3":
        low, high = number("low_freq_factor"), number("high_freq_factor")
        if low == high:
            raise InputError(f"low_freq_factor must be below high_freq_factor, got {low} twice")
        return Rotary(width, theta, "llama3", factor, trained, low=low, high=high)
    if found.get("attention_factor") is not None:
        amplitude = number("attention_factor")
    elif scaling == "longrope":
        amplitude = math.sqrt(1 + max(math.log(factor), 0) / math.log(trained))
    else:
        weights = [found.get(name) for name in ("mscale", "mscale_all_dim")]
        above, below = [float(weight or 0) for weight in weights] if all(weights) else (1.0, 0.0)
        amplitude = (0.1 * above * math.log(factor) + 1) / (0.1 * below * math.log(factor) + 1)
        amplitude = amplitude if factor > 1 else 1.0
    if scaling == "yarn":
        truncate = found.get("truncate")
        return Rotary(
            width, theta, "yarn", factor, trained, amplitude,
            low=number("beta_slow", 1), high=number("beta_fast", 32),
            truncate=truncate is not False,
        )  # fmt: skip
    lists = []
    for name in ("short_factor", "long_factor"):
        values = found.get(name)
        if (
            not isinstance(values, list | tuple)
            or len(values) != width // 2
            or not all(isinstance(value, int | float) and value > 0 for value in values)
        ):
            raise InputError(f"{name} must be a list of {width // 2} numbers, got {values!r}")
        lists.append(tuple(map(float, values)))
    return Rotary(
        width, theta, "longrope", factor, trained, amplitude, short=lists[0], long=lists[1]
    )


def write_rotary(rotary: Rotary, head_width: int) -> dict[str, Any]:
    """Return the ``rope_parameters`` that describe rotary positions; inverse of `read_rotary`."""
    found: dict[str, Any] = {"rope_type": rotary.scaling, "rope_theta": rotary.theta}
    if rotary.width != head_width:
        found["partial_rotary_factor"] = rotary.width / head_width
    if rotary.scaling != "default":
        found["factor"] = rotary.factor
    if rotary.scaling in ("llama3", "yarn", "longrope"):
        found["original_max_position_embeddings"] = rotary.trained
    if rotary.scaling == "llama3":
        found |= {"low_freq_factor": rotary.low, "high_freq_factor": rotary.high}
    if rotary.scaling in ("yarn", "longrope"):
        found["attention_factor"] = rotary.amplitude
    if rotary.scaling == "yarn":
        found |= {"beta_slow": rotary.low, "beta_fast": rotary.high, "truncate": rotary.truncate}
    if rotary.scaling == "longrope":
        found |= {"short_factor": list(rotary.short), "long_factor": list(rotary.long)}
    return found
