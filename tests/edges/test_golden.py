"""Compare with numbers of the authors' own programs on tiny models; see ``golden/``."""

import functools
import json
import tempfile
from pathlib import Path

import jax
import numpy as np
import pytest
from golden_models import GOLDEN, golden, traced
from safetensors.numpy import save_file
from session import refused
from tiny_models import tiny
from traces import tokens

from jaxflow.edges import Readout, aggregate, class_attributions, reconstruction, weigh
from jaxflow.edges.decompx import norms
from jaxflow.models import load, trace

CONFIG = {
    "architectures": ["BertForSequenceClassification"], "model_type": "bert", "vocab_size": 11,
    "hidden_size": 12, "num_hidden_layers": 3, "num_attention_heads": 3, "intermediate_size": 16,
    "max_position_embeddings": 8, "type_vocab_size": 2, "pad_token_id": 0, "hidden_act": "gelu",
    "layer_norm_eps": 1e-12, "id2label": {"0": "a", "1": "b", "2": "c"},
}  # fmt: skip


@functools.cache
def vectors():
    """Return the model of the vector decompositions, its trace, and the authors' numbers."""
    with np.load(GOLDEN / "bert.npz") as file:
        numbers = {name: file[name] for name in file.files}
    prefix = "weights/"
    weights = {
        name.removeprefix(prefix): array
        for name, array in numbers.items()
        if name.startswith(prefix)
    }
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "config.json").write_text(json.dumps(CONFIG), encoding="utf-8")
        save_file(weights, Path(folder, "model.safetensors"))
        model = load(folder)
    return model, trace(model, numbers["tokens"]), numbers


def compare(found, wanted, atol):
    """Compare ``[2, L, n, ...]`` of the vector decompositions between real tokens."""
    found, wanted, real = np.asarray(found), np.asarray(wanted), vectors()[2]["tokens"] != 0
    for row, keep in enumerate(real):
        ours, theirs = found[row][:, keep], wanted[row][:, keep]
        if found.shape[-1] == len(keep):
            ours, theirs = ours[..., keep], theirs[..., keep]
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=atol)


def test_vector_decompositions():
    model, passed, numbers = vectors()
    compare(passed.stream, numbers["hidden"], 1e-5)
    np.testing.assert_allclose(model(numbers["tokens"]).logits, numbers["logits"], atol=1e-5)
    for name in ("norm", "norm-residual", "norm-residual-layernorm", "globenc", "alti"):
        # The authors' distances of ALTI add 1e-6 to every difference.
        compare(weigh(passed, name), numbers[name.replace("-", "_")], 3e-5)
    compare(reconstruction(passed), numbers["alti_resultant"], 1e-5)
    product = np.asarray(aggregate(passed, "globenc", "product"))[:, -1:]
    compare(product, numbers["globenc_product"][:, None], 1e-4)


def test_decompx():
    model, passed, numbers = vectors()
    compare(norms(passed, "published"), numbers["decompx"], 2e-5)
    # The paper distributes attention's bias in another way.
    assert np.abs(np.asarray(norms(passed, "paper")) - numbers["decompx"])[0].max() > 1e-2
    readout, pooler = (model.params["params"][name] for name in ("readout", "pooler"))
    head = Readout(
        readout["kernel"], readout["bias"], pooler=pooler["kernel"], pooler_bias=pooler["bias"]
    )
    found = class_attributions(passed, head, bias="published")
    np.testing.assert_allclose(found, numbers["decompx_classes"], rtol=1e-3, atol=2e-5)


def real_pairs(found):
    return found.mask[:, :, None] & found.mask[:, None, :]


@pytest.mark.parametrize(("name", "how"), [("bert", "rollout"), ("vit", "paths")])
def test_gradients_relevances_and_attributions(name, how):
    """The program for BERT divides rows by their sum, that for ViT does not."""
    found, numbers = traced(name), golden(name)
    real = np.broadcast_to(real_pairs(found)[:, None, None], found.attention.shape)
    np.testing.assert_allclose(found.attention[real], numbers["attention"][real], atol=1e-12)
    np.testing.assert_allclose(  # ours are taken at offsets of single precision
        found.gradient[real], numbers["attention_gradient"][real], rtol=1e-5, atol=1e-7
    )
    size = np.abs(numbers["relevance"]).max()
    np.testing.assert_allclose(
        found.relevance[real], numbers["relevance"][real], rtol=1e-6, atol=1e-9 * size
    )
    combined = np.asarray(aggregate(found, "transformer-attribution", how))[:, -1]
    pairs = real_pairs(found)
    np.testing.assert_allclose(combined[pairs], numbers["attribution/rollout"][pairs], atol=2e-6)


def test_the_second_paper_by_the_sum_of_paths():
    found, numbers = traced("bert"), golden("bert")
    real = real_pairs(found)
    edges = np.asarray(weigh(found, "gradient"))
    for layer in range(3):
        wanted = numbers["generic/weighted"][:, layer]
        np.testing.assert_allclose(edges[:, layer][real], wanted[real], atol=1e-6)
    paths = np.asarray(aggregate(found, "gradient", "paths"))[:, -1]
    np.testing.assert_allclose(paths[real], numbers["generic/relevance"][real], atol=2e-6)


def test_value_zeroing():
    numbers = golden("bert")
    single = jax.tree.map(
        lambda leaf: leaf.astype(np.float32) if leaf.dtype == np.float64 else leaf, traced("bert")
    )
    found = weigh(single, "value-zeroing")
    np.testing.assert_allclose(found, numbers["zeroing/scores"], rtol=1e-3, atol=1e-6)
    rolled = np.asarray(aggregate(single, "value-zeroing", "rollout"))[:, -1]
    np.testing.assert_allclose(rolled, numbers["zeroing/rollout"][:, -1], rtol=1e-3, atol=1e-6)


def test_relevance_needs_classes():
    masked = tiny(head="masked-lm")
    bare = trace(masked, tokens("post"), target=lambda logits: logits[:, 1, 7])
    assert bare.gradient is not None
    with refused("transformer-attribution needs relevances of attention"):
        weigh(bare, "transformer-attribution")
