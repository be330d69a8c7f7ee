"""Test readers on files that they once failed on, and nightly on hundreds of hostile ones."""

from __future__ import annotations

import json
import time
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fuzzing.found import FOUND
from fuzzing.harness import FAULTS, Reader, as_table, case_of, each, judge, run, scratch, total
from fuzzing.readers import READERS

from jaxflow.errors import InputError

# Orbax leaves tasks of a closed event loop behind where a checkpoint cannot be read, and the end of
# a reader's time may come while garbage is collected.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
BY_NAME = {reader.name: reader for reader in READERS}


@pytest.mark.parametrize(("reader", "what"), [pytest.param(*f, id=": ".join(f)) for f in FOUND])
def test_a_found_case(reader: str, what: str) -> None:
    found = FOUND[reader, what]
    make, kind = found if isinstance(found, tuple) else (found, "refused")
    tracemalloc.start()
    try:
        with scratch() as folder:
            verdict = judge(BY_NAME[reader], make(), folder)
    finally:
        tracemalloc.stop()
    assert verdict.kind == kind, verdict.detail


@pytest.mark.nightly
@pytest.mark.parametrize("reader", [pytest.param(one, id=one.name) for one in READERS])
def test_no_file_gets_through_wrongly(reader: Reader) -> None:
    count = len(reader.seeds()) + max(4, min(300, round(120 * reader.share)))
    with scratch() as folder:
        verdicts = dict(each(reader, range(count), folder))
    faults = [verdict.detail for verdict in verdicts.values() if verdict.kind in FAULTS]
    assert not faults, faults[0]
    # Mutations that change nothing that counts, or everything, would find nothing.
    if count > 100:
        kinds = [verdict.kind for number, verdict in verdicts.items()
                 if number >= len(reader.seeds())]  # fmt: skip
        assert "refused" in kinds
        assert "accepted" in kinds or reader.name == "model's name"


def reading(read: Any, expected: Any = None) -> Reader:
    return Reader("a reader", lambda: [{"x.txt": b"good"}], read, expected)


def complain(text: str) -> Any:
    def read(folder: Path) -> Any:
        raise InputError(text.format(folder=folder))

    return read


def burn(folder: Path) -> None:
    began = time.process_time()
    while time.process_time() < began + 5:
        pass


AT_FAULT = {
    "crash": reading(lambda folder: {}["x"]),
    "hang": reading(burn),
    "memory": reading(lambda folder: np.empty(40 << 20, np.uint8)),
    "wrong": reading(lambda folder: "left", lambda case: "right"),
    "message": reading(complain("the file is damaged")),
    "refused": reading(complain("{folder} is damaged")),
    "accepted": reading(lambda folder: "right", lambda case: "right"),
}


def test_the_checker_sees_every_fault_and_counts_it(tmp_path: Path) -> None:
    (tmp_path / "case").mkdir()
    tracemalloc.start()
    kinds = [judge(reader, {"x": b"good"}, tmp_path / "case").kind for reader in AT_FAULT.values()]
    tracemalloc.stop()
    assert kinds == list(AT_FAULT)
    readers = [BY_NAME["sst2"], AT_FAULT["crash"]]
    out = tmp_path / "counts.json"
    found = run(readers, 40, out)
    assert total(found)["cases"] == 40
    assert total(found)["crash"] == found["readers"]["a reader"]["cases"] == 10
    assert as_table(found).count("\n") == 4
    assert run(readers, 40, out) == found == json.loads(out.read_text())  # nothing was left to do
    with pytest.raises(SystemExit, match="is of another run"):
        run(readers, 41, out)


def test_a_case_is_a_function_of_its_number() -> None:
    for reader in READERS[:12]:
        first, again = ([case_of(reader, reader.seeds(), n) for n in range(40)] for _ in range(2))
        assert first == again
        assert len({str(case) for case in first}) > 20


def test_a_message_is_one_line_without_codes_and_short() -> None:
    message = str(InputError("got \x1b]0;x\x07 and\r\n  \ud800\u202e " + "y" * 1_000_000))
    assert message.startswith("got \\x1b]0;x\\x07 and \\ud800\\u202e y")
    assert message.isprintable()
    assert len(message) < 4_000
    assert str(InputError("plain: שלום ß")) == "plain: שלום ß"
