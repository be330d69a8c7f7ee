"""Save and restore checkpoints, so that an interrupted run resumes with identical results."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import shutil
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from jaxflow.errors import InputError
from jaxflow.files import write_together
from jaxflow.train.step import TrainState

KEPT = 2
SEAL = "sha256"


def all_finite(state: TrainState) -> bool:
    """Return whether every floating-point number of the state is finite."""
    leaves = [leaf for leaf in jax.tree.leaves(state) if jnp.issubdtype(leaf.dtype, jnp.floating)]
    # On the host: on the device two programs would be compiled for every shape.
    return all(bool(np.isfinite(np.asarray(leaf)).all()) for leaf in leaves)


def _checksum(folder: Path) -> str:
    digest = hashlib.sha256()
    files = [path for path in folder.rglob("*") if path.is_file() and path != folder / SEAL]
    for path in sorted(files):
        digest.update(path.relative_to(folder).as_posix().encode())
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def _reason(error: Exception) -> str:
    """Return the first line of an error; of a full disk Orbax and TensorStore make many kinds."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


class Checkpoints:
    """The last two good states of a run, kept by Orbax under ``RUN/checkpoints``.

    Orbax writes a checkpoint under a temporary name and renames it. Then the checksum of its files
    is added as ``sha256``; a checkpoint without one, of a run killed between the two, is not used.
    The checksum is compared before Orbax reads a checkpoint, because Orbax does not detect all
    damage. A damaged one is moved to ``RUN/checkpoints-damaged``, and the one before it is used;
    `warn` is called with one line for each that is not used.

    Old checkpoints are not deleted by Orbax's own retention: it deletes before the new one has its
    checksum, and in place, so that a killed run would leave half a checkpoint that looks damaged.
    """

    def __init__(self, folder: Path, warn: Callable[[str], None]) -> None:
        import orbax.checkpoint as ocp

        logging.getLogger("absl").setLevel(logging.CRITICAL)  # Orbax reports each save as a warning
        self._ocp = ocp
        self._folder = folder
        # Of several processes one keeps checkpoints: Orbax is to wait for no other.
        own = jax.process_index()
        alone = ocp.options.MultiprocessingOptions(primary_host=own, active_processes={own})
        options = ocp.CheckpointManagerOptions(
            enable_async_checkpointing=False, create=False, multiprocessing_options=alone
        )
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._move_incomplete(warn)
            self._manager = ocp.CheckpointManager(folder.absolute(), options=options)
            if len(self._steps()) > KEPT:  # a run ended between its last checkpoint and deleting
                self._prune()
        except OSError as error:
            raise InputError(f"checkpoints cannot be written to {folder}: {error}") from error

    def save(self, state: TrainState) -> None:
        """Write the checkpoint of a step."""
        step = int(state.step)
        if step in self._manager.all_steps():
            return
        folder = self._folder / str(step)
        try:
            self._manager.save(step, args=self._ocp.args.StandardSave(state._asdict()))
            write_together(folder, {SEAL: _checksum(folder)})
            self._prune()
        except Exception as error:
            raise InputError(
                f"the checkpoint {folder} cannot be written: {_reason(error)}"
            ) from error

    def restore(self, like: TrainState) -> TrainState | None:
        """Return the last state, or None where there is none."""
        step = self._manager.latest_step()
        if step is None:
            return None
        folder = self._folder / str(step)
        template = jax.tree.map(self._ocp.utils.to_shape_dtype_struct, like._asdict())
        try:
            restored = self._manager.restore(step, args=self._ocp.args.StandardRestore(template))
        except Exception as error:
            raise InputError(
                f"the checkpoint {folder} cannot be read, delete it to go on from the one before: "
                f"{_reason(error)}"
            ) from error
        state = TrainState(**restored)
        if int(state.step) != step or not all_finite(state):
            raise InputError(
                f"the checkpoint {folder} must hold finite numbers after step {step}, it does not: "
                "delete it to go on from the one before"
            )
        # Donation needs buffers of JAX's own making; restored ones may be shared with the host.
        return jax.tree.map(lambda leaf: jnp.array(np.asarray(leaf)), state)

    def close(self) -> None:
        """Wait until everything is written."""
        self._manager.close()

    def _steps(self) -> list[int]:
        """Return the steps kept, the last first."""
        if not self._folder.is_dir():
            return []
        names = (path.name for path in self._folder.iterdir())
        return sorted((int(n) for n in names if n.isdecimal() and n == str(int(n))), reverse=True)

    def _prune(self) -> None:
        """Delete all but the last ones."""
        for step in self._steps()[KEPT:]:
            self._delete(step)
        self._manager.reload()

    def _delete(self, step: int) -> None:
        """Delete a checkpoint, renamed first, so that none is seen half deleted."""
        aside = self._folder / f".{step}.deleted"
        (self._folder / str(step)).rename(aside)
        shutil.rmtree(aside)

    def _move_incomplete(self, warn: Callable[[str], None]) -> None:
        """Move incomplete checkpoints away, because Orbax opens all of them."""
        bad: dict[int, str] = {}
        steps = self._steps()
        for step in steps:
            seal = self._sealed(step)
            if seal is None:
                bad[step] = "cut off"
            elif seal != _checksum(self._folder / str(step)).encode():
                bad[step] = "damaged"
        last = max((step for step in steps if step not in bad), default=-1)
        damaged = [str(step) for step, why in bad.items() if why == "damaged"]
        if last < 0 and damaged:
            raise InputError(
                f"no checkpoint in {self._folder} is whole ({', '.join(damaged)} "
                f"{'is' if len(damaged) == 1 else 'are'} damaged): delete that folder to train "
                "from the beginning"
            )
        for step, why in bad.items():
            warn(self._move_away(step, why, last if last > step else None))
        for unfinished in (".*.deleted", f".*.{SEAL}", "*.orbax-checkpoint-tmp*"):
            for left in self._folder.glob(unfinished):
                shutil.rmtree(left) if left.is_dir() else left.unlink()

    def _sealed(self, step: int) -> bytes | None:
        """Return a checkpoint's checksum as it was written, or None."""
        seal = self._folder / str(step) / SEAL
        if seal.is_file():
            return seal.read_bytes()
        together = self._folder.with_suffix(".json")  # where earlier versions kept checksums
        if not together.is_file():
            return None
        try:
            found = json.loads(together.read_text(encoding="utf-8")).get(str(step))
            return None if found is None else str(found).encode()
        except (OSError, ValueError, AttributeError, RecursionError) as error:
            raise InputError(
                f"the checksums {together} cannot be read, delete the checkpoints beside them to "
                f"train from the beginning: {error}"
            ) from error

    def _move_away(self, step: int, why: str, last: int | None = None) -> str:
        """Move a checkpoint away and return a line about it; `last` is a later one that is used."""
        folder = self._folder / str(step)
        if why == "cut off":
            self._delete(step)
            return f"{folder} was cut off before its checksum was written and is not used"
        place = self._folder.with_name(f"{self._folder.name}-damaged")
        place.mkdir(exist_ok=True)
        aside, number = place / str(step), 1
        while aside.exists():
            number += 1
            aside = place / f"{step}-{number}"
        folder.rename(aside)
        used = "going on from the one before" if last is None else f"going on from {last}"
        return f"the checkpoint {folder} is damaged: moved to {aside}, {used}"


@contextmanager
def _without_late_writes() -> Iterator[None]:
    """Silence the errors that TensorStore reports to Orbax after a write has failed.

    Orbax closes its event loop at the first failure; each write that ends later then prints a
    traceback of its own, through one of two hooks of `sys`. Some end while the process exits, so
    after a failure both hooks stay; they pass on every other error.
    """
    unraisable, uncaught = sys.unraisablehook, sys.excepthook

    def late(error: BaseException | None) -> bool:
        return isinstance(error, RuntimeError) and str(error) == "Event loop is closed"

    sys.unraisablehook = lambda found: None if late(found.exc_value) else unraisable(found)
    sys.excepthook = lambda *error: None if late(error[1]) else uncaught(*error)
    yield
    sys.unraisablehook, sys.excepthook = unraisable, uncaught


@contextmanager
def open_checkpoints(
    folder: Path, warn: Callable[[str], None] = lambda line: print(line, file=sys.stderr)
) -> Iterator[Checkpoints]:
    """Open a run's checkpoints for the duration of a block; see `Checkpoints`."""
    with warnings.catch_warnings():
        checkpoints = Checkpoints(folder, warn)
    with _without_late_writes():
        try:
            yield checkpoints
        finally:
            with contextlib.suppress(OSError):
                checkpoints.close()
