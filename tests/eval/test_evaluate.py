"""Test an evaluation from a model or a run to its files."""

import dataclasses
import itertools
import json
import shutil

import numpy as np
import pytest

from jaxflow.errors import InputError
from jaxflow.eval.paper.evaluate import check_out, evaluate, evaluate_run
from jaxflow.eval.paper.protocol import ProtocolConfig
from jaxflow.eval.paper.scores import SentenceScores, load_extra
from jaxflow.models import EncoderConfig, Model, init
from jaxflow.train import read_config
from jaxflow.train.batches import accuracies
from jaxflow.train.data import prepare

FILES = ["config.json", "scores.npz", "tables.csv", "tables.json", "tables.md"]
TARGETS = ("blank_out", "gradient", "gradient_norm")
ROWS = ("raw", "rollout", "flow", "column_sum", "random", "position")
PROTOCOL = ProtocolConfig(samples=24, seed=3, threads=1)
LAYERS = 2


@pytest.fixture(scope="module")
def evaluated(trained_run, tmp_path_factory):
    out = tmp_path_factory.mktemp("evaluation") / "new" / "folder"
    counts = []
    found = evaluate_run(trained_run, PROTOCOL, out, report=lambda *count: counts.append(count))
    assert counts[-1] == (24, 24)
    return found, out, json.loads((out / "tables.json").read_text())


def test_the_json_keeps_the_contract(trained_run, evaluated):
    found, out, record = evaluated
    assert sorted(found.files) == [out / name for name in FILES]
    assert {"tables", "accuracy", "samples", "config", "versions"} <= set(record)
    assert list(record["tables"]) == list(TARGETS)
    for rows in record["tables"].values():
        assert list(rows) == list(ROWS)
        for cell in itertools.chain(*rows.values()):
            assert set(cell) == {"mean", "std", "ci95", "n", "nan"}
            low, high = cell["ci95"]
            assert -1 <= low <= cell["mean"] <= high <= 1
            assert cell["n"] + cell["nan"] == 24
    accuracy = json.loads((trained_run / "accuracy.json").read_text())
    assert record["accuracy"] == accuracy["test"]["accuracy"]
    assert record["accuracy_by_split"] == accuracy == found.accuracy
    config, protocol = record["config"], record["config"]["protocol"]
    assert (config["train"]["layers"], config["train"]["corpus"]) == (LAYERS, "simple")
    assert (protocol["seed"], protocol["samples"], record["samples"]) == (3, 24, 24)
    chosen = {name: protocol[name] for name in ("target", "replacement")}
    assert chosen == found.scoring.record() == {"target": "difference", "replacement": "unk"}
    assert (config["model"]["width"], config["test_sentences_too_long"]) == (16, 0)
    assert {"python", "jax", "numpy", "jaxflow"} <= set(record["versions"])
    beside = json.loads((out / "config.json").read_text())
    assert beside == {"config": config, "versions": record["versions"]}


def test_the_means_are_those_of_the_scores(evaluated):
    found, out, record = evaluated
    scores = SentenceScores.load(out / "scores.npz")
    for target, row in itertools.product(TARGETS, ROWS):
        values = scores.correlations[target][row]
        np.testing.assert_array_equal(values, found.scores.correlations[target][row])
        for layer, cell in enumerate(record["tables"][target][row]):
            assert cell["mean"] == pytest.approx(np.nanmean(values[:, layer]), abs=1e-12)
            assert cell["nan"] == np.isnan(values[:, layer]).sum()


def test_statements_that_must_hold_of_any_model(evaluated):
    _, out, _ = evaluated
    arrays, scores = load_extra(out / "scores.npz"), SentenceScores.load(out / "scores.npz")
    real = np.arange(arrays["tokens/ids"].shape[1]) < scores["length"][:, None]
    rollout, flow = arrays["tokens/rollout"], arrays["tokens/flow"]
    bound = arrays["tokens/column_sum"][:, None]
    shown = np.broadcast_to(real[:, None], flow.shape)
    assert (np.isnan(flow) == ~shown).all()
    assert (rollout[shown] <= flow[shown] + 1e-6).all()
    assert (flow[shown] <= np.broadcast_to(bound, flow.shape)[shown] + 1e-6).all()
    np.testing.assert_allclose(np.where(shown, rollout, 0).sum(-1), 1, atol=1e-5)
    np.testing.assert_allclose(rollout[:, 0][real], flow[:, 0][real], atol=1e-6)
    assert (arrays["tokens/ids"][:, 0] == 1).all()


def test_the_corpus_may_have_moved(trained_run, evaluated, corpus, tmp_path):
    data, out = shutil.copytree(corpus, tmp_path / "elsewhere"), tmp_path / "out"
    found = evaluate_run(trained_run, PROTOCOL, out, data=data)
    assert found.accuracy == evaluated[0].accuracy
    before = evaluated[0].scores.arrays
    for name, values in SentenceScores.load(out / "scores.npz").arrays.items():
        np.testing.assert_array_equal(values, before[name])
    record = json.loads((out / "tables.json").read_text())
    assert record["config"]["train"]["data"] == str(data)


def test_a_model_that_was_never_trained(trained_run, tmp_path):
    config = read_config(trained_run)
    prepared = prepare(config)
    sizes = {"vocabulary": len(prepared.tokenizer), "positions": 32, "layers": 1, "heads": 2}
    encoder = EncoderConfig(**sizes, width=8, dropout=0.0)
    model = Model(encoder, init(encoder), prepared.tokenizer)
    splits = {"test": prepared.held_out["test"]}
    protocol = dataclasses.replace(PROTOCOL, special_tokens=False, min_tokens=4, samples=None)
    found = evaluate(model, splits, config, protocol, tmp_path, seconds=1.5)
    assert found.accuracy == accuracies(model.probabilities, splits, config.lengths)
    long = int((splits["test"].lengths >= 4).sum())
    assert found.scores.sentences == long < len(splits["test"])
    record = json.loads((tmp_path / "tables.json").read_text())
    assert record["samples"] == long
    assert record["config"]["training_seconds"] == 1.5
    assert record["config"]["protocol"]["special_tokens"] is False


def test_an_unfinished_run_leaves_nothing_behind(trained_run, tmp_path):
    shutil.copy(trained_run / "config.json", tmp_path)
    with pytest.raises(InputError, match=r"no trained model at .* jaxflow train finished"):
        evaluate_run(tmp_path, PROTOCOL, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


def test_a_folder_that_cannot_be_written_is_refused_before_the_work(tmp_path):
    file = tmp_path / "file"
    file.write_text("here first")
    for place in (file, file / "deep" / "out"):
        with pytest.raises(InputError, match="cannot be written"):
            check_out(place)
    check_out(tmp_path / "new" / "folder")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
