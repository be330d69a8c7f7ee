"""Attention's gradients and relevances: the authors' numbers, and the rules written as loops."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden_models import golden, traced
from tiny_models import tiny
from traces import model, tokens
from traces import traced as small

from jaxflow.edges import aggregate, weigh
from jaxflow.errors import InputError
from jaxflow.models import Model, trace
from jaxflow.models.relevance import _linear, _product, _sum, attention_relevance

RNG = np.random.default_rng(2)


@pytest.mark.parametrize("name", ["bert", "vit"])
def test_the_authors_programs_give_the_same_gradients_and_relevances(name):
    found, numbers = traced(name), golden(name)
    real = np.broadcast_to(
        (found.mask[:, :, None] & found.mask[:, None, :])[:, None, None], found.attention.shape
    )
    np.testing.assert_allclose(found.attention[real], numbers["attention"][real], atol=1e-12)
    np.testing.assert_allclose(  # ours are taken at offsets of single precision
        found.gradient[real], numbers["attention_gradient"][real], rtol=1e-5, atol=1e-7
    )
    size = np.abs(numbers["relevance"]).max()
    np.testing.assert_allclose(
        found.relevance[real], numbers["relevance"][real], rtol=1e-6, atol=1e-9 * size
    )


@pytest.mark.parametrize(("name", "how"), [("bert", "rollout"), ("vit", "paths")])
def test_the_authors_programs_give_the_same_attributions(name, how):
    """Their program for BERT divides rows by their sum, that for ViT does not."""
    found, numbers = traced(name), golden(name)
    combined = np.asarray(aggregate(found, "transformer-attribution", how))[:, -1]
    real = found.mask[:, :, None] & found.mask[:, None, :]
    np.testing.assert_allclose(combined[real], numbers["attribution/rollout"][real], atol=2e-6)


def test_the_authors_rules_of_the_second_paper_are_the_sum_of_paths():
    found, numbers = traced("bert"), golden("bert")
    real = found.mask[:, :, None] & found.mask[:, None, :]
    edges = np.asarray(weigh(found, "gradient"))
    for layer in range(3):
        np.testing.assert_allclose(
            edges[:, layer][real], numbers["generic/weighted"][:, layer][real], atol=1e-6
        )
    paths = np.asarray(aggregate(found, "gradient", "paths"))[:, -1]
    np.testing.assert_allclose(paths[real], numbers["generic/relevance"][real], atol=2e-6)


@pytest.mark.parametrize("kind", ["pre", "post", "causal"])
def test_weights_are_those_of_loops(kind):
    found = small(kind)
    attention, gradient, relevance = (
        np.asarray(part, np.float64) for part in (found.attention, found.gradient, found.relevance)
    )
    batch, layers, heads, n, _ = attention.shape
    plain, signed = np.zeros((batch, layers, n, n)), np.zeros((batch, layers, n, n))
    attributed = np.zeros((batch, layers, n, n))
    for place in np.ndindex(batch, layers, n, n):
        b, layer, i, j = place
        if not (found.mask[b, i] and found.mask[b, j]):
            continue
        for head in range(heads):
            moved = gradient[b, layer, head, i, j] * attention[b, layer, head, i, j]
            plain[place] += max(moved, 0) / heads
            signed[place] += moved / heads
            brought = gradient[b, layer, head, i, j] * relevance[b, layer, head, i, j]
            attributed[place] += max(brought, 0) / heads
        attributed[place] += i == j
    np.testing.assert_allclose(weigh(found, "gradient"), plain, atol=1e-6)
    np.testing.assert_allclose(weigh(found, "gradient-signed"), signed, atol=1e-6)
    np.testing.assert_allclose(weigh(found, "transformer-attribution"), attributed, atol=1e-6)


def test_the_linear_rule_is_that_of_loops():
    values, kernel = RNG.normal(size=(3, 4)), RNG.normal(size=(4, 5))
    given = RNG.normal(size=(3, 5))
    expected = np.zeros((3, 4))
    for row in range(3):
        for i in range(5):
            parts = [max(values[row, j] * kernel[j, i], 0) for j in range(4)]
            for j in range(4):
                expected[row, j] += parts[j] / (sum(parts) + 1e-9) * given[row, i]
    with jax.enable_x64(True):
        found = _linear(*map(jnp.asarray, (values, kernel, given)))
    np.testing.assert_allclose(found, expected, rtol=1e-9)
    # Nothing is lost where each output has a positive contribution.
    with jax.enable_x64(True):
        kept = _linear(jnp.asarray(abs(values)), jnp.asarray(abs(kernel)), jnp.asarray(given))
    np.testing.assert_allclose(np.asarray(kept).sum(-1), given.sum(-1), rtol=1e-6)


def test_the_rule_of_products_is_that_of_loops():
    left, right = RNG.normal(size=(3, 4)), RNG.normal(size=(4, 5))
    given = RNG.normal(size=(3, 5))
    of_left, of_right = np.zeros((3, 4)), np.zeros((4, 5))
    whole = left @ right
    for i, k, j in np.ndindex(3, 4, 5):
        part = left[i, k] * right[k, j] / (whole[i, j] + 1e-9) * given[i, j] / 2
        of_left[i, k] += part
        of_right[k, j] += part
    with jax.enable_x64(True):
        found = _product(*map(jnp.asarray, (left, right, whole, given)))
    np.testing.assert_allclose(found[0], of_left, rtol=1e-8, atol=1e-12)
    np.testing.assert_allclose(found[1], of_right, rtol=1e-8, atol=1e-12)


def test_sums_hand_on_what_came_in_by_absolute_shares_of_each_sentence():
    left, right = RNG.normal(size=(2, 3, 4)), RNG.normal(size=(2, 3, 4))
    given = RNG.normal(size=(2, 3, 4))
    with jax.enable_x64(True):
        found = [np.asarray(part) for part in _sum(*map(jnp.asarray, (left, right, given)))]
    for row in range(2):
        shares = [part[row] * given[row] / (left[row] + right[row]) for part in (left, right)]
        sums = [abs(share.sum()) for share in shares]
        for part, share, size in zip(found, shares, sums, strict=True):
            wanted = size / sum(sums) * given[row].sum()
            np.testing.assert_allclose(part[row], share * wanted / share.sum(), rtol=1e-5)
    total = found[0].sum((-2, -1)) + found[1].sum((-2, -1))
    np.testing.assert_allclose(total, given.sum((-2, -1)), rtol=1e-5)


@pytest.mark.parametrize("kind", ["pre", "post", "causal"])
def test_sentences_do_not_meet_and_padding_changes_nothing(kind):
    found, one, ids = small(kind), model(kind), tokens(kind)
    real = int((ids[1] != 0).sum())
    alone = trace(one, ids[1:, :real])
    for name in ("gradient", "gradient-signed", "transformer-attribution"):
        edges = np.asarray(weigh(found, name))[1, :, :real, :real]
        np.testing.assert_allclose(weigh(alone, name)[0], edges, rtol=2e-3, atol=2e-6)
    padded = ~np.asarray(found.mask[1])
    assert not np.asarray(found.relevance)[1, ..., padded].any()
    assert not np.asarray(found.relevance)[1, ..., padded, :].any()


def test_one_layer_and_one_token_are_enough():
    ids = np.array([[2]], np.int32)
    found = trace(tiny(layers=1), ids)
    assert np.isfinite(found.relevance).all()
    edges = np.asarray(weigh(found, "transformer-attribution"))
    assert edges.shape == (1, 1, 1, 1)
    assert (edges >= 1).all()
    for how in ("paths", "product"):
        np.testing.assert_array_equal(aggregate(found, "transformer-attribution", how), edges)


def test_without_positions_the_order_of_tokens_does_not_matter():
    one, ids = model("pre"), tokens("pre")[:1]
    parts = {**one.params["params"]}
    parts["position"] = np.zeros_like(parts["position"])
    still = Model(one.config, {"params": parts}, one.tokenizer)
    order = np.array([0, 3, 5, 1, 4, 2])  # a class is read off the first token
    found, moved = trace(still, ids), trace(still, ids[:, order])
    for name in ("gradient", "gradient-signed", "transformer-attribution"):
        expected = np.asarray(weigh(found, name))[..., order, :][..., order]
        np.testing.assert_allclose(weigh(moved, name), expected, rtol=2e-3, atol=2e-6)


def test_without_classes_there_is_no_relevance():
    one = model("pre")
    output = one(tokens("pre"))
    found = trace(model("causal"), tokens("causal"))
    assert found.relevance is not None
    masked = tiny(head="masked-lm")
    bare = trace(masked, tokens("post"), target=lambda logits: logits[:, 1, 7])
    assert bare.gradient is not None
    with pytest.raises(InputError, match="transformer-attribution needs relevances of attention"):
        weigh(bare, "transformer-attribution")
    with pytest.raises(InputError, match="relevance must start at classes read off one token"):
        attention_relevance(masked.config, masked.params, output, bare.mask, jnp.ones((2, 3)))
