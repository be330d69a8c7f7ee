"""The subject's part in [CLS]: its numbers by hand, its table, and its command."""

import dataclasses
import functools
import json
import re

import jax.numpy as jnp
import networkx as nx
import numpy as np
import pytest
from oracles import edge_weights, raw_attention, rollout
from small_corpus import POSITIONS, small_config, write_small_corpus

from jaxflow import models
from jaxflow.commands import main
from jaxflow.errors import InputError
from jaxflow.eval.subject_mass import METHODS, SubjectMass, compare_runs, subject_mass
from jaxflow.eval.subject_table import mass_record, mass_table
from jaxflow.models import AgreementEncoder, EncoderConfig, Model, WordTokenizer
from jaxflow.train.batches import encode_split
from jaxflow.train.corpus import Split
from jaxflow.train.data import load_splits
from jaxflow.train.loop import train
from jaxflow.train.run import read_config

WORDS = ("[PAD]", "[CLS]", "[UNK]", *["the", "key", "keys", "in", "town", ",", "to", "cabinet"])
PREFIXES = ("the key", "in the town , the keys", "the cabinet", "the keys to the town in the key")


@pytest.fixture(scope="module")
def model():
    config = EncoderConfig(vocabulary=len(WORDS), positions=8, layers=3, heads=2, width=8)
    import jax

    params = jax.jit(AgreementEncoder(config).init)(jax.random.key(0), jnp.zeros((1, 2), int))
    # Attention that differs between tokens, unlike that of a fresh model.
    params = jax.tree.map(lambda leaf: 6 * leaf, params)
    return Model(config, params, WordTokenizer(WORDS))


@pytest.fixture(scope="module")
def split(model):
    """One sentence of unknown subject, one that is too long."""
    found = Split(PREFIXES, np.array([0, 1, 0, 1]), np.zeros(4, int), np.array([1, 5, -1, 1]))
    return encode_split(found, model.tokenizer, 8)


def flow_by_networkx(edges):
    """``[L, n]`` from the first token."""
    layers, n, _ = edges.shape
    graph = nx.DiGraph()
    for layer, query, key in np.ndindex(edges.shape):
        graph.add_edge((layer + 1, query), (layer, key), capacity=float(edges[layer, query, key]))
    return np.array(
        [
            [nx.maximum_flow_value(graph, (layer + 1, 0), (0, token)) for token in range(n)]
            for layer in range(layers)
        ]
    )


def test_the_shares_are_those_of_the_rows_by_hand(model, split):
    seen = []
    found = subject_mass(model, split, (4, 8), report=lambda *count: seen.append(count))
    assert seen[-1] == (3, 3)
    np.testing.assert_allclose(found.even, [1 / 3, 1 / 7])
    for place, (prefix, subject) in enumerate([(PREFIXES[0], 2), (PREFIXES[1], 6)]):
        tokens = np.array([model.tokenizer.encode(prefix)])
        attention = np.asarray(model(tokens).attention[0], np.float64)
        assert np.ptp(attention[:, :, 0]) > 0.02
        rows = {
            "flow": flow_by_networkx(edge_weights(attention)),
            "rollout": rollout(attention)[:, 0],
            "raw": raw_attention(attention)[:, 0],
        }
        assert set(found.shares) == set(rows) == set(METHODS)
        for name, row in rows.items():
            expected = row[:, subject] / row.sum(-1)
            np.testing.assert_allclose(found.shares[name][place], expected, atol=1e-6)


def test_accuracy_counts_every_sentence(model, split):
    predicted = np.asarray(model.probabilities(split.tokens)).argmax(-1)
    right = (predicted == split.labels).sum()
    assert subject_mass(model, split, (8,)).accuracy == right / 4


def test_a_split_that_knows_no_subject(model, split):
    unknown = dataclasses.replace(split, subject_index=np.full(3, -1, np.int32))
    with pytest.raises(InputError, match="must say which word is the subject"):
        subject_mass(model, unknown, (8,))


def mass_of(flow, accuracy):
    shares = {"flow": np.array(flow), "rollout": np.array(flow) / 2, "raw": np.array(flow) / 4}
    return SubjectMass(shares, np.array([0.25, 0.5]), accuracy)


FOUND = {
    "a": mass_of([[0.1, 0.2], [0.3, 0.2]], 0.5),
    "b": mass_of([[0.2, 0.2], [0.4, 0.6]], 1.0),
}


def test_the_table():
    lines = mass_table(FOUND).splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[:11]]
    assert cells[0] == ["run", "accuracy", "share of", "L1", "L2"]
    assert cells[2] == ["a", ".500", "flow", ".200", ".200"]
    assert cells[3] == ["", "", "rollout", ".100", ".100"]
    assert cells[5] == ["b", "1.000", "flow", ".300", ".400"]
    assert cells[8][:3] == ["b − a", "+.500", "flow"]
    # One difference is the same on both sentences, the other is 0 and .4.
    assert cells[8][3:] == ["+.100 [+.100, +.100]", "+.200 [+.000, +.400]"]
    assert "Mean over 2 sentences; an even row would give the subject .375." in lines[-1]
    alone = mass_table({"a": FOUND["a"]})
    assert "−" not in alone


def test_the_record():
    record = mass_record(FOUND)
    assert (record["b"]["accuracy"], record["b"]["sentences"]) == (1.0, 2)
    means = [cell.mean for cell in record["b"]["shares"]["flow"]]
    assert means == pytest.approx([0.3, 0.4])


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two runs of a few steps on a corpus whose split `subjects` knows them."""
    folder = tmp_path_factory.mktemp("runs")
    data = write_small_corpus(folder / "data")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        for name, rate in (("one", 1e-3), ("two", 2e-3)):
            train(small_config(data, epochs=1, learning_rate=rate), folder / name)
        yield folder


def test_runs_side_by_side(runs, capfd):
    folders = [runs / "one", runs / "two"]
    assert main(["subject-mass", *map(str, folders), "--split", "subjects", "--json",
                 str(runs / "mass.json")]) == 0  # fmt: skip
    shown, progress = capfd.readouterr()
    assert shown.count("| flow |") == 3
    assert f"wrote {runs / 'mass.json'}" in shown
    assert "measuring 40/40" in progress
    record = json.loads((runs / "mass.json").read_text())
    assert list(record) == [str(folder) for folder in folders]
    for folder in folders:
        config, loaded = read_config(folder), models.load(folder)
        alone = subject_mass(
            loaded, load_splits(config, loaded.tokenizer)["subjects"], config.lengths
        )
        entry = record[str(folder)]
        accuracy = json.loads((folder / "accuracy.json").read_text())["subjects"]
        assert entry["accuracy"] == alone.accuracy == accuracy["accuracy"]
        assert entry["sentences"] == 20
        (cell,) = entry["shares"]["flow"]
        assert cell["mean"] == pytest.approx(alone.shares["flow"].mean())
        row = re.search(rf"\| {re.escape(str(folder))} \|[^|]*\| flow \| (\S+) \|", shown)
        assert float(row[1]) == pytest.approx(cell["mean"], abs=5e-4)


def test_what_cannot_be_compared(runs, capfd, tmp_path):
    refused = functools.partial(pytest.raises, InputError)
    with refused(match="no sentence that does"):
        compare_runs([runs / "one"])
    with refused(match="split must be one of val, test, .*, got 'dev'"):
        compare_runs([runs / "one"], split="dev")
    with refused(match="no run at"):
        compare_runs([tmp_path])
    other = tmp_path / "other"
    other.mkdir()
    fields = json.loads((runs / "one" / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**fields, "positions": POSITIONS + 1}))
    with refused(match=f"positions is {POSITIONS} in .*one and {POSITIONS + 1} in"):
        compare_runs([runs / "one", other])
    assert main(["subject-mass"]) == 2
    assert main(["subject-mass", str(tmp_path / "nothing")]) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert err.count("jaxflow: error:") == err.count("\n") == 2
