"""Test how text is read, and explanations of one text against the public functions."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import spearmanr
from tiny_models import tiny, tiny_agreement

import jaxflow
from jaxflow.errors import InputError
from jaxflow.eval.explanation import METHODS, explainer
from jaxflow.eval.score.attention import attention_of, join
from jaxflow.eval.score.reading import Token, reader, with_mask_token
from jaxflow.models import ViTConfig, init
from jaxflow.models.model import Model
from jaxflow.models.subword import SubwordTokenizer

TEXT = "The keys are unlikely quux."
MASKED = "The keys [MASK] unlikely to the cabinet."
#: The model, and whether pieces are joined to words.
KINDS = {
    "masked": (lambda: tiny("masked-lm"), True),
    "causal": (lambda: tiny("lm", causal=True), True),
    "causal classes": (lambda: tiny(causal=True), False),
    "agreement": (tiny_agreement, False),
}


def texts(reading):
    return [unit.text for unit in reading.units]


def test_text_is_shown_as_it_stands_in_pieces_or_words():
    reading = reader(tiny())(TEXT)
    assert texts(reading) == [
        "[CLS]", "The", "key", "##s", "are", "un", "##like", "##ly", "quux", ".", "[SEP]",
    ]  # fmt: skip
    assert reading.units[1] == Token("The", "the", True)
    assert reading.units[8] == Token("quux", "[UNK]", False)
    assert reading.members == tuple(range(11))
    assert (reading.place, reading.readout) == (0, 0)
    reading = reader(tiny(), words=True)(TEXT)
    assert texts(reading) == ["[CLS]", "The", "keys", "are", "unlikely", "quux", ".", "[SEP]"]
    assert reading.members == (0, 1, 2, 2, 3, 4, 4, 4, 5, 6, 7)
    assert len(reading.ids) == 11


def test_whole_words_are_tried_as_they_are_then_in_lower_case():
    model = tiny_agreement()
    reading = reader(model, words=True)("The keys PARIS Paris [PAD] [CLS] to")
    seen = ["[CLS]", "the", "keys", "[UNK]", "Paris", "[UNK]", "[UNK]", "to"]
    assert [unit.seen for unit in reading.units] == seen
    assert texts(reading)[1:] == ["The", "keys", "PARIS", "Paris", "[PAD]", "[CLS]", "to"]
    assert reading.ids == tuple(model.text.encode("the keys quux Paris quux quux to"))


def test_punctuation_that_people_do_not_separate_is_read_as_the_corpus_was():
    model = tiny_agreement(("tower", ",", "'s", "n't", "do", "``", "''", "(", "U.S.", "x-ray"))
    reading = reader(model)('(The tower, don\'t "tower" tower\u2019s U.S., X-ray quux)')
    pairs = [(unit.text, unit.seen) for unit in reading.units[1:]]
    assert pairs == [
        ("(", "("), ("The", "the"), ("tower", "tower"), (",", ","), ("do", "do"), ("n't", "n't"),
        ('"', "``"), ("tower", "tower"), ('"', "''"), ("tower", "tower"), ("\u2019s", "'s"),
        ("U.S.", "U.S."), (",", ","), ("X-ray", "x-ray"), ("quux", "[UNK]"), (")", "[UNK]"),
    ]  # fmt: skip


@pytest.mark.parametrize("words", [False, True])
def test_a_language_model_answers_at_its_mask_or_its_last_token(words):
    model = tiny("masked-lm")
    reading = reader(model, words=words)(MASKED)
    assert reading.ids[reading.place] == model.text.mask_id
    assert reading.units[reading.readout].text == "[MASK]"
    for text, count in (("the keys", 0), ("[MASK] the [MASK]", 2)):
        with pytest.raises(InputError, match=rf"must have one \[MASK\], got {count}"):
            reader(model)(text)
        assert reader(model, answer=False)(text).place == 0
    for head in ("lm", "classification"):
        reading = reader(tiny(head, causal=True), words=words)("the keys are")
        assert reading.place == len(reading.ids) - 1


def test_the_mask_token_is_the_models_own():
    model = tiny("masked-lm")
    for special, written in (({"mask": 7}, "a ##s b"), ({}, "a [MASK] b")):
        tokenizer = SubwordTokenizer(model.text.backend, special)
        other = Model(model.config, model.params, tokenizer)
        assert with_mask_token("a [MASK] b", other) == written


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (" \t ", "must have at least one word, got an empty one"),
        ("a\ud800b", "must be valid Unicode text"),
        ("the keys " * 30, "must be at most (38 word pieces|39 words) for this model, got [69]0"),
    ],
)
def test_unreadable_texts_are_refused(text, complaint):
    for model in (tiny(), tiny_agreement()):
        with pytest.raises(InputError, match=complaint):
            reader(model)(text)


@pytest.fixture(scope="module", params=KINDS)
def given(request):
    """A model, and whether pieces are joined to words."""
    make, words = KINDS[request.param]
    return make(), words


def joining(reading):
    """float64 ``[m, n]``, 1 where a token is of a unit; and the same with rows that sum to 1."""
    units = (np.array(reading.members) == np.arange(len(reading.units))[:, None]).astype(float)
    return units, units / units.sum(-1, keepdims=True)


def test_scores_are_those_of_the_public_functions(given):
    model, words = given
    reading = reader(model, words=words)(MASKED)
    found = explainer(model, words=words)(MASKED)
    ids, place = np.array([reading.ids], np.int32), reading.place
    units, shares = joining(reading)
    assert [token.text for token in found.tokens] == texts(reading)
    assert found.readout == reading.readout == list(reading.members)[place]

    @jax.jit
    def probabilities(rows):
        """Of the readout, by the plain module without padding; also of embeddings."""
        mask = jnp.ones(rows.shape[:2], bool)
        method = "encode" if rows.ndim == 3 else None
        logits = model.module.apply(model.params, rows, mask, method=method).logits
        return jax.nn.softmax(logits if logits.ndim == 2 else logits[:, place])

    blanked = np.where(units.astype(bool), found.scoring.token_id, ids).astype(np.int32)
    whole, *changed = np.asarray(probabilities(np.concatenate([ids, blanked])), np.float64)
    label = whole.argmax()
    assert max(found.probabilities.values()) == pytest.approx(whole[label], abs=1e-5)
    if model.config.head == "classification":
        labels = ("singular", "plural") if len(whole) == 2 else model.config.labels
        assert found.prediction == labels[label]
    else:
        assert found.prediction == model.text.decode([label])[0]
        assert len(found.probabilities) == 5
    change = np.abs(np.array(changed)[:, label] - whole[label])
    np.testing.assert_allclose(found.scores["blank_out"], change, atol=2e-5)
    same = (blanked == ids).all(-1)  # what is blank already
    assert (found.scores["blank_out"][same] == 0).all()

    attention = np.asarray(model(ids).attention, np.float64)[0]
    attention = np.einsum("ui,lhij,wj->lhuw", shares, attention, units)
    np.testing.assert_allclose(found.attention, attention, atol=2e-5)
    for name, method in (
        ("raw", jaxflow.raw_attention), ("rollout", jaxflow.rollout), ("flow", jaxflow.flow)
    ):  # fmt: skip
        expected = np.asarray(method(attention))[:, found.readout]
        np.testing.assert_allclose(found.layers[name], expected, atol=5e-5)
        np.testing.assert_array_equal(found.scores[name], found.layers[name][-1])

    def target(embeddings):
        chances = probabilities(embeddings)[0]
        if len(chances) == 2:
            return chances[0] - chances[1]
        return jnp.log(chances[label] / (1 - chances[label]))

    embeddings = jax.jit(lambda: model.module.apply(model.params, ids, method="embed"))()
    norms = np.linalg.norm(jax.jit(jax.grad(target))(embeddings)[0], axis=-1)
    np.testing.assert_allclose(found.scores["gradient_norm"], units @ norms, rtol=2e-3, atol=1e-4)
    values = np.stack([found.scores[name] for name in METHODS], 1)
    np.testing.assert_allclose(found.agreement, spearmanr(values).statistic, atol=1e-9)


def test_attention_of_texts_is_each_ones_own(given):
    model, words = given
    several = [MASKED, "the keys"]
    saved = attention_of(model, several, words=words)
    for place, text in enumerate(several):
        reading = reader(model, words=words, answer=False)(text)
        m = len(reading.units)
        alone = np.asarray(model(np.array([reading.ids], np.int32)).attention)[0]
        units, shares = joining(reading)
        expected = np.einsum("ui,lhij,wj->lhuw", shares, alone, units)
        np.testing.assert_allclose(saved.attention[place, :, :, :m, :m], expected, atol=2e-5)
        assert saved.mask[place].tolist() == [True] * m + [False] * (saved.mask.shape[1] - m)
        assert saved.tokens[place, :m].tolist() == texts(reading)
        assert not saved.attention[place, ..., m:].any()
    # What the functions of arrays ask for: rows that sum to 1, padded keys at 0.
    jaxflow.rollout(saved.attention, mask=saved.mask)


def test_long_texts_are_blanked_in_parts(monkeypatch):
    model = tiny("masked-lm")
    whole = explainer(model)(MASKED)
    monkeypatch.setattr("jaxflow.eval.explanation._MEMORY", 1 << 12)
    parts = explainer(model)(MASKED)
    for name, values in whole.scores.items():
        np.testing.assert_allclose(parts.scores[name], values, rtol=1e-3, atol=1e-5)


def test_joined_rows_still_sum_to_one():
    attention = np.random.default_rng(0).dirichlet(np.ones(6), (2, 3, 6)).astype(np.float32)
    joined = join(attention, [0, 1, 1, 1, 2, 2])
    np.testing.assert_allclose(joined.sum(-1), 1, rtol=1e-6)
    expected = attention[..., 1:4, 4:].sum(-1).mean(-1)
    np.testing.assert_allclose(joined[..., 1, 2], expected, rtol=1e-6)
    assert join(attention, range(6)) is attention


def test_models_of_images_are_refused():
    sizes = {"image": (4, 4), "patch": 2, "layers": 1, "heads": 1, "width": 4, "labels": ("a", "b")}
    config = ViTConfig(**sizes)
    vision = Model(config, init(config), None)
    for call, message in (
        (lambda: explainer(vision), "must be one of text, got one of images"),
        (lambda: attention_of(vision, ["a"]), "must be one of text, got one of images"),
        (lambda: attention_of(tiny(), []), "texts must hold at least one"),
    ):
        with pytest.raises(InputError, match=message):
            call()
