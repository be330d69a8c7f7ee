"""The journal of a run: lines that go on from a step, metrics put off, a full disk."""

from pathlib import Path

import pytest
from small_runs import journal_of

from jaxflow.errors import InputError
from jaxflow.train.run import open_journal


def test_the_journal_goes_on_from_a_step(tmp_path):
    journal = open_journal(tmp_path, 0)
    for step in range(1, 6):
        journal.write(step, loss=1 / step, seconds=step * 2.0)
    journal.close()
    journal = open_journal(tmp_path, 3)
    assert journal.seconds_before == 6.0
    journal.write(4, loss=0.5, seconds=9.0)
    journal.close()
    assert [entry["step"] for entry in journal_of(tmp_path)] == [1, 2, 3, 4]
    assert journal_of(tmp_path)[-1]["loss"] == 0.5
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_metrics_put_off_for_another_step_are_left_alone(tmp_path):
    journal = open_journal(tmp_path, 0)
    rows = [{"loss": 0.1 + 0.2, "accuracy": 1.0}]
    names = ["accuracy", "loss"]
    journal.put_off(3, rows)
    assert journal.taken_up(4, names) == []
    assert journal.taken_up(3, names) == rows
    for text in (
        "",
        "[]",
        "{}",
        '{"step": 3, "metrics": 5}',
        '{"step": 3, "metrics": [{"loss": 1, "accuracy": []}]}',
        '{"step": 3, "metrics": [{"loss": 1}]}',
        '{"step": 3, "metrics": [{"loss": 1, "accuracy": NaN}]}',
    ):
        (tmp_path / "pending.json").write_text(text)
        with pytest.raises(InputError, match=r"pending\.json .* damaged: delete it"):
            journal.taken_up(3, names)
    journal.told()
    assert journal.taken_up(3, names) == []
    journal.told()
    journal.close()


def test_a_disk_that_is_full_for_the_journal(tmp_path):
    if not Path("/dev/full").exists():
        pytest.skip("there is no /dev/full")
    (tmp_path / "metrics.jsonl").symlink_to("/dev/full")
    journal = open_journal(tmp_path, 0)
    with pytest.raises(InputError, match=r"metrics\.jsonl cannot be written: No space left"):
        journal.write(1, loss=1.0)
    journal.close()
