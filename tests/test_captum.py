"""Compare scores by gradient and removal with Captum's, on a model and its PyTorch twin."""

import functools
import tempfile
import warnings
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden_models import bert, golden
from torch_models import quietly, read

import jaxflow
from jaxflow.models import save_pretrained

TOKENS = golden("bert")["tokens"][:1]
UNK, CLASS = 1, 1


@functools.cache
def captum():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip(
            "captum.attr", reason="Captum is the oracle: pip install 'jaxflow[test]'"
        )


@functools.cache
def twin():
    with tempfile.TemporaryDirectory() as folder:
        save_pretrained(Path(folder), bert())
        return read(Path(folder), "BertForSequenceClassification").double()


def score(embeddings):
    """The logit of one class, of embeddings ``[B, n, D]``."""
    model = bert()
    output = model.module.apply(model.params, embeddings, method="encode")
    return output.logits[:, CLASS]


def their_score(embeddings):
    with quietly():
        return twin()(inputs_embeds=embeddings).logits[:, CLASS]


def embeddings():
    model = bert()
    return np.asarray(model.module.apply(model.params, TOKENS, method="embed"), np.float64)


def theirs(attribution, given, **options):
    import torch

    with quietly():
        found = attribution.attribute(torch.tensor(given, requires_grad=True), **options)
    return found.detach().numpy()


def test_gradient_x_input():
    found = jaxflow.gradient_x_input(score, embeddings())
    expected = theirs(captum().InputXGradient(their_score), embeddings()).sum(-1)
    np.testing.assert_allclose(found, expected, atol=1e-7)


@pytest.mark.parametrize("steps", [3, 20])
def test_integrated_gradients_node_by_node(steps):
    start = np.full_like(embeddings(), 0.1)
    found = jaxflow.integrated_gradients(score, embeddings(), start, steps)
    method = captum().IntegratedGradients(their_score, multiply_by_inputs=True)
    options = {"baselines": 0.1, "n_steps": steps, "method": "gausslegendre"}
    np.testing.assert_allclose(found, theirs(method, embeddings(), **options).sum(-1), atol=1e-7)


def test_smooth_grad_has_the_same_mean():
    """Both draw their own noise: each is held to the spread that so many draws leave."""
    import torch

    share, samples = 0.02, 400
    deviation = share * (embeddings().max() - embeddings().min())
    found = jaxflow.smooth_grad(score, embeddings(), jax.random.key(0), samples, share)
    torch.manual_seed(0)
    method = captum().NoiseTunnel(captum().Saliency(their_score))
    options = {"nt_samples": samples, "nt_samples_batch_size": 100, "stdevs": deviation}
    expected = theirs(method, embeddings(), nt_type="smoothgrad", abs=False, **options)
    np.testing.assert_allclose(found, np.linalg.norm(expected, axis=-1), rtol=0.05)
    # The noise is felt: without it the gradient is another.
    still = jaxflow.gradient_norm(score, embeddings())
    assert np.abs(found / still - 1).max() > 0.1


def test_occlusion_by_another_token_and_by_the_attention_mask():
    import torch

    def ours(tokens, mask):
        return jax.nn.softmax(bert()(tokens, mask).logits)

    def probability(tokens, mask=None):
        with torch.no_grad(), quietly():
            return twin()(tokens, attention_mask=mask).logits.softmax(-1)[:, CLASS]

    ids, label = torch.tensor(TOKENS, dtype=torch.long), np.array([CLASS])
    with quietly():
        occlusion = captum().Occlusion(probability)
        expected = occlusion.attribute(ids, sliding_window_shapes=(1,), baselines=UNK)
    blanked = jaxflow.blank_out(lambda rows: ours(rows, rows != 0), TOKENS, UNK, label=label)
    np.testing.assert_allclose(blanked, expected.abs().numpy(), atol=1e-6)
    removed = jaxflow.remove_out(ours, TOKENS, "token", token_id=UNK, label=label)
    np.testing.assert_allclose(removed, expected.abs().numpy(), atol=1e-6)
    ablation = captum().FeatureAblation(lambda mask: probability(ids.expand(len(mask), -1), mask))
    with quietly():
        expected = ablation.attribute(torch.ones_like(ids))
    found = jaxflow.remove_out(ours, TOKENS, "attention", label=label)
    np.testing.assert_allclose(found, expected.abs().numpy(), atol=1e-6)
    assert float(jnp.min(found)) > 1e-4
