"""Scores read from shards where they are asked for: the same results, in less memory."""

import tracemalloc

import numpy as np
import pytest

from jaxflow.errors import InputError
from jaxflow.eval import stats
from jaxflow.eval.paper.claims import judge_claims
from jaxflow.eval.paper.scores import SCORES, write_scores
from jaxflow.eval.paper.tables import build_tables, record
from jaxflow.eval.sharded.files import Shard, read_shard_scores, write_shard
from jaxflow.eval.sharded.scores import ShardScores

SIZES = (7, 1, 12, 10)


def in_shards(scores, sizes, folder):
    """Lay scores into shards and open them."""
    paths, begin = [], 0
    for number, size in enumerate(sizes):
        part = slice(begin, begin + size)
        cut = type(scores)(
            {t: {r: v[part] for r, v in rows.items()} for t, rows in scores.correlations.items()},
            scores.saturated[part],
            {row: values[part] for row, values in scores.entropy.items()},
            scores.length[part],
        )
        paths.append(folder / f"{number}.parquet")
        rows = np.arange(part.start, part.stop)
        write_shard(paths[-1], Shard(cut, rows, rows % 2, {"test": 1}, "plan"))
        begin += size
    return ShardScores(paths, sizes, scores.layers, scores.length), paths


@pytest.fixture
def scores(make_scores):
    scores = make_scores(sentences=sum(SIZES), layers=3, noise=0.3)
    scores.correlations["gradient"]["raw"][[3, 11], 1] = np.nan
    return scores


def test_arrays_are_those_that_were_written(scores, tmp_path):
    stored, paths = in_shards(scores, SIZES, tmp_path)
    assert (stored.sentences, stored.layers) == (scores.sentences, scores.layers)
    assert list(stored.arrays()) == list(scores.arrays())
    for name, values in scores.arrays().items():
        np.testing.assert_array_equal(stored.arrays()[name], values, err_msg=name)
        assert stored.arrays()[name].dtype == values.dtype
    for target, rows in scores.correlations.items():
        for row, values in rows.items():
            np.testing.assert_array_equal(stored.correlations[target][row], values)
    np.testing.assert_array_equal(stored.saturated, scores.saturated)
    np.testing.assert_array_equal(stored.entropy["flow"], scores.entropy["flow"])
    np.testing.assert_array_equal(
        read_shard_scores(paths[1], SCORES[4]), scores.arrays()[SCORES[4]][7:8]
    )


def test_tables_claims_and_file_are_those_of_memory(scores, tmp_path):
    stored, _ = in_shards(scores, SIZES, tmp_path)
    texts = [
        record(build_tables(each, 3), claims=judge_claims(each, 3)) for each in (scores, stored)
    ]
    assert texts[0] == texts[1]
    extra = {"labels": np.arange(sum(SIZES))}
    scores.save(tmp_path / "whole.npz", extra)
    write_scores(tmp_path / "stored.npz", stored, extra)
    assert (tmp_path / "stored.npz").read_bytes() == (tmp_path / "whole.npz").read_bytes()


def test_memory_holds_a_few_arrays(make_scores, tmp_path, monkeypatch):
    """NumPy's share of it, of 41 MB of scores."""
    monkeypatch.setattr(stats, "_HELD", 1 << 20)
    for name in ("_BLOCK", "_COUNTS"):
        monkeypatch.setattr(stats, name, 1 << 17)
    count, layers = 20_000, 12
    stored, _ = in_shards(make_scores(sentences=count, layers=layers), [2_000] * 10, tmp_path)
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
    paths[2].write_bytes(paths[0].read_bytes())
    with pytest.raises(InputError, match=r"2\.parquet has been changed while it was read"):
        _ = stored.saturated
    paths[0].write_bytes(paths[0].read_bytes()[:-9])
    with pytest.raises(InputError, match=r"0\.parquet cannot be read, delete it"):
        _ = stored.saturated
    paths[0].unlink()
    with pytest.raises(InputError, match=r"0\.parquet cannot be read, delete it"):
        _ = stored.saturated
