"""``jaxflow reproduce decoders``: what it trains, writes and prints, and what it refuses."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from small_corpus import ROWS, write_small_corpus

from jaxflow.commands import main
from jaxflow.commands.parser import parse
from jaxflow.train.config import TrainConfig
from jaxflow.train.run import write_json

FILES = {"tables.md", "tables.json", "config.json", "first-token.svg", "correlations.svg"}
SMALL = ["--layers", "1", "--heads", "2", "--width", "16", "--positions", "8"]  # one padded length


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a corpus and the results of a run of one epoch on it."""
    folder = tmp_path_factory.mktemp("decoders")
    data = write_small_corpus(folder / "agreement")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        options = ["--data", str(data), "--out", str(folder / "out"), "--batch", "64", *SMALL]
        assert main(["reproduce", "decoders", "--epochs", "1", "--samples", "25", *options]) == 0
    return folder


def test_a_causal_run_is_trained_and_its_files_are_written(made: Path) -> None:
    out = made / "out"
    assert {path.name for path in out.iterdir()} == FILES | {"run"}
    assert json.loads((out / "run" / "config.json").read_text())["causal"] is True
    record = json.loads((out / "tables.json").read_text())
    assert list(record["splits"]) == ["test", "subjects"]
    test, subjects = record["splits"]["test"], record["splits"]["subjects"]
    fitting = subjects["sentences"]  # of a split with fewer than were asked for, all are taken
    assert test["sentences"] == 25 > fitting > 1
    assert "subject" not in test["measures"]["tokens"]  # only one of them knows its subjects
    hits = subjects["measures"]["words"]["subject"]["rollout normalised"]
    assert len(hits) == 1
    assert 0 <= hits[0]["mean"] <= 1
    assert record["accuracy"]["test"]["n"] == ROWS["test"][0]
    text = (out / "tables.md").read_text(encoding="utf-8")
    assert f"## Split subjects: {fitting} sentences" in text
    mean = test["measures"]["tokens"]["position"]["raw"][0]["mean"]
    line = re.search(
        r"correlation with the position \(all tokens\).*?\*\*raw\*\* \| (\S+)", text, re.S
    )
    assert line is not None
    assert float(line[1]) == pytest.approx(mean, abs=0.0051)
    assert "<svg" in (out / "first-token.svg").read_text()


def test_a_finished_run_gives_the_same_numbers(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(made / "cache"))
    options = ["--run", str(made / "out" / "run"), "--split", "subjects", "--out", str(tmp_path)]
    assert main(["reproduce", "decoders", *options]) == 0
    again = json.loads((tmp_path / "tables.json").read_text())
    before = json.loads((made / "out" / "tables.json").read_text())
    assert list(again["splits"]) == ["subjects"]
    for name in ("measures", "changes", "relative", "bands"):
        assert again["splits"]["subjects"][name] == before["splits"]["subjects"][name]
    printed = capfd.readouterr().out
    assert f"Split subjects: {again['splits']['subjects']['sentences']} sentences" in printed
    assert f"wrote {tmp_path / 'correlations.svg'}" in printed


def test_causal_is_a_flag() -> None:
    assert parse(["train", "--out", "run", "--causal"]).options.config().causal  # type: ignore[attr-defined]
    assert not parse(["train", "--out", "run"]).options.config().causal  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("options", "part"),
    [
        (["--samples", "0"], "samples must be at least 1, got 0"),
        (["--split", "dev"], "split must be one of val, test, "),
        (["--run", "nowhere"], "no run at nowhere"),
        (["--run", "plain"], "the run at plain must be a causal one"),
        (["--run", "plain", "--flow-weight", "1"], "leave --flow-weight out"),
        (["--flow-weight", "1"], "flow_weight must be 0 for a causal encoder"),
    ],
)
def test_what_cannot_be_done_is_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    options: list[str],
    part: str,
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    write_small_corpus(tmp_path / "agreement")
    (tmp_path / "plain").mkdir()
    write_json(tmp_path / "plain" / "config.json", TrainConfig().to_dict())
    assert main(["reproduce", "decoders", "--data", "agreement", *options]) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert part in err
    assert err.count("\n") == 1
    assert not (tmp_path / "runs").exists()
