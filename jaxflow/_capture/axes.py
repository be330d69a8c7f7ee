"""Follow the axes of arrays through a traced program.

Each axis of an array is a tuple of parts, major to minor, so that a reshape only regroups them and
a transpose only moves them. A part has an identity within its array (`uid`), by which a softmax
remembers what it was normalised over, and a label, by which tokens are recognised in other arrays.
A part along which the array is constant has neither.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

Uid = Any  # an int, or (uid, sizes of the split, position) for a piece of another


class Part(NamedTuple):
    """A part of an axis: size, identity and label; None where the array is constant along it."""

    size: int
    uid: Uid = None
    label: int | None = None


Axis = tuple[Part, ...]
Axes = tuple[Axis, ...]


def constant(size: int) -> Axis:
    """Return an axis along which an array is constant."""
    return (Part(size),)


def uids(axis: Iterable[Part]) -> frozenset[Uid]:
    """Return the identities of the parts along which the array varies."""
    return frozenset(part.uid for part in axis if part.uid is not None)


def is_constant(axis: Axis) -> bool:
    """Return whether the array is constant along the whole axis."""
    return all(part.uid is None for part in axis)


def size_of(axis: Axis) -> int:
    """Return the size of an axis."""
    return math.prod(part.size for part in axis)


def whole(over: frozenset[Uid]) -> frozenset[Uid]:
    """Replace all the pieces of a part by the part."""
    found = set(over)
    while True:
        for uid in found:
            if isinstance(uid, tuple):
                pieces = {(uid[0], uid[1], i) for i in range(len(uid[1]))}
                if pieces <= found:
                    found = (found - pieces) | {uid[0]}
                    break
        else:
            return frozenset(found)


def is_of(uid: Uid, members: Iterable[Uid]) -> bool:
    """Return whether a part is one of `members`, or a piece of one."""
    while uid not in members:
        if not isinstance(uid, tuple):
            return False
        uid = uid[0]
    return True


def within(over: frozenset[Uid], members: frozenset[Uid]) -> bool:
    """Return whether any part is one of `members`, or a piece of one."""
    return any(is_of(uid, members) for uid in over)


class Labels:
    """Labels of axes: which come from data, which are parts or extensions of each other.

    Grows while one program is analysed.
    """

    def __init__(self) -> None:
        self.data: list[bool] = []
        self.mesh: list[tuple[str, ...]] = []
        self._parent: list[int] = []
        self._pieces: dict[Any, int] = {}
        self._origins: dict[int, int] = {}
        self._count = 0
        self._gathered: dict[int, list[Part]] = {}
        self._batches: set[int] = set()  # of several arrays
        self._examples: dict[Any, int] = {}

    def new(self, data: bool, mesh: tuple[str, ...] = ()) -> int:
        """Return a new label."""
        self.data.append(data)
        self.mesh.append(mesh)
        self._parent.append(len(self._parent))
        return len(self._parent) - 1

    def uid(self) -> int:
        """Return a new identity."""
        self._count += 1
        return self._count

    def part(self, size: int, data: bool) -> Part:
        """Return a new part of an axis."""
        return Part(size, self.uid(), self.new(data))

    def find(self, label: int) -> int:
        """Return the family of a label."""
        while self._parent[label] != label:
            label = self._parent[label] = self._parent[self._parent[label]]
        return label

    def join(self, one: Part, other: Part) -> None:
        """Record that two parts run over the same tokens, if both come from data."""
        if one.label is None or other.label is None:
            return
        if self.data[one.label] and self.data[other.label]:
            self._parent[self.find(other.label)] = self.find(one.label)

    def is_data(self, parts: Iterable[Part]) -> bool:
        """Return whether one of the parts comes from data."""
        return any(part.label is not None and self.data[part.label] for part in parts)

    def families(self, parts: Iterable[Part]) -> frozenset[int]:
        """Return the families of the labels of parts."""
        return frozenset(self.find(part.label) for part in parts if part.label is not None)

    def gather(self, parts: Sequence[Part]) -> None:
        """Record that tokens were gathered, or copies of them stacked, along these parts."""
        self._gathered.update((part.label, list(parts)) for part in parts if part.label is not None)

    def gathered_with(self, parts: Iterable[Part]) -> list[Part]:
        """Return the parts along which tokens were gathered together with one of `parts`."""
        return [one for part in parts for one in self._gathered.get(part.label or -1, ())]

    def piece(self, part: Part, sizes: tuple[int, ...], index: int) -> Part:
        """Return one piece of a part that is split into `sizes`; the same split, the same piece."""
        if part.uid is None or part.label is None:
            return Part(sizes[index])
        key = (self.find(part.label), sizes, index)
        if key not in self._pieces:
            mesh = self.mesh[part.label] if index == 0 else ()
            self._pieces[key] = self.new(self.data[part.label], mesh)
            self._origins[self._pieces[key]] = part.label
        return Part(sizes[index], (part.uid, sizes, index), self._pieces[key])

    def join_batches(self, label: int | None) -> None:
        """Record that an axis has the examples of several arrays."""
        self._batches.add(-1 if label is None else label)

    def examples(self, axes: Axes, which: Any) -> Axes:
        """Return the axes of some of the examples of joined batches: other tokens than the rest."""
        if len(axes[0]) != 1 or axes[0][0].label not in self._batches:
            return axes
        done: list[Axis] = [axes[0]]
        for axis in axes[1:]:
            renamed: list[Part] = []
            for part in axis:
                if part.label is not None and self.data[part.label]:
                    key = (self.find(part.label), which)
                    if key not in self._examples:
                        self._examples[key] = self.new(True, self.mesh[part.label])
                    part = part._replace(label=self._examples[key])
                renamed.append(part)
            done.append(tuple(renamed))
        return tuple(done)

    def merge(self, axes: Sequence[Axis], join: bool = True) -> Axis:
        """Return one axis of several operands: the first that varies decides, data names it."""
        varying = [axis for axis in axes if not is_constant(axis)]
        if not varying:
            return max(axes, key=size_of)
        chosen = varying[0]
        for axis in varying[1:]:
            if [part.size for part in axis] != [part.size for part in chosen]:
                continue
            parts: list[Part] = []
            for one, other in zip(chosen, axis, strict=True):
                if join:
                    self.join(one, other)
                if one.uid is None:
                    one = other
                elif self.is_data([other]) and not self.is_data([one]):
                    one = one._replace(label=other.label)
                parts.append(one)
            chosen = tuple(parts)
        return chosen

    def distinct(self, axes: Axes) -> Axes:
        """Give a new identity to parts whose identity an earlier axis has."""
        seen: set[Uid] = set()
        result = []
        for axis in axes:
            renamed = []
            for part in axis:
                if part.uid is not None and part.uid in seen:
                    part = part._replace(uid=self.uid())
                seen.add(part.uid)
                renamed.append(part)
            result.append(tuple(renamed))
        return tuple(result)

    def fuse(self, parts: Sequence[Part]) -> Axis:
        """Put pieces of one part that stand side by side in order together again."""
        done: list[Part] = []
        for part in parts:
            done.append(part)
            while True:
                last = done[-1]
                if not (isinstance(last.uid, tuple) and len(last.uid) == 3):
                    break
                whole, sizes, index = last.uid
                n = len(sizes)
                tail = done[-n:]
                if index != n - 1 or [p.uid for p in tail] != [(whole, sizes, i) for i in range(n)]:
                    break
                label = tail[0].label
                label = None if label is None else self._origins.get(label, label)
                done[-n:] = [Part(math.prod(sizes), whole, label)]
        return tuple(done)

    def reshape(self, axes: Axes, shape: Sequence[int]) -> Axes | None:
        """Regroup the parts for a new shape; None where a part would have to be cut unevenly."""
        if 0 in shape:
            return None
        queue = [part for axis in axes for part in axis][::-1]
        result: list[Axis] = []
        for size in shape:
            parts: list[Part] = []
            product = 1
            if size == 1:
                if queue and queue[-1].size == 1:
                    parts.append(queue.pop())
                result.append(tuple(parts) or constant(1))
                continue
            while product < size:
                if not queue:
                    return None
                part = queue.pop()
                need = size // product
                if part.size <= need:
                    if need % part.size:
                        return None
                    parts.append(part)
                    product *= part.size
                    continue
                if size % product or part.size % need:
                    return None
                sizes = (need, part.size // need)
                parts.append(self.piece(part, sizes, 0))
                queue.append(self.piece(part, sizes, 1))
                product = size
            result.append(tuple(parts))
        if any(part.size != 1 for part in queue):
            return None
        # Axes of size one that are left belong to the last axis.
        if queue and result:
            result[-1] = (*result[-1], *reversed(queue))
        return tuple(self.fuse(axis) for axis in result)
