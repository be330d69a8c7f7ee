"""The encoder's configuration."""

from __future__ import annotations

import dataclasses
from typing import Any

from jaxflow.errors import InputError

__all__ = ["EncoderConfig"]


@dataclasses.dataclass(frozen=True)
class EncoderConfig:
    """Sizes of an `AgreementEncoder`; the defaults are the paper's model.

    Attributes
    ----------
    vocabulary
        Number of words, special tokens included.
    positions
        Longest input in tokens, ``[CLS]`` included.
    layers, heads, width
        Blocks, heads a block, and the embeddings' width, a multiple of `heads`.
    hidden_width
        Width of the feed-forward layer; None is four times `width`.
    classes
        Number of classes.
    dropout
        Rate on the embeddings, the attention weights and each residual branch while training.
    causal
        Whether a token attends only to itself and those before it.
    pad_id
        The padding token's number.
    """

    vocabulary: int = 10_003
    positions: int = 64
    layers: int = 6
    heads: int = 8
    width: int = 128
    hidden_width: int | None = None
    classes: int = 2
    dropout: float = 0.1
    causal: bool = False
    pad_id: int = 0

    def __post_init__(self) -> None:
        sizes = ["vocabulary", "positions", "layers", "heads", "width", "classes"]
        if self.hidden_width is not None:
            sizes.append("hidden_width")
        for name in sizes:
            size = getattr(self, name)
            if isinstance(size, bool) or not isinstance(size, int) or size < 1:
                raise InputError(f"{name} must be a whole number of at least 1, got {size!r}")
        if self.width % self.heads:
            raise InputError(
                f"width must be a multiple of heads, got width {self.width} for {self.heads} heads"
            )
        if not 0 <= self.dropout < 1:
            raise InputError(f"dropout must be at least 0 and below 1, got {self.dropout}")

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as a JSON-ready dictionary."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> EncoderConfig:
        """Build a configuration from `to_dict`'s result.

        Raises
        ------
        InputError
            If a field is unknown or holds an impossible value.
        """
        try:
            return cls(**fields)
        except TypeError as error:
            raise InputError(f"the model's configuration does not fit: {error}") from error
