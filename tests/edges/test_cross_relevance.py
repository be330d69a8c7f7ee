"""Relevance through encoder and decoder: the paper's rules as loops, and a BART of torch's."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch_models
from cross_oracles import SIZES, joint_flows, joint_rollout, random_trace, relevance
from hypothesis import given
from hypothesis import strategies as st

from jaxflow.edges import CrossTrace, Trace, aggregate, aggregate_cross, cross_relevance
from jaxflow.errors import InputError

KINDS = ("encoder", "decoder", "cross")
PADDED_SOURCE, PADDED_TARGET = 2, 1


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("size", SIZES)
def test_the_rules_are_those_of_loops(size, causal):
    for padded in ((0, 0), (min(1, size[3] - 1), min(2, size[4] - 1))):
        trace = random_trace(len(repr(size)), size, causal=causal, padded=padded)
        np.testing.assert_allclose(cross_relevance(trace), relevance(trace), rtol=1e-10)


@given(
    seed=st.integers(0, 2**32 - 1),
    size=st.sampled_from(SIZES),
    causal=st.booleans(),
    scale=st.sampled_from([1e-12, 1.0]),
)
def test_properties_of_relevance(seed, size, causal, scale):
    _, lower, _, m, n = size
    trace = random_trace(seed, size, causal=causal)
    gradients = {f"{name}_gradient": getattr(trace, f"{name}_gradient") for name in KINDS}
    trace = dataclasses.replace(trace, **{name: scale * each for name, each in gradients.items()})
    found = cross_relevance(trace)
    assert found.shape == (lower, n, m + n)
    assert (found >= 0).all()
    assert (np.diff(found, axis=0) >= 0).all()  # layers only ever add
    # What the decoder's own tokens count for is the sum of paths that self-attention has.
    own = Trace(trace.decoder, gradient=trace.decoder_gradient)
    with jax.enable_x64(True):
        paths = np.asarray(aggregate(own, "gradient", "paths"))
    np.testing.assert_allclose(found[..., m:], paths, rtol=1e-10)
    names = (*KINDS, *gradients)
    order = {name: getattr(trace, name)[..., ::-1, :, :] for name in names}
    again = cross_relevance(dataclasses.replace(trace, **order))
    np.testing.assert_allclose(again, found, rtol=1e-10)


def test_it_starts_at_the_identity_and_nothing_comes_from_a_source_nobody_looks_at():
    trace = random_trace(1, (2, 3, (2, 2, 2), 4, 3))
    still = {f"{name}_gradient": np.zeros_like(getattr(trace, name)) for name in KINDS}
    start = np.broadcast_to(np.concatenate([np.zeros((3, 4)), np.eye(3)], -1), (3, 3, 7))
    np.testing.assert_array_equal(cross_relevance(dataclasses.replace(trace, **still)), start)
    unmoved = dataclasses.replace(trace, cross_gradient=-abs(trace.cross_gradient))
    found = cross_relevance(unmoved)
    assert not found[..., :4].any()
    assert (found[..., 4:] >= start[..., 4:]).all()
    # With no other relevance, each target token is given what its own cross-attention moves.
    alone = dataclasses.replace(trace, **(still | {"cross_gradient": trace.cross_gradient}))
    moved = np.maximum(trace.cross * trace.cross_gradient, 0).mean(-3)
    np.testing.assert_allclose(cross_relevance(alone)[..., :4], np.cumsum(moved, 0), rtol=1e-12)


def test_gradients_lost_beside_one_still_have_shares():
    trace = random_trace(2, (2, 2, (2, 2, 2), 4, 3))
    tiny = {f"{name}_gradient": 1e-9 * getattr(trace, f"{name}_gradient") for name in KINDS}
    trace = dataclasses.replace(trace, **tiny)
    single = jax.tree.map(np.float32, trace)
    found = cross_relevance(single)
    assert found.dtype == np.float32
    # Shares of R - I do not depend on the gradients' size to first order, so the source's relevance
    # grows with them. The loops get gradients that float64 does not lose.
    larger = {name: 1e4 * gradient for name, gradient in tiny.items()}
    expected = 1e-4 * relevance(dataclasses.replace(trace, **larger))
    np.testing.assert_allclose(found[..., :4], expected[..., :4], rtol=1e-4)


def test_padding_and_neighbours_in_a_batch_change_nothing():
    trace = random_trace(3, (2, 3, (2, 2, 2), 5, 4), causal=True, padded=(2, 1), batch=(2,))
    found = cross_relevance(trace)
    columns = [0, 1, 2, 5, 6, 7]
    alone = {
        name: getattr(trace, name)[1][..., :query, :key]
        for kind, query, key in (("encoder", 3, 3), ("decoder", 3, 3), ("cross", 3, 3))
        for name in (kind, f"{kind}_gradient")
    }
    expected = np.zeros_like(found[1])
    expected[:, :3, columns] = cross_relevance(CrossTrace(**alone))
    np.testing.assert_allclose(found[1], expected, rtol=1e-12)
    np.testing.assert_array_equal(cross_relevance(trace, sources=[-2]), found[:, :, [2]])
    device = jax.tree.map(lambda leaf: jnp.asarray(np.nan_to_num(leaf)), trace)
    np.testing.assert_allclose(jax.jit(cross_relevance)(device), found, rtol=1e-4, atol=1e-6)


def test_a_token_without_relevance_takes_nothing_from_the_others():
    """Shares of nothing are nothing; dividing by it would take away all that the layer adds."""
    trace = random_trace(4, (1, 1, (2, 2, 2), 3, 3))
    gradient = abs(trace.decoder_gradient)
    whole = cross_relevance(dataclasses.replace(trace, decoder_gradient=gradient))
    gradient[..., 2, :] = 0
    found = cross_relevance(dataclasses.replace(trace, decoder_gradient=gradient))
    moved = np.maximum(trace.cross * trace.cross_gradient, 0).mean(-3)[0]
    assert found[0, 2, :3].sum() > 0
    lost = found[0, :, :3] - whole[0, :, :3]
    shares = (trace.decoder * abs(trace.decoder_gradient)).mean(-3)[0, 2]
    source = np.maximum(trace.encoder * trace.encoder_gradient, 0).mean(-3)[0]
    source = source / source.sum(-1, keepdims=True) + np.eye(3)
    np.testing.assert_allclose(
        lost, -(shares / shares.sum())[:, None] * (moved[2] @ source), atol=1e-12
    )


def test_what_is_missing_is_named():
    trace = random_trace(5, (1, 1, (1, 1, 1), 2, 2))
    with pytest.raises(
        InputError,
        match=r"^relevance through encoder and decoder needs the gradient with respect to the "
        r"encoder's attention and the gradient with respect to cross-attention, which this",
    ):
        cross_relevance(dataclasses.replace(trace, encoder_gradient=None, cross_gradient=None))
    with pytest.raises(InputError, match="needs cross-attention and the gradient with respect to"):
        cross_relevance(CrossTrace(trace.encoder, trace.decoder, None))


@functools.cache
def bart():
    """A tiny BART with random parameters, two sentence pairs, and the gradient of one logit each.

    The logits are read off the last real target token.
    """
    transformers = torch_models.library()
    import torch

    config = transformers.BartConfig(
        vocab_size=31,
        d_model=16,
        encoder_layers=2,
        decoder_layers=3,
        encoder_attention_heads=2,
        decoder_attention_heads=4,
        encoder_ffn_dim=24,
        decoder_ffn_dim=24,
        max_position_embeddings=16,
        attn_implementation="eager",
    )
    generator = torch.Generator().manual_seed(0)
    with torch_models.quietly():
        model = transformers.BartForConditionalGeneration(config).eval()
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                drawn = torch.randn(parameter.shape, generator=generator)
                is_scale = parameter.ndim == 1 and name.endswith("weight")
                parameter.copy_(1 + 0.2 * drawn if is_scale else 0.3 * drawn)
        source = torch.tensor([[0, 5, 9, 4, 7, 2], [0, 11, 13, 2, 1, 1]])
        target = torch.tensor([[2, 0, 8, 21], [2, 0, 17, 1]])
        found = model(
            input_ids=source,
            attention_mask=(source != 1).long(),
            decoder_input_ids=target,
            decoder_attention_mask=(target != 1).long(),
            output_attentions=True,
        )
        kinds = found.encoder_attentions, found.decoder_attentions, found.cross_attentions
        for layer in (layer for kind in kinds for layer in kind):
            layer.retain_grad()
        (found.logits[0, 3, 6] + found.logits[1, 2, 6]).backward()
    attention = [np.stack([layer.detach().numpy() for layer in kind], 1) for kind in kinds]
    gradient = [np.stack([layer.grad.numpy() for layer in kind], 1) for kind in kinds]
    return CrossTrace(*attention, source.numpy() != 1, target.numpy() != 1, *gradient)


def test_a_bart_is_followed_through_its_graph():
    trace = bart()
    assert np.shape(trace.encoder) == (2, 2, 2, 6, 6)
    assert np.shape(trace.decoder) == (2, 3, 4, 4, 4)
    assert np.shape(trace.cross) == (2, 3, 4, 4, 6)
    flows = aggregate_cross(trace, how="flow")
    rolled = aggregate_cross(trace)
    for pair in range(2):
        one = jax.tree.map(lambda leaf, pair=pair: leaf[pair], trace)
        # Rows of float32 sum to 1 up to its rounding; ours are made to.
        np.testing.assert_allclose(flows[pair], joint_flows(one), rtol=0, atol=1e-6)
        np.testing.assert_allclose(rolled[pair], joint_rollout(one), rtol=0, atol=1e-6)
    assert not flows[1, :, :, 4:6].any()
    assert not flows[1, :, 3].any()
    assert (flows[0, -1, -1, :6] > 0).all()


def test_relevance_of_a_barts_output():
    trace = bart()
    found = cross_relevance(trace)
    for pair, last in ((0, 3), (1, 2)):
        one = jax.tree.map(lambda leaf, pair=pair: leaf[pair], trace)
        np.testing.assert_allclose(found[pair], relevance(one), rtol=2e-4, atol=1e-6)
        assert found[pair, -1, last, :4].any()
        # Nothing later than the explained token has a gradient, and padding has no relevance.
        np.testing.assert_array_equal(found[pair, -1, last + 1 :, :6], 0)
    assert not found[1, ..., 4:6].any()
    weighed = aggregate_cross(trace, "gradient")
    np.testing.assert_allclose(weighed[0].sum(-1), 1, atol=1e-5)
