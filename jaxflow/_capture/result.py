"""Attention captured from a function: one `Site` each, and all of them as `Captured`."""

from __future__ import annotations

import dataclasses
import fnmatch
from collections.abc import Callable, Iterator, Sequence
from typing import Any, overload

import jax
import jax.numpy as jnp
import numpy as np

from jaxflow._capture.axes import Axes, Labels, Part, Uid, is_of
from jaxflow._capture.values import Found, Missed
from jaxflow.errors import InputError

#: How far from 1 a row's sum may be, in units of the dtype's rounding times the keys.
_ROUNDING = 4.0


@dataclasses.dataclass(frozen=True)
class Place:
    """Where an attention is in a program, and what it is; without arrays.

    Attributes
    ----------
    index
        Its number in the order of computation, from 0; one within a scan counts once.
    name
        Path of modules and named scopes, such as ``Encoder/layer_0/attention``; may be empty.
    source
        File and line of the product of weights and values.
    kind
        ``self`` (queries and keys are the same tokens), ``cross`` (other tokens), ``pooling``
        (queries are no tokens) or ``memory`` (keys are parameters).
    groups
        Heads that share one head of the values (grouped queries); 1 where each has its own.
    loops
        Leading axes that are iterations of scans.
    batch
        Batch axes after those.
    sink
        Whether a share of each row went to no key: a sink, or one in the denominator.
    part
        Whether its softmax covers keys of another site too, so that rows sum to less than 1.
    heads_known
        Whether the heads were told from other batch axes by what the program does with them; where
        not, they are guessed to be the last batch axis.
    tokens
        The numbers of the token axes of queries and of keys: equal numbers, the same tokens.
    order
        The numbers of its equation and of those around it; -1 stands for the iteration of a loop,
        -2 for that of a loop that runs from the last.
    iterations
        In an edit: the iteration of each loop, traced whole numbers. Otherwise empty.
    """

    index: int
    name: str
    source: str
    kind: str
    groups: int = 1
    loops: int = 0
    batch: int = 0
    sink: bool = False
    part: bool = False
    heads_known: bool = True
    tokens: tuple[int, int] = (0, 0)
    order: tuple[int, ...] = ()
    iterations: tuple[Any, ...] = ()

    def __str__(self) -> str:
        return f"{self.name or 'attention'} ({self.source})"


@dataclasses.dataclass(frozen=True, eq=False)
class Site:
    """One attention of a captured function.

    Attributes
    ----------
    place
        Where it is in the program, and what it is.
    weights
        ``[..., H, q, k]`` as they were multiplied with the values; the leading axes are loops and
        then batch axes.
    values
        ``[..., H / groups, k, d]``; None where they are not known (`jaxflow.capture_torch`).
    """

    place: Place
    weights: Any
    values: Any

    name = property(lambda self: self.place.name, doc="Path of modules and named scopes.")
    source = property(lambda self: self.place.source, doc="File and line.")
    kind = property(lambda self: self.place.kind, doc="self, cross, pooling or memory.")

    @property
    def sink(self) -> Any:
        """The share of each row that went to a sink, ``[..., H, q]``; None where there is none."""
        return 1 - self.weights.sum(-1) if self.place.sink else None

    def __repr__(self) -> str:
        shape = tuple(self.weights.shape)
        return f"Site({self.place.kind}, {shape}, {self.place.name!r}, {self.place.source!r})"


@dataclasses.dataclass(frozen=True, eq=False)
class Captured(Sequence[Site]):
    """The attention of one call of a captured function: a sequence of `Site`, and a pytree.

    Attributes
    ----------
    sites
        In the order of computation.
    missed
        What looked like attention and could not be taken, each with its reason, file and line.
    mask
        ``[B, n]`` boolean, True at real tokens, where the model was given one; else None.
    """

    sites: tuple[Site, ...]
    missed: tuple[Missed, ...] = ()
    mask: Any = None

    def __len__(self) -> int:
        return len(self.sites)

    def __iter__(self) -> Iterator[Site]:
        return iter(self.sites)

    @overload
    def __getitem__(self, key: int) -> Site: ...
    @overload
    def __getitem__(self, key: slice) -> Captured: ...
    def __getitem__(self, key: int | slice) -> Site | Captured:
        if isinstance(key, slice):
            return dataclasses.replace(self, sites=self.sites[key])
        return self.sites[key]

    def __repr__(self) -> str:
        lines = [repr(site) for site in self.sites[:8]]
        lines += [f"... {len(self.sites) - 8} more"] if len(self.sites) > 8 else []
        lines += [f"missed: {one.reason} ({one.source})" for one in self.missed]
        return "Captured(\n  " + "\n  ".join(lines) + "\n)" if lines else "Captured()"

    def select(self, select: Any) -> Captured:
        """Keep the sites that are asked for.

        Parameters
        ----------
        select
            A kind, a name or a pattern of names (``*/encoder/*``), a number, a sequence of these,
            or a function from a `Place` to bool.

        Raises
        ------
        InputError
            If none is left.
        """
        kept = tuple(site for site in self.sites if chosen(select, site.place, len(self.sites)))
        if self.sites and not kept:
            known = ", ".join(dict.fromkeys(str(site.place) for site in self.sites))
            raise InputError(f"select {select!r} must match a site, got none of {known}")
        return dataclasses.replace(self, sites=kept)

    def stack(self, *, renormalise: bool = False, check: bool = True) -> jax.Array:
        """Return the self-attention of all layers, ``[..., L, H, n, n]``, the lowest layer first.

        What it leaves out is in `left_out`: attention that is not self-attention, or not square.

        Parameters
        ----------
        renormalise
            Divide each row by its sum, which leaves out the share of a sink; half precision is made
            float32, in which rows sum to 1.
        check
            Refuse rows that do not sum to 1 (with a sink: to at most 1), where they are known.

        Raises
        ------
        InputError
            If there is no self-attention, layers differ in shape, or rows do not sum to 1.
        """
        sites = [site for site in self.sites if _is_layer(site)]
        if not sites:
            missed = "".join(f"; {one.reason} ({one.source})" for one in self.missed[:3])
            raise InputError(
                "the function must have self-attention [..., H, n, n] to stack, got "
                f"{', '.join(sorted({site.kind for site in self.sites})) or 'none'}{missed}"
            )
        return _stacked(sites, renormalise, check)

    def layers(self, arrays: Sequence[Any]) -> jax.Array:
        """Stack arrays in the shapes of weights or values, one a site, as `stack` does weights."""
        pairs = zip(self.sites, arrays, strict=True)
        return _stacked(
            [dataclasses.replace(s, weights=each) for s, each in pairs if _is_layer(s)],
            False,
            False,
        )

    @property
    def left_out(self) -> tuple[Site, ...]:
        """The sites that `stack` leaves out."""
        return tuple(site for site in self.sites if not _is_layer(site))

    @property
    def cross(self) -> jax.Array:
        """The cross-attention of all layers, ``[..., L, H, q, k]``; what it reads is `encoder`."""
        return _stacked(self._crossing(), False, True)

    @property
    def encoder(self) -> jax.Array:
        """The self-attention of the tokens that cross-attention reads, ``[..., L, H, k, k]``."""
        return self._stack_of(1, "encoder")

    @property
    def decoder(self) -> jax.Array:
        """The self-attention of the tokens that cross-attention writes, ``[..., L, H, q, q]``."""
        return self._stack_of(0, "decoder")

    def _crossing(self) -> list[Site]:
        sites = [site for site in self.sites if site.kind == "cross"]
        if not sites:
            raise InputError("the function must have cross-attention for this, got none")
        return sites

    def _stack_of(self, side: int, name: str) -> jax.Array:
        tokens = {site.place.tokens[side] for site in self._crossing()}
        sites = [s for s in self.sites if s.kind == "self" and s.place.tokens[1] in tokens]
        if not sites:
            raise InputError(f"the {name} must have self-attention, got none")
        return _stacked(sites, False, True)


def _is_layer(site: Site) -> bool:
    return site.kind == "self" and site.weights.shape[-1] == site.weights.shape[-2]


def chosen(select: Any, place: Place, count: int) -> bool:
    """Return whether a site is asked for by its kind, name, number, or a function."""
    if select is None:
        return True
    if callable(select):
        return bool(select(place))
    if isinstance(select, str):
        return select == place.kind or fnmatch.fnmatchcase(place.name, select)
    if not isinstance(select, int | np.integer) and not hasattr(select, "__iter__"):
        raise InputError(
            "select must be a kind, a name, a number, a function or a sequence of these, got "
            f"{select!r}"
        )
    if isinstance(select, int | np.integer):
        return place.index == (int(select) if select >= 0 else count + int(select))
    return any(chosen(one, place, count) for one in select)


def _stacked(sites: Sequence[Site], renormalise: bool, check: bool) -> jax.Array:
    first = sites[0]
    shape = _layer_shape(first)
    for site in sites:
        if _layer_shape(site) != shape:
            raise InputError(
                f"layers must have one shape to be stacked, got {shape} at {first.place} and "
                f"{_layer_shape(site)} at {site.place}: choose some by select="
            )
        if check and not renormalise:
            _check_rows(site)
    layers = [_loops_first(site) for site in sites]
    times = [_time(site.place, turn) for site in sites for turn in np.ndindex(*_iterations(site))]
    found = jnp.concatenate(layers)
    order = sorted(range(len(times)), key=times.__getitem__)
    if order != list(range(len(times))):  # sites of one body take turns
        found = found[np.array(order)]
    if renormalise:
        found = found.astype(jnp.promote_types(found.dtype, jnp.float32))
        found = found / found.sum(-1, keepdims=True)
    return jnp.moveaxis(found, 0, -4)


def _time(place: Place, turn: tuple[int, ...]) -> tuple[int, ...]:
    """Return a key in the order of computation for one iteration of the loops of a site."""
    turns = iter(turn)
    signs = {-1: 1, -2: -1}  # a loop may run from the last
    return tuple(part if part >= 0 else signs[part] * next(turns) for part in place.order)


def _loops_axes(site: Site) -> tuple[int, int]:
    # Counted from the end: vmap adds axes in front.
    end = site.weights.ndim - 3 - site.place.batch
    return end - site.place.loops, end


def _iterations(site: Site) -> tuple[int, ...]:
    begin, end = _loops_axes(site)
    return tuple(site.weights.shape[begin:end])


def _layer_shape(site: Site) -> tuple[int, ...]:
    begin, end = _loops_axes(site)
    shape = site.weights.shape
    return (*shape[:begin], *shape[end:])


def _loops_first(site: Site) -> Any:
    begin, end = _loops_axes(site)
    weights = jnp.moveaxis(site.weights, range(begin, end), range(end - begin))
    return weights.reshape(-1, *weights.shape[end - begin :])


def _check_rows(site: Site) -> None:
    weights = site.weights
    if isinstance(weights, jax.core.Tracer):
        return
    sums = np.asarray(weights, np.float64).sum(-1)
    slack = _ROUNDING * float(jnp.finfo(weights.dtype).eps) * weights.shape[-1] ** 0.5 + 1e-6
    wrong = sums > 1 + slack if site.place.sink else np.abs(sums - 1) > slack
    if wrong.any():
        why = "dropout and mixed heads change sums (capture with stage='softmax')"
        if site.place.part:
            why = "its softmax covers other keys too, which another site has"
        raise InputError(
            f"rows of attention must sum to 1, got {sums[wrong][0]:.6g} at {site.place}: {why}, or "
            "take renormalise=True"
        )


# From the axes of operands to weights and values


@dataclasses.dataclass(frozen=True)
class Arrangement:
    """How an operand becomes ``[batch, H, q, k]``, and back: parts of its axes, by identity."""

    axes: Axes
    groups: tuple[tuple[Part, ...], ...]

    def forward(self, array: Any, loops: int) -> Any:
        """Return the array with one axis a group; groups that it does not have are of size 1."""
        parts = [part for axis in self.axes for part in axis]
        lead = array.shape[:loops]
        split = jnp.reshape(array, (*lead, *(part.size for part in parts)))
        wanted = [part.uid for group in self.groups for part in group]
        known = {uid: i for i, uid in enumerate(part.uid for part in parts) if uid in wanted}
        take = tuple(slice(None) if parts[i].uid in known else 0 for i in range(len(parts)))
        split = split[(*(slice(None),) * loops, *take)]
        kept = [part.uid for part in parts if part.uid in known]
        order = [kept.index(uid) for uid in wanted if uid in known]
        split = jnp.transpose(split, (*range(loops), *(loops + i for i in order)))
        return jnp.reshape(split, (*lead, *self.shape))

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape that the operand gets."""
        mine = {part.uid: part.size for axis in self.axes for part in axis}
        return tuple(
            int(np.prod([mine.get(part.uid, 1) for part in group], dtype=int))
            for group in self.groups
        )

    def backward(self, array: Any) -> Any:
        """Return an array of `shape` in the operand's own layout."""
        parts = [part for axis in self.axes for part in axis]
        mine = {part.uid: part.size for part in parts if part.uid is not None}
        wanted = [p.uid for group in self.groups for p in group if p.uid in mine]
        split = jnp.reshape(array, [mine[uid] for uid in wanted])
        kept = [part.uid for part in parts if part.uid in wanted]
        split = jnp.transpose(split, [wanted.index(uid) for uid in kept])
        full = jnp.reshape(split, [p.size if p.uid in kept else 1 for p in parts])
        full = jnp.broadcast_to(full, [part.size for part in parts])
        return jnp.reshape(
            full, [int(np.prod([p.size for p in axis], dtype=int)) for axis in self.axes]
        )


@dataclasses.dataclass(frozen=True)
class Layout:
    """The arrangements of one attention's operands, and what is known of it."""

    place: Place
    weights: Arrangement
    values: Arrangement
    total: Arrangement | None
    made: Arrangement | None


def layout_of(site: Found, index: int, labels: Labels, parameters: bool) -> Layout:
    """Tell heads from batch and query axes, and return how the operands are to be arranged.

    `parameters` is whether any array of the program is known to be a parameter.
    """
    batch, free = list(site.batch), list(site.free)
    known = site.heads is not None
    if known:
        heads = _expand(site.heads or (), (*batch, *free))
    else:
        # Heads come from weights, batch and tokens from data.
        heads = [p.uid for p in (*batch, *free[:-1]) if not labels.is_data([p]) and p.size > 1]
        known = bool(heads)
        if not heads:
            if len(batch) > 1:
                heads = [batch[-1].uid, *_pieces(free)]
            known = not batch or (parameters and len(batch) == 1)
    mine = set(heads)
    tokens_of = labels.families(site.keys)
    several = [  # axes that the queries alone have besides their tokens
        part
        for part in free
        if part.uid not in mine
        and (
            not labels.families([part]) <= tokens_of
            if site.kind == "self"
            else not labels.is_data([part]) and labels.is_data(free)
        )
    ]
    batch, free = batch + several, [part for part in free if part not in several]
    if not heads:  # rows of one head: all but the last are batch axes
        batch, free = batch + free[:-1], free[-1:]
    shared = [p for p in batch if p.uid in mine]
    shared.sort(key=lambda part: heads.index(part.uid))
    own = sorted((p for p in free if p.uid in mine), key=lambda part: heads.index(part.uid))
    rest = [
        part for part in batch if part.uid not in mine and (part.size > 1 or part.label is not None)
    ]
    queries = [p for p in free if p.uid not in mine]
    groups = (
        *((part,) for part in rest),
        tuple(shared + own),
        tuple(queries),
        tuple(site.keys),
    )
    w_groups = tuple(map(tuple, groups))
    v_groups = (*w_groups[:-2], tuple(site.keys), tuple(site.features))
    weights = Arrangement(site.weights_axes, w_groups)
    values = Arrangement(site.values_axes, v_groups)
    count = len(w_groups) - 3
    all_heads, own_heads = weights.shape[count], values.shape[count]
    tokens = tuple(
        min((labels.find(p.label) for p in parts if p.label is not None), default=-1)
        for parts in (queries, site.keys)
    )
    place = Place(
        index=index,
        name=site.name,
        source=site.source,
        kind=site.kind,
        groups=max(1, all_heads // max(1, own_heads)),
        loops=site.loops,
        batch=count,
        sink=site.sink,
        part=site.part,
        heads_known=known,
        tokens=tokens,  # type: ignore[arg-type]
        order=site.order,
    )
    total = Arrangement(site.total[1], w_groups) if site.total else None
    made = Arrangement(site.made[1], w_groups) if site.made else None
    if made is not None and made.shape != weights.shape:
        made = None
    return Layout(place, weights, values, total, made)


def _expand(heads: Sequence[Uid], parts: Sequence[Part]) -> list[Uid]:
    return [part for uid in heads for part in [p.uid for p in parts if is_of(p.uid, (uid,))]]


def _pieces(free: Sequence[Part]) -> list[Uid]:
    """Return the pieces of an axis whose other pieces are not there: groups of heads."""
    pieces = [part.uid for part in free if isinstance(part.uid, tuple)]
    return [
        uid
        for uid in pieces
        if uid != free[-1].uid and [other[:2] for other in pieces].count(uid[:2]) == 1
    ]


def flatten_captured(captured: Captured) -> tuple[Any, Any]:
    """Return the arrays of a result, and all else."""
    sites = tuple((site.weights, site.values) for site in captured.sites)
    return (sites, captured.mask), (tuple(site.place for site in captured.sites), captured.missed)


def unflatten_captured(rest: Any, arrays: Any) -> Captured:
    """Return a result from `flatten_captured`."""
    places, missed = rest
    pairs, mask = arrays
    sites = tuple(Site(p, w, v) for p, (w, v) in zip(places, pairs, strict=True))
    return Captured(sites, missed, mask)


jax.tree_util.register_pytree_node(Captured, flatten_captured, unflatten_captured)
jax.tree_util.register_pytree_node(
    Site, lambda s: ((s.weights, s.values), s.place), lambda p, a: Site(p, *a)
)

Select = str | int | Sequence[Any] | Callable[[Place], bool] | None
