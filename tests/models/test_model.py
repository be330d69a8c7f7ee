"""Test models derived from a model: another head, bfloat16, blocks as one loop."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_models import tiny
from torch_models import assert_close
from vision_models import random_model

import jaxflow
from jaxflow.errors import InputError
from jaxflow.models import (
    AgreementEncoder,
    BertConfig,
    EncoderConfig,
    Model,
    answer_values,
    in_bfloat16,
    init,
    load,
    trace,
    with_head,
)
from jaxflow.models.model import lowered, roll_up

TEXTS = ["the keys to the cabinet", "the key", "a cat that the dogs chase"]
TOKENS = np.array([[2, 5, 6, 7, 3], [2, 5, 3, 0, 0]])


@pytest.fixture(scope="module")
def masked():
    return tiny("masked-lm")


def test_another_head_keeps_the_encoder(masked):
    changed = with_head(masked, "classification", labels=("no", "yes"), seed=1, dropout=0.3)
    assert (changed.config.labels, changed.config.dropout) == (("no", "yes"), 0.3)
    before, after = masked.params["params"], changed.params["params"]
    assert before.keys() - after.keys() == {"masked"}
    assert after.keys() - before.keys() == {"pooler", "readout"}
    for name in before.keys() & after.keys():
        jax.tree.map(np.testing.assert_array_equal, before[name], after[name])
    other = with_head(masked, "classification", labels=("no", "yes"), seed=2)
    assert np.abs(after["readout"]["kernel"] - other.params["params"]["readout"]["kernel"]).min()
    assert_close(changed(TOKENS).hidden, masked(TOKENS).hidden)
    assert changed(TOKENS).logits.shape == (2, 2)


def test_a_pooler_that_fits_is_kept():
    bare = tiny("none", pooler=True)
    pooled = with_head(bare, "classification", labels=("a",)).params["params"]["pooler"]
    jax.tree.map(np.testing.assert_array_equal, pooled, bare.params["params"]["pooler"])
    assert not with_head(bare, "masked-lm").config.pooler


@pytest.mark.parametrize(
    ("head", "options"),
    [
        ("lm", {}),
        ("classification", {}),
        ("none", {"labels": ("a",)}),
        ("none", {"dropout": 1.5}),
        ("none", {"tempo": 1}),
    ],
)
def test_impossible_heads_are_refused(head, options, masked):
    with pytest.raises(InputError):
        with_head(masked, head, **options)


def test_segments_and_missing_tokenizers_are_named(masked):
    for call in (masked, masked.probabilities):
        with pytest.raises(InputError, match=r"^token_types must be numbers from 0 to 1, got 0 to"):
            call(TOKENS, token_types=np.array([[0, 1, 2, 0, 0]] * 2))
    with pytest.raises(InputError, match=r"^token_types must be of shape \(2, 5\), got \(2, 4\)"):
        masked(TOKENS, token_types=np.zeros((2, 4), int))
    assert masked.has_segments
    assert not any(one.has_segments for one in (tiny(causal=True), load("agreement")))
    with pytest.raises(InputError, match=r"^token_types must be None for a model without segments"):
        tiny(causal=True)(TOKENS, token_types=np.zeros((2, 5), int))
    with pytest.raises(InputError, match=r"^the model must have a tokenizer to read text"):
        _ = Model(masked.config, masked.params, None).text


def test_the_loop_is_the_encoder_and_has_its_gradients():
    config = EncoderConfig(vocabulary=10, positions=8, layers=3, heads=2, width=8, classes=3)
    encoder = AgreementEncoder(config)
    tokens = jnp.array([[1, 5, 7, 3, 4, 9], [1, 2, 6, 8, 0, 0]])
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda leaf: jnp.asarray(rng.normal(size=leaf.shape), leaf.dtype), init(config)
    )
    rolled = roll_up(config, params)
    assert "blocks_0" in params["params"]  # the model given is not changed

    def one_by_one(embeddings):
        return encoder.apply(params, embeddings, tokens != 0, method="encode")

    def looped(embeddings):
        return rolled.encode(rolled.params, embeddings, tokens != 0)

    embeddings = rolled.embed(rolled.params, tokens)
    gradients = []
    for mine, other in zip(
        jax.tree.leaves(looped(embeddings)), jax.tree.leaves(one_by_one(embeddings)), strict=True
    ):
        np.testing.assert_allclose(mine, other, atol=2e-5)
    for call in (looped, one_by_one):
        score = jax.jit(jax.grad(lambda given, call=call: call(given).logits[:, 1].sum()))
        gradients.append(score(embeddings))
    assert float(jnp.abs(gradients[1]).max()) > 0.01
    np.testing.assert_allclose(*gradients, rtol=1e-3, atol=1e-4)


@pytest.fixture(scope="module")
def pair():
    model = load("agreement")
    tokens = model.whole_words.encode_batch(TEXTS)
    return model, in_bfloat16(model), tokens


@pytest.mark.parametrize(
    "model", [tiny(), tiny(causal=True), tiny("masked-lm"), random_model()], ids=str
)
def test_bfloat16_computes_hidden_states_and_returns_float32(model):
    half = in_bfloat16(model)
    rng = np.random.default_rng(0)
    if hasattr(model.config, "image"):
        height, width = model.config.image
        given = rng.normal(size=(2, height, width, model.config.channels)).astype(np.float32)
        given = given.astype(jnp.bfloat16)
    else:
        given = rng.integers(5, 12, (2, 6)).astype(np.int32)
    output = half(given)
    assert output.hidden.dtype == jnp.bfloat16
    assert output.attention.dtype == jnp.float32
    assert output.logits.dtype == jnp.float32
    np.testing.assert_allclose(np.asarray(output.attention).sum(-1), 1, atol=1e-6)
    wide = model(given)
    np.testing.assert_allclose(output.attention, wide.attention, atol=0.05)


def test_rollout_and_flow_change_no_more_than_attention_does(pair):
    """The bounds of the docstring, and how far it is from them on the bundled model."""
    model, half, tokens = pair
    mask = tokens != 0
    wide, low = (np.asarray(one(tokens).attention, np.float64) for one in (model, half))
    wide, low = (one / one.sum(-1, keepdims=True) for one in (wide, low))
    fused = [one.mean(2) * mask[:, None, :, None] for one in (wide, low)]
    changed = np.abs(fused[0] - fused[1]).sum(-1)  # [B, L, n]
    rolled = [np.asarray(jaxflow.rollout(one, mask=mask)) for one in (wide, low)]
    flows = [jaxflow.flow(one, mask=mask) for one in (wide, low)]
    by_layer = 0.5 * np.cumsum(changed.max(-1), axis=-1)  # [B, L]
    distance = np.abs(rolled[0] - rolled[1]).sum(-1)
    assert (distance <= by_layer[..., None] + 1e-6).all()
    all_rows = 0.5 * np.cumsum(changed.sum(-1), axis=-1)
    assert (np.abs(flows[0] - flows[1]) <= all_rows[..., None, None] + 1e-6).all()
    assert 0 < distance.max() < 0.05
    assert np.abs(flows[0] - flows[1]).max() < 0.05
    probabilities = [jax.nn.softmax(one(tokens).logits) for one in (model, half)]
    np.testing.assert_allclose(*probabilities, atol=0.02)


def test_traces_of_bfloat16_models_have_gradients(pair):
    _, half, tokens = pair
    found = trace(half, tokens)
    assert found.attention.dtype == jnp.float32
    assert np.isfinite(np.asarray(found.gradient)).all()


def test_a_training_step_in_bfloat16_has_gradients_of_its_parameters_dtype():
    config = EncoderConfig(vocabulary=20, positions=8, layers=2, heads=2, width=16, dropout=0.0)
    params = init(config)
    tokens = np.array([[1, 5, 9, 4, 7], [1, 3, 19, 0, 0]], np.int32)
    encoder = AgreementEncoder(config)

    def loss(params, lower):
        params = lowered(params) if lower else params
        logits = encoder.apply(params, tokens, method="classify", train=True)
        assert logits.dtype == jnp.float32
        return -jax.nn.log_softmax(logits)[:, 0].mean()

    gradient = jax.jit(jax.grad(loss), static_argnums=1)
    wide, low = (gradient(params, lower) for lower in (False, True))
    for one, other in zip(jax.tree.leaves(wide), jax.tree.leaves(low), strict=True):
        assert other.dtype == jnp.float32
        size = float(jnp.abs(one).max())
        np.testing.assert_allclose(other, one, atol=0.05 * size + 1e-6)


def test_each_answer_has_its_values():
    """Softmax, sigmoid or the numbers themselves, by the kind that the configuration states."""
    logits = np.random.default_rng(0).normal(size=(3, 2)).astype(np.float32)
    softmax = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    expected = {
        "single-label": softmax, "tokens": softmax, "regression": logits,
        "multi-label": 1 / (1 + np.exp(-logits)),
    }  # fmt: skip
    for answer, values in expected.items():
        np.testing.assert_allclose(answer_values(jnp.asarray(logits), answer), values, atol=1e-6)
    for answer in ("multi-label", "regression", "single-label"):
        model = tiny(problem=answer)
        assert model.answer == answer
        given = {"mask": TOKENS > 2, "token_types": TOKENS % 2}
        values = answer_values(model(TOKENS, **given).logits, answer)
        np.testing.assert_allclose(model.probabilities(TOKENS, **given), values, atol=1e-6)
        assert np.abs(values - model.probabilities(TOKENS, TOKENS > 2)).max() > 1e-4
    kinds = {"masked-lm": "tokens", "none": "none", "classification": "single-label"}
    assert {head: tiny(head).answer for head in kinds} == kinds
    assert tiny(labels=("score",)).answer == "regression"
    assert (load("agreement").answer, random_model().answer) == ("single-label", "single-label")
    assert with_head(tiny(problem="regression"), "none").answer == "none"
    with pytest.raises(InputError, match=r"^the model must have a head to answer with"):
        tiny("none").probabilities(TOKENS)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"labels": ("a", "b", "a")}, "labels must be of different names"),
        ({"problem": "ranking"}, "problem must be single-label or multi-label or regression"),
        ({"problem": "single-label", "labels": ("a",)}, "must have at least 2 classes, got 1"),
        ({"problem": "regression", "head": "none", "labels": ()}, "problem must be None"),
    ],
)
def test_answers_that_cannot_be_are_refused(fields, message):
    with pytest.raises(InputError, match=message):
        BertConfig(**{"head": "classification", "labels": ("a", "b")} | fields)
