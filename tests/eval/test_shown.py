"""Test what is shown: text of byte-level pieces, colours, constant scores, ties and saturation."""

from __future__ import annotations

import dataclasses
import io

import numpy as np
import pytest
import tokenizers
from PIL import Image
from rich.console import Console
from tiny_models import tiny, tiny_agreement

import jaxflow
from jaxflow.commands.attribute import summary
from jaxflow.eval.explain.page import as_page
from jaxflow.eval.explain.picture import draw, draw_overlays
from jaxflow.eval.explain.text import cautions, print_explanation, print_image_explanation
from jaxflow.eval.explain.vision import explain_image
from jaxflow.eval.explanation import explainer
from jaxflow.eval.plots.maps import draw_layer_maps
from jaxflow.eval.plots.style import CONSTANT, colour_map, paint, ranked, shade
from jaxflow.eval.score.attention import AttributionOptions, SavedAttention, attribute
from jaxflow.eval.score.reading import piece_text, reader
from jaxflow.models import Model, SubwordTokenizer, ViTConfig, init


def lab(colour):
    """CIELAB of an sRGB colour, by the standard's formula."""
    shares = np.array(colour) / 255
    linear = np.where(shares <= 0.04045, shares / 12.92, ((shares + 0.055) / 1.055) ** 2.4)
    matrix = [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    x, y, z = (np.array(matrix) @ linear) / (0.9505, 1, 1.089)
    x, y, z = (v ** (1 / 3) if v > 0.008856 else 7.787 * v + 16 / 116 for v in (x, y, z))
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def test_the_one_colour_map_is_perceptually_uniform_and_grey_is_none_of_it():
    colours = [shade(share) for share in np.linspace(0, 1, 19)]
    points = np.array([lab(colour) for colour in colours])
    steps = np.linalg.norm(np.diff(points, axis=0), axis=-1)
    assert steps.max() < 1.25 * steps.min()
    assert (np.diff(points[:, 0]) < 0).all()
    np.testing.assert_allclose(255 * colour_map()(np.linspace(0, 1, 19))[:, :3], colours, atol=1.5)
    assert min(np.linalg.norm(points - lab(CONSTANT), axis=-1)) > 10


@pytest.fixture(scope="module")
def byte_level():
    """A language model of single bytes, "é" and "<pad>"."""
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {piece: number for number, piece in enumerate(["<pad>", *alphabet, "Ã©"])}
    backend = tokenizers.Tokenizer(tokenizers.models.BPE(vocabulary, [("Ã", "©")]))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.add_special_tokens(["<pad>"])
    model = tiny("lm", causal=True, vocabulary=len(vocabulary))
    return Model(model.config, model.params, SubwordTokenizer(backend, {"unk": 0}))


def test_byte_level_pieces_are_shown_as_text_and_half_a_character_by_its_bytes(byte_level):
    tokenizer = byte_level.text
    text = "aé ü\U0001f642"
    shown = [unit.text for unit in reader(byte_level)(text).units]
    pieces = [each.decode(errors="backslashreplace") for each in (b"\xc3", b"\xbc")]
    smile = [bytes([byte]).decode(errors="backslashreplace") for byte in "\U0001f642".encode()]
    assert shown == ["a", "é", "␣", *pieces, *smile]
    numbers = tokenizer.encode("é ")
    assert [piece_text(tokenizer, number) for number in numbers] == ["é", " "]
    assert piece_text(tokenizer, 0) == "<pad>"
    found = explainer(byte_level)("aé")
    assert not any("Ã" in name and len(name) > 1 for name in found.probabilities)


def test_constant_scores_are_grey_and_ties_are_ties():
    rounded = 0.2 + 1e-8 * np.arange(4)
    assert paint(rounded) == [CONSTANT] * 4
    assert paint(np.array([0.0, 1.0])) == [shade(0), shade(1)]
    assert ranked(np.array([0.1, 0.5, 0.1 + 1e-9, 0.3])) == [[1], [3], [0, 2]]
    tokens = np.array(list("abcdef"))
    uniform = np.full((2, 1, 6, 6), 1 / 6)
    saved = SavedAttention(uniform, None, tokens)
    found = attribute(saved, AttributionOptions("raw", sources=(0,)))
    assert summary(found)[1].endswith("the same for all 6 tokens, 0.167")
    uniform[:, 0, 0] = [0.3, 0.1, 0.2, 0.2, 0.1, 0.1]
    found = attribute(saved, AttributionOptions("raw", sources=(0,)))
    assert summary(found)[1].endswith("a 0.300, c = d 0.200, b = e = ... (3 tie) 0.100")
    titles = [axes.get_title() for axes in draw_layer_maps(np.full((1, 2, 2), 0.5), "ab").axes]
    assert titles == ["L1\nconstant .50"]


def test_causal_flow_that_is_what_the_top_layer_sends_is_named():
    found = explainer(tiny_agreement())("the keys")
    n, depth = 3, 4
    attention = np.tril(np.random.default_rng(0).random((depth, 1, n, n)))
    attention[-1, :, -1, 0] = 9  # more than can pass through the layers below
    attention /= attention.sum(-1, keepdims=True)
    for given, wanted in ((attention, True), (attention[..., ::-1, ::-1], False)):
        flow = jaxflow.flow(given, sources=-1)[-1, 0]
        top = 0.5 * given[-1, 0, -1] + 0.5 * (np.arange(n) == n - 1)
        count = sum(flow[at] > top[at:].sum() - 1e-9 for at in range(n))
        changed = {"attention": given, "layer": depth - 1, "readout": n - 1}
        flows = {"flow": flow}
        one = dataclasses.replace(found, scores={**found.scores, **flows}, **changed)
        line = f"Flow is the sum of layer {depth}'s attention to a token and all later ones for "
        stated = [note for note in cautions(one) if note.startswith(line)]
        assert bool(stated) is wanted
        assert not wanted or (count > 0 and stated[0].startswith(f"{line}{count} of {n} tokens"))


def test_constant_and_saturated_scores_are_named_in_text_page_and_picture():
    found = explainer(tiny_agreement())("the keys")
    flat = {"flow": np.ones(3), "raw": np.full(3, 0.5)}
    found = dataclasses.replace(
        found, scores={**found.scores, **flat}, saturated=np.array([True, True, False])
    )
    stream = io.StringIO()
    print_explanation(Console(file=stream, width=200), found)
    (axes,) = draw([found]).axes
    picture = axes.get_xlabel() or axes.xaxis.get_label().get_text()
    for shown in (stream.getvalue(), as_page([found]), picture):
        assert "The same for all tokens: raw attention, flow" in shown
        assert "Flow is at its bound for 2 of 3 tokens" in shown
    (image,) = axes.get_images()
    assert (np.asarray(image.get_array())[2] == CONSTANT).all()
    assert axes.get_yticklabels()[2].get_text() == "flow\n(constant)"
    assert "<h3>flow (constant)</h3>" in as_page([found])


def test_a_saturated_map_over_an_image_is_no_rainbow(tmp_path):
    config = ViTConfig(image=(4, 4), patch=2, layers=6, heads=1, width=4, labels=("cat", "dog"))
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "black.png")
    vit = Model(config, init(config), None)  # of first parameters: attention is nearly uniform
    found = explain_image(vit, tmp_path / "black.png")
    assert found.saturated == 1
    even = {name: 1 + 1e-7 * values for name, values in found.scores.items()}
    found = dataclasses.replace(found, scores=even)
    figure = draw_overlays(found)
    assert "Flow is at its bound for 100% of the patches" in figure.get_supxlabel()
    assert "The same for all patches: raw, rollout, flow" in figure.get_supxlabel()
    labels = [text.get_text() for axes in figure.axes for text in axes.get_xticklabels()]
    assert labels.count("constant: 1") == 3
    stream = io.StringIO()
    print_image_explanation(Console(file=stream, width=200), found)
    assert stream.getvalue().count("all the same") == 3
    assert "Flow is at its bound for 100% of the patches" in stream.getvalue()
