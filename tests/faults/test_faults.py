"""A few faults of every kind on whole commands; `python -m tests.faults` makes hundreds."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from faulting.campaign import KINDS, WORK_NAMES, plan, run
from faulting.damages import cases, damage
from faulting.trials import Outcome, Stage, Undisturbed, undisturbed
from faulting.works import WORKS, Work, _each_once, damaged_checkpoints

pytestmark = pytest.mark.nightly

TRAIN, EVALUATE, _, PREPARE, SHARDS, _ = WORKS


@pytest.fixture(scope="module")
def stage(tmp_path_factory):
    built = Stage.build(tmp_path_factory.mktemp("faults") / "stage")
    yield built
    built.server.close()


@pytest.fixture(scope="module")
def whole(stage) -> dict[Work, Undisturbed]:
    return undisturbed(stage, ["train", "evaluate", "prepare", "shards"])


@pytest.mark.parametrize(
    ("kind", "work", "number"),
    [
        # Even numbers are killed by the clock, odd ones at a file operation.
        ("kill", TRAIN, 0), ("kill", TRAIN, 1), ("kill", EVALUATE, 3), ("kill", PREPARE, 5),
        # Over the tables, when all shards are there.
        ("kill", SHARDS, 1),
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


def test_a_sentence_is_counted_once(tmp_path):
    folder = tmp_path / "shards"
    folder.mkdir()
    for number, rows in enumerate(([0, 2], [5, 9], [5])):
        pq.write_table(pa.table({"row": rows}), folder / f"shard-{number}.parquet")
    with pytest.raises(AssertionError, match="in two shards"):
        _each_once(tmp_path)
    (folder / "shard-2.parquet").unlink()
    np.savez(tmp_path / "scores.npz", rows=[0, 2, 5, 9])
    _each_once(tmp_path)
    np.savez(tmp_path / "scores.npz", rows=[0, 2, 5])
    with pytest.raises(AssertionError, match="not of its shards"):
        _each_once(tmp_path)


@pytest.fixture
def staged(monkeypatch):
    """Trials that do nothing but say what they are; every third kill comes too late."""
    made = []

    def trial(kind):
        def outcome(stage, work, whole, number):
            made.append((kind, work.name, number))
            if kind == "disk":
                return None  # none can be mounted
            wrong = ["lost"] if kind == "stop" and number == 1 else []
            return Outcome(kind != "kill" or number % 3 != 0, wrong)

        return outcome

    nothing = {work: Undisturbed({}, 0.0, 0) for work in WORKS}
    monkeypatch.setattr("faulting.campaign.Stage.build", lambda _: _Nothing())
    monkeypatch.setattr("faulting.campaign.undisturbed", lambda *_: nothing)
    monkeypatch.setattr("faulting.campaign.KINDS", {kind: ("", trial(kind)) for kind in KINDS})
    return made


COUNTS = {"kill": 8, "stop": 3, "disk": 2}


def test_kills_go_on_until_as_many_have_struck(staged, tmp_path):
    out = tmp_path / "counts.json"
    found = run(COUNTS, 0, out, report=lambda _: None)
    assert json.loads(out.read_text()) == found
    assert found["finished"]
    assert found["made"] == {"kill": 12, "stop": 3, "disk": 2}  # numbers 0, 3, 6 and 9 came late
    kills = found["faults"]["kill"].values()
    assert sum(tally["tried"] for tally in kills) == 12
    assert sum(tally["struck"] for tally in kills) == 8
    assert "disk" not in found["faults"]
    lost = [tally for tally in found["faults"]["stop"].values() if tally["told"]]
    assert [(tally["tried"] - tally["survived"], tally["told"]) for tally in lost] == [
        (1, [f"stop {plan('stop', WORK_NAMES, 1)} 1: lost"])
    ]


def test_kills_that_never_strike_end(staged, tmp_path, monkeypatch):
    never = {"kill": ("", lambda *_: Outcome(False, []))}
    monkeypatch.setattr("faulting.campaign.KINDS", never)
    found = run({"kill": 5}, 0, tmp_path / "counts.json")
    assert found["finished"]
    assert found["made"] == {"kill": 15}


def test_a_run_that_was_cut_off_goes_on_behind_its_trials(staged, tmp_path):
    class Cut(Exception):
        pass

    def cut(_):
        raise Cut

    whole = run(COUNTS, 0, tmp_path / "whole.json", report=lambda _: None)
    expected, out = list(staged), tmp_path / "counts.json"
    staged.clear()
    with pytest.raises(Cut):  # in the trial that goes wrong, which is made again
        run(COUNTS, 0, out, report=cut)
    assert 0 < len(staged) < len(expected)
    lost = staged.pop()
    found = run(COUNTS, 0, out, report=lambda _: None)
    assert lost in staged
    # Each once, in another order: a round begins anew.
    assert sorted(staged) == sorted(expected)
    for fields in (whole, found):
        fields["seconds"] = None
    assert found == whole


def test_another_run_is_not_gone_on_with(staged, tmp_path):
    out = tmp_path / "counts.json"
    run(COUNTS, 0, out, report=lambda _: None)
    made, content = len(staged), out.read_bytes()
    run(COUNTS, 0, out)
    assert len(staged) == made  # it had finished
    for counts, given in (({**COUNTS, "kill": 9}, {}), (COUNTS, {"first": 1}),
                          (COUNTS, {"works": ("train",)})):  # fmt: skip
        with pytest.raises(SystemExit, match="is of another run"):
            run(counts, 0, out, **given)
    assert out.read_bytes() == content


def test_works_take_turns():
    assert {plan("kill", WORK_NAMES, number) for number in range(20)} == set(WORK_NAMES)
    assert "prepare" not in {plan("twice", WORK_NAMES, number) for number in range(20)}
    assert plan("twice", ("prepare",), 0) == ""
    assert [plan("kill", ("train", "leaderboard"), number) for number in range(5)] == [
        "train", "train", "train", "leaderboard", "train"
    ]  # fmt: skip


class _Nothing:
    """A stage on which nothing takes place."""

    server = type("Server", (), {"close": lambda _: None})()
    scratch = Path()
