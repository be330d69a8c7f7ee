"""Test batches: each row once an epoch, reproducible by seed, correctly padded."""

import dataclasses
from collections import Counter

import numpy as np
import pytest
from session import refused

from jaxflow.models import WordTokenizer
from jaxflow.train.batches import (
    ArrayBatches,
    BatchPlan,
    EncodedSplit,
    accuracies,
    encode_split,
    evaluation_batches,
    iterate,
    predict_split,
)
from jaxflow.train.corpus import Split

BUCKETS = (6, 9, 20)
FIRST_EXTRA = 5_000


def encoded(count, first=3, seed=0):
    """Rows that can be told apart: the first word of row i is ``first + i``, its label that mod 2.

    The words after it follow from it too, so that a row that was mixed up shows.
    """
    lengths = np.random.default_rng(seed).integers(2, 21, count).astype(np.int32)
    tokens = np.zeros((count, 20), np.int32)
    for row, length in enumerate(lengths):
        tokens[row, :length] = 1, *(first + row + np.arange(length - 1))
    labels = ((first + np.arange(count)) % 2).astype(np.int32)
    unknown = np.full(count, -1, np.int32)
    return EncodedSplit(tokens, lengths, labels, unknown, unknown, np.arange(count), 0)


def plan_of(train=103, extra=50, seed_of_extra=0, **options):
    further = encoded(extra, FIRST_EXTRA, seed_of_extra) if extra else None
    options = {"share": 0.3, "batch": 8, "epochs": 3, "seed": 7} | options
    return BatchPlan(train=encoded(train), extra=further, buckets=BUCKETS, **options)


def names_of(batches):
    """The first words of all rows, after checking that each row is whole and has its label."""
    names = []
    for batch in batches:
        for row, label in zip(batch["tokens"], batch["labels"], strict=True):
            length = np.count_nonzero(row)
            assert row[0] == 1
            assert row[1:length].tolist() == list(range(row[1], row[1] + length - 1))
            assert not row[length:].any()
            assert label == row[1] % 2
            names.append(int(row[1]))
    return names


def epoch_of(plan, epoch):
    steps = plan.steps_per_epoch
    return [plan[step] for step in range(epoch * steps, (epoch + 1) * steps)]


def assert_equal_batches(left, right):
    for one, other in zip(left, right, strict=True):
        for name in ("tokens", "labels"):
            assert one[name].dtype == other[name].dtype == np.int32
            np.testing.assert_array_equal(one[name], other[name])


def test_an_epoch_has_every_row_once_but_for_the_remainder():
    plan = plan_of(extra=0)
    assert (plan.steps_per_epoch, len(plan)) == (103 // 8, 3 * (103 // 8))
    lengths = dict(enumerate(encoded(103).lengths.tolist(), 3))
    left_out = set()
    for epoch in range(3):
        batches = epoch_of(plan, epoch)
        names = names_of(batches)
        assert len(names) == len(set(names) & set(lengths)) == 96
        left_out.add(frozenset(lengths) - set(names))
        # No word was cut off.
        counts = [np.count_nonzero(row) for batch in batches for row in batch["tokens"]]
        assert counts == [lengths[name] for name in names]
    assert len(left_out) == 3


def test_a_batch_is_a_function_of_seed_and_step():
    plan, again = plan_of(), plan_of()
    backwards = [again[step] for step in reversed(range(len(again)))]
    assert_equal_batches([plan[step] for step in range(len(plan))], backwards[::-1])
    assert names_of(epoch_of(plan, 0)) != names_of(epoch_of(plan, 1))
    assert names_of(epoch_of(plan, 0)) != names_of(epoch_of(plan_of(seed=8), 0))
    # A longer run begins as a shorter one does.
    assert_equal_batches(epoch_of(plan, 1), epoch_of(plan_of(epochs=9), 1))


@pytest.mark.parametrize("start", [0, 1, 18, 19, 54])
def test_going_on_gives_what_would_have_come(start):
    plan = plan_of()
    assert (plan.steps_per_epoch, len(plan)) == (18, 54)
    assert_equal_batches(iterate(plan, start), [plan[step] for step in range(start, 54)])


def test_processes_parts_of_a_batch_are_the_batch():
    plan = plan_of(subjects=True)
    read = [iterate(plan, 19, slice(2 * k, 2 * k + 2)) for k in range(4)]
    for step, batches in zip(range(19, len(plan)), zip(*read, strict=True), strict=True):
        for name, whole in plan[step].items():
            assert all(len(batch[name]) == 2 for batch in batches)
            np.testing.assert_array_equal(np.concatenate([b[name] for b in batches]), whole)


def test_other_rows_have_another_checksum():
    assert plan_of().checksum == plan_of(seed=8).checksum
    plans = (plan_of(), plan_of(102), plan_of(seed_of_extra=1), plan_of(extra=0))
    assert len({plan.checksum for plan in plans}) == 4


def test_batches_have_the_shape_of_the_smallest_bucket_that_holds_their_longest_row():
    plan, seen = plan_of(400, 0), Counter()
    for step in range(len(plan)):
        tokens = plan[step]["tokens"]
        longest = max(np.count_nonzero(row) for row in tokens)
        assert tokens.shape == (8, min(size for size in BUCKETS if size >= longest))
        seen[tokens.shape[1]] += 1
    assert set(seen) == set(BUCKETS)
    for start, until in ((0, len(plan)), (60, 63), (49, 49)):  # an epoch has 50 steps
        end = min(until, 50 * (start // 50 + 1))
        lengths = [plan[step]["tokens"].shape[1] for step in range(start, end)]
        firsts = sorted({length: start + lengths.index(length) for length in lengths}.values())
        assert plan.first_steps(start, until) == firsts
    # Rows of like length share a batch: short rows alone fill as many short batches as they can.
    assert seen[BUCKETS[0]] == 3 * ((encoded(400).lengths <= BUCKETS[0]).sum() // 8)


@pytest.mark.parametrize(
    ("rows", "further", "share", "drawn"),
    [(700, 170, 0.3, 300), (96, 170, 0, 0), (300, 30, 0.25, 100), (300, 100, 0.25, 100)],
)
def test_the_share_of_the_further_rows_is_exact_and_they_serve_equally_often(
    rows, further, share, drawn
):
    plan, served = plan_of(rows, further, share=share, batch=4, epochs=5), Counter()
    for epoch in range(5):
        names = names_of(epoch_of(plan, epoch))
        assert sorted(name for name in names if name < FIRST_EXTRA) == list(range(3, 3 + rows))
        served.update(name for name in names if name >= FIRST_EXTRA)
        assert served.total() == (epoch + 1) * drawn
    if drawn:
        assert len(served) == further
        assert max(served.values()) - min(served.values()) <= 1


SENTENCES = ("the key", "the keys to the cabinet", "a key", "the old keys to the cabinet")
WORDS = ("[PAD]", "[CLS]", "[UNK]", "the", "key", "keys", "to", "cabinet")


def split_of(sentences, subjects):
    n = len(sentences)
    labels, attractors = np.arange(n, dtype=np.int32) % 2, np.arange(n, dtype=np.int32) - 1
    return Split(sentences, labels, attractors, np.array(subjects, np.int32))


def test_too_long_sentences_are_left_out_and_counted():
    split, tokenizer = split_of(SENTENCES, [1, 1, -1, 2]), WordTokenizer(WORDS)
    six = encode_split(split, tokenizer, 6)
    assert six.too_long == 1
    assert six.tokens.tolist() == [[1, 3, 4, 0, 0, 0], [1, 3, 5, 6, 3, 7], [1, 2, 4, 0, 0, 0]]
    assert six.lengths.tolist() == [3, 6, 3]
    assert six.labels.tolist() == [0, 1, 0]
    assert six.rows.tolist() == [0, 1, 2]
    assert six.n_attractors.tolist() == [-1, 0, 1]
    # Counted with [CLS]: the subject of the first is "key", the third token.
    assert six.subject_index.tolist() == [2, 2, -1]
    five = encode_split(split, tokenizer, 5)
    assert (five.rows.tolist(), five.too_long, len(five)) == ([0, 2], 2, 2)
    none = encode_split(split, tokenizer, 2)
    assert (none.too_long, none.tokens.shape) == (4, (0, 2))


def test_batches_carry_the_subjects_place_among_the_tokens():
    # The second does not fit and is left out, so that rows move up; the third is unknown.
    sentences = ("the key", f"the {SENTENCES[3]}", "old key", SENTENCES[1])
    train = encode_split(split_of(sentences, [1, 2, -1, 1]), WordTokenizer(WORDS), 7)
    extra = encode_split(split_of(("the keys",), [1]), WordTokenizer(WORDS), 7)
    assert train.too_long == 1
    plan = BatchPlan(
        train=train, extra=extra, share=0.25, buckets=(4, 7), batch=1, epochs=3, seed=1,
        subjects=True,
    )  # fmt: skip
    assert plan.knows_subjects
    seen = Counter()
    for batch in iterate(plan):
        (tokens,), (subject,) = batch["tokens"], batch["subjects"]
        assert batch["subjects"].dtype == np.int32
        word = WORDS[tokens[subject]] if subject >= 0 else None
        seen[len(tokens), " ".join(WORDS[t] for t in tokens if t), word] += 1
    assert seen == {
        (4, "[CLS] the key", "key"): 3,
        (4, "[CLS] [UNK] key", None): 3,
        (7, "[CLS] the keys to the cabinet", "keys"): 3,
        (4, "[CLS] the keys", "keys"): 3,
    }


@pytest.mark.parametrize("count", [1, 8, 103])
def test_evaluation_covers_every_row_once(count):
    split, covered = encoded(count), []
    for rows, batch in evaluation_batches(split, BUCKETS, 8):
        real = len(rows)
        length = batch["tokens"].shape[1]
        assert batch["tokens"].shape == (8, length)
        assert names_of([{k: v[:real] for k, v in batch.items()}]) == (3 + rows).tolist()
        assert not batch["tokens"][real:].any()
        # The smallest bucket for each row on its own.
        assert {min(b for b in BUCKETS if b >= split.lengths[row]) for row in rows} == {length}
        covered += rows.tolist()
    assert sorted(covered) == list(range(count))


def predict(tokens, mask):
    """Probabilities that follow from the words alone, however long the padding."""
    plural = ((tokens * mask).sum(-1) % 7 + 1) / 9
    return np.stack([1 - plural, plural], -1).astype(np.float32)


def test_accuracy_is_the_share_of_right_answers_and_long_sentences_are_wrong():
    split = dataclasses.replace(encoded(300), too_long=23)
    expected = predict(split.tokens, split.tokens != split.pad_id)
    np.testing.assert_array_equal(predict_split(predict, split, BUCKETS), expected)
    right = int((expected.argmax(-1) == split.labels).sum())
    assert 0 < right < 300
    scores = accuracies(predict, {"val": split, "none": encoded(0)}, BUCKETS)
    assert scores["val"] == {"accuracy": pytest.approx(right / 323), "n": 323, "too_long": 23}
    assert np.isnan(scores["none"]["accuracy"])


def test_arrays_come_in_an_order_of_each_epoch_and_in_parts():
    rows = np.arange(23)
    plan = ArrayBatches({"inputs": rows[:, None] * 2, "labels": rows}, batch=4, epochs=2, seed=3)
    assert (plan.steps_per_epoch, len(plan)) == (5, 10)
    epochs = []
    for epoch in range(2):
        batches = [plan.part(5 * epoch + step, slice(None)) for step in range(5)]
        labels = np.concatenate([batch["labels"] for batch in batches])
        assert len(set(labels.tolist())) == 20
        inputs = np.concatenate([batch["inputs"] for batch in batches])
        np.testing.assert_array_equal(inputs[:, 0], 2 * labels)
        np.testing.assert_array_equal(plan.part(5 * epoch, slice(2, 4))["labels"], labels[2:4])
        epochs.append(labels.tolist())
    assert epochs[0] != epochs[1]
    with refused("batch"):
        plan_of(7, 0)
    with refused("batch"):
        ArrayBatches({"labels": np.arange(7)}, batch=8, epochs=1)
