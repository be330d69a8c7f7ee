"""Single sentences scored quickly: the scores that the tables are made of."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from jaxflow.eval.score.instant import BACKWARD, FORWARD, instant_scores, jit_with
from jaxflow.eval.score.token_scores import device_scores
from jaxflow.models import AgreementEncoder, EncoderConfig, Model, WordTokenizer
from jaxflow.models.tokenizer import SPECIAL_TOKENS

WORDS = ("the", "keys", "to", "cabinet")


@pytest.fixture(scope="module")
def model() -> Model:
    tokenizer = WordTokenizer((*SPECIAL_TOKENS, *WORDS))
    config = EncoderConfig(vocabulary=len(tokenizer), positions=12, layers=3, heads=2, width=16)
    params = AgreementEncoder(config).init(jax.random.key(1), np.ones((1, 2), np.int32))
    params = jax.tree.map(lambda leaf: leaf * 15 if leaf.ndim > 1 else leaf, params)
    return Model(config, params, tokenizer)


def test_they_are_the_tables_scores(model: Model) -> None:
    score, tables = instant_scores(model, 0.3), device_scores(model, 0.3)
    for text in ("the keys to the cabinet", "keys nearby the"):
        ids = model.tokenizer.encode_batch([text], 8)
        found = score(ids[0])
        probabilities = np.asarray(model.probabilities(ids))
        np.testing.assert_allclose(found["probabilities"], probabilities[0], atol=1e-5)
        expected = tables(model.params, ids, probabilities.argmax(-1))
        n = len(text.split()) + 1
        for name in ("raw", "rollout", "gradient_norm", "blank_out"):
            np.testing.assert_allclose(
                found[name], np.asarray(expected[name])[0], rtol=2e-3, atol=2e-5
            )
            assert not found[name][..., n:].any()
            assert found[name][..., :n].any()
        np.testing.assert_allclose(
            found["attention"][..., :n, :], np.asarray(expected["attention"])[0, ..., :n, :],
            atol=1e-5,
        )  # fmt: skip


def test_padding_changes_nothing(model: Model) -> None:
    score = instant_scores(model, 0.5)
    short, long = (
        score(model.tokenizer.encode_batch(["the keys to the"], length)[0]) for length in (8, 12)
    )
    for name in ("raw", "rollout", "gradient_norm", "blank_out"):
        np.testing.assert_allclose(short[name][..., :5], long[name][..., :5], rtol=1e-3, atol=1e-5)


def test_the_options_are_known_and_one_that_is_not_does_no_harm() -> None:
    def double(values: jax.Array) -> dict[str, jax.Array]:
        return {"double": values * 2}

    values = np.ones(3, np.float32)
    for options in (FORWARD, BACKWARD):
        np.testing.assert_array_equal(
            jax.jit(double, compiler_options=options)(values)["double"], 2 * values
        )
    forgotten = {"xla_cpu_option_of_another_version": True}
    np.testing.assert_array_equal(jit_with(double, forgotten)(values)["double"], 2 * values)

    def fails(values: jax.Array) -> dict[str, jax.Array]:
        raise jax.errors.JaxRuntimeError("something else")

    with pytest.raises(jax.errors.JaxRuntimeError, match="something else"):
        jit_with(fails, FORWARD)(values)
