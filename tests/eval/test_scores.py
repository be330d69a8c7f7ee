"""Test the file of per-sentence scores: round trip, and errors for other files."""

import numpy as np
import pytest

from jaxflow.errors import InputError
from jaxflow.eval.paper.scores import SentenceScores, load_extra, write_scores


def test_what_is_saved_is_loaded_and_the_bytes_are_numpys(make_scores, tmp_path):
    scores = make_scores(sentences=30, layers=3)
    scores.correlations["gradient"]["raw"][1, 2] = np.nan
    path = tmp_path / "scores.npz"
    extra = {"predicted": np.array([0, 1, 1, 0]), "gold": np.array(["a", "bc"])}
    write_scores(path, scores, extra)
    loaded = SentenceScores.load(path)
    assert loaded.arrays.keys() == scores.arrays.keys()
    for name, values in scores.arrays.items():
        np.testing.assert_array_equal(loaded.arrays[name], values)
        assert loaded.arrays[name].dtype == values.dtype
    assert {name: found.tolist() for name, found in load_extra(path).items()} == {
        name: values.tolist() for name, values in extra.items()
    }
    np.savez_compressed(tmp_path / "theirs.npz", **scores.arrays, **extra)
    before = path.read_bytes()
    assert before == (tmp_path / "theirs.npz").read_bytes()
    # An extra array cannot hide a score or need pickle.
    for more, message in (
        ({"saturated": np.zeros(2)}, "names of its own, got 'saturated'"),
        ({"objects": np.array([None])}, "numbers or strings"),
    ):
        with pytest.raises(InputError, match=message):
            write_scores(path, scores, more)
    assert path.read_bytes() == before


def test_damaged_and_foreign_files_are_refused(tmp_path):
    path = tmp_path / "scores.npz"
    with pytest.raises(InputError, match=r"scores\.npz cannot be read: No such file"):
        SentenceScores.load(path)
    for content in (b"", b"no archive", b"PK\x03\x04 cut off"):
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"scores\.npz must be an npz file, it is something"):
            SentenceScores.load(path)
    np.savez(path, attention=np.zeros(3))
    with pytest.raises(InputError, match="blank_out/raw is missing"):
        SentenceScores.load(path)


def test_other_shapes_and_kinds_are_refused(make_scores, tmp_path):
    scores = make_scores(sentences=4, layers=3)
    for changes, message in (
        ({"blank_out/raw": np.zeros((4, 2))}, r"blank_out/raw must be \(4, 3\) like saturated"),
        ({"length": np.zeros(2, int)}, r"length must be \(4,\)"),
        ({"length": np.zeros(4)}, "length is of float64"),
        ({"saturated": np.zeros((0, 6))}, "neither 0"),
    ):
        np.savez(tmp_path / "scores.npz", **{**scores.arrays, **changes})
        with pytest.raises(InputError, match=message):
            SentenceScores.load(tmp_path / "scores.npz")
