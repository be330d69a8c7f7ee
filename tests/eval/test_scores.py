"""Test the file of per-sentence scores: round trip, and errors for other files."""

import numpy as np
import pytest

from jaxflow.errors import InputError
from jaxflow.eval.paper.scores import SentenceScores, load_extra, write_scores


def test_what_is_saved_is_loaded(make_scores, tmp_path):
    scores = make_scores(sentences=4, layers=3)
    scores.correlations["gradient"]["raw"][1, 2] = np.nan
    path = tmp_path / "scores.npz"
    extra = {"predicted": np.array([0, 1, 1, 0]), "gold": np.array(["a", "b"])}
    write_scores(path, scores, extra)
    loaded = SentenceScores.load(path)
    assert loaded.arrays.keys() == scores.arrays.keys()
    for name, values in scores.arrays.items():
        np.testing.assert_array_equal(loaded.arrays[name], values)
        assert loaded.arrays[name].dtype == values.dtype
    extra = load_extra(path)
    assert extra.keys() == {"predicted", "gold"}
    assert extra["predicted"].tolist() == [0, 1, 1, 0]


@pytest.mark.parametrize("content", [b"", b"no archive", b"PK\x03\x04 cut off"])
def test_a_damaged_file_is_refused(content, tmp_path):
    path = tmp_path / "scores.npz"
    path.write_bytes(content)
    with pytest.raises(
        InputError, match=r"scores\.npz must be an npz file, it is something else or cut off"
    ):
        SentenceScores.load(path)


def test_a_missing_or_foreign_file_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"nowhere\.npz cannot be read: No such file"):
        SentenceScores.load(tmp_path / "nowhere.npz")
    np.savez(tmp_path / "foreign.npz", attention=np.zeros(3))
    with pytest.raises(InputError, match="blank_out/raw is missing"):
        SentenceScores.load(tmp_path / "foreign.npz")


def test_an_extra_array_cannot_hide_a_score_or_need_pickle(make_scores, tmp_path):
    scores = make_scores(sentences=2)
    path = tmp_path / "scores.npz"
    with pytest.raises(InputError, match="names of its own, got 'saturated'"):
        write_scores(path, scores, {"saturated": np.zeros(2)})
    with pytest.raises(InputError, match="numbers or strings"):
        write_scores(path, scores, {"objects": np.array([None])})
    assert not path.exists()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"blank_out/raw": np.zeros((4, 2))}, r"blank_out/raw must be \(4, 3\) like saturated"),
        ({"length": np.zeros(2, int)}, r"length must be \(4,\)"),
        ({"length": np.zeros(4)}, "length is of float64"),
        ({"saturated": np.zeros((0, 6))}, "neither 0"),
    ],
)
def test_other_shapes_and_kinds_are_refused(make_scores, tmp_path, changed, message):
    arrays = {**make_scores(sentences=4, layers=3).arrays, **changed}
    np.savez(tmp_path / "scores.npz", **arrays)
    with pytest.raises(InputError, match=message):
        SentenceScores.load(tmp_path / "scores.npz")


def test_the_bytes_are_numpys(make_scores, tmp_path):
    scores = make_scores(sentences=30, layers=2)
    write_scores(tmp_path / "ours.npz", scores, {"names": np.array(["a", "bc"])})
    arrays = {**scores.arrays, "names": np.array(["a", "bc"])}
    np.savez_compressed(tmp_path / "theirs.npz", **arrays)
    assert (tmp_path / "ours.npz").read_bytes() == (tmp_path / "theirs.npz").read_bytes()
