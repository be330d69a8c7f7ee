"""``jaxflow reproduce pronouns``, end to end on a model that has learned a rule."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
import tiny_masked

from jaxflow.commands import main
from jaxflow.eval.pronouns.cases import BASELINES, METHODS
from jaxflow.eval.pronouns.schemas import read_schemas
from jaxflow.models import save_pretrained, with_head

FILES = {"pronouns.md", "pronouns.json", "config.json", "figure4.svg", "agreement.svg"}
OWN = "The king feared the queen because [MASK] was late. | king=he | queen=she"


def run(*arguments):
    return main(["reproduce", "pronouns", *map(str, arguments)])


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / "tiny"
    save_pretrained(path, tiny_masked.trained())
    return path


@pytest.fixture
def schemas(tmp_path):
    """Held-out sentences of the rule in pairs: all the same but the verb, which turns them."""
    lines = ["pair\tsentence\treferent_1\tfiller_1\treferent_2\tfiller_2\tintended"]
    by_words = {}
    for each in tiny_masked.held_out():
        key = (*each.referents, each.sentence.split("because")[1])
        by_words.setdefault(key, {}).setdefault(each.intended, each)
    pairs = [both for both in by_words.values() if len(both) == 2][:24]
    for number, both in enumerate(pairs):
        for each in both.values():
            columns = [f"p{number}", each.sentence]
            for name, filler in zip(each.referents, each.fillers, strict=True):
                columns += [name, filler]
            lines.append("\t".join([*columns, each.referents[each.intended]]))
    path = tmp_path / "own.tsv"
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def check_refusal(code, message, capsys):
    """One line on standard error, exit status 2 and nothing printed."""
    captured = capsys.readouterr()
    assert code == 2
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    assert re.search(message, line), line


def preferred(first, second):
    return int(second > first)


def test_what_it_writes_is_what_the_models_rule_makes_of_the_sentences(
    model, schemas, tmp_path, capsys
):
    out = tmp_path / "out"
    assert run("--model", model, "--schemas", schemas, "--out", out, "--sentence", OWN) == 0
    assert {path.name for path in out.iterdir()} == FILES | {"sentences.svg"}
    found = json.loads((out / "pronouns.json").read_text(encoding="utf-8"))
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

    # Shares once more, from the weights in the file.
    for method in METHODS:
        for layer in range(2):
            agree = [
                preferred(*each["weights"][method][layer]) == preferred(*each["probabilities"])
                for each in found["sentences"]
            ]
            share = agreement["sentences"]["methods"][method][layer]
            assert share["n"] + share["ties"] == 48
            assert share["share"] == pytest.approx(np.mean(agree))
    printed = capsys.readouterr().out
    for line in ("The author talked to Sara about [MASK] book.", "Mary convinced John of [MASK]"):
        assert line in printed
    blocks = printed.split("Model: ")[1:]  # a sentence each, in the order of the file
    for block, each in zip(blocks, (*found["paper"], *found["own"]), strict=True):
        for which, name in enumerate(each["referents"]):
            for method in METHODS:
                (numbers,) = re.findall(rf"^{method}, {name} +(.*)$", block, re.MULTILINE)
                weights = [layer[which] for layer in each["weights"][method]]
                read = [float(number) for number in numbers.split()]
                assert read == pytest.approx(weights, abs=6e-4)
    assert set(agreement["sentences"]["baselines"]) == set(BASELINES)
    for name in FILES:
        assert f"wrote {out / name}" in printed
    made_with = json.loads((out / "config.json").read_text(encoding="utf-8"))
    assert made_with["config"]["model"] == "tiny"
    assert made_with["config"]["schemas"] == str(schemas)
    page = (out / "pronouns.md").read_text(encoding="utf-8")
    assert page.count("## ") >= 7
    tables = [line for line in page.splitlines() if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in tables} == {4}


def test_without_options_it_takes_the_sentences_that_come_along(
    model, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    assert run("--model", model) == 0
    out = tmp_path / "runs" / "pronouns-tiny"
    assert {path.name for path in out.iterdir()} == FILES
    found = json.loads((out / "pronouns.json").read_text(encoding="utf-8"))
    assert len(found["sentences"]) == 100
    assert found["agreement"]["model_intended"]["n"] == 68
    assert str(tmp_path) not in (out / "pronouns.json").read_text(encoding="utf-8")
    assert "100 sentences. The model prefers" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--sentence", "Ann met [MASK]."], "a sentence must be given as"),
        (["--schemas", "none.tsv"], r"none\.tsv cannot be read"),
        (["--out", "file/inside"], "file/inside cannot be written: Not a directory"),
        (["--model", "nowhere/at/all"], "nowhere"),
    ],
)
def test_what_is_refused_writes_nothing(arguments, message, model, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("", encoding="utf-8")
    if "--model" not in arguments:
        arguments = ["--model", model, *arguments]
    check_refusal(run(*arguments), message, capsys)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_model_without_masked_words_is_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    save_pretrained(tmp_path / "bare", with_head(tiny_masked.trained(), "none"))
    check_refusal(run("--model", tmp_path / "bare"), "tensors in .*bare", capsys)
    assert not (tmp_path / "runs").exists()


def test_a_referent_that_the_schema_names_wrongly_is_named_with_its_line(
    model, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    text = "pair\tsentence\treferent_1\tfiller_1\treferent_2\tfiller_2\n"
    text += "a\tThe king led the queen as [MASK] knew.\tking\tgrandson\tqueen\tshe\n"
    (tmp_path / "own.tsv").write_text(text, encoding="utf-8")
    code = run("--model", model, "--schemas", "own.tsv")
    check_refusal(code, r"own\.tsv, line 2: the filler 'grandson' must be one word piece", capsys)
