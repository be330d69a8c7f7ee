"""A run's record on disk: its configuration once, its metrics as JSON lines."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, Self, TypeVar, overload

from jaxflow.errors import InputError
from jaxflow.train.config import TrainConfig
from jaxflow.train.lock import hold

__all__ = ["Journal", "RunConfig", "claim_run", "open_journal", "read_config", "write_json"]


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
