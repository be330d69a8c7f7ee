"""Test that all commands share one scoring engine, its target and its replacement."""

from __future__ import annotations

import dataclasses

import jax
import leaderboard_data
import numpy as np
import pytest
from scipy.special import log_softmax
from session import refused
from small_sst2 import tiny_bert
from tiny_models import tiny, tiny_agreement

import jaxflow
from jaxflow.errors import InputError
from jaxflow.eval.explanation import FORWARD, _jit_with, explainer
from jaxflow.eval.leaderboard.board import run_board
from jaxflow.eval.leaderboard.cases import from_texts
from jaxflow.eval.paper import sst2
from jaxflow.eval.paper.evaluate import evaluate
from jaxflow.eval.paper.protocol import ProtocolConfig
from jaxflow.eval.paper.scores import load_extra
from jaxflow.eval.score.engine import flow_at, read_places, rows_at, saturated_at
from jaxflow.eval.score.target import TARGETS, scoring_of, target_value
from jaxflow.models import EncoderConfig, Model, init
from jaxflow.models.subword import SubwordTokenizer
from jaxflow.train.batches import encode_sentences
from jaxflow.train.config import TrainConfig

POSITIONS = 14
# As tables and explanations call them, and the leaderboard.
NAMES = ("raw", "rollout", "flow", "blank_out", "gradient_norm")
METHODS = ("raw/none", "raw/rollout", "raw/flow", "blank-out", "gradient-norm")


def bert() -> Model:
    labels = ("negative", "positive")
    return tiny_bert(scale=0.5, layers=2, width=8, head="classification", labels=labels)


def unmasked(special):
    """A language model whose tokenizer has the special tokens given alone."""
    model = tiny("lm", causal=True)
    return Model(model.config, model.params, SubwordTokenizer(model.text.backend, special))


@pytest.mark.parametrize("make", [bert, tiny_agreement])
def test_every_command_gives_a_sentence_the_same_scores(make, monkeypatch, tmp_path):
    model, texts, labels = make(), ("the film to Paris", "the film"), np.array([0, 1])
    split = encode_sentences(texts, labels, model.text, POSITIONS)
    config = TrainConfig(positions=POSITIONS, buckets=())
    known = {"accuracy": {name: {"accuracy": 0.5} for name in ("test", "dev")}}
    evaluate(
        model, {"test": split}, config, ProtocolConfig(batch=8), tmp_path / "evaluate", **known
    )
    folders = ["evaluate"]
    if make is bert:
        folders.append("sst2")
        monkeypatch.setattr(sst2, "measure_rounding", lambda *_, **__: None)
        given = (model, {"dev": split}, config.lengths, sst2.Sst2Config(batch=8))
        sst2.evaluate_sst2(*given, tmp_path / "sst2", made_with={}, **known)
    leaderboard_data.raw_attention_only(monkeypatch)
    leaderboard_data.small_batches(monkeypatch)
    board = run_board(model, from_texts(model, texts, labels))
    explain = explainer(model)
    tables = [load_extra(tmp_path / name / "scores.npz") for name in folders]
    for row, text in enumerate(texts):
        n = int(split.lengths[row])
        explanation = explain(text)
        for name, method in zip(NAMES, METHODS, strict=True):
            # Of two classes the explained one, gold or predicted, makes no difference.
            expected = explanation.layers.get(name, explanation.scores[name][None])
            others = [table[f"tokens/{name}"][row, ..., :n] for table in tables]
            for found in (*others, board.scores.values[method][row, :, :n]):
                np.testing.assert_allclose(
                    found.reshape(expected.shape), expected, rtol=2e-3, atol=2e-5, err_msg=name
                )
            assert expected.max() > 1e-3


@pytest.mark.parametrize(
    ("model", "target", "replacement", "token"),
    [
        (bert, "difference", "mask", "[MASK]"),
        (tiny, "log-odds", "mask", "[MASK]"),
        (lambda: tiny("masked-lm"), "log-odds", "mask", "[MASK]"),
        (tiny_agreement, "difference", "unk", "[UNK]"),
        (lambda: tiny_agreement(classes=3), "log-odds", "unk", "[UNK]"),
        (lambda: unmasked({"unk": 1}), "log-odds", "unk", "[UNK]"),
    ],
)
def test_each_kind_of_model_has_its_default(model, target, replacement, token):
    found = scoring_of(model())
    assert found.record() == {"target": target, "replacement": replacement}
    assert found.token == token
    assert TARGETS[found.target] in found.describe()
    assert token in found.describe()


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        (tiny, {"target": "difference"}, "target difference needs a model with two classes, got 3"),
        (lambda: tiny("masked-lm"), {"target": "last"}, "target last has no meaning for"),
        (tiny_agreement, {"target": "loss"}, "target must be one of"),
        (tiny_agreement, {"replacement": "mask"}, "replacement mask needs a token"),
        (tiny_agreement, {"replacement": "pad"}, "replacement must be mask, unk or end"),
        (lambda: unmasked({}), {}, "must have a mask token or a token for unknown words"),
    ],
)
def test_impossible_choices_are_refused(model, options, message):
    with pytest.raises(InputError, match=message):
        scoring_of(model(), **options)


def test_a_language_model_without_a_token_for_unknown_words_has_the_end_of_a_text():
    model = tiny("lm", causal=True)
    special = {"cls": model.text.special["cls"]}
    bare = dataclasses.replace(model.text, special=special)
    found = scoring_of(dataclasses.replace(model, tokenizer=bare))
    assert (found.replacement, found.token_id) == ("end", special["cls"])
    with refused("must have a mask token or a token for unknown words"):
        scoring_of(dataclasses.replace(tiny(), tokenizer=bare))


def test_targets_are_their_definitions():
    logits = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
    labels, best, rows = np.array([0, 2, 1, 1]), logits.argmax(-1), np.arange(4)
    p = np.exp(log_softmax(logits, -1))
    expected = {
        "difference": p[:, 0] - p[:, 1],
        "log-odds": np.log(p / (1 - p))[rows, labels],
        "probability": p[rows, labels],
        "predicted": logits[rows, best],
        "last": logits[:, 2],
        "output": logits[rows, labels],
    }
    assert set(expected) == set(TARGETS)
    for target, values in expected.items():
        np.testing.assert_allclose(target_value(target, logits, labels), values, atol=1e-5)
    odds = np.log(p / (1 - p))[rows, best]
    np.testing.assert_allclose(target_value("log-odds", logits), odds, atol=1e-5)


MASK = np.array([[True, True, False, False], [True, True, True, True], [True, False, False, False]])


@pytest.mark.parametrize(("causal", "places"), [(False, [0, 0, 0]), (True, [1, 3, 0])])
def test_rows_and_flows_are_those_of_the_first_or_the_last_real_token(causal, places):
    config = EncoderConfig(vocabulary=5, positions=4, layers=1, heads=1, width=4, causal=causal)
    assert read_places(Model(config, init(config), None), MASK + 0, MASK).tolist() == places
    allowed = MASK[:, None, None, None, :] & np.tri(4, dtype=bool)
    weights = np.where(allowed, np.random.default_rng(0).uniform(0.1, 1, (3, 3, 2, 4, 4)), 0)
    weights = weights / weights.sum(-1, keepdims=True)
    every = jaxflow.flow(weights, residual=0.3, mask=MASK)
    found = flow_at(weights, places, MASK, residual=0.3)
    reached = saturated_at(weights, places, MASK, residual=0.3)
    all_reached = jaxflow.saturation(weights, residual=0.3, mask=MASK).reached
    rows = np.asarray(rows_at(every, places))
    for sentence, place in enumerate(places):
        np.testing.assert_array_equal(found[sentence], every[sentence, :, place])
        np.testing.assert_array_equal(reached[sentence], all_reached[sentence, :, place])
        np.testing.assert_allclose(rows[sentence], every[sentence, :, place], rtol=1e-6)
    assert reached.any()
    assert not reached.all()


def test_an_unknown_option_of_the_compiler_does_no_harm():
    def double(values: jax.Array) -> dict[str, jax.Array]:
        return {"double": values * 2}

    values = np.ones(3, np.float32)
    for options in (FORWARD, {"xla_cpu_option_of_another_version": True}):
        np.testing.assert_array_equal(_jit_with(double, options)(values)["double"], 2 * values)

    def fails(values: jax.Array) -> dict[str, jax.Array]:
        raise jax.errors.JaxRuntimeError("something else")

    with pytest.raises(jax.errors.JaxRuntimeError, match="something else"):
        _jit_with(fails, FORWARD)(values)
