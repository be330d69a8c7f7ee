"""The Vision Transformer: an image cut into patches, encoded by pre-LayerNorm blocks.

Dosovitskiy et al., An Image is Worth 16x16 Words, ICLR 2021.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxflow.errors import InputError
from jaxflow.models.attention import allowed_pairs, dropout
from jaxflow.models.blocks import BlockConfig, LayerNorm, make_blocks, normal, run_blocks
from jaxflow.models.config import (
    ConfigRecord,
    Head,
    check_heads,
    check_labels,
    check_rates,
    check_sizes,
)
from jaxflow.models.inputs import full_mask
from jaxflow.models.layers import PLAIN, TRAINING
from jaxflow.models.output import EncoderOutput, at_least_float32

__all__ = ["ViT", "ViTConfig"]


@dataclasses.dataclass(frozen=True)
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
    labels
        The classes' names; empty without a classification head.
    activation, epsilon
        Of the feed-forward layers, by the name in published configurations; of the norms.
    dropout, attention_dropout
        Rates while training: embeddings and branches, attention weights.
    readout
        ``cls`` reads the classes off the first token, ``mean`` off the patches' mean.
    mean, std
        What is taken from a pixel's values, from 0 to 1, and what they are divided by, by channel.
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
    activation: str = "gelu"
    epsilon: float = 1e-12
    dropout: float = 0.0
    attention_dropout: float = 0.0
    readout: Literal["cls", "mean"] = "cls"
    mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    std: tuple[float, ...] = (0.5, 0.5, 0.5)

    def __post_init__(self) -> None:
        if self.head not in ("none", "classification"):
            raise InputError(f"head must be none or classification, got {self.head!r}")
        sizes = ["patch", "channels", "layers", "heads", "width"]
        check_sizes(self, *sizes, *(["hidden_width"] if self.hidden_width is not None else []))
        check_heads(self)
        check_rates(self, "dropout", "attention_dropout")
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
        check_labels(self)

    @property
    def classes(self) -> int:
        """Number of classes."""
        return len(self.labels)

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches."""
        return self.image[0] // self.patch, self.image[1] // self.patch

    @property
    def positions(self) -> int:
        """Tokens of an image: ``[CLS]`` and the patches, row by row."""
        return 1 + self.grid[0] * self.grid[1]

    @property
    def block(self) -> BlockConfig:
        """The blocks' configuration."""
        return BlockConfig(
            layers=self.layers,
            heads=self.heads,
            width=self.width,
            hidden_width=self.hidden_width or 4 * self.width,
            dropout=self.dropout,
            attention_dropout=self.attention_dropout,
            activation=self.activation,
            epsilon=self.epsilon,
        )


class ViT(nn.Module):
    """A Vision Transformer; its tokens are ``[CLS]`` and the patches, row by row."""

    config: ViTConfig
    rolled: bool = False

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

    def __call__(
        self,
        pixels: jax.Array,
        mask: jax.Array | None = None,
        train: bool = False,
        *,
        values: bool = False,
    ) -> EncoderOutput:
        """Encode and classify images.

        Parameters
        ----------
        pixels
            ``[B, height, width, channels]``, normalised by the configuration's mean and deviation.
        mask
            ``[B, n]`` boolean over ``[CLS]`` and the patches, False at those to be left out of
            attention; None keeps all.
        train
            Whether to drop out; needs a ``dropout`` key in ``rngs``.
        values
            Whether to return value vectors and output projections too.

        Returns
        -------
        EncoderOutput
            Logits, attention and hidden states of n = 1 + patches tokens, the last hidden state
            before the closing norm; ``pooled`` is what the classes are read off.

        Raises
        ------
        InputError
            If the pixels are not of the configuration's shape.
        """
        return self.encode(self.embed(pixels), mask, train, values=values)

    def embed(self, pixels: jax.Array) -> jax.Array:
        """Embed ``[CLS]`` and the patches: ``[B, n, D]``, positions not yet added."""
        config = self.config
        pixels = jnp.asarray(pixels)
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
        embedded = self.patches(flat)  # [B, patches, D]
        first = jnp.broadcast_to(self.cls, (batch, 1, config.width))
        return jnp.concatenate([first, embedded], 1)

    def encode(
        self,
        embeddings: jax.Array,
        mask: jax.Array | None = None,
        train: bool = False,
        *,
        values: bool = False,
        offsets: jax.Array | None = None,
    ) -> EncoderOutput:
        """Encode and classify embeddings ``[B, n, D]`` of ``[CLS]`` and the patches.

        `offsets`, ``[B, L, H, n, n]``, are added to the attention that mixes values.
        """
        config = self.config
        if embeddings.shape[1] != config.positions:
            raise InputError(
                f"embeddings must be of {config.positions} tokens, got {embeddings.shape[1]}"
            )
        mask = full_mask(embeddings, mask, config.positions)
        stream = embeddings + self.position[None]
        if train and config.dropout:
            stream = dropout(self.make_rng("dropout"), stream, config.dropout)
        allowed = allowed_pairs(mask, causal=False)
        trunk = run_blocks(self.blocks, stream, allowed, train, with_values=values, offsets=offsets)

        layers = TRAINING if train else PLAIN
        if config.readout == "cls":
            pooled = self.norm(trunk.stream[:, 0], layers)
        else:
            weights = mask[:, 1:, None] / jnp.maximum(mask[:, 1:].sum(-1), 1)[:, None, None]
            normed = self.norm(trunk.stream[:, 1:], layers)
            pooled = (normed * weights.astype(normed.dtype)).sum(1)
        logits = None
        if config.head == "classification":
            logits = at_least_float32(self.readout(pooled))
        return EncoderOutput(logits, trunk.attention, trunk.hidden, pooled, trunk.values)

    def classify(
        self, pixels: jax.Array, mask: jax.Array | None = None, train: bool = False
    ) -> jax.Array:
        """Return the logits ``[B, C]`` alone."""
        # What else is worked out is dropped by the compiler.
        logits: Any = self(pixels, mask, train).logits
        return logits
