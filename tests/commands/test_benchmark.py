"""Test the tables and the record of ``jaxflow benchmark``, not its times."""

import json

import pytest

from jaxflow.commands import main


def test_the_command_prints_tables_and_writes_its_record(tmp_path, capsys):
    file = tmp_path / "new" / "record.json"
    arguments = ["benchmark", "rollout", "--tokens", "3,4", "--layers", "2", "--json"]
    assert main([*arguments, str(file)]) == 0
    out = capsys.readouterr().out
    assert "Contenders take turns" in out
    assert "error: largest absolute difference from NumPy in float64" in out
    found = json.loads(file.read_text(encoding="utf-8"))
    assert [one["settings"]["tokens"] for one in found["comparisons"]] == [3, 4]
    for comparison in found["comparisons"]:
        assert comparison["contenders"][0]["ratio"] == 1
        assert comparison["contenders"][0]["name"] in out
    assert {"processor", "cores", "memory", "system", "load"} == set(found["machine"])
    assert "jaxflow" in found["versions"]

    assert main([*arguments, "-"]) == 0
    captured = capsys.readouterr()
    assert set(json.loads(captured.out)) == set(found)
    assert "einsum in jit" in captured.err


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["flow", "--tokens", "many"], "tokens must be whole numbers"),
        (["flow", "--tokens", "1"], "at least 2"),
        (["rollout", "--layers", "0"], "layers must be at least 1"),
        (["flow", "--run", "nowhere"], "no run at nowhere"),
        (["flow", "--data", "nowhere"], "nowhere"),
        (["flow", "--run", "one", "--data", "two"], "expected one of them"),
        (["flow", "--model", "folder"], "--model is for the benchmark models"),
        (["models", "--model", "nowhere"], "nowhere"),
        (["nothing"], "nothing"),
    ],
)
def test_bad_options_are_one_line(arguments, part, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["benchmark", *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("jaxflow: error: ")
    assert captured.err.count("\n") == 1
    assert part in captured.err
