"""Test that shards do not accumulate memory, and that the page shows the measurements."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path

import pytest
from many_devices import run_on_devices
from scaling import Sample, Seen, as_page, evaluate, exponent, measured
from small_corpus import small_config

from jaxflow.train.loop import train

ROOT = Path(__file__).parents[2]
SHARDS = 40
MEGA = 1 << 20

pytestmark = [
    pytest.mark.nightly,
    pytest.mark.skipif(
        not Path("/proc/self/statm").exists(), reason="memory is read from /proc, which is Linux's"
    ),
]


@pytest.fixture(scope="module")
def run(corpus, tmp_path_factory):
    """A run whose sentences are padded to two lengths, so that batches of many sizes come up."""
    folder = tmp_path_factory.mktemp("scale") / "run"
    train(small_config(corpus, epochs=1, layers=1, buckets=(8,)), folder)
    return folder


def test_memory_is_flat_over_shards(run, tmp_path):
    seen = run_on_devices(1, "shard_memory.py", run, tmp_path, SHARDS)
    assert [len(each) for each in seen.values()] == [SHARDS] * 3
    half = SHARDS // 2
    # A program that is compiled stays; a tenth of the sentences has come across every shape.
    assert seen["programs"][-1] == seen["programs"][half]
    if seen["allocated"][0] is not None:
        assert seen["allocated"][-1] - seen["allocated"][half] < 1 * MEGA
    # Work space that the C library keeps comes in steps of some megabytes, a few at the most.
    assert seen["resident"][-1] - seen["resident"][half] < 40 * MEGA


def test_an_evaluation_is_watched_to_its_end(run, tmp_path):
    seen = evaluate([run, "--shards", 3, "--samples", 12], tmp_path, {}, processes=2, cores=1)
    assert seen.samples[-1].shards == 3
    assert [s.shards for s in seen.samples] == sorted(s.shards for s in seen.samples)
    assert 0 < seen.samples[-1].processor <= seen.processor + 0.1
    assert all(sample.memory > MEGA for sample in seen.samples[1:])
    with pytest.raises(RuntimeError, match=r"ended with 2: .*shards must be from 1"):
        evaluate([run, "--shards", 0], tmp_path / "none", {})


def seen_of(*samples: tuple[float, float, int, int]) -> Seen:
    return Seen(tuple(Sample(*each) for each in samples), 14.0, 13.0)


def test_what_was_seen_in_numbers():
    """Ten shards of 100 sentences, one a second from second 2 on, half of it processor time."""
    work = [(float(k + 2), (k + 2) / 2, 500 + k, k) for k in range(11)]
    found = measured(seen_of((0.5, 0.1, 100, 0), *work, (13.0, 10.0, 900, 10)), 1000, 10)
    assert found["rate"] == 100  # of nine shards in nine seconds
    assert found["rate_processor"] == 200
    assert (found["start_processor"], found["work_processor"]) == (1.5, 5.0)
    assert (found["last_processor"], found["last_seconds"]) == (7.0, 2.0)
    assert found["tenths"] == list(range(501, 511))
    assert (found["memory_work"], found["memory_last"]) == (510, 900)
    with pytest.raises(ValueError, match="11 shards were never seen"):
        measured(seen_of(*work), 1100, 11)


def test_exponents():
    assert exponent([1, 10, 100], [3, 30, 300]) == pytest.approx(1)
    assert exponent([4, 16], [7, 7]) == pytest.approx(0)
    assert exponent([1, 2, 4], [1, 4, 16]) == pytest.approx(2)
    assert exponent([1, 2, 4], [None, 4, 16]) == pytest.approx(2)
    assert exponent([1, 2], [None, 5]) is None


def test_the_page_is_made_of_the_numbers_beside_it(tmp_path, monkeypatch):
    stored = ROOT / "docs" / "scale.json"
    page = (ROOT / "docs" / "scale.md").read_text(encoding="utf-8")
    assert page == as_page(json.loads(stored.read_text(encoding="utf-8")))
    made = tmp_path / "page.md"
    monkeypatch.setattr(sys, "argv", ["scale", "--out", str(stored), "--page", str(made)])
    with pytest.raises(SystemExit) as caught:
        runpy.run_path(str(ROOT / "tests" / "scale" / "__main__.py"), run_name="__main__")
    assert caught.value.code == 0
    assert made.read_text(encoding="utf-8") == page
    assert json.loads(made.with_suffix(".json").read_text()) == json.loads(stored.read_text())
