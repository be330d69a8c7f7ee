"""Test fine-tuning: a killed run resumes bit for bit, and the result loads."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from session import refused
from small_runs import assert_ends_like, assert_equal_trees, journal_of, steps_kept
from small_sst2 import POSITIONS, corpus, sentences, small_finetuning, tiny_bert, tokenizer

from jaxflow import models
from jaxflow.models import EncoderConfig, Gpt2Config, Model, WordTokenizer, init
from jaxflow.train.batches import encode_sentences
from jaxflow.train.config import FineTuneConfig
from jaxflow.train.finetuning import finetune, prepare_model
from jaxflow.train.run import read_config
from jaxflow.train.sst2 import Sentences
from jaxflow.train.step import (
    averaged,
    finetune_loss,
    init_state,
    make_finetune_optimizer,
    make_step,
    rate_scales,
)

LONG = " ".join(["film"] * POSITIONS)
CONFIG = small_finetuning(positions=99)  # more than the model has


def longer(split):
    return Sentences((*split.texts, LONG), np.append(split.labels, np.int32(1)))


def with_long_ones():
    """The small corpus with a sentence in each labelled split that does not fit."""
    splits = corpus()
    return splits | {name: longer(splits[name]) for name in ("train", "dev")}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that nothing disturbed: its folder, its result and what it said first."""
    run, said = tmp_path_factory.mktemp("runs") / "whole", []
    return run, finetune(tiny_bert(), with_long_ones(), CONFIG, run, said.append), said[0].message


def test_a_whole_run_leaves_what_it_promises_and_has_learned(whole):
    run, result, said = whole
    assert said == "1 training sentences exceed 14 tokens and are left out"
    assert {path.name for path in run.iterdir()} == {
        "config.json", "metrics.jsonl", "checkpoints", "model", "accuracy.json"
    }  # fmt: skip
    # The test split has no labels: it is never scored.
    assert set(result.accuracy) == {"dev"}
    dev = result.accuracy["dev"]
    assert (dev["n"], dev["too_long"]) == (61, 1)
    assert dev["accuracy"] > 0.7  # .5 ± .065 by chance
    config = read_config(run, FineTuneConfig)
    assert dataclasses.replace(config, started_from="") == small_finetuning(positions=POSITIONS)
    scores = [entry["held_out"] for entry in journal_of(run) if "held_out" in entry]
    assert len(scores) == 3
    assert scores[-1] == {"dev": dev["accuracy"]}


def test_the_saved_model_is_the_averaged_one_and_is_read_back(whole):
    run, result, _ = whole
    loaded = models.load(run)
    assert loaded.config == result.model.config
    assert loaded.config.labels == ("negative", "positive")
    assert_equal_trees(loaded.params, result.model.params)
    dev = corpus()["dev"]
    ids = loaded.text.encode_batch(dev.texts)
    right = np.asarray(loaded.probabilities(ids)).argmax(-1) == dev.labels
    assert right.sum() / 61 == result.accuracy["dev"]["accuracy"]


def test_transformers_reads_the_saved_model(whole):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    run, result, _ = whole
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(run / "model").eval()
    texts = list(corpus()["dev"].texts[:9])
    given = transformers.AutoTokenizer.from_pretrained(run / "model")(
        texts, padding=True, return_tensors="pt"
    )
    ids = result.model.text.encode_batch(texts)
    np.testing.assert_array_equal(given["input_ids"].numpy(), ids)
    with torch.no_grad():
        logits = theirs(**given).logits.numpy()
    np.testing.assert_allclose(np.asarray(result.model(ids).logits), logits, atol=1e-5)
    assert theirs.config.id2label == {0: "negative", 1: "positive"}


def test_a_run_cut_off_goes_on_bit_for_bit_and_never_from_something_else(tmp_path, whole):
    model, splits, run = tiny_bert(), with_long_ones(), tmp_path / "run"
    cut = finetune(model, splits, CONFIG, run, stop_after=21)
    assert (cut.accuracy, (run / "model").exists(), steps_kept(run)) == ({}, False, [20, 21])
    for name, given in {
        "started_from": (tiny_bert(seed=1), splits, CONFIG),
        "started_from is": (model, {**splits, "train": sentences(200, 4)}, CONFIG),
        "seed": (model, splits, dataclasses.replace(CONFIG, seed=1)),
    }.items():
        with refused(f"another configuration .{name}"):
            finetune(*given, run)
    finetune(model, splits, CONFIG, run)
    assert_ends_like(run, whole[0])


def test_a_classifier_keeps_its_head_and_others_get_a_fresh_one():
    bare = tiny_bert(pooler=True)
    ready = prepare_model(bare, small_finetuning(dropout=0.25))
    assert (ready.config.head, ready.config.labels) == ("classification", ("negative", "positive"))
    assert {ready.config.dropout, ready.config.attention_dropout} == {0.25}
    for name, kept in bare.params["params"].items():
        assert_equal_trees(ready.params["params"][name], kept)
    again = prepare_model(ready, small_finetuning())
    assert again.config == ready.config
    assert_equal_trees(again.params, ready.params)
    other = prepare_model(bare, small_finetuning(seed=1))
    assert not np.array_equal(
        other.params["params"]["readout"]["kernel"], ready.params["params"]["readout"]["kernel"]
    )


def test_what_cannot_be_fine_tuned_is_refused():
    three = tiny_bert(head="classification", labels=("a", "b", "c"))
    with refused(r"tell 2 classes apart .* has 3"):
        prepare_model(three, small_finetuning())
    with refused("needs a model of text"):
        prepare_model(dataclasses.replace(tiny_bert(), tokenizer=None), small_finetuning())
    nothing = dataclasses.replace(
        tokenizer(), special={name: 1 for name in ("unk", "cls", "sep", "mask")}
    )
    with refused("must have a padding token"):
        encode_sentences(("a",), np.zeros(1, np.int32), nothing, 8)


@pytest.mark.nightly
@pytest.mark.parametrize("kind", ["gpt2", "agreement", "distilbert"])
def test_other_architectures_are_fine_tuned_too(tmp_path, kind):
    sizes = {"positions": POSITIONS, "layers": 1, "heads": 2, "width": 8}
    if kind == "distilbert":
        model = tiny_bert(kind="distilbert", token_types=0, layers=1, head="masked-lm")
    elif kind == "gpt2":
        config = Gpt2Config(vocabulary=len(tokenizer()), pad_id=0, **sizes)
        model = Model(config, init(config), tokenizer())
    else:
        config = EncoderConfig(vocabulary=12, **sizes)
        model = Model(config, init(config), WordTokenizer.build(corpus()["train"].texts, 9))
    config = small_finetuning(epochs=1)
    result = finetune(model, corpus(), config, tmp_path)
    assert result.model.config.head == "classification"
    loaded = models.load(tmp_path).params
    assert_equal_trees(loaded, result.model.params)
    before = prepare_model(model, config).params
    moved = jax.tree.map(lambda a, b: bool((a != b).any()), before, loaded)
    assert all(jax.tree.leaves(moved))


def test_learning_rates_fall_from_the_head_to_the_embeddings():
    model = prepare_model(tiny_bert(layers=3), small_finetuning())
    scales = rate_scales(model.params, 3, 0.5, norm_first=False)["params"]
    found = {name: set(jax.tree.leaves(part)) for name, part in scales.items()}
    assert found == {
        "readout": {1.0},
        "pooler": {1.0},
        "blocks_2": {0.5},
        "blocks_1": {0.25},
        "blocks_0": {0.125},
        **{name: {0.0625} for name in ("word", "position", "token_type", "norm")},
    }
    encoder = EncoderConfig(vocabulary=5, layers=1, heads=1, width=4)
    variables = init(encoder)
    scales = rate_scales(variables, 1, 0.5, norm_first=True)["params"]
    assert set(jax.tree.leaves(scales["norm"])) == {1.0}
    assert set(jax.tree.leaves([scales["word"], scales["position"]])) == {0.25}


def test_one_step_against_numpy():
    """AdamW's first step moves every parameter by its rate times the sign of its gradient."""
    config = small_finetuning(
        dropout=0.0, word_dropout=0.0, warmup=0.1, weight_decay=0.0, clip=1e6, layer_decay=0.5
    )
    model = prepare_model(tiny_bert(), config)
    optimizer = make_finetune_optimizer(config, model, 10)
    step = make_step(finetune_loss(model, config), optimizer, config.seed)
    split = corpus()["train"]
    encoded = encode_sentences(split.texts, split.labels, model.text, POSITIONS)
    tokens, labels = jnp.asarray(encoded.tokens[:20]), jnp.asarray(encoded.labels[:20])

    def loss(params):
        logits = model.module.apply(params, tokens, method="classify")
        return -jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], 1).mean()

    before = jax.tree.map(np.array, model.params)
    value, gradient = jax.jit(jax.value_and_grad(loss))(model.params)
    state, metrics = step(init_state(model.params, optimizer), tokens=tokens, labels=labels)
    np.testing.assert_allclose(metrics["loss"], value, rtol=1e-5)
    np.testing.assert_allclose(metrics["gradient_norm"], optax.tree.norm(gradient), rtol=1e-4)
    assert_equal_trees(jax.tree.map(np.array, state.params), before)  # the warm-up begins at 0
    state, _ = step(state, tokens=tokens, labels=labels)
    scales = rate_scales(before, 1, 0.5, norm_first=False)
    after = jax.tree.map(np.array, state.params)
    for old, new, slope, scale in zip(
        *(jax.tree.leaves(tree) for tree in (before, after, gradient, scales)), strict=True
    ):
        clear = np.abs(slope) > 1e-5
        np.testing.assert_allclose(
            (new - old)[clear], -2e-2 * scale * np.sign(np.asarray(slope)[clear]), rtol=2e-2
        )
    # The average starts at the first parameters and its first memories are 1/10 and 2/11.
    average = jax.tree.map(np.array, averaged(state))
    for old, new, mean in zip(
        *(jax.tree.leaves(tree) for tree in (before, after, average)), strict=True
    ):
        np.testing.assert_allclose(mean, old + (1 - 2 / 11) * (new - old), atol=1e-6)

    plain = make_finetune_optimizer(dataclasses.replace(config, average=0.0), model, 10)
    state = init_state(model.params, plain)
    assert averaged(state) is state.params
