"""The same readers and the same contract, with Hypothesis in search of a counterexample."""

from __future__ import annotations

import json
from typing import Any

import pytest
from fuzzing import model_files, strategies
from fuzzing.campaign import all_readers, scratch
from fuzzing.cases import Reader
from fuzzing.check import FAULTS, judge
from fuzzing.coverage_guided import corpus, unpack
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxflow.train.config import TrainConfig

pytestmark = pytest.mark.nightly

READERS = {reader.name: reader for reader in all_readers()}
#: Readers that take a second a case.
SLOW = (
    "command line", "run's model", "exported model", "published model", "checkpoints",
    "prepared corpus", "prepared sst2",
)  # fmt: skip


def hold(reader: Reader, case: Any) -> None:
    with scratch() as folder:
        verdict = judge(reader, case, folder)
    assert verdict.kind not in FAULTS, verdict.detail


SUBJECTS = "label\tprefix\tsubject_index\tn_attractors\n"
FULL = "sentence\tverb_pos\tsubj_index\tverb_index\tn_diff_intervening\n"
SCHEMAS = "pair\tsentence\treferent_1\tfiller_1\treferent_2\tfiller_2\tintended\n"
GRAMMARS: dict[str, tuple[str, st.SearchStrategy[bytes]]] = {
    "corpus, simple": ("numpred.test.3", strategies.tables("", 2)),
    "corpus, subjects": ("subjects.tsv", strategies.tables(SUBJECTS, 4)),
    "corpus, full": ("table.tsv", strategies.tables(FULL, 5)),
    "sst2": ("rows.tsv", strategies.tables("", 2)),
    "sst2, labels hidden": ("rows.tsv", strategies.tables("", 2)),
    "pronoun schemas": ("schemas.tsv", strategies.tables(SCHEMAS, 7)),
    "sentences": ("sentences.txt", strategies.tables("", 1) | st.binary()),
    "sentence, pieces": ("text", st.text().map(str.encode) | st.binary()),
    "sentence, words": ("text", st.text().map(str.encode) | st.binary()),
    "attention npz": ("a.npz", strategies.npz_files()),
    "safetensors": ("model.safetensors", strategies.safetensors_files()),
    "run's configuration": ("config.json", strategies.json_objects(TrainConfig().to_dict())),
    "run's journal": (
        "metrics.jsonl",
        st.lists(strategies.json_objects({"step": 1, "seconds": 0.5, "loss": 1.0}), max_size=3).map(
            lambda lines: b"".join(line + b"\n" for line in lines)
        ),
    ),
}


@pytest.mark.parametrize("name", GRAMMARS)
def test_files_of_the_grammar(name: str) -> None:
    file, contents = GRAMMARS[name]

    @given(contents)
    @settings(max_examples=60)
    def test(content: bytes) -> None:
        hold(READERS[name], {file: content})

    test()


@given(strategies.json_objects(model_files.words().config.to_dict()))
def test_sizes_of_an_encoder(content: bytes) -> None:
    hold(READERS["encoder's configuration"], {"config.json": content})


@given(st.data())
def test_sizes_of_published_models(data: st.DataObject) -> None:
    case = data.draw(st.sampled_from(model_files.published()))
    good = json.loads(case["config.json"] or b"")
    content = data.draw(strategies.json_objects(good))
    hold(READERS["config.json"], {"config.json": content})


@pytest.mark.parametrize("name", [name for name in READERS if name not in SLOW])
def test_mutations(name: str) -> None:
    @given(strategies.cases(READERS[name]))
    @settings(max_examples=15)
    def test(case: Any) -> None:
        hold(READERS[name], case)

    test()


@pytest.mark.parametrize("name", ["sst2", "tokenizer.json", "published model"])
def test_what_coverage_guided_fuzzing_starts_from_is_good(name: str) -> None:
    seeds = READERS[name].seeds()
    starts = [unpack(READERS[name], seeds, data) for data in corpus(seeds)]
    assert all(start in seeds for start in starts)
    assert all(seed in starts for seed in seeds)
    assert unpack(READERS[name], seeds, b"").keys() == seeds[0].keys()
