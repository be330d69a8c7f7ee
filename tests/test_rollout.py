"""Rollout and the rollout of single heads: against loops, and by what must not matter."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from attentions import (
    DTYPES,
    attention_of,
    attentions,
    heads_options,
    junk_values,
    pad,
    paddings,
    residuals,
    unpad,
)
from hypothesis import given
from hypothesis import strategies as st

import jaxflow

GOLDEN = Path(__file__).parent / "golden"
METHODS: dict[str, Callable[..., Any]] = {
    "rollout": jaxflow.rollout,
    "head_rollout": jaxflow.head_rollout,
}
methods = st.sampled_from(sorted(METHODS))


def tolerance(attention: np.ndarray) -> float:
    return 1e-6 if attention.dtype == np.float32 else 1e-14


@given(attention=attentions(), heads=heads_options, residual=residuals, data=st.data())
def test_rollout_against_loops(
    attention: np.ndarray, heads: str | int, residual: float, data: st.DataObject
) -> None:
    start = data.draw(st.integers(0, len(attention) - 1))
    result = jaxflow.rollout(attention, residual=residual, heads=heads, start_layer=start)
    expected = oracles.rollout(attention, residual, heads, start)
    np.testing.assert_allclose(result, expected, atol=tolerance(attention))


@given(attention=attentions(), residual=residuals)
def test_head_rollout_against_loops(attention: np.ndarray, residual: float) -> None:
    result = jaxflow.head_rollout(attention, residual=residual)
    expected = oracles.head_rollout(attention, residual)
    np.testing.assert_allclose(result, expected, atol=tolerance(attention))


@pytest.mark.parametrize("dtype", DTYPES)
def test_rollout_against_golden_values(dtype: type) -> None:
    """`golden/make_rollout.py` says how the file was made."""
    golden = np.load(GOLDEN / "rollout.npz")
    attention = golden["attention"].astype(dtype)
    atol = tolerance(attention)
    mask = golden["mask"]
    np.testing.assert_allclose(
        jaxflow.raw_attention(attention, mask=mask), golden["raw"], atol=atol
    )
    np.testing.assert_allclose(jaxflow.rollout(attention, mask=mask), golden["rollout"], atol=atol)
    np.testing.assert_allclose(
        jaxflow.head_rollout(attention, mask=mask), golden["head_rollout"], atol=atol
    )


def test_rollout_by_hand() -> None:
    first, second = [[1.0, 0.0], [0.5, 0.5]], [[0.0, 1.0], [1.0, 0.0]]
    attention = np.array([[first], [second]])
    # A[1] = [[1, 0], [1/4, 3/4]] and A[2] = [[1/2, 1/2], [1/2, 1/2]].
    expected = [[[1, 0], [1 / 4, 3 / 4]], [[5 / 8, 3 / 8], [5 / 8, 3 / 8]]]
    np.testing.assert_allclose(jaxflow.rollout(attention), expected, rtol=1e-15)


@given(attention=attentions(), method=methods, residual=residuals)
def test_rows_are_distributions(attention: np.ndarray, method: str, residual: float) -> None:
    result = METHODS[method](attention, residual=residual)
    assert result.min() >= 0
    np.testing.assert_allclose(result.sum(-1), 1, atol=1e-5)


@given(attention=attentions(), residual=residuals)
def test_mean_over_heads_is_the_rollout(attention: np.ndarray, residual: float) -> None:
    heads = jaxflow.head_rollout(attention, residual=residual)
    expected = jaxflow.rollout(attention, residual=residual)
    np.testing.assert_allclose(heads.mean(-3), expected, atol=1e-6)


@given(attention=attentions())
def test_only_the_residual_leaves_every_token_alone(attention: np.ndarray) -> None:
    result = jaxflow.rollout(attention, residual=1)
    expected = np.broadcast_to(np.eye(attention.shape[-1]), result.shape)
    np.testing.assert_array_equal(result, expected)


@given(attention=attentions(dtypes=(np.float64,)), data=st.data())
def test_layers_below_the_start_do_not_matter(attention: np.ndarray, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(attention) - 1))
    result = jaxflow.rollout(attention, start_layer=start)
    assert len(result) == len(attention)
    np.testing.assert_allclose(result[start:], jaxflow.rollout(attention[start:]), atol=1e-14)
    for layer in result[:start]:
        np.testing.assert_array_equal(layer, np.eye(attention.shape[-1]))


@given(
    attention=attentions(dtypes=(np.float32,), batch=(2,)),
    method=methods,
    junk=junk_values,
    data=st.data(),
)
def test_padding_changes_nothing(
    attention: np.ndarray, method: str, junk: float, data: st.DataObject
) -> None:
    n = attention.shape[-1]
    places = data.draw(paddings(n))
    padded, mask = pad(attention, places, n + 2, junk)
    result = unpad(METHODS[method](padded, mask=mask), places)
    np.testing.assert_allclose(result, METHODS[method](attention), atol=1e-6)


@given(
    attention=attentions(dtypes=(np.float32,)),
    heads=st.sampled_from(["max", 0]),
    data=st.data(),
)
def test_padding_changes_nothing_however_heads_are_fused(
    attention: np.ndarray, heads: str | int, data: st.DataObject
) -> None:
    layers, n = len(attention), attention.shape[-1]
    places = data.draw(paddings(n))
    start = data.draw(st.sampled_from([0, layers - 1]))
    padded, mask = pad(attention, places, n + 2, float("nan"))
    result = jaxflow.rollout(padded, heads=heads, mask=mask, start_layer=start)
    expected = jaxflow.rollout(attention, heads=heads, start_layer=start)
    np.testing.assert_allclose(unpad(result, places), expected, atol=1e-6)


def test_each_sentence_of_a_batch_has_its_own_padding() -> None:
    short, long = attention_of("dense", 1, (3, 2, 4, 4)), attention_of("dense", 2, (3, 2, 6, 6))
    padded, mask = pad(short, np.arange(4), 6, 1 / 6)
    batch, masks = np.stack([padded, long]), np.stack([mask, np.ones(6, bool)])
    for method in METHODS.values():
        result = method(batch, mask=masks)
        np.testing.assert_allclose(unpad(result[0], np.arange(4)), method(short), atol=1e-14)
        np.testing.assert_allclose(result[1], method(long), atol=1e-14)


@given(attention=attentions(), seed=st.integers(0, 99))
def test_the_heads_order_does_not_matter(attention: np.ndarray, seed: int) -> None:
    order = np.random.default_rng(seed).permutation(attention.shape[-3])
    shuffled = attention[:, order]
    result, expected = jaxflow.rollout(shuffled), jaxflow.rollout(attention)
    np.testing.assert_allclose(result, expected, atol=1e-6)
    result, expected = jaxflow.head_rollout(shuffled), jaxflow.head_rollout(attention)
    np.testing.assert_allclose(result, expected[:, order], atol=1e-6)


@given(attention=attentions(), seed=st.integers(0, 99), method=methods)
def test_renaming_tokens_renames_the_result(attention: np.ndarray, seed: int, method: str) -> None:
    order = np.random.default_rng(seed).permutation(attention.shape[-1])
    renamed = attention[..., order[:, None], order]
    expected = METHODS[method](attention)[..., order[:, None], order]
    np.testing.assert_allclose(METHODS[method](renamed), expected, atol=1e-6)


@given(attention=attentions(batch=(2, 3)), method=methods)
def test_a_batch_is_its_sentences_one_by_one(attention: np.ndarray, method: str) -> None:
    result = METHODS[method](attention)
    for place in np.ndindex(2, 3):
        np.testing.assert_allclose(result[place], METHODS[method](attention[place]), atol=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_vmap_and_jit_change_nothing(method: str) -> None:
    attention = attention_of("dense", 9, (3, 3, 2, 4, 4))
    device, mask = jnp.asarray(attention, jnp.float32), jnp.ones((3, attention.shape[-1]), bool)
    expected = METHODS[method](device)
    np.testing.assert_allclose(jax.jit(METHODS[method])(device), expected, atol=1e-6)
    np.testing.assert_allclose(jax.vmap(METHODS[method])(device), expected, atol=1e-6)

    def masked(attention: jax.Array, mask: jax.Array) -> jax.Array:
        return METHODS[method](attention, mask=mask)

    np.testing.assert_allclose(jax.vmap(masked)(device, mask), expected, atol=1e-6)
    np.testing.assert_allclose(jax.jit(jax.vmap(masked))(device, mask), expected, atol=1e-6)


@pytest.mark.parametrize("heads", ["mean", "max", "min", 1])
def test_gradient_through_rollout(heads: str | int) -> None:
    attention = attention_of("dense", 3, (3, 2, 4, 4))
    weights = np.random.default_rng(4).normal(size=(3, 4, 4))

    def plain(values: np.ndarray) -> float:
        return float((oracles.rollout(values, 0.5, heads) * weights).sum())

    with jax.enable_x64(True):
        gradient = jax.grad(
            lambda values: (jaxflow.rollout(values, heads=heads) * jnp.asarray(weights)).sum()
        )(jnp.asarray(attention))
    np.testing.assert_allclose(gradient, oracles.finite_differences(plain, attention), atol=1e-9)


def test_gradient_through_head_rollout_and_residual() -> None:
    attention = attention_of("dense", 5, (2, 2, 3, 3))
    weights = np.random.default_rng(6).normal(size=(2, 2, 3, 3))

    def plain(values: np.ndarray) -> float:
        return float((oracles.head_rollout(values) * weights).sum())

    def plain_residual(residual: np.ndarray) -> float:
        return float((oracles.head_rollout(attention, float(residual)) * weights).sum())

    def score(values: jax.Array, residual: Any = 0.5) -> jax.Array:
        heads = jaxflow.head_rollout(values, residual=residual)
        return (heads * jnp.asarray(weights)).sum()

    with jax.enable_x64(True):
        device = jnp.asarray(attention)
        by_attention = jax.grad(score)(device)
        by_residual = jax.grad(score, argnums=1)(device, 0.3)
    expected = oracles.finite_differences(plain, attention)
    np.testing.assert_allclose(by_attention, expected, atol=1e-9)
    expected = oracles.finite_differences(plain_residual, np.array(0.3))
    np.testing.assert_allclose(by_residual, expected, atol=1e-9)


def test_padded_tokens_get_no_gradient() -> None:
    attention, mask = pad(attention_of("dense", 7, (2, 2, 3, 3)), np.arange(3), 5, 0.2)
    device = jnp.asarray(attention, jnp.float32)
    gradient = jax.grad(lambda values: (jaxflow.rollout(values, mask=mask) ** 2).sum())(device)
    assert float(jnp.abs(unpad(np.asarray(gradient), np.arange(3))).min()) > 0


@pytest.mark.parametrize("start", [-1, 3, 1.5, True, None, "first"])
def test_unknown_start_layer_is_named(start: Any) -> None:
    with pytest.raises(ValueError, match="start_layer must be"):
        jaxflow.rollout(attention_of("dense", 0, (3, 1, 2, 2)), start_layer=start)


@pytest.mark.parametrize(("depth", "mass"), [(6, 0.29), (12, 0.69), (24, 0.98)])
def test_a_causal_mask_collapses_rollout_onto_the_first_token(depth: int, mass: float) -> None:
    """A row mixes the rows below, so that the least mass on token 0 can only grow."""
    attention = attention_of("causal", 8, (depth, 4, 32, 32))
    column = jaxflow.rollout(attention)[:, :, 0]
    assert (np.diff(column.min(-1)) >= -1e-15).all()
    np.testing.assert_allclose(column[:, 0], 1, rtol=1e-14)
    assert column[-1, -1] == pytest.approx(mass, abs=0.05)
