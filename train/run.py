"""Manage a run's folder: configuration, journal of metrics and checkpoints, for all its processes.

Process 0 reads and writes, and the others receive the outcome: only the corpus must be readable on
every host, and an error with the folder ends all processes with the same message.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar, overload

from jaxflow.errors import InputError
from jaxflow.files import read_json_object, write_together
from jaxflow.train.checkpoint import Checkpoints, all_finite, open_checkpoints
from jaxflow.train.config import FitConfig, TrainConfig
from jaxflow.train.distributed import alike, by_each, by_first, tree_of_first
from jaxflow.train.lock import hold
from jaxflow.train.mesh import Layout
from jaxflow.train.step import TrainState

C = TypeVar("C", bound=FitConfig)

_FLOAT32 = 2.0**128  # above its largest number


def write_json(path: Path, value: Any) -> None:
    """Write JSON to a file, atomically."""
    write_together(path.parent, {path.name: json.dumps(value, indent=2) + "\n"})


@overload
def read_config(run: Path) -> TrainConfig | None: ...
@overload
def read_config(run: Path, kind: type[C]) -> C | None: ...
def read_config(run: Path, kind: type[FitConfig] = TrainConfig) -> FitConfig | None:
    """Return the configuration of the run in a folder, or None where there is no run.

    Raises
    ------
    InputError
        If the file is damaged, or not of this kind.
    """
    path = run / "config.json"
    if not path.is_file():
        return None
    fields = read_json_object(path, "the run's configuration")
    try:
        return kind.from_dict(fields)
    except InputError as error:
        raise InputError(f"{path} cannot be used: {error}") from error


def config_of(run: Path, data: Path | None = None) -> TrainConfig:
    """Return how a run was trained, its corpus replaced by the one in `data` where that is given.

    Raises `InputError` if there is no run.
    """
    config = read_config(run)
    if config is None:
        raise InputError(f"no run at {run}: expected a folder that jaxflow train wrote")
    return config if data is None else dataclasses.replace(config, data=data)


class Journal:
    """Lines of metrics in ``metrics.jsonl``, and in ``pending.json`` those of no line yet.

    Opened to go on after `step`: later lines, of a run that was cut off, are dropped.
    """

    def __init__(self, run: Path, step: int) -> None:
        self._path, self._pending = run / "metrics.jsonl", run / "pending.json"
        self.seconds_before = 0.0
        kept: list[bytes] = []
        with _written(self._path):
            lines = self._path.read_bytes().split(b"\n") if self._path.is_file() else []
            # After the last line end is nothing, or a line that was interrupted.
            for number, line in enumerate(lines[:-1], start=1):
                line_step, seconds = _parse(self._path, number, line, self.seconds_before)
                if line_step > step:
                    break
                kept.append(line + b"\n")
                self.seconds_before = seconds
            if lines:
                write_together(run, {self._path.name: b"".join(kept)})
            # Without a buffer: what could not be written is not tried again when it is closed.
            self._file = self._path.open("ab", buffering=0)

    def write(self, step: int, **values: Any) -> None:
        """Append one line."""
        line = json.dumps({"step": step, **values}).encode() + b"\n"
        with _written(self._path):
            while line:  # of a nearly full disk only a part is taken
                line = line[self._file.write(line) :]

    def write_pending(self, step: int, rows: Sequence[Mapping[str, float]]) -> None:
        """Write the metrics of the steps up to `step` that have no line yet."""
        write_json(self._pending, {"step": step, "metrics": list(rows)})

    def read_pending(self, step: int) -> list[dict[str, float]]:
        """Return the metrics that were kept at `step`, which may be none."""
        try:
            if not self._pending.exists():
                return []
            found = json.loads(self._pending.read_text(encoding="utf-8"))
            rows = [{name: _float32(row[name]) for name in row} for row in found["metrics"]]
            if type(found["metrics"]) is not list or type(found["step"]) is not int:
                raise ValueError("it has no list of metrics, or no step")
            if any(row.keys() != rows[0].keys() or "loss" not in row for row in rows):
                raise ValueError("its steps have no loss, or not the same metrics")
            return rows if found["step"] == step else []
        except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
            raise InputError(
                f"{self._pending} must hold the metrics of a run's last steps, it is damaged: "
                f"delete it to go on without them: {error!r}"
            ) from error

    def clear_pending(self) -> None:
        """Delete the pending metrics, once their line and a later checkpoint are written."""
        with contextlib.suppress(OSError):
            self._pending.unlink(missing_ok=True)

    def close(self) -> None:
        """Close the file."""
        self._file.close()


@contextmanager
def _written(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror or error}") from error


def _parse(path: Path, number: int, line: bytes, seconds: float) -> tuple[int, float]:
    """Return a line's step, and its seconds or those before it."""
    try:
        entry = json.loads(line.decode("utf-8"))
        step, seconds = entry["step"], entry.get("seconds", seconds)
        if type(step) is not int or type(seconds) not in (int, float) or not 0 <= seconds < 1e12:
            raise ValueError(f"its step is {step!r} and its seconds are {seconds!r}")
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(
            f"{path} must hold a run's metrics, line {number} is damaged: {error!r}: mend it or "
            "take it out to go on"
        ) from error
    return step, float(seconds)


def _float32(value: Any) -> float:
    """Check a number that was a finite one of float32 when it was written."""
    if type(value) not in (int, float) or not abs(value) < _FLOAT32:
        raise ValueError(f"{value!r} is no finite number")
    return float(value)


class RunFolder:
    """A run's files, open for the duration of a block: see `open_run`.

    Every method is called by all processes of the run, in the same order, and raises in all of
    them. `seconds_before` are those of training up to the state that the run goes on from.
    """

    # Process 0's alone.
    _checkpoints: Checkpoints
    _journal: Journal

    def __init__(self, run: Path, layout: Layout) -> None:
        self._run, self._layout = run, layout
        self._files = contextlib.ExitStack()
        self.seconds_before = 0.0

    def begin(self, fresh: TrainState) -> tuple[TrainState, list[dict[str, float]]]:
        """Return the last checkpoint, or `fresh`, on the devices, and its pending metrics."""
        state = fresh

        def read() -> list[Any]:
            nonlocal state
            state = self._checkpoints.restore(fresh) or fresh
            step = int(state.step)
            self._journal = self._files.enter_context(contextlib.closing(Journal(self._run, step)))
            return [self._journal.seconds_before, self._journal.read_pending(step)]

        self.seconds_before, pending = by_first(read)
        return self._layout.put_state(tree_of_first(state)), pending

    def refuse_pending(self) -> None:
        """Raise because the pending metrics are not those of the run's steps."""
        with alike():
            raise InputError(
                f"{self._run / 'pending.json'} must hold the metrics of a run's last steps, it has "
                "others: delete it to go on without them"
            )

    def write(self, step: int, **values: Any) -> None:
        """Append a line to the journal."""
        by_first(lambda: self._journal.write(step, **values))

    def keep(self, state: TrainState, pending: Sequence[Mapping[str, float]] | None = None) -> None:
        """Write a checkpoint, and the metrics of the steps before it that have no line yet."""
        here = self._layout.on_host(state)

        def save() -> None:
            if pending is not None:
                self._journal.write_pending(int(here.step), pending)
            if not all_finite(here):
                raise InputError(
                    f"parameters are no longer finite after step {int(here.step)}: training "
                    "stopped, the last good checkpoint is kept; try a lower learning rate"
                )
            self._checkpoints.save(here)
            if pending is None:
                self._journal.clear_pending()

        by_first(save)

    def finish(
        self, save: Callable[[Path], None], accuracy: Mapping[str, Mapping[str, float | int]]
    ) -> None:
        """Write the model and its accuracy."""

        def write() -> None:
            save(self._run / "model")
            write_json(self._run / "accuracy.json", accuracy)

        by_first(write)


@contextmanager
def open_run(
    run: Path, config: FitConfig, layout: Layout, warn: Callable[[str], None]
) -> Iterator[RunFolder]:
    """Lock and open a run's folder for the duration of a block; its configuration is written there.

    `warn` is called with one line for each checkpoint that is not used.
    """
    theirs = by_first(config.to_dict)
    by_each(lambda: _check_options(config.to_dict(), theirs))
    folder = RunFolder(run, layout)

    def open_files() -> None:
        folder._files.enter_context(_claimed(run, config))
        folder._checkpoints = folder._files.enter_context(
            open_checkpoints(run / "checkpoints", warn)
        )

    with folder._files:  # an error is passed to what is open there
        by_first(open_files)
        yield folder


def _check_options(own: dict[str, Any], theirs: dict[str, Any]) -> None:
    """Refuse options that are not those of process 0; the corpus's path may differ by host."""
    for name, value in own.items():
        if value != theirs[name] and name != "data":
            raise InputError(
                f"{name} is {value}, and {theirs[name]} in process 0: give all processes of a run "
                "the same options"
            )


@contextmanager
def _claimed(run: Path, config: FitConfig) -> Iterator[None]:
    """Lock a run's folder with its configuration in it for the duration of a block."""
    _check_same(run, config)  # what is refused is not touched
    with hold(run):
        if not _check_same(run, config):
            write_json(run / "config.json", config.to_dict())
        yield


def _check_same(run: Path, config: FitConfig) -> bool:
    """Refuse another run's folder; return whether it is this run's already."""
    there = read_config(run, type(config))
    if there is None:
        return False
    theirs = _comparable(there)
    for name, value in _comparable(config).items():
        if value != theirs[name]:
            raise InputError(
                f"{run} holds a run with another configuration ({name} is {theirs[name]}, not "
                f"{value}): choose another folder, or go on with the run as it was begun"
            )
    return True


def _comparable(config: FitConfig) -> dict[str, Any]:
    # The same folder may be named in several ways.
    fields = config.to_dict()
    data = fields.get("data")
    return {**fields, "data": None if data is None else str(Path(data).resolve())}
