"""Test published checkpoints: layouts of parameters, writing, and errors."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch_models
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file
from tiny_models import assert_same_parameters, tiny, word_pieces
from torch_models import assert_close, tokens_with_padding

from jaxflow.errors import InputError
from jaxflow.models import (
    BertConfig,
    EncoderConfig,
    Model,
    WordTokenizer,
    init,
    load,
    save_pretrained,
    with_head,
)
from jaxflow.models.layers import PLAIN, TRAINING
from jaxflow.models.published import NO_NUMBERS, read_published, write_published

Tensors = dict[str, np.ndarray]
SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
WORDS = "embeddings.word_embeddings.weight"


def refused(folder: Path) -> str:
    with pytest.raises(InputError) as caught:
        load(folder)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.fixture(scope="module")
def masked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("masked")
    return torch_models.write(torch_models.random_model("BertForPreTraining", {}), folder)


@pytest.fixture(scope="module")
def model(masked: Path) -> Model:
    return load(masked)


@pytest.fixture(scope="module")
def tensors(masked: Path) -> Tensors:
    return load_file(masked / SINGLE)


@pytest.fixture
def write(masked: Path, tmp_path: Path) -> Callable[..., Path]:
    """Write tensors, or bytes, beside a copy of the configuration with some fields changed."""

    def written(tensors: Tensors | bytes | None, **fields: Any) -> Path:
        known = json.loads((masked / "config.json").read_text(encoding="utf-8"))
        (tmp_path / "config.json").write_text(json.dumps(known | fields), encoding="utf-8")
        if isinstance(tensors, dict):
            arrays = {name: np.ascontiguousarray(array) for name, array in tensors.items()}
            save_file(arrays, tmp_path / SINGLE)
        elif tensors is not None:
            (tmp_path / SINGLE).write_bytes(tensors)
        return tmp_path

    return written


def oldest_names(tensors: Tensors) -> Tensors:
    old = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
    return {
        name.replace(".".join(name.split(".")[-2:]), old.get(".".join(name.split(".")[-2:]), ""))
        if name.endswith(tuple(old))
        else name: array
        for name, array in tensors.items()
    }


LAYOUTS: dict[str, Callable[[Tensors], Tensors]] = {
    "without the prefix": lambda t: {n.removeprefix("bert."): a for n, a in t.items()},
    "the oldest names of norms": oldest_names,
    "word embeddings stored twice": lambda t: (
        t
        | {
            "cls.predictions.decoder.weight": t[f"bert.{WORDS}"],
            "cls.predictions.decoder.bias": t["cls.predictions.bias"],
        }
    ),
    "constants and other heads": lambda t: (
        t
        | {
            "bert.embeddings.position_ids": np.arange(16)[None],
            "qa_outputs.weight": np.zeros((2, 24), np.float32),
            "classifier.weight": np.zeros((2, 24), np.float32),
        }
    ),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_of_the_same_parameters(
    layout: str, model: Model, tensors: Tensors, write: Callable[..., Path]
) -> None:
    changed = LAYOUTS[layout](tensors)
    assert changed.keys() != tensors.keys()
    assert_same_parameters(load(write(changed)), model)


def test_a_second_copy_that_differs_is_a_decoder(
    tensors: Tensors, write: Callable[..., Path]
) -> None:
    """As in transformers: the file counts, not what the configuration says of it."""
    own = tensors | {
        "cls.predictions.decoder.weight": tensors[f"bert.{WORDS}"][::-1] + 0.5,
        "cls.predictions.decoder.bias": tensors["cls.predictions.bias"] - 1,
    }
    folder = write(own, tie_word_embeddings=True)
    ours, theirs = load(folder), torch_models.read(folder, "BertForMaskedLM")
    assert not ours.config.tied
    tokens = tokens_with_padding((5, 3), 0)
    assert_close(ours(tokens).logits, torch_models.run(theirs, tokens, tokens != 0).logits)


def test_gpt2s_causal_masks_and_missing_prefix(tmp_path: Path) -> None:
    folder = torch_models.write(torch_models.random_model("GPT2LMHeadModel", {}), tmp_path)
    before = load(folder)
    known = load_file(folder / SINGLE)
    for layer in range(2):
        known[f"transformer.h.{layer}.attn.bias"] = np.tri(16, dtype=bool)[None, None]
        known[f"transformer.h.{layer}.attn.masked_bias"] = np.array(-1e4, np.float32)
    plain = {name.removeprefix("transformer."): array for name, array in known.items()}
    save_file(plain, folder / SINGLE)
    assert_same_parameters(load(folder), before)


def test_double_precision_is_read_into_float32(
    model: Model, tensors: Tensors, write: Callable[..., Path]
) -> None:
    folder = write({name: array.astype(np.float64) for name, array in tensors.items()})
    assert_same_parameters(load(folder), model)
    assert {leaf.dtype for leaf in jax.tree.leaves(load(folder).params)} == {np.dtype(np.float32)}


def test_fresh_parameters_are_read_by_transformers(tmp_path: Path) -> None:
    config = BertConfig(
        head="classification", labels=("negative", "neither", "positive"), vocabulary=37,
        positions=9, token_types=1, layers=1, heads=3, width=12, hidden_width=20,
        activation="relu", epsilon=1e-4, dropout=0.25, attention_dropout=0.0, readout_dropout=0.5,
    )  # fmt: skip
    model = Model(config, init(config, 3), None)
    save_pretrained(tmp_path, model)
    assert_same_parameters(load(tmp_path), model)
    back = torch_models.read(tmp_path, "AutoModelForSequenceClassification")
    assert list(back.config.id2label.values()) == list(config.labels)
    tokens = tokens_with_padding((8, 3), 0)
    assert_close(model(tokens).logits, torch_models.run(back, tokens, tokens != 0).logits)


@pytest.mark.parametrize("before", [False, True])
def test_writing_that_was_cut_off_shows_no_model(
    before: bool, model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace = os.replace
    moved: list[Path] = []

    def stop(path: Path, target: Path) -> None:
        if moved:
            raise KeyboardInterrupt
        moved.append(target)
        replace(path, target)

    if before:
        save_pretrained(tmp_path, model)
    monkeypatch.setattr(os, "replace", stop)
    with pytest.raises(KeyboardInterrupt):
        save_pretrained(tmp_path, model)
    assert not (tmp_path / "config.json").exists()
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]
    monkeypatch.undo()
    save_pretrained(tmp_path, model)
    assert_same_parameters(load(tmp_path), model)


def test_an_earlier_models_files_are_not_read_as_the_new_ones(tmp_path: Path) -> None:
    other = tiny()
    save_pretrained(tmp_path, other)
    (tmp_path / "notes.txt").write_text("mine", encoding="utf-8")
    assert load(tmp_path).tokenizer is not None
    save_pretrained(tmp_path, Model(other.config, other.params, None))
    assert load(tmp_path).tokenizer is None
    assert (tmp_path / "notes.txt").exists()


def test_what_cannot_be_written_for_transformers(tmp_path: Path) -> None:
    config = EncoderConfig(vocabulary=4, positions=4, layers=1, heads=1, width=4)
    words = Model(config, init(config), WordTokenizer(("[PAD]", "[CLS]", "[UNK]", "dog")))
    with pytest.raises(InputError, match=r"^only BERT, .* can be written .* use jaxflow export$"):
        save_pretrained(tmp_path / "model", words)
    with pytest.raises(InputError, match=r"^an agreement encoder has its one head"):
        with_head(words, "none")
    assert not (tmp_path / "model").exists()
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"^cannot write to the folder .*file"):
        save_pretrained(tmp_path / "file" / "model", tiny())


@pytest.fixture
def sharded(masked: Path, tmp_path: Path) -> Path:
    theirs = torch_models.read(masked, "BertForPreTraining")
    folder = torch_models.write(theirs, tmp_path / "sharded", max_shard_size="8KB")
    assert len(list(folder.glob("model-*.safetensors"))) > 3
    assert not (folder / SINGLE).exists()
    return folder


def test_shards_are_one_model_and_damage_to_one_is_named(sharded: Path, model: Model) -> None:
    assert_same_parameters(load(sharded), model)
    first, second = sorted(sharded.glob("model-*.safetensors"))[:2]
    whole = second.read_bytes()
    second.write_bytes(whole[:-1])
    assert refused(sharded).startswith(f"{second} is cut off at ")
    second.write_bytes(first.read_bytes())
    assert "more than once" in refused(sharded)
    second.unlink()
    assert refused(sharded) == f"{sharded} must hold every shard, {second.name} missing"


@pytest.mark.parametrize(
    "content",
    [
        "", "[]", "{", '{"weight_map": []}', '{"weight_map": {}}', '{"weight_map": {"a": 1}}',
        '{"weight_map": {"a": null, "b": "c"}}', '{"weight_map": {"a": "/etc/hostname"}}',
        '{"weight_map": {"a": "../elsewhere.safetensors"}}', '{"weight_map": {"a": ".."}}',
        '{"weight_map": {"a": ""}}', '{"weight_map": {"a": "\\u0000"}}', "[" * 100_000,
    ],
    ids=lambda content: content[:40] or "empty",
)  # fmt: skip
def test_damaged_lists_of_shards(content: str, write: Callable[..., Path]) -> None:
    folder = write(None)
    (folder.parent / "elsewhere.safetensors").write_bytes(b"")
    (folder / INDEX).write_text(content)
    message = refused(folder)
    assert str(folder) in message
    assert "shard" in message


def test_wrong_tensors_are_listed_at_once(tensors: Tensors, write: Callable[..., Path]) -> None:
    wrong = dict(tensors)
    del wrong["bert.encoder.layer.0.attention.self.key.bias"]
    del wrong["cls.predictions.bias"]
    wrong["bert.encoder.layer.2.output.dense.bias"] = np.zeros(24, np.float32)
    wrong["bert.embeddings.position_embeddings.weight"] = np.zeros((15, 24), np.float32)
    folder = write(wrong)
    assert refused(folder) == (
        f"the tensors in {folder} are not those of its config.json ("
        "missing: cls.predictions.bias, encoder.layer.0.attention.self.key.bias; "
        "not of this model: bert.encoder.layer.2.output.dense.bias; "
        "of another shape: bert.embeddings.position_embeddings.weight [15, 24] instead of [16, 24])"
    )
    message = refused(write({"bert.pooler.dense.bias": tensors["bert.pooler.dense.bias"]}))
    assert message.endswith(" more)")
    assert len(message) < 1500


def test_tensors_of_two_names_or_whole_numbers(
    tensors: Tensors, write: Callable[..., Path]
) -> None:
    message = refused(write(tensors | {WORDS: tensors[f"bert.{WORDS}"] + 1}))
    assert message.startswith("a tensor must have one name, got ")
    name = "bert.encoder.layer.1.output.dense.weight"
    folder = write(tensors | {name: (100 * tensors[name]).astype(np.int8)})
    assert refused(folder) == (
        f"the tensor {name} in {folder} must be one of F16, BF16, F32, F64, got I8"
    )


def test_files_that_are_cut_off_or_changed(masked: Path, write: Callable[..., Path]) -> None:
    data = (masked / SINGLE).read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    for end in (0, 5, 8, start // 2, start - 10):
        assert "is no safetensors file" in refused(write(data[:end]))
    for end in (start, (start + len(data)) // 2):
        assert "is cut off at " in (message := refused(write(data[:end])))
        assert message.endswith(" more")
    header = json.loads(data[8:start])
    ends = {name: at["data_offsets"][1] for name, at in header.items() if name != "__metadata__"}
    cut = sorted(ends.values())[-3]
    lost = sorted(name for name, end in ends.items() if end > cut)
    message = refused(write(data[: start + cut]))
    assert message.endswith(f"bytes: truncated or lost are {', '.join(lost)}")
    for place in (0, 3, 8, 9, 40):
        refused(write(bytes([*data[:place], data[place] ^ 0xFF, *data[place + 1 :]])))


def test_pickles_are_not_opened(write: Callable[..., Path]) -> None:
    folder = write(None)
    assert refused(folder).endswith(f"or {INDEX}, and holds neither")
    (folder / "pytorch_model.bin").write_bytes(b"cos\nsystem\n")
    assert refused(folder) == (
        f"{folder} must hold {SINGLE}, and holds pytorch_model.bin, which is not read "
        "here: such a file can run code; save the model again as safetensors"
    )


def test_a_tokenizer_larger_than_the_model_is_refused(
    tensors: Tensors, write: Callable[..., Path]
) -> None:
    folder = write(tensors)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *(f"word{number}" for number in range(33))]
    more = word_pieces([*words, "more"]).backend
    more.add_special_tokens(["[MASK]"])
    more.save(str(folder / "tokenizer.json"))
    assert refused(folder).endswith("its 39 entries from 0 to 36, the model's vocabulary, got 38")
    # [MASK] was added to the tokenizer alone: a text that spells it has no number here.
    backend = word_pieces(words).backend
    backend.add_special_tokens(["[MASK]"])
    backend.save(str(folder / "tokenizer.json"))
    model = load(folder)
    assert (len(model.text), model.text.mask_id, model.text.pad_id) == (38, None, 0)
    with pytest.raises(InputError, match="tokens must be numbers from 0 to 36, got 2 to 37"):
        model(model.text.encode_batch(["word1 [MASK]"]))


def test_a_head_that_is_not_built_leaves_its_attention(tmp_path: Path) -> None:
    name = "GPT2ForTokenClassification"
    theirs = torch_models.random_model(name, {})
    folder = torch_models.write(theirs, tmp_path)
    tokens = tokens_with_padding((7, 7), 0)
    for missing in (False, True):
        if missing:
            fields = json.loads((folder / "config.json").read_text())
            del fields["architectures"]
            (folder / "config.json").write_text(json.dumps(fields))
        named = "of another kind" if missing else name
        with pytest.warns(UserWarning, match=rf"\({named}\) is not read here: .* attention alone$"):
            ours = load(folder)
        assert ours.answer == "none"
        assert_close(ours(tokens).attention, torch_models.run(theirs, tokens).attention)
    assert load(folder, head="none").answer == "none"  # asked for: nothing to warn of


def test_the_problem_decides_the_answer(tmp_path: Path) -> None:
    """Two labels of one name are two answers."""
    for problem, count, answer in (
        (None, 1, "regression"), ("multi_label_classification", 3, "multi-label"),
        (None, 3, "single-label"),
    ):  # fmt: skip
        changes = {"num_labels": count, "problem_type": problem}
        theirs = torch_models.random_model("BertForSequenceClassification", changes)
        model = load(torch_models.write(theirs, tmp_path))
        assert model.answer == answer
        save_pretrained(tmp_path / "again", model)
        assert load(tmp_path / "again").config == model.config
    path = tmp_path / "config.json"
    fields = json.loads(path.read_text())
    for named, message in (("ranking", "problem_type must be one of single_label_cl"), ([], "")):
        path.write_text(json.dumps(fields | {"problem_type": named}))
        assert message in refused(tmp_path)
    names = {"0": "good", "1": "good", "2": "good (0)"}
    path.write_text(json.dumps(fields | {"id2label": names}))
    assert load(tmp_path).config.labels == ("good (0) (0)", "good (1)", "good (0) (2)")


NAMES = ("BertForSequenceClassification", "GPT2LMHeadModel", "ViTForImageClassification")
HUGE = (1 << 24, (1 << 24) + 1, 10**30)
#: The most that may be allocated for a configuration that cannot be of the file beside it.
MEMORY = 120 * 2**20


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, dict[str, Any]]]:
    root = tmp_path_factory.mktemp("configs")
    found = {}
    for name in (*NAMES, "DistilBertModel"):
        folder = torch_models.write(torch_models.random_model(name, {}), root / name)
        found[name] = (folder, json.loads((folder / "config.json").read_text()))
    return found


ATOMS = [
    *HUGE, -1, 0, 1, 2, 3, None, True, False, "gelu", "absolute", "masked-lm", "bert", "1e9", ""
]  # fmt: skip
VALUES = st.recursive(
    st.sampled_from(ATOMS) | st.integers() | st.floats(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["0", "1", "01", "x", ""]), inner, max_size=3)
    ),
    max_leaves=4,
)


@settings(max_examples=80)
@given(data=st.data())
def test_a_changed_configuration_is_refused_or_read(
    data: st.DataObject, folders: dict[str, Any]
) -> None:
    folder, known = folders[data.draw(st.sampled_from(NAMES), label="model")]
    fields = dict(known)
    names = st.sampled_from([*fields, "pruned_heads", "num_labels", "id2label", "embedding_size"])
    for name in data.draw(st.lists(names, min_size=1, max_size=3), label="changed"):
        if data.draw(st.integers(0, 4), label="drop") == 0:
            fields.pop(name, None)
        else:
            fields[name] = data.draw(VALUES, label=name)
    (folder / "config.json").write_text(json.dumps(fields), encoding="utf-8")
    with contextlib.suppress(InputError):
        assert load(folder).config.layers == 2  # the file has as many


@pytest.mark.parametrize("name", NAMES)
def test_huge_sizes_are_refused_before_anything_is_allocated(
    name: str, folders: dict[str, Any]
) -> None:
    folder, known = folders[name]
    sizes = {key for key, value in known.items() if type(value) is int}
    sizes = {key for key in sizes if not key.endswith(("token_id", "stride", "output_size"))}
    assert len(sizes) >= 5
    for key, size in itertools.product(sizes, HUGE):
        (folder / "config.json").write_text(json.dumps(known | {key: size}))
        tracemalloc.start()
        try:
            refused(folder)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert peak < MEMORY, (key, size)


@pytest.mark.parametrize(
    ("name", "fields", "message"),
    [
        ("Bert", {"pruned_heads": {"0": [1]}}, "pruned_heads must be None"),
        ("Bert", {"quantization_config": {"bits": 4}}, "quantization_config must be None"),
        ("Bert", {"position_embedding_type": "relative_key"}, "position_embedding_type must be '"),
        ("Bert", {"is_decoder": True}, "is_decoder must be False for a model built here"),
        ("GPT2", {"add_cross_attention": True}, "add_cross_attention must be False"),
        ("GPT2", {"scale_attn_weights": False}, "scale_attn_weights must be True"),
        ("GPT2", {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx must"),
        ("ViT", {"qkv_bias": False}, "qkv_bias must be True"),
        ("ViT", {"patch_size": [4, 2]}, "patch_size must be a whole number"),
        ("ViT", {"image_size": 0}, "image_size must be one or two whole numbers"),
        ("Bert", {"hidden_act": "gelu_10"}, "activation must be one of gelu_new, "),
        ("Distil", {"activation": "laplace"}, "activation must be one of gelu_new, "),
        ("Bert", {"model_type": "albert"}, "model_type must be one of bert, distilbert, rob"),
        ("Bert", {"model_type": ["bert"]}, "model_type must be one of "),
        ("Bert", {"architectures": ["MyBert"]}, "architectures must name one of"),
    ],
)
def test_what_is_not_built_is_refused_by_its_name(
    name: str, fields: dict[str, Any], message: str, folders: dict[str, Any]
) -> None:
    folder, known = next(found for full, found in folders.items() if full.startswith(name))
    (folder / "config.json").write_text(json.dumps(known | fields))
    assert f"the model in {folder} cannot be read: {message}" in refused(folder)


def test_a_configuration_of_nothing_but_its_kind_has_the_usual_sizes() -> None:
    """Published files leave out what is usual; transformers says what that is."""
    library = torch_models.library()
    for kind in ("Bert", "DistilBert", "Roberta", "GPT2", "ViT"):
        full = getattr(library, f"{kind}Config")().to_dict() | {"architectures": None}
        config = read_published(full)
        assert read_published({"model_type": kind.lower()}, head="none") == config
        assert read_published(write_published(config)) == config


@pytest.mark.parametrize("kind", ["Bert", "DistilBert", "Roberta", "GPT2", "ViT"])
def test_every_field_of_theirs_is_read_refused_or_without_effect(kind: str) -> None:
    """`NO_NUMBERS` is a claim about their modules; the differential test draws the others."""
    library = torch_models.library()
    made = getattr(library, f"{kind}Config")
    base = {"model_type": kind.lower(), "architectures": None}
    read = read_published(base, head="none")
    known = made().to_dict()
    changed = {bool: lambda v: not v, int: lambda v: 2 * v or 1, float: lambda v: v / 2 + 1e-3}
    for name, value in known.items():
        if name in NO_NUMBERS or name in ("architectures", "model_type"):
            continue
        other = changed.get(type(value), lambda _: "relu")(value)
        head: Any = "classification" if name in ("id2label", "problem_type") else "none"
        other = {"id2label": {0: "a"}, "problem_type": "regression"}.get(name, other)
        before = read_published(base, head=head)
        refusal = None
        try:
            after = read_published(base | {name: other}, head=head)
        except InputError as error:
            refusal = str(error)
        assert name in (refusal or name)
        assert refusal is not None or after != before, name
    for alias, name in made.attribute_map.items():
        size = {name: 2 * known[name]}
        assert read_published(base | {alias: size[name]}, head="none") == read_published(
            base | size, head="none"
        )
        theirs = made.from_dict({alias: size[name], name: known[name]})
        assert getattr(theirs, name) == size[name]  # the other name counts where both are there
        both = read_published(base | size | {alias: size[name], name: known[name]}, head="none")
        assert both == read_published(base | size, head="none") != read


def test_activations_are_theirs_or_refused() -> None:
    import torch
    from transformers.activations import ACT2FN

    values = np.linspace(-9, 9, 301).astype(np.float32)
    refused_names = set()
    for name in ACT2FN:
        try:
            config = read_published({"model_type": "vit", "hidden_act": name}, head="none")
        except InputError:
            refused_names.add(name)
            continue
        expected = ACT2FN[name](torch.tensor(values)).numpy()
        for layers in (PLAIN, TRAINING):
            found = layers.activation(config.activation)(jnp.asarray(values))
            np.testing.assert_allclose(found, expected, rtol=1e-5, atol=2e-6, err_msg=name)
    assert refused_names == {"gelu_10", "laplace", "sqrtsoftplus", "prelu", "xielu"}


def test_without_a_padding_token_every_token_is_real(tmp_path: Path) -> None:
    theirs = torch_models.random_model("BertForSequenceClassification", {"pad_token_id": None})
    ours = load(torch_models.write(theirs, tmp_path))
    tokens = tokens_with_padding((7, 4), 0)
    assert ours.config.pad_id is None
    assert_close(ours(tokens).logits, torch_models.run(theirs, tokens).logits)
    save_pretrained(tmp_path, ours)
    assert load(tmp_path).config == ours.config
    with pytest.raises(InputError, match="pad_token_id must be a number: RoBERTa counts"):
        read_published({"model_type": "roberta", "pad_token_id": None}, head="none")


def test_a_padding_token_that_ends_texts_is_a_token(tmp_path: Path) -> None:
    """GPT-2's usual set-up: padding is the end token, and a text may begin or end with it."""
    changes = {"pad_token_id": 36, "num_labels": 3}
    theirs = torch_models.random_model("GPT2ForSequenceClassification", changes)
    ours = load(torch_models.write(theirs, tmp_path))
    tokens = tokens_with_padding((8, 5, 7), 36)
    tokens[2, 0] = tokens[0, -1] = 36  # of the texts themselves
    mask = np.arange(8) < np.array([[8], [5], [7]])
    for chosen in (None, mask):
        expected, output = torch_models.run(theirs, tokens, chosen), ours(tokens, chosen)
        assert_close(output.logits, expected.logits)
        rows = np.moveaxis(np.asarray(output.attention), 3, 1)
        assert_close(rows, np.moveaxis(expected.attention, 3, 1), mask)
        assert_close(ours.probabilities(tokens, chosen), jax.nn.softmax(expected.logits))
    assert_close(ours(tokens).attention, ours(tokens, np.ones((3, 8), bool)).attention)
    save_pretrained(tmp_path / "again", ours)
    assert load(tmp_path / "again").config == ours.config
