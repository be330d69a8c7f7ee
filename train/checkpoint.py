"""Checkpoints of a training run, so that a run cut off goes on as if nothing had happened."""

from __future__ import annotations

import hashlib
import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from jaxflow.errors import InputError
from jaxflow.train.journal import write_json
from jaxflow.train.step import TrainState

__all__ = ["Checkpoints", "all_finite", "open_checkpoints"]


def all_finite(state: TrainState) -> bool:
    """Whether every floating-point number of the state is finite."""
    leaves = [leaf for leaf in jax.tree.leaves(state) if jnp.issubdtype(leaf.dtype, jnp.floating)]
    return all(bool(jnp.isfinite(leaf).all()) for leaf in leaves)


def _checksum(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        digest.update(path.relative_to(folder).as_posix().encode())
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


class Checkpoints:
    """The last two good states of a run, kept by Orbax under ``RUN/checkpoints``.

    Orbax writes a checkpoint beside and renames it, so that one cut off in the middle is not seen.
    The checksums of their files lie in ``RUN/checkpoints.json``: Orbax does not see every damage,
    and of what it sees it reports more than the one line that a reader needs.
    """

    def __init__(self, folder: Path) -> None:
        import orbax.checkpoint as ocp

        logging.getLogger("absl").setLevel(logging.CRITICAL)  # Orbax reports each save as a warning
        self._ocp = ocp
        options = ocp.CheckpointManagerOptions(max_to_keep=2, enable_async_checkpointing=False)
        try:
            self._manager = ocp.CheckpointManager(folder.absolute(), options=options)
        except OSError as error:
            raise InputError(f"checkpoints cannot be written to {folder}: {error}") from error
        self._folder = folder

    def save(self, state: TrainState) -> None:
        """Keep a state under its step.

        Raises
        ------
        InputError
            If the folder cannot be written.
        """
        step = int(state.step)
        if step in self._manager.all_steps():
            return
        try:
            self._manager.save(step, args=self._ocp.args.StandardSave(state._asdict()))
            known = self._checksums()
            kept = {
                str(kept): known.get(str(kept)) or _checksum(self._folder / str(kept))
                for kept in self._manager.all_steps()
            }
        except OSError as error:
            raise InputError(f"the checkpoint {self._folder} cannot be written: {error}") from error
        write_json(self._folder.with_suffix(".json"), kept)

    def restore(self, like: TrainState) -> TrainState | None:
        """Return the last state, or None where there is none.

        Raises
        ------
        InputError
            If the checkpoint is damaged or belongs to a model of another shape.
        """
        step = self._manager.latest_step()
        if step is None:
            return None
        folder = self._folder / str(step)
        damaged = f"the checkpoint {folder} is damaged, delete it to go on from the one before"
        # One that was cut off before its checksum was written is whole, and read without.
        known = self._checksums().get(str(step))
        if known is not None and known != _checksum(folder):
            raise InputError(damaged)
        template = jax.tree.map(self._ocp.utils.to_shape_dtype_struct, like._asdict())
        try:
            restored = self._manager.restore(step, args=self._ocp.args.StandardRestore(template))
        except Exception as error:  # Orbax and TensorStore raise many kinds for a damaged file
            lines = str(error).strip().splitlines()
            raise InputError(
                f"the checkpoint {folder} cannot be read, delete it to go on "
                f"from the one before: {lines[0] if lines else type(error).__name__}"
            ) from error
        state = TrainState(**restored)
        if int(state.step) != step or not all_finite(state):
            raise InputError(damaged)
        # Donation needs buffers of JAX's own making; restored ones may be shared with the host.
        return jax.tree.map(lambda leaf: jnp.array(np.asarray(leaf)), state)

    def _checksums(self) -> dict[str, str]:
        path = self._folder.with_suffix(".json")
        try:
            return dict(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else {}
        except (OSError, ValueError, TypeError) as error:
            raise InputError(
                f"the checksums {path} cannot be read, delete them to go on without: {error}"
            ) from error

    def close(self) -> None:
        """Finish what is being written."""
        self._manager.close()


@contextmanager
def open_checkpoints(folder: Path) -> Iterator[Checkpoints]:
    """Open a run's checkpoints for the duration of a block."""
    with warnings.catch_warnings():
        checkpoints = Checkpoints(folder)
    try:
        yield checkpoints
    finally:
        checkpoints.close()
