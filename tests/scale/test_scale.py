"""Test that shards do not accumulate memory, and that measurements get onto the page."""

from __future__ import annotations

from pathlib import Path

import counting
import pytest
import scaling
from many_devices import run_on_devices
from small_corpus import small_config

from jaxflow.train.loop import train

PAGE = (Path(__file__).parents[2] / "docs" / "scale.md").read_text(encoding="utf-8")
SHARDS = 40
MEGA = 1 << 20


@pytest.mark.nightly
@pytest.mark.skipif(
    not Path("/proc/self/statm").exists(), reason="memory is read from /proc, which is Linux's"
)
def test_memory_is_flat_over_shards(corpus, tmp_path):
    # Sentences are padded to two lengths, so that batches of many sizes come up.
    train(small_config(corpus, epochs=1, layers=1, buckets=(8,)), tmp_path / "run")
    seen = run_on_devices(1, "shard_memory.py", tmp_path / "run", tmp_path / "out", SHARDS)
    assert [len(each) for each in seen.values()] == [SHARDS] * 3
    half = SHARDS // 2
    # A program that is compiled stays; a tenth of the sentences has come across every shape.
    assert seen["programs"][-1] == seen["programs"][half]
    if seen["allocated"][0] is not None:
        assert seen["allocated"][-1] - seen["allocated"][half] < 1 * MEGA
    # Work space that the C library keeps comes in steps of some megabytes, a few at the most.
    assert seen["resident"][-1] - seen["resident"][half] < 40 * MEGA


@pytest.mark.nightly
def test_evaluations_are_measured(monkeypatch, tmp_path):
    monkeypatch.setattr(scaling, "SHARES", (2, 1))
    monkeypatch.setattr(scaling, "TOGETHER", ((1, 2),))
    found = scaling.run(160, 8, tmp_path / "scale.json")
    assert found == scaling.run(160, 8, tmp_path / "scale.json")  # nothing was left to do
    for each in (*found["growth"].values(), *found["together"].values()):
        assert each["seconds"] > 1
        assert 1 < each["processor"] < 600
        assert each["memory"] > 100 * MEGA
    with pytest.raises(RuntimeError, match=r"it ended with 2: .*--out PATH"):
        scaling.run_together(tmp_path, ("-m", "jaxflow", "train", "--data", tmp_path))


def test_measurements_get_onto_the_page():
    growth = [(100, 1, 20.0, 8e8), (400, 4, 26.0, 9e8)]
    names = ("sentences", "shards", "processor", "memory")
    found = {
        "commit": "abc",
        "growth": {str(n): dict(zip(names, each, strict=True)) for n, each in enumerate(growth)},
        "together": {"2x1": {"seconds": 9.0, "processor": 16.0}},
    }
    page = counting.fill(PAGE, scaling.as_parts(found))
    assert "Measured at commit abc on " in page
    assert "| 400 | 4 | 26 s | 900 MB | 50 |" in page  # 300 sentences more in 6 seconds
    assert "| 2 | 1 | 9 s | 16 s |" in page
