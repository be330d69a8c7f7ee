"""``--model`` and ``--words``: published models in explain, attribute and figures."""

from __future__ import annotations

import json
from pathlib import Path

import figure_data
import numpy as np
import pytest
from PIL import Image
from tiny_models import sharpened, tiny

from jaxflow.commands import main
from jaxflow.eval.explain.explanation import explainer
from jaxflow.eval.paper.report import write_reports
from jaxflow.models import Model, ViTConfig, init, save_pretrained


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "model-cache"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("published") / "model"
    save_pretrained(folder, tiny())
    return folder


def test_explain_takes_a_published_model(folder, capsys):
    arguments = ["explain", "The keys are unlikely quux.", "--model", str(folder)]
    assert main([*arguments, "--json"]) == 0
    (sentence,) = json.loads(capsys.readouterr().out)["sentences"]
    expected = explainer(tiny())("The keys are unlikely quux.")
    assert sentence["prediction"] == expected.prediction
    assert list(sentence["probabilities"]) == ["negative", "neutral", "positive"]
    assert [token["text"] for token in sentence["tokens"]][5:8] == ["un", "##like", "##ly"]
    np.testing.assert_allclose(sentence["scores"]["flow"], expected.scores["flow"], atol=1e-5)

    assert main([*arguments, "--words"]) == 0
    out = capsys.readouterr().out
    assert "unlikely" in out
    assert "##ly" not in out
    assert "Not in the vocabulary, read as [UNK]: quux" in out
    assert "Read in lower case: The as the" in out


def test_explain_writes_a_page_of_a_masked_model(tmp_path, capsys):
    save_pretrained(tmp_path / "model", tiny("masked-lm"))
    page = tmp_path / "page.html"
    sentence = "the keys [MASK] unlikely"
    assert main(["explain", sentence, "--model", str(tmp_path / "model"), "--html", str(page)]) == 0
    assert "[MASK]" in page.read_text(encoding="utf-8")
    assert main(["explain", "the keys", "--model", str(tmp_path / "model")]) == 2
    assert "must have one [MASK], got 0" in capsys.readouterr().err


def test_attribute_takes_text_with_a_model(folder, tmp_path, capsys):
    text = tmp_path / "some.txt"
    text.write_text("The keys are unlikely.\n\nthe cabinet\n", encoding="utf-8")
    assert main(["attribute", str(text), "--model", str(folder), "--words"]) == 0
    out = capsys.readouterr().out
    assert "rollout: 2 batch x 2 layers x 7 tokens x 7 tokens" in out
    with np.load(tmp_path / "some.rollout.npz") as found:
        assert found["tokens"][0].tolist() == [
            "[CLS]", "The", "keys", "are", "unlikely", ".", "[SEP]",
        ]  # fmt: skip
        assert found["mask"].sum(-1).tolist() == [7, 4]
        real = found["mask"][:, None, :, None]
        sums = found["token_attention"].sum(-1, keepdims=True)
        np.testing.assert_allclose(sums[np.broadcast_to(real, sums.shape)], 1, atol=1e-5)


def test_figures_draw_a_sentence_of_a_published_model(folder, tmp_path, capsys):
    results = tmp_path / "results"
    write_reports(results, scores=figure_data.scores(), tables=figure_data.tables())
    arguments = ["figures", str(results), "--model", str(folder), "--words"]
    assert main([*arguments, "--sentence", "the keys unlikely", "--format", "svg"]) == 0
    drawn = {path.name for path in (results / "figures").iterdir()}
    assert {"maps-flow.svg", "readout.svg", "graph.svg", "bars.svg"} <= drawn
    assert "unlikely" in (results / "figures" / "bars.svg").read_text(encoding="utf-8")


def test_explain_lays_maps_over_a_picture(tmp_path, capsys):
    config = ViTConfig(
        image=(16, 16), patch=4, layers=2, heads=2, width=16, labels=("cat", "dog"), readout="mean"
    )
    save_pretrained(tmp_path / "vit", Model(config, sharpened(init(config)), None))
    picture = tmp_path / "flower.jpg"
    pixels = np.random.default_rng(0).integers(0, 255, (30, 40, 3), np.uint8)
    Image.fromarray(pixels).save(picture)
    arguments = ["explain", "--image", str(picture), "--model", str(tmp_path / "vit")]
    assert main([*arguments, "--heads", "max", "--discard", "0.5", "--occlusion"]) == 0
    out = capsys.readouterr().out
    assert "cat" in out
    assert "occlusion" in out
    with Image.open(tmp_path / "flower.overlay.png") as overlay:
        assert overlay.width > overlay.height
    assert main([*arguments, "--png", str(tmp_path / "other.png")]) == 0
    assert (tmp_path / "other.png").exists()
    for extra, complaint in (
        (["--json"], "json must not be asked for with --image"),
        (["--heads", "most"], "heads must be"),
    ):
        assert main([*arguments, *extra]) == 2
        assert complaint in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["explain", "--image", "x.png"], "image needs --model with a vision Transformer"),
        (["explain", "a", "--discard", "0.5"], "discard must be asked for with --image only"),
        (["explain", "a", "--run", "x", "--model", "y"], "expected --run or --model, got both"),
        (["explain", "a", "--run", "nowhere"], "no trained model at nowhere"),
        (["attribute", "x.npz", "--words"], "words has no meaning without --model"),
        (["attribute", "missing.txt", "--model", "agreement"], "missing.txt must be text"),
    ],
)
def test_unusable_input_is_one_line(arguments, complaint, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    err = capsys.readouterr().err
    assert complaint in err
    assert err.count("\n") == 1
