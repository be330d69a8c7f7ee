"""Damaged and impossible configurations: one sentence, whatever is in them, and no memory."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
import torch_models
from checkpoints import refused
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxflow.errors import InputError
from jaxflow.models import Model, load

NAMES = (
    "BertForSequenceClassification",
    "DistilBertForMaskedLM",
    "RobertaModel",
    "GPT2LMHeadModel",
    "ViTForImageClassification",
)
HUGE = (1 << 20, 1 << 24, (1 << 24) + 1, 1 << 40, 10**30)
#: The most that may be allocated for a configuration that cannot be of the file beside it.
MEMORY = 120 * 2**20


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("configs")
    found = {}
    for name in NAMES:
        found[name] = torch_models.write(torch_models.random_model(name, {}), root / name)
    images = {"image_mean": [0.1, 0.2, 0.3], "image_std": [1, 2, 3.5], "do_resize": True}
    (found["ViTForImageClassification"] / "preprocessor_config.json").write_text(json.dumps(images))
    return found


def known(folder: Path) -> dict[str, Any]:
    """The configuration as it was written, however often tests have changed it."""
    kept = folder / "kept.json"
    if not kept.exists():
        kept.write_bytes((folder / "config.json").read_bytes())
    fields: dict[str, Any] = json.loads(kept.read_text())
    return fields


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([*HUGE, -1, 0, 1, 2, 3])
    | st.floats()
    | st.text(max_size=4)
    | st.sampled_from(["gelu", "relu", "absolute", "masked-lm", "BertModel", "bert", "0", "1e9"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["0", "1", "01", "x", ""]), inner, max_size=3)
    ),
    max_leaves=4,
)


@settings(max_examples=400)
@given(data=st.data())
def test_a_changed_configuration_is_refused_or_read(
    data: st.DataObject, folders: dict[str, Path]
) -> None:
    folder = folders[data.draw(st.sampled_from(NAMES), label="model")]
    fields = known(folder)
    names = st.sampled_from([*fields, "pruned_heads", "num_labels", "id2label", "embedding_size"])
    for name in data.draw(st.lists(names, min_size=1, max_size=3), label="changed"):
        if data.draw(st.integers(0, 4), label="drop") == 0:
            fields.pop(name, None)
        else:
            fields[name] = data.draw(VALUES, label=name)
    (folder / "config.json").write_text(json.dumps(fields), encoding="utf-8")
    try:
        model = load(folder)
    except InputError:
        pass
    else:
        assert isinstance(model, Model)
        assert model.config.layers == 2  # the file has as many


@settings(max_examples=100)
@given(data=st.data())
def test_changed_settings_of_images_are_refused_or_read(
    data: st.DataObject, folders: dict[str, Path]
) -> None:
    folder = folders["ViTForImageClassification"]
    (folder / "config.json").write_text(json.dumps(known(folder)), encoding="utf-8")
    settings = folder / "preprocessor_config.json"
    before = settings.read_text()
    name = data.draw(st.sampled_from(["image_mean", "image_std"]))
    settings.write_text(json.dumps(json.loads(before) | {name: data.draw(VALUES)}))
    try:
        model = load(folder)
    except InputError:
        pass
    else:
        assert len(model.config.mean) == len(model.config.std) == 3
    finally:
        settings.write_text(before)


@pytest.mark.parametrize("name", NAMES)
def test_huge_sizes_are_refused_before_anything_is_made_for_them(
    name: str, folders: dict[str, Path]
) -> None:
    folder = folders[name]
    fields = known(folder)
    sizes = [
        key
        for key, value in fields.items()
        if isinstance(value, int) and not isinstance(value, bool)
    ]
    sizes = [key for key in sizes if not key.endswith("token_id") and key != "encoder_stride"]
    assert len(sizes) >= 5
    if "For" in name and "LM" not in name:
        sizes.append("num_labels")
        fields.pop("id2label", None)
    for key in sizes:
        if key == "pooler_output_size":
            continue  # of a head that is not read
        for size in HUGE:
            (folder / "config.json").write_text(json.dumps(fields | {key: size}))
            tracemalloc.start()
            try:
                refused(folder)
                _, peak = tracemalloc.get_traced_memory()
            finally:
                tracemalloc.stop()
            assert peak < MEMORY, (key, size)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"null",
        b"[]",
        b'["model_type"]',
        b'"model_type"',
        b'{"model_type": "bert"',
        b'{"model_type": "bert"}, {}',
        b'{"model_type": NaN}',
        b'{"model_type": "bert", "hidden_size": ' + b"9" * 5000 + b"}",
        b'{"model_type": ' + b"[" * 100_000,
        b'{"model_type": "bert"\xff}',
        '{"model_type": "bert"}'.encode("utf-16"),
    ],
    ids=lambda content: repr(content[:30]),
)
def test_what_is_no_configuration_is_refused(content: bytes, folders: dict[str, Path]) -> None:
    folder = folders["BertForSequenceClassification"]
    known(folder)
    (folder / "config.json").write_bytes(content)
    refused(folder)


def test_a_configuration_of_nothing_but_its_kind_has_the_usual_sizes(tmp_path: Path) -> None:
    """Published files leave out what is usual; transformers says what that is."""
    from jaxflow.models.published import read_published, write_published

    transformers = torch_models.library()
    for kind, config in {
        "bert": transformers.BertConfig(),
        "distilbert": transformers.DistilBertConfig(),
        "roberta": transformers.RobertaConfig(),
        "gpt2": transformers.GPT2Config(),
        "vit": transformers.ViTConfig(),
    }.items():
        full = config.to_dict() | {"architectures": None}
        assert read_published({"model_type": kind}, head="none") == read_published(full)
        # What is written says the same again.
        again = write_published(read_published(full))
        assert read_published(again) == read_published(full)
