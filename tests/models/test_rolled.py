"""The encoder as a loop: the numbers of the encoder written out, and of its derivative."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxflow.models import AgreementEncoder, EncoderConfig
from jaxflow.models.model import roll_up

TOKENS = np.array([[1, 5, 7, 3, 4, 9], [1, 2, 6, 8, 0, 0]])


@pytest.mark.parametrize("causal", [False, True])
def test_the_loop_is_the_encoder(causal: bool) -> None:
    config = EncoderConfig(
        vocabulary=10, positions=8, layers=3, heads=2, width=8, classes=3, causal=causal
    )
    encoder = AgreementEncoder(config)
    shapes = jax.eval_shape(encoder.init, jax.random.key(0), TOKENS)
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape), leaf.dtype), shapes)
    rolled = roll_up(config, params)
    mask = jnp.asarray(TOKENS != 0)

    def written_out(embeddings: jax.Array) -> tuple[jax.Array, jax.Array]:
        output = encoder.apply(params, embeddings, mask, method="encode")
        return output.logits, output.attention  # type: ignore[union-attr]

    def looped(embeddings: jax.Array) -> tuple[jax.Array, jax.Array]:
        output = rolled.encode(rolled.params, embeddings, mask)
        return output.logits, output.attention

    embeddings = rolled.embed(rolled.params, jnp.asarray(TOKENS))
    np.testing.assert_array_equal(embeddings, encoder.apply(params, TOKENS, method="embed"))
    for mine, other in zip(looped(embeddings), written_out(embeddings), strict=True):
        assert mine.shape == other.shape
        np.testing.assert_allclose(mine, other, atol=2e-5)
    gradients = [
        jax.jit(jax.grad(lambda given, call=call: call(given)[0][:, 1].sum()))(embeddings)
        for call in (looped, written_out)
    ]
    assert float(jnp.abs(gradients[1]).max()) > 0.01
    np.testing.assert_allclose(*gradients, rtol=1e-3, atol=1e-4)


def test_the_parameters_stay_as_they_were() -> None:
    config = EncoderConfig(vocabulary=10, positions=8, layers=2, heads=2, width=8)
    params = AgreementEncoder(config).init(jax.random.key(0), TOKENS)
    before = sorted(params["params"])
    rolled = roll_up(config, params)
    assert sorted(params["params"]) == before
    assert rolled.params["blocks"]["qkv"]["kernel"].shape == (2, 8, 24)
