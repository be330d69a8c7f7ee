"""Run the scripts in examples/ on tiny settings, and check their results by hand."""

import dataclasses
import importlib
import json
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from oracles import raw_attention, rollout
from tiny_models import tiny

import jaxflow
from jaxflow import models
from jaxflow.models.rotary import Rotary
from jaxflow.train import load_splits, read_config

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def script(monkeypatch):
    """Return a function that imports a script by its name."""
    monkeypatch.syspath_prepend(str(EXAMPLES))

    def load(name):
        monkeypatch.delitem(sys.modules, name, raising=False)
        return importlib.import_module(name)

    return load


def test_subject_mass_is_the_subjects_share_of_the_cls_row(
    script, trained_run, corpus, tmp_path, capsys
):
    found = script("subject_mass")
    other = shutil.copytree(trained_run, tmp_path / "other")
    found.main([trained_run, other], split="subjects", data=corpus, threads=1)
    out = capsys.readouterr().out
    assert re.search(r"flow \| \+0.000 \[\+0.000, \+0.000\]", out)  # a run beside its copy

    config = read_config(trained_run)
    model = models.load(trained_run)
    split = load_splits(config, model.tokenizer)["subjects"]
    shares, right = found.subject_mass(model, split, config.lengths, threads=1)
    row = int(np.argmax(split.lengths))
    tokens = split.tokens[[row], : split.lengths[row]]
    output = model(tokens)
    attention = np.asarray(output.attention)[0]  # [L, H, n, n]
    expected = {
        "flow": np.asarray(jaxflow.flow(attention, sources=0))[:, 0],
        "rollout": rollout(attention)[:, 0],
        "raw": raw_attention(attention)[:, 0],
    }
    for name, rows in expected.items():
        share = rows[:, split.subject_index[row]] / rows.sum(-1)
        np.testing.assert_allclose(shares[name][row], share, atol=1e-5)
    assert right[row] == (np.asarray(output.logits)[0].argmax() == split.labels[row])


def test_models_of_other_libraries_are_explained(script, tmp_path, monkeypatch, capsys):
    found = script("gallery")
    monkeypatch.setattr(found, "keras_hub_bert", found.haiku_encoder)  # needs TensorFlow
    found.main(tmp_path)
    out = capsys.readouterr().out
    for kind, token in (
        ("nnx_encoder", "the"),
        ("equinox_decoder", "doors"),
        ("gemma_like", "doors"),
    ):
        assert (tmp_path / f"{kind}.png").stat().st_size
        assert re.search(
            f"target of {kind}\ngradient/product, rollout and flow: of {token} after layer 4", out
        )
    assert "](gemma_like.png)" in (tmp_path / "README.md").read_text(encoding="utf-8")


def test_passages_are_counted_where_a_method_points_at_them(script, tmp_path, monkeypatch, capsys):
    found = script("passages")
    template = "{{ messages[0].content }}"
    text = dataclasses.replace(tiny("lm", causal=True).text, chat_template=template)
    sizes = {"layers": 2, "heads": 2, "key_heads": 1, "head_width": 4, "width": 8}
    more = {"positions": 900, "hidden_width": 8, "rotary": (Rotary(4),), "vocabulary": len(text)}
    model = models.Model(config := models.DecoderConfig(**sizes, **more), models.init(config), text)
    cases = json.loads(found.CASES.read_text(encoding="utf-8"))[:1]
    cases[0]["passages"] = [passage[:40] for passage in cases[0]["passages"]]
    (tmp_path / "cases.json").write_text(json.dumps(cases))
    monkeypatch.setattr(found, "CASES", tmp_path / "cases.json")
    monkeypatch.setattr(found.models, "load", lambda name: model)
    found.main("tiny", tmp_path)
    assert "| last passage | 0 | [0.00, 0.79] |" in capsys.readouterr().out
    (record,) = json.loads((tmp_path / "tables.json").read_text())["questions"]
    assert record["holds"] == 2
    assert {len(scores) for scores in record["scores"].values()} == {6}


def test_decoders_measures_by_hand(script):
    measure = script("decoders").measure
    scores = np.array([[[4.0, 3.0, 2.0, 1.0]], [[1.0, 1.0, 2.0, 9.0]]])  # [S, L, n]
    counted = np.array([[True] * 4, [True, True, True, False]])
    target = np.array([[1.0, 2.0, 3.0, 4.0], [2.0, 1.0, 5.0, 0.0]])
    found = measure(scores, {"blank_out": target}, counted, np.array([1, 2]))
    np.testing.assert_allclose(found["first_token"][:, 0], [0.4, 0.25])
    np.testing.assert_allclose(found["position"][:, 0], [-1, np.sqrt(3) / 2])
    np.testing.assert_allclose(found["blank_out"][:, 0], [-1, np.sqrt(3) / 2])
    np.testing.assert_array_equal(found["subject"][:, 0], [0, 1])


@pytest.mark.nightly
def test_decoders_runs(script, corpus, tmp_path, capsys):
    main = script("decoders").main
    main(corpus, tmp_path / "run", epochs=1, layers=1, heads=2, width=16, samples=20)
    out = capsys.readouterr().out
    assert "## subjects: accuracy" in out
    assert out.count("rollout, normalised") >= 20


@pytest.mark.nightly
def test_digits_runs(script, tmp_path, capsys):
    pytest.importorskip("sklearn")
    digits = script("digits")
    splits = digits.load_splits()
    assert [len(part["rows"]) for part in splits.values()] == [1257, 180, 360]
    digits.main(tmp_path / "run", epochs=8, layers=1, samples=20)
    out = capsys.readouterr().out
    assert float(re.search(r"accuracy on test ([.\d]+)", out)[1]) > 0.6
    assert out.count("| rollout mean, 0.5 discarded |") == 3


@pytest.mark.nightly
def test_flow_regulariser_raises_the_subjects_share(script, tmp_path, capsys):
    main = script("flow_regulariser").main
    main(tmp_path, weights=(0.0, 1.0), layers=2, heads=2, width=32, batch=256)
    out = capsys.readouterr().out
    change = re.search(r"weight-1 - \S+ \|[^|]*\| flow \| \+([.\d]+)", out)
    assert float(change[1]) > 0.01
