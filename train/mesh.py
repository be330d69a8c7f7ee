"""Place a run's arrays on one mesh of devices: rows split over it, parameters on every device.

A step, a forward pass or a reference score is a function of whole arrays; XLA divides it by the
sharding of its arguments and adds the exchanges. Random numbers are a function of an element's
place in the whole array, so they do not depend on the number of devices; results differ from one
device's by the order of sums alone.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxflow.errors import InputError

AXIS = "batch"

# Smaller matrices are kept whole: gathering one costs more time than splitting saves memory.
LARGE = 1 << 12

T = TypeVar("T")


def fsdp_axis(shape: tuple[int, ...], devices: int) -> int | None:
    """Return the dimension along which a parameter is split over devices, or None to keep it whole.

    It is the largest that the devices divide, the first of equals. Vectors are kept whole, matrices
    of fewer than 4,096 numbers, and where no dimension divides.
    """
    if devices == 1 or len(shape) < 2 or np.prod(shape) < LARGE:
        return None
    fits = [axis for axis, size in enumerate(shape) if size % devices == 0]
    return max(fits, key=lambda axis: (shape[axis], -axis), default=None)


@dataclasses.dataclass(frozen=True)
class Layout:
    """The placement of a run's arrays on its devices.

    The rows of batches are split over the one axis of `mesh`. With `shard_params` large parameters,
    and the optimiser's moments of them, are split over it too (`fsdp_axis`); else every device
    holds all. On one device nothing is placed and nothing wrapped: programs and bits are what they
    are without a mesh.
    """

    mesh: Mesh
    shard_params: bool = False

    @property
    def devices(self) -> int:
        """Number of devices."""
        return int(self.mesh.size)

    @functools.cached_property
    def shared(self) -> bool:
        """Return whether other processes have a part of the devices."""
        own = jax.process_index()
        return any(device.process_index != own for device in self.mesh.devices.flat)

    def rows(self, batch: int) -> slice:
        """Return which rows of a batch of so many are this process's: all, where it is alone."""
        each, own = batch // self.devices, jax.process_index()
        places = [i for i, d in enumerate(self.mesh.devices.flat) if d.process_index == own]
        return slice(each * places[0], each * (places[-1] + 1))

    def check_batch(self, rows: int) -> None:
        """Raise `InputError` unless the devices divide a training batch."""
        if rows % self.devices:
            raise InputError(
                f"batch must be a multiple of the {self.devices} devices "
                f"({self.devices}, {2 * self.devices}, {3 * self.devices}, ...), got {rows}: "
                "choose such a batch, or fewer devices"
            )

    def put_replicated(self, tree: T) -> T:
        """Put whole arrays on every device."""
        return self._put(tree, lambda leaf: PartitionSpec())

    def put_state(self, tree: T) -> T:
        """Put parameters, or a whole training state, on the devices according to `shard_params`."""
        return self._put(tree, self._state_spec)

    def put_batch(self, tree: T) -> T:
        """Split the rows of a batch, the first dimension of each array, over the devices.

        Of a batch that several processes share each gives its own `rows`. Raises `InputError` if
        the devices do not divide it.
        """
        if not self.shared:
            for leaf in jax.tree.leaves(tree):
                self.check_batch(len(leaf))
            return self._put(tree, lambda leaf: PartitionSpec(AXIS))
        split = NamedSharding(self.mesh, PartitionSpec(AXIS))
        return jax.tree.map(lambda leaf: jax.make_array_from_process_local_data(split, leaf), tree)

    def put_filled(self, tree: T) -> T:
        """Split rows that every process has, repeating the last one until the devices divide them.

        Only for what is read row by row: a mean would count the last one more than once.
        """

        def filled(leaf: Any) -> Any:
            short = -len(leaf) % self.devices
            if short:
                leaf = np.concatenate([leaf, np.repeat(leaf[-1:], short, axis=0)])
            return leaf[self.rows(len(leaf))] if self.shared else leaf

        return self.put_batch(jax.tree.map(filled, tree))

    def step(self, step_function: Callable[..., tuple[T, Any]]) -> Callable[..., tuple[T, Any]]:
        """Return a step of whole arrays ``(state, **batch) -> (state, metrics)`` on the mesh.

        The state stays where `put_state` lays it and is donated; each process gives its rows, as
        `put_batch` takes them, and can read the metrics.
        """
        if self.devices == 1:
            return step_function

        def divided(state: T, batch: Any) -> tuple[T, Any]:
            state, metrics = step_function(state, **batch)
            return self._keep(state, self._state_spec), self._keep(metrics, lambda leaf: _WHOLE)

        compiled = jax.jit(divided, donate_argnums=0)

        def step(state: T, **batch: Any) -> tuple[T, Any]:
            state, metrics = compiled(state, self.put_batch(batch))
            return state, self.own(metrics)

        return step

    def whole(self, tree: T) -> T:
        """Return whole arrays on JAX's default device."""
        if self.devices == 1:
            return tree
        return jax.tree.map(lambda leaf: jnp.asarray(np.asarray(self.own(leaf))), tree)

    def own(self, tree: T) -> T:
        """Return arrays of which other processes hold parts whole, on a device of this process."""
        if not self.shared:
            return tree

        def here(leaf: Any) -> Any:
            if not isinstance(leaf, jax.Array) or leaf.is_fully_addressable:
                return leaf
            if not leaf.is_fully_replicated:  # by all processes, which send each other their parts
                everywhere = NamedSharding(self.mesh, _WHOLE)
                leaf = jax.jit(_same, out_shardings=everywhere)(leaf)
            return leaf.addressable_data(0)

        return jax.tree.map(here, tree)

    def on_host(self, tree: T) -> T:
        """Return arrays that several processes share in this one's memory, one after the other."""
        return jax.tree.map(lambda leaf: np.asarray(self.own(leaf)), tree) if self.shared else tree

    def _state_spec(self, leaf: Any) -> PartitionSpec:
        axis = fsdp_axis(leaf.shape, self.devices) if self.shard_params else None
        return _WHOLE if axis is None else PartitionSpec(*[None] * axis, AXIS)

    def _keep(self, tree: T, spec: Callable[[Any], PartitionSpec]) -> T:
        """Constrain the sharding of arrays inside `jit`, which XLA would choose otherwise."""
        return jax.tree.map(
            lambda leaf: jax.lax.with_sharding_constraint(
                leaf, NamedSharding(self.mesh, spec(leaf))
            ),
            tree,
        )

    def _put(self, tree: T, spec: Callable[[Any], PartitionSpec]) -> T:
        if self.devices == 1:
            return tree

        def put(leaf: Any) -> jax.Array:
            sharding = NamedSharding(self.mesh, spec(leaf))
            if not self.shared:
                return jax.device_put(leaf, sharding)
            # Every process has the same values, and puts the parts of its own devices.
            values = np.asarray(leaf)
            return jax.make_array_from_callback(values.shape, sharding, values.__getitem__)

        return jax.tree.map(put, tree)


_WHOLE = PartitionSpec()


def _same(leaf: jax.Array) -> jax.Array:
    return leaf


def layout_of(
    devices: int | None = None, *, shard_params: bool = False, own: bool = False
) -> Layout:
    """Return the layout over the first devices, by default all.

    With `own` only this process's devices count, where there are several processes. Raises
    `InputError` if there are not so many.
    """
    there = jax.local_devices() if own else jax.devices()
    # Process by process, so that the rows of each are contiguous.
    there = sorted(there, key=lambda device: device.process_index)
    if devices is not None and not 1 <= devices <= len(there):
        raise InputError(f"devices must be from 1 to the {len(there)} that JAX sees, got {devices}")
    return Layout(Mesh(np.array(there[:devices]), (AXIS,)), shard_params)
