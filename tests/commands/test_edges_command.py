"""``jaxflow edges``: the catalogue, and what methods say of a sentence, against the library."""

from __future__ import annotations

import importlib.util
import json

import numpy as np
import pytest
import wheel
from tiny_models import tiny

from jaxflow.commands import main
from jaxflow.edges import AGGREGATORS, aggregate, edge_families, edge_weights, propagations
from jaxflow.models import load, save_pretrained, trace

TEXT = "the keys to the cabinet"


@pytest.fixture(autouse=True)
def _surroundings(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "edges-cache"))
    monkeypatch.setenv("COLUMNS", "200")


def test_all_that_there_is_is_listed(capsys):
    assert main(["edges"]) == 0
    out = capsys.readouterr().out
    first = {line.split(" ")[0] for line in out.splitlines()}
    assert {*edge_weights(), *propagations()} <= first
    assert {f"{prefix}-NUMBER:" for prefix in edge_families()} <= first
    assert out.rstrip().endswith(f"aggregators: {', '.join(AGGREGATORS)}")


def test_scores_are_those_of_the_library(capsys):
    model = load("agreement")
    found = trace(model, model.whole_words.encode_batch([TEXT]))
    methods = {"alti/flow": ("alti", "flow"), "norm": ("norm", "rollout"), "head-2/none": None}
    asked = [part for name in methods for part in ("--by", name)]
    assert main(["edges", TEXT, *asked, "--json"]) == 0
    (sentence,) = json.loads(capsys.readouterr().out)["sentences"]
    assert [token["text"] for token in sentence["tokens"]] == ["[CLS]", *TEXT.split()]
    assert list(sentence["scores"]) == ["alti/flow", "norm/rollout", "head-2/none"]
    for name, values in sentence["scores"].items():
        expected = aggregate(found, *name.split("/"), sources=0)
        np.testing.assert_allclose(values, np.asarray(expected)[0, :, 0], rtol=1e-4, atol=1e-6)

    assert main(["edges", TEXT, *asked, "--layer", "1"]) == 0
    out = capsys.readouterr().out
    assert "of [CLS] after layer 2 of 6" in out
    row = next(line for line in out.splitlines() if line.startswith("keys")).split()
    shown = [sentence["scores"][name][1][2] for name in sentence["scores"]]
    np.testing.assert_allclose([float(cell) for cell in row[1:]], shown, rtol=6e-3)


def test_a_published_model_reads_its_last_token(tmp_path, capsys):
    save_pretrained(tmp_path / "model", tiny(causal=True))
    arguments = ["edges", "the key", "--model", str(tmp_path / "model"), "--by", "gradient/paths"]
    assert main([*arguments, "--json"]) == 0
    (sentence,) = json.loads(capsys.readouterr().out)["sentences"]
    assert sentence["readout"] == len(sentence["tokens"]) - 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--by", "alti"], "by must be asked for with a sentence"),
        ([TEXT, "--by", "alti/sideways"], "aggregator must be one of"),
        ([TEXT, "--by", "beauty/flow"], "edge weight must be one of"),
        ([TEXT, "--by", "head-8"], "head must be from 0 to 7, got 8"),
        ([TEXT, "--layer", "6"], "layer must be from -6 to 5 for this model, got 6"),
        ([TEXT, "--by", "effective/flow"], "effective attention needs"),
    ],
)
def test_requests_that_cannot_be_served_are_named(arguments, message, capsys):
    assert main(["edges", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_the_documentation_lists_what_there_is():
    spec = importlib.util.spec_from_file_location("catalogue", wheel.ROOT / "docs/catalogue.py")
    catalogue = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(catalogue)
    page = (wheel.ROOT / "docs/api/edges.md").read_text(encoding="utf-8")
    written = catalogue.on_page_markdown(page, page=None)
    for name in (*edge_weights(), *propagations()):
        if name.rpartition("-")[0] not in edge_families():
            assert f"\n| `{name}` | " in written
    for prefix in edge_families():
        assert f"\n| `{prefix}-NUMBER` | " in written
    assert catalogue.on_page_markdown("nothing to fill in") == "nothing to fill in"
