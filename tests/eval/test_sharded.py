"""Compare an evaluation in shards with one in one process, also after kills and damage."""

import contextlib
import dataclasses
import shutil
import signal
import tracemalloc

import numpy as np
import pyarrow.parquet as pq
import pytest
from many_devices import start_on_devices

from jaxflow.errors import InputError
from jaxflow.eval import stats
from jaxflow.eval.paper.claims import judge_claims
from jaxflow.eval.paper.evaluate import evaluate_run
from jaxflow.eval.paper.protocol import ProtocolConfig
from jaxflow.eval.paper.report import Evaluation, record
from jaxflow.eval.paper.scores import SCORES, SentenceScores, load_extra, write_scores
from jaxflow.eval.paper.tables import build_tables
from jaxflow.eval.sharded.files import (
    Shard,
    StoredScores,
    read_shard,
    write_shard,
)
from jaxflow.eval.sharded.run import open_sharded

SAMPLES, SHARDS, WORKERS = 24, 5, 2
PROTOCOL = ProtocolConfig(samples=SAMPLES, seed=3)
TABLES = ["tables.csv", "tables.json", "tables.md", "config.json"]


@pytest.fixture(scope="module")
def whole(trained_run, tmp_path_factory):
    """The evaluation in one piece."""
    out = tmp_path_factory.mktemp("whole")
    return evaluate_run(trained_run, PROTOCOL, out), out


@pytest.fixture(scope="module")
def alone(trained_run, tmp_path_factory):
    """The shards of a single worker that nothing disturbs, not yet merged."""
    out = tmp_path_factory.mktemp("alone")
    evaluation = open_sharded(trained_run, PROTOCOL, out, SHARDS)
    counts = []
    evaluation.work(report=lambda *count: counts.append(count))
    return evaluation, out, counts


@pytest.fixture(scope="module")
def workers(trained_run, tmp_path_factory):
    """The folder that two processes have left, the last of them killed over its second shard."""
    out = tmp_path_factory.mktemp("workers")
    options = ["--samples", SAMPLES, "--seed", 3, "--shards", SHARDS, "--processes", WORKERS]
    command = ["evaluate", trained_run, "--out", out, *options, "--process"]
    started = [
        start_on_devices(1, "shard_worker.py", fate, *command, worker)
        for worker, fate in enumerate(("undisturbed", "killed"))
    ]
    ended = [(*process.communicate(), process.returncode) for process in started]
    assert [code for *_, code in ended] == [0, -signal.SIGKILL], ended
    return out, ended[0][0]


def shards_in(folder):
    return {path.name: path.read_bytes() for path in (folder / "shards").glob("[!.]*.parquet")}


def name_of(shard):
    return f"shard-{shard:05d}-of-{SHARDS:05d}.parquet"


def test_the_tables_are_those_of_one_piece(alone, whole, tmp_path):
    evaluation, _, counts = alone
    assert counts[0] == (0, SAMPLES)
    assert counts[-1] == (SAMPLES, SAMPLES)
    assert counts == sorted(counts)
    merged = evaluation.merge(tmp_path)
    expected, out = whole
    for name in TABLES:
        assert (tmp_path / name).read_bytes() == (out / name).read_bytes(), name
    assert merged.accuracy == expected.accuracy
    for name, values in merged.scores.arrays.items():
        np.testing.assert_array_equal(values, expected.scores.arrays[name], err_msg=name)
    extra, theirs = load_extra(tmp_path / "scores.npz"), load_extra(out / "scores.npz")
    assert extra.keys() == {"labels", "rows"}
    for name, values in extra.items():
        np.testing.assert_array_equal(values, theirs[name])


def test_a_killed_worker_leaves_what_it_had_finished_and_the_rest_is_made_the_same(
    workers, alone, whole, trained_run, tmp_path
):
    out, said = workers
    assert "process 0 of 2 has finished its shards" in said
    there, expected = shards_in(out), shards_in(alone[1])
    assert expected.keys() == {name_of(shard) for shard in range(SHARDS)}
    assert expected.keys() - there.keys() == {name_of(3)}  # it had 1 and 3
    assert there == {name: expected[name] for name in there}
    folder = shutil.copytree(out, tmp_path / "again")
    before = {path: path.stat().st_mtime_ns for path in (folder / "shards").glob("[!.]*.parquet")}
    evaluation = open_sharded(trained_run, PROTOCOL, folder, SHARDS)
    with pytest.raises(InputError, match=r"1 are missing, shard 3 the first"):
        evaluation.merge(folder)
    evaluation.work(process=0, processes=WORKERS)  # another's shard is left to it
    assert evaluation.missing() == [3]
    evaluation.work(process=1, processes=WORKERS)
    assert shards_in(folder) == expected
    assert all(path.stat().st_mtime_ns == time for path, time in before.items())  # none done again
    assert len(list((folder / "shards").glob(".*"))) == 1  # what the killed one was at
    (folder / "shards" / ".plan.json.4194305").touch()  # of one that was killed at its first file
    evaluation.merge(folder)
    assert not list((folder / "shards").glob(".*"))
    for name in TABLES:
        assert (folder / name).read_bytes() == (whole[1] / name).read_bytes(), name


def test_every_sentence_is_in_one_shard(alone, trained_run, tmp_path):
    evaluation, out, _ = alone
    rows = [pq.read_table(out / "shards" / name_of(k))["row"].to_pylist() for k in range(SHARDS)]
    assert sorted(map(len, rows)) == [4, 5, 5, 5, 5]
    together = [row for part in rows for row in part]
    assert together == sorted(set(together))
    assert together == evaluation.splits["test"].rows[evaluation.chosen].tolist()
    every = open_sharded(trained_run, ProtocolConfig(), tmp_path, 2)  # without a number, all
    assert len(every.chosen) == len(every.splits["test"]) == every.protocol.samples == 60


def test_another_evaluation_and_impossible_shards_are_refused(alone, trained_run, tmp_path):
    out = shutil.copytree(alone[1], tmp_path / "out")
    other = dataclasses.replace(PROTOCOL, seed=4)
    for protocol, folder, shards, message in (
        (other, out, SHARDS, r"shards of another evaluation \(protocol differ\)"),
        (PROTOCOL, out, SHARDS - 1, r"another evaluation \(shards differ\)"),
        (PROTOCOL, tmp_path / "new", 0, "shards must be from 1 to the 24 sentences, got 0"),
        (PROTOCOL, tmp_path / "new", 25, "shards must be from 1 to the 24 sentences, got 25"),
    ):
        with pytest.raises(InputError, match=message):
            open_sharded(trained_run, protocol, folder, shards)
    assert not (tmp_path / "new").exists()
    open_sharded(trained_run, dataclasses.replace(PROTOCOL, threads=1), out, SHARDS)


def test_damaged_and_foreign_shards_are_refused(alone, trained_run, tmp_path):
    out = shutil.copytree(alone[1], tmp_path / "out")
    evaluation = open_sharded(trained_run, PROTOCOL, out, SHARDS)
    path = evaluation.path(4)
    good, expected, refused = path.read_bytes(), read_shard(path), 0
    places = range(0, len(good), max(1, len(good) // 150))
    for at in places:
        path.write_bytes(good[:at] + bytes([good[at] ^ 0x55]) + good[at + 1 :])
        with contextlib.suppress(InputError):
            shard = read_shard(path)  # bytes that nothing is read from may be anything
            assert (shard.right, shard.plan) == (expected.right, expected.plan)
            for name, values in shard.scores.arrays.items():
                np.testing.assert_array_equal(values, expected.scores.arrays[name])
            continue
        refused += 1
    assert refused > len(places) / 2
    for size in (0, 4, len(good) // 2, len(good) - 1):
        path.write_bytes(good[:size])
        with pytest.raises(InputError, match="delete it to have it made again"):
            read_shard(path)
    path.write_bytes(evaluation.path(3).read_bytes())  # whole, but not where it belongs
    with pytest.raises(InputError, match="is of another evaluation: delete it"):
        evaluation.merge(out)
    path.unlink()
    evaluation.work()
    assert path.read_bytes() == good


def test_damage_of_the_corpus_is_reported_as_it_is(alone, tmp_path):
    """From the loader's thread, which reads ahead."""
    evaluation, _, _ = alone
    test = evaluation.splits["test"]
    blocks = [{**block, "labels": np.zeros(3, np.int32)} for block in test.blocks]
    splits = {**evaluation.splits, "test": dataclasses.replace(test, blocks=blocks)}
    damaged = dataclasses.replace(evaluation, splits=splits, folder=tmp_path)
    with pytest.raises(InputError, match=r"prepared corpus .* is damaged"):
        damaged.work()


SIZES = (7, 1, 12, 10)


def in_shards(scores, sizes, folder):
    """Lay scores into shards and open them."""
    paths, begin = [], 0
    for number, size in enumerate(sizes):
        part = slice(begin, begin + size)
        arrays = {name: values[part] for name, values in scores.arrays.items()}
        cut = SentenceScores(arrays, scores.layers)
        paths.append(folder / f"{number}.parquet")
        rows = np.arange(part.start, part.stop)
        write_shard(paths[-1], Shard(cut, rows, rows % 2, {"test": 1}, "plan"))
        begin += size
    stored = StoredScores(paths, sizes, scores.layers, scores["length"])
    return SentenceScores(stored, scores.layers), paths


@pytest.fixture
def scores(make_scores):
    scores = make_scores(sentences=sum(SIZES), layers=3, noise=0.3)
    scores.correlations["gradient"]["raw"][[3, 11], 1] = np.nan
    return scores


def test_stored_scores_and_what_is_made_of_them_are_those_of_memory(scores, tmp_path):
    stored, _ = in_shards(scores, SIZES, tmp_path)
    assert (stored.sentences, stored.layers) == (scores.sentences, scores.layers)
    whole, mine = scores.arrays, stored.arrays
    assert list(mine) == list(whole)
    for name, values in whole.items():
        np.testing.assert_array_equal(mine[name], values, err_msg=name)
        assert mine[name].dtype == values.dtype
    one, other = (
        record(Evaluation(build_tables(each, 3), judge_claims(each, 3)), {})
        for each in (scores, stored)
    )
    assert one == other
    extra = {"labels": np.arange(sum(SIZES))}
    write_scores(tmp_path / "whole.npz", scores, extra)
    write_scores(tmp_path / "stored.npz", stored, extra)
    assert (tmp_path / "stored.npz").read_bytes() == (tmp_path / "whole.npz").read_bytes()


def test_memory_holds_a_few_arrays(make_scores, tmp_path, monkeypatch):
    """NumPy's share of it, of 20 MB of scores."""
    monkeypatch.setattr(stats, "_HELD", 1 << 19)
    for name in ("_BLOCK", "_COUNTS"):
        monkeypatch.setattr(stats, name, 1 << 17)
    count, layers = 10_000, 12
    stored, _ = in_shards(make_scores(sentences=count, layers=layers), [1_000] * 10, tmp_path)
    array, whole = 8 * count * layers, len(SCORES) * 8 * count * layers
    tracemalloc.start()
    try:
        tables = build_tables(stored, 0, resamples=3)
        judge_claims(stored)
        write_scores(tmp_path / "scores.npz", stored)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert tables.sentences == count
    assert peak < 7 * array < whole / 3


def test_a_shard_that_changes_or_goes_while_it_is_read_is_refused(scores, tmp_path):
    stored, paths = in_shards(scores, SIZES, tmp_path)
    whole = paths[0].read_bytes()
    for number, content, message in (
        (2, whole, r"2\.parquet has been changed while it was read"),
        (0, whole[:-9], r"0\.parquet cannot be read, delete it"),
        (0, None, r"0\.parquet cannot be read, delete it"),
    ):
        paths[number].unlink()
        if content is not None:
            paths[number].write_bytes(content)
        with pytest.raises(InputError, match=message):
            _ = stored["saturated"]
