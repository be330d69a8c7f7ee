"""Inject a few faults of every kind into commands; `tests.reliability` injects hundreds."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import faulting
import pytest
from faulting import EVALUATE, FINETUNE, KINDS, LEADERBOARD, PREPARE, SHARDS, TRAIN, Outcome

pytestmark = [
    pytest.mark.nightly,
    # Orbax leaves tasks of a closed event loop behind where a checkpoint cannot be read.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(scope="module")
def stage(tmp_path_factory):
    return faulting.Stage(tmp_path_factory.mktemp("faults") / "stage")


@pytest.fixture(scope="module")
def whole(stage):
    return {work: stage.undisturbed(work) for work in faulting.WORKS}


@pytest.mark.parametrize(
    ("kind", "work", "number"),
    [
        # Even numbers are killed by the clock, odd ones at a file operation.
        ("kill", TRAIN, 0), ("kill", EVALUATE, 3), ("kill", PREPARE, 5), ("kill", SHARDS, 1),
        ("kill", FINETUNE, 1), ("kill", LEADERBOARD, 1),
        ("stop", TRAIN, 0), ("stop", EVALUATE, 1), ("twice", TRAIN, 0),
        # No space, read-only, permission denied.
        ("fail", TRAIN, 0), ("fail", EVALUATE, 1), ("fail", PREPARE, 2), ("limit", TRAIN, 0),
        # Too small, and read-only.
        ("disk", EVALUATE, 0), ("disk", PREPARE, 4),
    ],
    ids=lambda value: getattr(value, "name", str(value)),
)  # fmt: skip
def test_nothing_is_lost(stage, whole, kind, work, number):
    outcome = KINDS[kind][1](stage, work, whole[work], number)
    if outcome is None:
        pytest.skip("no file system can be mounted here")
    assert outcome.wrong == []


def test_damaged_checkpoints_give_way_to_the_one_before(stage):
    found = faulting.damaged_checkpoints(stage.inputs / "run", stage.scratch / "damaged", 70)
    assert found["wrong"] == []
    assert found["tried"] >= 70
    assert min(found["cut"], found["flip"]) > 5


def test_what_is_wrong_is_seen(stage, whole):
    """The harness is not blind: files that are half-written, others, missing and left over."""
    other = dict.fromkeys(whole[EVALUATE].files, "another digest")
    with stage.folder() as folder:
        assert stage.half_written(EVALUATE, folder, other) == []
        assert stage.finish(EVALUATE, folder, whole[EVALUATE].files) == []
        assert len(stage.half_written(EVALUATE, folder, other)) == len(other) == 5
        (folder / "out" / ".tables.md.part").write_text("")
        wrong = stage.finish(EVALUATE, folder, {**whole[EVALUATE].files, "lost": "digest"})
        assert wrong == ["lost differs in the end", ".tables.md.part is left over"]
    with stage.folder() as folder:
        (folder / "run").mkdir()
        (folder / "run" / "metrics.jsonl").write_text('{"step": 1, "sec')
        (told,) = stage.half_written(TRAIN, folder, {})
        assert "a line of the journal is cut off" in told
    broken = dataclasses.replace(EVALUATE, argv=("evaluate", "nowhere"))
    with stage.folder() as folder:
        assert "ends with 2" in stage.finish(broken, folder, {})[0]


class NoStage:
    """A stage on which nothing takes place."""

    def __init__(self, scratch):
        self.inputs = self.scratch = Path()

    def undisturbed(self, work):
        return None


def test_trials_are_counted_and_go_on_where_they_were(monkeypatch, tmp_path):
    """Trials that do nothing: every third kill comes too late, the second stop loses something."""

    def trial(kind):
        def outcome(stage, work, whole, number):
            lost = ["lost"] if (kind, number) == ("stop", 1) else []
            return None if kind == "disk" else Outcome(kind != "kill" or number % 3 != 0, lost)

        return outcome

    damages = {"tried": 0, "cut": 0, "flip": 0, "wrong": []}
    monkeypatch.setattr(faulting, "Stage", NoStage)
    monkeypatch.setattr(faulting, "damaged_checkpoints", lambda *_: damages)
    monkeypatch.setattr(faulting, "KINDS", {kind: ("", trial(kind)) for kind in KINDS})
    out = tmp_path / "counts.json"
    found = faulting.run(23, out)
    assert json.loads(out.read_text()) == found == faulting.run(23, out)  # nothing was left to do
    sums = {kind: [sum(tally[name] for tally in tallies.values())
                   for name in ("tried", "struck", "survived")]
            for kind, tallies in found["faults"].items()}  # fmt: skip
    assert sums == {"kill": [12, 8, 12], "stop": [2, 2, 1], "twice": [1, 1, 1],
                    "fail": [4, 4, 4], "limit": [2, 2, 2], "disk": [0, 0, 0]}  # fmt: skip
    assert len(found["wrong"]) == 1
    with pytest.raises(SystemExit, match="is of another run"):
        faulting.run(24, out)
