"""Test ``jaxflow reproduce pronouns`` end to end on a model that has learned a rule."""

from __future__ import annotations

import json

import pytest
import tiny_masked

from jaxflow.commands import main
from jaxflow.eval.pronouns.cases import BASELINES, METHODS
from jaxflow.eval.pronouns.schemas import read_schemas

FILES = {"pronouns.md", "pronouns.json", "config.json", "figure4.svg", "agreement.svg"}
OWN = "The king feared the queen because [MASK] was late. | king=he | queen=she"
COLUMNS = "pair\tsentence\treferent_1\tfiller_1\treferent_2\tfiller_2"


@pytest.fixture(scope="module")
def model():
    return str(tiny_masked.saved())


@pytest.fixture
def schemas(here):
    """Held-out sentences of the rule in pairs: all the same but the verb, which turns them."""
    by_words = {}
    for each in tiny_masked.held_out():
        key = (*each.referents, each.sentence.split("because")[1])
        by_words.setdefault(key, {}).setdefault(each.intended, each)
    lines = [f"{COLUMNS}\tintended"]
    pairs = [both for both in by_words.values() if len(both) == 2][:24]
    for number, both in enumerate(pairs):
        for each in both.values():
            named = [
                part for pair in zip(each.referents, each.fillers, strict=True) for part in pair
            ]
            meant = each.referents[each.intended]
            lines.append("\t".join([f"p{number}", each.sentence, *named, meant]))
    (here / "own.tsv").write_text("\n".join(lines), encoding="utf-8")
    return here / "own.tsv"


def test_what_is_written_follows_from_the_models_rule(model, schemas, here, capsys):
    options = ["--schemas", "own.tsv", "--out", "out", "--sentence", OWN]
    assert main(["reproduce", "pronouns", "--model", model, *options]) == 0
    assert {path.name for path in (here / "out").iterdir()} == FILES | {"sentences.svg"}
    found = json.loads((here / "out" / "pronouns.json").read_text(encoding="utf-8"))
    assert [each["sentence"] for each in found["own"]] == [OWN.split(" | ")[0]]
    assert found["own"][0]["probabilities"][1] > 0.9  # the rule: who is feared was late
    given = read_schemas(schemas)
    assert [each["sentence"] for each in found["sentences"]] == [each.sentence for each in given]

    # The rule is learned, so the model turns in (nearly) every pair.
    agreement = found["agreement"]
    assert agreement["model_intended"]["n"] == len(given) == 48
    assert agreement["model_intended"]["share"] > 0.95
    assert agreement["turned"]["baselines"]["first"]["n"] >= 20
    assert agreement["turned"]["baselines"]["first"]["share"] == 0
    assert set(agreement["sentences"]["methods"]) == set(METHODS)
    assert set(agreement["sentences"]["baselines"]) == set(BASELINES)
    printed = capsys.readouterr().out
    assert all(f"flow, {name}" in printed for name in ("king", "queen"))
    for name in FILES:
        assert f"wrote out/{name}" in printed
    made_with = json.loads((here / "out" / "config.json").read_text(encoding="utf-8"))
    assert (made_with["config"]["model"], made_with["config"]["schemas"]) == ("masked", "own.tsv")


def test_without_options_it_takes_the_bundled_sentences(model, here, capsys):
    assert main(["reproduce", "pronouns", "--model", model]) == 0
    out = here / "runs" / "pronouns-masked"
    assert {path.name for path in out.iterdir()} == FILES
    found = json.loads((out / "pronouns.json").read_text(encoding="utf-8"))
    assert len(found["sentences"]) == 100
    assert found["agreement"]["model_intended"]["n"] == 68
    assert "100 sentences. The model prefers" in capsys.readouterr().out
