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


@pytest.mark.parametrize("what", ["flow --run", "flow --data", "models --model"])
def test_what_is_not_there_is_one_line(what, capsys):
    assert main(["benchmark", *what.split(), "nowhere"]) == 2
    err = capsys.readouterr().err
    assert err.startswith("jaxflow: error: ")
    assert err.count("\n") == 1
    assert "nowhere" in err
