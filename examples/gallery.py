"""Explain five models of other libraries with one call each, and write docs/results/gallery/.

    pip install equinox dm-haiku keras && pip install --no-deps keras-hub
    KERAS_BACKEND=jax python examples/gallery.py --out docs/results/gallery

An encoder in Flax NNX, a decoder in Equinox, an encoder in Haiku, BERT of keras-hub, and a decoder
like Gemma in plain JAX: grouped heads, rotary positions, soft-capped scores, layers in a scan. All
have random weights, so the scores show that attention is followed, not what a trained model reads.
"""

from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import tyro

import jaxflow

TOKENS = ["the", "keys", "to", "the", "cabinet", "near", "the", "old", "doors"]
IDS = np.array([[sorted(set(TOKENS)).index(token) for token in TOKENS]])
N, WIDTH, HEADS, LAYERS, WORDS = len(TOKENS), 32, 4, 4, len(set(TOKENS))


def nnx_encoder() -> tuple[Callable, tuple]:
    """Flax NNX: attention modules, read off the first token."""
    from flax import nnx

    rngs = nnx.Rngs(0)
    embed = nnx.Embed(WORDS, WIDTH, rngs=rngs)
    blocks = [nnx.MultiHeadAttention(HEADS, WIDTH, rngs=rngs, decode=False) for _ in range(LAYERS)]

    def nnx_encoder(ids):
        x = embed(ids)
        for block in blocks:
            x = x + block(x)
        return x[:, 0]

    return nnx_encoder, (IDS,)


def equinox_decoder() -> tuple[Callable, tuple]:
    """Equinox: one example, no batch axis, no query sees later tokens."""
    import equinox as eqx

    keys = jax.random.split(jax.random.key(0), LAYERS)
    table = jax.random.normal(jax.random.key(1), (WORDS, WIDTH))
    blocks = [eqx.nn.MultiheadAttention(HEADS, WIDTH, key=key) for key in keys]

    def equinox_decoder(ids):
        x = table[ids[0]]
        for block in blocks:
            x = x + block(x, x, x, mask=jnp.tri(N, dtype=bool))
        return x[-1:]

    return equinox_decoder, (IDS,)


def haiku_encoder() -> tuple[Callable, tuple]:
    """Haiku: a transformed function of parameters and inputs."""
    import haiku as hk

    def forward(ids):
        x = hk.Embed(WORDS, WIDTH)(ids)
        for _ in range(LAYERS):
            init = hk.initializers.VarianceScaling()
            x = x + hk.MultiHeadAttention(HEADS, WIDTH // HEADS, w_init=init)(x, x, x)
        return x[:, 0]

    network = hk.without_apply_rng(hk.transform(forward))

    def haiku_encoder(params, ids):
        return network.apply(params, ids)

    return haiku_encoder, (network.init(jax.random.key(0), IDS), IDS)


def keras_hub_bert() -> tuple[Callable, tuple]:
    """keras-hub's BERT: a stateless call of the backbone, read off its pooled output."""
    import keras_hub

    sizes = {"num_layers": LAYERS, "num_heads": HEADS, "hidden_dim": WIDTH}
    bert = keras_hub.models.BertBackbone(WORDS, intermediate_dim=2 * WIDTH, **sizes)
    groups = (bert.trainable_variables, bert.non_trainable_variables)
    given = [[each.value for each in group] for group in groups]

    def keras_hub_bert(ids):
        inputs = {"token_ids": ids, "padding_mask": jnp.ones_like(ids), "segment_ids": 0 * ids}
        return bert.stateless_call(*given, inputs)[0]["pooled_output"]

    return keras_hub_bert, (IDS,)


def gemma_like() -> tuple[Callable, tuple]:
    """Plain JAX: RMS norms, two heads of keys for four of queries, soft-caps, layers in a scan."""
    keys = jax.random.split(jax.random.key(0), 5)
    size = WIDTH // HEADS
    table = jax.random.normal(keys[0], (WORDS, WIDTH))
    shapes = [(WIDTH, HEADS, size), (WIDTH, 2, size), (WIDTH, 2, size), (HEADS, size, WIDTH)]
    every = zip(keys[1:], shapes, strict=True)
    weights = [jax.random.normal(key, (LAYERS, *shape)) / WIDTH**0.5 for key, shape in every]
    angles = jnp.arange(N)[:, None] / 10_000 ** (jnp.arange(size // 2)[None] * 2 / size)

    def rotate(x):
        left, right = jnp.split(x, 2, -1)
        cos, sin = jnp.cos(angles)[None, :, None], jnp.sin(angles)[None, :, None]
        return jnp.concatenate([left * cos - right * sin, right * cos + left * sin], -1)

    def block(x, layer):
        query, key, value, out = layer
        normed = x * jax.lax.rsqrt(jnp.square(x).mean(-1, keepdims=True) + 1e-6)
        q = rotate(jnp.einsum("bnd,dhk->bnhk", normed, query)).reshape(1, N, 2, HEADS // 2, size)
        k = rotate(jnp.einsum("bnd,dhk->bnhk", normed, key))
        v = jnp.einsum("bnd,dhk->bnhk", normed, value)
        scores = 50 * jnp.tanh(jnp.einsum("bqgrk,bsgk->bgrqs", q, k) / size**0.5 / 50)
        attention = jax.nn.softmax(jnp.where(jnp.tri(N, dtype=bool), scores, -jnp.inf))
        mixed = jnp.einsum("bgrqs,bsgk->bqgrk", attention, v).reshape(1, N, HEADS, size)
        return x + jnp.einsum("bnhk,hkd->bnd", mixed, out), None

    def gemma_like(ids):
        return jax.lax.scan(block, table[ids], tuple(weights))[0][:, -1]

    return gemma_like, (IDS,)


def main(out: Path = Path("runs/gallery")) -> None:
    """Explain each model, and write its picture and one page."""
    out.mkdir(parents=True, exist_ok=True)
    text = (__doc__ or "").split("\n\n")
    page = [
        "# Five models of other libraries",
        "```sh\n{}\n```".format(text[1].replace("    ", "")),
        text[2].strip(),
    ]
    for make in (nnx_encoder, equinox_decoder, haiku_encoder, keras_hub_bert, gemma_like):
        function, inputs = make()
        options = {"tokens": TOKENS, "target": lambda output: output[0, 1]}
        found = jaxflow.explain(function, *inputs, **options)
        found.save(out / f"{make.__name__}.png")
        title, _, about = (make.__doc__ or "").partition(": ")
        picture = f"![Scores of every token]({make.__name__}.png)"
        page += [f"## {title}", f"{about[0].upper()}{about[1:]}", picture]
        print(found, end="\n\n")
    (out / "README.md").write_text("\n\n".join(page) + "\n", encoding="utf-8")


if __name__ == "__main__":
    tyro.cli(main)
