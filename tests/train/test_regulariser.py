"""The subject's share of flow: its value, its derivative, and what it leaves alone."""

import dataclasses
import functools
import json
import sys

import jax
import jax.numpy as jnp
import networkx as nx
import numpy as np
import optax
import pytest
from small_corpus import POSITIONS, small_config, write_small_corpus

from jaxflow import models
from jaxflow.errors import InputError
from jaxflow.models import AgreementEncoder, EncoderConfig
from jaxflow.models.tokenizer import PAD
from jaxflow.train import data as data_module
from jaxflow.train import loop
from jaxflow.train import step as step_module
from jaxflow.train.batches import encode_split
from jaxflow.train.config import TrainConfig
from jaxflow.train.corpus import load_corpus
from jaxflow.train.loop import train
from jaxflow.train.regulariser import subject_share
from jaxflow.train.run import read_config
from jaxflow.train.step import TrainState, init_state, make_optimizer, make_train_step

STEPS = 84  # of the small run
ENCODER = EncoderConfig(vocabulary=12, positions=6, layers=2, heads=2, width=8, dropout=0.2)
CONFIG = TrainConfig(word_dropout=0.2, flow_weight=0.7)
PLAIN_ENCODER = dataclasses.replace(ENCODER, layers=1, dropout=0.0)
PLAIN = TrainConfig(dropout=0.0, word_dropout=0.0)


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


def test_two_layers_in_closed_form():
    """Outside of jit as well: one layer's flow is a row, two layers' the narrower edge by token."""
    attention, mask, subjects = random_attention(7, layers=2)
    found = subject_share(attention, subjects, mask)
    for b, subject in enumerate(subjects):
        low, high = edges_of(attention[b], mask[b].sum())
        flows = np.minimum(high[0][:, None], low).sum(0)
        expected = (low[0, subject] + flows[subject] / flows.sum()) / 2
        assert float(found[b]) == pytest.approx(expected, abs=1e-6)


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
    return tokens, tokens[:, 2] % 2, subjects


@pytest.fixture
def _double():
    # For all threads: a callback of a large program runs on another than the test's.
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", False)


@pytest.mark.usefixtures("_double")
def test_the_steps_gradient_is_that_of_the_whole_loss():
    """Plain descent at the rate 1 shows the gradient; differences of the whole loss check it."""
    tokens, labels, subjects = batch_of(sentences=4)
    optimizer = optax.sgd(1.0)
    state = init_state(ENCODER, optimizer, 0)
    rng = np.random.default_rng(5)
    # Far from the start's nearly even attention, where cuts are nearly ties.
    params = jax.tree.map(
        lambda leaf: np.asarray(leaf) + 0.4 * rng.normal(size=leaf.shape), state.params
    )
    step = make_train_step(ENCODER, optimizer, CONFIG)

    def at(params):
        fresh = jax.tree.map(lambda leaf: jnp.array(leaf, jnp.float64), params)
        fresh = TrainState(jnp.zeros((), jnp.int32), fresh, optimizer.init(fresh))
        after, metrics = step(fresh, tokens, labels, subjects)
        loss = float(metrics.loss) - CONFIG.flow_weight * float(metrics.subject_share)
        return loss, jax.tree.map(np.asarray, after.params), metrics

    loss, after, metrics = at(params)
    gradient = jax.tree.map(np.subtract, params, after)
    assert 0 < float(metrics.subject_share) < 1
    assert float(metrics.loss) > loss
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


def jaxpr_of(config, encoder=ENCODER, subjects=True):
    optimizer = make_optimizer(config, 10)
    state = jax.eval_shape(functools.partial(init_state, encoder, optimizer, 0))
    step = make_train_step(encoder, optimizer, config)
    arguments = batch_of() if subjects else batch_of()[:2]
    return str(jax.make_jaxpr(step)(state, *arguments))


def test_without_a_weight_there_is_no_flow_in_the_step(monkeypatch):
    assert "pure_callback" in jaxpr_of(CONFIG)
    monkeypatch.setattr(step_module, "subject_share", lambda *_: 1 / 0)
    assert "callback" not in jaxpr_of(dataclasses.replace(CONFIG, flow_weight=0.0))
    assert "callback" not in jaxpr_of(dataclasses.replace(CONFIG, flow_weight=0.0), subjects=False)


def test_without_a_weight_the_step_is_the_one_without_the_regulariser():
    encoder, optimizer = AgreementEncoder(PLAIN_ENCODER), make_optimizer(PLAIN, 10)

    @jax.jit
    def plain(params, opt_state, tokens, labels):
        def loss_of(params):
            logits = encoder.apply(params, tokens, train=True, method="classify")
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

        loss, gradients = jax.value_and_grad(loss_of)(params)
        updates, opt_state = optimizer.update(gradients, opt_state, params)
        return optax.apply_updates(params, updates), opt_state, loss

    state = init_state(PLAIN_ENCODER, optimizer, 0)
    params, opt_state = jax.tree.map(jnp.array, (state.params, state.opt_state))
    step = make_train_step(PLAIN_ENCODER, optimizer, PLAIN)
    for seed in range(5):
        tokens, labels, _ = batch_of(seed)
        state, metrics = step(state, tokens, labels)
        params, opt_state, loss = plain(params, opt_state, tokens, labels)
        assert metrics.subject_share is None
        assert float(metrics.loss) == float(loss)
    for mine, theirs in zip(jax.tree.leaves(state.params), jax.tree.leaves(params), strict=True):
        np.testing.assert_array_equal(mine, theirs)


@pytest.mark.parametrize("weight", [-1.0, float("nan"), float("inf")])
def test_an_impossible_weight(weight):
    with pytest.raises(InputError, match="flow_weight must be at least 0"):
        TrainConfig(flow_weight=weight)


def test_a_run_from_before_there_was_a_weight(tmp_path):
    fields = TrainConfig(epochs=2).to_dict()
    assert fields.pop("flow_weight") == 0
    (tmp_path / "config.json").write_text(json.dumps(fields))
    assert read_config(tmp_path) == TrainConfig(epochs=2)
    weighty = TrainConfig(flow_weight=2.5)
    assert TrainConfig.from_dict(json.loads(json.dumps(weighty.to_dict()))) == weighty


def test_a_corpus_that_knows_no_subject(tmp_path):
    data = write_small_corpus(tmp_path / "agreement")
    with pytest.raises(InputError, match="flow_weight must be 0 for the corpus simple"):
        train(small_config(data, flow_weight=1.0), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_without_numba_no_run_is_begun(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "jaxflow._flow.kernel", None)
    with pytest.raises(InputError, match="a flow_weight above 0 needs numba"):
        train(TrainConfig(flow_weight=1.0), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A regularised run, and the same one cut off and gone on with; the step is compiled once."""
    folder = tmp_path_factory.mktemp("regularised")
    compiled = functools.cache(
        lambda model, config: make_train_step(model, make_optimizer(config, STEPS), config)
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        patch.setattr(data_module, "load_corpus", functools.partial(load_corpus, size=1_500))
        patch.setattr(loop, "make_train_step", lambda model, _, config: compiled(model, config))
        patch.setattr(loop, "make_evaluation_step", functools.cache(loop.make_evaluation_step))
        config = TrainConfig(
            layers=2, heads=2, width=16, batch=32, epochs=4, learning_rate=5e-3, buckets=(),
            positions=POSITIONS, checkpoint_every=20, flow_weight=3.0,
        )  # fmt: skip
        train(config, folder / "whole")
        train(config, folder / "cut", stop_after=33)
        train(config, folder / "cut")
        yield folder


def test_training_moves_the_flow_to_the_subject(runs):
    lines = [json.loads(line) for line in (runs / "whole/metrics.jsonl").read_text().splitlines()]
    lines = [line for line in lines if "loss" in line]
    for line in lines:
        assert line["flow_term"] == pytest.approx(-3 * line["subject_share"])
        assert line["loss"] > 0  # cross entropy alone
    assert [lines[0]["step"], lines[-1]["step"]] == [20, STEPS]
    # Nearly even at first: a sentence has about seven tokens.
    assert lines[0]["subject_share"] < 0.25
    assert lines[-1]["subject_share"] > 0.35
    # Without dropout and on sentences that were not trained on, too.
    model = models.load(runs / "whole")
    test = encode_split(load_corpus(size=1_500)["test"], model.tokenizer, POSITIONS)
    tokens = test.tokens[:256]
    shares = subject_share(model(tokens).attention, test.subject_index[:256], tokens != PAD)
    assert float(shares.mean()) > 0.35


def test_a_regularised_run_that_was_cut_off_ends_with_the_same_bits(runs):
    whole, cut = (models.load(runs / name).params for name in ("whole", "cut"))
    for one, other in zip(jax.tree.leaves(whole), jax.tree.leaves(cut), strict=True):
        np.testing.assert_array_equal(one, other)
    accuracy = [(runs / name / "accuracy.json").read_bytes() for name in ("whole", "cut")]
    assert accuracy[0] == accuracy[1]
