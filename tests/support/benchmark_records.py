"""What every benchmark's record must have."""

import json

from jaxflow.eval.benchmarks.record import record
from jaxflow.eval.benchmarks.timing import Budget

SHORT = Budget(seconds=0.01, rounds=2)
CONTENDER = {
    "name", "seconds", "fastest", "rounds", "first_call", "error", "peak_memory", "parts", "ratio"
}  # fmt: skip


def check_record(comparisons):
    """Check a record's schema on its way through JSON; return its comparisons."""
    text = json.dumps(record(comparisons), allow_nan=False)
    found = json.loads(text)
    assert set(found) == {"format", "method", "machine", "versions", "comparisons"}
    assert found["format"] == "jaxflow-benchmark-2"
    for comparison in found["comparisons"]:
        assert set(comparison) == {
            "benchmark", "work", "settings", "reference", "contenders", "missing", "notes"
        }  # fmt: skip
        assert comparison["contenders"][0]["ratio"] == 1
        for contender in comparison["contenders"]:
            assert set(contender) == CONTENDER
            assert 0 < contender["fastest"] <= contender["seconds"]
            assert contender["rounds"] >= 1
            assert contender["peak_memory"] is None or contender["peak_memory"] > 0
    return found["comparisons"]
