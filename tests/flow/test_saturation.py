"""Saturation against what its definition says about the flow table."""

from __future__ import annotations

import numpy as np
import pytest
from flow_graphs import KINDS, attention_of, attentions, pad, softmax
from hypothesis import given, settings
from hypothesis import strategies as st

import jaxflow
from jaxflow.attention import edge_weights


def test_definition_on_every_kind():
    rng = np.random.default_rng(0)
    batch = np.stack([attention_of(kind, rng, 5, 2, 6) for kind in sorted(KINDS)])
    result = jaxflow.saturation(batch)
    table = jaxflow.flow(batch)
    bound = np.minimum(1, edge_weights(batch)[:, 0].sum(-2))
    np.testing.assert_allclose(result.bound, bound, rtol=0, atol=1e-15)
    reached = table >= bound[:, None, None] - 1e-9
    assert (result.reached == reached).all()
    np.testing.assert_allclose(result.share, reached.mean((-2, -1)), rtol=0, atol=1e-15)


def test_identity_never_reaches_but_its_own_column():
    result = jaxflow.saturation(np.broadcast_to(np.eye(4), (5, 1, 4, 4)))
    assert (result.reached == np.eye(4, dtype=bool)).all()
    assert (result.share == 0.25).all()


def test_even_attention_saturates_with_depth():
    attention = softmax(np.random.default_rng(0).normal(size=(7, 4, 6, 6)))
    share = jaxflow.saturation(attention).share
    assert share[0] == 0
    assert share[-1] == 1


def test_rows_in_float32_do_not_hide_it():
    attention = attention_of("dense", np.random.default_rng(0), 7, 2, 6)
    exact, narrow = jaxflow.saturation(attention), jaxflow.saturation(attention.astype(np.float32))
    assert (exact.reached == narrow.reached).all()


def test_padding_counts_nowhere():
    attention = attention_of("peaky", np.random.default_rng(6), 4, 2, 5)
    wide, mask = pad(attention, 4)
    alone, padded = jaxflow.saturation(attention), jaxflow.saturation(wide, mask=mask)
    assert (padded.bound[5:] == 0).all()
    assert not padded.reached[:, 5:].any()
    assert not padded.reached[..., 5:].any()
    assert (padded.reached[:, :5, :5] == alone.reached).all()
    np.testing.assert_allclose(padded.share, alone.share, rtol=0, atol=1e-15)


def test_sources_and_layers_choose():
    attention = attention_of("peaky", np.random.default_rng(7), 5, 2, 6)
    full = jaxflow.saturation(attention)
    some = jaxflow.saturation(attention, sources=0, layers=[-1, 1])
    assert (some.reached == full.reached[[4, 1]][:, :1]).all()
    np.testing.assert_allclose(some.share, some.reached.mean((-2, -1)), rtol=0, atol=1e-15)


def lowest_lasting(holds):
    """The onset as a loop: from the top down as long as it holds; `holds` is [L]."""
    layer = len(holds)
    while layer > 0 and holds[layer - 1]:
        layer -= 1
    return layer


@settings(max_examples=60)
@given(attentions())
def test_onset_is_the_layer_from_which_all_sources_agree(attention):
    result, table = jaxflow.saturation(attention), jaxflow.flow(attention)
    full = result.reached.all(1)
    # Absorption: there is no way back, so the first layer is the one from which it lasts.
    assert (full[1:] >= full[:-1]).all()
    assert result.sink_onset.tolist() == [lowest_lasting(column) for column in full.T]
    assert result.onset == result.sink_onset.max() == lowest_lasting(full.all(-1))
    for sink, layer in enumerate(result.sink_onset):
        np.testing.assert_allclose(table[layer:, :, sink], result.bound[sink], rtol=0, atol=2e-9)
        if layer > 0:
            assert table[layer - 1, :, sink].min() < result.bound[sink] - 1e-9


@settings(max_examples=60)
@given(attentions(), st.data())
def test_onset_of_some_sources_and_layers(attention, data):
    layers, n = len(attention), attention.shape[-1]
    some = data.draw(st.lists(st.integers(0, n - 1), min_size=1, max_size=3))
    levels = data.draw(st.lists(st.integers(0, layers - 1), min_size=1, max_size=4))
    full = jaxflow.saturation(attention)
    result = jaxflow.saturation(attention, sources=some, layers=levels)
    chosen = sorted(set(levels))
    for sink in range(n):
        place = lowest_lasting(full.reached[chosen][:, some, sink].all(-1))
        assert result.sink_onset[sink] == [*chosen, layers][place]
    assert result.onset == result.sink_onset.max()
    everyone = jaxflow.saturation(attention, layers=levels)
    assert everyone.onset == min((x for x in chosen if x >= full.onset), default=layers)
    assert everyone.onset >= result.onset


def test_onset_on_known_graphs():
    def onset(*stack, **options):
        attention = np.stack(stack)[:, None]
        result = jaxflow.saturation(attention, residual=0.0, **options)
        return int(result.onset), result.sink_onset.tolist()

    eye, swap, even = np.eye(2), np.eye(2)[::-1], np.full((2, 2), 0.5)
    # A token alone has one path, on its bound at once.
    assert onset(np.ones((1, 1)), np.ones((1, 1))) == (0, [0])
    # One path for each pair or none, at every depth.
    assert onset(eye, swap, eye) == (3, [3, 3])
    # Even rows: ½ at the lowest layer, ½ + ½ as soon as there is another.
    assert onset(even, even, even) == (1, [1, 1])
    # Straight paths, then even rows: one layer of them sends ½ to either token, where the bound
    # is 1, and a second one gathers both halves. Whatever comes on top changes nothing.
    assert onset(eye, even) == (2, [2, 2])
    assert onset(eye, even, even) == (2, [2, 2])
    assert onset(eye, even, even, swap, eye) == (2, [2, 2])
    # The lowest layer takes everything from token 0: it is on its bound at once, and 1, which
    # nobody attends to, on its bound of nothing.
    assert onset(eye[[0, 0]], eye, swap) == (0, [0, 0])


def test_one_source_may_leave_the_bound_again():
    # Flow from token 0 to token 0 is 1, its bound, below; the layer above halves it.
    attention = np.stack([np.eye(2), [[0.5, 0.5], [0, 1]], np.eye(2)])[:, None]
    options = {"residual": 0.0, "sources": 0}
    result = jaxflow.saturation(attention, **options)
    assert result.reached[:, 0].tolist() == [[True, False], [False, False], [False, False]]
    assert result.sink_onset.tolist() == [3, 3]
    # Asked about the lowest layer alone it cannot know.
    assert jaxflow.saturation(attention, layers=0, **options).sink_onset.tolist() == [0, 3]


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_padding_moves_no_onset(kind):
    attention = attention_of(kind, np.random.default_rng(11), 6, 2, 5)
    wide, mask = pad(attention, 2)
    alone, padded = jaxflow.saturation(attention), jaxflow.saturation(wide, mask=mask)
    assert padded.onset == alone.onset
    assert padded.sink_onset.tolist() == [*alone.sink_onset.tolist(), 6, 6]
    # A padded source has no say, and without a real one there is nothing to say.
    assert jaxflow.saturation(wide, mask=mask, sources=[5, 0]).onset == (
        jaxflow.saturation(attention, sources=0).onset
    )
    nobody = jaxflow.saturation(wide, mask=mask, sources=[6])
    assert nobody.onset == 6
    assert (nobody.sink_onset == 6).all()


def test_onset_of_a_batch():
    rng = np.random.default_rng(3)
    batch = np.stack([attention_of(kind, rng, 6, 2, 5) for kind in sorted(KINDS)])
    result = jaxflow.saturation(batch.reshape(2, -1, 6, 2, 5, 5))
    alone = [jaxflow.saturation(attention) for attention in batch]
    assert result.onset.ravel().tolist() == [int(one.onset) for one in alone]
    assert result.onset.shape == (2, len(KINDS) // 2)
    assert (result.sink_onset.reshape(-1, 5) == [one.sink_onset for one in alone]).all()
