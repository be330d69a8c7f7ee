"""Hold a model's sizes in frozen configurations, checked when they are made."""

from __future__ import annotations

import dataclasses
import functools
import reprlib
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self, Union, get_args, get_origin, get_type_hints

from jaxflow.errors import InputError
from jaxflow.models.blocks import BlockConfig
from jaxflow.models.layers import ACTIVATIONS, EPSILON, SPELLINGS
from jaxflow.models.output import Answer

Head = Literal["none", "classification", "masked-lm", "lm"]
"""The head of a model: none, classes, the masked tokens, or the next ones."""

Problem = Literal["single-label", "multi-label", "regression"]
"""What a classification head was trained for: one class, any number of them, or numbers."""

#: Sizes beyond these are refused before anything is allocated for them.
LARGEST, MOST_LAYERS, MOST_CLASSES = 1 << 24, 1 << 10, 1 << 16

_SIZES = (
    "vocabulary", "positions", "patch", "channels", "layers", "heads", "key_heads", "head_width",
    "width", "hidden_width", "classes",
)  # fmt: skip
_RATES = ("dropout", "attention_dropout", "readout_dropout", "embedding_dropout")


class ConfigRecord:
    """Base of the configurations: what they have in common, and to a dictionary and back."""

    @property
    def reads_last(self) -> bool:
        """Return whether classes are computed from the last real token instead of the first."""
        return False

    @property
    def causal(self) -> bool:
        """Whether a token attends only to itself and those before it."""
        return False

    @property
    def norm_first(self) -> bool:
        """Whether blocks are pre-LayerNorm."""
        return True

    @property
    def classes(self) -> int:
        """Number of classes."""
        return len(self.labels)  # type: ignore[attr-defined]

    @property
    def answer(self) -> Answer:
        """The kind of the model's answer; one output without a stated problem is a regression."""
        config: Any = self
        if config.head == "none":
            return "none"
        if config.head != "classification":
            return "tokens"
        stated: Problem | None = getattr(config, "problem", None)
        return stated or ("regression" if self.classes == 1 else "single-label")

    @property
    def block(self) -> BlockConfig:
        """The blocks' configuration."""
        config: Any = self
        return BlockConfig(
            layers=config.layers,
            heads=config.heads,
            width=config.width,
            hidden_width=config.hidden_width or 4 * config.width,
            dropout=config.dropout,
            attention_dropout=getattr(config, "attention_dropout", config.dropout),
            activation=getattr(config, "activation", ACTIVATIONS[0]),
            epsilon=getattr(config, "epsilon", EPSILON),
            norm_first=config.norm_first,
        )

    def __repr__(self) -> str:
        names = [field.name for field in dataclasses.fields(self)]  # type: ignore[arg-type]
        stated = ", ".join(f"{name}={reprlib.repr(getattr(self, name))}" for name in names)
        return f"{type(self).__name__}({stated})"

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

        Raises `InputError` if a field is unknown or holds an impossible value.
        """
        try:
            check_fields(cls, fields)
        except InputError as error:
            raise InputError(f"the model's configuration does not fit: {error}") from error
        return cls(
            **{
                name: tuple(value) if isinstance(value, list) else value
                for name, value in fields.items()
            }
        )


def check_config(config: Any, heads: tuple[Head, ...]) -> None:
    """Check the fields that configurations share: sizes, rates, head, labels, activation, padding.

    `heads` are the heads that the architecture has.
    """
    if config.head not in heads:
        choice = f"{', '.join(heads[:-1])} or {heads[-1]}" if heads[1:] else heads[0]
        raise InputError(f"head must be {choice}, got {config.head!r}")
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if field.name in _SIZES and not (value is None and field.default is None):
            _check_size(field.name, value)
        elif field.name in _RATES and not 0 <= value < 1:
            raise InputError(f"{field.name} must be at least 0 and below 1, got {value}")
    if config.width % config.heads and not hasattr(config, "head_width"):
        raise InputError(
            f"width must be a multiple of heads, got width {config.width} for {config.heads} heads"
        )
    activation = getattr(config, "activation", ACTIVATIONS[0])
    if activation not in ACTIVATIONS:
        raise InputError(f"activation must be one of {', '.join(ACTIVATIONS)}, got {activation!r}")
    if (config.head == "classification") != bool(config.classes):
        raise InputError(
            f"labels must be named for the head classification alone, got {config.labels} for "
            f"{config.head}"
        )
    if len(set(config.labels)) < config.classes:
        raise InputError(f"labels must be of different names, got {config.labels}")
    _check_problem(config)
    pad_id = getattr(config, "pad_id", None)
    if pad_id is not None and not (type(pad_id) is int and 0 <= pad_id < config.vocabulary):
        raise InputError(
            f"pad_id must be a number of the vocabulary, below {config.vocabulary}, got {pad_id!r}"
        )


def _check_problem(config: Any) -> None:
    problem = getattr(config, "problem", None)
    if problem is None:
        return
    if problem not in get_args(Problem):
        raise InputError(f"problem must be {' or '.join(get_args(Problem))}, got {problem!r}")
    if config.head != "classification":
        raise InputError(f"problem must be None without classes, got {problem!r}")
    if problem == "single-label" and config.classes == 1:
        raise InputError(
            "a single-label problem must have at least 2 classes, got 1, whose probability is "
            "always 1: state a regression or a multi-label problem"
        )


def _check_size(name: str, size: Any) -> None:
    largest = {"layers": MOST_LAYERS, "classes": MOST_CLASSES}.get(name, LARGEST)
    if isinstance(size, bool) or not isinstance(size, int) or size < 1:
        raise InputError(f"{name} must be a whole number of at least 1, got {size!r}")
    if size > largest:
        raise InputError(f"{name} must be at most {largest:,}, got {size:,}")


def read_field(fields: Mapping[str, Any], name: str, default: Any, largest: int = LARGEST) -> Any:
    """Return a field of the kind of its default: flag, rate, name, or size (also for None)."""
    value = fields.get(name, default)
    if isinstance(default, str):  # the configuration checks the name
        return SPELLINGS.get(value, value) if isinstance(value, str) else value
    if isinstance(default, bool):
        if not isinstance(value, bool):
            raise InputError(f"{name} must be true or false, got {value!r}")
        return value
    if isinstance(default, float):
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
            raise InputError(f"{name} must be a number from 0 to 1, got {value!r}")
        return float(value)
    if value is None and (default is None or name == "pad_token_id"):
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= largest:
        raise InputError(f"{name} must be a whole number from 0 to {largest:,}, got {value!r}")
    return value


@dataclasses.dataclass(frozen=True, repr=False)
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
        Whether a token attends only to itself and those before it: the decoder variant, whose
        class is computed from the last word, since ``[CLS]`` attends to nothing but itself.
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
        check_config(self, ("classification",))

    @property
    def reads_last(self) -> bool:
        """Return whether the class is computed from the last word instead of ``[CLS]``."""
        return self.causal

    @property
    def head(self) -> Head:
        """The model's head."""
        return "classification"

    @property
    def labels(self) -> tuple[str, ...]:
        """The classes' names: the number of the verb that continues the sentence."""
        if self.classes == 2:
            return ("singular", "plural")
        return tuple(f"class {number}" for number in range(self.classes))


_NAMES = {
    bool: "true or false", int: "a whole number", float: "a number", str: "text", Path: "text",
}  # fmt: skip


def check_fields(record: type, fields: Mapping[str, Any]) -> None:
    """Check values read from JSON against the types of a dataclass's fields.

    Types may be bool, int, float, str, `Path`, tuples of one of these, literals, or None. A whole
    number passes for a float, a list for a tuple, and text for a path. Raises `InputError` if
    `fields` is no mapping, or a field is unknown, of another type or a whole number of more than 63
    bits.
    """
    if not isinstance(fields, Mapping):
        raise InputError(f"fields must be one JSON object, got {fields!r}")
    known = _kinds(record)
    for name, value in fields.items():
        if name not in known:
            raise InputError(f"there must be no other fields than {', '.join(known)}, got {name!r}")
        if not _fits(value, known[name]):
            raise InputError(f"{name} must be {_described(known[name])}, got {value!r}")


@functools.cache
def _kinds(record: Any) -> dict[str, Any]:
    kinds = get_type_hints(record)
    return {field.name: kinds[field.name] for field in dataclasses.fields(record)}


def _fits(value: Any, kind: Any) -> bool:
    origin = get_origin(kind)
    if origin is Literal:
        return isinstance(value, str) and value in get_args(kind)
    if origin in (Union, types.UnionType):
        return any(_fits(value, part) for part in get_args(kind))
    if origin is tuple:
        parts = get_args(kind)
        if not isinstance(value, list | tuple):
            return False
        if parts[-1] is Ellipsis:
            return all(_fits(part, parts[0]) for part in value)
        return len(value) == len(parts) and all(map(_fits, value, parts))
    if isinstance(value, bool):
        return kind is bool
    if isinstance(value, int):  # of any number of digits, which no array holds
        return kind in (int, float) and abs(value) < 1 << 63
    return isinstance(value, kind) or (kind is Path and isinstance(value, str))


def _described(kind: Any) -> str:
    origin = get_origin(kind)
    if origin is Literal:
        return " or ".join(get_args(kind))
    if origin in (Union, types.UnionType):
        return " or ".join(_described(part) for part in get_args(kind))
    if origin is tuple:
        return f"a list, each {_described(get_args(kind)[0])}"
    return "null" if kind is type(None) else _NAMES[kind]
