"""Test the protocol against computations of one unpadded sentence at a time in float64."""

import dataclasses
from functools import cached_property

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
import scipy.stats

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
from jaxflow.models import AgreementEncoder, EncoderConfig, Model, WordTokenizer
from jaxflow.train.batches import EncodedSplit

LAYERS, HEADS, POSITIONS = 3, 2, 9
LENGTHS = (5, POSITIONS)
CONFIG = ProtocolConfig(batch=4, threads=1, seed=5)


@pytest.fixture(scope="module")
def model():
    """A random encoder whose weights are large, so that attention is far from uniform."""
    config = EncoderConfig(
        vocabulary=20, positions=POSITIONS, layers=LAYERS, heads=HEADS, width=8, dropout=0.0
    )
    params = jax.jit(AgreementEncoder(config).init)(jax.random.key(2), jnp.ones((1, 2), jnp.int32))
    leaves, tree = jax.tree.flatten(params)
    rng = np.random.default_rng(0)
    leaves = [
        jnp.asarray(rng.normal(scale=0.5, size=leaf.shape) + (leaf == 1), jnp.float32)
        for leaf in leaves
    ]
    words = ("[PAD]", "[CLS]", "[UNK]", *"abcdefghijklmnopq")
    return Model(config, jax.tree.unflatten(tree, leaves), WordTokenizer(words))


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
    return token_scores(model, split, LENGTHS, CONFIG)


class Plain:
    """One sentence through the model and all methods, with nothing of the project."""

    def __init__(self, model, tokens, label):
        variables = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), model.params)
        self.params, self.tokens, self.label = variables["params"], tokens, label
        self.attention = self.run(tokens)[1]
        # As the row of CLS: index 0 of the queries.
        self.edges = oracles.edge_weights(self.attention)

    def run(self, tokens, params=None):
        real = np.ones(len(tokens), bool)
        return oracles.encoder(
            params or self.params, tokens, real, layers=LAYERS, heads=HEADS, causal=False
        )

    def probabilities(self, tokens, params=None):
        logits = self.run(tokens, params)[0]
        return np.exp(logits) / np.exp(logits).sum()

    @cached_property
    def raw(self):
        return self.attention.mean(1)[:, 0]

    @cached_property
    def rollout(self):
        return oracles.rollout(self.attention)[:, 0]

    @cached_property
    def flow(self):
        return jaxflow.flow(self.attention, sources=0)[:, 0]

    @cached_property
    def column_sum(self):
        return np.minimum(1, self.edges[0].sum(0))

    @cached_property
    def blank_out(self):
        whole = self.probabilities(self.tokens)[self.label]
        changes = []
        for place in range(len(self.tokens)):
            blanked = self.tokens.copy()
            blanked[place] = 2
            changes.append(abs(whole - self.probabilities(blanked)[self.label]))
        return np.array(changes)

    @cached_property
    def gradients(self):
        # Each place looks up a row of its own, so that a word that comes twice has two gradients.
        table = self.params["word"]["embedding"][self.tokens]
        places = np.arange(len(self.tokens))

        def difference(values):
            params = {**self.params, "word": {"embedding": values}}
            first, second = self.probabilities(places, params)
            return first - second

        return oracles.finite_differences(difference, table)

    @cached_property
    def gradient(self):
        return np.abs(self.gradients.sum(-1))

    @cached_property
    def gradient_norm(self):
        return np.sqrt((self.gradients**2).sum(-1))


@pytest.fixture(scope="module")
def plain(model, split):
    """The same sentences, one after the other."""
    return [
        Plain(model, tokens[:length], label)
        for tokens, length, label in zip(split.tokens, split.lengths, split.labels, strict=True)
    ]


@pytest.mark.parametrize("name", ["raw", "rollout", "flow", "column_sum"])
def test_methods_are_their_definitions_on_the_row_of_cls(scores, plain, name):
    found = scores.methods[name]
    assert found.shape == (10, LAYERS, POSITIONS)
    assert found.dtype == np.float64
    for row, sentence in enumerate(plain):
        n = len(sentence.tokens)
        expected = np.broadcast_to(getattr(sentence, name), (LAYERS, n))
        np.testing.assert_allclose(found[row, :, :n], expected, rtol=0, atol=2e-5)
        assert np.isnan(found[row, :, n:]).all()


def test_the_methods_differ_from_one_another(scores):
    # Else a mix-up would pass the test above.
    names = ("raw", "rollout", "flow", "column_sum")
    for place, name in enumerate(names):
        for other in names[place + 1 :]:
            gap = np.abs(scores.methods[name] - scores.methods[other])[:, 1:]
            assert np.nanmax(gap) > 0.05


@pytest.mark.parametrize("name", ["blank_out", "gradient", "gradient_norm"])
def test_references_are_their_definitions(scores, plain, name):
    found = scores.targets[name]
    assert found.shape == (10, POSITIONS)
    # The signed sum vanishes for this encoder, see below: there is no size to ask of it.
    assert name == "gradient" or np.nanmax(found) > 0.05
    for row, sentence in enumerate(plain):
        n = len(sentence.tokens)
        expected = getattr(sentence, name)
        np.testing.assert_allclose(found[row, :n], expected, rtol=1e-3, atol=2e-5)
        assert np.isnan(found[row, n:]).all()
        # A word that is unknown already stays as it is.
        unknown = sentence.tokens == 2
        assert name != "blank_out" or (found[row, :n][unknown] == 0).all()


def test_the_signed_sum_of_the_gradient_vanishes_behind_layer_norms(plain):
    """Every block and the readout see the stream through a LayerNorm, which takes its mean off.

    So the same number added to all of a token's features changes nothing, and the derivative in
    that direction, which is the signed sum over the features, is 0 but for rounding.
    """
    for sentence in plain:
        table = sentence.params["word"]["embedding"][sentence.tokens]
        moved = table + np.arange(1.0, len(table) + 1)[:, None]
        places = np.arange(len(table))
        before, after = (
            sentence.probabilities(places, {**sentence.params, "word": {"embedding": values}})
            for values in (table, moved)
        )
        np.testing.assert_allclose(after, before, rtol=0, atol=1e-12)
        # What is left is the error of the finite differences.
        assert sentence.gradient.max() < 1e-6


def test_baselines_know_nothing_of_the_model(scores, split):
    rows = []
    for row, n in enumerate(split.lengths):
        position = scores.methods["position"][row]
        np.testing.assert_array_equal(position[:, :n], np.tile(np.arange(n), (LAYERS, 1)))
        rows.append(scores.methods["random"][row, :, :n].ravel())
        assert np.isnan(scores.methods["random"][row, :, n:]).all()
    values = np.concatenate(rows)
    # Every layer and sentence draws its own.
    assert len(np.unique(values)) == len(values)
    assert scipy.stats.kstest(values, "uniform").pvalue > 0.01


def test_batches_and_buckets_change_nothing(model, split, scores):
    reports = []
    other = token_scores(
        model,
        split,
        (POSITIONS,),
        dataclasses.replace(CONFIG, batch=7, threads=2),
        lambda done, total: reports.append((done, total)),
    )
    for name in ("random", "position"):
        np.testing.assert_array_equal(other.methods[name], scores.methods[name])
    for name in ("raw", "rollout", "flow", "column_sum"):
        np.testing.assert_allclose(other.methods[name], scores.methods[name], atol=1e-5)
    for name, values in scores.targets.items():
        np.testing.assert_allclose(other.targets[name], values, atol=1e-5)
    np.testing.assert_array_equal(other.saturated, scores.saturated)
    np.testing.assert_array_equal(other.counted, scores.counted)
    assert reports == [(7, 10), (10, 10)]


def test_seed_and_special_tokens(model, split, scores):
    part = dataclasses.replace(
        split,
        **{
            name: values[3:5]
            for name, values in vars(split).items()
            if isinstance(values, np.ndarray)
        },
    )
    alone = token_scores(model, part, LENGTHS, CONFIG).methods["random"]
    np.testing.assert_array_equal(alone, scores.methods["random"][3:5, :, : alone.shape[-1]])
    other = dataclasses.replace(CONFIG, seed=6, special_tokens=False)
    seeded = token_scores(model, part, LENGTHS, other)
    assert (seeded.methods["random"] != alone)[:, :, 0].all()
    # Without special tokens only [CLS] is left out: [UNK] stands for a word of the sentence.
    expected = scores.counted[3:5, : seeded.counted.shape[1]].copy()
    expected[:, 0] = False
    np.testing.assert_array_equal(seeded.counted, expected)


@pytest.mark.parametrize("special_tokens", [True, False])
def test_correlations_are_scipys(scores, split, special_tokens):
    first = 0 if special_tokens else 1
    counted = np.arange(POSITIONS) < split.lengths[:, None]
    counted[:, :first] = False
    if special_tokens:
        np.testing.assert_array_equal(scores.counted, counted)
    found = correlate(dataclasses.replace(scores, counted=counted), split.lengths)
    np.testing.assert_array_equal(found.length, split.lengths)
    seen = undefined = 0
    for target, rows in found.correlations.items():
        for name, values in rows.items():
            assert values.shape == (10, LAYERS)
            for row, n in enumerate(split.lengths):
                reference = scores.targets[target][row, first:n]
                for layer in range(LAYERS):
                    mine = scores.methods[name][row, layer, first:n]
                    if len(mine) < 2 or np.ptp(mine) == 0 or np.ptp(reference) == 0:
                        assert np.isnan(values[row, layer])
                        undefined += 1
                        continue
                    expected = scipy.stats.spearmanr(mine, reference).statistic
                    assert values[row, layer] == pytest.approx(expected, abs=1e-12)
                    seen += 1
    assert seen > 400
    assert special_tokens or undefined  # two-token sentences have one word


@pytest.mark.parametrize("first", [0, 1])
def test_entropy_and_saturation_by_definition(scores, split, plain, first):
    counted = scores.counted & (np.arange(POSITIONS) >= first)
    found = correlate(dataclasses.replace(scores, counted=counted), split.lengths)
    for row, sentence in enumerate(plain):
        n = len(sentence.tokens)
        flow, bound = sentence.flow, sentence.column_sum
        share = (flow >= bound - 1e-6)[:, first:].mean(-1)
        np.testing.assert_allclose(found.saturated[row], share, atol=1e-12)
        for name in ("raw", "rollout", "flow"):
            values = getattr(sentence, name)[:, first:]
            if n - first == 1:
                assert np.isnan(found.entropy[name][row]).all()
                continue
            expected = scipy.stats.entropy(values, axis=-1) / np.log(n - first)
            np.testing.assert_allclose(found.entropy[name][row], expected, atol=1e-4)
    assert 0 < found.saturated.mean() < 1


def test_the_draw_follows_the_seed():
    split = split_of([2 + i % 8 for i in range(200)], first_row=7)
    config = ProtocolConfig(samples=50, seed=3)
    drawn, again = choose(split, config), choose(split, config)
    assert len(drawn) == 50
    np.testing.assert_array_equal(drawn.rows, again.rows)
    assert (np.diff(drawn.rows) > 0).all()  # in the order of the file, none twice
    other = choose(split, dataclasses.replace(config, seed=4))
    assert set(other.rows.tolist()) != set(drawn.rows.tolist())
    # Every field follows its row.
    places = (drawn.rows - 7) // 3
    for name in ("tokens", "lengths", "labels", "n_attractors", "subject_index"):
        np.testing.assert_array_equal(getattr(drawn, name), getattr(split, name)[places])
    # From anywhere in the split.
    assert places.min() < 20
    assert places.max() > 180


def test_short_sentences_are_left_out():
    split = split_of([2 + i % 8 for i in range(200)])
    drawn = choose(split, ProtocolConfig(min_tokens=6))
    assert len(drawn) == (split.lengths >= 6).sum() == 100
    assert drawn.lengths.min() == 6
    with pytest.raises(InputError, match="from 1 to the 100 test sentences that fit, got 101"):
        choose(split, ProtocolConfig(min_tokens=6, samples=101))
    with pytest.raises(InputError, match="at least 10 tokens"):
        choose(split, ProtocolConfig(min_tokens=10))
    with pytest.raises(InputError, match=r"from 1 to the 200 .* got 0"):
        choose(split, ProtocolConfig(samples=0))
    long = split_of([4] * 2_300)
    assert len(choose(long, ProtocolConfig())) == 2_000
    assert len(choose(long, ProtocolConfig(samples=2_200))) == 2_200


@pytest.mark.parametrize(
    ("name", "value"),
    [("seed", -1), ("min_tokens", 0), ("residual", 1.5), ("batch", 0), ("threads", 0)],
)
def test_impossible_options_are_named(name, value):
    with pytest.raises(InputError, match=name):
        ProtocolConfig(**{name: value})


def test_sentences_are_chosen_scored_and_kept(model, split, scores):
    config = dataclasses.replace(CONFIG, samples=6, min_tokens=3)
    found, arrays = score_sentences(model, split, LENGTHS, config)
    places = arrays["rows"] // 3
    assert len(places) == 6
    assert (split.lengths[places] >= 3).all()
    np.testing.assert_array_equal(found.length, split.lengths[places])
    whole = correlate(scores, split.lengths)
    for target, rows in whole.correlations.items():
        for name, values in rows.items():
            np.testing.assert_allclose(
                found.correlations[target][name], values[places], atol=1e-6, err_msg=name
            )
    np.testing.assert_array_equal(arrays["labels"], split.labels[places])
    n = arrays["tokens/ids"].shape[1]
    np.testing.assert_array_equal(arrays["tokens/ids"], split.tokens[places, :n])
    for name in ("raw", "rollout", "flow"):
        assert arrays[f"tokens/{name}"].dtype == np.float32
        np.testing.assert_allclose(
            arrays[f"tokens/{name}"], scores.methods[name][places, :, :n], atol=1e-6
        )
    np.testing.assert_allclose(
        arrays["tokens/column_sum"], scores.methods["column_sum"][places, 0, :n], atol=1e-6
    )
    for name, values in scores.targets.items():
        np.testing.assert_allclose(arrays[f"tokens/{name}"], values[places, :n], atol=1e-5)


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
    for ranks in ("average", "dense"):
        whole = correlate(scores, lengths, ranks).correlations
        monkeypatch.setattr(protocol, "BLOCK", 4)
        found = correlate(scores, lengths, ranks).correlations
        monkeypatch.undo()
        for target, rows in whole.items():
            for name, values in rows.items():
                assert np.isfinite(values).any()
                np.testing.assert_array_equal(found[target][name], values)


def test_dense_ranks_go_into_the_formula_without_ties():
    rng = np.random.default_rng(3)
    a, b = rng.integers(0, 4, (2, 4, 9)).astype(float), rng.normal(size=(2, 1, 9))
    counted = rng.random((2, 1, 9)) < 0.7
    found = dense_spearman(a, b, counted)
    for place in np.ndindex(2, 4):
        here = counted[place[0], 0]
        n = here.sum()
        ranks = [
            scipy.stats.rankdata(values[here], method="dense")
            for values in (a[place], b[place[0], 0])
        ]
        expected = 1 - 6 * ((ranks[0] - ranks[1]) ** 2).sum() / (n * (n**2 - 1))
        assert found[place] == pytest.approx(expected, abs=1e-12)
    # Two constants agree perfectly, which no correlation would say; one token is too few.
    assert dense_spearman([3.0] * 5, [4.0] * 5, [True] * 5) == 1
    assert np.isnan(dense_spearman([3.0, 1.0], [4.0, 2.0], [True, False]))
