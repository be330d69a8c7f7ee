"""Rollout and training benchmarks: the peers do the same work. Nothing is timed."""

import pytest
from benchmark_records import SHORT, check_record

from jaxflow import models
from jaxflow.eval.benchmarks import rollout, training


def test_rollouts_agree():
    plan = rollout.RolloutPlan((rollout.RolloutWork(2, 5, 3, 2),), SHORT)
    (comparison,) = check_record(list(rollout.run_rollout(plan)))
    names = {entry["name"] for entry in comparison["contenders"]}
    assert {"jaxflow.rollout in jit", "einsum in jit", "NumPy, a sentence at a time"} <= names
    assert all(entry["error"] <= 1e-6 for entry in comparison["contenders"])


def tiny_training():
    encoder = models.EncoderConfig(vocabulary=20, positions=8, layers=1, heads=2, width=16)
    return training.TrainPlan(encoder, batch=4, tokens=6, budget=SHORT)


def test_training_without_pytorch_says_so(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    (comparison,) = check_record(list(training.run_train(tiny_training())))
    assert list(comparison["missing"]) == ["PyTorch"]
    assert [entry["name"] for entry in comparison["contenders"]] == ["jaxflow, float32"]


def test_pytorch_runs_the_same_encoder():
    pytest.importorskip("torch")
    (comparison,) = check_record(list(training.run_train(tiny_training())))
    errors = {entry["name"]: entry["error"] for entry in comparison["contenders"]}
    assert errors["PyTorch, float32"] <= 1e-5
