"""Readers of records: configurations and journals of runs, tables."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

from fuzzing.cases import Case, Reader
from fuzzing.mutate_json import mutate_json
from fuzzing.mutate_text import mutate_case, mutate_text
from jaxflow.eval.plots.curves import read_journey, read_tables
from jaxflow.models.config import EncoderConfig
from jaxflow.train.config import FineTuneConfig, TrainConfig
from jaxflow.train.run import Journal, read_config

__all__ = ["READERS", "json_case", "lines_case"]


def json_case(rng: Random, case: Case, others: Sequence[Case]) -> Case:
    return mutate_case(rng, case, others, lambda rng, name, content: mutate_json(rng, content))


def lines_case(rng: Random, case: Case, others: Sequence[Case]) -> Case:
    """Change JSON lines: one as JSON, or the lines as text."""

    def change(rng: Random, name: str, content: bytes) -> bytes:
        if rng.random() < 0.4:
            return mutate_text(rng, content)
        lines = content.split(b"\n")
        place = rng.randrange(len(lines))
        lines[place] = mutate_json(rng, lines[place])
        return b"\n".join(lines)

    return mutate_case(rng, case, others, change)


def _json(value: Any) -> bytes:
    return json.dumps(value).encode()


def same_fields(record: Any, content: bytes | None) -> None:
    """What was read is what the JSON says, value by value and kind by kind."""
    assert content is not None
    stated = json.loads(content)
    fields = record.to_dict()
    assert stated.keys() <= fields.keys()
    for name, value in stated.items():
        found = fields[name]
        if isinstance(value, bool) or isinstance(found, bool):
            assert value is found, name
        elif isinstance(value, float) and isinstance(found, float | int):
            assert float(found) == value, name
        elif name == "data" and value is not None:
            assert Path(value) == Path(found), name
        else:
            assert json.dumps(found) == json.dumps(value), name


def config_oracle(folder: Path, case: Case, value: Any) -> None:
    if value is None:
        assert not case.get("config.json")
        return
    same_fields(value, case["config.json"])


def encoder_config(folder: Path) -> Any:
    return EncoderConfig.from_dict(json.loads((folder / "config.json").read_bytes()))


def journal_seeds() -> list[Case]:
    lines = [{"step": step, "loss": 0.5, "seconds": step / 10} for step in (1, 2, 3)]
    text = b"".join(_json(line) + b"\n" for line in lines)
    held = _json({"step": 2, "held_out": {"dev": 0.9}}) + b"\n"
    return [{"metrics.jsonl": text}, {"metrics.jsonl": text[:-9]}, {"metrics.jsonl": held + text}]


def journal(folder: Path) -> Any:
    """Open a journal to go on after step 2, and return what it kept."""
    opened = Journal(folder, 2)
    opened.close()
    return (folder / "metrics.jsonl").read_bytes(), opened.seconds_before


def journal_oracle(folder: Path, case: Case, value: Any) -> None:
    """Whole lines are kept up to the first later step; a line that has no end is dropped."""
    kept, seconds = value
    expected, last = [], 0.0
    for line in (case.get("metrics.jsonl") or b"").split(b"\n")[:-1]:
        entry = json.loads(line.decode("utf-8"))
        assert type(entry["step"]) is int
        if entry["step"] > 2:
            break
        expected.append(line + b"\n")
        last = entry.get("seconds", last)
    assert kept == b"".join(expected)
    assert seconds == last


def tables_seeds() -> list[Case]:
    cell = {"mean": 0.5, "std": 0.1, "ci95": [0.4, 0.6], "n": 10, "nan": 0}
    tables = {
        "tables": {"blank_out": {"raw": [cell, cell], "flow": [cell, cell]}},
        "saturation": [cell, cell],
        "entropy": {row: [cell, cell] for row in ("raw", "rollout", "flow")},
        "samples": 10,
    }
    return [{"tables.json": _json(tables)}]


def journey_seeds() -> list[Case]:
    lines = [
        {"step": step, "loss": 0.5, "accuracy": 0.5, "held_out": {"dev": 0.9}} for step in (1, 2)
    ]
    return [{"metrics.jsonl": b"".join(_json(line) + b"\n" for line in lines)}]


READERS = (
    Reader(
        "run's configuration",
        lambda: [
            {"config.json": _json(TrainConfig().to_dict())},
            {"config.json": _json(TrainConfig(data=Path("x"), buckets=()).to_dict())},
            {"config.json": _json({"epochs": 2, "corpus": "full"})},
        ],
        lambda folder: read_config(folder),
        json_case,
        config_oracle,
        share=3,
    ),
    Reader(
        "fine-tuning's configuration",
        lambda: [{"config.json": _json(FineTuneConfig(dropout=0.1).to_dict())}],
        lambda folder: read_config(folder, FineTuneConfig),
        json_case,
        config_oracle,
        share=2,
    ),
    Reader(
        "run's journal",
        journal_seeds,
        journal,
        lines_case,
        journal_oracle,
        share=3,
    ),
    Reader(
        "training's curves",
        journey_seeds,
        read_journey,
        lines_case,
        share=1,
    ),
    Reader(
        "evaluation's tables",
        tables_seeds,
        read_tables,
        json_case,
        share=1,
    ),
)
