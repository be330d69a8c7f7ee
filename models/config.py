"""Configurations: frozen records of sizes that say at once what cannot be."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal, Self

from jaxflow.errors import InputError
from jaxflow.models.blocks import BlockConfig
from jaxflow.models.fields import check_fields
from jaxflow.models.layers import ACTIVATIONS

__all__ = [
    "LARGEST",
    "MOST_LAYERS",
    "ConfigRecord",
    "EncoderConfig",
    "Head",
    "check_heads",
    "check_labels",
    "check_pad_id",
    "check_rates",
    "check_sizes",
]

Head = Literal["none", "classification", "masked-lm", "lm"]
"""What is read off a model: nothing, classes, the masked tokens, or the next ones."""


#: Sizes beyond these are refused before anything is made for them.
LARGEST, MOST_LAYERS = 1 << 24, 1 << 10


class ConfigRecord:
    """Base of the configurations: to a dictionary and back."""

    @property
    def reads_last(self) -> bool:
        """Whether classes are read off the last real token, and not off the first one."""
        return False

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as a JSON-ready dictionary."""
        fields: dict[str, Any] = dataclasses.asdict(self)  # type: ignore[call-overload]
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in fields.items()
        }

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Self:
        """Build a configuration from `to_dict`'s result.

        Raises
        ------
        InputError
            If a field is unknown or holds an impossible value.
        """
        try:
            check_fields(cls, fields)
        except InputError as error:
            raise InputError(f"the model's configuration does not fit: {error}") from error
        given = dict(fields)
        for name, value in given.items():
            given[name] = tuple(value) if isinstance(value, list) else value
        return cls(**given)


def check_sizes(config: Any, *names: str) -> None:
    """Check that fields are whole numbers of at least 1, and not beyond what any model has."""
    for name in names:
        size, largest = getattr(config, name), MOST_LAYERS if name == "layers" else LARGEST
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            raise InputError(f"{name} must be a whole number of at least 1, got {size!r}")
        if size > largest:
            raise InputError(f"{name} must be at most {largest:,}, got {size:,}")


def check_pad_id(config: Any) -> None:
    """Check that the padding's number is one of the vocabulary, or None."""
    number = config.pad_id
    if number is not None and not (type(number) is int and 0 <= number < config.vocabulary):
        raise InputError(
            f"pad_id must be a number of the vocabulary, below {config.vocabulary}, got {number!r}"
        )


def check_heads(config: Any) -> None:
    """Check that the heads divide the width, and that the activation is known."""
    if config.width % config.heads:
        raise InputError(
            f"width must be a multiple of heads, got width {config.width} for {config.heads} heads"
        )
    activation = getattr(config, "activation", ACTIVATIONS[0])
    if activation not in ACTIVATIONS:
        raise InputError(f"activation must be one of {', '.join(ACTIVATIONS)}, got {activation!r}")


def check_labels(config: Any) -> None:
    """Check that classes are named where, and only where, they are read off."""
    if (config.head == "classification") != bool(config.labels):
        raise InputError(
            f"labels must be named for the head classification alone, got {config.labels} for "
            f"{config.head}"
        )


def check_rates(config: Any, *names: str) -> None:
    """Check that dropout rates are at least 0 and below 1."""
    for name in names:
        rate = getattr(config, name)
        if not 0 <= rate < 1:
            raise InputError(f"{name} must be at least 0 and below 1, got {rate}")


@dataclasses.dataclass(frozen=True)
class EncoderConfig(ConfigRecord):
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
        Whether a token attends only to itself and those before it: the encoder's decoder twin,
        whose class is read off the last word, since ``[CLS]`` sees nothing but itself.
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
        check_sizes(self, *sizes, *(["hidden_width"] if self.hidden_width is not None else []))
        check_heads(self)
        check_rates(self, "dropout")
        check_pad_id(self)

    @property
    def reads_last(self) -> bool:
        """Whether the class is read off the last word, and not off ``[CLS]``."""
        return self.causal

    @property
    def head(self) -> Head:
        """What is read off the model."""
        return "classification"

    @property
    def labels(self) -> tuple[str, ...]:
        """The classes' names: which verb would go on with the sentence."""
        if self.classes == 2:
            return ("singular", "plural")
        return tuple(f"class {number}" for number in range(self.classes))

    @property
    def block(self) -> BlockConfig:
        """The blocks' configuration."""
        return BlockConfig(
            layers=self.layers,
            heads=self.heads,
            width=self.width,
            hidden_width=self.hidden_width or 4 * self.width,
            dropout=self.dropout,
            attention_dropout=self.dropout,
        )
