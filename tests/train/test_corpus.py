"""Test corpora through TFDS: rows in order, and no broken or stale cache."""

import csv
import gzip
import http.server
import socket
import subprocess
import sys
import threading
from collections import Counter
from itertools import chain

import numpy as np
import pytest

from jaxflow.errors import InputError
from jaxflow.train.corpus import FULL_FILE, default_cache, load_corpus
from jaxflow.train.formats import Example, read_simple, read_subjects
from jaxflow.train.grammar import synthetic_splits

FULL_COLUMNS = ("sentence", "verb_pos", "subj_index", "verb_index", "n_diff_intervening")


def rows_of(split):
    """Rows of a Split as the tuples a reader gives."""
    numbers = (split.labels, split.n_attractors, split.subject_index)
    assert all(column.dtype == np.int32 and column.shape == (len(split),) for column in numbers)
    columns = (split.prefixes, *(column.tolist() for column in numbers))
    return [Example(*row) for row in zip(*columns, strict=True)]


def write_simple(folder, rows=2_100):
    folder.mkdir(exist_ok=True)
    for name in ("train", "val", "test", "test.1", "test.5", "train.attractors"):
        lines = [f"{('VBZ', 'VBP')[i % 3 == 0]}\tthe key {name} {i}\n" for i in range(rows)]
        (folder / f"numpred.{name}").write_text("".join(lines))
    (folder / "subjects.tsv").write_text(
        "label\tprefix\tsubject_index\tn_attractors\nVBP\tthe old keys\t2\t0\n"
    )
    return folder


def write_full(path, rows=1_000):
    with (gzip.open if path.suffix == ".gz" else open)(path, "wt", newline="") as file:
        writer = csv.writer(file, delimiter="\t")
        writer.writerow(FULL_COLUMNS)
        for i in range(rows):
            writer.writerow((f"the keys number {i} are here", "VBP", 2, 5, i % 7))
    return path


@pytest.fixture
def offline(monkeypatch):
    """Let every attempt to reach another machine fail, and list the attempts."""
    attempts = []

    def refuse(*address, **_):
        attempts.append(address)
        raise OSError(101, "Network is unreachable")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    return attempts


def test_synthetic_round_trip_is_silent_and_needs_no_network(tmp_path, offline, capfd):
    # 1,025 rows: one full block and one of a single row.
    first = load_corpus("synthetic", seed=3, size=1_025, cache=tmp_path)
    again = load_corpus("synthetic", seed=3, size=1_025, cache=tmp_path)
    direct = synthetic_splits(3, 1_025)
    assert list(first) == list(again) == list(direct)
    for name, rows in direct.items():
        assert rows_of(first[name]) == rows_of(again[name]) == rows
    assert offline == []
    assert capfd.readouterr() == ("", "")


def test_simple_round_trip_in_file_order(tmp_path, offline):
    folder = write_simple(tmp_path / "data")
    for _ in range(2):
        corpus = load_corpus("simple", folder, cache=tmp_path / "cache")
        assert sorted(corpus) == sorted(
            ["train", "train_attractors", "val", "test", "test_1", "test_5", "subjects"]
        )
        for name, split in corpus.items():
            if name == "subjects":
                assert rows_of(split) == list(read_subjects(folder / "subjects.tsv"))
            else:
                file = "numpred." + name.replace("_", ".")
                assert rows_of(split) == list(read_simple(folder / file))
    assert offline == []


def test_changed_folder_is_read_anew(tmp_path):
    folder = write_simple(tmp_path / "data", rows=5)
    load_corpus("simple", folder, cache=tmp_path / "cache")
    (folder / "numpred.val").write_text("VBZ\tanother key\n")
    (folder / "numpred.test.5").unlink()
    corpus = load_corpus("simple", folder, cache=tmp_path / "cache")
    assert corpus["val"].prefixes == ("another key",)
    assert "test_5" not in corpus


@pytest.mark.parametrize("name", [FULL_FILE, FULL_FILE.removesuffix(".gz")])
def test_full_is_divided_by_seed_in_file_order(tmp_path, name):
    path = write_full(tmp_path / name)
    corpora = {seed: load_corpus("full", path, seed=seed, cache=tmp_path) for seed in (0, 1)}
    by_folder = load_corpus("full", tmp_path, seed=0, cache=tmp_path)
    for corpus in corpora.values():
        parts = [corpus[part] for part in ("train", "val", "test")]
        assert [len(part) for part in parts] == [90, 10, 900]
        numbers = [[int(prefix.split(" ")[3]) for prefix in part.prefixes] for part in parts]
        assert all(list(part) == sorted(part) for part in numbers)
        assert sorted(chain(*numbers)) == list(range(1_000))
        for k in range(1, 6):
            chosen = corpus["test"].n_attractors == k
            assert rows_of(corpus[f"test_{k}"]) == [
                row for row in rows_of(corpus["test"]) if row.n_attractors == k
            ]
            assert chosen.sum() == len(corpus[f"test_{k}"]) > 0
        assert set(corpus["train"].subject_index.tolist()) == {1}
    assert rows_of(by_folder["val"]) == rows_of(corpora[0]["val"]) != rows_of(corpora[1]["val"])


def test_full_is_fetched_once(tmp_path, monkeypatch):
    served = Counter()
    write_full(tmp_path / FULL_FILE)

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments):
            super().__init__(*arguments, directory=str(tmp_path))

        def do_GET(self):
            served[self.path] += 1
            super().do_GET()

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/{FULL_FILE}"
        monkeypatch.setattr("jaxflow.train.builder.FULL_URL", url)
        whole = (tmp_path / FULL_FILE).read_bytes()
        (tmp_path / FULL_FILE).write_bytes(whole[:-50])
        with pytest.raises(InputError, match="truncated or damaged"):
            load_corpus("full", cache=tmp_path / "cache")
        (tmp_path / FULL_FILE).write_bytes(whole)
        corpus = load_corpus("full", cache=tmp_path / "cache")
        other = load_corpus("full", seed=1, cache=tmp_path / "cache")
        server.shutdown()
    assert len(corpus["test"]) == len(other["test"]) == 900
    assert served == {f"/{FULL_FILE}": 2}


def test_full_offline_says_what_to_do_and_takes_the_file_put_there(tmp_path, offline):
    with pytest.raises(InputError) as caught:
        load_corpus("full", cache=tmp_path)
    message = str(caught.value)
    assert "http://tallinzen.net/media/rnn_agreement/agr_50_mostcommon_10K.tsv.gz" in message
    assert f"put {FULL_FILE} into {tmp_path}" in message
    assert "\n" not in message
    write_full(tmp_path / FULL_FILE)
    assert len(load_corpus("full", cache=tmp_path)["train"]) == 90


def test_failed_preparation_leaves_nothing_to_pick_up(tmp_path):
    folder = write_simple(tmp_path / "data", rows=5)
    good = (folder / "numpred.test").read_text()
    (folder / "numpred.test").write_text(good + "no tab\n")
    with pytest.raises(InputError, match=r"numpred.test, line 6: .* there is no tab in 'no tab'"):
        load_corpus("simple", folder, cache=tmp_path / "cache")
    assert list((tmp_path / "cache").rglob("*.array_record*")) == []
    (folder / "numpred.test").write_text(good)
    assert len(load_corpus("simple", folder, cache=tmp_path / "cache")["test"]) == 5


@pytest.mark.parametrize(
    "moment",
    ["_generate_examples", pytest.param("_log_download_done", marks=pytest.mark.nightly)],
)
def test_killed_preparation_leaves_nothing_broken(tmp_path, moment):
    folder = write_simple(tmp_path / "data")
    # The process dies while it writes the fourth split, or just after the final renaming.
    program = f"""
import os, signal
from jaxflow.train import builder, corpus
calls = []
whole = builder.AgreementCorpus.{moment}
def dying(self, *rows):
    calls.append(1)
    last = len(calls) == 4 or not rows
    def examples():
        yield from whole(self, *rows)
        if last:
            os.kill(os.getpid(), signal.SIGKILL)
    if not rows:
        os.kill(os.getpid(), signal.SIGKILL)
    return examples()
builder.AgreementCorpus.{moment} = dying
corpus.load_corpus("simple", {str(folder)!r}, cache={str(tmp_path / "cache")!r})
"""
    ended = subprocess.run([sys.executable, "-c", program], check=False, capture_output=True)
    assert ended.returncode == -9, ended.stderr.decode()
    assert list((tmp_path / "cache").rglob("*.array_record*"))
    corpus = load_corpus("simple", folder, cache=tmp_path / "cache")
    assert {name: len(split) for name, split in corpus.items()} == {
        **dict.fromkeys(("train", "train_attractors", "val", "test", "test_1", "test_5"), 2_100),
        "subjects": 1,
    }
    assert rows_of(corpus["test"]) == list(read_simple(folder / "numpred.test"))
    assert list((tmp_path / "cache").rglob("*incomplete*")) == []


def test_corpus_prepared_by_another_process_meanwhile(tmp_path, monkeypatch):
    from jaxflow.train.builder import AgreementCorpus

    split_generators = AgreementCorpus._split_generators

    def overtaken(self, dl_manager):
        with monkeypatch.context() as patch:
            patch.setattr(AgreementCorpus, "_split_generators", split_generators)
            load_corpus("synthetic", size=5, cache=tmp_path)
        return split_generators(self, dl_manager)

    monkeypatch.setattr(AgreementCorpus, "_split_generators", overtaken)
    assert len(load_corpus("synthetic", size=5, cache=tmp_path)["train"]) == 5


def test_damaged_cache_is_reported(tmp_path):
    load_corpus("synthetic", size=5, cache=tmp_path)
    (record,) = tmp_path.rglob("*-train.array_record*")
    (info,) = tmp_path.rglob("dataset_info.json")
    for path in (record, info):
        content = path.read_bytes()
        path.write_bytes(content[: len(content) // 2])
        with pytest.raises(InputError, match=r"is damaged .* delete that folder"):
            load_corpus("synthetic", size=5, cache=tmp_path)
        path.write_bytes(content)
    assert len(load_corpus("synthetic", size=5, cache=tmp_path)["train"]) == 5


def test_cache_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(
        InputError, match=r"cache folder .*file.* cannot be written .* give another"
    ):
        load_corpus("synthetic", size=5, cache=tmp_path / "file")


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (("natural",), {}, "expected the corpus synthetic, simple or full, but got 'natural'"),
        (("simple",), {}, "needs the path of its folder"),
        (("simple", "absent"), {}, "absent does not exist"),
        (("simple", "empty"), {}, "expected the file numpred.train in the folder .*empty"),
        (("simple", "file"), {}, "file is a file"),
        (("simple", "empty"), {"size": 5}, "a size can be chosen for the synthetic corpus"),
        (("synthetic", "empty"), {}, "read from no path"),
        (("synthetic",), {"seed": -1}, "but got -1 and None"),
        (("synthetic",), {"size": 0}, "but got 0 and 0"),
        (("full", "absent"), {}, "absent does not exist"),
        (("full", "empty"), {}, "in the folder .*empty, found none"),
        (("full", "few.tsv"), {}, "few.tsv: expected at least 100 rows"),
    ],
)
def test_unusable_arguments(tmp_path, arguments, options, message):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    write_full(tmp_path / "few.tsv", rows=99)
    paths = [tmp_path / path for path in arguments[1:]]
    with pytest.raises(InputError, match=message):
        load_corpus(arguments[0], *paths, cache=tmp_path / "cache", **options)


def test_default_cache_follows_xdg(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_cache() == tmp_path / "jaxflow"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_cache() == tmp_path / ".cache" / "jaxflow"
