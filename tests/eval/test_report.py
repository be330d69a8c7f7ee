"""The printed report keeps every number at any width; the files of a run come all or not at all."""

import io
import json
import re

import numpy as np
import pytest
from rich.console import Console

from jaxflow.errors import InputError
from jaxflow.eval.paper import reference as paper
from jaxflow.eval.paper.claims import judge_claims
from jaxflow.eval.paper.report import print_report, write_reports
from jaxflow.eval.paper.scores import SentenceScores
from jaxflow.eval.paper.tables import build_tables
from jaxflow.eval.report.text import mean_std, short
from jaxflow.files import write_together

PAPER = {
    row: [mean for mean, _ in paper.TABLES["blank_out"][row]] for row in ("raw", "rollout", "flow")
}
PRINTED_RAW = ["paper", ".69±.27", ".10±.43", "-.11±.49", "-.09±.52", ".20±.45", ".29±.39"]
FILES = ["config.json", "scores.npz", "tables.csv", "tables.json", "tables.md"]


def printed(scores, width, **options):
    out = io.StringIO()
    console = Console(file=out, width=width, **options)
    print_report(console, build_tables(scores), judge_claims(scores), accuracy={"overall": 0.971})
    return out.getvalue()


@pytest.mark.parametrize(("width", "layers"), [(80, 6), (100, 6), (80, 12), (60, 6), (30, 3)])
def test_no_number_is_cut_at_any_width(make_scores, width, layers):
    scores = make_scores({"raw": -0.41, "flow": -0.52}, layers=layers, noise=0.2)
    text = printed(scores, width)
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= width
    means = [
        mean_std(cell.mean, cell.std)
        for rows in build_tables(scores).correlations.values()
        for cells in rows.values()
        for cell in cells
    ]
    found = re.findall(r"-?\d*\.\d\d±\.\d\d", text)
    for number in set(means):
        assert found.count(number) >= means.count(number)
    for layer in range(layers):
        assert f"L{layer + 1}" in text.split()


def test_six_layers_are_one_block_in_80_columns(make_scores):
    lines = printed(make_scores(PAPER), 80).splitlines()
    start = lines.index("Table 1: Spearman's correlation with blank-out")
    assert lines[start + 1].split() == ["L1", "L2", "L3", "L4", "L5", "L6"]
    raw, interval, theirs, gap = lines[start + 2 : start + 6]
    assert raw.split()[0] == "raw"
    assert interval.split()[:2] == ["95", "%"]
    assert len(re.findall(r"\[-?[\d.]+,-?[\d.]+\]", interval)) == 6
    assert theirs.split() == PRINTED_RAW
    tables = build_tables(make_scores(PAPER))
    ours = tables.correlations["blank_out"]["raw"]
    gaps = [cell.mean - mean for cell, mean in zip(ours, PAPER["raw"], strict=True)]
    assert gap.split() == ["differs", *(short(x, sign=True) for x in gaps)]


def test_a_pipe_gets_no_escape_codes_and_a_terminal_gets_colour(make_scores):
    scores = make_scores(PAPER, {"rollout": 0.4, "flow": 0.7})
    assert "\x1b" not in printed(scores, 80)
    coloured = printed(scores, 80, force_terminal=True, color_system="standard")
    assert "\x1b[32mholds" in coloured


def test_the_report_says_what_was_left_out_and_what_was_not_compared(make_scores):
    scores = make_scores(layers=4)
    scores.correlations["gradient"]["raw"][:3, 1] = np.nan
    words = " ".join(printed(scores, 80).split())
    assert "in the layer with most: raw 3 (input gradients)." in words
    assert "No comparison with the paper: its model has 6 layers, this one has 4." in words
    assert "accuracy, overall: 0.9710" in words
    assert "paper .69" not in words


def test_claims_are_printed_with_verdict_and_effect(make_scores):
    text = printed(make_scores(PAPER, {"rollout": 0.4, "flow": 0.7}), 80)
    assert re.search(r"C4 .*\n +holds +\+\.\d\d \[\.\d\d, \.\d\d\] +p <\.001  n 60\n", text)
    assert "any model is beyond one run" in " ".join(text.split())


def arguments(scores):
    return {
        "scores": scores,
        "tables": build_tables(scores),
        "claims": judge_claims(scores),
        "accuracy": 0.97,
        "config": {"seed": 4},
        "versions": {"jax": "0.10"},
    }


def test_the_files_of_a_run(make_scores, tmp_path):
    scores = make_scores(PAPER)
    out = tmp_path / "new" / "run"
    written = write_reports(out, **arguments(scores), extra={"gold": np.zeros(60, int)})
    assert sorted(path.name for path in written) == FILES
    assert sorted(path.name for path in out.iterdir()) == FILES
    assert json.loads((out / "config.json").read_text()) == {
        "config": {"seed": 4},
        "versions": {"jax": "0.10"},
    }
    result = json.loads((out / "tables.json").read_text())
    assert (result["accuracy"], result["samples"], len(result["claims"])) == (0.97, 60, 31)
    loaded = SentenceScores.load(out / "scores.npz")
    np.testing.assert_array_equal(loaded.saturated, scores.saturated)
    assert "Table 2" in (out / "tables.md").read_text(encoding="utf-8")
    assert (out / "tables.csv").read_text().count("\n") == 1 + 3 * 6 * 6


def test_the_same_run_writes_the_same_bytes(make_scores, tmp_path):
    for name in ("one", "two"):
        write_reports(tmp_path / name, **arguments(make_scores(PAPER)))
    for name in FILES:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_a_run_that_cannot_be_written_leaves_the_last_one_whole(make_scores, tmp_path):
    scores = make_scores(PAPER, sentences=8)
    write_reports(tmp_path, **arguments(scores))
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    other = make_scores(PAPER, sentences=9)
    with pytest.raises(InputError, match="names of its own"):
        write_reports(tmp_path, **arguments(other), extra={"length": np.zeros(9)})
    with pytest.raises(InputError, match="must be made of"):
        write_reports(tmp_path, **{**arguments(other), "config": {1, 2}})
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_folder_that_is_a_file_is_refused(make_scores, tmp_path):
    (tmp_path / "out").write_text("in the way")
    for folder in (tmp_path / "out", tmp_path / "out" / "deeper"):
        with pytest.raises(InputError, match="cannot write to the folder") as caught:
            write_reports(folder, **arguments(make_scores(sentences=3)))
        assert "\n" not in str(caught.value)
    assert (tmp_path / "out").read_text() == "in the way"


def test_a_full_disk_is_one_sentence_and_no_leftover(tmp_path):
    def full(part):
        part.write_text("half")
        raise OSError(28, "No space left on device")

    (tmp_path / "a").write_text("old")
    with pytest.raises(InputError, match="No space left on device"):
        write_together(tmp_path, {"a": lambda part: part.write_text("new") and None, "b": full})
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("a", "old")]
