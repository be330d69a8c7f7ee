"""Test the protocol against computations of one unpadded sentence at a time in float64."""

import dataclasses
import itertools

import jax
import numpy as np
import oracles
import pytest
import scipy.special
import scipy.stats
from small_sst2 import redrawn

import jaxflow
from jaxflow.errors import InputError
from jaxflow.eval.paper import protocol
from jaxflow.eval.paper.protocol import (
    ProtocolConfig,
    TokenScores,
    choose,
    correlate,
    dense_spearman,
    score_sentences,
    token_scores,
)
from jaxflow.eval.paper.scores import ROWS, TARGETS
from jaxflow.models import EncoderConfig, Model, WordTokenizer, init
from jaxflow.train.batches import EncodedSplit

LAYERS, HEADS, POSITIONS = 3, 2, 9
CONFIG = ProtocolConfig(batch=4, threads=1, seed=5)


@pytest.fixture(scope="module")
def model():
    """A random encoder whose weights are large, so that attention is far from uniform."""
    sizes = {"vocabulary": 20, "positions": POSITIONS, "layers": LAYERS, "heads": HEADS, "width": 8}
    config = EncoderConfig(**sizes, dropout=0.0)
    words = ("[PAD]", "[CLS]", "[UNK]", *"abcdefghijklmnopq")
    return Model(config, redrawn(init(config), 0, 0.5), WordTokenizer(words))


def split_of(lengths, seed=0, first_row=0):
    rng = np.random.default_rng(seed)
    lengths = np.asarray(lengths, np.int32)
    tokens = rng.integers(3, 20, (len(lengths), POSITIONS)).astype(np.int32)
    tokens[:, 0] = 1
    tokens[:, 2] = np.where(rng.random(len(lengths)) < 0.3, 2, tokens[:, 2])  # some [UNK]
    tokens[np.arange(POSITIONS) >= lengths[:, None]] = 0
    labels = rng.integers(0, 2, len(lengths)).astype(np.int32)
    unknown = np.full(len(lengths), -1, np.int32)
    rows = first_row + 3 * np.arange(len(lengths))
    return EncodedSplit(tokens, lengths, labels, unknown, unknown, rows, 0)


@pytest.fixture(scope="module")
def split():
    return split_of([2, 9, 3, 7, 5, 4, 9, 6, 8, 2])


@pytest.fixture(scope="module")
def scores(model, split):
    return token_scores(model, split, (POSITIONS,), CONFIG)


class Plain:
    """One sentence through the model and all methods, in NumPy; index 0 is the row of [CLS]."""

    def __init__(self, model, tokens, label):
        variables = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), model.params)
        self.params, self.tokens, self.label = variables["params"], tokens, label
        attention = self.run(self.params, tokens)[1]
        self.raw = attention.mean(1)[:, 0]
        self.rollout = oracles.rollout(attention)[:, 0]
        self.flow = jaxflow.flow(attention, sources=0)[:, 0]
        self.column_sum = np.minimum(1, oracles.edge_weights(attention)[0].sum(0))

    def run(self, params, tokens):
        real = np.ones(len(tokens), bool)
        return oracles.encoder(params, tokens, real, layers=LAYERS, heads=HEADS, causal=False)

    def probabilities(self, params, tokens):
        return scipy.special.softmax(self.run(params, tokens)[0])

    @property
    def blank_out(self):
        rows = np.tile(self.tokens, (len(self.tokens), 1))
        np.fill_diagonal(rows, 2)
        chances = [self.probabilities(self.params, row)[self.label] for row in (self.tokens, *rows)]
        return np.abs(chances[0] - np.array(chances[1:]))

    @property
    def gradient_norm(self):
        # Each place looks up a row of its own, so that a word that comes twice has two gradients.
        def difference(values):
            params = {**self.params, "word": {"embedding": values}}
            first, second = self.probabilities(params, np.arange(len(values)))
            return first - second

        table = self.params["word"]["embedding"][self.tokens]
        return np.linalg.norm(oracles.finite_differences(difference, table), axis=-1)


@pytest.fixture(scope="module")
def plain(model, split):
    """The same sentences, one after the other."""
    rows = zip(split.tokens, split.lengths, split.labels, strict=True)
    return [Plain(model, tokens[:length], label) for tokens, length, label in rows]


METHODS = ("raw", "rollout", "flow", "column_sum")


@pytest.mark.parametrize("name", [*METHODS, "blank_out", "gradient_norm"])
def test_scores_are_their_definitions_on_the_row_of_cls(scores, plain, name):
    found = (scores.methods | scores.targets)[name]
    assert found.shape == ((10, LAYERS, POSITIONS) if name in METHODS else (10, POSITIONS))
    assert found.dtype == np.float64
    assert np.nanmax(found) > 0.05
    for other in set(METHODS) - {name} if name in METHODS else ():  # else a mix-up would pass
        assert np.nanmax(np.abs(found - scores.methods[other])[:, 1:]) > 0.05
    for row, sentence in enumerate(plain):
        n = len(sentence.tokens)
        real = found[row, ..., :n]
        expected = np.broadcast_to(getattr(sentence, name), real.shape)
        np.testing.assert_allclose(real, expected, rtol=1e-3, atol=2e-5)
        assert np.isnan(found[row, ..., n:]).all()
        # A word that is unknown already stays as it is.
        assert name != "blank_out" or (real[sentence.tokens == 2] == 0).all()
    # Of the signed sum rounding is left: every block subtracts the mean of a token's features.
    assert np.nanmax(scores.targets["gradient"]) < 2e-5


def test_baselines_know_nothing_of_the_model(scores, split):
    rows = []
    for row, n in enumerate(split.lengths):
        position, random = (scores.methods[name][row] for name in ("position", "random"))
        np.testing.assert_array_equal(position[:, :n], np.tile(np.arange(n), (LAYERS, 1)))
        rows.append(random[:, :n].ravel())
        assert np.isnan(random[:, n:]).all()
    values = np.concatenate(rows)
    assert len(np.unique(values)) == len(values)  # every layer and sentence draws its own
    assert scipy.stats.kstest(values, "uniform").pvalue > 0.01


def test_batches_buckets_and_the_padding_token_change_nothing(model, split, scores):
    reports = []
    config = dataclasses.replace(CONFIG, threads=2)
    real = np.arange(POSITIONS) < split.lengths[:, None]
    # A word of the vocabulary pads: what is real is known by the lengths.
    given = dataclasses.replace(split, tokens=np.where(real, split.tokens, 3), pad_id=3)
    other = token_scores(model, given, (5, POSITIONS), config, lambda *now: reports.append(now))
    exact = ("random", "position")
    for mine, theirs in ((other.methods, scores.methods), (other.targets, scores.targets)):
        for name, values in theirs.items():
            np.testing.assert_allclose(mine[name], values, atol=0 if name in exact else 1e-5)
    np.testing.assert_array_equal(other.saturated, scores.saturated)
    np.testing.assert_array_equal(other.counted, scores.counted)
    assert reports == [(4, 10), (5, 10), (9, 10), (10, 10)]  # five sentences a bucket


def test_seed_and_special_tokens(model, split, scores):
    part = choose(split, ProtocolConfig(samples=2, seed=1))
    places = part.rows // 3
    config = dataclasses.replace(CONFIG, seed=6, special_tokens=False)
    alone, seeded = (token_scores(model, part, (POSITIONS,), each) for each in (CONFIG, config))
    n = alone.counted.shape[1]
    random = alone.methods["random"]
    np.testing.assert_array_equal(random, scores.methods["random"][places, :, :n])
    assert (seeded.methods["random"] != random)[:, :, 0].all()
    # Without special tokens only [CLS] is left out: [UNK] stands for a word of the sentence.
    expected = scores.counted[places, :n] & (np.arange(n) > 0)
    np.testing.assert_array_equal(seeded.counted, expected)


@pytest.mark.parametrize("first", [0, 1])
def test_correlations_are_scipys_and_shares_by_definition(scores, split, plain, first):
    counted = (np.arange(POSITIONS) < split.lengths[:, None]) & (np.arange(POSITIONS) >= first)
    if first == 0:
        np.testing.assert_array_equal(scores.counted, counted)
    found = correlate(dataclasses.replace(scores, counted=counted), split.lengths)
    np.testing.assert_array_equal(found["length"], split.lengths)
    seen = undefined = 0
    for (target, rows), (row, n) in itertools.product(
        found.correlations.items(), enumerate(split.lengths)
    ):
        reference = scores.targets[target][row, first:n]
        for (name, values), layer in itertools.product(rows.items(), range(LAYERS)):
            mine = scores.methods[name][row, layer, first:n]
            if len(mine) < 2 or np.ptp(mine) == 0 or np.ptp(reference) == 0:
                assert np.isnan(values[row, layer])
                undefined += 1
            else:
                expected = scipy.stats.spearmanr(mine, reference).statistic
                assert values[row, layer] == pytest.approx(expected, abs=1e-12)
                seen += 1
    assert seen > 400
    assert not first or undefined  # two-token sentences have one word
    for row, sentence in enumerate(plain):
        share = (sentence.flow >= sentence.column_sum - 1e-6)[:, first:].mean(-1)
        np.testing.assert_allclose(found["saturated"][row], share, atol=1e-12)
        for name in ("raw", "rollout", "flow"):
            values = getattr(sentence, name)[:, first:]
            if values.shape[1] == 1:
                assert np.isnan(found[f"entropy/{name}"][row]).all()
            else:
                expected = scipy.stats.entropy(values, axis=-1) / np.log(values.shape[1])
                np.testing.assert_allclose(found[f"entropy/{name}"][row], expected, atol=1e-4)
    assert 0 < found["saturated"].mean() < 1


def test_the_draw_follows_the_seed_and_leaves_out_short_sentences():
    split = split_of([2 + i % 8 for i in range(200)], first_row=7)
    config = ProtocolConfig(samples=50, seed=3)
    drawn, again = choose(split, config), choose(split, config)
    np.testing.assert_array_equal(drawn.rows, again.rows)
    assert (np.diff(drawn.rows) > 0).all()  # in the order of the file, none twice
    other = choose(split, dataclasses.replace(config, seed=4))
    assert set(other.rows.tolist()) != set(drawn.rows.tolist())
    places = (drawn.rows - 7) // 3
    for name in ("tokens", "lengths", "labels", "n_attractors", "subject_index"):
        np.testing.assert_array_equal(getattr(drawn, name), getattr(split, name)[places])
    assert places.min() < 20  # from anywhere in the split
    assert places.max() > 180
    long = choose(split, ProtocolConfig(min_tokens=6))
    assert (len(long), long.lengths.min()) == (100, 6)
    many = split_of([4] * 2_300)
    counts = [(50, drawn), (2_000, choose(many, ProtocolConfig()))]
    counts.append((2_200, choose(many, ProtocolConfig(samples=2_200))))
    assert all(len(found) == count for count, found in counts)
    for options, message in (
        ({"min_tokens": 6, "samples": 101}, "from 1 to the 100 test sentences that fit, got 101"),
        ({"min_tokens": 10}, "at least 10 tokens"),
        ({"samples": 0}, r"from 1 to the 200 .* got 0"),
    ):
        with pytest.raises(InputError, match=message):
            choose(split, ProtocolConfig(**options))


@pytest.mark.parametrize(
    ("name", "value"),
    [("seed", -1), ("min_tokens", 0), ("residual", 1.5), ("batch", 0), ("threads", 0)],
)
def test_impossible_options_are_named(name, value):
    with pytest.raises(InputError, match=name):
        ProtocolConfig(**{name: value})


def test_sentences_are_chosen_scored_and_kept(model, split, scores):
    config = dataclasses.replace(CONFIG, samples=6, min_tokens=3)
    found, arrays = score_sentences(model, split, (POSITIONS,), config)
    places = arrays["rows"] // 3
    assert len(places) == 6
    assert (split.lengths[places] >= 3).all()
    np.testing.assert_array_equal(found["length"], split.lengths[places])
    for target, rows in correlate(scores, split.lengths).correlations.items():
        for name, values in rows.items():
            mine = found.correlations[target][name]
            np.testing.assert_allclose(mine, values[places], atol=1e-6, err_msg=name)
    n = arrays["tokens/ids"].shape[1]
    np.testing.assert_array_equal(arrays["labels"], split.labels[places])
    np.testing.assert_array_equal(arrays["tokens/ids"], split.tokens[places, :n])
    kept = {name: scores.methods[name] for name in ("raw", "rollout", "flow")}
    kept |= {**scores.targets, "column_sum": scores.methods["column_sum"][:, 0]}
    for name, values in kept.items():
        mine = arrays[f"tokens/{name}"]
        assert mine.dtype == np.float32
        np.testing.assert_allclose(mine, values[places, ..., :n], atol=1e-5)


def test_blocks_by_length_leave_no_trace_in_the_correlations(monkeypatch):
    rng = np.random.default_rng(7)
    lengths = rng.integers(2, 20, 11)
    real = np.arange(19) < lengths[:, None]

    def drawn(*shape):
        values = rng.integers(0, 6, shape) / 7  # many ties
        return np.where(real if len(shape) == 2 else real[:, None], values, np.nan)

    scores = TokenScores(
        {name: drawn(11, LAYERS, 19) for name in ROWS},
        {name: drawn(11, 19) for name in TARGETS},
        rng.random((11, LAYERS, 19)) < 0.5,
        real & (rng.random((11, 19)) < 0.9),
    )
    kinds = ("average", "dense")
    whole = [correlate(scores, lengths, ranks).correlations for ranks in kinds]
    monkeypatch.setattr(protocol, "BLOCK", 4)
    for ranks, expected in zip(kinds, whole, strict=True):
        found = correlate(scores, lengths, ranks).correlations
        for (target, rows), name in itertools.product(expected.items(), ROWS):
            assert np.isfinite(rows[name]).any()
            np.testing.assert_array_equal(found[target][name], rows[name])


def test_dense_ranks_go_into_the_formula_without_ties():
    rng = np.random.default_rng(3)
    a, b = rng.integers(0, 4, (2, 4, 9)).astype(float), rng.normal(size=(2, 1, 9))
    counted = rng.random((2, 1, 9)) < 0.7
    found = dense_spearman(a, b, counted)
    for place in np.ndindex(2, 4):
        here = counted[place[0], 0]
        n = here.sum()
        sides = (a[place][here], b[place[0], 0, here])
        ranks = [scipy.stats.rankdata(values, method="dense") for values in sides]
        expected = 1 - 6 * ((ranks[0] - ranks[1]) ** 2).sum() / (n * (n**2 - 1))
        assert found[place] == pytest.approx(expected, abs=1e-12)
    # Two constants agree perfectly, which no correlation would say; one token is too few.
    assert dense_spearman([3.0] * 5, [4.0] * 5, [True] * 5) == 1
    assert np.isnan(dense_spearman([3.0, 1.0], [4.0, 2.0], [True, False]))
