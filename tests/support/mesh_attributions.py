"""Compute every attribution on this process's devices; run by `test_eval_mesh.py`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from tiny_models import sharpened, tiny

import jaxflow
from jaxflow.eval.paper.evaluate import spread
from jaxflow.eval.paper.protocol import ProtocolConfig, token_scores
from jaxflow.models import AgreementEncoder, EncoderConfig, Model, WordTokenizer
from jaxflow.train.batches import EncodedSplit
from jaxflow.train.mesh import layout_of

WORDS = ("[PAD]", "[CLS]", "[UNK]", *"abcdefghijklmnopq")
SENTENCES, POSITIONS = 12, 8
LENGTHS = (5, POSITIONS)


def agreement() -> Model:
    """An encoder whose weights are large, so that attention is far from uniform."""
    config = EncoderConfig(
        vocabulary=len(WORDS), positions=POSITIONS, layers=2, heads=2, width=16, dropout=0.0
    )
    tokens = jnp.ones((1, 2), jnp.int32)
    params = jax.jit(AgreementEncoder(config).init)(jax.random.key(2), tokens)
    return Model(config, sharpened(params), WordTokenizer(WORDS))


def split_for(model: Model) -> EncodedSplit:
    """Sentences of 2 to 8 tokens, which begin with the model's first token."""
    rng = np.random.default_rng(1)
    lengths = (2 + np.arange(SENTENCES) % (POSITIONS - 1)).astype(np.int32)
    tokens = rng.integers(5, 16, (SENTENCES, POSITIONS)).astype(np.int32)
    tokens[:, 0] = model.text.cls_id or 0
    tokens[np.arange(POSITIONS) >= lengths[:, None]] = 0
    labels = (np.arange(SENTENCES) % 2).astype(np.int32)
    unknown = np.full(SENTENCES, -1, np.int32)
    return EncodedSplit(tokens, lengths, labels, unknown, unknown, np.arange(SENTENCES), 0)


def of_protocol(model: Model, **options: Any) -> dict[str, np.ndarray]:
    """Each score of every token, as the tables are made from."""
    config = ProtocolConfig(batch=6, threads=1, **options)  # no multiple of eight
    scores = token_scores(model, split_for(model), LENGTHS, config)
    return {**scores.methods, **scores.targets, "saturated": scores.saturated.astype(float)}


def of_arrays(model: Model) -> dict[str, np.ndarray]:
    """Compute attributions of arrays that the user has placed on devices."""
    layout = layout_of()
    params = layout.put_replicated(model.params)
    tokens = layout.put_filled(split_for(model).tokens)
    apply: Any = model.module.apply

    @jax.jit
    def scores(params: Any, tokens: jax.Array) -> dict[str, jax.Array]:
        mask = tokens != 0
        attention = apply(params, tokens).attention
        embeddings = apply(params, tokens, method="embed")

        def score(embeddings: jax.Array) -> jax.Array:
            return jnp.asarray(apply(params, embeddings, mask, method="encode").logits[:, 0])

        return {
            "attention": attention,
            "raw": jaxflow.raw_attention(attention, mask=mask),
            "rollout": jaxflow.rollout(attention, mask=mask),
            "head_rollout": jaxflow.head_rollout(attention, mask=mask),
            "flow": jaxflow.flow(attention, mask=mask),
            "gradient": jaxflow.input_gradient(score, embeddings),
            "gradient_x_input": jaxflow.gradient_x_input(score, embeddings),
            "integrated": jaxflow.integrated_gradients(score, embeddings, steps=4),
        }

    found = {name: np.asarray(value) for name, value in scores(params, tokens).items()}
    return {name: value[:SENTENCES] for name, value in found.items()}


def attributions() -> dict[str, np.ndarray]:
    """All of them by name."""
    encoder, bert = agreement(), tiny()
    parts = {
        "encoder": of_protocol(encoder),
        "encoder maximum": of_protocol(encoder, target="last", reading="maximum"),
        "bert": of_protocol(bert, target="predicted"),
        "arrays": of_arrays(encoder),
    }
    tokens = split_for(encoder).tokens
    parts["model"] = {"probabilities": np.asarray(spread(encoder)(tokens))[:SENTENCES]}
    return {f"{part}/{name}": v for part, found in parts.items() for name, v in found.items()}


if __name__ == "__main__":
    np.savez(Path(sys.argv[1]), **attributions())
    print(json.dumps({"devices": len(jax.devices())}))
