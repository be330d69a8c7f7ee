"""The decoders study against plain computations of one sentence at a time, and its theorem."""

from __future__ import annotations

import dataclasses
import itertools
import math
from typing import Any

import jax
import numpy as np
import pytest
import scipy.stats

import jaxflow
from jaxflow.edges import normalise
from jaxflow.errors import InputError
from jaxflow.eval.decoders import (
    AFTER,
    MEASURES,
    NORMALISED,
    PLACE,
    TARGETS,
    DecoderScores,
    check_decoder,
    score_decoder,
)
from jaxflow.eval.decoders_rows import measure_rows, place_rows
from jaxflow.eval.decoders_study import pick_splits
from jaxflow.eval.decoders_tables import Change, _verdict, build_decoder_tables
from jaxflow.eval.paper.protocol import ProtocolConfig, TokenScores, token_scores
from jaxflow.eval.plots.decoders import draw_correlations, draw_first_token
from jaxflow.eval.stats import Cell
from jaxflow.models import EncoderConfig, Model, WordTokenizer, init
from jaxflow.train.batches import EncodedSplit

LAYERS, POSITIONS = 2, 7
SIZES = [7, 2, 7, 7, 2, 7]  # every length is compiled
PROTOCOL = ProtocolConfig(threads=1, batch=8, seed=2)


def causal_model(queries: float = 1) -> Model:
    """A random causal encoder, its queries times a factor: of 0, attention is uniform."""
    config = EncoderConfig(
        vocabulary=12, positions=POSITIONS, layers=LAYERS, heads=2, width=8, causal=True
    )
    rng = np.random.default_rng(1)

    def drawn(path: tuple, leaf: jax.Array) -> np.ndarray:
        noise = rng.normal(scale=0.5, size=leaf.shape).astype(np.float32)
        if "qkv" in jax.tree_util.keystr(path):
            noise[..., : config.width] *= queries
        return noise + np.asarray(leaf == 1, np.float32)

    params = jax.tree_util.tree_map_with_path(drawn, init(config))
    return Model(config, params, WordTokenizer(("[PAD]", "[CLS]", "[UNK]", *"abcdefghi")))


@pytest.fixture(scope="module")
def split() -> EncodedSplit:
    rng = np.random.default_rng(0)
    lengths = np.array(SIZES, np.int32)
    tokens = rng.integers(3, 12, (len(SIZES), POSITIONS)).astype(np.int32)
    tokens[:, 0] = 1
    tokens[np.arange(POSITIONS) >= lengths[:, None]] = 0
    labels = rng.integers(0, 2, len(SIZES)).astype(np.int32)
    subjects = np.array([2, 1, -1, 3, 2, 1], np.int32)
    unknown = np.full(len(SIZES), -1, np.int32)
    return EncodedSplit(tokens, lengths, labels, unknown, subjects, np.arange(len(SIZES)), 0)


@pytest.fixture(scope="module")
def model() -> Model:
    return causal_model()


@pytest.fixture(scope="module")
def scored(model: Model, split: EncodedSplit) -> tuple[DecoderScores, TokenScores]:
    """What is measured, and the token scores that it is measured of."""
    # Its two halves as splits of their own, put together again: neither may matter to the other.
    fields = ("tokens", "lengths", "labels", "n_attractors", "subject_index", "rows")
    halves = {
        str(start): dataclasses.replace(
            split, **{name: getattr(split, name)[start : start + 3] for name in fields}
        )
        for start in (0, 3)
    }
    kept: list[TokenScores] = []

    def keep(*arguments: Any) -> TokenScores:
        kept.append(token_scores(*arguments))
        return kept[0]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("jaxflow.eval.decoders.token_scores", keep)
        first, second = score_decoder(model, halves, (POSITIONS,), PROTOCOL).values()
    assert first.measures.keys() == second.measures.keys()
    joined = jax.tree.map(
        lambda a, b: np.concatenate([a, b]), dataclasses.asdict(first), dataclasses.asdict(second)
    )
    return DecoderScores(**joined), kept[0]


@pytest.fixture(scope="module")
def scores(scored: tuple[DecoderScores, TokenScores]) -> DecoderScores:
    return scored[0]


def plain_rows(model: Model, tokens: np.ndarray, method: str) -> tuple[np.ndarray, np.ndarray]:
    """The last word's row of one unpadded sentence, ``[L, n]``, before and after `normalise`."""
    attention = np.asarray(model(tokens[None]).attention[0], np.float64)
    if method == "raw":
        rows = attention.mean(1)[:, -1]
        return rows, rows * len(tokens)
    if method == "flow":
        found = jaxflow.flow(attention)[:, -1:]
    else:
        kept = (attention.mean(1) + np.eye(len(tokens))) / 2
        found = np.stack([kept[0], kept[1] @ kept[0]])[:, -1:]
    return found[:, 0], normalise(found, method, sources=[len(tokens) - 1])[:, 0]


def test_measures_are_those_of_every_sentence_by_itself(
    model: Model, split: EncodedSplit, scored: tuple[DecoderScores, TokenScores]
) -> None:
    scores, targets = scored[0], {name: scored[1].targets[name] for name in TARGETS}
    for sentence, n in enumerate(SIZES):
        for method in ("raw", *NORMALISED):
            before, after = plain_rows(model, split.tokens[sentence, :n], method)
            rows = {method: before} | ({} if method == "raw" else {AFTER.format(method): after})
            for row, values in rows.items():
                for layer, all_of_it in enumerate(values):
                    for variant, kept in (
                        ("tokens", slice(0, n)), ("words", slice(1, n)), ("others", slice(0, n - 1))
                    ):  # fmt: skip
                        some = all_of_it[kept]
                        share = some / some.sum()
                        at = int(split.subject_index[sentence]) - (kept.start or 0)
                        expected = {
                            "first_token": share[0],
                            "excess": share[0] - 1 / len(some),
                            "first_word": share[1 - kept.start] if n > 2 or kept.stop == n else 0,
                            "readout": share[-1],
                            "centre": np.mean(share * np.arange(len(some)) / (len(some) - 1))
                            * len(some)
                            if len(some) > 1
                            else math.nan,
                            "subject": float(some.argmax() == at)
                            if 0 <= at < len(some)
                            else math.nan,
                            "position": rho(some, np.arange(len(some))),
                        }
                        for target, reference in targets.items():
                            expected[target] = rho(some, reference[sentence, kept])
                        found = scores.measures[variant]
                        assert set(found) <= set(MEASURES)
                        for name, by_row in found.items():
                            np.testing.assert_allclose(
                                by_row[row][sentence, layer], expected[name], atol=2e-6,
                                err_msg=f"{sentence} {row} {layer} {variant} {name}",
                            )  # fmt: skip
            if method != "raw":
                np.testing.assert_allclose(
                    scores.relative[method][sentence], after[:, 0], rtol=2e-6
                )


def rho(a: np.ndarray, b: np.ndarray) -> float:
    if len(a) < 2 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return math.nan
    return float(scipy.stats.spearmanr(a, b).statistic)


def test_what_makes_no_sense_is_not_measured(scores: DecoderScores) -> None:
    assert set(scores.measures["tokens"]) == set(MEASURES)
    assert set(MEASURES) - set(scores.measures["words"]) == {"first_token", "excess"}
    assert set(MEASURES) - set(scores.measures["others"]) == {"readout"}


def test_nothing_is_left_of_uniform_causal_attention(split: EncodedSplit) -> None:
    found = score_decoder(causal_model(queries=0), {"test": split}, (POSITIONS,), PROTOCOL)
    scores = found["test"]
    tokens, sizes = scores.measures["tokens"], np.array(SIZES)[:, None]
    for method in NORMALISED:
        np.testing.assert_allclose(scores.relative[method], 1, rtol=1e-5)
        row = AFTER.format(method)
        for name in ("first_token", "first_word", "readout"):
            np.testing.assert_allclose(tokens[name][row] * sizes, 1, rtol=1e-5)
        for variant in ("tokens", "words", "others"):
            centre = scores.measures[variant]["centre"][row]
            np.testing.assert_allclose(centre[~np.isnan(centre)], 0.5, rtol=1e-5)
        # Before, all of the bias is the place's, and at the top it is to early tokens.
        for measure in ("first_token", "centre"):
            found = tokens[measure]
            np.testing.assert_allclose(found[method], found[PLACE.format(method)], rtol=1e-5)
        others = scores.measures["others"]
        assert (others["excess"][method][np.array(SIZES) > 2, -1] > 0.01).all()
        position = others["position"][PLACE.format(method)][np.array(SIZES) > 2, -1]
        np.testing.assert_allclose(position, -1, atol=1e-6)
    np.testing.assert_allclose(tokens["first_token"]["raw"] * sizes, 1, rtol=1e-5)


def test_one_field_serves_all_lengths() -> None:
    like = np.zeros((3, 2, 5))
    found = place_rows(np.array([5, 3, 1]), like, "rollout")
    uniform = (np.tri(5) / np.arange(1, 6)[:, None] + np.eye(5)) / 2
    for sentence, n in enumerate((5, 3, 1)):
        step = uniform[:n, :n]
        np.testing.assert_allclose(found[sentence, 0, :n], step[-1], rtol=1e-6)
        np.testing.assert_allclose(found[sentence, 1, :n], (step @ step)[-1], rtol=1e-6)
        assert (found[sentence, :, n:] == 0).all()


def test_a_tie_shares_the_hit_and_an_empty_row_has_no_shares() -> None:
    rows = {"row": np.array([[[0.2, 0.4, 0.4]], [[0.5, 0.0, 0.0]]])}
    counted = np.array([[False, True, True], [False, True, True]])
    found = measure_rows(rows, {}, counted, np.array([2, 1]))
    assert found["subject"]["row"].tolist() == [[0.5], [0.5]]
    assert found["centre"]["row"][0, 0] == pytest.approx(0.5)
    assert np.isnan(found["first_word"]["row"][1, 0])
    assert "subject" not in measure_rows(rows, {}, counted, np.array([-1, -1]))


def test_tables_hold_means_and_tests_of_the_differences(scores: DecoderScores) -> None:
    tables = build_decoder_tables(scores, 3, resamples=50, permutations=4000)
    assert tables.sentences == len(SIZES)
    assert tables.layers == LAYERS
    assert tables.even == pytest.approx(np.mean([1 / n for n in SIZES]))
    for variant, measure in (("tokens", "excess"), ("others", "position"), ("words", "blank_out")):
        rows = scores.measures[variant][measure]
        for method in NORMALISED:
            difference = (rows[AFTER.format(method)] - rows[method])[:, -1]
            difference = difference[~np.isnan(difference)]
            change = tables.changes[variant][measure][method][-1]
            assert change.difference == pytest.approx(difference.mean(), abs=1e-9)
            assert change.n == len(difference)
            assert change.p == pytest.approx(exact_p(difference), abs=0.04)
            assert change.p_holm >= change.p
            cell = tables.measures[variant][measure][method][-1]
            assert cell.mean == pytest.approx(np.nanmean(rows[method][:, -1]))
    assert "first_token" not in tables.changes["tokens"]
    assert [band.sentences for band in tables.bands.values()] == [2, 4]
    longest = np.array(SIZES) >= 6
    assert tables.bands["6–8"].measures["tokens"]["excess"]["flow"].mean == pytest.approx(
        scores.measures["tokens"]["excess"]["flow"][longest, -1].mean()
    )


def exact_p(difference: np.ndarray) -> float:
    signs = np.array(list(itertools.product((-1, 1), repeat=len(difference))))
    return float((np.abs(signs @ difference) >= abs(difference.sum()) - 1e-9).mean())


def cell(mean: float, half: float = 0.01) -> Cell:
    return Cell(mean, 0.1, (mean - half, mean + half), 9, 0)


@pytest.mark.parametrize(
    ("measure", "before", "after", "p", "verdict"),
    [
        ("position", -0.8, 0.005, 0.01, "gone"),
        ("position", -0.8, -0.2, 0.01, "weaker"),
        ("position", -0.8, 0.2, 0.01, "turned, weaker"),
        ("excess", 0.1, 0.3, 0.01, "stronger"),
        ("excess", 0.1, -0.3, 0.01, "turned, stronger"),
        ("excess", 0.1, 0.0, 0.05, "same"),
        ("blank_out", 0.3, 0.1, 0.01, "lower"),
        ("subject", 0.3, 0.5, 0.01, "higher"),
        ("subject", 0.3, 0.5, math.nan, "undefined"),
        ("centre", 0.3, 0.5, 0.01, ""),
    ],
)
def test_verdicts(measure: str, before: float, after: float, p: float, verdict: str) -> None:
    assert _verdict(measure, cell(before), cell(after), after - before, p) == verdict


def test_figures_show_the_cells(scores: DecoderScores) -> None:
    tables = build_decoder_tables(scores, 3, resamples=20, permutations=20)
    first = tables.measures["tokens"]["first_token"]
    lines = {line.get_label(): line for line in draw_first_token(tables).axes[0].lines}
    for label, row in (("rollout", "rollout"), ("rollout, normalised", "rollout normalised")):
        np.testing.assert_allclose(lines[label].get_ydata(), [cell.mean for cell in first[row]])
    panels = draw_correlations(tables).axes
    assert len(panels) == 9
    lines = {line.get_label(): line for line in panels[-2].lines}
    expected = tables.measures["others"]["blank_out"]["flow normalised"]
    np.testing.assert_allclose(
        lines["flow, normalised"].get_ydata(), [cell.mean for cell in expected]
    )
    assert isinstance(tables.changes["others"]["position"]["flow"][0], Change)


def test_other_models_and_splits_are_refused(model: Model, split: EncodedSplit) -> None:
    config = dataclasses.replace(model.config, causal=False)
    with pytest.raises(InputError, match="needs a causal encoder"):
        check_decoder(Model(config, model.params, model.tokenizer))
    assert pick_splits(["val", "subjects", "test"], None) == ("test", "subjects")
    assert pick_splits(["val", "test"], "val") == ("val",)
    with pytest.raises(InputError, match="split must be one of val, test, got 'train'"):
        pick_splits(["val", "test"], "train")
