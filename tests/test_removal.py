"""Test removal of tokens against one call a token of an order-dependent model."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from session import refused

import jaxflow
from jaxflow.removal import remove, remove_out

PAD, UNK, MASK = 0, 2, 3
TABLE = np.random.default_rng(0).normal(size=(12, 3))
PLACE = np.linspace(1, 2, 8)
TOKENS = np.array([[4, 5, 6, 7, 8], [9, 3, 11, 0, 0]])
REAL = TOKENS != PAD


def plain(sentence, seen):
    """Probabilities of one sentence given as a list, and which of its tokens are attended to."""
    votes = sum(
        (TABLE[token] * PLACE[place] for place, token in enumerate(sentence) if seen[place]),
        start=np.zeros(3),
    )
    weights = np.exp(votes)
    return weights / weights.sum()


@jax.jit
def predict(tokens, mask):
    table, place = jnp.asarray(TABLE, jnp.float32), jnp.asarray(PLACE[: tokens.shape[-1]])
    votes = jnp.einsum("bnc,bn,n->bc", table[tokens], mask.astype(jnp.float32), place)
    return jax.nn.softmax(votes)


def by_loops(how, token_id, label=None):
    found = np.zeros(TOKENS.shape)
    for row, place in np.argwhere(REAL):
        sentence = TOKENS[row][REAL[row]].tolist()
        seen = [True] * len(sentence)
        whole = plain(sentence, seen)
        chosen = whole.argmax() if label is None else label[row]
        if how == "token":
            sentence[place] = token_id
        elif how == "deletion":
            del sentence[place]
        else:
            seen[place] = False
        found[row, place] = abs(whole[chosen] - plain(sentence, seen)[chosen])
    return found


@pytest.mark.parametrize("label", [None, np.array([0, 2])])
@pytest.mark.parametrize(
    ("how", "token_id"), [("token", MASK), ("deletion", PAD), ("attention", None)]
)
def test_against_one_call_a_token(how, token_id, label):
    found = remove_out(predict, TOKENS, how, token_id=token_id, label=label, mask=REAL)
    assert isinstance(found, jax.Array)
    np.testing.assert_allclose(found, by_loops(how, token_id, label), atol=1e-6)
    assert not np.asarray(found)[~REAL].any()
    if how == "token":
        assert float(found[1, 1]) == 0  # it is the mask token already
    again = jax.jit(lambda ids: remove_out(predict, ids, how, token_id=token_id, mask=REAL))
    np.testing.assert_allclose(again(TOKENS), by_loops(how, token_id), atol=1e-6)


def test_blank_out_replaces_by_the_unknown_word():
    def whole(rows):
        return predict(rows, jnp.asarray(rows != PAD))

    label = np.array([1, 2])
    found = jaxflow.blank_out(whole, TOKENS, UNK, label=label, mask=REAL)
    np.testing.assert_allclose(found, by_loops("token", UNK, label), atol=1e-6)
    mapped = jax.vmap(lambda ids, gold: jaxflow.blank_out(whole, ids, UNK, label=gold))(
        jnp.asarray(TOKENS[:1]), jnp.asarray(label[:1])
    )
    np.testing.assert_allclose(mapped, found[:1], atol=1e-6)


def test_a_token_that_stays_scores_exactly_zero_however_the_model_rounds():
    def uneven(tokens):  # rounds by the size of the batch, as compiled models may
        share = jnp.full(len(tokens), 0.5 + 1e-6 * len(tokens))
        return jnp.stack([share, 1 - share], -1)

    scores = jaxflow.blank_out(uneven, np.array([[1, 2, 5]]), 2)
    assert float(scores[0, 1]) == 0
    assert float(scores[0, 0]) > 0


def test_any_tokens_can_be_removed_at_once():
    gone = np.array([[True, False, True, False, False], [False, True, False, True, False]])
    ids, mask = remove(TOKENS, gone, "deletion", token_id=PAD, mask=REAL)
    np.testing.assert_array_equal(ids, [[5, 7, 8, 0, 0], [9, 11, 0, 0, 0]])
    np.testing.assert_array_equal(mask, np.asarray(ids) != PAD)
    ids, mask = remove(TOKENS, gone, "token", token_id=MASK, mask=REAL)
    np.testing.assert_array_equal(ids, [[3, 5, 3, 7, 8], [9, 3, 11, 0, 0]])
    np.testing.assert_array_equal(mask, REAL)
    ids, mask = remove(TOKENS, gone, "attention", mask=REAL)
    np.testing.assert_array_equal(ids, TOKENS)
    np.testing.assert_array_equal(mask, REAL & ~gone)
    nothing, mask = remove([7], [True], "deletion", token_id=PAD)
    assert (nothing.tolist(), mask.tolist()) == ([PAD], [False])


def test_two_calls_any_batch_axes_and_the_precision_of_the_probabilities():
    shapes = []

    def counting(rows, mask):
        shapes.append((rows.shape, mask.shape))
        return np.asarray(predict(rows, mask), np.float64)

    tokens = np.random.default_rng(1).integers(4, 12, (2, 3, 4))
    found = remove_out(counting, tokens, "deletion", token_id=PAD)
    assert shapes == [((6, 4), (6, 4)), ((24, 4), (24, 4))]
    assert (type(found), found.dtype, found.shape) == (np.ndarray, np.float64, tokens.shape)
    one = remove_out(predict, tokens[1, 2], "deletion", token_id=PAD)
    np.testing.assert_allclose(one, found[1, 2], atol=1e-6)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"how": "blur"}, "how must be one of token, deletion, attention, got 'blur'"),
        ({"how": "token"}, "token_id must be the mask token's or unknown word's number for token"),
        ({"how": "deletion"}, "token_id must be the padding's number for deletion, got None"),
        ({"mask": np.ones(3, bool)}, "mask must be boolean with the shape"),
        ({"label": np.array([0, 3])}, "label must be a class from 0 to 2"),
        ({"label": np.array([0])}, "label must be whole numbers of shape"),
        ({"label": np.array([0.0, 1.0])}, "label must be whole numbers"),
        ({"tokens": np.ones((2, 2))}, "tokens must be whole numbers, got float64"),
        ({"tokens": np.int64(2)}, "tokens must have the shape"),
        ({"tokens": np.zeros((0, 4), int)}, "tokens must have the shape"),
    ],
)
def test_unusable_input_is_named(options, complaint):
    with refused(complaint):
        remove_out(predict, **{"tokens": TOKENS, "how": "attention"} | options)


def test_unusable_words_predictions_and_places_are_named():
    for unk_id in (1.5, None, "[UNK]", True):
        with refused("unk_id must be a whole number"):
            jaxflow.blank_out(predict, TOKENS, unk_id)
    with refused(r"predict must return probabilities \[2, classes\]"):
        remove_out(lambda *given: predict(*given)[..., 0], TOKENS, "attention")
    with refused("gone must be boolean of shape"):
        remove(TOKENS, REAL[0], "attention")
