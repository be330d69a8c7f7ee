"""What is known of an array of a traced program without its numbers."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

from jaxflow._capture.axes import Axes, Axis, Uid, constant, size_of

Path = tuple[tuple[int, int], ...]  # (equation, which of its programs), the outermost first


class At(NamedTuple):
    """An equation: the program that it is in, and its number there."""

    path: Path
    number: int


@dataclasses.dataclass(frozen=True)
class Tap:
    """An array of the program: an operand of an equation, or with `output` a result.

    Within ``shard_map``, `spec` is how the array is sharded.
    """

    at: At
    position: int
    output: bool = False
    spec: tuple[Any, ...] | None = None


@dataclasses.dataclass(frozen=True)
class Base:
    """What an array is up to terms that are constant along all axes but `varying`."""

    root: int
    varying: frozenset[Uid] = frozenset()

    def same(self, other: Base, over: frozenset[Uid]) -> bool:
        """Return whether two arrays differ by no more than a term that is constant along `over`."""
        return self.root == other.root and not (self.varying ^ other.varying) & over


# What an array is in terms of a softmax of the logits `base` over the axes `over`.


@dataclasses.dataclass(frozen=True)
class Exp:
    """The exponential of logits; another `version` of it is masked or scaled."""

    base: Base
    version: int = 0


@dataclasses.dataclass(frozen=True)
class Total:
    """The sum of exponentials; with `inverse` one over it, with `log` its logarithm."""

    base: Base
    over: frozenset[Uid]
    sink: bool = False
    inverse: bool = False
    log: bool = False
    version: int = 0
    others: tuple[Total, ...] = ()  # sums over other keys that were added to it

    def of(self, base: Base) -> Total | None:
        """Return which of the sums that were added is that of the exponentials of these logits."""
        sums = (self, *self.others)
        return next((one for one in sums if base.same(one.base, one.over)), None)


@dataclasses.dataclass(frozen=True)
class Soft:
    """A softmax; `made` is the array before dropout and gates.

    `cut` is which of its keys are left, `part` whether it covers keys of another array too.
    """

    base: Base
    over: frozenset[Uid]
    sink: bool = False
    made: tuple[Tap, Axes] | None = None
    cut: Any = None
    part: bool = False


@dataclasses.dataclass(frozen=True)
class LogSoft:
    """The logarithm of a softmax."""

    over: frozenset[Uid]
    sink: bool = False
    part: bool = False


@dataclasses.dataclass(frozen=True)
class Spread:
    """A softmax, or an exponential, multiplied with values and not yet summed over the keys."""

    tag: Soft | Exp
    taps: tuple[Tap, Tap]
    operands: tuple[Value, Value]


@dataclasses.dataclass(frozen=True)
class Product:
    """Exponentials summed with values, to be divided by their total."""

    base: Base
    over: frozenset[Uid]
    site: Found
    version: int = 0


@dataclasses.dataclass(frozen=True)
class Result:
    """What an attention returned."""

    site: Found


Tag = Any  # one of these, or None


@dataclasses.dataclass(frozen=True)
class Lost:
    """What was made of a softmax, or of exponentials, and is none of these any more.

    `keys` are the parts that it was normalised over; None of exponentials alone. `weighted` says
    that it was multiplied with values; `source` is where it was lost.
    """

    keys: frozenset[Uid] | None
    source: str
    weighted: bool = False


@dataclasses.dataclass(frozen=True, eq=False)
class Value:
    """An array: its axes, whether it depends on data, its logits, and what it is of a softmax.

    A `mask` is made of comparisons, random bits and constants only; a `leaf` is an argument that
    was at most moved, cast, scaled or compared. Within shard_map it differs along the mesh axes
    `devices`.
    """

    axes: Axes
    data: bool
    base: Base
    mask: bool = False
    tag: Tag = None
    leaf: bool = False
    lost: Lost | None = None
    devices: frozenset[str] = frozenset()

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape; 1 where the array is broadcast along an axis."""
        return tuple(map(size_of, self.axes))

    def but(self, **changes: Any) -> Value:
        """Return the value with other fields."""
        return dataclasses.replace(self, **changes)

    def fitted(self, shape: Sequence[int]) -> Value:
        """Return the value with axes of size 1 constant where `shape` has more."""
        if len(self.axes) != len(shape):
            return self
        pairs = zip(self.axes, shape, strict=True)
        return self.but(
            axes=tuple(constant(1) if n != 1 and size_of(axis) == 1 else axis for axis, n in pairs)
        )


@dataclasses.dataclass(eq=False)
class Found:
    """One attention: where its operands are, and what their axes are.

    Attributes
    ----------
    weights, values
        The operands of the product; with `late` the weights are exponentials.
    weights_axes, values_axes
        Their axes; parts that they share have the same identity.
    batch, free, keys, features
        The parts that both operands have, that the weights alone have, that are summed, and that
        the values alone have.
    kind, sink, part, name, source, loops, order
        As in `jaxflow._capture.result.Place`.
    made
        The softmax before dropout and gates; of it `cut` is left. `root` is that of the weights.
    total
        The sum that the result is divided by, or with `inverse` multiplied; `exact` where it is the
        sum of the very exponentials that are multiplied with the values.
    heads
        Identities of the parts that are heads, once the projection after it has shown them.
    """

    weights: Tap
    values: Tap
    weights_axes: Axes
    values_axes: Axes
    batch: Axis
    free: Axis
    keys: Axis
    features: Axis
    kind: str
    sink: bool
    name: str
    source: str
    loops: int
    late: bool = False
    made: tuple[Tap, Axes] | None = None
    total: tuple[Tap, Axes] | None = None
    inverse: bool = False
    exact: bool = True
    root: int = 0
    order: tuple[int, ...] = ()
    cut: Any = None
    part: bool = False
    heads: tuple[Uid, ...] | None = None


@dataclasses.dataclass(frozen=True)
class Missed:
    """What looks like attention and cannot be taken.

    Attributes
    ----------
    reason
        Why, in one sentence.
    name
        Path of modules and named scopes.
    source
        File and line.
    """

    reason: str
    name: str
    source: str
