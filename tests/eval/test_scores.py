"""Test the file of per-sentence scores: round trip, and errors for other files."""

import dataclasses

import numpy as np
import pytest

from jaxflow.errors import InputError
from jaxflow.eval.paper.scores import SentenceScores, load_extra


def test_what_is_saved_is_loaded(make_scores, tmp_path):
    scores = make_scores(sentences=4, layers=3)
    scores.correlations["gradient"]["raw"][1, 2] = np.nan
    path = tmp_path / "new" / "scores.npz"
    scores.save(path, extra={"predicted": np.array([0, 1, 1, 0]), "gold": np.array(["a", "b"])})
    loaded = SentenceScores.load(path)
    assert loaded.arrays().keys() == scores.arrays().keys()
    for name, values in scores.arrays().items():
        np.testing.assert_array_equal(loaded.arrays()[name], values)
        assert loaded.arrays()[name].dtype == values.dtype
    extra = load_extra(path)
    assert extra.keys() == {"predicted", "gold"}
    assert extra["predicted"].tolist() == [0, 1, 1, 0]
    assert [file.name for file in path.parent.iterdir()] == ["scores.npz"]


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
    scores.save(path)
    before = path.read_bytes()
    with pytest.raises(InputError, match="names of its own, got 'saturated'"):
        scores.save(path, extra={"saturated": np.zeros(2)})
    with pytest.raises(InputError, match="numbers or strings"):
        scores.save(path, extra={"objects": np.array([None])})
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["scores.npz"]


def test_missing_rows_and_other_shapes_are_refused(make_scores):
    scores = make_scores(sentences=4, layers=3)
    fewer = {**scores.correlations, "gradient": {"raw": scores.saturated}}
    with pytest.raises(InputError, match=r"correlations\['gradient'\] must have the keys"):
        dataclasses.replace(scores, correlations=fewer)
    with pytest.raises(InputError, match="entropy must have the keys"):
        dataclasses.replace(scores, entropy={})
    with pytest.raises(InputError, match=r"blank_out/raw must be \(4, 2\) like saturated"):
        dataclasses.replace(scores, saturated=scores.saturated[:, :2])
    with pytest.raises(InputError, match="length must be"):
        dataclasses.replace(scores, length=scores.length[:2])
    with pytest.raises(InputError, match="neither 0"):
        dataclasses.replace(scores, saturated=np.zeros((0, 6)))


def test_the_bytes_are_numpys(make_scores, tmp_path):
    scores = make_scores(sentences=30, layers=2)
    scores.save(tmp_path / "ours.npz", extra={"names": np.array(["a", "bc"])})
    arrays = {**scores.arrays(), "names": np.array(["a", "bc"])}
    np.savez_compressed(tmp_path / "theirs.npz", **arrays)
    assert (tmp_path / "ours.npz").read_bytes() == (tmp_path / "theirs.npz").read_bytes()
