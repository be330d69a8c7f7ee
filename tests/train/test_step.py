"""Test the training step against AdamW written out in NumPy, and its invariances."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from small_runs import assert_equal_trees

from jaxflow.models import AgreementEncoder, EncoderConfig, init
from jaxflow.train.config import TrainConfig
from jaxflow.train.step import (
    agreement_loss,
    drop_words,
    init_state,
    make_optimizer,
    make_step,
)

ENCODER = EncoderConfig(vocabulary=12, positions=6, layers=1, heads=2, width=8, dropout=0.0)
CONFIG = TrainConfig(dropout=0.0, word_dropout=0.0)
NOISY = dataclasses.replace(CONFIG, dropout=0.3, word_dropout=0.3)
NOISY_ENCODER = dataclasses.replace(ENCODER, dropout=0.3)


def batches_of(count, seed=0):
    """Sentences ``[CLS] w1 ...`` of 3 to 6 tokens whose label says whether w1 is even."""
    rng = np.random.default_rng(seed)
    for _ in range(count):
        tokens = rng.integers(3, 12, (16, 6)).astype(np.int32)
        tokens[:, 0] = 1
        tokens[np.arange(6) >= rng.integers(3, 7, (16, 1))] = 0
        yield {"tokens": jnp.asarray(tokens), "labels": jnp.asarray(tokens[:, 1] % 2)}


def start(config=CONFIG, steps=10, encoder=ENCODER):
    optimizer = make_optimizer(config, steps)
    state = init_state(init(encoder, config.seed), optimizer)
    return state, make_step(agreement_loss(encoder, config), optimizer, config.seed)


class AdamW:
    """Loshchilov and Hutter's algorithm on float64 arrays by name, with what the project adds."""

    def __init__(self, config, steps):
        self.config, self.steps, self.count = config, steps, 0
        self.first, self.second = {}, {}

    def rate(self):
        warmup = max(1, round(self.config.warmup * self.steps))
        if self.count < warmup:
            return self.config.learning_rate * self.count / warmup
        part = (self.count - warmup) / (self.steps - warmup)
        return self.config.learning_rate * (1 + math.cos(math.pi * part)) / 2

    def update(self, params, gradients):
        norm = math.sqrt(sum((gradient**2).sum() for gradient in gradients.values()))
        rate = self.rate()
        self.count += 1
        for name, gradient in gradients.items():
            gradient = gradient * min(1, self.config.clip / norm)
            self.first[name] = 0.9 * self.first.get(name, 0) + 0.1 * gradient
            self.second[name] = 0.98 * self.second.get(name, 0) + 0.02 * gradient**2
            step = (self.first[name] / (1 - 0.9**self.count)) / (
                np.sqrt(self.second[name] / (1 - 0.98**self.count)) + 1e-8
            )
            if params[name].ndim == 2:  # matrices; not biases, not norms
                step = step + self.config.weight_decay * params[name]
            params[name] = params[name] - rate * step
        return norm


def by_name(tree):
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path): np.array(leaf, np.float64) for path, leaf in leaves}


@pytest.mark.parametrize("clip", [0.02, 1e9], ids=["clipped", "unclipped"])
def test_steps_are_those_of_adamw(clip):
    config = dataclasses.replace(CONFIG, clip=clip, warmup=0.3, weight_decay=0.2)
    with jax.enable_x64(True):
        params = jax.tree.map(lambda p: jnp.asarray(p, jnp.float64), init(ENCODER, config.seed))
        optimizer = make_optimizer(config, 10)
        state = init_state(params, optimizer)
        step = make_step(agreement_loss(ENCODER, config), optimizer, config.seed)

        @jax.jit
        def loss_and_logits(params, tokens, labels):
            logits = AgreementEncoder(ENCODER).apply(params, tokens).logits
            right = logits[jnp.arange(len(labels)), labels]
            return jnp.mean(jnp.log(jnp.exp(logits).sum(-1)) - right), logits

        gradient = jax.jit(jax.value_and_grad(loss_and_logits, has_aux=True))
        reference, mine, norms = AdamW(config, 10), by_name(state.params), []
        for batch in batches_of(10):
            (loss, logits), gradients = gradient(state.params, **batch)
            norms.append(reference.update(mine, by_name(gradients)))
            state, metrics = step(state, **batch)
            theirs = by_name(state.params)
            for name, values in mine.items():
                np.testing.assert_allclose(theirs[name], values, rtol=0, atol=1e-9, err_msg=name)
            right = (np.asarray(logits).argmax(-1) == np.asarray(batch["labels"])).mean()
            wanted = {"loss": float(loss), "gradient_norm": norms[-1], "accuracy": right}
            assert jax.device_get(metrics) == pytest.approx(wanted, rel=1e-7)
        assert int(state.step) == 10
        assert min(norms) > 0.02  # every step was clipped, or none


def test_a_linear_learning_rate_goes_up_and_down():
    """A constant gradient moves a number by the rate itself."""
    config = dataclasses.replace(CONFIG, learning_rate=0.5, warmup=0.2, weight_decay=0.0, clip=1e9)
    optimizer = make_optimizer(config, 20, schedule="linear", b2=0.999)
    params = {"w": jnp.zeros((1, 1))}
    state, rates = optimizer.init(params), []
    update = jax.jit(optimizer.update)
    for _ in range(21):
        updates, state = update({"w": jnp.ones((1, 1))}, state, params)
        rates.append(-float(updates["w"][0, 0]))
    expected = 0.5 * np.array([*np.arange(4) / 4, *(1 - np.arange(17) / 16)])
    np.testing.assert_allclose(rates, expected, rtol=1e-4, atol=1e-6)


def test_word_dropout_takes_its_share_of_the_words_and_no_special_token():
    tokens = jnp.tile(jnp.arange(12, dtype=jnp.int32), (5_000, 1))
    dropped = np.asarray(drop_words(jax.random.key(3), tokens, 0.1))
    np.testing.assert_array_equal(dropped[:, :3], np.asarray(tokens)[:, :3])
    words = dropped[:, 3:]
    assert set(np.unique(words[words != np.arange(3, 12)]).tolist()) == {2}
    # 45,000 draws: four standard deviations are 0.0057.
    assert (words == 2).mean() == pytest.approx(0.1, abs=0.0057)
    # The step drops them too: with all but a trace of the words gone, only lengths are left.
    state, step = start(dataclasses.replace(CONFIG, word_dropout=0.999999))
    params = jax.tree.map(np.array, state.params)
    tokens = jnp.asarray([[1, 5, 6, 0, 0, 0], [1, 7, 8, 9, 10, 11]], jnp.int32)
    blanked = jnp.asarray([[1, 2, 2, 0, 0, 0], [1, 2, 2, 2, 2, 2]], jnp.int32)
    labels = jnp.asarray([0, 1])
    _, metrics = step(state, tokens=tokens, labels=labels)
    logits = AgreementEncoder(ENCODER).apply(params, blanked).logits
    expected = optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
    assert float(metrics["loss"]) == pytest.approx(float(expected), rel=1e-6)


@functools.cache
def losses(config, count=6):
    state, step = start(config, encoder=NOISY_ENCODER)
    found = []
    for batch in batches_of(count):
        state, metrics = step(state, **batch)
        found.append(float(metrics["loss"]))
    return found, jax.tree.map(np.array, state)  # a copy that outlives donation


def test_the_same_seed_gives_the_same_run_and_another_another():
    (one, first), (other, second) = losses(NOISY), losses.__wrapped__(NOISY)
    assert one == other
    assert_equal_trees(first, second)
    assert losses(dataclasses.replace(NOISY, seed=1))[0] != one


def test_noise_follows_the_step_and_the_state_is_donated():
    state, step = start(NOISY, encoder=NOISY_ENCODER)
    batch, kept, found = next(batches_of(1)), jax.tree.map(np.array, state), []
    for number in (0, 1, 0):
        before = jax.tree.map(jnp.array, kept)._replace(step=jnp.asarray(number, jnp.int32))
        after, metrics = step(before, **batch)
        found.append(float(metrics["loss"]))
    assert found[0] == found[2] != found[1]
    # The scalar counters may be too small to be worth it; the parameters must not be held twice.
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(before.params))
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves((after, batch)))


def test_bfloat16_follows_float32_and_keeps_its_parameters_in_it():
    exact, _ = losses(NOISY)
    found, state = losses(dataclasses.replace(NOISY, compute="bfloat16"))
    np.testing.assert_allclose(found, exact, rtol=0.02)
    assert found != exact
    assert {leaf.dtype for leaf in jax.tree.leaves(state.params)} == {np.dtype(np.float32)}
