"""A run's record on disk: its configuration once, its metrics as JSON lines."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, Self, TypeVar, overload

from jaxflow.errors import InputError
from jaxflow.train.checkpoint import Checkpoints, all_finite, open_checkpoints
from jaxflow.train.config import TrainConfig
from jaxflow.train.distributed import by_each, by_first, tree_of_first
from jaxflow.train.lock import hold
from jaxflow.train.mesh import Layout
from jaxflow.train.step import TrainState


class RunConfig(Protocol):
    """What a run's configuration can do: to a dictionary and back."""

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as a JSON-ready dictionary."""

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Self:
        """Build a configuration from `to_dict`'s result."""


def write_json(path: Path, value: Any) -> None:
    """Write JSON beside the file and rename it.

    Raises
    ------
    InputError
        If it cannot be written.
    """
    _replace(path, json.dumps(value, indent=2) + "\n")


def _replace(path: Path, text: str) -> None:
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        try:
            with beside.open("w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())  # or a renamed file may be empty after a power cut
            beside.replace(path)
        finally:
            beside.unlink(missing_ok=True)
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror or error}") from error


C = TypeVar("C", bound=RunConfig)

_FLOAT32 = 2.0**128  # where its numbers end


@overload
def read_config(run: Path) -> TrainConfig | None: ...
@overload
def read_config(run: Path, kind: type[C]) -> C | None: ...
def read_config(run: Path, kind: type[RunConfig] = TrainConfig) -> RunConfig | None:
    """Return the configuration of the run in a folder, or None where there is no run.

    Parameters
    ----------
    run
        The folder.
    kind
        The configuration's class: `TrainConfig`, or that of a fine-tuning run.

    Raises
    ------
    InputError
        If the file is damaged.
    """
    path = run / "config.json"
    if not path.is_file():
        return None
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"the run's configuration {path} cannot be read: {error}") from error
    if not isinstance(fields, dict):
        raise InputError(f"the run's configuration {path} must hold a JSON object")
    try:
        return kind.from_dict(fields)
    except InputError as error:
        raise InputError(f"{path} cannot be used: {error}") from error


class Journal:
    """Appends metrics to ``RUN/metrics.jsonl``."""

    def __init__(self, path: Path, seconds: float) -> None:
        self._path, self._pending = path, path.with_name("pending.json")
        try:
            # Without a buffer: what could not be written is not tried again when it is closed.
            self._file = path.open("ab", buffering=0)
        except OSError as error:
            raise InputError(f"{path} cannot be written: {error.strerror or error}") from error
        self.seconds_before = seconds

    def write(self, step: int, **values: Any) -> None:
        """Append one line.

        Raises
        ------
        InputError
            If it cannot be written.
        """
        line = json.dumps({"step": step, **values}).encode() + b"\n"
        try:
            while line:  # of a nearly full disk only a part is taken
                line = line[self._file.write(line) :]
        except OSError as error:
            raise InputError(
                f"{self._path} cannot be written: {error.strerror or error}"
            ) from error

    def put_off(self, step: int, rows: Sequence[Mapping[str, float]]) -> None:
        """Keep in ``pending.json`` what the steps up to `step` found and no line tells yet.

        A run that is stopped between two lines so goes on to the line it would have written.
        """
        write_json(self._pending, {"step": step, "metrics": [dict(row) for row in rows]})

    def taken_up(self, step: int, names: Collection[str]) -> list[dict[str, float]]:
        """Return what was put off at `step`, which may be nothing.

        Parameters
        ----------
        step
            Where the run goes on.
        names
            Of the metrics that each step found, all of them.

        Raises
        ------
        InputError
            If the file is damaged.
        """
        try:
            if not self._pending.exists():
                return []
            found = json.loads(self._pending.read_text(encoding="utf-8"))
            rows = [{name: _metric(row[name]) for name in row} for row in found["metrics"]]
            if type(found["metrics"]) is not list or type(found["step"]) is not int:
                raise ValueError("it has no list of metrics, or no step")
            if any(row.keys() != set(names) for row in rows):
                raise ValueError(f"each of its steps must have found {', '.join(names)}")
            return rows if found["step"] == step else []
        except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
            raise InputError(
                f"{self._pending} must hold the metrics of a run's last steps, it is damaged: "
                f"delete it to go on without them: {error!r}"
            ) from error

    def told(self) -> None:
        """Forget what was put off: its line is written, and a later checkpoint too."""
        with contextlib.suppress(OSError):
            self._pending.unlink(missing_ok=True)

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def open_journal(run: Path, step: int) -> Journal:
    """Open a run's metrics to go on after `step`: later lines, from a cut-off run, are dropped.

    Raises
    ------
    InputError
        If the file cannot be read or written, or a line that is kept is none of a journal's.
    """
    path = run / "metrics.jsonl"
    kept: list[bytes] = []
    seconds = 0.0
    if path.is_file():
        try:
            lines = path.read_bytes().split(b"\n")
        except OSError as error:
            raise InputError(f"{path} cannot be read: {error.strerror or error}") from error
        # Behind the last line end is nothing, or what was being written when the run was cut off.
        for number, line in enumerate(lines[:-1], start=1):
            entry_step, entry_seconds = _entry(path, number, line, seconds)
            if entry_step > step:
                break
            kept.append(line + b"\n")
            seconds = entry_seconds
        _replace(path, b"".join(kept).decode("utf-8"))
    return Journal(path, seconds)


def _entry(path: Path, number: int, line: bytes, seconds: float) -> tuple[int, float]:
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


def _metric(found: Any) -> float:
    """Check a number that was a finite one of float32 when it was written."""
    if type(found) not in (int, float) or not abs(found) < _FLOAT32:
        raise ValueError(f"{found!r} is no finite number")
    return float(found)


def _comparable(config: RunConfig) -> dict[str, Any]:
    # The same folder may be named in several ways.
    fields = config.to_dict()
    data = fields.get("data")
    return {**fields, "data": None if data is None else str(Path(data).resolve())}


@contextmanager
def claim_run(run: Path, config: RunConfig) -> Iterator[None]:
    """Have a run's folder to oneself, with its configuration in it, for the duration of a block.

    Raises
    ------
    InputError
        If the folder holds a run with another configuration, another process has it, or it cannot
        be written.
    """
    _check_same(run, config)  # what is refused is not touched
    with hold(run):
        if not _check_same(run, config):
            write_json(run / "config.json", config.to_dict())
        yield


def _check_same(run: Path, config: RunConfig) -> bool:
    """Refuse another run's folder; say whether it is this run's already."""
    there = read_config(run, type(config))
    if there is None:
        return False
    mine, theirs = _comparable(config), _comparable(there)
    for name, value in mine.items():
        if value != theirs[name]:
            raise InputError(
                f"{run} holds a run with another configuration ({name} is {theirs[name]}, not "
                f"{value}): choose another folder, or go on with the run as it was begun"
            )
    return True


class RunFolder:
    """A run's files, open for the duration of a block: see `open_run`.

    Every method is called by all processes of the run, in the same order, and raises in all of
    them.

    Attributes
    ----------
    seconds_before
        Seconds of training up to the state that the run goes on from.
    """

    def __init__(self, run: Path, layout: Layout) -> None:
        self._run, self._layout = run, layout
        # Process 0's alone.
        self._files = contextlib.ExitStack()
        self._checkpoints: Checkpoints
        self._journal: Journal
        self.seconds_before = 0.0

    def begin(
        self, fresh: TrainState, names: Collection[str]
    ) -> tuple[TrainState, list[dict[str, float]]]:
        """Return the state that the run goes on from, and what its last steps found untold.

        Parameters
        ----------
        fresh
            The state of a run that has not begun.
        names
            Of the metrics that each step finds.

        Returns
        -------
        TrainState
            The last checkpoint, or `fresh`, where the layout has it.
        list of dict
            By step, those of `jaxflow.train.run.Journal.taken_up`.

        Raises
        ------
        InputError
            If checkpoint or journal are damaged.
        """
        state = fresh

        def read() -> list[Any]:
            nonlocal state
            state = self._checkpoints.restore(fresh) or fresh
            step = int(state.step)
            journal = self._files.enter_context(contextlib.closing(open_journal(self._run, step)))
            self._journal = journal
            return [journal.seconds_before, journal.taken_up(step, names)]

        self.seconds_before, untold = by_first(read)
        return self._layout.put_state(tree_of_first(state)), untold

    def write(self, step: int, **values: Any) -> None:
        """Append a line to the journal.

        Raises
        ------
        InputError
            If it cannot be written.
        """
        by_first(lambda: self._journal.write(step, **values))

    def keep(self, state: TrainState) -> None:
        """Write a checkpoint of steps that the journal has told.

        Raises
        ------
        InputError
            If it cannot be written, or has a number that is not finite.
        """
        here = self._layout.on_host(state)

        def save() -> None:
            self._save(here)
            self._journal.told()

        by_first(save)

    def put_off(self, state: TrainState, untold: Sequence[Mapping[str, float]]) -> None:
        """Write a checkpoint between two lines of the journal, so that going on leaves no trace.

        Raises
        ------
        InputError
            As `keep` does.
        """
        here = self._layout.on_host(state)

        def save() -> None:
            self._journal.put_off(int(here.step), untold)
            self._save(here)

        by_first(save)

    def finish(
        self, save: Callable[[Path], None], accuracy: Mapping[str, Mapping[str, float | int]]
    ) -> None:
        """Write the model and its accuracy.

        Raises
        ------
        InputError
            If they cannot be written.
        """

        def write() -> None:
            save(self._run / "model")
            write_json(self._run / "accuracy.json", accuracy)

        by_first(write)

    def _save(self, state: TrainState) -> None:
        if not all_finite(state):
            raise InputError(
                f"parameters are no longer finite after step {int(state.step)}: training stopped, "
                "the last good checkpoint is kept; try a lower learning rate"
            )
        self._checkpoints.save(state)

    def _open(self, config: RunConfig, say: Callable[[str], None]) -> None:
        self._files.enter_context(claim_run(self._run, config))
        self._checkpoints = self._files.enter_context(
            open_checkpoints(self._run / "checkpoints", say)
        )


@contextmanager
def open_run(
    run: Path, config: RunConfig, layout: Layout, say: Callable[[str], None]
) -> Iterator[RunFolder]:
    """Have a run's folder for the duration of a block.

    Parameters
    ----------
    run
        The folder.
    config
        The run's configuration, which is written there.
    layout
        Where the run's state lies.
    say
        Told in one line of each checkpoint that is not used.

    Raises
    ------
    InputError
        If the folder holds a run with another configuration, another process has it, it cannot be
        written, holds checkpoints of which none is whole, or the run's processes have not the same
        configuration.
    """
    _need_one_run(config)
    folder = RunFolder(run, layout)
    with folder._files:  # what is open there learns of an error
        by_first(lambda: folder._open(config, say))
        yield folder


def _need_one_run(config: RunConfig) -> None:
    """Refuse processes whose options differ; where the corpus lies on its host is each one's."""
    theirs = by_first(config.to_dict)

    def check() -> None:
        for name, value in config.to_dict().items():
            if value != theirs[name] and name != "data":
                raise InputError(
                    f"{name} is {value}, and {theirs[name]} in process 0: give all processes of a "
                    "run the same options"
                )

    by_each(check)
