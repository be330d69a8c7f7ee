"""Compare continued texts with one forward pass over the whole text, chats with transformers."""

from __future__ import annotations

import copy
import dataclasses
import functools
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import smollm2
import torch_models
from session import refused
from tiny_models import sharpened, tiny

from jaxflow import edges
from jaxflow.edges import decompx
from jaxflow.models import DecoderConfig, Model, generate, init, load, trace
from jaxflow.models.rotary import Rotary

MODELS: dict[str, dict[str, Any]] = {
    "llama": {"rotary": (Rotary(4, scaling="dynamic", factor=3.0, trained=6),)},
    "mistral": {"reaches": ("window", "full"), "window": 3, "soft_cap": 2.0, "logit_cap": 3.0},
    "gpt_oss": {"sinks": True, "experts": 3, "chosen": 2, "reaches": ("chunk", "window")},
    "gpt2": {},
}
PROMPT, NEW = np.array([[5, 6, 7, 8, 9], [9, 4, 3, 11, 2]]), 6


@functools.cache
def model(kind: str) -> Model:
    if kind == "gpt2":
        return tiny("lm", causal=True, pad_id=None)
    sizes = {
        "vocabulary": 20, "positions": 18, "layers": 2, "heads": 4, "key_heads": 2, "head_width": 4,
        "width": 12, "hidden_width": 10, "rotary": (Rotary(4),), "window": 4, "chunk": 4,
    }  # fmt: skip
    config = DecoderConfig(kind=kind, **(sizes | MODELS[kind]))  # type: ignore[arg-type]
    return Model(config, sharpened(init(config)), None)


@pytest.mark.parametrize("temperature", [0.0, 0.7])
@pytest.mark.parametrize("kind", MODELS)
def test_new_tokens_are_those_of_one_forward_pass(kind: str, temperature: float):
    one = model(kind)
    found = generate(one, PROMPT, NEW, temperature=temperature, seed=3, attention=True)
    whole = one(found.tokens)
    logs = np.asarray(jax.nn.log_softmax(whole.logits))[:, 4:-1]  # [B, N, V], before each token
    new = found.tokens[:, 5:]
    np.testing.assert_array_equal(found.tokens[:, :5], PROMPT)
    np.testing.assert_array_equal(found.counts, [NEW, NEW])
    expected = np.take_along_axis(logs, new[..., None], -1)[..., 0]
    np.testing.assert_allclose(found.log_probabilities, expected, atol=1e-5)
    rows = np.asarray(whole.attention)[..., 4:-1, :]
    np.testing.assert_allclose(found.attention, rows, atol=1e-6)
    if not temperature:
        np.testing.assert_array_equal(new, logs.argmax(-1))
    else:
        again, other = (
            generate(one, PROMPT, NEW, temperature=temperature, seed=seed) for seed in (3, 4)
        )
        np.testing.assert_array_equal(again.tokens, found.tokens)
        assert (other.tokens != found.tokens).any()


def test_drawn_tokens_have_the_probabilities_of_the_model():
    one, prompts = model("llama"), np.tile(PROMPT[:1], (4000, 1))
    found = generate(one, prompts, 1, temperature=0.5)
    expected = np.asarray(jax.nn.softmax(one(PROMPT[:1]).logits[0, -1] / 0.5))
    shares = np.bincount(found.tokens[:, -1], minlength=20) / 4000
    assert np.abs(shares - expected).max() < 4 * 0.5 / 4000**0.5


def test_a_text_ends_at_its_end_token():
    one = model("mistral")
    plain = generate(one, PROMPT, NEW).tokens[:, 5:]
    end = int(plain[0, 2])
    ended = dataclasses.replace(one, config=dataclasses.replace(one.config, end_ids=(end,)))
    found = generate(ended, PROMPT, NEW)
    for row, tokens, count in zip(found.tokens[:, 5:], plain, found.counts, strict=True):
        wanted = [*np.flatnonzero(tokens == end) + 1, NEW][0]
        assert count == wanted
        np.testing.assert_array_equal(row[:wanted], tokens[:wanted])
        assert (row[wanted:] == end).all()
    assert found.counts[0] <= 3
    np.testing.assert_array_equal(generate(ended, PROMPT, NEW, end_ids=()).tokens[:, 5:], plain)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"tokens": np.array([[1.0]])}, "tokens must be whole numbers"),
        ({"tokens": np.array([[99]])}, "tokens must be numbers from 0 to 19"),
        ({"new": 0}, "new must be"),
        ({"new": 99}, "prompt and new tokens must be at most 18"),
        ({"temperature": -1.0}, "temperature must be"),
        ({"model": tiny()}, "language model"),
    ],
)
def test_what_cannot_be_continued_is_refused(given: dict[str, Any], message: str):
    with refused(message):
        generate(**({"model": model("llama"), "tokens": PROMPT, "new": 2} | given))


CHAT = [{"role": "user", "content": 'a <b> "c"'}, {"role": "assistant", "content": "d é"}]
TEMPLATES = [
    "{{ bos_token }}{% for m in messages %}[{{ m.role }}]{{ m['content'] | tojson }}\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}",
    "{% for m in messages %}\n    {% if m.role == 'user' %}\n{{ m.content }}{% continue %}\n"
    "{% endif %}{% generation %}{{ m.content }}{% endgeneration %}\n{% endfor %}"
    "{{ messages | tojson(indent=2) }}{{ tools }}",
]


@pytest.fixture(scope="module")
def chatting(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("chatting")
    tiny().text.backend.save(str(folder / "tokenizer.json"))  # type: ignore[attr-defined]
    (folder / "config.json").write_text('{"model_type": "llama"}')
    (folder / "tokenizer_config.json").write_text(
        '{"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "[CLS]"}'
    )
    return folder


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("answer", [True, False])
def test_chats_are_written_as_transformers_writes_them(template: str, answer: bool, chatting: Path):
    from jaxflow.models import read_tokenizer

    (chatting / "chat_template.jinja").write_text(template)
    with torch_models.quietly():
        theirs = torch_models.library().AutoTokenizer.from_pretrained(chatting)
    ours: Any = read_tokenizer(chatting)
    expected = theirs.apply_chat_template(CHAT, tokenize=False, add_generation_prompt=answer)
    assert ours.chat(CHAT, answer=answer) == expected
    ids = theirs.apply_chat_template(CHAT, add_generation_prompt=answer)["input_ids"]
    assert ours.encode(expected, template=False) == ids
    assert list(ours.read(expected, template=False).ids) == ids


def test_chats_that_cannot_be_written_are_refused(chatting: Path, monkeypatch: Any):
    from jaxflow.models import read_tokenizer

    text = '{{ raise_exception("roles must take turns") }}'
    (chatting / "chat_template.jinja").write_text(text)
    ours: Any = read_tokenizer(chatting)
    with refused("roles must take turns"):
        ours.chat("hello")
    for broken in ("{% if %}", "{{ ''.__class__.__mro__ }}", "{{ none.x.y }}"):
        with refused("chat template"):
            dataclasses.replace(ours, chat_template=broken).chat("hello")
    with refused("must have a chat template"):
        dataclasses.replace(ours, chat_template=None).chat("hello")
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with refused("jinja2, which is not installed"):
        ours.chat("hello")


QUESTION = "What is the capital of France, and what is it known for in 1889?"


@pytest.fixture(scope="module")
def real() -> tuple[Any, Any]:
    """SmolLM2-135M-Instruct of transformers and ours, of the same files."""
    folder = smollm2.folder()
    theirs = torch_models.read(folder, "AutoModelForCausalLM")
    return theirs, load(folder)


def texts(folder: Path, count: int) -> list[str]:
    """Passages of this project's documentation, of up to 512 tokens each."""
    pages = sorted((folder / "docs").rglob("*.md"), key=lambda page: str(page))
    words = " ".join(page.read_text(encoding="utf-8") for page in pages).split()
    lengths = [3 + (60 if count < 9 else 220) * place // count for place in range(count)]
    starts = np.cumsum([0, *lengths])
    return [
        " ".join(words[begin : begin + n]) for begin, n in zip(starts[:-1], lengths, strict=True)
    ]


@pytest.mark.parametrize(
    ("count", "logits"), [(2, 1e-4), pytest.param(20, 3e-4, marks=pytest.mark.nightly)]
)
def test_smollm2_is_that_of_transformers(real: tuple[Any, Any], count: int, logits: float):
    """Ten seconds: the only real decoder, 135 million parameters twice.

    Theirs runs in float64. 1e-4 is not to be had in float32, whose spacing at a logit of 20 is
    2e-6, after 30 layers on a stream with entries in the thousands: of 12.9 million logits of one
    text 8 are more than 1e-4 from these, up to 1.6e-4, and theirs in float32 up to 2.1e-4. With
    twenty texts, one of 512 tokens is read, too.
    """
    theirs, ours = copy.deepcopy(real[0]).double(), real[1]
    root = Path(__file__).parents[2]
    long = [" ".join(texts(root, 20)[-4:])] if count == 20 else []
    for text in [*texts(root, count), *long]:
        tokens = np.array([ours.text.encode(text)[:512]], np.int32)
        expected, found = torch_models.run(theirs, tokens), ours(tokens)
        np.testing.assert_allclose(found.attention, expected.attention, atol=1e-4)
        np.testing.assert_allclose(found.logits, expected.logits, rtol=1e-4, atol=logits)
    assert not long or tokens.shape == (1, 512)


@pytest.mark.nightly
def test_smollm2_is_decomposed(real: tuple[Any, Any]):
    """Parts of what attention writes, of hidden states and of logits sum to transformers' own.

    A minute of compiling derivatives of 30 layers; tiny models show the same in the check.
    """
    theirs, ours = real
    tokens = np.array([ours.text.encode("The keys to the old cabinet are on the")], np.int32)
    found = trace(ours, tokens, target=lambda logits: logits[:, -1].max(-1))
    expected, last = torch_models.run(theirs, tokens), tokens.shape[1] - 1

    def close(mine: Any, other: np.ndarray) -> None:
        size = np.abs(other).max(-1, keepdims=True)  # entries of the stream are in the thousands
        assert (np.abs(np.asarray(mine) - other) < 1e-3 * size).all()

    written = torch_models.written_to_the_stream(theirs, tokens)
    close(edges.reconstruction(found), expected.hidden[:, :-1] + written)
    close(decompx.reconstruction(found), expected.hidden[:, 1:])
    params, likeliest = ours.params["params"], expected.logits[0, last].argsort()[-5:]
    norm = edges.Norm(params["norm"]["scale"], None, ours.config.epsilon, rms=True)
    head = edges.Readout(params["word"]["embedding"][likeliest].T, norm=norm)
    parts = edges.class_attributions(found, head, np.eye(last + 1)[[last]])
    close(np.asarray(parts).sum(1), expected.logits[:, last, likeliest])
    for name in ("alti", "value-zeroing"):
        rows = np.asarray(edges.aggregate(found, name, sources=-1))
        np.testing.assert_allclose(rows.sum(-1), 1, atol=1e-4)
    assert np.isfinite(np.asarray(edges.weigh(found, "transformer-attribution"))).all()


@pytest.mark.parametrize("new", [6, pytest.param(50, marks=pytest.mark.nightly)])
def test_smollm2_answers_as_with_transformers(real: tuple[Any, Any], new: int):
    import torch

    theirs, ours = real
    with torch_models.quietly():
        tokenizer = torch_models.library().AutoTokenizer.from_pretrained(smollm2.folder())
    messages = [{"role": "user", "content": QUESTION}]
    expected = tokenizer.apply_chat_template(messages, add_generation_prompt=True)["input_ids"]
    text = ours.text.chat(QUESTION)
    prompt = ours.text.encode(text, template=False)
    assert prompt == expected
    with torch.no_grad(), torch_models.quietly():
        answered = theirs.generate(
            torch.tensor([prompt]), max_new_tokens=new, do_sample=False, attention_mask=None
        )
    found = generate(ours, prompt, new)
    assert new < 9 or "Paris" in ours.text.backend.decode(found.tokens[0].tolist())
    np.testing.assert_array_equal(found.tokens[0, : len(prompt) + found.counts[0]], answered[0])
