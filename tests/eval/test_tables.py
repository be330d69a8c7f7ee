"""tables.json and tables.csv: the promised form, strict JSON, the paper's numbers beside ours."""

import csv
import io
import json
from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np
import pytest

from jaxflow.errors import InputError
from jaxflow.eval.paper import reference as paper
from jaxflow.eval.paper.claims import judge_claims
from jaxflow.eval.paper.scores import ROWS, TARGETS
from jaxflow.eval.paper.tables import beside_paper, build_tables, record, to_csv
from jaxflow.eval.report.text import json_text
from jaxflow.eval.stats import summarise

PAPER = {
    row: [mean for mean, _ in paper.TABLES["blank_out"][row]] for row in ("raw", "rollout", "flow")
}


def strict(text):
    def refuse(name):
        raise AssertionError(f"{name} is not JSON")

    return json.loads(text, parse_constant=refuse)


def check_cell(cell):
    assert list(cell) == ["mean", "std", "ci95", "n", "nan"]
    assert len(cell["ci95"]) == 2
    assert type(cell["n"]) is int
    assert type(cell["nan"]) is int


@dataclass(frozen=True)
class Config:
    seed: int
    share: np.float32
    data: PurePosixPath
    limit: float = float("inf")


def test_every_cell_is_the_summary_of_its_scores(make_scores):
    scores = make_scores(PAPER)
    scores.correlations["gradient"]["raw"][4, 2] = np.nan
    tables = build_tables(scores, seed=3)
    for target in TARGETS:
        for row in ROWS:
            alone = summarise(scores.correlations[target][row], 3)
            for cell, oracle in zip(tables.correlations[target][row], alone, strict=True):
                assert cell.mean == pytest.approx(oracle.mean, abs=1e-14)
                assert cell.ci95 == pytest.approx(oracle.ci95, abs=1e-14)
                assert (cell.n, cell.nan) == (oracle.n, oracle.nan)
    assert tables.correlations["gradient"]["raw"][2].nan == 1
    np.testing.assert_allclose([c.mean for c in tables.saturation], scores.saturated.mean(0))
    for row, values in scores.entropy.items():
        np.testing.assert_allclose([c.mean for c in tables.entropy[row]], values.mean(0))
    assert (tables.sentences, tables.layers) == (60, 6)


def test_json_has_the_promised_form(make_scores):
    scores = make_scores(PAPER, layers=6)
    scores.correlations["blank_out"]["random"][:] = np.nan
    text = json_text(
        record(
            build_tables(scores),
            claims=judge_claims(scores),
            accuracy={"overall": np.float64(0.97), "attractors": {0: 0.98}},
            accuracy_by_split={"test.5": {"accuracy": float("nan"), "n": 0}},
            config=Config(1, np.float32(0.5), PurePosixPath("data/agreement")),
            versions={"jax": "0.10"},
        )
    )
    result = strict(text)
    assert set(result) == {
        *("tables", "saturation", "entropy", "claims"),
        *("accuracy", "accuracy_by_split", "samples", "config", "versions"),
    }
    assert list(result["tables"]) == ["blank_out", "gradient", "gradient_norm"]
    for rows in result["tables"].values():
        assert list(rows) == list(ROWS)
        for cells in rows.values():
            assert len(cells) == 6
            for cell in cells:
                check_cell(cell)
    for cell in result["saturation"]:
        check_cell(cell)
    undefined = result["tables"]["blank_out"]["random"][0]
    assert undefined == {"mean": None, "std": None, "ci95": [None, None], "n": 0, "nan": 60}
    assert result["samples"] == 60
    assert result["accuracy"] == {"overall": 0.97, "attractors": {"0": 0.98}}
    assert result["accuracy_by_split"] == {"test.5": {"accuracy": None, "n": 0}}
    assert result["config"] == {"seed": 1, "share": 0.5, "data": "data/agreement", "limit": None}
    assert result["versions"] == {"jax": "0.10"}
    assert [claim["name"] for claim in result["claims"]][:4] == ["C1", "C1", "C1", "C2"]
    assert {"verdict", "effect", "ci95", "p", "p_holm", "n", "detail"} < set(result["claims"][0])


def test_what_json_cannot_hold_is_refused(make_scores):
    with pytest.raises(InputError, match="numbers, strings, lists and mappings, got <object"):
        record(build_tables(make_scores()), config={"model": object()})


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
        if line["row"] in PAPER and line["target"] in paper.TABLES:
            gap = float(line["mean"]) - float(line["paper_mean"])
            assert float(line["difference"]) == pytest.approx(gap, abs=1e-11)
        else:
            assert line["paper_mean"] == line["paper_std"] == line["difference"] == ""
    assert lines[0]["paper_std"] == "0.27"


def test_the_papers_rows_are_compared_at_its_own_depth_only(make_scores):
    tables = build_tables(make_scores(PAPER, noise=0.0))
    compared = beside_paper(tables, "blank_out", "rollout")
    assert compared[4] == pytest.approx((0.70, 0.25, 0.0))
    assert beside_paper(tables, "blank_out", "column_sum") is None
    assert beside_paper(build_tables(make_scores(layers=4)), "blank_out", "rollout") is None


def test_the_papers_numbers():
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
        cells = [f"{mean * 100:.0f}±{std * 100:.0f}" for mean, std in paper.TABLES[target][row]]
        assert " ".join(cells) == text
    with pytest.raises(TypeError):
        paper.TABLES["blank_out"]["raw"] = ()
