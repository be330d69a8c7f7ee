"""A few faults of every kind on whole commands; `python -m tests.faults` makes hundreds."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import time
from pathlib import Path

import pytest
from faulting.campaign import KINDS, plan, run
from faulting.damages import cases, damage
from faulting.trials import Stage, Undisturbed, undisturbed
from faulting.works import WORKS, Work, damaged_checkpoints

TRAIN, EVALUATE, _, PREPARE = WORKS


@pytest.fixture(scope="module")
def stage(tmp_path_factory):
    built = Stage.build(tmp_path_factory.mktemp("faults") / "stage")
    yield built
    built.server.close()


@pytest.fixture(scope="module")
def whole(stage) -> dict[Work, Undisturbed]:
    return undisturbed(stage, ["train", "evaluate", "prepare"])


@pytest.mark.parametrize(
    ("kind", "work", "number"),
    [
        # Even numbers are killed by the clock, odd ones at a file operation.
        ("kill", TRAIN, 0), ("kill", TRAIN, 1), ("kill", EVALUATE, 3), ("kill", PREPARE, 5),
        # SIGTERM and SIGINT.
        ("stop", TRAIN, 0), ("stop", EVALUATE, 1),
        ("twice", TRAIN, 0),
        # No space, read-only, permission denied.
        ("fail", TRAIN, 0), ("fail", EVALUATE, 1), ("fail", PREPARE, 2),
        ("limit", TRAIN, 0),
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
    found = damaged_checkpoints(str(stage.inputs / "run"), str(stage.scratch / "damaged"), 70)
    assert found["wrong"] == []
    assert found["tried"] >= 70
    assert found["cut"] > 20
    assert found["flip"] > 5


def test_every_page_is_cut_and_bits_are_flipped(tmp_path):
    (tmp_path / "a").write_bytes(bytes(9000))
    (tmp_path / "b").write_bytes(bytes(4096))
    (tmp_path / "c").write_bytes(b"")
    found = list(cases(tmp_path, 7))
    assert found[:4] == [("a", "cut", 0), ("a", "cut", 4096), ("a", "cut", 8192), ("b", "cut", 0)]
    assert [kind for _, kind, _ in found] == ["cut"] * 4 + ["flip"] * 3
    damage(tmp_path / "a", "flip", 8 * 5 + 3)
    assert (tmp_path / "a").read_bytes() == bytes(5) + b"\x08" + bytes(8994)


def test_a_second_signal_does_not_wait(stage):
    """For the first step, whose compiling takes longest, to be done."""
    with stage.folder() as folder:
        process = stage.server.start(folder, TRAIN.job(stage.inputs, folder))
        while not (folder / "run" / "metrics.jsonl").exists():
            time.sleep(0.01)
        os.kill(process, signal.SIGTERM)
        time.sleep(0.001)
        os.kill(process, signal.SIGINT)
        ended = stage.server.wait(process)
    # The first may have been quicker than the second was sent.
    assert ended.status in (128 + signal.SIGINT, 128 + signal.SIGTERM, -signal.SIGINT)


def test_what_is_wrong_is_told(stage, whole):
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


def test_counts_are_written(tmp_path, monkeypatch):
    assert {name for name, _ in plan(10, "kill")} == {work.name for work in WORKS}
    assert "prepare" not in {name for name, _ in plan(10, "twice")}
    out = tmp_path / "counts.json"
    monkeypatch.setattr("faulting.campaign.Stage.build", lambda _: _Nothing())
    found = run({"kill": 0}, 0, out, report=lambda _: None)
    assert json.loads(out.read_text()) == found
    assert found["faults"] == {}


class _Nothing:
    """A stage on which nothing takes place."""

    server = type("Server", (), {"close": lambda _: None})()
    scratch = Path()
