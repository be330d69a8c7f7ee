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
from small_corpus import POSITIONS, small_config
from small_runs import assert_ends_like, journal_of

from jaxflow.errors import InputError
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


def random_attention(seed, sentences=3, layers=3, heads=2, lengths=(6, 4, 5)):
    """Attention ``[B, L, H, n, n]`` with padding, its mask, and subjects."""
    n = max(lengths)
    mask = np.arange(n) < np.array(lengths)[:, None]
    scores = 2 * np.random.default_rng(seed).normal(size=(sentences, layers, heads, n, n))
    scores = np.where(mask[:, None, None, None], scores, -np.inf)
    weights = np.exp(scores)
    return weights / weights.sum(-1, keepdims=True), mask, np.array([1, 3, 2])


def edges_of(attention, length):
    """``[L, n, n]`` of one sentence, without its padding."""
    fused = attention[..., :length, :length].mean(1)
    return (fused + np.eye(length)) / 2


def share_by_networkx(attention, length, subject, layer):
    graph = nx.DiGraph()
    for level, weights in enumerate(edges_of(attention, length)[:layer], start=1):
        for query in range(length):
            for key in range(length):
                graph.add_edge((level, query), (level - 1, key), capacity=weights[query, key])
    flows = [nx.maximum_flow_value(graph, (layer, 0), (0, token)) for token in range(length)]
    return flows[subject] / sum(flows)


@pytest.mark.parametrize("layers", [None, (0, 2), 2])
def test_the_share_is_that_of_networkx(layers):
    attention, mask, subjects = random_attention(1)
    chosen = {None: (1, 2, 3), (0, 2): (1, 3), 2: (3,)}[layers]
    expected = [
        np.mean(
            [share_by_networkx(attention[b], mask[b].sum(), subjects[b], level) for level in chosen]
        )
        for b in range(3)
    ]
    traced = jax.jit(functools.partial(subject_share, layers=layers))
    np.testing.assert_allclose(traced(attention, subjects, mask), expected, rtol=0, atol=1e-6)
    with jax.enable_x64(True):
        np.testing.assert_allclose(traced(attention, subjects, mask), expected, rtol=0, atol=1e-9)


def test_a_sentence_of_unknown_subject_contributes_nothing():
    attention, mask, subjects = random_attention(4)
    subjects[1] = -1

    def total(attention):
        return subject_share(attention, subjects, mask).sum()

    share = jax.jit(subject_share)(attention, subjects, mask)
    assert share[1] == 0
    assert (np.asarray(share)[[0, 2]] > 0).all()
    gradient = np.asarray(jax.grad(total)(jnp.asarray(attention)))
    assert not gradient[1].any()
    assert gradient[0].any()
    assert gradient[2].any()
    assert np.isfinite(gradient).all()
    assert gradient[0].any((1, 2, 3)).all()  # every layer is moved


def batch_of(seed=0, sentences=16):
    """Sentences ``[CLS] w1 ...`` of 4 to 6 tokens, whose subject is the third."""
    rng = np.random.default_rng(seed)
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
    batch = batch_of(sentences=4)
    optimizer = optax.sgd(1.0)
    rng = np.random.default_rng(5)
    # Far from the start's nearly even attention, where cuts are nearly ties.
    params = jax.tree.map(
        lambda leaf: np.asarray(leaf) + 0.4 * rng.normal(size=leaf.shape), init(ENCODER)
    )
    step = make_step(agreement_loss(ENCODER, CONFIG), optimizer, CONFIG.seed)

    def at(params):
        fresh = jax.tree.map(lambda leaf: jnp.array(leaf, jnp.float64), params)
        after, metrics = step(init_state(fresh, optimizer), **batch)
        share = float(metrics["subject_share"])
        assert float(metrics["flow_term"]) == pytest.approx(-CONFIG.flow_weight * share)
        loss = float(metrics["loss"]) - CONFIG.flow_weight * share
        return loss, jax.tree.map(np.asarray, after.params), share

    _, after, share = at(params)
    gradient = jax.tree.map(np.subtract, params, after)
    assert 0 < share < 1
    for _ in range(6):
        way = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape), params)
        found = sum(jax.tree.leaves(jax.tree.map(lambda g, w: (g * w).sum(), gradient, way)))
        values = []
        for size in (-2e-6, -1e-6, 1e-6, 2e-6):
            moved = jax.tree.map(lambda leaf, w, size=size: leaf + size * w, params, way)
            values.append(at(moved)[0])
        narrow, wide = (values[2] - values[1]) / 2e-6, (values[3] - values[0]) / 4e-6
        # No kink near by: the minimum cuts are unique and the same all along.
        assert narrow == pytest.approx(wide, abs=1e-6)
        assert found == pytest.approx(narrow, abs=1e-6)


def test_without_a_weight_there_is_no_flow_in_the_step():
    optimizer = make_optimizer(CONFIG, 10)
    state = jax.eval_shape(lambda: init_state(init(ENCODER), optimizer))
    for config, expected in ((CONFIG, True), (dataclasses.replace(CONFIG, flow_weight=0.0), False)):
        step = make_step(agreement_loss(ENCODER, config), optimizer, 0)
        traced = str(jax.make_jaxpr(lambda state, step=step: step(state, **batch_of()))(state))
        assert ("pure_callback" in traced) == expected


def test_what_cannot_be_regularised_is_refused_before_training(tmp_path, corpus, monkeypatch):
    with pytest.raises(InputError, match="flow_weight must be 0 for a causal encoder"):
        TrainConfig(flow_weight=1.0, causal=True)
    with pytest.raises(InputError, match="flow_weight must be 0 for the corpus simple"):
        train(small_config(corpus, flow_weight=1.0), tmp_path / "run")
    monkeypatch.setitem(sys.modules, "jaxflow._flow.kernel", None)
    with pytest.raises(InputError, match="a flow_weight above 0 needs numba"):
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
