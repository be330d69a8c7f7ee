"""Test the encoder against a forward pass in NumPy, and its invariances."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import flax.errors
import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from beartype import beartype
from jaxtyping import Array, Bool, Float32, Int32, jaxtyped

import jaxflow
from jaxflow.models import AgreementEncoder, EncoderConfig, EncoderOutput

CONFIG = EncoderConfig(
    vocabulary=20, positions=8, layers=2, heads=2, width=8, classes=3, dropout=0.5
)
CONFIGS = [CONFIG, dataclasses.replace(CONFIG, causal=True, hidden_width=12)]
TOKENS = np.array([[1, 5, 9, 4, 7], [1, 3, 19, 0, 0]], np.int32)


@functools.cache
def _apply(encoder: AgreementEncoder, options: tuple[str, ...]) -> Callable[..., EncoderOutput]:
    return jax.jit(encoder.apply, static_argnames=("train",) if "train" in options else ())


@jaxtyped(typechecker=beartype)
def run(
    encoder: AgreementEncoder,
    variables: Any,
    tokens: Int32[Array, "batch n"] | Int32[np.ndarray, "batch n"],
    mask: Bool[Array, "batch n"] | Bool[np.ndarray, "batch n"] | None = None,
    **options: Any,
) -> tuple[
    Float32[Array, "batch {encoder.config.classes}"],
    Float32[Array, "batch {encoder.config.layers} {encoder.config.heads} n n"],
    Float32[Array, "batch {encoder.config.layers}+1 n {encoder.config.width}"],
]:
    """Apply the encoder, the shapes and dtypes of its docstring checked on every call."""
    output = _apply(encoder, tuple(options))(variables, tokens, mask, **options)
    assert isinstance(output, EncoderOutput)
    return output.logits, output.attention, output.hidden


def random_variables(config: EncoderConfig, seed: int = 0) -> Any:
    """Every parameter random, biases and scales too, so that no term can hide."""
    encoder = AgreementEncoder(config)
    shapes = jax.eval_shape(encoder.init, jax.random.key(0), TOKENS)
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda leaf: jnp.asarray(rng.normal(size=leaf.shape) * 0.5, leaf.dtype), shapes
    )


def wide(variables: Any) -> Any:
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), variables["params"])


@pytest.mark.parametrize("config", CONFIGS, ids=["full", "causal"])
def test_forward_pass_against_numpy(config: EncoderConfig) -> None:
    variables = random_variables(config)
    logits, attention, hidden = run(AgreementEncoder(config), variables, TOKENS)
    for b, sentence in enumerate(TOKENS):
        real = sentence != 0
        sizes = {"layers": config.layers, "heads": config.heads, "causal": config.causal}
        expected = oracles.encoder(wide(variables), sentence, real, **sizes)
        np.testing.assert_allclose(logits[b], expected[0], atol=1e-5)
        np.testing.assert_allclose(attention[b], expected[1], atol=1e-5)
        np.testing.assert_allclose(hidden[b], expected[2], atol=1e-5)


@pytest.mark.parametrize("config", CONFIGS, ids=["full", "causal"])
def test_attention_is_a_distribution_also_while_training(config: EncoderConfig) -> None:
    """Dropped weights would not sum to 1, and half of them would be 0."""
    _, attention, _ = run(
        AgreementEncoder(config),
        random_variables(config),
        TOKENS,
        train=True,
        rngs={"dropout": jax.random.key(1)},
    )
    np.testing.assert_allclose(attention.sum(-1), 1, atol=1e-6)
    seen = np.asarray(TOKENS != 0)[:, None, None, None, :]
    if config.causal:
        seen = seen & np.tril(np.ones((5, 5), bool))
    np.testing.assert_array_equal(attention != 0, np.broadcast_to(seen, attention.shape))


def test_dropout_needs_its_key_changes_the_outcome_and_depends_on_the_key() -> None:
    encoder, variables = AgreementEncoder(CONFIG), random_variables(CONFIG)
    quiet, _, _ = run(encoder, variables, TOKENS)
    one, _, _ = run(encoder, variables, TOKENS, train=True, rngs={"dropout": jax.random.key(1)})
    two, _, _ = run(encoder, variables, TOKENS, train=True, rngs={"dropout": jax.random.key(2)})
    same, _, _ = run(encoder, variables, TOKENS, train=True, rngs={"dropout": jax.random.key(1)})
    np.testing.assert_array_equal(one, same)
    for left, right in ((quiet, one), (one, two)):
        assert float(jnp.abs(left - right).max()) > 1e-3
    with pytest.raises(flax.errors.InvalidRngError):
        run(encoder, variables, TOKENS, train=True)
    certain = AgreementEncoder(dataclasses.replace(CONFIG, dropout=0.0))
    np.testing.assert_allclose(run(certain, variables, TOKENS, train=True)[0], quiet, atol=1e-6)


def test_the_mask_says_what_padding_is() -> None:
    encoder, variables = AgreementEncoder(CONFIG), random_variables(CONFIG)
    logits, attention, _ = run(encoder, variables, TOKENS)
    explicit, _, _ = run(encoder, variables, TOKENS, TOKENS != 0)
    np.testing.assert_allclose(explicit, logits, atol=1e-6)
    # Under a mask it does not matter which words stand at padded places.
    words = np.where(TOKENS == 0, 17, TOKENS)
    masked, masked_attention, _ = run(encoder, variables, words, jnp.asarray(TOKENS != 0))
    np.testing.assert_allclose(masked, logits, atol=1e-6)
    np.testing.assert_allclose(masked_attention[:, :, :, :3], attention[:, :, :, :3], atol=1e-6)
    other = AgreementEncoder(dataclasses.replace(CONFIG, pad_id=17))
    np.testing.assert_allclose(run(other, variables, words)[0], logits, atol=1e-6)


def test_embed_then_encode_is_the_call() -> None:
    encoder, variables = AgreementEncoder(CONFIG), random_variables(CONFIG)
    apply = jax.jit(encoder.apply, static_argnames="method")
    expected = apply(variables, TOKENS)
    embeddings = apply(variables, TOKENS, method="embed")
    table = variables["params"]["word"]["embedding"]
    np.testing.assert_array_equal(embeddings, np.asarray(table)[TOKENS])
    output = apply(variables, embeddings, TOKENS != 0, method="encode")
    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-6), output, expected)
    whole = apply(variables, embeddings, method="encode")
    expected = apply(variables, TOKENS, np.ones((2, 5), bool))
    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-6), whole, expected)


@pytest.mark.parametrize("config", CONFIGS, ids=["full", "causal"])
def test_classify_has_the_logits_and_derivatives_of_the_call(config: EncoderConfig) -> None:
    config = dataclasses.replace(config, dropout=0.0)
    encoder, variables = AgreementEncoder(config), random_variables(config)

    def gradient(function: Callable[[Any], jax.Array]) -> Any:
        return jax.jit(jax.grad(lambda v: (function(v) ** 2).sum()))(variables)

    expected = gradient(lambda v: encoder.apply(v, TOKENS).logits)
    expected_logits = _apply(encoder, ())(variables, TOKENS, TOKENS != 4).logits
    classify = jax.jit(functools.partial(encoder.apply, method="classify"))
    logits = classify(variables, TOKENS, TOKENS != 4)
    np.testing.assert_allclose(logits, expected_logits, atol=1e-6)
    for train in (False, True):
        found = gradient(lambda v, t=train: encoder.apply(v, TOKENS, train=t, method="classify"))
        jax.tree.map(
            functools.partial(np.testing.assert_allclose, atol=1e-5, rtol=1e-4), found, expected
        )


def test_initial_parameters_are_those_of_gpt2() -> None:
    config = EncoderConfig(vocabulary=500, layers=2)
    variables = jax.jit(AgreementEncoder(config).init)(jax.random.key(0), TOKENS)
    deviation = dict.fromkeys(("embedding", "qkv", "up", "readout"), 0.02)
    deviation |= dict.fromkeys(("position", "attention_out", "down"), 0.01)  # of four sums
    checked = set()
    for path, leaf in jax.tree_util.tree_leaves_with_path(variables["params"]):
        names = [key.key for key in path]
        if names[-1] == "bias":
            np.testing.assert_array_equal(leaf, 0)
        elif names[-1] == "scale":
            np.testing.assert_array_equal(leaf, 1)
        else:
            name = names[-2] if names[-1] == "kernel" else names[-1]
            checked.add(name)
            # Five standard deviations of the estimates.
            expected, count = deviation[name], leaf.size
            assert float(leaf.std()) == pytest.approx(expected, rel=5 / math.sqrt(2 * count))
            assert abs(float(leaf.mean())) < 5 * expected / math.sqrt(count)
    assert checked == set(deviation)
    assert len(variables["params"]) == 4 + config.layers


@pytest.mark.parametrize(
    ("tokens", "mask", "complaint"),
    [
        (TOKENS[0], None, r"tokens must be whole numbers of shape .* \(5,\)"),
        (TOKENS[None], None, r"tokens must be whole numbers of shape"),
        (TOKENS.astype(np.float32), None, r"tokens must be whole numbers of shape .* float32"),
        (np.ones((1, 9), np.int32), None, "tokens must be at most 8 a sentence .* got 9"),
        (TOKENS, np.ones((2, 4), bool), r"mask must be boolean of shape \(2, 5\)"),
        (TOKENS, np.ones(5, bool), r"mask must be boolean of shape \(2, 5\)"),
        (TOKENS, np.ones((2, 5), int), r"mask must be boolean of shape \(2, 5\), got int"),
    ],
)
def test_unusable_input_is_named(tokens: Any, mask: Any, complaint: str) -> None:
    with pytest.raises(jaxflow.InputError, match=complaint):
        AgreementEncoder(CONFIG).apply(random_variables(CONFIG), tokens, mask)


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"layers": 0}, "layers must be a whole number of at least 1, got 0"),
        ({"heads": -2}, "heads must be"),
        ({"vocabulary": 1.5}, "vocabulary must be a whole number"),
        ({"positions": True}, "positions must be a whole number"),
        ({"classes": "2"}, "classes must be a whole number"),
        ({"hidden_width": 0}, "hidden_width must be a whole number"),
        ({"width": 30, "heads": 4}, "width must be a multiple of heads, got width 30 for 4 heads"),
        ({"dropout": 1.0}, "dropout must be at least 0 and below 1"),
        ({"dropout": -0.1}, "dropout must be at least 0 and below 1"),
        ({"depth": 3}, "the model's configuration does not fit: .*depth"),
    ],
)
def test_impossible_configurations_are_named(fields: dict[str, Any], complaint: str) -> None:
    with pytest.raises(jaxflow.InputError, match=complaint):
        EncoderConfig.from_dict(fields)
    for config in (*CONFIGS, EncoderConfig()):
        assert EncoderConfig.from_dict(config.to_dict()) == config
