"""Define the Vision Transformer: an image cut into patches, encoded by pre-LayerNorm blocks.

Dosovitskiy et al., An Image is Worth 16x16 Words, ICLR 2021.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxflow.errors import InputError
from jaxflow.models.blocks import LayerNorm, Transformer, make_blocks, normal
from jaxflow.models.config import ConfigRecord, Head, Problem, check_config
from jaxflow.models.layers import exact, layers_of
from jaxflow.models.output import at_least_float32


@dataclasses.dataclass(frozen=True, repr=False)
class ViTConfig(ConfigRecord):
    """Sizes of a `ViT`; the defaults are those of ViT-base.

    Attributes
    ----------
    head
        ``classification`` or ``none``.
    image, patch, channels
        Height and width of an image in pixels, side of a patch, and values a pixel.
    layers, heads, width, hidden_width
        Blocks, heads a block, width of the stream and of the feed-forward layer.
    labels, problem, activation, epsilon
        The classes, what they were trained for, and the blocks' functions, as in `BertConfig`.
    dropout, attention_dropout
        Rates while training: embeddings and branches, attention weights.
    readout
        ``cls`` computes the classes from the first token, ``mean`` from the patches' mean.
    mean, std
        By channel, subtracted from a pixel's values (0 to 255, times `scale`), and divided by.
    scale
        Factor of the values of 8 bits.
    resize
        How a picture is resized before: to `image` (None), to a height and width, its shorter side
        to one number, or not at all, ``()``.
    crop
        Height and width that are cut from the middle then; None for the whole.
    resample
        Pillow's number of the filter.
    """

    head: Head = "classification"
    image: tuple[int, int] = (224, 224)
    patch: int = 16
    channels: int = 3
    layers: int = 12
    heads: int = 12
    width: int = 768
    hidden_width: int | None = None
    labels: tuple[str, ...] = ()
    problem: Problem | None = None
    activation: str = "gelu"
    epsilon: float = 1e-12
    dropout: float = 0.0
    attention_dropout: float = 0.0
    readout: Literal["cls", "mean"] = "cls"
    mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    std: tuple[float, ...] = (0.5, 0.5, 0.5)
    scale: float = 1 / 255
    resize: tuple[int, ...] | None = None
    crop: tuple[int, int] | None = None
    resample: int = 2

    def __post_init__(self) -> None:
        check_config(self, ("none", "classification"))
        if len(self.image) != 2 or any(side < 1 or side % self.patch for side in self.image):
            raise InputError(
                f"image must be height and width, multiples of the patch {self.patch}, got "
                f"{self.image}"
            )
        if self.readout not in ("cls", "mean"):
            raise InputError(f"readout must be cls or mean, got {self.readout!r}")
        if not len(self.mean) == len(self.std) == self.channels or min(self.std) <= 0:
            raise InputError(
                f"mean and std must be given for each of {self.channels} channels, std above 0, "
                f"got {self.mean} and {self.std}"
            )

        if len(self.resize or ()) > 2 or min(*(self.resize or ()), *(self.crop or ()), 1, 1) < 1:
            raise InputError(
                f"resize and crop must be sides in pixels, got {self.resize} and {self.crop}"
            )
        if self.resample not in range(6) or self.scale <= 0:
            raise InputError(
                "resample must be a filter from 0 to 5 and scale above 0, got "
                f"{self.resample} and {self.scale}"
            )

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches."""
        return self.image[0] // self.patch, self.image[1] // self.patch

    @property
    def positions(self) -> int:
        """Tokens of an image: ``[CLS]`` and the patches, row by row."""
        return 1 + self.grid[0] * self.grid[1]


class ViT(Transformer):
    """A Vision Transformer; its n tokens are ``[CLS]`` and the patches, row by row.

    It is called on pixels ``[B, height, width, channels]``, normalised by the configuration's mean
    and deviation; a mask ``[B, n]`` is False at tokens to be left out of attention. The last hidden
    state is that before the closing norm; ``pooled`` is the vector that classes are computed from.
    """

    config: ViTConfig

    def setup(self) -> None:
        """Name the parameters."""
        config, draw = self.config, normal(0.02)
        self.patches = nn.Dense(config.width, kernel_init=draw)
        self.cls = self.param("cls", draw, (config.width,))
        self.position = self.param("position", draw, (config.positions, config.width))
        self.blocks = make_blocks(config.block, self.rolled)
        self.norm = LayerNorm(config.epsilon)
        if config.head == "classification":
            self.readout = nn.Dense(config.classes, kernel_init=draw)

    def _checked(self, tokens: Any, mask: Any) -> tuple[jax.Array, Any]:
        return jnp.asarray(tokens), mask  # `embed` checks pixels

    def embed(self, tokens: jax.Array) -> jax.Array:
        """Return the embeddings ``[B, n, D]`` of ``[CLS]`` and the patches of pixels."""
        config, pixels = self.config, jnp.asarray(tokens)
        if pixels.shape[1:] != (*config.image, config.channels) or pixels.ndim != 4:
            raise InputError(
                f"pixels must be of shape [images, {config.image[0]}, {config.image[1]}, "
                f"{config.channels}], got {pixels.shape}"
            )
        if not jnp.issubdtype(pixels.dtype, jnp.floating):
            raise InputError(f"pixels must be normalised floating-point values, got {pixels.dtype}")
        batch, (rows, columns), side = len(pixels), config.grid, config.patch
        cut = pixels.reshape(batch, rows, side, columns, side, config.channels)
        flat = cut.transpose(0, 1, 3, 2, 4, 5).reshape(batch, rows * columns, -1)
        with jax.default_matmul_precision("highest"):
            embedded = self.patches(flat)  # [B, patches, D]
        first = jnp.broadcast_to(self.cls, (batch, 1, config.width))
        return jnp.concatenate([first, embedded], 1)

    def _begin(
        self, embeddings: jax.Array, mask: jax.Array, train: bool, **inputs: Any
    ) -> jax.Array:
        if embeddings.shape[1] != self.config.positions:
            raise InputError(
                f"embeddings must be of {self.config.positions} tokens, got {embeddings.shape[1]}"
            )
        return super()._begin(embeddings, mask, train, **inputs)

    @exact
    def _classify(
        self, stream: jax.Array, mask: jax.Array, train: bool
    ) -> tuple[jax.Array | None, jax.Array]:
        layers = layers_of(train)
        if self.config.readout == "cls":
            pooled = self.norm(stream[:, 0], layers)  # [B, D]
        else:
            weights = mask[:, 1:, None] / jnp.maximum(mask[:, 1:].sum(-1), 1)[:, None, None]
            normed = self.norm(stream[:, 1:], layers)
            pooled = (normed * weights.astype(normed.dtype)).sum(1)
        if self.config.head == "none":
            return None, pooled
        return at_least_float32(self.readout(pooled)), pooled
