"""The benchmark of published models: both sides do the same work. Nothing is timed."""

import sys
from pathlib import Path

import pytest
from benchmark_records import SHORT, check_record

from jaxflow import InputError, models
from jaxflow.eval.benchmarks.model_loading import OURS, THEIRS, load_once
from jaxflow.eval.benchmarks.models import FORWARD, PEER, ModelPlan, ModelWork, run_models

# Large words, so that memory rises by more than the system's own bookkeeping hides.
TINY = models.BertConfig(
    vocabulary=20_000, positions=8, layers=2, heads=2, width=64, hidden_width=32, pooler=True
)


def plan(**changes):
    return ModelPlan((ModelWork(2, 5),), TINY, budget=SHORT, loads=1, **changes)


def test_without_the_library_our_own_figures_remain(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    forward, loading = check_record(list(run_models(plan())))
    for comparison, name in ((forward, FORWARD), (loading, OURS)):
        assert list(comparison["missing"]) == ["transformers"]
        assert [entry["name"] for entry in comparison["contenders"]] == [name]


def test_the_library_runs_the_same_model():
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    forward, loading = check_record(list(run_models(plan())))
    errors = {entry["name"]: entry["error"] for entry in forward["contenders"]}
    assert errors[FORWARD] is None
    assert errors[PEER] <= 1e-5
    assert [entry["name"] for entry in loading["contenders"]] == [OURS, THEIRS]
    assert loading["settings"]["file"] > 4 * TINY.vocabulary * TINY.width


def test_the_difference_sees_every_layer():
    torch = pytest.importorskip("torch")
    from types import SimpleNamespace

    import jax.numpy as jnp

    from jaxflow.eval.benchmarks.transformers_peer import difference

    attention, hidden = jnp.zeros((1, 2, 3, 4, 4)), jnp.zeros((1, 3, 4, 5))
    ours = models.EncoderOutput(None, attention, hidden)
    theirs = SimpleNamespace(
        attentions=[torch.zeros(1, 3, 4, 4) for _ in range(2)],
        hidden_states=[torch.zeros(1, 4, 5) for _ in range(3)],
    )
    assert difference(theirs, ours) == 0
    theirs.attentions[1][0, 2, 3, 3] = 0.25
    assert difference(theirs, ours) == 0.25
    theirs.hidden_states[2][0, 3, 4] = -0.5
    assert difference(theirs, ours) == 0.5


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="memory is seen on Linux only")
def test_memory_rises_by_the_parameters_at_least(tmp_path):
    small = models.BertConfig(vocabulary=4, positions=2, layers=1, heads=1, width=8, hidden_width=8)
    for name, config in (("small", small), ("large", TINY)):
        model = models.Model(config, models.init(config), None)
        models.save_pretrained(tmp_path / name, model)
    size = (tmp_path / "large" / "model.safetensors").stat().st_size
    loading = load_once(OURS, tmp_path / "small", tmp_path / "large")
    assert loading.seconds > 0
    # Linux adds pages up some hundred kilobytes late.
    assert loading.peak_memory > 0.8 * size


def test_another_architecture_is_refused(tmp_path: Path):
    config = models.Gpt2Config(
        vocabulary=11, positions=8, layers=1, heads=1, width=8, hidden_width=8
    )
    models.save_pretrained(tmp_path / "gpt2", models.Model(config, models.init(config), None))
    with pytest.raises(InputError, match="must be BERT, DistilBERT or RoBERTa"):
        next(run_models(plan(folder=tmp_path / "gpt2")))
