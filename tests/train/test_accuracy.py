"""Accuracy against a count by hand: every sentence once, those left out as wrong."""

import math

import numpy as np
import pytest

from jaxflow.train.batches import EncodedSplit, accuracies, predict_split

LENGTHS = (4, 8)


def split_of(count, too_long=0, seed=0):
    rng = np.random.default_rng(seed)
    lengths = rng.integers(2, 9, count).astype(np.int32)
    tokens = rng.integers(3, 50, (count, 8)).astype(np.int32)
    tokens[:, 0] = 1
    tokens[np.arange(8) >= lengths[:, None]] = 0
    labels = rng.integers(0, 2, count).astype(np.int32)
    unknown = np.full(count, -1, np.int32)
    return EncodedSplit(tokens, lengths, labels, unknown, unknown, np.arange(count), too_long)


def predict(tokens):
    """Probabilities that follow from the words alone, however long the padding."""
    plural = (tokens.sum(-1) % 7 + 1) / 9
    return np.stack([1 - plural, plural], -1).astype(np.float32)


@pytest.mark.parametrize("count", [1, 128, 300])
def test_probabilities_come_in_the_order_of_the_split(count):
    split = split_of(count)
    found = predict_split(predict, split, LENGTHS)
    assert found.dtype == np.float64
    expected = np.concatenate([predict(split.tokens[row : row + 1]) for row in range(count)])
    np.testing.assert_array_equal(found, expected)


def test_batches_have_the_size_that_was_asked_for():
    shapes = set()

    def watched(tokens):
        shapes.add(tokens.shape)
        return predict(tokens)

    predict_split(watched, split_of(100), LENGTHS, batch=16)
    assert shapes == {(16, 4), (16, 8)}


def test_accuracy_is_the_share_of_right_answers():
    splits = {"val": split_of(300), "test": split_of(77, too_long=23, seed=1)}
    found = accuracies(predict, splits, LENGTHS)
    assert list(found) == ["val", "test"]
    for name, split in splits.items():
        right = sum(
            int(predict(row[None])[0].argmax() == label)
            for row, label in zip(split.tokens, split.labels, strict=True)
        )
        total = len(split.labels) + split.too_long
        assert 0 < right < len(split.labels)
        assert found[name] == {
            "accuracy": pytest.approx(right / total, abs=1e-15),
            "n": total,
            "too_long": split.too_long,
        }


def test_only_too_long_sentences_are_all_wrong():
    found = accuracies(predict, {"test": split_of(0, too_long=5)}, LENGTHS)
    assert found == {"test": {"accuracy": 0.0, "n": 5, "too_long": 5}}


def test_the_accuracy_of_nothing_is_undefined():
    found = accuracies(predict, {"test": split_of(0)}, LENGTHS)["test"]
    assert math.isnan(found["accuracy"])
    assert found["n"] == 0
