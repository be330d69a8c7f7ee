"""Attention of torch models of ``transformers``, against what they return themselves."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from jaxflow import InputError, capture_torch, rollout

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

SIZE = {"vocab_size": 20, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
TOKENS = torch.tensor([[2, 5, 7, 3], [2, 6, 3, 0]])
MASK = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]])


def bert():
    torch.manual_seed(0)
    config = transformers.BertConfig(intermediate_size=24, max_position_embeddings=8, **SIZE)
    return transformers.BertModel(config).eval()


def test_bert_with_padding():
    model = bert()
    before = model.config._attn_implementation
    output, attention = capture_torch(model)(input_ids=TOKENS, attention_mask=MASK)
    assert model.config._attn_implementation == before != "eager"
    model.set_attn_implementation("eager")
    with torch.no_grad():
        right = model(input_ids=TOKENS, attention_mask=MASK, output_attentions=True)
    stacked = attention.stack()
    assert isinstance(stacked, jax.Array)
    np.testing.assert_array_equal(stacked, torch.stack(right.attentions, 1).numpy())
    np.testing.assert_array_equal(attention.mask, MASK.numpy() != 0)
    np.testing.assert_allclose(
        output.last_hidden_state.numpy()[0], right.last_hidden_state.numpy()[0], atol=1e-5
    )
    assert rollout(stacked, mask=attention.mask).shape == (2, 2, 4, 4)


def test_encoder_and_decoder():
    torch.manual_seed(0)
    config = transformers.BartConfig(
        vocab_size=20, d_model=16, encoder_layers=2, decoder_layers=3, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=24, decoder_ffn_dim=24,
        max_position_embeddings=8,
    )  # fmt: skip
    model = transformers.BartModel(config).eval()
    _, attention = capture_torch(model)(input_ids=TOKENS, decoder_input_ids=TOKENS[:, :3])
    model.set_attn_implementation("eager")
    with torch.no_grad():
        right = model(TOKENS, decoder_input_ids=TOKENS[:, :3], output_attentions=True)
    for found, name in (
        (attention.encoder, "encoder_attentions"),
        (attention.decoder, "decoder_attentions"),
        (attention.cross, "cross_attentions"),
    ):
        np.testing.assert_array_equal(found, torch.stack(getattr(right, name), 1).numpy())


def test_a_decoder_is_causal_also_with_padding_on_the_left():
    torch.manual_seed(0)
    config = transformers.GPT2Config(vocab_size=20, n_embd=16, n_layer=2, n_head=2, n_positions=8)
    model = transformers.GPT2LMHeadModel(config).eval()
    mask = MASK.flip(1)
    _, attention = capture_torch(model)(TOKENS.flip(1), None, mask)  # the mask by position
    stacked = np.asarray(attention.stack())
    assert [site.kind for site in attention] == ["self", "self"]
    real = stacked * mask.numpy()[:, None, None, :, None]  # the rows of real tokens
    np.testing.assert_array_equal(np.triu(real, 1), 0)
    assert not real[1, ..., 0].any()  # nothing looks at padding
    np.testing.assert_array_equal(attention.mask, mask.numpy() != 0)
    np.testing.assert_allclose(stacked.sum(-1)[:, :, :, 1:], 1, atol=1e-6)


def test_parts_of_a_model_get_their_own_implementation_back():
    config = {"intermediate_size": 24, "max_position_embeddings": 8, **SIZE}
    parts = (
        transformers.BertModel(transformers.BertConfig(**config)),
        transformers.BertLMHeadModel(
            transformers.BertConfig(is_decoder=True, add_cross_attention=True, **config)
        ),
    )
    model = transformers.EncoderDecoderModel(encoder=parts[0], decoder=parts[1]).eval()
    model.encoder.set_attn_implementation("eager")
    model.decoder.set_attn_implementation("sdpa")
    _, attention = capture_torch(model)(input_ids=TOKENS, decoder_input_ids=TOKENS[:, :3])
    assert attention.cross.shape == (2, 2, 2, 3, 4)
    assert model.encoder.config._attn_implementation == "eager"
    assert model.decoder.config._attn_implementation == "sdpa"


def test_a_model_of_another_kind_is_refused():
    with pytest.raises(InputError, match="Linear"):
        capture_torch(torch.nn.Linear(2, 2))


def test_the_implementation_is_restored_after_an_error():
    model = bert()
    before = model.config._attn_implementation
    with pytest.raises(IndexError):
        capture_torch(model)(input_ids=TOKENS + 100)
    assert model.config._attn_implementation == before
