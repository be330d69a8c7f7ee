"""Inject a few faults of every kind into commands; `python -m tests.faults` injects hundreds."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from faulting.campaign import run
from faulting.trials import KINDS, Outcome, Stage, Undisturbed
from faulting.works import WORKS, Work

pytestmark = pytest.mark.nightly
TRAIN, EVALUATE, _, PREPARE, SHARDS, _ = WORKS


@pytest.fixture(scope="module")
def stage(tmp_path_factory):
    built = Stage.build(tmp_path_factory.mktemp("faults") / "stage")
    yield built
    built.server.close()


@pytest.fixture(scope="module")
def whole(stage) -> dict[Work, Undisturbed]:
    return {work: stage.undisturbed(work) for work in (TRAIN, EVALUATE, PREPARE, SHARDS)}


@pytest.mark.parametrize(
    ("kind", "work", "number"),
    [
        # Even numbers are killed by the clock, odd ones at a file operation.
        ("kill", TRAIN, 0), ("kill", EVALUATE, 3), ("kill", PREPARE, 5), ("kill", SHARDS, 1),
        ("stop", TRAIN, 0), ("stop", EVALUATE, 1), ("twice", TRAIN, 0),
        # No space, read-only, permission denied.
        ("fail", TRAIN, 0), ("fail", EVALUATE, 1), ("fail", PREPARE, 2), ("limit", TRAIN, 0),
        # Too small, and read-only.
        ("disk", EVALUATE, 0), ("disk", PREPARE, 4),
    ],
    ids=lambda value: value.name if isinstance(value, Work) else str(value),
)  # fmt: skip
def test_nothing_is_lost(stage, whole, kind, work, number):
    outcome = KINDS[kind][1](stage, work, whole[work], number)
    if outcome is None:
        pytest.skip("no file system can be mounted here")
    assert outcome.wrong == []


def test_damaged_checkpoints_give_way_to_the_one_before(stage):
    arguments = (str(stage.inputs / "run"), str(stage.scratch / "damaged"), 70)
    found = stage.call(stage.scratch, "damaged_checkpoints", *arguments)
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

    inputs = scratch = Path()
    server = type("Server", (), {"close": lambda _: None})()

    def undisturbed(self, work):
        return Undisturbed({}, 0.0, 0)

    def call(self, *_):
        return {"tried": 0, "cut": 0, "flip": 0, "wrong": []}


def test_kills_go_on_until_as_many_have_struck(monkeypatch, tmp_path):
    """Trials that do nothing: every third kill comes too late, the second stop loses something."""

    def trial(kind):
        def outcome(stage, work, whole, number):
            lost = ["lost"] if (kind, number) == ("stop", 1) else []
            return None if kind == "disk" else Outcome(kind != "kill" or number % 3 != 0, lost)

        return outcome

    monkeypatch.setattr("faulting.campaign.Stage.build", lambda _: NoStage())
    monkeypatch.setattr("faulting.campaign.KINDS", {kind: ("", trial(kind)) for kind in KINDS})
    counts, out = {"kill": 8, "stop": 3, "disk": 2}, tmp_path / "counts.json"
    found = run(counts, 0, out)
    assert json.loads(out.read_text()) == found == run(counts, 0, out)  # the second was finished
    assert found["made"] == {"kill": 12, "stop": 3, "disk": 2}  # numbers 0, 3, 6 and 9 came late
    kills = found["faults"]["kill"].values()
    assert (sum(t["tried"] for t in kills), sum(t["struck"] for t in kills)) == (12, 8)
    assert [len(tally["told"]) for tally in found["faults"]["stop"].values()] == [0, 1, 0]
    with pytest.raises(SystemExit, match="is of another run"):
        run({**counts, "kill": 9}, 0, out)
