"""Every reader against some hundred hostile files, and the checker against readers at fault."""

from __future__ import annotations

import json
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fuzzing.campaign import all_readers, as_table, case_of, each, plan, run, scratch
from fuzzing.cases import Reader
from fuzzing.check import FAULTS, judge
from fuzzing.readers_text import text_case

from jaxflow.errors import InputError

pytestmark = pytest.mark.nightly

READERS = all_readers()
#: Cases here; those of slow readers are few.
CASES = {reader.name: max(4, min(300, round(120 * reader.share))) for reader in READERS}
#: Good files that are refused all the same: pictures in formats that start programs or that few
#: have, names of models that are not there, sentences that are empty, too long or without a mask.
NOT_READ = {
    "picture": 4, "lock's holder": 1, "model's name": 4, "sentence, words": 3,
    "sentence, pieces": 1, "sentence, joined": 1, "sentence, masked": 2, "sentence, gpt2": 1,
}  # fmt: skip


@pytest.fixture(autouse=True, scope="module")
def _watched() -> Iterator[None]:
    tracemalloc.start()
    yield
    tracemalloc.stop()


# Orbax leaves tasks of a closed event loop behind where a checkpoint cannot be read.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("reader", [pytest.param(one, id=one.name) for one in READERS])
def test_no_file_gets_through_wrongly(reader: Reader) -> None:
    count = len(reader.seeds()) + CASES[reader.name]
    with scratch() as folder:
        verdicts = dict(each(reader, range(count), folder))
    faults = {number: verdict for number, verdict in verdicts.items() if verdict.kind in FAULTS}
    assert not faults, next(iter(faults.values())).detail
    good = [verdicts[number] for number in range(len(reader.seeds()))]
    refused = [verdict.detail for verdict in good if verdict.kind == "refused"]
    assert len(refused) == NOT_READ.get(reader.name, 0), refused
    # Mutations that change nothing that counts, or everything, would find nothing.
    hostile = list(verdicts.values())[len(good) :]
    if len(hostile) > 100:
        assert any(verdict.kind == "refused" for verdict in hostile)
        assert reader.name == "model's name" or any(v.kind == "accepted" for v in hostile)


def reading(read: Any, oracle: Any = lambda folder, case, value: None, **options: Any) -> Reader:
    return Reader("a reader", lambda: [{"x": b"good"}], read, text_case, oracle, **options)


def wrong(folder: Path, case: Any, value: Any) -> None:
    assert value == "right"


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
    "wrong": reading(lambda folder: "left", wrong),
    "message": reading(complain("the file is damaged")),
    "refused": reading(complain("{folder} is damaged")),
    "accepted": reading(lambda folder: "right", wrong),
}


@pytest.mark.parametrize("kind", AT_FAULT)
def test_the_checker_sees(kind: str, tmp_path: Path) -> None:
    assert judge(AT_FAULT[kind], {"x": b"good"}, tmp_path).kind == kind


def test_a_message_is_one_line_without_codes_and_short() -> None:
    message = str(InputError("got \x1b]0;x\x07 and\r\n  \ud800\u202e " + "y" * 1_000_000))
    assert message.startswith("got \\x1b]0;x\\x07 and \\ud800\\u202e y")
    assert message.isprintable()
    assert len(message) < 4_000
    assert message.endswith("y" * 900)
    assert str(InputError("plain: שלום ß")) == "plain: שלום ß"


def test_a_case_is_a_function_of_its_number() -> None:
    reader = READERS[0]
    first, again = ([case_of(reader, reader.seeds(), n) for n in range(40)] for _ in range(2))
    assert first == again
    assert len({str(case) for case in first}) > 30


def test_a_campaign_goes_on_where_it_stopped(tmp_path: Path) -> None:
    readers = [reader for reader in READERS if reader.name in ("sst2", "sentences")]
    lines: list[str] = []
    out = tmp_path / "counts.json"
    options: Any = {"memory": 2, "report": lines.append}
    whole = run(readers, 300, out, **options)
    assert plan(readers, 300) == {"sst2": 150, "sentences": 150}
    assert whole["total"]["cases"] == 300
    assert whole["total"]["accepted"] + whole["total"]["refused"] == 300
    assert whole["total"] == {**whole["total"], **dict.fromkeys(FAULTS, 0)}
    rows = as_table(whole).splitlines()
    assert rows[2].startswith("| sst2 | 150 | ")
    assert rows[-1].startswith(f"| all | 300 | {whole['total']['accepted']} | ")
    assert len({row.count("|") for row in rows}) == 1
    # Cut off after the first reader, and with the same file again.
    half = json.loads(out.read_text())
    del half["readers"]["sentences"]
    out.write_text(json.dumps(half))
    again = run(readers, 300, out, **options)
    assert again["total"] == whole["total"]
    for name, counts in whole["readers"].items():
        for count in ("cases", "accepted", "refused", "watched", "faults"):
            assert again["readers"][name][count] == counts[count]
    with pytest.raises(SystemExit, match="is of another run"):
        run(readers, 301, out, **options)
