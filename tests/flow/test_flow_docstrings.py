"""The examples in the docstrings of flow print what they say."""

from __future__ import annotations

import doctest
import importlib

import pytest


# Not by pytest's own collection: it would bind the package `jaxflow.flow` over the function.
@pytest.mark.parametrize("name", ["table", "cut"])
def test_examples(name):
    failed, tried = doctest.testmod(importlib.import_module(f"jaxflow._flow.{name}"))
    assert tried > 0
    assert failed == 0
