"""``jaxflow attribute``: other frameworks' attention in, token attention out."""

import json
import pickle

import numpy as np
import pytest

import jaxflow
from jaxflow.commands import main

METHODS = ("raw", "rollout", "flow", "head-rollout")


def make_attention(*shape, dtype=np.float64, mask=None):
    rng = np.random.default_rng(0)
    values = rng.random((*shape, shape[-1])) + 0.1
    if mask is not None:
        values = values * mask[..., None, None, None, :]
    return (values / values.sum(-1, keepdims=True)).astype(dtype)


@pytest.fixture
def batch(tmp_path):
    """Two sentences, the second with two padded tokens."""
    mask = np.arange(5) < np.array([[5], [3]])
    tokens = np.array([["[CLS]", "the", "keys", "to", "it"], ["[CLS]", "a", "key", "", ""]])
    attention = make_attention(2, 3, 2, 5, mask=mask)
    path = tmp_path / "saved.npz"
    np.savez(path, attention=attention, mask=mask, tokens=tokens, other=np.zeros(1))
    return path, attention, mask, tokens


def expected_values(method, attention, mask, **options):
    if method == "raw":
        return jaxflow.raw_attention(attention, mask=mask)
    if method == "flow":
        return jaxflow.flow(attention, mask=mask, **options)
    function = jaxflow.rollout if method == "rollout" else jaxflow.head_rollout
    return function(attention, mask=mask, **options)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_beside_the_file(batch, method, capsys):
    path, attention, mask, tokens = batch
    assert main(["attribute", str(path), "--method", method]) == 0
    out = path.with_name(f"saved.{method}.npz")
    assert capsys.readouterr().out.splitlines()[-1] == f"wrote {out}"
    assert {file.name for file in path.parent.iterdir()} == {path.name, out.name}
    with np.load(out) as file:
        assert set(file.files) == {"token_attention", "method", "options", "mask", "tokens"}
        np.testing.assert_allclose(
            file["token_attention"], expected_values(method, attention, mask), atol=1e-12
        )
        np.testing.assert_array_equal(file["mask"], mask)
        np.testing.assert_array_equal(file["tokens"], tokens)
        assert str(file["method"]) == method
        options = json.loads(str(file["options"]))
    assert options["layers"] == [0, 1, 2]
    assert options["sources"] == [0, 1, 2, 3, 4]
    assert options.get("residual") == (None if method == "raw" else 0.5)


@pytest.mark.parametrize("method", METHODS)
def test_chosen_layers_and_sources(batch, method, tmp_path):
    path, attention, mask, _ = batch
    out = tmp_path / "chosen"
    arguments = ["--method", method, "--layers", "-1,0", "--sources", "2", "--out", str(out)]
    assert main(["attribute", str(path), *arguments]) == 0
    whole = np.asarray(expected_values(method, attention, mask))
    with np.load(out) as file:
        assert json.loads(str(file["options"]))["layers"] == [2, 0]
        expected = whole[:, [2, 0]][..., [2], :]
        np.testing.assert_allclose(file["token_attention"], expected, atol=1e-12)


def test_options_reach_the_method(batch, tmp_path):
    path, attention, mask, _ = batch
    out = tmp_path / "out.npz"
    arguments = ["--method", "flow", "--residual", "0.25", "--heads", "1", "--threads", "1"]
    assert main(["attribute", str(path), *arguments, "--out", str(out)]) == 0
    expected = jaxflow.flow(attention, mask=mask, residual=0.25, heads=1)
    with np.load(out) as file:
        np.testing.assert_allclose(file["token_attention"], expected, atol=1e-12)


def test_the_summary_names_shape_and_top_tokens(tmp_path, capsys):
    path = tmp_path / "one.npz"
    attention = np.eye(3, dtype=np.float32)[None, None].repeat(2, 0)
    attention[:, :, 0] = [0.1, 0.2, 0.7]
    np.savez(path, attention=attention, tokens=np.array(["[CLS]", "the", "k\x1b"]))
    assert main(["attribute", str(path), "--method", "raw"]) == 0
    first, second, _ = capsys.readouterr().out.splitlines()
    assert first == "raw: 2 layers x 3 tokens x 3 tokens, float32"
    assert second == r"layer 1, token 0 ([CLS]): k\x1b 0.700, the 0.200, [CLS] 0.100"
    np.savez(path, attention=attention)
    assert main(["attribute", str(path), "--method", "raw"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2


def write_bad(kind, path):
    good = make_attention(2, 2, 4)
    if kind == "truncated":
        np.savez(path, attention=good)
        path.write_bytes(path.read_bytes()[:-60])
    elif kind == "damaged":
        np.savez(path, attention=good)
        data = bytearray(path.read_bytes())
        data[200:240] = bytes(40)
        path.write_bytes(data)
    elif kind == "npy":
        with open(path, "wb") as file:
            np.save(file, good)
    elif kind == "pickle":
        path.write_bytes(pickle.dumps(good))
    elif kind == "folder":
        path.mkdir()
    elif kind != "missing":
        arrays = {
            "nameless": {"other": good},
            "objects": {"attention": np.array([{}, None], dtype=object)},
            "object tokens": {"attention": good, "tokens": np.array([{}] * 4, dtype=object)},
            "rank": {"attention": good[0]},
            "not square": {"attention": good[..., :3]},
            "text": {"attention": np.array("a")},
            "half": {"attention": good.astype(np.float16)},
            "logits": {"attention": good * 3},
            "mask shape": {"attention": good, "mask": np.ones(3, bool)},
            "mask dtype": {"attention": good, "mask": np.ones(4)},
            "tokens shape": {"attention": good, "tokens": np.array(["a"])},
        }
        np.savez(path, **arrays[kind])


@pytest.mark.parametrize(
    ("kind", "part"),
    [
        ("missing", "No such file"),
        ("folder", "directory"),
        ("truncated", "npz"),
        ("damaged", "damaged"),
        ("npy", "must be an npz file"),
        ("pickle", "must be an npz file"),
        ("nameless", "'attention'"),
        ("objects", "pickled"),
        ("object tokens", "'tokens' is one of pickled"),
        ("rank", "rank 3"),
        ("not square", "square"),
        ("text", "rank 0"),
        ("half", "float16"),
        ("logits", "sum to 1"),
        ("mask shape", "mask must have the shape (4,)"),
        ("mask dtype", "boolean"),
        ("tokens shape", "tokens must have the shape (4,)"),
    ],
)
def test_bad_files_are_one_line(kind, part, tmp_path, capsys):
    path = tmp_path / "bad.npz"
    write_bad(kind, path)
    refused(["attribute", str(path)], part, capsys)
    assert [file.name for file in tmp_path.iterdir()] in ([], [path.name])


@pytest.mark.parametrize(
    ("options", "part"),
    [
        (["--method", "raw", "--residual", "0.5"], "residual has no meaning"),
        (["--method", "head-rollout", "--heads", "1"], "heads has no meaning"),
        (["--threads", "1"], "threads has no meaning"),
        (["--residual", "2"], "residual"),
        (["--heads", "all"], "heads must be"),
        (["--heads", "2"], "index from -2 to 1"),
        (["--layers", "3"], "layers must be indices from -3 to 2"),
        (["--sources", "a"], "sources must be whole numbers"),
        (["--method", "flow", "--threads", "0"], "threads"),
        (["--out", "saved.npz"], "another file"),
        (["--method", "lime"], "method"),
    ],
)
def test_bad_options_are_one_line(options, part, batch, monkeypatch, capsys):
    path = batch[0]
    monkeypatch.chdir(path.parent)
    before = path.read_bytes()
    refused(["attribute", path.name, *options], part, capsys)
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    assert path.read_bytes() == before


def refused(arguments, part, capsys):
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("jaxflow: error: ")
    assert captured.err.count("\n") == 1
    assert part in captured.err
