"""What readers once failed on stays mended."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator

import pytest
from fuzzing.campaign import all_readers, scratch
from fuzzing.check import judge
from fuzzing.found import FOUND, Found

READERS = {reader.name: reader for reader in all_readers()}


@pytest.fixture(autouse=True, scope="module")
def _watched() -> Iterator[None]:
    tracemalloc.start()
    yield
    tracemalloc.stop()


@pytest.mark.parametrize("found", [pytest.param(f, id=f"{f.reader}: {f.what}") for f in FOUND])
def test_a_found_case(found: Found) -> None:
    with scratch() as folder:
        verdict = judge(READERS[found.reader], found.make(), folder)
    assert verdict.kind == found.kind, verdict.detail


def test_every_case_has_its_name() -> None:
    names = [(found.reader, found.what) for found in FOUND]
    assert len(set(names)) == len(names)
