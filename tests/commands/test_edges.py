"""Test ``jaxflow edges``: the list of methods, and scores against the library."""

from __future__ import annotations

import importlib.util
import json

import numpy as np
import pytest
import wheel
from tiny_models import tiny, tiny_decoder

import jaxflow
from jaxflow.commands import main
from jaxflow.edges import (
    AGGREGATORS,
    aggregate,
    edge_families,
    edge_weights,
    propagate,
    propagations,
)
from jaxflow.models import save_pretrained, trace

TEXT = "the keys to the cabinet"


def test_all_that_there_is_is_listed_and_works(capsys):
    assert main(["edges"]) == 0
    out = capsys.readouterr().out
    first = {line.split(" ")[0] for line in out.splitlines()}
    assert {*edge_weights(), *propagations()} <= first
    assert {f"{prefix}-NUMBER:" for prefix in edge_families()} <= first
    assert out.rstrip().endswith(f"aggregators: {', '.join(AGGREGATORS)}")
    names = [line.split()[0] for line in out.splitlines()[1:-1] if line[0] != " "]
    names = [name.replace("-NUMBER:", "-0") for name in names]
    asked = [part for name in names for part in ("--by", name)]
    long = "the keys to " * 6  # more tokens than a head is wide, for effective attention
    assert main(["edges", long, *asked, "--json"]) == 0
    (sentence,) = json.loads(capsys.readouterr().out)["sentences"]
    assert [name.removesuffix("/rollout") for name in sentence["scores"]] == names
    assert all(np.any(values) for values in sentence["scores"].values())


def test_scores_are_those_of_the_library(agreement, capsys):
    found = trace(agreement, agreement.whole_words.encode_batch([TEXT]))
    methods = ("alti/flow", "norm", "head-2/none")
    asked = [part for name in methods for part in ("--by", name)]
    assert main(["edges", TEXT, *asked, "--json"]) == 0
    (sentence,) = json.loads(capsys.readouterr().out)["sentences"]
    assert [token["text"] for token in sentence["tokens"]] == ["[CLS]", *TEXT.split()]
    assert list(sentence["scores"]) == ["alti/flow", "norm/rollout", "head-2/none"]
    for name, values in sentence["scores"].items():
        expected = np.asarray(aggregate(found, *name.split("/"), sources=0))[0, :, 0]
        np.testing.assert_allclose(values, expected, rtol=1e-4, atol=1e-6)

    assert main(["edges", TEXT, *asked, "--layer", "1"]) == 0
    out = capsys.readouterr().out
    assert "of [CLS] after layer 2 of 6" in out
    row = next(line for line in out.splitlines() if line.startswith("keys")).split()
    shown = [sentence["scores"][name][1][2] for name in sentence["scores"]]
    np.testing.assert_allclose([float(cell) for cell in row[1:]], shown, atol=6e-4)


HEADS = {"head": "masked-lm"}, {"head": "lm", "causal": True}, {"head": "none"}


@pytest.mark.parametrize("changes", HEADS, ids=lambda changes: changes["head"])
def test_defaults_suit_every_head_and_no_real_token_is_masked(here, capsys, changes):
    found = []
    for pad in (0, 6):  # the number of "key": what the tokenizer returned is real
        save_pretrained(here / f"model-{pad}", tiny(**changes, pad_id=pad))
        assert main(["edges", "the key [MASK]", "--model", f"model-{pad}", "--json"]) == 0
        found.append(json.loads(capsys.readouterr().out)["sentences"][0])
    assert found[0] == found[1]
    last = len(found[0]["tokens"]) - 1
    assert found[0]["readout"] == {"masked-lm": 3, "lm": last, "none": 0}[changes["head"]]
    gradients = {name for name in found[0]["scores"] if name.startswith("gradient")}
    assert bool(gradients) == (changes["head"] != "none")


EXPERTS = {
    "kind": "gpt_oss", "sinks": True, "experts": 3, "chosen": 2, "biases": ("qkv", "out"),
}  # fmt: skip


@pytest.mark.parametrize("changes", [{}, EXPERTS], ids=["llama", "gpt_oss"])
def test_decoders_have_the_edge_weights_that_have_rules(here, capsys, changes):
    model = tiny_decoder(**changes)
    save_pretrained(here / "model", model)
    names = ["raw/rollout", "alti/rollout"]
    ruled = ["transformer-attribution/paths", "decompx"]
    given = ["--model", "model", "--json"]
    asked = [part for name in names + ruled * (not changes) for part in ("--by", name)]
    assert main(["edges", TEXT, *given, *asked]) == 0
    (sentence,) = json.loads(capsys.readouterr().out)["sentences"]
    ids = np.array([model.text.read(TEXT).ids], np.int32)
    place = len(ids[0]) - 1
    assert sentence["readout"] == place
    found = trace(model, ids, target=lambda logits: logits[:, place].max(-1))
    for name, values in sentence["scores"].items():
        if name == "decompx":
            expected = propagate(found, name)[0, :, place]
        else:
            expected = aggregate(found, *name.split("/"), sources=place)[0, :, 0]
        np.testing.assert_allclose(values, expected, rtol=1e-3, atol=1e-5, err_msg=name)
    assert main(["explain", TEXT, *given[:2], "--by", "rollout", "--by", "alti/rollout"]) == 0
    assert ("Attention sinks, which are no tokens" in capsys.readouterr().out) == bool(changes)
    for name in ruled if changes else ():
        assert main(["edges", TEXT, *given[:2], "--by", name]) == 2
        assert "experts" in capsys.readouterr().err


def test_the_label_that_is_named_is_explained(here, capsys):
    model = tiny(problem="regression")
    save_pretrained(here / "model", model)
    ids = model.text.encode_batch(["the keys"])
    asked = ["edges", "the keys", "--model", "model", "--by", "gradient/product"]
    for label, number in (("neutral", 1), ("2", 2)):
        found = trace(model, ids, target=lambda logits, number=number: logits[:, number])
        expected = np.asarray(aggregate(found, "gradient", "product", sources=0))[0, :, 0]
        assert main([*asked, "--label", label, "--json"]) == 0
        (sentence,) = json.loads(capsys.readouterr().out)["sentences"]
        np.testing.assert_allclose(sentence["scores"]["gradient/product"], expected, atol=1e-6)


def test_flow_at_its_bound_is_said(agreement, capsys):
    found = trace(agreement, agreement.whole_words.encode_batch([TEXT]))
    attention = np.asarray(found.attention)[0]
    count = int(jaxflow.saturation(attention, sources=0).reached[-1, 0].sum())
    assert count
    assert main(["edges", TEXT, "--by", "raw/flow"]) == 0
    assert f"raw/flow is at its bound for {count} of 6 tokens" in capsys.readouterr().out


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
