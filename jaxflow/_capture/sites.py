"""Rules of products and sums: where attention is, and which of its axes are heads."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from jaxflow._capture.axes import (
    Axes,
    Axis,
    Labels,
    Uid,
    constant,
    is_constant,
    size_of,
    uids,
    whole,
    within,
)
from jaxflow._capture.values import (
    At,
    Base,
    Exp,
    Found,
    Product,
    Result,
    Soft,
    Spread,
    Tap,
    Total,
    Value,
)


@dataclasses.dataclass(frozen=True)
class _Roles:
    """Which axes of a product the operands share, which one has alone, and which are summed."""

    batch: Sequence[Axis]
    free: Sequence[Axis]
    keys: Sequence[Axis]
    features: Sequence[Axis]
    rows: Sequence[Axis]  # the axes of the values that are summed, as they were


def reduction(a: Any, eqn: Any, operands: list[Value], at: At) -> list[Value]:
    """Reduce: sum exponentials, or weights that were multiplied with values."""
    one = operands[0]
    gone = sorted(int(i) for i in eqn.params["axes"])
    axes = tuple(axis for i, axis in enumerate(one.axes) if i not in gone)
    summed = [one.axes[i] for i in gone]
    over = uids(part for axis in summed for part in axis)
    if not over and all(size_of(axis) == 1 for axis in summed):  # only a change of layout
        return [one.but(axes=axes)]
    value = Value(axes, one.data, Base(a.labels.uid()), one.mask)
    tag = one.tag
    if eqn.primitive.name != "reduce_sum" or not over:
        return [value]
    if isinstance(tag, Soft) and not within(over, tag.over):  # the mean over heads
        return [value.but(tag=dataclasses.replace(tag, made=None))]
    if isinstance(tag, Exp | Soft):
        return [value.but(tag=Total(tag.base, over, version=getattr(tag, "version", 0)))]
    if isinstance(tag, Spread) and (isinstance(tag.tag, Exp) or whole(over) == whole(tag.tag.over)):
        return [_multiplied_and_summed(a, eqn, tag, gone, over, value)]
    if isinstance(tag, Result):
        if tag.site.heads is None and over - uids(tag.site.features):
            _heads(a.labels, tag.site, summed, certain=False)
        return [value.but(tag=tag)]
    return [value]


def product(a: Any, eqn: Any, operands: list[Value], at: At) -> list[Value]:
    """Multiply matrices: attention, mixed heads, the projection that shows the heads."""
    contract, batch = eqn.params["dimension_numbers"]
    labels = a.labels
    # The operand that is of a softmax keeps its identities.
    order = sorted((0, 1), key=lambda side: operands[side].tag is None)
    free = [
        [i for i in range(len(one.axes)) if i not in contract[side] and i not in batch[side]]
        for side, one in enumerate(operands)
    ]
    shared = [
        labels.merge([operands[side].axes[batch[side][i]] for side in order])
        for i in range(len(batch[0]))
    ]
    alone = [[operands[side].axes[i] for i in free[side]] for side in order]
    gone = [operands[order[0]].axes[i] for i in contract[order[0]]]
    named = labels.distinct((*shared, *alone[0], *gone, *alone[1]))
    n, m = len(shared), len(shared) + len(alone[0])
    own = {order[0]: named[n:m], order[1]: named[m + len(gone) :]}
    data = operands[0].data or operands[1].data
    value = Value((*named[:n], *own[0], *own[1]), data, Base(labels.uid()))
    for side in order:
        one, other, tag = operands[side], operands[1 - side], operands[side].tag
        summed = [one.axes[i] for i in contract[side]]
        over = uids(part for axis in summed for part in axis)
        if isinstance(tag, Result) and not other.data:
            _projected(labels, tag.site, summed, over, named[:n])
            return [value.but(tag=tag) if tag.site.heads is None else value]
        if not isinstance(tag, Soft | Exp) or not over:
            continue
        extra: frozenset[Uid] = frozenset()
        if isinstance(tag, Soft):
            if not within(over, tag.over):
                if not other.data:  # heads mixed with one another
                    return [value.but(tag=tag)]
                continue
            # Axes that are summed besides the keys are heads, whose sum is the result.
            extra = over - (tag.over | whole(tag.over))
            if whole(over - extra) != whole(tag.over):
                continue
            if isinstance(other.tag, Soft):
                continue  # two distributions compared, or attention multiplied with attention
        mine = _numbered(labels, one.axes, ())
        theirs = list(other.axes)
        pairs = ((batch[side], batch[1 - side]), (contract[side], contract[1 - side]))
        for i, j in ((i, j) for left, right in pairs for i, j in zip(left, right, strict=True)):
            theirs[j] = _like(other.axes[j], mine[i])
        for i, axis in zip(free[1 - side], own[1 - side], strict=True):
            theirs[i] = axis
        merged = [mine[i] for i in contract[side] if uids(mine[i]) & extra]
        roles = _Roles(
            [*(mine[i] for i in batch[side]), *merged],
            [mine[i] for i in free[side]],
            [mine[i] for i in contract[side] if mine[i] not in merged],
            own[1 - side],
            [other.axes[i] for i in contract[1 - side]],
        )
        taps = Tap(at, side), Tap(at, 1 - side)
        site = _record(a, eqn, tag, taps, (mine, tuple(theirs)), roles, (one, other))
        if site is not None:
            if extra:
                site.heads = tuple(part.uid for axis in merged for part in axis)
            return [_returned(a, value, site, tag, over)]
        _read_by_features(a, eqn, other, [other.axes[i] for i in contract[1 - side]], own[side])
    return [value]


def _read_by_features(
    a: Any, eqn: Any, pooled: Value, summed: Sequence[Axis], free: Sequence[Axis]
) -> None:
    """Report pooled values that tokens read by features of their own: linear attention."""
    site = pooled.tag.site if isinstance(pooled.tag, Result) else None
    if site is None or site.kind != "pooling" or site not in a.found:
        return
    over = uids(part for axis in summed for part in axis)
    if within(over, uids(site.free)) and a.labels.is_data(p for axis in free for p in axis):
        a.found.remove(site)
        a.miss(eqn, "linear attention: its keys are normalised over tokens and read by features")


def _multiplied_and_summed(
    a: Any, eqn: Any, spread: Spread, gone: list[int], over: frozenset[Uid], value: Value
) -> Value:
    weights, values = spread.operands
    pairs = list(zip(weights.axes, values.axes, strict=True))
    features = [
        i
        for i, (x, y) in enumerate(pairs)
        if is_constant(x) and not is_constant(y) and i not in gone
    ]
    mine = _numbered(a.labels, weights.axes, features)
    theirs = list(values.axes)
    batch: list[Axis] = []
    free: list[Axis] = []
    keys: list[Axis] = []
    for i, (x, y) in enumerate(zip(mine, theirs, strict=True)):
        if i in features:
            continue
        if i not in gone and is_constant(y):
            free.append(x)
            continue
        (keys if i in gone else batch).append(x)
        theirs[i] = _like(y, x)
    rows = [values.axes[i] for i in gone]
    roles = _Roles(batch, free, keys, [theirs[i] for i in features], rows)
    axes = mine, tuple(theirs)
    site = _record(a, eqn, spread.tag, spread.taps, axes, roles, spread.operands)
    return value if site is None else _returned(a, value, site, spread.tag, over)


def _returned(a: Any, value: Value, site: Found, tag: Soft | Exp, over: frozenset[Uid]) -> Value:
    if isinstance(tag, Exp):
        a.pending.append(site)
        return value.but(tag=Product(tag.base, over, site, tag.version))
    a.found.append(site)
    return value.but(tag=Result(site))


def _record(
    a: Any,
    eqn: Any,
    tag: Soft | Exp,
    taps: tuple[Tap, Tap],
    axes: tuple[Axes, Axes],
    roles: _Roles,
    operands: tuple[Value, Value],
) -> Found | None:
    """Return the attention of a product of weights and values, or None where it is none."""
    data, root = operands[1].data, operands[0].base.root
    kind = _kind(a.labels, tag, roles, data)
    keys = [part for axis in roles.keys for part in axis]
    rows = [*keys, *(part for axis in roles.rows for part in axis)]
    together = a.labels.families(p for p in a.labels.gathered_with(rows) if p not in rows)
    window = bool(together & a.labels.families(part for axis in roles.batch for part in axis))
    if (kind is None and data and a.labels.gathered_with(rows)) or (kind != "self" and window):
        a.miss(eqn, "its keys are gathered or stacked for each query: its columns are no tokens")
        return None
    if kind is None:
        return None
    if "jvp" in a.transforms(eqn) and any(site.root == root for site in a.found):
        return None  # the derivative: the same weights with tangents of the values
    known_on = [one.devices for one in operands]
    found = [a.placed(*pair) for pair in zip(taps, axes, known_on, strict=True)]
    if None in found:
        a.miss(eqn, "its axes are sharded within shard_map in a way that cannot be put back")
        return None
    (w_tap, w_axes), (v_tap, v_axes) = found
    known = {part.uid: part for axis in (*w_axes, *v_axes) for part in axis}  # whole sizes

    def parts(some: Sequence[Axis]) -> Axis:
        return tuple(known.get(part.uid, part) for axis in some for part in axis)

    made = tag.made if isinstance(tag, Soft) else None
    return Found(
        weights=w_tap,
        values=v_tap,
        weights_axes=w_axes,
        values_axes=v_axes,
        batch=parts(roles.batch),
        free=parts(roles.free),
        keys=parts(roles.keys),
        features=parts(roles.features),
        kind=kind,
        sink=isinstance(tag, Soft) and tag.sink,
        part=isinstance(tag, Soft) and tag.part,
        cut=tag.cut if isinstance(tag, Soft) else None,
        root=root,
        order=a.order(taps[0].at),
        name=a.name(eqn),
        source=a.place(eqn),
        loops=a.loops,
        late=isinstance(tag, Exp),
        made=None if made is None else a.placed(*made),
    )


def _kind(labels: Labels, tag: Soft | Exp, roles: _Roles, data: bool) -> str | None:
    free = [part for axis in roles.free for part in axis]
    keys = [part for axis in roles.keys for part in axis]
    features = [part for axis in roles.features for part in axis]
    if labels.is_data(keys):
        if not data:  # the mean of a fixed support, such as positions
            return None
        tokens = labels.families(keys)
        if tokens <= labels.families(free):
            # Each example with each other: two axes of one batch.
            parts = [p for axis in (*roles.batch, *roles.free) for p in axis if labels.is_data([p])]
            batch = [labels.find(p.label) for p in parts if p.label is not None]
            rest = [family for family in batch if family not in tokens]
            return "self" if len(rest) == len(set(rest)) else "cross"
        return "cross" if labels.is_data(free) else "pooling"
    if isinstance(tag, Exp):
        return None
    if not data:
        return "memory" if uids(features) else None
    # Keys and values of one learned array that has read data, such as latents. Values of others
    # are what experts return, of which a router is no attention.
    rows = labels.families(part for axis in roles.rows for part in axis)
    if not free or not rows or rows != labels.families(keys):
        return None
    return "self" if labels.families(keys) <= labels.families(free) else "cross"


def _projected(
    labels: Labels, site: Found, summed: Sequence[Axis], over: frozenset[Uid], shared: Axes
) -> None:
    """Read the heads from the projection that follows: they are summed with the features."""
    if site.heads is not None or not within(over, uids(site.features)):
        return
    _heads(labels, site, summed)
    if not site.heads and shared:  # one matrix a head
        _heads(labels, site, shared)


def _heads(labels: Labels, site: Found, axes: Sequence[Axis], certain: bool = True) -> None:
    """Take for heads what is summed with the features and is no axis of tokens.

    Parts that come from parameters are heads before those that come from data; in what is not
    `certain`, such as the mean in a loss, only those are.
    """
    mine = {part.uid: part for part in (*site.batch, *site.free)}
    tokens = labels.families(site.keys) | labels.families(site.free[-1:])
    order = [mine[part.uid] for axis in axes for part in axis if part.uid in mine]
    learnt = [part for part in order if not labels.is_data([part])]
    if not learnt and certain:
        learnt = [part for part in order if not labels.families([part]) & tokens]
    if learnt or certain:
        site.heads = tuple(part.uid for part in learnt)


def _numbered(labels: Labels, axes: Axes, skip: Sequence[int]) -> Axes:
    """Give an identity to parts of weights that have none: they are constant along a batch axis."""
    return tuple(
        axis
        if i in skip
        else tuple(p if p.uid is not None else p._replace(uid=labels.uid()) for p in axis)
        for i, axis in enumerate(axes)
    )


def _like(axis: Axis, model: Axis) -> Axis:
    """Return the parts of the weights' axis for the values' own; where those are constant, none."""
    if is_constant(axis):
        return axis if len(axis) > 1 else constant(size_of(axis))
    if [part.size for part in axis] != [part.size for part in model]:
        return model
    pairs = zip(axis, model, strict=True)
    return tuple(m if part.uid is not None or part.size == 1 else part for part, m in pairs)
