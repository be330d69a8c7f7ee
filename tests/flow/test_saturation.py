"""Test saturation against its definition on the flow table, and flow of single heads."""

import networkx
import numpy as np
import pytest
from attentions import FLOW_KINDS, attention_of, flow_attentions, pad_end
from hypothesis import given, settings
from hypothesis import strategies as st

import jaxflow
from jaxflow.attention import edge_weights


def lowest_lasting(holds):
    """The onset as a loop: from the top down as long as it holds; `holds` is [L]."""
    layer = len(holds)
    while layer > 0 and holds[layer - 1]:
        layer -= 1
    return layer


@settings(max_examples=60)
@given(flow_attentions(), st.data())
def test_definition(attention, data):
    result, table = jaxflow.saturation(attention), jaxflow.flow(attention)
    layers, n = len(attention), attention.shape[-1]
    bound = np.minimum(1, edge_weights(attention)[0].sum(-2))
    np.testing.assert_allclose(result.bound, bound, rtol=0, atol=1e-15)
    assert (result.reached == (table >= bound - 1e-9)).all()
    np.testing.assert_allclose(result.share, result.reached.mean((-2, -1)), rtol=0, atol=1e-15)
    full = result.reached.all(1)
    assert result.sink_onset.tolist() == [lowest_lasting(column) for column in full.T]
    assert result.onset == result.sink_onset.max() == lowest_lasting(full.all(-1))

    some = data.draw(st.lists(st.integers(0, n - 1), min_size=1, max_size=3))
    levels = data.draw(st.lists(st.integers(0, layers - 1), min_size=1, max_size=4))
    part = jaxflow.saturation(attention, sources=some, layers=levels)
    assert (part.reached == result.reached[levels][:, some]).all()
    chosen = sorted(set(levels))
    for sink in range(n):
        place = lowest_lasting(result.reached[chosen][:, some, sink].all(-1))
        assert part.sink_onset[sink] == [*chosen, layers][place]
    assert part.onset == part.sink_onset.max()


def test_onset_on_known_graphs():
    def onset(*stack, **options):
        attention = np.stack(stack)[:, None]
        result = jaxflow.saturation(attention, residual=0.0, **options)
        return int(result.onset), result.sink_onset.tolist()

    eye, swap, even = np.eye(2), np.eye(2)[::-1], np.full((2, 2), 0.5)
    # One path for each pair or none, at every depth.
    assert onset(eye, swap, eye) == (3, [3, 3])
    # Even rows: ½ at the lowest layer, ½ + ½ as soon as there is another.
    assert onset(even, even, even) == (1, [1, 1])
    # Straight paths, then even rows: one layer of them sends ½ to either token, where the bound
    # is 1, and a second one gathers both halves. Whatever comes on top changes nothing.
    assert onset(eye, even) == (2, [2, 2])
    assert onset(eye, even, even, swap, eye) == (2, [2, 2])
    # The lowest layer takes everything from token 0: it is on its bound at once, and 1, which
    # nobody attends to, on its bound of nothing.
    assert onset(eye[[0, 0]], eye, swap) == (0, [0, 0])
    # Flow from token 0 to token 0 is 1, its bound, at first; the layer above halves it.
    leaving = eye, np.array([[0.5, 0.5], [0, 1]]), eye
    assert onset(*leaving, sources=0) == (3, [3, 3])


def test_single_precision_does_not_hide_it():
    attention = attention_of("dense", 0, (7, 2, 6, 6))
    exact, narrow = jaxflow.saturation(attention), jaxflow.saturation(attention.astype(np.float32))
    assert exact.share[0] == 0
    assert exact.share[-1] == 1
    assert (exact.reached == narrow.reached).all()


def test_batches_and_padding():
    batch = np.stack([attention_of(kind, 3, (6, 2, 5, 5)) for kind in FLOW_KINDS])
    alone = [jaxflow.saturation(attention) for attention in batch]
    wide, mask = pad_end(batch, 2)
    padded = jaxflow.saturation(wide, mask=mask)
    assert not padded.bound[:, 5:].any()
    assert not padded.reached[..., 5:, :].any()
    assert not padded.reached[..., 5:].any()
    assert (padded.reached[..., :5, :5] == [one.reached for one in alone]).all()
    np.testing.assert_allclose(padded.share, [one.share for one in alone], rtol=0, atol=1e-15)
    assert padded.onset.tolist() == [int(one.onset) for one in alone]
    assert (padded.sink_onset[:, :5] == [one.sink_onset for one in alone]).all()
    assert (padded.sink_onset[:, 5:] == 6).all()
    # A padded source does not count, and without a real one there is no onset.
    some = jaxflow.saturation(wide[0], mask=mask[0], sources=[5, 0]).onset
    assert some == jaxflow.saturation(batch[0], sources=0).onset
    assert jaxflow.saturation(wide[0], mask=mask[0], sources=[6]).onset == 6


@pytest.mark.parametrize("residual", [0.0, 0.4])
def test_head_flow_is_that_of_networkx(residual):
    """On the graph of appendix A.1, built by hand."""
    weights = attention_of("dense", 5, (3, 2, 4, 4))
    found = jaxflow.head_flow(weights, residual=residual)
    assert found.shape == (3, 2, 4, 4)
    for layer, head, source, sink in np.ndindex(found.shape):
        graph = networkx.DiGraph()
        for level, query, key in np.ndindex(layer + 1, 4, 4):
            edges = weights[level, head] if level == layer else weights[level].mean(0)
            capacity = (1 - residual) * edges[query, key] + residual * (query == key)
            graph.add_edge((level + 1, query), (level, key), capacity=capacity)
        value = networkx.maximum_flow_value(graph, (layer + 1, source), (0, sink))
        assert found[layer, head, source, sink] == pytest.approx(value, abs=1e-9)


def test_head_flow_padding_choices_and_one_head():
    weights = attention_of("dense", 6, (2, 3, 2, 4, 4))
    wide, mask = pad_end(weights, 2)
    whole, alone = jaxflow.head_flow(wide, mask=mask), jaxflow.head_flow(weights)
    np.testing.assert_allclose(whole[..., :4, :4], alone, atol=1e-12)
    assert not whole[..., 4:].any()
    some = jaxflow.head_flow(wide, mask=mask, sources=[2, 0], layers=-1)
    np.testing.assert_array_equal(some, whole[:, -1:][..., [2, 0], :])
    one = weights[:, :, :1]
    np.testing.assert_allclose(jaxflow.head_flow(one)[:, :, 0], jaxflow.flow(one), atol=1e-12)
    # What rollout sends is one flow among all; the maximum is no less.
    assert (alone >= jaxflow.head_rollout(weights) - 1e-12).all()
