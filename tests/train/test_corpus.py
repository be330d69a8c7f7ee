"""Test corpora through TFDS: rows in order, no broken or stale cache, fetched once."""

import csv
import gzip
import http.server
import io
import itertools
import socket
import subprocess
import sys
import threading
import zipfile
from collections import Counter
from contextlib import contextmanager

import numpy as np
import pytest
from session import refused

from jaxflow.train import prepared
from jaxflow.train.builder import AgreementCorpus
from jaxflow.train.corpus import FULL_FILE, default_cache, load_corpus
from jaxflow.train.formats import Example, read_simple, read_subjects
from jaxflow.train.grammar import synthetic_splits
from jaxflow.train.prepared import SEAL, SealedBlocks, sealed_blocks
from jaxflow.train.sst2 import load_sst2

FULL_COLUMNS = ("sentence", "verb_pos", "subj_index", "verb_index", "n_diff_intervening")


def rows_of(split):
    """Rows of a Split as the tuples a reader gives."""
    numbers = (split.labels, split.n_attractors, split.subject_index)
    assert all(column.dtype == np.int32 and column.shape == (len(split),) for column in numbers)
    columns = (split.prefixes, *(column.tolist() for column in numbers))
    return [Example(*row) for row in zip(*columns, strict=True)]


def sizes(splits):
    return {name: len(split) for name, split in splits.items()}


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
        lines = [(f"the keys number {i} are here", "VBP", 2, 5, i % 7) for i in range(rows)]
        csv.writer(file, delimiter="\t").writerows([FULL_COLUMNS, *lines])
    return path


def reviews(number, count):
    rng = np.random.default_rng(number)
    words = ["a", "film", "of", "great", "'s", "heart", ",", "é", "dull"]
    return [
        (" ".join(rng.choice(words, rng.integers(1, 9))), int(rng.integers(2)))
        for _ in range(count)
    ]


def write_sst2(folder, counts=(2_100, 7, 5)):
    folder.mkdir()
    for number, (name, count) in enumerate(zip(("train", "dev", "test"), counts, strict=True)):
        lines = [f"{text}\t{label}\n" for text, label in reviews(number, count)]
        (folder / f"{name}.tsv").write_text("".join(lines), encoding="utf-8")
    return folder


def sst2_rows(split):
    assert split.labels.dtype == np.int32
    return list(zip(split.texts, split.labels.tolist(), strict=True))


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


@contextmanager
def serving(name, contents):
    """Serve a file whose content is that of ``contents[-1]``; give its address and the requests."""
    asked = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.send_response(200)
            self.send_header("Content-Length", str(len(contents[-1])))
            self.end_headers()

        def do_GET(self):
            asked.append(self.path)
            self.do_HEAD()
            self.wfile.write(contents[-1])

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/{name}", asked
        server.shutdown()


def test_synthetic_round_trip_is_silent_and_needs_no_network(tmp_path, offline, capfd):
    # 1,025 rows: one full block and one of a single row.
    direct = synthetic_splits(3, 1_025)
    for _ in range(2):  # prepared, then read again
        corpus = load_corpus("synthetic", seed=3, size=1_025, cache=tmp_path)
        assert {name: rows_of(split) for name, split in corpus.items()} == direct
    assert offline == []
    assert capfd.readouterr() == ("", "")


def test_simple_round_trip_in_file_order_and_changed_files_are_read_anew(tmp_path, offline):
    folder, cache = write_simple(tmp_path / "data"), tmp_path / "cache"
    files = {"train", "train_attractors", "val", "test", "test_1", "test_5"}
    for _ in range(2):
        corpus = load_corpus("simple", folder, cache=cache)
        assert corpus.keys() == files | {"subjects"}
        assert rows_of(corpus["subjects"]) == list(read_subjects(folder / "subjects.tsv"))
        for name in files:
            file = folder / f"numpred.{name.replace('_', '.')}"
            assert rows_of(corpus[name]) == list(read_simple(file))
    (folder / "numpred.val").write_text("VBZ\tanother key\n")
    (folder / "numpred.test.5").unlink()
    corpus = load_corpus("simple", folder, cache=cache)
    assert corpus["val"].prefixes == ("another key",)
    assert "test_5" not in corpus
    assert offline == []


@pytest.mark.parametrize("name", [FULL_FILE, FULL_FILE.removesuffix(".gz")])
def test_full_is_divided_by_seed_in_file_order(tmp_path, name):
    path = write_full(tmp_path / name)
    corpora = [load_corpus("full", path, seed=seed, cache=tmp_path) for seed in (0, 1)]
    by_folder = load_corpus("full", tmp_path, seed=0, cache=tmp_path)
    for corpus in corpora:
        parts = [corpus[part] for part in ("train", "val", "test")]
        assert [len(part) for part in parts] == [90, 10, 900]
        numbers = [[int(prefix.split(" ")[3]) for prefix in part.prefixes] for part in parts]
        assert all(part == sorted(part) for part in numbers)
        assert sorted(itertools.chain(*numbers)) == list(range(1_000))
        for k in range(1, 6):
            chosen = [row for row in rows_of(corpus["test"]) if row.n_attractors == k]
            assert rows_of(corpus[f"test_{k}"]) == chosen != []
        assert set(corpus["train"].subject_index.tolist()) == {1}
    assert rows_of(by_folder["val"]) == rows_of(corpora[0]["val"]) != rows_of(corpora[1]["val"])


def test_full_is_fetched_once(tmp_path, monkeypatch):
    whole = write_full(tmp_path / FULL_FILE).read_bytes()
    contents = [whole[:-50]]
    with serving(FULL_FILE, contents) as (url, asked):
        monkeypatch.setattr("jaxflow.train.builder.FULL_URL", url)
        with refused("truncated or damaged"):
            load_corpus("full", cache=tmp_path / "cache")
        contents.append(whole)
        for seed in (0, 1):
            assert len(load_corpus("full", seed=seed, cache=tmp_path / "cache")["test"]) == 900
    assert asked == [f"/{FULL_FILE}"] * 2


def test_offline_it_says_what_to_do_and_takes_the_file_put_there(tmp_path, offline):
    address = "http://tallinzen.net/media/rnn_agreement/agr_50_mostcommon_10K.tsv.gz"
    with refused(f"{address} .* put {FULL_FILE} into {tmp_path}"):
        load_corpus("full", cache=tmp_path)
    with refused(r"glue/sst2 could not be fetched .* --data"):
        load_sst2(cache=tmp_path)
    write_full(tmp_path / FULL_FILE)
    assert len(load_corpus("full", cache=tmp_path)["train"]) == 90


def test_sst2_comes_back_in_order(tmp_path):
    folder, cache = write_sst2(tmp_path / "data"), tmp_path / "cache"
    for _ in range(2):
        corpus = load_sst2(folder, cache=cache)
        assert sizes(corpus) == {"train": 2_100, "dev": 7, "test": 5}
        for number, split in enumerate(corpus.values()):
            assert sst2_rows(split) == reviews(number, len(split))
            assert split.labelled
    chosen = sst2_rows(corpus["dev"].at(np.array([4, 1])))
    assert chosen == [reviews(1, 7)[4], reviews(1, 7)[1]]
    (folder / "test.tsv").unlink()
    assert list(load_sst2(folder, cache=cache)) == ["train", "dev"]
    (folder / "test.tsv").write_text("one\t-1\ntwo\t-1\n")
    hidden = load_sst2(folder, cache=cache)["test"]
    assert (sst2_rows(hidden), hidden.labelled) == ([("one", -1), ("two", -1)], False)


def glue_archive():
    """What GLUE's server sends: three tables with headers, the test's without labels."""
    tables = {
        "train": [("sentence", "label"), *((f"{text} ", label) for text, label in reviews(3, 40))],
        "dev": [("sentence", "label"), *reviews(4, 6)],
        "test": [("index", "sentence"), *((i, text) for i, (text, _) in enumerate(reviews(5, 9)))],
    }
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, table in tables.items():
            text = io.StringIO()
            csv.writer(text, delimiter="\t", lineterminator="\n").writerows(table)
            archive.writestr(f"SST-2/{name}.tsv", text.getvalue())
    return packed.getvalue()


def test_glue_is_fetched_once_and_keeps_its_test_unlabelled(tmp_path, monkeypatch, capsys):
    from tensorflow_datasets.text.glue import Glue

    cache, contents = tmp_path / "cache", [glue_archive()[:100]]
    (config,) = (c for c in Glue.BUILDER_CONFIGS if c.name == "sst2")
    with serving("SST-2.zip", contents) as (url, asked):
        monkeypatch.setattr(config, "data_url", url)
        with refused(r"could not be fetched .* not a zip file"):
            load_sst2(cache=cache)
        contents.append(glue_archive())
        for _ in range(2):
            corpus = load_sst2(cache=cache)
    assert asked == ["/SST-2.zip"] * 2
    assert [path.name for path in (cache / "downloads/tfds").iterdir()] == ["glue"]
    assert sst2_rows(corpus["train"]) == reviews(3, 40)
    assert sst2_rows(corpus["dev"]) == reviews(4, 6)
    assert sst2_rows(corpus["test"]) == [(text, -1) for text, _ in reviews(5, 9)]
    assert capsys.readouterr().out == ""


def test_no_tensorflow_and_nothing_heavy_before_it_is_needed(tmp_path):
    program = f"""
import sys
from jaxflow.train.sst2 import load_sst2
assert "tensorflow_datasets" not in sys.modules
load_sst2({str(write_sst2(tmp_path / "data"))!r}, cache={str(tmp_path / "cache")!r})
sys.exit("tensorflow" in sys.modules)
"""
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_failed_preparation_leaves_nothing_to_pick_up(tmp_path):
    folder, cache = write_simple(tmp_path / "data", rows=5), tmp_path / "cache"
    good = (folder / "numpred.test").read_text()
    (folder / "numpred.test").write_text(good + "no tab\n")
    with refused(r"numpred.test, line 6: .* there is no tab in 'no tab'"):
        load_corpus("simple", folder, cache=cache)
    reviewed = write_sst2(tmp_path / "reviews")
    (reviewed / "dev.tsv").write_text("bad\t-1\n")
    with refused("dev.tsv, line 1: expected the label 0"):
        load_sst2(reviewed, cache=cache)
    assert list(cache.rglob("*.array_record*")) == []
    (folder / "numpred.test").write_text(good)
    assert len(load_corpus("simple", folder, cache=cache)["test"]) == 5


@pytest.mark.parametrize(
    "moment",
    ["_generate_examples", pytest.param("_log_download_done", marks=pytest.mark.nightly)],
)
def test_killed_preparation_leaves_nothing_broken(tmp_path, moment):
    folder, cache = write_simple(tmp_path / "data"), tmp_path / "cache"
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
corpus.load_corpus("simple", {str(folder)!r}, cache={str(cache)!r})
"""
    ended = subprocess.run([sys.executable, "-c", program], check=False, capture_output=True)
    assert ended.returncode == -9, ended.stderr.decode()
    assert list(cache.rglob("*.array_record*"))
    corpus = load_corpus("simple", folder, cache=cache)
    assert Counter(sizes(corpus).values()) == {2_100: 6, 1: 1}
    assert rows_of(corpus["test"]) == list(read_simple(folder / "numpred.test"))
    assert list(cache.rglob("*incomplete*")) == []


def test_corpus_prepared_by_another_process_meanwhile(tmp_path, monkeypatch):
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
    for pattern in ("*-train.array_record*", "dataset_info.json"):
        (path,) = tmp_path.rglob(pattern)
        content = path.read_bytes()
        path.write_bytes(content[: len(content) // 2])
        with refused(r"is damaged .* delete that folder"):
            load_corpus("synthetic", size=5, cache=tmp_path)
        path.write_bytes(content)
    assert len(load_corpus("synthetic", size=5, cache=tmp_path)["train"]) == 5


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
        (("synthetic",), {"cache": "file"}, r"cache folder .*file.* cannot be .* give another"),
        (("full", "absent"), {}, "absent does not exist"),
        (("full", "empty"), {}, "in the folder .*empty, found none"),
        (("full", "few.tsv"), {}, "few.tsv: expected at least 100 rows"),
        (("sst2", "absent"), {}, "absent does not exist"),
        (("sst2", "file"), {}, "file is a file"),
        (("sst2", "empty"), {}, "expected the file train.tsv in the folder"),
    ],
)
def test_unusable_arguments(tmp_path, arguments, options, message):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    write_full(tmp_path / "few.tsv", rows=99)
    name, *paths = arguments[:1] + tuple(tmp_path / path for path in arguments[1:])
    options["cache"] = tmp_path / options.get("cache", "cache")
    with refused(message):
        load_sst2(*paths, **options) if name == "sst2" else load_corpus(name, *paths, **options)


def test_default_cache_follows_xdg(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_cache() == tmp_path / "jaxflow"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_cache() == tmp_path / ".cache" / "jaxflow"


SPLITS = {
    "train": [(f"the key {row}", row % 2, -1) for row in range(10)],
    "test": [(f"the cabinet {row}", row % 2, row) for row in range(4)],
}


@pytest.fixture
def stored(monkeypatch):
    """Blocks of four rows as TFDS gives them back: texts as bytes."""
    monkeypatch.setattr(prepared, "BLOCK", 4)
    made = sealed_blocks("corpus", SPLITS, ("text", "label", "place"))

    def read(block):
        return {k: v.encode() if isinstance(v, str) else v for k, v in block.items()}

    return {name: [read(block) for _, block in found] for name, found in made.items()}


def opened(source, name="train", corpus="corpus", splits=SPLITS):
    return SealedBlocks(source, corpus, splits, name)


def test_blocks_come_back_as_they_were(stored):
    for name, rows in SPLITS.items():
        found = list(opened(stored[name], name))
        assert [len(block["label"]) for block in found] == {"train": [4, 4, 2], "test": [4]}[name]
        lines, (labels, places) = prepared.columns(found, "text", ("label", "place"), "folder")
        assert list(zip(lines, labels.tolist(), places.tolist(), strict=True)) == rows
    with pytest.raises(ValueError, match="the split train has no blocks"):
        opened([])
    with pytest.raises(IndexError):
        opened(stored["train"])[3]


ORDERS = [o for n in (2, 3) for o in itertools.product(range(3), repeat=n) if o != (0, 1, 2)]


@pytest.mark.parametrize(
    ("order", "options"),
    [
        *((order, {}) for order in ORDERS),
        ((0, 1, 2), {"name": "test"}),
        ((0, 1, 2), {"corpus": "another"}),
        ((0, 1, 2), {"splits": {"train": []}}),
        ((0, 1, 2), {"splits": {**SPLITS, "val": []}}),
    ],
)
def test_blocks_lost_doubled_moved_or_of_another_place(stored, order, options):
    with pytest.raises(ValueError, match="the checksum of block"):
        list(opened([stored["train"][place] for place in order], **options))


@pytest.mark.parametrize(
    "change",
    [
        lambda block: {"text": block["text"].replace(b"key", b"kez")},
        lambda block: {"text": block["text"] + b"\n"},
        lambda block: {"label": 1 - block["label"]},
        lambda block: {"label": block["label"].astype(np.int64)},
        lambda block: {"label": block["place"], "place": block["label"]},
        lambda block: {"label": block["label"][:-1]},
        lambda block: {"more": block["label"]},
        lambda block: {SEAL: block[SEAL][::-1]},
    ],
)
def test_a_block_that_holds_something_else(stored, change):
    first, second, third = stored["train"]
    found = opened([first, second | change(second), third])
    assert found[0]["label"].tolist() == [0, 1, 0, 1]
    with pytest.raises(ValueError, match="the checksum of block 1"):
        found[1]
