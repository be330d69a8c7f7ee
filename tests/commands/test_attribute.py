"""Test ``jaxflow attribute`` on attention that other frameworks saved."""

from __future__ import annotations

import json

import ml_dtypes  # noqa: F401  (NumPy knows bfloat16 by it)
import numpy as np
import pytest

import jaxflow
from jaxflow.commands import main

FUNCTIONS = {
    "raw": jaxflow.raw_attention,
    "rollout": jaxflow.rollout,
    "flow": jaxflow.flow,
    "head-rollout": jaxflow.head_rollout,
}


@pytest.fixture
def saved(here):
    """Two sentences of three layers, the second with two padded tokens."""
    mask = np.arange(5) < np.array([[5], [3]])
    tokens = np.array([["[CLS]", "the", "keys", "to", "it"], ["[CLS]", "a", "key", "", ""]])
    values = np.random.default_rng(0).random((2, 3, 2, 5, 5)) + 0.1
    values *= mask[:, None, None, None]
    attention = values / values.sum(-1, keepdims=True)
    np.savez("saved.npz", attention=attention, mask=mask, tokens=tokens, other=np.zeros(1))
    return attention, mask, tokens


@pytest.mark.parametrize("method", FUNCTIONS)
def test_every_method_with_all_or_chosen_layers_and_sources(saved, here, method, capsys):
    attention, mask, tokens = saved
    whole = np.asarray(FUNCTIONS[method](attention, mask=mask))
    assert main(["attribute", "saved.npz", "--method", method]) == 0
    out = here / f"saved.{method}.npz"
    assert capsys.readouterr().out.splitlines()[-1] == f"wrote {out.name}"
    with np.load(out) as file:
        assert set(file.files) == {"token_attention", "method", "options", "mask", "tokens"}
        np.testing.assert_allclose(file["token_attention"], whole, atol=1e-12)
        np.testing.assert_array_equal(file["mask"], mask)
        np.testing.assert_array_equal(file["tokens"], tokens)
        options = json.loads(str(file["options"]))
    assert options["layers"] == [0, 1, 2]
    assert options.get("residual") == (None if method == "raw" else 0.5)

    chosen = ["--method", method, "--layers", "-1,0", "--sources=1,-1", "--out", "chosen"]
    assert main(["attribute", "saved.npz", *chosen]) == 0
    with np.load(here / "chosen") as file:
        assert json.loads(str(file["options"]))["layers"] == [2, 0]
        for text, last in enumerate((4, 2)):  # -1 is the last real token of each
            expected = whole[text, [2, 0]][..., [1, last], :]
            np.testing.assert_allclose(file["token_attention"][text], expected, atol=1e-12)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_is_widened_and_said(saved, here, dtype, capsys):
    attention, mask, _ = saved
    half = attention.astype(np.dtype(dtype))
    np.savez("half.npz", attention=half, mask=mask)
    with np.load("half.npz") as file:
        assert file["attention"].dtype == ("V2" if dtype == "bfloat16" else dtype)
    assert main(["attribute", "half.npz"]) == 0
    assert f"half.npz: {dtype} made float32, each row" in capsys.readouterr().err
    exact = half.astype(np.float64)
    sums = exact.sum(-1, keepdims=True)
    assert np.abs(sums[0] - 1).max() > 1e-4
    expected = jaxflow.rollout(exact / np.where(sums > 0, sums, 1), mask=mask)
    with np.load(here / "half.rollout.npz") as file:
        np.testing.assert_allclose(file["token_attention"], expected, atol=1e-6)


def test_options_reach_the_method(saved, here):
    attention, mask, _ = saved
    arguments = ["--method", "flow", "--residual", "0.25", "--heads", "1", "--threads", "1"]
    assert main(["attribute", "saved.npz", *arguments, "--out", "out.npz"]) == 0
    expected = jaxflow.flow(attention, mask=mask, residual=0.25, heads=1)
    with np.load("out.npz") as file:
        np.testing.assert_allclose(file["token_attention"], expected, atol=1e-12)


def test_the_summary_names_shape_and_top_tokens(here, capsys):
    attention = np.eye(3, dtype=np.float32)[None, None].repeat(2, 0)
    attention[:, :, 0] = [0.1, 0.2, 0.7]
    np.savez("one.npz", attention=attention, tokens=np.array(["[CLS]", "the", "k\x1b"]))
    assert main(["attribute", "one.npz", "--method", "raw"]) == 0
    first, second, _ = capsys.readouterr().out.splitlines()
    assert first == "raw: 2 layers x 3 tokens x 3 tokens, float32"
    assert second == r"layer 1, token 0 ([CLS]): k\x1b 0.700, the 0.200, [CLS] 0.100"


def test_sentences_of_a_text_by_a_published_model(published, here, capsys):
    text = "The keys are unlikely.\n\nthe cabinet\n"
    (here / "some.txt").write_text(text, encoding="utf-8")
    assert main(["attribute", "some.txt", "--model", str(published), "--words"]) == 0
    out = capsys.readouterr().out
    assert "rollout: 2 batch x 2 layers x 7 tokens x 7 tokens" in out
    with np.load(here / "some.rollout.npz") as found:
        words = ["[CLS]", "The", "keys", "are", "unlikely", ".", "[SEP]"]
        assert found["tokens"][0].tolist() == words
        assert found["mask"].sum(-1).tolist() == [7, 4]
        real = found["mask"][:, None, :, None]
        sums = found["token_attention"].sum(-1, keepdims=True)
        np.testing.assert_allclose(sums[np.broadcast_to(real, sums.shape)], 1, atol=1e-5)
