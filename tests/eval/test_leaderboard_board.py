"""Test the board of a small model against the public functions and loops in NumPy."""

from __future__ import annotations

import dataclasses
import io
import itertools
import json
import math

import jax
import jax.numpy as jnp
import leaderboard_data
import numpy as np
import pyarrow.parquet as pq
import pytest
from rich.console import Console
from scipy.special import softmax
from scipy.stats import entropy, spearmanr
from tiny_models import tiny
from traces import model as small_model

import jaxflow
from jaxflow.attention import edge_weights
from jaxflow.edges import aggregate, normalise, propagate, weigh
from jaxflow.edges._aggregate import capacities
from jaxflow.errors import InputError
from jaxflow.eval.leaderboard.board import MEASURES, run_board
from jaxflow.eval.leaderboard.cases import from_texts
from jaxflow.eval.leaderboard.methods import all_methods
from jaxflow.eval.leaderboard.report import (
    SHORT,
    as_markdown,
    print_summary,
    record,
    write_parquet,
)
from jaxflow.eval.leaderboard.scoring import Programs
from jaxflow.eval.leaderboard.summary import TITLES, summarise_boards
from jaxflow.models import trace

FOLLOWED = (
    "raw/rollout",
    "norm/flow",
    "gradient/paths",
    "alti/rollout",
    "no-first/none",
    "head-1/flow",
    "head-0/rollout",
    "residual-0.25/flow",
)
TEXTS = ("a b c d", "b b e", "j", "c a zebra f g")
LABELS = (0, 2, 1, 1)


@pytest.fixture(scope="module")
def model():
    return small_model("pre")


@pytest.fixture(scope="module")
def cases(model):
    found = from_texts(model, TEXTS, LABELS)
    return dataclasses.replace(found, subject=np.array([2, -1, 1, 3]))


@pytest.fixture(scope="module")
def board(model, cases):
    with pytest.MonkeyPatch.context() as patch:
        leaderboard_data.small_batches(patch)
        return run_board(model, cases)


def rows_of(board, name):
    return [place for place, (method, _) in enumerate(board.rows) if method == name]


def test_everyone_is_there_or_said_to_be_left_out(model, board):
    names = {method.name for method in all_methods(model.config.heads)}
    here = {name for name, _ in board.rows}
    missing = {name.partition("/")[0] for name in names - here}
    assert here <= names
    # Paths that pass no layer by need edges without the residual connection.
    assert "norm/product" in here
    assert here.isdisjoint(f"{edge}/product" for edge in ("norm-residual", "globenc", "alti"))
    assert missing == set(board.scores.left_out)
    # Sentences of six tokens are no longer than a head is wide; there is no mask token.
    assert {"effective", "mask-out"} <= missing
    assert not any("\n" in reason for reason in board.scores.left_out.values())
    for name in here - {"random", "position", "uniform", "column-sum"}:
        assert board.scores.seconds[name] > 0


def test_scores_are_those_of_the_public_functions(model, cases, board):
    # The second sentence without its padding; another would compile all programs anew.
    sentence, label, n = 1, LABELS[1], cases.lengths[1]
    assert n < cases.tokens.shape[1]
    tokens = cases.tokens[[sentence], :n]
    found = trace(model, tokens, target=lambda logits: logits[:, label])
    apply = model.module.apply

    @jax.jit
    def by_paths(found):
        pairs = {name: name.split("/") for name in FOLLOWED if not name.endswith("flow")}
        expected = {name: aggregate(found, *pair, sources=0) for name, pair in pairs.items()}
        return {**expected, "decompx": propagate(found, "decompx")}

    expected = {name: rows[0, :, 0] for name, rows in by_paths(found).items()}
    for name in FOLLOWED:
        if name not in expected:
            expected[name] = np.asarray(aggregate(found, *name.split("/"), sources=0))[0, :, 0]

    @jax.jit
    def by_gradients(embeddings):
        def log_odds(given):
            logits = apply(model.params, given, method="encode").logits
            chosen = jax.nn.softmax(logits)[:, label]
            return jnp.log(chosen / (1 - chosen))

        norm = jaxflow.gradient_norm(log_odds, embeddings)
        return norm[0], jnp.abs(jaxflow.gradient_x_input(log_odds, embeddings))[0]

    embeddings = apply(model.params, jnp.asarray(tokens), method="embed")
    expected |= zip(("gradient-norm", "gradient-x-input"), by_gradients(embeddings), strict=True)

    @jax.jit
    def predict(rows, mask):
        return jax.nn.softmax(apply(model.params, rows, mask, method="classify"))

    kinds = (("delete-out", "deletion", model.text.pad_id), ("attention-out", "attention", None))
    for method, how, number in kinds:
        removed = jaxflow.remove_out(predict, tokens, how, token_id=number, label=[label])
        expected[method] = removed[0]
    for name, values in expected.items():
        mine = board.scores.values[name][sentence, :, :n].reshape(np.shape(values))
        np.testing.assert_allclose(mine, values, rtol=5e-3, atol=5e-5, err_msg=name)
    column = np.asarray(jaxflow.saturation(np.asarray(found.attention), sources=0).bound)[0]
    mine = board.scores.values["column-sum"][sentence, 0, :n]
    np.testing.assert_allclose(np.minimum(mine, 1), column, atol=1e-5)
    for values in board.scores.values.values():
        assert not values[sentence, :, n:].any()


def test_measures_are_those_of_a_loop(model, cases, board):
    """That the curves of removal are those of a loop is tested with random predictions."""
    for name, sentence in itertools.product(("raw/rollout", "blank-out", "random"), range(4)):
        place, n = rows_of(board, name)[-1], cases.lengths[sentence]
        scores = board.scores.values[name][sentence, -1, :n]
        reference = board.scores.values["blank-out"][sentence, 0, :n]
        found = {key: values[place, sentence] for key, values in board.measures.items()}
        expected = spearmanr(scores, reference).statistic
        assert found["spearman_blank_out"] == pytest.approx(expected, abs=1e-5, nan_ok=True)
        expected = entropy(scores / scores.sum()) / math.log(n)
        assert found["entropy"] == pytest.approx(expected, abs=1e-4)
        words, subject = scores[1:], cases.subject[sentence]
        hit = math.nan if subject < 0 else float(1 + words.argmax() == subject)
        assert found["subject_hit"] == pytest.approx(hit, nan_ok=True)
        tokens = np.tile(cases.tokens[sentence, :n], (11, 1))
        order = 1 + np.argsort(-words, kind="stable")
        for tenth in range(1, 11):
            tokens[tenth, order[: math.ceil(tenth * len(words) / 10)]] = model.text.unk_id
        whole, *without = softmax(model(tokens).logits, -1)[:, LABELS[sentence]]
        assert board.probability[sentence] == pytest.approx(whole, abs=1e-5)
        areas = whole - np.array(without)
        assert found["comprehensiveness_area"] == pytest.approx(np.mean(areas), abs=1e-5)
        assert found["comprehensiveness"] == pytest.approx(np.mean(areas[:5]), abs=1e-5)
    # Equally good words share the hit.
    hits = board.measures["subject_hit"][rows_of(board, "uniform")[-1]]
    np.testing.assert_allclose(hits, np.where(cases.subject < 0, np.nan, 1 / (cases.lengths - 1)))


def test_flow_at_its_bound_is_counted_layer_by_layer(model, cases, board):
    """On attention itself as `jaxflow.saturation` has it; on others by the definition."""
    sentence, n = 0, cases.lengths[0]
    found = trace(model, cases.tokens[[sentence], :n])
    for edge in ("raw", "norm", "head-1", "residual-0.75"):
        flows = np.asarray(aggregate(found, edge, "flow", sources=0))[0, :, 0]
        lowest = capacities(
            jnp.asarray(found.attention).mean(2) if edge == "head-1" else weigh(found, edge),
            held=edge.startswith("residual"),
        )
        bound = np.minimum(np.asarray(lowest)[0, 0].sum(-2), 1)
        if edge == "raw":
            expected = jaxflow.saturation(np.asarray(found.attention), sources=0)
            np.testing.assert_allclose(bound, expected.bound[0], atol=1e-5)
        for layer, place in enumerate(rows_of(board, f"{edge}/flow")):
            share = (flows[layer] >= bound - 1e-4).mean()
            assert board.measures["at_bound"][place, sentence] == pytest.approx(share, abs=1e-6)
        assert np.isnan(board.measures["at_bound"][rows_of(board, f"{edge}/rollout")]).all()


def test_a_summary_sorts_and_is_written(board, tmp_path):
    raised = {name: values + 0.01 for name, values in board.measures.items()}
    other = dataclasses.replace(board, measures=raised)
    summary = summarise_boards([board, other])
    means = [line.cells["comprehensiveness_area"].mean for line in summary.finals]
    assert means == sorted(means, reverse=True)
    assert len(summary.lines) == len(board.rows)
    line = summary.finals[0]
    place = rows_of(board, line.method.name)[-1]
    expected = board.measures["insertion_auc"][place].mean() + 0.005
    assert line.cells["insertion_auc"].mean == pytest.approx(expected, abs=1e-5)
    assert line.spread["insertion_auc"] == pytest.approx(0.01 / math.sqrt(2), abs=1e-5)

    text = as_markdown(summary, {"seed": 0})
    assert text.index(f"`{line.method.name}`") < text.index("`random`")
    assert "`effective`: " in text
    # No LayerNorm follows in a pre-LayerNorm block.
    group = next(group for group in summary.equal_methods if "norm-residual/rollout" in group)
    same = ("norm-residual", "norm-residual-layernorm", "globenc")
    assert set(group) == {f"{edge}/rollout" for edge in same}
    assert not any("raw/rollout" in group for group in summary.equal_methods)
    assert "`norm-residual-layernorm/rollout`" in text.split("several names")[1].split("##")[0]
    whole = json.loads(json.dumps(record(summary, {"seed": 0}), allow_nan=False))
    names = [each["name"] for each in whole["methods"] if each["final"]]
    assert names == [each.method.name for each in summary.finals]
    write_parquet(tmp_path / "all.parquet", [board, other], ["one", "two"])
    table = pq.read_table(tmp_path / "all.parquet").to_pandas()
    assert len(table) == 2 * len(board.rows) * len(TEXTS)
    some = table[(table.run == "two") & (table.method == "raw/rollout") & (table.layer == 3)]
    expected = raised["entropy"][rows_of(board, "raw/rollout")[-1]]
    np.testing.assert_allclose(some.sort_values("sentence").entropy, expected, rtol=1e-6)


@pytest.mark.parametrize("width", [64, 120])
def test_a_console_of_any_width_shows_whole_columns(width):
    summary = summarise_boards([leaderboard_data.board()])
    file = io.StringIO()
    print_summary(Console(file=file, width=width, highlight=False), summary, most=2)
    text = file.getvalue()
    assert max(map(len, text.splitlines())) <= width
    words = text.split()
    for title in (*(TITLES[name] for name in SHORT), "ms/1,000"):
        assert set(title.split()) <= set(words)
    assert f"… and {len(summary.finals) - 2} more" in text
    assert words.count(summary.finals[1].method.name) == words.count("method")


def test_unusable_requests_are_refused(model, board):
    fewer = dataclasses.replace(board, rows=board.rows[1:])
    for call, message in (
        (lambda: from_texts(model, ["a"], []), "texts and labels must be as many"),
        (lambda: from_texts(model, ["a " * 12 + "b"], [0]), "12 tokens for this model, got 14"),
        (lambda: summarise_boards([board, fewer]), "runs must be of one architecture and corpus"),
    ):
        with pytest.raises(InputError, match=message):
            call()


def test_the_rows_of_the_top_layers_are_judged_by_removal(board):
    assert set(MEASURES) == set(board.measures)
    finals = [place in board.final() for place in range(len(board.rows))]
    assert finals == [layer in (None, 2) for _, layer in board.rows]
    judged = np.isfinite(board.measures["deletion_auc"])
    np.testing.assert_array_equal(judged, np.repeat(np.array(finals)[:, None], len(TEXTS), 1))


def test_a_causal_models_attention_is_divided_by_its_receptive_field(monkeypatch):
    leaderboard_data.raw_attention_only(monkeypatch)
    leaderboard_data.small_batches(monkeypatch)
    model = tiny(causal=True)
    found = from_texts(model, ["the key un like", "the", "key cabinet the keys un"], [0, 1, 2])
    assert found.readout.tolist() == [n - 1 for n in found.lengths]
    assert from_texts(tiny(), ["the"], [0]).readout.tolist() == [0]
    programs = Programs(model)
    board = run_board(model, found, programs=programs)
    assert programs.fit(tiny(causal=True))
    assert not programs.fit(tiny())
    names = {method.name for method in all_methods(model.config.heads, causal=True)}
    assert {name for name, _ in board.rows} <= names
    for sentence, n in enumerate(found.lengths):
        attention = np.asarray(model(found.tokens[[sentence], :n]).attention)
        for how, public in (("rollout", jaxflow.rollout), ("flow", jaxflow.flow)):
            expected = normalise(np.asarray(public(attention)), how)[0, :, n - 1]
            mine = board.scores.values[f"raw/{how}-normalised"][sentence]
            np.testing.assert_allclose(mine[:, :n], expected, rtol=1e-3, atol=1e-5)
            assert not mine[:, n:].any()
        top = edge_weights(attention[0])[-1][n - 1]
        mine = board.scores.values["suffix"][sentence, 0]
        np.testing.assert_allclose(mine[:n], [top[at:].sum() for at in range(n)], rtol=1e-4)
        assert not mine[n:].any()
