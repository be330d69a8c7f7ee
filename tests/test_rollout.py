"""Test rollout, of all heads and of single ones, against loops and by invariances."""

import functools
from pathlib import Path

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
    pad_end,
    paddings,
    residuals,
    unpad,
)
from hypothesis import given
from hypothesis import strategies as st

import jaxflow

GOLDEN = Path(__file__).parent / "golden"
METHODS = {"rollout": jaxflow.rollout, "head_rollout": jaxflow.head_rollout}
methods = st.sampled_from(sorted(METHODS))


def tolerance(attention):
    return 1e-6 if attention.dtype == np.float32 else 1e-14


@given(attention=attentions(), heads=heads_options, residual=residuals, data=st.data())
def test_against_loops(attention, heads, residual, data):
    start = data.draw(st.integers(0, len(attention) - 1))
    result = jaxflow.rollout(attention, residual=residual, heads=heads, start_layer=start)
    expected = oracles.rollout(attention, residual, heads, start)
    np.testing.assert_allclose(result, expected, atol=tolerance(attention))
    result = jaxflow.head_rollout(attention, residual=residual)
    expected = oracles.head_rollout(attention, residual)
    np.testing.assert_allclose(result, expected, atol=tolerance(attention))


@pytest.mark.parametrize("dtype", DTYPES)
def test_against_golden_values(dtype):
    """`golden/make_rollout.py` says how the file was made."""
    golden = np.load(GOLDEN / "rollout.npz")
    attention, mask = golden["attention"].astype(dtype), golden["mask"]
    for name, function in ({"raw": jaxflow.raw_attention} | METHODS).items():
        found = function(attention, mask=mask)
        np.testing.assert_allclose(found, golden[name], atol=tolerance(attention))


def test_by_hand():
    first, second = [[1.0, 0.0], [0.5, 0.5]], [[0.0, 1.0], [1.0, 0.0]]
    attention = np.array([[first], [second]])
    # A[1] = [[1, 0], [1/4, 3/4]] and A[2] = [[1/2, 1/2], [1/2, 1/2]].
    expected = [[[1, 0], [1 / 4, 3 / 4]], [[5 / 8, 3 / 8], [5 / 8, 3 / 8]]]
    np.testing.assert_allclose(jaxflow.rollout(attention), expected, rtol=1e-15)


@pytest.mark.parametrize("heads", ["mean", "max", 3])
def test_more_layers_and_heads_than_are_written_out(heads):
    attention = attention_of("dense", 5, (13, 8, 40, 40))
    found = jaxflow.rollout(attention, heads=heads, residual=0.3)
    np.testing.assert_allclose(found, oracles.rollout(attention, 0.3, heads), atol=1e-14)


@given(
    attention=attentions(dtypes=(np.float32,), batch=(2,)),
    junk=junk_values,
    heads=st.sampled_from(["mean", "max", 0]),
    data=st.data(),
)
def test_padding_changes_nothing(attention, junk, heads, data):
    layers, n = attention.shape[1], attention.shape[-1]
    places, start = data.draw(paddings(n)), data.draw(st.sampled_from([0, layers - 1]))
    padded, mask = pad(attention, places, n + 2, junk)
    options = {"heads": heads, "start_layer": start}
    result = jaxflow.rollout(padded, mask=mask, **options)
    expected = jaxflow.rollout(attention, **options)
    np.testing.assert_allclose(unpad(result, places), expected, atol=1e-6)
    result = unpad(jaxflow.head_rollout(padded, mask=mask), places)
    np.testing.assert_allclose(result, jaxflow.head_rollout(attention), atol=1e-6)


def test_each_sentence_of_a_batch_has_its_own_padding():
    short, long = attention_of("dense", 1, (3, 2, 4, 4)), attention_of("dense", 2, (3, 2, 6, 6))
    padded, mask = pad_end(short, 2)
    batch, masks = np.stack([padded, long]), np.stack([mask, np.ones(6, bool)])
    for method in METHODS.values():
        result = method(batch, mask=masks)
        np.testing.assert_allclose(unpad(result[0], np.arange(4)), method(short), atol=1e-14)
        np.testing.assert_allclose(result[1], method(long), atol=1e-14)


@given(attention=attentions(batch=(2, 3)), seed=st.integers(0, 99), method=methods)
def test_order_of_tokens_and_heads_and_batching_do_not_matter(attention, seed, method):
    rng, function = np.random.default_rng(seed), METHODS[method]
    tokens, heads = rng.permutation(attention.shape[-1]), rng.permutation(attention.shape[-3])
    result = function(attention)
    for place in np.ndindex(2, 3):
        np.testing.assert_allclose(result[place], function(attention[place]), atol=1e-6)
    renamed = attention[..., heads, :, :][..., tokens[:, None], tokens]
    expected = result[..., tokens[:, None], tokens]
    if method == "head_rollout":
        expected = expected[..., heads, :, :]
    np.testing.assert_allclose(function(renamed), expected, atol=1e-6)


@pytest.mark.parametrize("method", METHODS.values())
def test_vmap_and_jit_change_nothing(method):
    device = jnp.asarray(attention_of("dense", 9, (3, 3, 2, 4, 4)), jnp.float32)
    expected = method(device)
    np.testing.assert_allclose(jax.jit(method)(device), expected, atol=1e-6)
    masked = jax.jit(jax.vmap(lambda attention, mask: method(attention, mask=mask)))
    np.testing.assert_allclose(masked(device, jnp.ones((3, 4), bool)), expected, atol=1e-6)


@pytest.mark.parametrize("heads", ["mean", "max", 1, "single"])
def test_gradient_against_finite_differences(heads):
    attention = attention_of("dense", 3, (3, 2, 4, 4))
    weights = np.random.default_rng(4).normal(size=(3, 2, 4, 4))

    def score(module, values, share):
        if heads == "single":
            return (module.head_rollout(values, residual=share) * weights).sum()
        return (module.rollout(values, residual=share, heads=heads) * weights[:, 0]).sum()

    with jax.enable_x64(True):
        score_of = functools.partial(score, jaxflow)
        found = jax.grad(score_of, argnums=(0, 1))(jnp.asarray(attention), 0.3)
    expected = oracles.finite_differences(lambda given: score(oracles, given, 0.3), attention)
    np.testing.assert_allclose(found[0], expected, atol=1e-9)
    expected = oracles.finite_differences(
        lambda share: score(oracles, attention, float(share)), np.array(0.3)
    )
    np.testing.assert_allclose(found[1], expected, atol=1e-9)


def test_padded_tokens_get_no_gradient():
    attention, mask = pad_end(attention_of("dense", 7, (2, 2, 3, 3)), 2)
    device = jnp.asarray(attention, jnp.float32)
    gradient = jax.grad(lambda values: (jaxflow.rollout(values, mask=mask) ** 2).sum())(device)
    assert float(jnp.abs(unpad(np.asarray(gradient), np.arange(3))).min()) > 0


@pytest.mark.parametrize("start", [-1, 3, 1.5, True, None, "first"])
def test_unknown_start_layer_is_named(start):
    with pytest.raises(ValueError, match="start_layer must be"):
        jaxflow.rollout(attention_of("dense", 0, (3, 1, 2, 2)), start_layer=start)
