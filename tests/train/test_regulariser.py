"""Test the subject's share of flow: its value and its derivative."""

import dataclasses
import functools
import sys

import jax
import jax.numpy as jnp
import networkx as nx
import numpy as np
import optax
import pytest
from attentions import softmax
from session import refused
from small_corpus import POSITIONS, small_config
from small_runs import assert_ends_like, journal_of

from jaxflow.models import EncoderConfig, init
from jaxflow.models.tokenizer import PAD
from jaxflow.train import data
from jaxflow.train.batches import encode_split
from jaxflow.train.config import TrainConfig
from jaxflow.train.corpus import load_corpus
from jaxflow.train.loop import train
from jaxflow.train.regulariser import subject_share
from jaxflow.train.step import agreement_loss, init_state, make_optimizer, make_step

ENCODER = EncoderConfig(vocabulary=12, positions=6, layers=2, heads=2, width=8, dropout=0.2)
CONFIG = TrainConfig(word_dropout=0.2, flow_weight=0.7)
LENGTHS = np.array([6, 4, 5])
MASK, SUBJECTS = np.arange(6) < LENGTHS[:, None], np.array([1, 3, 2])


def random_attention(seed):
    """Attention ``[3, L, H, n, n]`` of sentences of `LENGTHS`."""
    scores = 2 * np.random.default_rng(seed).normal(size=(3, 3, 2, 6, 6))
    return softmax(np.where(MASK[:, None, None, None], scores, -np.inf))


def share_by_networkx(attention, length, subject, layer):
    graph = nx.DiGraph()
    edges = (attention[:layer, :, :length, :length].mean(1) + np.eye(length)) / 2
    for (level, query, key), capacity in np.ndenumerate(edges):
        graph.add_edge((level + 1, query), (level, key), capacity=capacity)
    flows = [nx.maximum_flow_value(graph, (layer, 0), (0, token)) for token in range(length)]
    return flows[subject] / sum(flows)


@pytest.mark.parametrize(("layers", "counted"), [(None, (1, 2, 3)), ((0, 2), (1, 3)), (2, (3,))])
def test_the_share_is_that_of_networkx(layers, counted):
    attention = random_attention(1)
    sentences = list(zip(attention, LENGTHS, SUBJECTS, strict=True))
    expected = [np.mean([share_by_networkx(*s, level) for level in counted]) for s in sentences]
    traced = jax.jit(functools.partial(subject_share, layers=layers))
    np.testing.assert_allclose(traced(attention, SUBJECTS, MASK), expected, rtol=0, atol=1e-6)
    with jax.enable_x64(True):
        np.testing.assert_allclose(traced(attention, SUBJECTS, MASK), expected, rtol=0, atol=1e-9)


def test_a_sentence_of_unknown_subject_contributes_nothing():
    # Of the longest sentence: a place of -1 would be its last token, not padding.
    attention, subjects = jnp.asarray(random_attention(4)), np.array([-1, 1, 2])
    share = np.asarray(jax.jit(subject_share)(attention, subjects, MASK))
    assert ((share > 0) == [False, True, True]).all()
    gradient = jax.grad(lambda given: subject_share(given, subjects, MASK).sum())(attention)
    assert np.isfinite(gradient).all()
    assert (np.asarray(gradient).any((1, 2, 3, 4)) == [False, True, True]).all()
    assert np.asarray(gradient)[1].any((1, 2, 3)).all()  # every layer is moved


def batch_of(sentences=16):
    """Sentences ``[CLS] w1 ...`` of 4 to 6 tokens, whose subject is the third."""
    rng = np.random.default_rng(0)
    tokens = rng.integers(3, 12, (sentences, 6)).astype(np.int32)
    tokens[:, 0] = 1
    tokens[np.arange(6) >= rng.integers(4, 7, (sentences, 1))] = 0
    subjects = np.full(sentences, 2, np.int32)
    subjects[::5] = -1
    return {"tokens": tokens, "labels": tokens[:, 2] % 2, "subjects": subjects}


@pytest.fixture
def _double():
    # For all threads: a callback of a large program runs on another than the test's.
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", False)


@pytest.mark.usefixtures("_double")
def test_the_steps_gradient_is_that_of_the_whole_loss():
    """Plain descent at the rate 1 shows the gradient; differences of the whole loss check it."""
    batch, optimizer, rng = batch_of(4), optax.sgd(1.0), np.random.default_rng(5)
    # Far from the start's nearly even attention, where cuts are nearly ties.
    params = jax.tree.map(lambda p: np.asarray(p) + 0.4 * rng.normal(size=p.shape), init(ENCODER))
    step = make_step(agreement_loss(ENCODER, CONFIG), optimizer, CONFIG.seed)

    def at(params):
        fresh = jax.tree.map(lambda leaf: jnp.array(leaf, jnp.float64), params)
        after, metrics = step(init_state(fresh, optimizer), **batch)
        share = float(metrics["subject_share"])
        assert 0 < share < 1
        assert float(metrics["flow_term"]) == pytest.approx(-CONFIG.flow_weight * share)
        return float(metrics["loss"]) - CONFIG.flow_weight * share, after.params

    gradient = jax.tree.map(lambda old, new: old - np.asarray(new), params, at(params)[1])
    for _ in range(3):
        way = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape), params)
        found = sum(jax.tree.leaves(jax.tree.map(lambda g, w: (g * w).sum(), gradient, way)))
        values = [
            at(jax.tree.map(lambda leaf, w, size=size: leaf + size * w, params, way))[0]
            for size in (-2e-6, -1e-6, 1e-6, 2e-6)
        ]
        narrow, wide = (values[2] - values[1]) / 2e-6, (values[3] - values[0]) / 4e-6
        # No kink near by: the minimum cuts are unique and the same all along.
        assert narrow == pytest.approx(wide, abs=1e-6)
        assert found == pytest.approx(narrow, abs=1e-6)


def test_without_a_weight_there_is_no_flow_in_the_step():
    optimizer = make_optimizer(CONFIG, 10)
    state = jax.eval_shape(lambda: init_state(init(ENCODER), optimizer))
    for weight in (0.7, 0.0):
        config = dataclasses.replace(CONFIG, flow_weight=weight)
        step = make_step(agreement_loss(ENCODER, config), optimizer, 0)
        traced = str(jax.make_jaxpr(lambda state, step=step: step(state, **batch_of()))(state))
        assert ("pure_callback" in traced) == (weight > 0)


def test_what_cannot_be_regularised_is_refused_before_training(tmp_path, corpus, monkeypatch):
    with refused("flow_weight must be 0 for a causal encoder"):
        TrainConfig(flow_weight=1.0, causal=True)
    with refused("flow_weight must be 0 for the corpus simple"):
        train(small_config(corpus, flow_weight=1.0), tmp_path / "run")
    monkeypatch.setitem(sys.modules, "jaxflow._flow.kernel", None)
    with refused("a flow_weight above 0 needs numba"):
        train(TrainConfig(flow_weight=1.0), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.nightly
def test_training_moves_the_flow_to_the_subject_and_goes_on_bit_for_bit(tmp_path, monkeypatch):
    monkeypatch.setattr(data, "load_corpus", functools.partial(load_corpus, size=1_500))
    config = TrainConfig(
        layers=2, heads=2, width=16, batch=32, epochs=4, learning_rate=5e-3, buckets=(),
        positions=POSITIONS, checkpoint_every=20, flow_weight=3.0,
    )  # fmt: skip
    model = train(config, tmp_path / "whole").model
    train(config, tmp_path / "cut", stop_after=40)
    train(config, tmp_path / "cut")
    assert_ends_like(tmp_path / "cut", tmp_path / "whole")
    lines = [line for line in journal_of(tmp_path / "whole") if "loss" in line]
    for line in lines:
        assert line["flow_term"] == pytest.approx(-3 * line["subject_share"])
        assert line["loss"] > 0  # cross entropy alone
    # Nearly even at first: a sentence has about seven tokens.
    assert lines[0]["subject_share"] < 0.25
    assert lines[-1]["subject_share"] > 0.35
    # Without dropout and on sentences that were not trained on, too.
    test = encode_split(load_corpus(size=1_500)["test"], model.tokenizer, POSITIONS)
    tokens = test.tokens[:256]
    shares = subject_share(model(tokens).attention, test.subject_index[:256], tokens != PAD)
    assert float(shares.mean()) > 0.35
