"""Test reading SST-2 from folders and from GLUE's files: rows in order, or an error."""

import csv
import http.server
import io
import socket
import subprocess
import sys
import threading
import zipfile

import numpy as np
import pytest

from jaxflow.errors import InputError
from jaxflow.train.sst2 import LABEL_NAMES, load_sst2


def rows_for(number, count):
    rng = np.random.default_rng(number)
    words = ["a", "film", "of", "great", "'s", "heart", ",", "é", "dull"]
    return [
        (" ".join(rng.choice(words, rng.integers(1, 9))), int(rng.integers(2)))
        for _ in range(count)
    ]


def write(path, rows):
    path.write_text("".join(f"{text}\t{label}\n" for text, label in rows), encoding="utf-8")


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    for number, (name, count) in enumerate({"train": 2_100, "dev": 7, "test": 5}.items()):
        write(folder / f"{name}.tsv", rows_for(number, count))
    return folder


def rows_of(split):
    return list(zip(split.texts, split.labels.tolist(), strict=True))


def test_a_folder_comes_back_in_order(folder, tmp_path):
    for _ in range(2):  # prepared, then read again
        corpus = load_sst2(folder, cache=tmp_path / "cache")
        assert list(corpus) == ["train", "dev", "test"]
        for number, (name, count) in enumerate({"train": 2_100, "dev": 7, "test": 5}.items()):
            assert rows_of(corpus[name]) == rows_for(number, count)
            assert corpus[name].labels.dtype == np.int32
            assert corpus[name].labelled
    assert LABEL_NAMES == ("negative", "positive")
    some = corpus["dev"].at(np.array([4, 1]))
    assert rows_of(some) == [rows_for(1, 7)[4], rows_for(1, 7)[1]]


def test_the_test_file_may_be_missing_and_its_labels_hidden(folder, tmp_path):
    (folder / "test.tsv").unlink()
    assert list(load_sst2(folder, cache=tmp_path / "cache")) == ["train", "dev"]
    write(folder / "test.tsv", [("one", -1), ("two", -1)])
    corpus = load_sst2(folder, cache=tmp_path / "cache")
    assert rows_of(corpus["test"]) == [("one", -1), ("two", -1)]
    assert not corpus["test"].labelled


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"good\t1\nno tab\n", r"dev.tsv, line 2: .* there is no tab in 'no tab'"),
        (b"good\t1\ntwo\ttabs\t1\n", r"line 2: expected one tab"),
        (b"good\t1\n \t1\n", r"line 2: the sentence is empty"),
        (b"good\t1\nbad\t2\n", r"line 2: expected the label 0 .* found '2'"),
        (b"good\t1\nbad\t-1\n", r"line 2: expected the label 0 .* found '-1'"),
        (b"bad\t-1\n", r"line 1: expected the label 0 .* found '-1'"),
        (b"good\t 1\n", r"line 1: expected the label 0"),
        (b"sentence\tlabel\n", r"line 1: expected the label 0"),
        (b"good\t1\nb\xe9d\t1\n", r"line 2: expected UTF-8 text"),
        (b"", r"expected at least one row"),
    ],
)
def test_unusable_rows_name_file_and_line(folder, tmp_path, content, message):
    (folder / "dev.tsv").write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        load_sst2(folder, cache=tmp_path / "cache")
    assert "\n" not in str(caught.value)
    assert list((tmp_path / "cache").rglob("*.array_record*")) == []


def test_unusable_folders(folder, tmp_path):
    with pytest.raises(InputError, match="absent does not exist"):
        load_sst2(tmp_path / "absent", cache=tmp_path / "cache")
    with pytest.raises(InputError, match="is a file"):
        load_sst2(folder / "dev.tsv", cache=tmp_path / "cache")
    (folder / "train.tsv").unlink()
    with pytest.raises(InputError, match=r"expected the file train.tsv in the folder"):
        load_sst2(folder, cache=tmp_path / "cache")


def glue_archive():
    """What GLUE's server sends: three tables with headers, the test's without labels."""
    tables = {
        "train": [("sentence", "label"), *((f"{text} ", label) for text, label in rows_for(3, 40))],
        "dev": [("sentence", "label"), *rows_for(4, 6)],
        "test": [("index", "sentence"), *((i, text) for i, (text, _) in enumerate(rows_for(5, 9)))],
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

    archive, asked = glue_archive(), []

    class Server(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.send_response(200)
            self.send_header("Content-Length", str(len(archive)))
            self.end_headers()

        def do_GET(self):
            asked.append(self.path)
            self.do_HEAD()
            self.wfile.write(archive)

        def log_message(self, *_):
            pass

    (config,) = (c for c in Glue.BUILDER_CONFIGS if c.name == "sst2")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/SST-2.zip"
        monkeypatch.setattr(config, "data_url", url)
        whole, archive = archive, archive[:100]
        with pytest.raises(InputError, match=r"could not be fetched .* not a zip file"):
            load_sst2(cache=tmp_path / "cache")
        archive = whole
        for _ in range(2):
            corpus = load_sst2(cache=tmp_path / "cache")
        server.shutdown()
    assert asked == ["/SST-2.zip"] * 2
    assert list((tmp_path / "cache" / "downloads" / "tfds").iterdir()) == [
        tmp_path / "cache" / "downloads" / "tfds" / "glue"
    ]
    assert rows_of(corpus["train"]) == rows_for(3, 40)
    assert rows_of(corpus["dev"]) == rows_for(4, 6)
    assert rows_of(corpus["test"]) == [(text, -1) for text, _ in rows_for(5, 9)]
    assert capsys.readouterr().out == ""


def test_offline_it_says_what_to_do_in_one_line(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise OSError("no network here")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(InputError, match=r"glue/sst2 could not be fetched .* --data") as caught:
        load_sst2(cache=tmp_path)
    assert "\n" not in str(caught.value)


def test_no_tensorflow_and_nothing_heavy_before_it_is_needed(folder, tmp_path):
    program = f"""
import sys
from jaxflow.train.sst2 import load_sst2
assert "tensorflow_datasets" not in sys.modules
load_sst2({str(folder)!r}, cache={str(tmp_path / "cache")!r})
sys.exit("tensorflow" in sys.modules)
"""
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
