"""Test the board of prompts against loops in NumPy, and on an answer that one unit decides."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from tiny_models import tiny

import jaxflow
from jaxflow.commands import main
from jaxflow.edges import receptive_field
from jaxflow.errors import InputError
from jaxflow.eval.leaderboard.board import run_board
from jaxflow.eval.leaderboard.prompts import Prompt, PromptPrograms, prompt_cases, read_prompts
from jaxflow.models import Model, init
from jaxflow.models.decoder import DecoderConfig
from jaxflow.models.rotary import Rotary

PROMPTS = (
    Prompt("the keys are the cabinet", " key un", holds=4),
    Prompt("unlikely the key", None, ("unlikely", "the key")),
)


@pytest.fixture(scope="module")
def model():
    text = tiny("lm", causal=True).text
    sizes = {"layers": 2, "heads": 4, "key_heads": 2, "head_width": 8, "width": 32}
    more = {"positions": 40, "hidden_width": 48, "rotary": (Rotary(8),), "vocabulary": len(text)}
    config = DecoderConfig(**sizes, **more)
    return Model(config, init(config), text)


@pytest.fixture(scope="module")
def cases(model):
    return prompt_cases(model, PROMPTS, generate=1)


@pytest.fixture(scope="module")
def programs(model):
    return PromptPrograms(model)


@pytest.fixture(scope="module")
def board(model, cases, programs):
    return run_board(model, cases, programs=programs)


def log_probability(model, ids, answer):
    logits = np.asarray(model(np.concatenate([ids, answer])[None]).logits[0], np.float64)
    logits = logits[len(ids) - 1 : -1]
    chances = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    return chances[np.arange(len(answer)), answer].sum()


def test_units_and_answers(model, cases):
    assert cases.units == (("the", "keys", "are", "the", "cabinet"), ("unlikely", "the key"))
    # [CLS] and [SEP] are of no unit: they always stay.
    assert cases.members[1].tolist() == [-1, 0, 0, 0, 1, 1, -1]
    ids = np.array(model.text.read("unlikely the key").ids)
    assert cases.answers[1].tolist() == [int(np.argmax(model(ids[None]).logits[0, -1]))]
    assert cases.subject.tolist() == [4, -1]


def test_scores_are_those_of_the_attention_summed_over_units(model, cases, board):
    ids, answer, members = cases.ids[0], cases.answers[0], cases.members[0]
    tokens = np.concatenate([ids, answer[:-1]])
    sources = [len(ids) - 1, len(ids)]
    attention = np.asarray(model(tokens[None]).attention)

    def joined(rows):
        mean = np.asarray(rows)[:, : len(ids)].mean(0)
        return np.array([mean[members == unit].sum() for unit in range(5)])

    rolled = joined(jaxflow.rollout(attention)[0, -1, sources])
    field = joined(receptive_field(len(tokens), 2)[-1, sources])
    expected = {
        "raw/none": joined(attention[0, -1].mean(0)[sources]),
        "raw/rollout": rolled,
        "raw/rollout-normalised": rolled / field,
        "raw/flow": joined(jaxflow.flow(attention, sources=sources)[0, -1]),
        "column-sum": joined(0.5 * attention[0, 0].mean(0).sum(0, keepdims=True) + 0.5),
    }
    whole = log_probability(model, ids, answer)
    expected["delete-out"] = np.array(
        [whole - log_probability(model, ids[members != unit], answer) for unit in range(5)]
    )
    for name, values in expected.items():
        mine = board.scores.values[name][0, 0, :5]
        np.testing.assert_allclose(mine, values, rtol=2e-3, atol=2e-5, err_msg=name)
    # A gradient step in the embeddings of a unit: first-order change of the log-probability.
    table = model.params["params"]["word"]["embedding"]
    moved = {**model.params["params"], "word": {"embedding": table.at[ids[1]].multiply(1.01)}}
    changed = log_probability(Model(model.config, {"params": moved}, model.text), ids, answer)
    scores = board.scores.values["gradient-x-input"][0, 0]
    assert ids[1] == ids[5]  # "the" stands in two units
    assert abs(changed - whole) / 0.01 <= (scores[0] + scores[3]) * 1.05 + 1e-3


@pytest.mark.parametrize("name", ["raw/rollout", "delete-out", "gradient/product", "random"])
def test_removal_measures_are_those_of_a_loop(model, cases, board, name):
    place = next(at for at, (method, _) in enumerate(board.rows) if method == name)
    for row, (ids, answer, members) in enumerate(
        zip(cases.ids, cases.answers, cases.members, strict=True)
    ):
        m = len(cases.units[row])
        scores = board.scores.values[name][row, 0, :m]
        order = sorted(range(m), key=lambda unit: (-scores[unit], unit))
        whole = log_probability(model, ids, answer)
        assert board.probability[row] == pytest.approx(whole, abs=1e-4)
        without, alone = [], []
        for tenth in range(11):
            best = order[: math.ceil(tenth * m / 10)]
            without.append(log_probability(model, ids[~np.isin(members, best)], answer))
            rest = [unit for unit in range(m) if unit not in best]
            alone.append(log_probability(model, ids[~np.isin(members, rest)], answer))
        expected = {
            "comprehensiveness_area": np.mean(whole - np.array(without[1:])),
            "sufficiency_area": np.mean(whole - np.array(alone[:-1])),
        }
        for measure, value in expected.items():
            assert board.measures[measure][place, row] == pytest.approx(value, abs=1e-4)


def test_the_one_unit_that_decides_is_found(model, cases, programs, monkeypatch):
    """A planted answer that needs "cabinet": without it, it is less likely by 5."""
    (cabinet,) = model.text.encode("cabinet", template=False)
    monkeypatch.setattr(
        programs,
        "_value",
        lambda params, tokens, *rest: np.where((tokens == cabinet).any(-1), 0, -5),
    )
    board = run_board(model, cases, programs=programs)
    place = next(at for at, (method, _) in enumerate(board.rows) if method == "delete-out")
    found = {name: values[place, 0] for name, values in board.measures.items()}
    np.testing.assert_array_equal(board.scores.values["delete-out"][0, 0], [0, 0, 0, 0, 5])
    assert found["comprehensiveness_area"] == 5
    assert found["sufficiency_area"] == pytest.approx(0.5)  # of the share 0 alone, of ten
    assert found["subject_hit"] == 1
    others = [values for at, values in enumerate(board.measures["sufficiency_area"]) if at != place]
    assert all(values[0] >= 0.5 - 1e-6 for values in others)


def test_the_command_writes_the_same_files(model, board, tmp_path, monkeypatch, capsys):
    path, out = tmp_path / "prompts.json", tmp_path / "out"
    path.write_text(
        json.dumps(
            [
                {"prompt": "the keys are the cabinet", "answer": " key un", "holds": 4},
                {"units": ["unlikely", " the key"], "answer": "un"},
            ]
        ),
        encoding="utf-8",
    )
    seen = []
    monkeypatch.setattr("jaxflow.models.load", lambda name: model)
    monkeypatch.setattr(
        "jaxflow.eval.leaderboard.board.run_board",
        lambda model, cases, **options: seen.append(cases) or board,
    )
    options = ["--model", "some", "--prompts", str(path), "--out", str(out)]
    assert main(["leaderboard", *options]) == 0
    assert seen[0].units == board.cases.units
    assert {"leaderboard.md", "leaderboard.json", "leaderboard.html", "leaderboard.parquet"} <= {
        file.name for file in out.iterdir()
    }
    text = (out / "leaderboard.html").read_text(encoding="utf-8")
    assert "its log-probability" in text
    assert "a removed unit is deleted" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", "\n  \n", "must hold at least one prompt"),
        ("a.json", "[]", "must hold at least one prompt"),
        ("a.json", '["the", {"prompt": " "}]', "prompt 2 must be a text"),
        ("a.json", '[{"prompt": "the", "holds": -1}]', "prompt 1 must be a text"),
        ("a.json", '[{"text": "the"}]', "prompt 1 must be a text"),
        ("a.json", "[", "must be a text file or a JSON list"),
        ("a.txt", "key\n" + "the " * 39, "prompt 2 must be at most 39 tokens"),
        ("a.json", '[{"prompt": "the keys are", "units": ["the", "are"]}]', "leave out 'keys'"),
        ("a.json", '[{"prompt": "the keys", "units": ["are"]}]', "prompt 1: passage 1 must stand"),
        ("a.json", '[{"prompt": "the key", "units": "pages"}]', "units must be words"),
        ("a.json", '[{"prompt": "the key", "answer": "un", "holds": 2}]', "below its 2 units"),
    ],
)
def test_unusable_prompts_are_refused(model, tmp_path, name, content, message):
    path = tmp_path / name
    path.write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match=message):
        prompt_cases(model, read_prompts(path), generate=1)


def test_prompts_need_a_language_model():
    with pytest.raises(InputError, match="a language model that reads from left to right"):
        prompt_cases(tiny(), PROMPTS)
