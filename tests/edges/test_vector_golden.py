"""What the authors' public implementations say of a tiny BERT: see ``golden/README.md``."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from jaxflow.edges import Readout, aggregate, class_attributions, weigh
from jaxflow.edges._norms import reconstruction
from jaxflow.edges.decompx import norms
from jaxflow.models import load, trace

CONFIG = {
    "architectures": ["BertForSequenceClassification"],
    "model_type": "bert",
    "vocab_size": 11,
    "hidden_size": 12,
    "num_hidden_layers": 3,
    "num_attention_heads": 3,
    "intermediate_size": 16,
    "max_position_embeddings": 8,
    "type_vocab_size": 2,
    "pad_token_id": 0,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-12,
    "id2label": {"0": "a", "1": "b", "2": "c"},
}


@pytest.fixture(scope="module")
def golden():
    with np.load(Path(__file__).parent / "golden" / "bert.npz") as file:
        return {name: file[name] for name in file.files}


@pytest.fixture(scope="module")
def bert(golden, tmp_path_factory):
    folder = tmp_path_factory.mktemp("bert")
    (folder / "config.json").write_text(json.dumps(CONFIG), encoding="utf-8")
    weights = {
        name.removeprefix("weights/"): array
        for name, array in golden.items()
        if name.startswith("weights/")
    }
    save_file(weights, folder / "model.safetensors")
    return load(folder)


@pytest.fixture(scope="module")
def passed(golden, bert):
    return trace(bert, golden["tokens"])


@pytest.fixture(scope="module")
def real(golden):
    """Real queries and keys of each sentence."""
    return golden["tokens"] != 0


def compare(found, wanted, real, atol):
    """Compare ``[2, L, n, ...]`` at real tokens, and all but padding's keys."""
    found, wanted = np.asarray(found), np.asarray(wanted)
    for row in range(2):
        keep = real[row]
        ours, theirs = found[row][:, keep], wanted[row][:, keep]
        if found.shape[-1] == len(keep):
            ours, theirs = ours[..., keep], theirs[..., keep]
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=atol)


def test_the_model_is_the_same(golden, bert, passed, real):
    compare(passed.stream, golden["hidden"], real, 1e-5)
    np.testing.assert_allclose(bert(golden["tokens"]).logits, golden["logits"], atol=1e-5)


@pytest.mark.parametrize(
    "name", ["norm", "norm-residual", "norm-residual-layernorm", "globenc", "alti"]
)
def test_edge_weights(golden, passed, real, name):
    # The authors' distances of ALTI add 1e-6 to every difference.
    compare(weigh(passed, name), golden[name.replace("-", "_")], real, 3e-5)


def test_outputs_that_alti_compares_with(golden, passed, real):
    compare(reconstruction(passed), golden["alti_resultant"], real, 1e-5)


def test_globenc_over_all_layers(golden, passed, real):
    found = np.asarray(aggregate(passed, "globenc", "product"))[:, -1:]
    compare(found, golden["globenc_product"][:, None], real, 1e-4)


def test_decompx(golden, passed, real):
    compare(norms(passed, "published"), golden["decompx"], real, 2e-5)
    # The paper's way to share out attention's bias is another.
    paper = np.asarray(norms(passed, "paper"))
    assert np.abs(paper - golden["decompx"])[0].max() > 1e-2


def test_decompx_of_classes(golden, bert, passed):
    params = bert.params["params"]
    head = Readout(
        params["readout"]["kernel"],
        params["readout"]["bias"],
        pooler=params["pooler"]["kernel"],
        pooler_bias=params["pooler"]["bias"],
    )
    found = class_attributions(passed, head, bias="published")
    np.testing.assert_allclose(found, golden["decompx_classes"], rtol=1e-3, atol=2e-5)
