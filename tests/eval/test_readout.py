"""Rows where a class is read off: against all rows, picked by hand."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

import jaxflow
from jaxflow.eval.score.readout import flow_at, read_places, rows_at, saturated_at
from jaxflow.models import EncoderConfig, Model, init
from jaxflow.train.config import TrainConfig

MASK = np.array([[True, True, False, False], [True, True, True, True], [True, False, False, False]])


def attention(seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    allowed = MASK[:, None, None, None, :] & np.tri(4, dtype=bool)
    weights = np.where(allowed, rng.uniform(0.1, 1, (3, 3, 2, 4, 4)), 0)
    return weights / weights.sum(-1, keepdims=True)


@pytest.mark.parametrize(("causal", "places"), [(False, [0, 0, 0]), (True, [1, 3, 0])])
def test_places_are_the_first_token_or_the_last_real_one(causal, places):
    config = EncoderConfig(vocabulary=5, positions=4, layers=1, heads=1, width=4, causal=causal)
    model = Model(config, init(config), None)
    assert read_places(model, MASK).tolist() == places


@pytest.mark.parametrize("places", [[0, 0, 0], [1, 3, 0]])
def test_rows_and_flows_are_those_of_all_tokens(places):
    weights = attention()
    every = jaxflow.flow(weights, residual=0.3, mask=MASK)
    found = flow_at(weights, places, MASK, residual=0.3)
    reached = saturated_at(weights, places, MASK, residual=0.3)
    all_reached = jaxflow.saturation(weights, residual=0.3, mask=MASK).reached
    rows = np.asarray(rows_at(every, places))
    for sentence, place in enumerate(places):
        np.testing.assert_array_equal(found[sentence], every[sentence, :, place])
        np.testing.assert_array_equal(reached[sentence], all_reached[sentence, :, place])
        np.testing.assert_allclose(rows[sentence], every[sentence, :, place], rtol=1e-6)
    assert reached.any()
    assert not reached.all()


def test_a_flow_weight_is_refused_where_the_readout_sees_no_word():
    causal = TrainConfig(causal=True)
    with pytest.raises(jaxflow.errors.InputError, match="flow_weight must be 0 for a causal"):
        dataclasses.replace(causal, flow_weight=0.5)
