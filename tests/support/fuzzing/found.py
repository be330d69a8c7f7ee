"""List cases that readers once failed on, by reader.

Each is refused in one line, if not said otherwise.
"""

from __future__ import annotations

import gzip
import io
import json
import pickle
import struct
import warnings
import zipfile
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np

from fuzzing import readers as good
from fuzzing.mutate import Boom, Case, pack

Make = Callable[[], Case]
NINES = "9" * 5000


def _text(name: str, content: str | bytes) -> Make:
    return lambda: {name: content.encode() if isinstance(content, str) else content}


def _raw(name: str, fields: dict[str, Any] | None = None, **changes: str) -> Make:
    """Write JSON with some fields as they stand."""
    stated = {key: json.dumps(value) for key, value in (fields or {}).items()} | changes
    return _text(name, "{" + ", ".join(f'"{key}": {value}' for key, value in stated.items()) + "}")


def _changed(case: Make, end: str, change: Callable[[bytes], bytes]) -> Make:
    """Change the file of that name in a good case, in whichever folder."""

    def make() -> Case:
        made = dict(case())
        (name,) = (name for name in made if f"/{name}".endswith(f"/{end}"))
        changed = change(made[name] or b"")
        assert changed != made[name]
        return {**made, name: changed}

    return make


def _fields(case: Make, end: str, **changes: Any) -> Make:
    return _changed(case, end, lambda text: json.dumps({**json.loads(text), **changes}).encode())


def _zipped(field: int, size: int, value: int) -> Make:
    """Overwrite a field of a good npz file's directory."""

    def change(content: bytes) -> bytes:
        place = content.find(b"PK\x01\x02") + field
        return content[:place] + value.to_bytes(size, "little") + content[place + size :]

    return _changed(lambda: good.attention_seeds()[2], "a.npz", change)


def _array(shape: str, kind: str = "<f4", body: bytes = b"") -> Make:
    header = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}}}\n".encode()
    start = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header))
    return lambda: {"a.npz": pack({"attention.npy": start + header + body})}


def _twice() -> Case:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(2):
            with archive.open("attention.npy", "w") as file:
                np.save(file, np.ones((1, 1, 1, 1), np.float32))
    return {"a.npz": buffer.getvalue()}


def _scores(kind: Any) -> Make:
    arrays = good.scores_in(good.scores_seeds()[0])
    return lambda: {"scores.npz": good.npz({**arrays, "saturated": np.ones((3, 2)).astype(kind)})}


def _picture(*size: int) -> Make:
    """A PNG whose header claims a size and whose pixels are a few zeros."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        crc = struct.pack(">I", zlib.crc32(kind + body))
        return struct.pack(">I", len(body)) + kind + body + crc

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", *size, 8, 2, 0, 0, 0))
    body = chunk(b"IDAT", zlib.compress(bytes(99))) + chunk(b"IEND", b"")
    return _text("picture", b"\x89PNG\r\n\x1a\n" + head + body)


def _tensors(header: Any, body: bytes = b"", length: int | None = None) -> Make:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    size = struct.pack("<Q", len(text) if length is None else length)
    return _text("model.safetensors", size + text + body)


def _entry(kind: str, shape: list[int], begin: int, end: int) -> dict[str, Any]:
    return {"dtype": kind, "shape": shape, "data_offsets": [begin, end]}


def _tokenizer(kind: str, *path: str, value: Any, case: Make | None = None) -> Make:
    """Change a value in a tokenizer.json."""

    def change(text: bytes) -> bytes:
        tree = place = json.loads(text)
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = value
        return json.dumps(tree).encode()

    case = case or (lambda: {"tokenizer.json": good.tokenizer_json(kind)})
    return _changed(case, "tokenizer.json", change)


def _swapped() -> Case:
    """A split's rows under the name of another."""
    case = good.corpus_seeds()[0]
    return {name: case[name.replace("val", "train")] if "-val.array_record" in name else content
            for name, content in case.items()}  # fmt: skip


NEST = "[" * 200_000
LOSS = b'{"step": 1, "loss": 0.5}\n'
RUN = {"epochs": 2}
BERT: Make = lambda: good.published()[0]  # noqa: E731
GPT2: Make = lambda: good.published()[2]  # noqa: E731
VIT: Make = lambda: good.published()[3]  # noqa: E731
CHECKPOINTS: Make = lambda: good.checkpoint_seeds()[0]  # noqa: E731
CORPUS: Make = lambda: good.corpus_seeds()[0]  # noqa: E731
ENCODER: Make = lambda: good.one("config.json", good.words().config.to_dict())()[0]  # noqa: E731
SHARD = [0.5, 0.5]


def _put_off(metrics: str) -> Make:
    return _raw("pending.json", {"step": 2}, metrics=metrics)


FOUND: dict[tuple[str, str], Make | tuple[Make, str]] = {
    ("corpus, subjects", "a number of 5,000 digits"):
        _text("subjects.tsv", good.SUBJECTS.replace("\t1\t1\n", f"\t1\t{NINES}\n")),
    ("corpus, full", "a number of 5,000 digits"):
        _text("table.tsv", good.FULL.replace("\t6\t1\n", f"\t6\t{NINES}\n")),
    ("corpus, full", "an empty header over empty rows"): _text("table.tsv", "\n\n\n"),
    ("corpus, full and packed", "a packed line of 32 MB"):
        lambda: {"table.tsv.gz": gzip.compress(good.FULL.encode() + b"a" * (32 << 20), 1, mtime=0)},
    ("corpus, simple", "a line of 10 MB"):
        _text("numpred.test.3", good.SIMPLE + "VBZ\t" + "a " * 5_000_000),
    ("pronoun schemas", "terminal codes in a column's name"):
        _text("schemas.tsv", good.SCHEMAS.replace("filler_1", "\x1b[31m\u202e")),
    ("pronoun schemas", "a sentence of 100,000 characters"):
        _text("schemas.tsv", good.SCHEMAS.replace("Ann met", "x" * 100_000)),
    ("attention npz", "a member that says it is encrypted"): _zipped(8, 2, 1),
    ("attention npz", "a packing that nobody knows"): _zipped(10, 2, 99),
    ("attention npz", "a member that claims 4 GB"): _zipped(24, 4, 0xFFFFFFF0),
    ("attention npz", "another checksum"): _zipped(16, 4, 1),
    ("attention npz", "an array of pickled objects"):
        _array("(1,)", "|O", pickle.dumps(np.array([Boom()]))),
    ("attention npz", "a header that ends in a bracket"): _array("("),
    ("attention npz", "a header of nested brackets"): _array("(" * 9000),
    ("attention npz", "an array that claims 2^60 numbers"): _array(f"({2**60},)"),
    ("attention npz", "an array that claims 2^64 numbers"): _array(f"({2**64},)"),
    ("attention npz", "an array that claims 150 MB"): _array("(6160, 6160)", body=b"0" * 99),
    ("attention npz", "a text of 10^9 characters"): _array("(1,)", "<U1000000000"),
    ("attention npz", "a length that is no number"): _array("(True,)", body=b"\0" * 4),
    ("attention npz", "an array twice"): _twice,
    ("scores npz", "text where numbers are due"): _scores(str),
    ("scores npz", "complex numbers"): _scores(complex),
    ("picture", "a format that is read by starting a program"):
        _text("picture", "%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n"),
    ("picture", "80 million pixels in 100 bytes"): _picture(9_000, 9_000),
    ("picture", "2^62 pixels"): _picture(2**31 - 1, 2**31 - 1),
    ("run's configuration", "a deep nest"): _raw("config.json", RUN, seed=NEST),
    ("run's configuration", "lengths as text"): _raw("config.json", RUN, buckets='["8"]'),
    ("run's configuration", "lengths with a fraction"): _raw("config.json", RUN, buckets="[8.7]"),
    ("run's configuration", "an infinite length"): _raw("config.json", RUN, buckets="[Infinity]"),
    ("run's configuration", "a number of 5,000 digits"): _raw("config.json", RUN, seed=NINES),
    ("run's configuration", "yes for a number"): _raw("config.json", epochs="true"),
    ("run's configuration", "a fraction of a layer"): _raw("config.json", RUN, layers="1.5"),
    ("run's configuration", "a rate of 400 digits"):
        _raw("config.json", RUN, learning_rate="9" * 400),
    ("run's journal", "a line that is no object"): _text("metrics.jsonl", LOSS + b"[1]\n"),
    ("run's journal", "a step that is text"): _text("metrics.jsonl", b'{"step": "1"}\n' + LOSS),
    ("run's journal", "bytes that are no text"): _text("metrics.jsonl", b"\xff\n" + LOSS),
    ("run's journal", "a damaged line before good ones"):
        _text("metrics.jsonl", LOSS + b'{"step": 1, "lo\n' + LOSS),
    ("run's journal", "a deep nest"): _text("metrics.jsonl", NEST.encode() + b"\n" + LOSS),
    ("run's journal", "a last line cut off"):
        (_text("metrics.jsonl", LOSS + b'{"step": 2, "lo'), "accepted"),
    ("training's curves", "a step of 400 digits"):
        _text("metrics.jsonl", b'{"step": ' + b"9" * 400 + b', "loss": 1}\n' + LOSS),
    ("training's curves", "a deep nest"): _text("metrics.jsonl", NEST.encode() + b"\n" + LOSS),
    ("metrics put off", "a metric of 400 digits"):
        _put_off('[{"loss": 1, "accuracy": ' + "9" * 400 + "}]"),
    ("metrics put off", "a step without its loss"): _put_off('[{"accuracy": 1}]'),
    ("metrics put off", "a metric beyond float32"): _put_off('[{"loss": 1e39, "accuracy": 1}]'),
    ("checkpoints", "a folder called by a digit that is no number"): (
        lambda: {name.replace("/10/", "/²/"): c for name, c in CHECKPOINTS().items()}, "accepted"),
    ("checkpoints", "the one before, written in a far future"): (_changed(
        CHECKPOINTS, "checkpoints/5/_CHECKPOINT_METADATA", lambda text: text.replace(
            b'"commit_timestamp_nsecs": ', b'"commit_timestamp_nsecs": 999999999')), "accepted"),
    ("lock's holder", "terminal codes for a name"): _text(".lock", b"\x1b[31m\n\xff"),
    ("model's card", "one mark alone"): _text("card.md", good.CARD[:60]),
    ("scores of a shard", "lists of other lengths that add up to the same"):
        lambda: good.shard(**{"blank_out/raw": [[0.5], [0.5] * 3, SHARD]}),
    ("scores of a shard", "half numbers for rows"):
        lambda: good.shard(row=[0.5, 1.0, 2.0]),
    ("scores of a shard", "a length that is missing"):
        lambda: good.shard(length=[3, None, 5]),
    ("scores of a shard", "text for a plan"):
        lambda: good.shard({"plan": 7}),
    ("plan of shards", "a deep nest"): _raw("plan.json", good.PLAN, protocol=NEST),
    ("prepared corpus", "a block fewer in TFDS's record of them"):
        _changed(CORPUS, "dataset_info.json", lambda text: text.replace(b'"3"', b'"2"')),
    ("prepared corpus", "no splits in TFDS's record of them"):
        _fields(CORPUS, "dataset_info.json", splits=[]),
    ("prepared corpus", "a split's rows under the name of another"): _swapped,
    ("evaluation's tables", "a deep nest"): _raw("tables.json", samples="1", tables=NEST),
    ("safetensors", "a header of 2^60 bytes"): _tensors({}, b"", 2**60),
    ("safetensors", "a header of 2^64 - 1 bytes"): _tensors({}, b"", 2**64 - 1),
    ("safetensors", "3,000 axes"): _tensors({"a": _entry("F32", [1] * 3000, 0, 4)}, b"\0" * 4),
    ("safetensors", "2^60 rows of none, 8 bytes at 0"):
        _tensors({"a": _entry("F64", [2**60, 2**60], 0, 8)}, b"\0" * 8),
    ("safetensors", "tensors that overlap"): _tensors(
        {"a": _entry("F32", [2], 0, 8), "b": _entry("F32", [2], 4, 12)}, b"\0" * 12),
    ("safetensors", "bytes that belong to no tensor"):
        _tensors({"a": _entry("F32", [1], 4, 8)}, b"\0" * 8),
    ("safetensors", "numbers of 8 bits"):
        _tensors({"a\x1b[31m": _entry("F8_E8M0", [1], 0, 1)}, b"\0"),
    ("safetensors", "a deep nest"): _tensors(b'{"a":' * 100_000),
    ("safetensors in shards", "a shard's name with a line end"): _text(
        "model.safetensors.index.json", '{"weight_map": {"a": "x\\r\\n\\u001b[31m"}}'),
    ("safetensors in shards", "a shard in another folder"): _text(
        "model.safetensors.index.json", '{"weight_map": {"a": "../x.safetensors"}}'),
    ("published model", "patches without a size"): _fields(VIT, "config.json", patch_size=[]),
    ("published model", "a width of 10^9"): _fields(BERT, "config.json", hidden_size=10**9),
    ("published model", "10^9 layers"): _fields(BERT, "config.json", num_hidden_layers=10**9),
    ("published model", "a million classes without names"):
        _fields(BERT, "config.json", id2label=None, num_labels=1 << 20),
    ("published model", "padding beyond the vocabulary"):
        _fields(BERT, "config.json", pad_token_id=13),
    ("published model", "a word's number beyond the model's table"):
        _tokenizer("pairs", "model", "vocab", "the", value=1_000_000, case=GPT2),
    ("encoder's configuration", "padding of 2^64 - 1"):
        _fields(ENCODER, "config.json", pad_id=2**64 - 1),
    ("encoder's configuration", "padding that is a list"):
        _fields(ENCODER, "config.json", pad_id=[0]),
    ("encoder's configuration", "10^9 layers"):
        _fields(ENCODER, "config.json", layers=10**9),
    ("encoder's configuration", "two million classes"):
        _fields(ENCODER, "config.json", classes=1 << 21),
    ("encoder's configuration", "a width of 2^70"):
        _fields(ENCODER, "config.json", width=2**70),
    ("encoder's configuration", "a number for yes"):
        _fields(ENCODER, "config.json", causal=1),
    ("exported model", "a deep nest for a card"):
        _changed(good.exported, "config.json", lambda _: b'{"format":' * 100_000),
    ("exported model", "a last word cut short"):
        lambda: good.sealed(_changed(good.exported, "vocab.txt", lambda text: text[:-2])()),
    ("vocabulary of words", "a last word cut short"):
        _text("vocab.txt", "[PAD]\n[CLS]\n[UNK]\nthe\nkey"),
    ("tokenizer.json", "a template without its token: the library panics when it splits"): (
        _tokenizer("pieces", "post_processor", "special_tokens", value={}), "accepted"),
    ("tokenizer.json", "a prefix longer than a merge: the library panics when it reads"):
        _tokenizer("pairs", "model", "continuing_subword_prefix", value="\U0010ffff"),
    ("tokenizer.json", "terminal codes for a version"):
        _tokenizer("pieces", "version", value="\x1b[31m"),
    ("tokenizer.json", "half a character for a special token"): lambda: {
        "tokenizer.json": good.tokenizer_json("pieces"),
        "tokenizer_config.json": b'{"unk_token": "\\ud800"}'},
    ("tokenizer.json", "a number for a special token"): lambda: {
        "tokenizer.json": good.tokenizer_json("pieces"),
        "tokenizer_config.json": b'{"unk_token": 128}'},
    ("sentence, words", "ten million characters"): _text("text", "the " * 2_500_000),
    ("sentence, pieces", "ten million characters"): _text("text", "the " * 2_500_000),
    ("sentence, gpt2", "one word of ten million characters"): _text("text", "t" * 10_000_000),
    ("sentence, pieces", "bytes that are no text"): _text("text", b"the \xff keys"),
    ("sentence, words", "terminal codes in a sentence too long"):
        _text("text", "\x1b[31m a b c d e f g h"),
    ("sentences", "a line of 10 MB"): (_text("sentences.txt", "the " * 2_500_000), "accepted"),
    ("sentences", "bytes that are no text"): _text("sentences.txt", b"the \xff keys\n"),
    ("model's name", "5,000 characters"): _text("text", "a" * 5000),
    ("model's name", "NUL in it"): _text("text", "./a\0b"),
    ("model's name", "terminal codes"): _text("text", "./a/\x1b[31m/b"),
}  # fmt: skip
