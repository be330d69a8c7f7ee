"""Blank-out, against one call a token."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from attentions import Foreign
from hypothesis import given
from hypothesis import strategies as st

import jaxflow

VOCABULARY, PAD, UNK, CLASSES = 12, 0, 2, 3
TABLE = np.random.default_rng(0).normal(size=(VOCABULARY, CLASSES))
# How much each position counts, so that the order of tokens matters.
PLACE = np.linspace(1, 2, 16)


def plain(tokens: np.ndarray) -> np.ndarray:
    """Probabilities ``[B, C]`` of a small bag of words that leaves padding out."""
    tokens = np.asarray(tokens)
    votes = TABLE[tokens] * (tokens != PAD)[..., None] * PLACE[: tokens.shape[-1], None]
    weights = np.exp(votes.sum(-2))
    return weights / weights.sum(-1, keepdims=True)


@jax.jit
def predict(tokens: jax.Array) -> jax.Array:
    table, place = jnp.asarray(TABLE, jnp.float32), jnp.asarray(PLACE[: tokens.shape[-1]])
    real = (tokens != PAD).astype(jnp.float32)
    return jax.nn.softmax(jnp.einsum("bnc,bn,n->bc", table[tokens], real, place))


sentences = st.lists(
    st.lists(st.integers(3, VOCABULARY - 1), min_size=5, max_size=5), min_size=3, max_size=3
).map(np.array)


@given(tokens=sentences, seed=st.integers(0, 99))
def test_against_one_call_a_token(tokens: np.ndarray, seed: int) -> None:
    label = np.random.default_rng(seed).integers(0, CLASSES, 3)
    expected = [
        oracles.blank_out(plain, sentence, UNK, int(gold))
        for sentence, gold in zip(tokens, label, strict=True)
    ]
    result = jaxflow.blank_out(predict, tokens, UNK, label=label)
    assert isinstance(result, jax.Array)
    assert result.dtype == jnp.float32
    np.testing.assert_allclose(result, expected, atol=1e-6)


@given(tokens=sentences)
def test_without_labels_the_predicted_class_counts(tokens: np.ndarray) -> None:
    result = jaxflow.blank_out(predict, tokens, UNK)
    expected = jaxflow.blank_out(predict, tokens, UNK, label=plain(tokens).argmax(-1))
    np.testing.assert_array_equal(result, expected)


@given(tokens=sentences, places=st.permutations(range(8)).map(lambda order: sorted(order[:5])))
def test_padding_changes_nothing(tokens: np.ndarray, places: list[int]) -> None:
    """With padding anywhere; the small model weighs positions, so it is told the old ones."""
    wide, mask = np.full((3, 8), PAD), np.zeros((3, 8), bool)
    wide[:, places], mask[:, places] = tokens, True

    def predict_real(rows: jax.Array) -> jax.Array:
        return predict(rows[:, jnp.array(places)])

    result = np.asarray(jaxflow.blank_out(predict_real, wide, UNK, mask=mask))
    expected = jaxflow.blank_out(predict, tokens, UNK)
    np.testing.assert_allclose(result[:, places], expected, atol=1e-6)
    np.testing.assert_array_equal(result[~mask], 0)


def test_a_masked_token_scores_0_even_where_it_matters() -> None:
    tokens, mask = np.array([3, 4, 5]), np.array([True, False, True])
    result = jaxflow.blank_out(predict, tokens, UNK, mask=mask)
    expected = np.where(
        mask, oracles.blank_out(plain, tokens, UNK, plain(tokens[None]).argmax()), 0
    )
    np.testing.assert_allclose(result, expected, atol=1e-6)
    assert (np.asarray(result)[mask] > 0).all()


def test_blanking_the_unknown_word_changes_nothing() -> None:
    tokens = np.array([[3, UNK, 5, 6], [UNK, 4, UNK, 7]])
    result = np.asarray(jaxflow.blank_out(predict, tokens, UNK))
    np.testing.assert_array_equal(result == 0, tokens == UNK)


@pytest.mark.parametrize("batch", [(), (1,), (2, 3)])
def test_any_batch_axes(batch: tuple[int, ...]) -> None:
    rng = np.random.default_rng(1)
    tokens, label = rng.integers(3, VOCABULARY, (*batch, 4)), rng.integers(0, CLASSES, batch)
    result = np.asarray(jaxflow.blank_out(predict, tokens, UNK, label=label))
    assert result.shape == (*batch, 4)
    for place in np.ndindex(batch):
        expected = oracles.blank_out(plain, tokens[place], UNK, int(label[place]))
        np.testing.assert_allclose(result[place], expected, atol=1e-6)


def test_two_calls_whatever_the_number_of_sentences() -> None:
    shapes = []

    def counting(rows: jax.Array) -> jax.Array:
        shapes.append(rows.shape)
        return predict(rows)

    jaxflow.blank_out(counting, np.full((6, 5), 3), UNK)
    assert shapes == [(6, 5), (30, 5)]


def test_jit_and_vmap_change_nothing() -> None:
    tokens = jnp.asarray(np.random.default_rng(2).integers(3, VOCABULARY, (3, 4)))
    label = jnp.array([0, 1, 2])
    expected = jaxflow.blank_out(predict, tokens, UNK, label=label)

    def attribute(tokens: jax.Array, label: jax.Array) -> jax.Array:
        return jaxflow.blank_out(predict, tokens, UNK, label=label)

    np.testing.assert_allclose(jax.jit(attribute)(tokens, label), expected, atol=1e-6)
    np.testing.assert_allclose(jax.vmap(attribute)(tokens, label), expected, atol=1e-6)


def test_probabilities_of_another_framework_keep_their_precision() -> None:
    tokens = np.array([[3, 4, 5, 6]])
    expected = oracles.blank_out(plain, tokens[0], UNK, 1)
    for answer in (plain, lambda rows: Foreign(plain(rows))):
        result = jaxflow.blank_out(answer, tokens, UNK, label=np.array([1]))
        assert isinstance(result, np.ndarray)
        assert result.dtype == np.float64
        np.testing.assert_allclose(result[0], expected, atol=1e-15)


@pytest.mark.parametrize(
    ("tokens", "options", "complaint"),
    [
        (np.int64(3), {}, "tokens must have the shape"),
        (np.zeros((0, 4), int), {}, "tokens must have the shape"),
        (np.ones((2, 4)), {}, "tokens must be whole numbers, got float64"),
        (np.array(["the", "cat"]), {}, "tokens must be whole numbers"),
        (np.full((2, 4), 3), {"label": np.array([0])}, r"label must be whole numbers of shape"),
        (np.full((2, 4), 3), {"label": np.array([0.0, 1.0])}, "label must be whole numbers"),
        (np.full((2, 4), 3), {"label": np.array([0, 3])}, "label must be a class from 0 to 2"),
        (np.full((2, 4), 3), {"label": np.array([-1, 0])}, "label must be a class from 0 to 2"),
        (np.full((2, 4), 3), {"mask": np.ones(4, bool)}, r"mask must be boolean with the shape"),
        (np.full((2, 4), 3), {"mask": np.ones((2, 4))}, r"mask must be boolean"),
    ],
)
def test_unusable_input_is_named(tokens: Any, options: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        jaxflow.blank_out(predict, tokens, UNK, **options)


@pytest.mark.parametrize("unk_id", [1.5, None, "[UNK]", True])
def test_an_unknown_word_that_is_no_number_is_named(unk_id: Any) -> None:
    with pytest.raises(ValueError, match="unk_id must be a whole number"):
        jaxflow.blank_out(predict, np.full((2, 4), 3), unk_id)


def test_a_prediction_of_another_shape_is_named() -> None:
    with pytest.raises(ValueError, match=r"predict must return probabilities \[2, classes\]"):
        jaxflow.blank_out(lambda rows: predict(rows)[..., 0], np.full((2, 4), 3), UNK)


def test_an_unknown_word_scores_exactly_zero_however_the_model_rounds():
    def uneven(tokens):  # rounds by the size of the batch, as compiled models may
        share = jnp.full(len(tokens), 0.5 + 1e-6 * len(tokens))
        return jnp.stack([share, 1 - share], -1)

    scores = jaxflow.blank_out(uneven, np.array([[1, 2, 5]]), 2)
    assert float(scores[0, 1]) == 0
    assert float(scores[0, 0]) > 0
