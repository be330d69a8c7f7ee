"""Test Tables 1 and 2 as JSON, CSV, Markdown and on consoles, and the files of a run."""

import csv
import io
import itertools
import json
import math
import re
from pathlib import Path, PurePosixPath
from types import MappingProxyType

import numpy as np
import pytest
from rich.console import Console

from jaxflow.errors import InputError
from jaxflow.eval.paper.claims import DOES_NOT_HOLD, NOT_DECIDED, Claim, judge_claims
from jaxflow.eval.paper.report import Evaluation, markdown, print_report, record, write_reports
from jaxflow.eval.paper.scores import ENTROPY_ROWS, ROWS, TARGETS, SentenceScores
from jaxflow.eval.paper.tables import AGREEMENT, Tables, beside_paper, build_tables, to_csv
from jaxflow.eval.report import json_text
from jaxflow.eval.stats import Cell, summarise

GOLDEN = Path(__file__).parent / "golden_tables.md"
NAN = math.nan
PAPER = {row: [m for m, _ in cells] for row, cells in AGREEMENT.tables["blank_out"].items()}
FILES = ["config.json", "scores.npz", "tables.csv", "tables.json", "tables.md"]
CLAIMS = (
    Claim("C1", "raw falls", "blank_out", DOES_NOT_HOLD, -0.4, (-0.5, -0.3), 1e-9, 2e-9, 9, "So."),
    Claim("C4", "flow spreads", None, NOT_DECIDED, NAN, (NAN, NAN), NAN, NAN, 1, "One only."),
)


def printed(scores, width, **options):
    out = io.StringIO()
    console = Console(file=out, width=width, **options)
    accuracy = {"test": {"accuracy": 0.971, "n": 12}, "test_1": {"accuracy": 0.9}}
    print_report(console, Evaluation(build_tables(scores), judge_claims(scores), accuracy))
    return out.getvalue()


def chosen_tables(layers):
    def row(start):
        means = [start + layer / 10 for layer in range(layers)]
        return tuple(Cell(mean, 0.25, (mean - 0.02, mean + 0.02), 9, 0) for mean in means)

    starts = dict(zip(ROWS, (-0.3, 0.1, 0.32, 0.4, -0.001, 0.5), strict=True))
    correlations = {t: {name: row(starts[name]) for name in ROWS} for t in TARGETS}
    undefined = Cell(NAN, NAN, (NAN, NAN), 0, 9)
    correlations["gradient"]["raw"] = (*correlations["gradient"]["raw"][:-1], undefined)
    return Tables(correlations, row(0.1), {n: row(0.2) for n in ENTROPY_ROWS}, 9)


def test_every_cell_is_the_summary_of_its_scores(make_scores):
    scores = make_scores(PAPER)
    scores.correlations["gradient"]["raw"][4, 2] = np.nan
    tables = build_tables(scores, seed=3)
    for target, row in itertools.product(TARGETS, ROWS):
        alone = summarise(scores.correlations[target][row], 3)
        for cell, oracle in zip(tables.correlations[target][row], alone, strict=True):
            assert (cell.mean, *cell.ci95) == pytest.approx((oracle.mean, *oracle.ci95))
            assert (cell.n, cell.nan) == (oracle.n, oracle.nan)
    assert tables.correlations["gradient"]["raw"][2].nan == 1
    kinds = [(tables.saturation, scores["saturated"])]
    kinds += [(cells, scores[f"entropy/{row}"]) for row, cells in tables.entropy.items()]
    for cells, values in kinds:
        np.testing.assert_allclose([cell.mean for cell in cells], values.mean(0))
    assert (tables.sentences, tables.layers) == (60, 6)


def test_json_has_the_promised_form(make_scores):
    scores = make_scores(PAPER)
    scores.correlations["blank_out"]["random"][:] = np.nan
    made_with = {"seed": 1, "share": np.float32(0.5), "data": PurePosixPath("a/b"), "limit": np.inf}
    accuracy = {"test": {"accuracy": np.float64(0.97)}, "test.5": {"accuracy": NAN, "n": 0}}
    found = Evaluation(build_tables(scores), judge_claims(scores), accuracy)
    content = record(found, {"config": made_with, "versions": {"jax": "0.10"}})
    result = json.loads(json_text(content), parse_constant=pytest.fail)
    assert list(result) == [
        *("tables", "saturation", "entropy", "claims"),
        *("accuracy", "accuracy_by_split", "samples", "config", "versions"),
    ]
    assert list(result["tables"]) == ["blank_out", "gradient", "gradient_norm"]
    assert all(list(rows) == list(ROWS) for rows in result["tables"].values())
    assert len(result["tables"]["gradient"]["raw"]) == len(result["saturation"]) == 6
    undefined = result["tables"]["blank_out"]["random"][0]
    assert undefined == {"mean": None, "std": None, "ci95": [None, None], "n": 0, "nan": 60}
    assert (result["samples"], result["accuracy"]) == (60, 0.97)
    undecided = {"accuracy": None, "n": 0}
    assert result["accuracy_by_split"] == {"test": {"accuracy": 0.97}, "test.5": undecided}
    assert result["config"] == {"seed": 1, "share": 0.5, "data": "a/b", "limit": None}
    assert {"verdict", "effect", "ci95", "p", "p_holm", "n", "detail"} < set(result["claims"][0])


def test_csv_can_be_read_back(make_scores):
    scores = make_scores(PAPER)
    scores.correlations["gradient"]["position"][:] = np.nan
    tables = build_tables(scores)
    lines = list(csv.DictReader(io.StringIO(to_csv(tables))))
    assert len(lines) == 3 * 6 * 6
    for line in lines:
        cell = tables.correlations[line["target"]][line["row"]][int(line["layer"]) - 1]
        assert (int(line["n"]), int(line["nan"])) == (cell.n, cell.nan)
        if line["row"] == "position" and line["target"] == "gradient":
            assert line["mean"] == line["ci_low"] == ""
        else:
            assert float(line["mean"]) == pytest.approx(cell.mean, abs=1e-11)
            assert float(line["ci_high"]) == pytest.approx(cell.ci95[1], abs=1e-11)
        if line["row"] in PAPER and line["target"] in AGREEMENT.tables:
            gap = float(line["mean"]) - float(line["paper_mean"])
            assert float(line["difference"]) == pytest.approx(gap, abs=1e-11)
        else:
            assert line["paper_mean"] == line["paper_std"] == line["difference"] == ""
    assert lines[0]["paper_std"] == "0.27"


def test_the_papers_numbers_are_compared_at_its_own_depth_only(make_scores):
    # Typed once more, row by row, from the published tables.
    rows = {
        ("blank_out", "raw"): "69±27 10±43 -11±49 -9±52 20±45 29±39",
        ("blank_out", "rollout"): "32±26 38±27 51±26 62±26 70±25 71±24",
        ("blank_out", "flow"): "32±26 44±29 70±25 70±22 71±22 70±22",
        ("gradient", "raw"): "53±33 16±38 -6±42 0±47 24±40 46±35",
        ("gradient", "rollout"): "22±31 27±32 39±32 47±32 53±32 54±31",
        ("gradient", "flow"): "22±31 31±34 54±32 61±28 60±28 61±28",
    }
    for (target, row), text in rows.items():
        cells = [f"{mean * 100:.0f}±{std * 100:.0f}" for mean, std in AGREEMENT.tables[target][row]]
        assert " ".join(cells) == text
    tables = build_tables(make_scores(PAPER, noise=0.0))
    assert beside_paper(tables, "blank_out", "rollout")[4] == pytest.approx((0.70, 0.25, 0.0))
    assert beside_paper(tables, "blank_out", "column_sum") is None
    assert beside_paper(build_tables(make_scores(layers=4)), "blank_out", "rollout") is None


def test_the_markdown_document_is_the_golden_one():
    accuracy = {
        "test": {"accuracy": 0.971, "n": 12, "too_long": 0},
        "test.5": {"accuracy": NAN, "n": 0},
    }
    document = markdown(
        Evaluation(chosen_tables(6), CLAIMS, accuracy),
        {"config": {"seed": 0}, "versions": {"jax": "0.10.0"}},
    )
    assert document == GOLDEN.read_text(encoding="utf-8")
    other = markdown(Evaluation(chosen_tables(4)))
    assert "No comparison with the paper: its model has 6 layers, this one has 4." in other
    assert not re.search("L5|differs|Claims|Made with", other)


def test_a_console_of_80_columns_shows_six_layers_at_once_and_explains_names(make_scores):
    text = printed(make_scores(PAPER, {"rollout": 0.4, "flow": 0.7}), 80)
    lines = text.splitlines()
    assert max(map(len, lines)) <= 80
    start = lines.index("Table 1: Spearman's correlation with blank-out")
    assert lines[start + 1].split() == ["L1", "L2", "L3", "L4", "L5", "L6"]
    assert [line.split()[0] for line in lines[start + 2 : start + 6]] == [
        *("raw", "95", "paper", "differs")
    ]
    assert lines[start + 4].split()[1:4] == [".69±.27", ".10±.43", "-.11±.49"]
    assert re.search(r"C4 .*\n +holds +\+\.\d\d \[\.\d\d, \.\d\d\] +p <\.001  n 60\n", text)
    words = " ".join(text.split())
    assert re.search(r"test_1 0\.9000", words)
    assert "that many attractors: nouns between subject and verb" in words
    assert "C1 to C5 are claims of the paper, E1 to E3 questions" in words
    assert "\x1b" not in text
    coloured = printed(make_scores(PAPER), 80, force_terminal=True, color_system="standard")
    assert re.search("\x1b\\[3[123]m(holds|does not hold|not decided)", coloured)


def test_the_report_counts_what_was_left_out(make_scores):
    scores = make_scores(layers=4)
    scores.correlations["gradient"]["raw"][:3, 1] = np.nan
    words = " ".join(printed(scores, 80).split())
    assert "in the layer with most: raw 3 (input gradients)." in words
    assert "No comparison with the paper: its model has 6 layers, this one has 4." in words


def write(out, scores, config=MappingProxyType({"seed": 4}), extra=None):
    found = Evaluation(build_tables(scores), judge_claims(scores), scores=scores)
    return write_reports(out, found, {"config": config, "versions": {"jax": "0.10"}}, extra).files


def test_the_files_of_a_run_are_the_same_bytes_each_time_and_whole(make_scores, tmp_path):
    scores = make_scores(PAPER)
    one, two = tmp_path / "one" / "run", tmp_path / "two" / "run"
    for out in (one, two):
        written = write(out, scores, extra={"gold": np.zeros(60, int)})
        assert sorted(path.name for path in written) == FILES
        assert sorted(path.name for path in out.iterdir()) == FILES
    before = {name: (one / name).read_bytes() for name in FILES}
    made_with = json.loads(before["config.json"])
    assert made_with == {"config": {"seed": 4}, "versions": {"jax": "0.10"}}
    loaded = SentenceScores.load(two / "scores.npz")
    np.testing.assert_array_equal(loaded["saturated"], scores["saturated"])
    # What cannot be written leaves what is there.
    other = make_scores(PAPER, sentences=9)
    for out, options, message in (
        (two, {"extra": {"length": np.zeros(9)}}, "names of its own"),
        (two, {"config": {1, 2}}, "numbers, strings, lists and mappings"),
        (two / "tables.md", {}, "cannot write to the folder"),
    ):
        with pytest.raises(InputError, match=message):
            write(out, other, **options)
    assert {path.name: path.read_bytes() for path in two.iterdir()} == before
