"""Test an evaluation from a model or a run to its files."""

import csv
import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_corpus import write_small_corpus

from jaxflow.errors import InputError
from jaxflow.eval.paper.evaluate import check_out, evaluate, evaluate_run
from jaxflow.eval.paper.protocol import ProtocolConfig
from jaxflow.eval.paper.scores import SentenceScores, load_extra
from jaxflow.models import AgreementEncoder, EncoderConfig, Model
from jaxflow.train.batches import accuracies
from jaxflow.train.config import TrainConfig
from jaxflow.train.data import prepare

FILES = ["config.json", "scores.npz", "tables.csv", "tables.json", "tables.md"]
TARGETS = ["blank_out", "gradient", "gradient_norm"]
ROWS = ["raw", "rollout", "flow", "column_sum", "random", "position"]
PROTOCOL = ProtocolConfig(samples=24, seed=3, threads=1)
LAYERS = 2


@pytest.fixture(scope="module")
def run(trained_run):
    return trained_run


@pytest.fixture(scope="module")
def evaluated(run, tmp_path_factory):
    out = tmp_path_factory.mktemp("evaluation") / "new" / "folder"
    counts = []
    found = evaluate_run(run, PROTOCOL, out, report=lambda *count: counts.append(count))
    return found, out, counts


def test_the_json_keeps_the_contract(run, evaluated):
    found, out, counts = evaluated
    assert sorted(found.files) == [out / name for name in FILES]
    assert counts[-1] == (24, 24)
    record = json.loads((out / "tables.json").read_text())
    assert {"tables", "accuracy", "samples", "config", "versions"} <= set(record)
    assert list(record["tables"]) == TARGETS
    for rows in record["tables"].values():
        assert list(rows) == ROWS
        for cells in rows.values():
            assert len(cells) == LAYERS
            for cell in cells:
                assert set(cell) == {"mean", "std", "ci95", "n", "nan"}
                low, high = cell["ci95"]
                assert -1 <= low <= cell["mean"] <= high <= 1
                assert cell["std"] >= 0
                assert cell["n"] + cell["nan"] == 24
    assert record["samples"] == 24
    accuracy = json.loads((run / "accuracy.json").read_text())
    assert record["accuracy"] == accuracy["test"]["accuracy"]
    assert record["accuracy_by_split"] == accuracy == found.accuracy
    assert record["config"]["train"]["layers"] == LAYERS
    assert record["config"]["train"]["corpus"] == "simple"
    assert record["config"]["protocol"]["seed"] == 3
    assert record["config"]["protocol"]["samples"] == 24
    chosen = {name: record["config"]["protocol"][name] for name in ("target", "replacement")}
    assert chosen == found.scoring.record() == {"target": "difference", "replacement": "unk"}
    assert record["config"]["model"]["width"] == 16
    assert record["config"]["test_sentences_too_long"] == 0
    for name in ("python", "jax", "numpy", "jaxflow"):
        assert record["versions"][name][0].isdigit()
    beside = json.loads((out / "config.json").read_text())
    assert beside == {"config": record["config"], "versions": record["versions"]}


def test_the_means_are_those_of_the_scores(evaluated):
    found, out, _ = evaluated
    scores = SentenceScores.load(out / "scores.npz")
    record = json.loads((out / "tables.json").read_text())
    for target, rows in scores.correlations.items():
        for name, values in rows.items():
            np.testing.assert_array_equal(values, found.scores.correlations[target][name])
            for layer, cell in enumerate(record["tables"][target][name]):
                assert cell["mean"] == pytest.approx(np.nanmean(values[:, layer]), abs=1e-12)
                assert cell["nan"] == np.isnan(values[:, layer]).sum()
    with (out / "tables.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == len(TARGETS) * len(ROWS) * LAYERS
    for line in lines:
        cell = record["tables"][line["target"]][line["row"]][int(line["layer"]) - 1]
        assert float(line["mean"]) == pytest.approx(cell["mean"], abs=1e-11)


def test_statements_that_must_hold_of_any_model(evaluated):
    _, out, _ = evaluated
    arrays, scores = load_extra(out / "scores.npz"), SentenceScores.load(out / "scores.npz")
    real = np.arange(arrays["tokens/ids"].shape[1]) < scores["length"][:, None]
    rollout, flow = arrays["tokens/rollout"], arrays["tokens/flow"]
    bound = arrays["tokens/column_sum"][:, None]
    assert (np.isnan(flow) == ~np.broadcast_to(real[:, None], flow.shape)).all()
    shown = np.broadcast_to(real[:, None], flow.shape)
    assert (rollout[shown] <= flow[shown] + 1e-6).all()
    assert (flow[shown] <= np.broadcast_to(bound, flow.shape)[shown] + 1e-6).all()
    np.testing.assert_allclose(np.where(shown, rollout, 0).sum(-1), 1, atol=1e-5)
    np.testing.assert_allclose(rollout[:, 0][real], flow[:, 0][real], atol=1e-6)
    assert (arrays["tokens/ids"][:, 0] == 1).all()


def test_the_corpus_may_have_moved(run, evaluated, tmp_path):
    data = write_small_corpus(tmp_path / "elsewhere")
    found = evaluate_run(run, PROTOCOL, tmp_path / "out", data=data)
    assert found.accuracy == evaluated[0].accuracy
    one, other = (SentenceScores.load(at / "scores.npz") for at in (tmp_path / "out", evaluated[1]))
    for name, values in one.arrays.items():
        np.testing.assert_array_equal(values, other.arrays[name])
    record = json.loads((tmp_path / "out" / "tables.json").read_text())
    assert record["config"]["train"]["data"] == str(data)


def test_a_model_that_was_never_trained(run, tmp_path):
    config = TrainConfig.from_dict(json.loads((run / "config.json").read_text()))
    prepared = prepare(config)
    sizes = EncoderConfig(
        vocabulary=len(prepared.tokenizer), positions=32, layers=1, heads=2, width=8, dropout=0.0
    )
    params = jax.jit(AgreementEncoder(sizes).init)(jax.random.key(0), jnp.ones((1, 2), jnp.int32))
    model = Model(sizes, params, prepared.tokenizer)
    splits = {"test": prepared.held_out["test"]}
    found = evaluate(
        model,
        splits,
        config,
        dataclasses.replace(PROTOCOL, special_tokens=False, min_tokens=4, samples=None),
        tmp_path,
        seconds=1.5,
    )
    assert found.accuracy == accuracies(model.probabilities, splits, config.lengths)
    long = int((splits["test"].lengths >= 4).sum())
    assert found.scores.sentences == long < len(splits["test"])
    record = json.loads((tmp_path / "tables.json").read_text())
    assert record["samples"] == long
    assert record["config"]["training_seconds"] == 1.5
    assert record["config"]["protocol"]["special_tokens"] is False


def test_no_run(tmp_path):
    for place in (tmp_path, tmp_path / "nothing"):
        with pytest.raises(InputError, match=r"no run at .* expected a folder that jaxflow train"):
            evaluate_run(place, PROTOCOL, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_an_unfinished_run(run, tmp_path):
    (tmp_path / "config.json").write_bytes((run / "config.json").read_bytes())
    with pytest.raises(InputError, match=r"no trained model at .* jaxflow train finished"):
        evaluate_run(tmp_path, PROTOCOL, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [({"samples": 61}, "from 1 to the 60"), ({"min_tokens": 99}, "at least 99 tokens")],
)
def test_too_few_sentences_leave_nothing_behind(run, tmp_path, options, message):
    with pytest.raises(InputError, match=message):
        evaluate_run(run, dataclasses.replace(PROTOCOL, **options), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_folder_that_cannot_be_written(run, tmp_path):
    (tmp_path / "file").write_text("here first")
    for place in (tmp_path / "file", tmp_path / "file" / "deep" / "out"):
        with pytest.raises(InputError, match="cannot be written"):
            check_out(place)
        with pytest.raises(InputError, match="cannot write to the folder"):
            evaluate_run(run, dataclasses.replace(PROTOCOL, samples=2), place)
    check_out(tmp_path / "new" / "folder")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_text() == "here first"
