"""Test batches: each row once an epoch, reproducible by seed, correctly padded."""

import dataclasses
from collections import Counter

import numpy as np
import pytest

from jaxflow.errors import InputError
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


def encoded(count, first=3, longest=20, seed=0):
    """Rows that can be told apart: the first word of row i is ``first + i``, its label that mod 2.

    The words after it follow from it too, so that a row that was mixed up shows.
    """
    lengths = np.random.default_rng(seed).integers(2, longest + 1, count).astype(np.int32)
    tokens = np.zeros((count, 20), np.int32)
    for row, length in enumerate(lengths):
        tokens[row, :length] = 1, *(first + row + np.arange(length - 1))
    labels = ((first + np.arange(count)) % 2).astype(np.int32)
    unknown = np.full(count, -1, np.int32)
    return EncodedSplit(tokens, lengths, labels, unknown, unknown, np.arange(count), 0)


def plan_of(train, extra=None, **options):
    options = {"share": 0.3, "batch": 8, "epochs": 3, "seed": 7} | options
    return BatchPlan(train=train, extra=extra, buckets=BUCKETS, **options)


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
    left, right = list(left), list(right)
    assert len(left) == len(right)
    for one, other in zip(left, right, strict=True):
        for name in ("tokens", "labels"):
            assert one[name].dtype == other[name].dtype == np.int32
            np.testing.assert_array_equal(one[name], other[name])


def test_an_epoch_has_every_row_once_but_for_the_remainder():
    train = encoded(103)
    plan = plan_of(train)
    assert plan.steps_per_epoch == 103 // 8
    assert len(plan) == 3 * (103 // 8)
    lengths = {3 + row: length for row, length in enumerate(train.lengths.tolist())}
    left_out = []
    for epoch in range(3):
        batches = epoch_of(plan, epoch)
        names = names_of(batches)
        assert len(names) == len(set(names)) == 96
        assert set(names) <= set(lengths)
        left_out.append(frozenset(lengths) - set(names))
        # No word was cut off.
        counts = [np.count_nonzero(row) for batch in batches for row in batch["tokens"]]
        assert counts == [lengths[name] for name in names]
    assert len(set(left_out)) == 3


def test_a_batch_is_a_function_of_seed_and_step():
    def make(**options):
        return plan_of(encoded(103), encoded(50, FIRST_EXTRA), **options)

    plan, again = make(), make()
    assert_equal_batches(
        [plan[step] for step in range(len(plan))],
        reversed([again[step] for step in reversed(range(len(again)))]),
    )
    assert names_of(epoch_of(plan, 0)) != names_of(epoch_of(plan, 1))
    assert names_of(epoch_of(plan, 0)) != names_of(epoch_of(make(seed=8), 0))
    # A longer run begins as a shorter one does.
    assert_equal_batches(epoch_of(plan, 1), epoch_of(make(epochs=9), 1))


@pytest.mark.parametrize("start", [1, 18, 19, 40, 54])
def test_going_on_gives_what_would_have_come(start):
    plan = plan_of(encoded(103), encoded(50, FIRST_EXTRA))
    assert plan.steps_per_epoch == 18
    whole = list(iterate(plan))
    assert len(whole) == len(plan) == 54
    assert_equal_batches(whole, [plan[step] for step in range(54)])
    assert_equal_batches(iterate(plan, start), whole[start:])


@pytest.mark.parametrize("parts", [1, 2, 4])
def test_processes_parts_of_a_batch_are_the_batch(parts):
    train, extra = encoded(103), encoded(50, FIRST_EXTRA)
    plan = plan_of(train, extra, subjects=True)
    each = 8 // parts
    read = [iterate(plan, 19, slice(k * each, (k + 1) * each)) for k in range(parts)]
    steps = 0
    for step, batches in enumerate(zip(*read, strict=True), 19):
        for name, whole in plan[step].items():
            assert all(len(batch[name]) == each for batch in batches)
            np.testing.assert_array_equal(np.concatenate([b[name] for b in batches]), whole)
        steps += 1
    assert steps == len(plan) - 19


def test_other_rows_have_another_checksum():
    plan = plan_of(encoded(103), encoded(50, FIRST_EXTRA))
    assert plan.checksum == plan_of(encoded(103), encoded(50, FIRST_EXTRA), seed=8).checksum
    fewer = plan_of(encoded(102), encoded(50, FIRST_EXTRA))
    others = plan_of(encoded(103), encoded(50, FIRST_EXTRA, seed=1))
    alone = plan_of(encoded(103))
    assert len({p.checksum for p in (plan, fewer, others, alone)}) == 4


def test_batches_have_the_shape_of_the_smallest_bucket_that_holds_their_longest_row():
    plan = plan_of(encoded(400))
    seen = Counter()
    for step in range(len(plan)):
        tokens = plan[step]["tokens"]
        longest = max(np.count_nonzero(row) for row in tokens)
        assert tokens.shape == (8, min(size for size in BUCKETS if size >= longest))
        seen[tokens.shape[1]] += 1
    assert set(seen) == set(BUCKETS)
    # Rows of like length share a batch: short rows alone fill as many short batches as they can.
    short = (encoded(400).lengths <= BUCKETS[0]).sum()
    assert seen[BUCKETS[0]] == 3 * (short // 8)


@pytest.mark.parametrize(
    ("share", "rows", "extra"), [(0.3, 700, 300), (0.25, 300, 100), (0, 96, 0)]
)
def test_the_share_of_the_further_rows_is_exact(share, rows, extra):
    plan = plan_of(encoded(rows), encoded(170, FIRST_EXTRA), share=share, batch=4)
    for epoch in range(3):
        names = names_of(epoch_of(plan, epoch))
        assert sum(name >= FIRST_EXTRA for name in names) == extra
        assert sorted(name for name in names if name < FIRST_EXTRA) == list(range(3, 3 + rows))


@pytest.mark.parametrize("count", [30, 100, 170])
def test_the_further_rows_serve_equally_often(count):
    # 100 an epoch: some come several times, each once, or not every one comes.
    plan = plan_of(encoded(300), encoded(count, FIRST_EXTRA), share=0.25, batch=4, epochs=5)
    served = Counter(
        name
        for epoch in range(5)
        for name in names_of(epoch_of(plan, epoch))
        if name >= FIRST_EXTRA
    )
    assert len(served) == count
    assert served.total() == 500
    assert max(served.values()) - min(served.values()) <= 1


def test_too_long_sentences_are_left_out_and_counted():
    prefixes = ("the key", "the keys to the cabinet", "a key", "the old keys to the cabinet")
    split = Split(
        prefixes,
        labels=np.array([0, 1, 0, 1], np.int32),
        n_attractors=np.array([0, 1, -1, 1], np.int32),
        subject_index=np.array([1, 1, -1, 2], np.int32),
    )
    tokenizer = WordTokenizer(("[PAD]", "[CLS]", "[UNK]", "the", "key", "keys", "to", "cabinet"))
    six = encode_split(split, tokenizer, 6)
    assert six.too_long == 1
    assert six.tokens.tolist() == [
        [1, 3, 4, 0, 0, 0],
        [1, 3, 5, 6, 3, 7],
        [1, 2, 4, 0, 0, 0],
    ]
    assert six.lengths.tolist() == [3, 6, 3]
    assert six.labels.tolist() == [0, 1, 0]
    assert six.rows.tolist() == [0, 1, 2]
    assert six.n_attractors.tolist() == [0, 1, -1]
    # Counted with [CLS]: the subject of the first is "key", the third token.
    assert six.subject_index.tolist() == [2, 2, -1]
    five = encode_split(split, tokenizer, 5)
    assert (five.rows.tolist(), five.too_long, len(five)) == ([0, 2], 2, 2)
    assert encode_split(split, tokenizer, 7).too_long == 0
    none = encode_split(split, tokenizer, 2)
    assert (none.too_long, none.tokens.shape) == (4, (0, 2))


@pytest.mark.parametrize("count", [1, 8, 103])
def test_evaluation_covers_every_row_once(count):
    split = encoded(count)
    covered = []
    for rows, batch in evaluation_batches(split, BUCKETS, 8):
        length = batch["tokens"].shape[1]
        assert batch["tokens"].shape == (8, length)
        assert length in BUCKETS
        assert 1 <= len(rows) <= 8
        names = names_of([{name: values[: len(rows)] for name, values in batch.items()}])
        assert names == (3 + rows).tolist()
        np.testing.assert_array_equal(batch["tokens"][: len(rows)], split.tokens[rows, :length])
        assert not batch["tokens"][len(rows) :].any()
        # The smallest bucket for each row on its own.
        assert all(
            length == min(size for size in BUCKETS if size >= split.lengths[row]) for row in rows
        )
        covered += rows.tolist()
    assert sorted(covered) == list(range(count))


SENTENCES = ("the key", "in the town , the keys to the cabinet", "a key", "the old keys to the men")
WORDS = ("[PAD]", "[CLS]", "[UNK]", *sorted({w for text in SENTENCES for w in text.split()}))


def with_subjects(subjects, positions, prefixes=SENTENCES):
    zeros = np.zeros(len(prefixes), np.int32)
    split = Split(prefixes, zeros, zeros, np.array(subjects, np.int32))
    return encode_split(split, WordTokenizer(WORDS), positions)


def test_batches_carry_the_subjects_place_among_the_tokens():
    # The second does not fit and is left out, so that rows move up; the third is unknown.
    train = with_subjects([1, 5, -1, 2], 9)
    extra = with_subjects([1], 9, ("the keys",))
    assert train.too_long == 1
    plan = BatchPlan(
        train=train,
        extra=extra,
        share=0.25,
        buckets=(4, 9),
        batch=1,
        epochs=3,
        seed=1,
        subjects=True,
    )
    assert plan.knows_subjects
    seen = Counter()
    for batch in iterate(plan):
        tokens, subjects = batch["tokens"], batch["subjects"]
        assert subjects.shape == (1,)
        assert subjects.dtype == np.int32
        known = subjects[0] >= 0
        word = WORDS[tokens[0, subjects[0]]] if known else None
        seen[tokens.shape[1], " ".join(WORDS[t] for t in tokens[0] if t), word] += 1
    assert seen == {
        (4, "[CLS] the key", "key"): 3,
        (4, "[CLS] a key", None): 3,
        (9, "[CLS] the old keys to the men", "keys"): 3,
        (4, "[CLS] the keys", "keys"): 3,
    }


def predict(tokens):
    """Probabilities that follow from the words alone, however long the padding."""
    plural = (tokens.sum(-1) % 7 + 1) / 9
    return np.stack([1 - plural, plural], -1).astype(np.float32)


def test_accuracy_is_the_share_of_right_answers_and_long_sentences_are_wrong():
    split = dataclasses.replace(encoded(300), too_long=23)
    found = predict_split(predict, split, BUCKETS)
    expected = np.concatenate([predict(split.tokens[row : row + 1]) for row in range(300)])
    np.testing.assert_array_equal(found, expected)
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
    for make in (plan_of, lambda split: ArrayBatches({"labels": split.labels}, batch=8, epochs=1)):
        with pytest.raises(InputError, match="batch"):
            make(encoded(7))
