"""Provide one page for all tests here, with hostile tokens and several kinds of cuts."""

from __future__ import annotations

import numpy as np
import pytest
from attentions import attention_of
from page_reader import NASTY

import jaxflow
from jaxflow.html.notebook import Page

SHAPE = (3, 2, len(NASTY), len(NASTY))


@pytest.fixture(scope="session")
def attention() -> np.ndarray:
    return attention_of("peaky", 4, SHAPE).astype(np.float32)


@pytest.fixture(scope="session")
def own_scores() -> np.ndarray:
    return np.random.default_rng(0).normal(size=len(NASTY))


@pytest.fixture(scope="session")
def page(attention: np.ndarray, own_scores: np.ndarray) -> Page:
    return jaxflow.show(attention, NASTY, scores={"my own": own_scores})
