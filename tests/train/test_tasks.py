"""Tests of the tasks whose relevant tokens are known, against the rules themselves."""

import itertools

import numpy as np
import pytest

from jaxflow.errors import InputError
from jaxflow.models import load
from jaxflow.train import TASKS, FitConfig, fit_task, verify

RULED = [name for name in TASKS if name != "agreement"]  # a sentence does not show its subject


@pytest.mark.parametrize("name", TASKS)
@pytest.mark.parametrize("length", [11, 16])
def test_a_redraw_changes_its_part_alone(name, length):
    task = TASKS[name](length)
    first = task.draw(200, seed=3)
    assert first.tokens.shape == (200, length)
    assert first.tokens.max() < len(task.tokenizer)
    assert first.labels.max() < task.classes
    again = {part: task.draw(200, seed=3, again=part) for part in ("relevant", "irrelevant")}
    for part, other in again.items():
        moved = other.tokens != first.tokens
        np.testing.assert_array_equal(other.relevant, first.relevant)
        assert not moved[first.relevant != (part == "relevant")].any()
        assert moved.any()
    np.testing.assert_array_equal(again["irrelevant"].labels, first.labels)
    assert (again["relevant"].labels != first.labels).mean() > 0.3
    assert (task.draw(200, seed=4).tokens != first.tokens).any()
    if task.answer:
        for progress in (0.0, 0.2, 1.0):  # training sequences follow the rule too
            batch = task.batch(50, 0, 7, progress)
            found = [task.answer(tokens) for tokens in batch.tokens]
            np.testing.assert_array_equal(found, batch.labels)


@pytest.mark.parametrize("name", RULED)
def test_relevant_tokens_are_those_that_interventions_find(name):
    """Every change of one or two tokens to any others that the task allows, by brute force."""

    def marked(tokens):
        return (tokens == 6) | (tokens == 7)

    task = TASKS[name](10 if name == "two-hops" else 8)
    pairs = list(itertools.combinations(range(1, task.length), 2))
    new = list(itertools.product(range(1, len(task.tokenizer)), repeat=2))
    marks = name in ("majority", "shortcut")
    for row in range(3):
        # Other relevant tokens at the same places: at times it takes more than two changes.
        times = range(1, 9 if name == "brackets" else 4)
        drawn = [task.draw(3, 1), *(task.draw(3, 1, again="relevant", time=t) for t in times)]
        relevant, matters = drawn[0].relevant[row], np.zeros(task.length, bool)
        for tokens, label in ((d.tokens[row], d.labels[row]) for d in drawn):
            assert task.answer(tokens) == label
            for places, values in itertools.product(map(list, pairs), new):
                changed = tokens.copy()
                changed[places] = values
                moved = changed != tokens
                if marks and (marked(changed) != marked(tokens)).any():
                    continue  # symbols marked elsewhere: another layout
                if task.answer(changed) not in (None, label) and len(set(relevant[moved])) == 1:
                    assert relevant[moved].all(), f"{changed} has another class"
                    matters |= moved
        np.testing.assert_array_equal(matters, relevant)


def test_a_sentence_keeps_its_subject_through_redraws():
    task = TASKS["agreement"](16)
    first, other = task.draw(100, 2), task.draw(100, 2, again="irrelevant")
    assert (first.relevant.sum(-1) == 1).all()
    # The label is that of the noun alone: the same noun never has two.
    nouns = np.concatenate([s.tokens[s.relevant] for s in (first, other)])
    labels = np.concatenate([first.labels, other.labels])
    assert all(len(set(labels[nouns == noun])) == 1 for noun in set(nouns.tolist()))


def test_verify_sees_what_a_model_uses():
    task = TASKS["nth-token"](12)

    def by_rule(tokens):
        return np.eye(task.classes)[[task.answer(row) for row in np.asarray(tokens)]]

    found = verify(by_rule, task, 300)
    assert found.usable.all()

    def third(tokens):  # the right one in some sequences
        return np.eye(task.classes)[np.asarray(tokens)[:, 3] - 4]

    wrong = verify(third, task, 300)
    asked = wrong.sequences.relevant[:, 3]
    assert wrong.usable[asked].all()
    assert wrong.usable[~asked].mean() < 0.01


def test_an_encoder_learns_a_task(tmp_path):
    task = TASKS["majority"](8)
    config = FitConfig(epochs=1, batch=64, learning_rate=2e-3, weight_decay=0.0)
    sizes = {"layers": 2, "width": 32}
    result = fit_task(task, config, tmp_path / "run", steps=300, **sizes)
    assert result.accuracy["test"]["accuracy"] > 0.99
    model = load(tmp_path / "run" / "model")
    found = verify(lambda tokens: model(tokens).logits, task, 500)
    assert found.usable.mean() > 0.95


@pytest.mark.parametrize("name", TASKS)
def test_a_task_that_does_not_fit_is_refused(name):
    with pytest.raises(InputError, match=rf"{name} needs a length of at least"):
        TASKS[name](3)
