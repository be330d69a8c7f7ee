"""Goals, page and plots of a record whose figures are known."""

import json
import xml.etree.ElementTree as ElementTree

import matplotlib
import pytest

from jaxflow.eval.benchmarks.document import write_document
from jaxflow.eval.benchmarks.flow_absorption import WITH, WITHOUT
from jaxflow.eval.benchmarks.flow_batches import THREADS
from jaxflow.eval.benchmarks.flow_table import CALL, EDMONDS_KARP, KERNEL
from jaxflow.eval.benchmarks.goals import check_goals
from jaxflow.eval.benchmarks.model_loading import OURS, THEIRS
from jaxflow.eval.benchmarks.models import FORWARD, PEER
from jaxflow.eval.benchmarks.page import to_page
from jaxflow.eval.benchmarks.plots import draw_plots
from jaxflow.eval.benchmarks.record import Comparison, record
from jaxflow.eval.benchmarks.timing import Timing

MINILM = {"kind": "bert", "layers": 6, "heads": 12, "width": 384}


def comparison(times, benchmark="flow", error=None, missing=None, **settings):
    """Make a comparison of contenders that took these times, one time a sentence."""
    timings = []
    for name, seconds in times.items():
        parts = seconds if isinstance(seconds, tuple) else (seconds,)
        middle = sorted(parts)[len(parts) // 2]
        timings.append(Timing(name, middle, min(parts), 3, 1.0, error, 2_500_000, parts))
    return Comparison(
        benchmark, "work in words", settings, "igraph", tuple(timings), missing or {}, ("a note",)
    )


def table(kind, layers, tokens, times, measure="table", **settings):
    return comparison(
        times,
        error=2e-12,
        missing={"OR-tools": "not installed"},
        measure=measure,
        attention=kind,
        layers=layers,
        tokens=tokens,
        bandwidth=1e10,
        floor_seconds=layers * tokens**2 * 8 / 1e10,
        **settings,
    )


@pytest.fixture(scope="module")
def golden():
    growth = [
        table(
            "trained-like", 6, n, {KERNEL: 1e-6 * n**2, "igraph": 1e-5 * n**3},
            "growth", axis="tokens", slopes={KERNEL: {"slope": 2.75, "from": 16, "to": 32}},
        )
        for n in (16, 32)
    ]  # fmt: skip
    comparisons = [
        # The peer's third sentence is missing: 60,000 and 40,000 times over two of three.
        table(
            "trained", 6, 20,
            {KERNEL: (1e-4, 2e-4, 9.0), CALL: (4e-4, 4e-4, 9.0), "igraph": (2e-2, 4e-2, 9.0),
             EDMONDS_KARP: (6.0, 8.0)},
        ),
        table("causal", 12, 128, {KERNEL: 0.1, CALL: 0.2, "igraph": 1.5}),
        *growth,
        table("trained", 6, 44, {WITH: 0.01, WITHOUT: 0.014}, "absorption"),
        table(
            "trained", 6, 20, dict(zip(THREADS.values(), (1.0, 0.5, 1.5, 1.0), strict=True)),
            "threads", sentences=256,
        ),
        table("trained", 6, 20, {KERNEL: 2e-3, CALL: 5e-3}, "call", sentences=64),
        comparison(
            {KERNEL: 0.2, CALL: 0.4}, measure="corpus", sentences=2000, attention="trained"
        ),
        comparison(
            {"jaxflow.rollout in jit": 1e-3, "einsum in jit": 2e-3},
            "rollout", batch=2, tokens=5, layers=3,
        ),
        comparison(
            {"jaxflow, float32": 0.1, "PyTorch, float32": 0.15}, "train", batch=4, tokens=6
        ),
        comparison(
            {FORWARD: 0.24, PEER: 0.2}, "models", measure="forward", batch=64, tokens=64, **MINILM
        ),
        # 2,500,000 bytes at most, of everyone.
        comparison({OURS: 2.1, THEIRS: 0.5}, "models", measure="load", file=1_250_000, **MINILM),
    ]  # fmt: skip
    machine = {"processor": "a wheel", "cores": 2, "memory": None, "system": "S", "load": [0.5]}
    return json.loads(json.dumps(record(comparisons, machine)))


def test_goals_are_held_against_the_record(golden):
    found = {(goal.work, goal.against): goal for goal in check_goals(golden)}
    assert len(found) == 20
    trained = "trained attention, L = 6, n = 20"
    library = "the fastest third-party library"
    seen = {key: (goal.reached, goal.met) for key, goal in found.items() if goal.reached}
    assert seen == {
        (trained, EDMONDS_KARP): ("50,000x", True),
        (trained, library): ("200x", True),
        ("causal attention, L = 12, n = 128, last token", library): ("15x", False),
        ("all sources, L = 6, n = 44", "the same kernel without absorption"): ("1.4x", False),
        ("growth of time with n", "log-log slope"): ("2.75", False),
        (f"two threads, 256 sentences: {KERNEL}", "one thread"): ("2x", True),
        (f"two threads, 256 sentences: {CALL}", "one thread"): ("1.5x", False),
        ("64 sentences: the call without the kernel", "the kernel"): ("1.5x", False),
        ("2,000 test sentences, all layers, one thread", "the clock"): ("400 ms", True),
        ("largest error of all flows above", "exact solvers"): ("2.0e-12", True),
        ("training step, float32", "PyTorch, float32"): ("1.5x", True),
        (
            "6-layer MiniLM with attention, 64 sentences of 64 tokens: our time",
            "transformers, eager attention",
        ): ("1.2x", True),
        ("loading the 6-layer MiniLM", "the clock"): ("2.1 s", False),
        ("loading the 6-layer MiniLM: peak memory", "its file"): ("2x", True),
    }
    memory = found["loading the 6-layer MiniLM: peak memory", "its file"]
    assert memory.detail == "2.5 MB for 1.25 MB, transformers 2x"
    assert found[trained, library].detail == "igraph, whole call 50x, error 2.0e-12"


def test_nothing_measured_is_nothing_reached():
    goals = check_goals(record([]))
    assert len(goals) == 20
    assert {(goal.reached, goal.met) for goal in goals} == {("", None)}


def test_the_page_hides_nothing(golden):
    page = to_page(golden, {"flow-tokens": "benchmarks/flow-tokens.svg"})
    lines = page.splitlines()
    assert (
        "| causal attention, L = 12, n = 128, last token | the fastest third-party library "
        "| ≥ 20x | 15x | **missed** | igraph, whole call 7.5x, error 2.0e-12 |"
    ) in lines
    assert (
        "| bert-like attention, L = 12, n = 64 | the fastest third-party library | ≥ 130x |  "
        "| not measured |  |"
    ) in lines
    # To the kernel, to the call, first call, memory, error.
    assert "| igraph | 1.5 s | 15x | 7.5x | 1 s | 2.5 MB | 2.0e-12 |" in lines
    assert "| jaxflow kernel, from edge weights | 256 µs | 1.02 ms | 2.75 | 2.0e-12 |" in lines
    assert "| median | n = 16 | n = 32 | slope | largest error |" in lines
    assert "| causal, L = 12, n = 128 | 10 GB/s | 157 µs | 100 ms | 636x |" in lines
    assert "- OR-tools: not installed" in lines
    assert "- processor: a wheel, 2 cores for this process" in lines
    assert golden["method"] in lines
    assert "![Growth with the tokens](benchmarks/flow-tokens.svg)" in lines
    assert "rollout.svg" not in page
    for title in (
        "The table of one sentence", "Two threads", "Rollout", "One training step",
        "The forward pass of a published model", "Loading a published model",
    ):  # fmt: skip
        assert f"## {title}" in lines
    assert "## Growth with the layers" not in lines


def test_tables_have_as_many_cells_as_titles(golden):
    width = None
    for line in to_page(golden, {}).splitlines():
        if line.startswith("|"):
            width = width or line.count(" | ")
            assert line.count(" | ") == width, line
        else:
            width = None


def test_plots_have_a_line_for_everyone(golden):
    before = dict(matplotlib.rcParams)
    plots = draw_plots(golden)
    assert dict(matplotlib.rcParams) == before
    assert set(plots) == {"flow-tokens", "rollout", "train", "models"}  # nothing of the layers here
    (axes,) = plots["flow-tokens"].axes
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")
    lines = {line.get_label(): line for line in axes.get_lines()}
    assert set(lines) == {KERNEL, "igraph", "floor: one read of the edges"}
    assert list(lines["igraph"].get_xdata()) == [16, 32]
    assert list(lines["igraph"].get_ydata()) == pytest.approx([1e-5 * 16**3, 1e-5 * 32**3])
    assert len({line.get_color() for line in lines.values()}) == 3
    (axes,) = plots["train"].axes
    assert sorted(bar.get_width() for bar in axes.patches) == pytest.approx([100, 150])


def test_the_document_is_written_with_its_plots(golden, tmp_path):
    files = write_document(golden, tmp_path / "docs")
    names = {str(path.relative_to(tmp_path / "docs")) for path in files}
    plots = {f"benchmarks/{name}.svg" for name in ("flow-tokens", "rollout", "train", "models")}
    assert names == plots | {"benchmarks.md", "benchmarks.json"}
    page = (tmp_path / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    for name in plots:
        assert f"]({name})" in page
        assert ElementTree.parse(tmp_path / "docs" / name).getroot().tag.endswith("svg")
    assert json.loads((tmp_path / "docs" / "benchmarks.json").read_text("utf-8")) == golden
