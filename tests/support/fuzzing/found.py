"""Cases that readers once failed on, found by the fuzzer or thought of: none may come back.

Each says what it was, and what must become of it now.
"""

from __future__ import annotations

import gzip
import io
import json
import struct
import zipfile
import zlib
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from fuzzing import model_files
from fuzzing.cases import Case
from fuzzing.mutate_binary import Boom, pack, with_header
from fuzzing.readers_arrays import attention_seeds, scores_seeds
from fuzzing.readers_corpora import corpus_seeds
from fuzzing.readers_runs import CARD, checkpoint_seeds
from fuzzing.readers_shards import PLAN, changed_shard, shard_seeds
from fuzzing.readers_text import FULL, SCHEMAS, SIMPLE, SUBJECTS

__all__ = ["FOUND", "Found"]


class Found(NamedTuple):
    """A case: its reader's name, what it was, how to make it, and what is to become of it."""

    reader: str
    what: str
    make: Callable[[], Case]
    kind: str = "refused"


def _text(name: str, *changes: tuple[str, str], of: str) -> Callable[[], Case]:
    def make() -> Case:
        text = of
        for old, new in changes:
            assert old in text
            text = text.replace(old, new, 1)
        return {name: text.encode("utf-8", "surrogatepass")}

    return make


def _json(good: Callable[[], Case], file: str, /, **changes: Any) -> Callable[[], Case]:
    """Change fields of a good case's JSON; a bytes value is written as it stands."""

    def make() -> Case:
        case = dict(good())
        fields = {**json.loads(case[file] or b"{}"), **changes}
        raw = {key: value for key, value in fields.items() if isinstance(value, bytes)}
        text = json.dumps({key: None if key in raw else value for key, value in fields.items()})
        for key, value in raw.items():
            text = text.replace(f'"{key}": null', f'"{key}": {value.decode()}')
        return {**case, file: text.encode()}

    return make


def _npy(header: str, body: bytes = b"") -> bytes:
    packed = header.encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(packed)) + packed + body


def _attention(header: str, body: bytes = b"", method: int = zipfile.ZIP_STORED) -> Any:
    return lambda: {"a.npz": pack({"attention.npy": _npy(header, body)}, method)}


def _array(value: Any, name: str, seed: Callable[[], list[Case]], file: str) -> Case:
    with np.load(io.BytesIO(seed()[0][file] or b"")) as arrays:
        changed = {**arrays, name: value}
    buffer = io.BytesIO()
    np.savez(buffer, **changed)
    return {file: buffer.getvalue()}


def _record(field: int, size: int, value: int, which: bytes = b"PK\x01\x02") -> Case:
    """Overwrite a field of the first record of a kind in a good npz file."""
    content = bytearray(attention_seeds()[2]["a.npz"] or b"")
    place = content.find(which) + field
    content[place : place + size] = value.to_bytes(size, "little")
    return {"a.npz": bytes(content)}


def _late_checkpoint() -> Case:
    case, name = checkpoint_seeds()[0], "checkpoints/5/_CHECKPOINT_METADATA"
    late = (case[name] or b"").replace(
        b'"commit_timestamp_nsecs": ', b'"commit_timestamp_nsecs": 999999999'
    )
    return {**case, name: late}


def _pickled() -> Case:
    import pickle

    body = pickle.dumps(np.array([Boom()]))
    header = "{'descr': '|O', 'fortran_order': False, 'shape': (1,)}"
    return {"a.npz": pack({"attention.npy": _npy(header, body)})}


def _picture(size: tuple[int, int]) -> Case:
    """A PNG whose header claims a size and whose pixels are a few zeros."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    head = struct.pack(">IIBBBBB", *size, 8, 2, 0, 0, 0)
    parts = (chunk(b"IHDR", head), chunk(b"IDAT", zlib.compress(bytes(99))), chunk(b"IEND", b""))
    return {"picture": b"\x89PNG\r\n\x1a\n" + b"".join(parts)}


def _icon() -> Case:
    """An icon of a PNG whose pixels' chunk claims 2 GB."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.new("RGBA", (7, 9)).save(buffer, "ICO", sizes=[(7, 9)])
    content = buffer.getvalue()
    place = content.index(b"IDAT") - 4
    return {"picture": content[:place] + b"\x80\x00\x01\x10" + content[place + 4 :]}


def _tensors(header: Any, body: bytes = b"", length: int | None = None) -> Callable[[], Case]:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return lambda: {"model.safetensors": with_header(text, body, length)}


def _entry(kind: str, shape: list[int], begin: int, end: int) -> dict[str, Any]:
    return {"dtype": kind, "shape": shape, "data_offsets": [begin, end]}


def _encoder(**changes: Any) -> Callable[[], Case]:
    fields = {**model_files.words().config.to_dict(), **changes}
    return lambda: {"config.json": json.dumps(fields).encode()}


def _config(kind: int, **changes: Any) -> Callable[[], Case]:
    return _json(lambda: {"config.json": model_files.published()[kind]["config.json"]},
                 "config.json", **changes)  # fmt: skip


def _tokenizer(kind: str, *path: str, value: Any) -> Callable[[], Case]:
    def make() -> Case:
        tree = json.loads(model_files.tokenizer_json(kind))
        place = tree
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = value
        return {"tokenizer.json": json.dumps(tree).encode()}

    return make


def _settings(text: bytes) -> Callable[[], Case]:
    return lambda: {"vocab.txt": model_files.PIECES, "tokenizer_config.json": text}


def _sparse() -> Case:
    """A tokenizer of few entries with a number beyond the model's table."""
    case = dict(model_files.published()[4])
    tree = json.loads(case["tokenizer.json"] or b"")
    tree["model"]["vocab"]["the"] = 1_000_000
    return {**case, "tokenizer.json": json.dumps(tree).encode()}


def _export(name: str, change: Callable[[bytes], bytes]) -> Callable[[], Case]:
    def make() -> Case:
        case = model_files.exported()
        return model_files.sealed({**case, name: change(case[name] or b"")})

    return make


def _shard(name: str, values: list[Any], **about: Any) -> Callable[[], Case]:
    """A shard of three sentences with another column, sealed."""

    def make() -> Case:
        import pyarrow as pa
        import pyarrow.parquet as pq

        ((file, content),) = shard_seeds()[0].items()
        table = pq.read_table(pa.BufferReader(content))
        told = {**json.loads(table.schema.metadata[b"jaxflow"]), **about}
        table = table.set_column(table.column_names.index(name), name, pa.array(values))
        return {file: changed_shard(table, told, seal=True)}

    return make


def _corpus(change: Callable[[bytes], bytes], file: str) -> Callable[[], Case]:
    def make() -> Case:
        made = dict(corpus_seeds()[0])
        (name,) = (name for name in made if name.endswith(f"/{file}"))
        changed = change(made[name] or b"")
        assert changed != made[name]
        return {**made, name: changed}

    return make


def _put_off(metrics: bytes) -> Callable[[], Case]:
    return lambda: {"pending.json": b'{"step": 2, "metrics": ' + metrics + b"}"}


_NINES = "9" * 5000
_LOSS = b'{"step": 1, "loss": 0.5}\n'
_RUN: Callable[[], Case] = lambda: {"config.json": b'{"epochs": 2}'}  # noqa: E731
_TABLES: Callable[[], Case] = lambda: {"tables.json": b'{"samples": 1}'}  # noqa: E731

FOUND = (
    Found("corpus, subjects", "a number of 5,000 digits",
          _text("subjects.tsv", ("\t1\t1\n", f"\t1\t{_NINES}\n"), of=SUBJECTS)),
    Found("corpus, full", "a number of 5,000 digits",
          _text("table.tsv", ("\t6\t1\n", f"\t6\t{_NINES}\n"), of=FULL)),
    Found("corpus, full", "an empty header over empty rows", lambda: {"table.tsv": b"\n\n\n"}),
    Found("corpus, full and packed", "a packed line of 32 MB",
          lambda: {"table.tsv.gz": gzip.compress(FULL.encode() + b"a" * (32 << 20), 1)}),
    Found("corpus, simple", "a line of 10 MB",
          lambda: {"numpred.test.3": SIMPLE.encode() + b"VBZ\t" + b"a " * 5_000_000}),
    Found("pronoun schemas", "terminal codes in a column's name",
          _text("schemas.tsv", ("filler_1", "\x1b[31m\u202e"), of=SCHEMAS)),
    Found("pronoun schemas", "a sentence of 100,000 characters",
          _text("schemas.tsv", ("Ann met", "x" * 100_000), of=SCHEMAS)),
    Found("attention npz", "a member that says it is encrypted", lambda: _record(8, 2, 1)),
    Found("attention npz", "a member that says it is patched", lambda: _record(8, 2, 32)),
    Found(
        "attention npz",
        "another beginning",
        lambda: {"a.npz": b"XX" + (attention_seeds()[0]["a.npz"] or b"")[2:]},
    ),
    Found("attention npz", "a packing that nobody knows", lambda: _record(10, 2, 99)),
    Found("attention npz", "a member that claims 4 GB", lambda: _record(24, 4, 0xFFFFFFF0)),
    Found("attention npz", "another checksum", lambda: _record(16, 4, 1)),
    Found("attention npz", "an array of pickled objects", _pickled),
    Found("attention npz", "a header that ends in a bracket",
          _attention("{'descr': '<f4', 'fortran_order': False, 'shape': (")),
    Found("attention npz", "a header of nested brackets", _attention("(" * 9000)),
    Found("attention npz", "an array that claims 2^60 numbers",
          _attention(f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({2**60},)}}")),
    Found("attention npz", "an array that claims 2^64 numbers",
          _attention(f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({2**64},)}}")),
    Found("attention npz", "an array that claims 150 MB",
          _attention("{'descr': '<f4', 'fortran_order': False, 'shape': (6160, 6160)}", b"0" * 99)),
    Found("attention npz", "a text of 10^9 characters",
          _attention("{'descr': '<U1000000000', 'fortran_order': False, 'shape': (1,)}")),
    Found("attention npz", "a length that is no number",
          _attention("{'descr': '<f4', 'fortran_order': False, 'shape': (True,)}", b"\0" * 4)),
    Found("attention npz", "an array twice", lambda: {"a.npz": _twice()}),
    Found("scores npz", "text where numbers are due",
          lambda: _array(np.full((3, 2), "x"), "saturated", scores_seeds, "scores.npz")),
    Found("scores npz", "complex numbers",
          lambda: _array(np.ones((3, 2), complex), "saturated", scores_seeds, "scores.npz")),
    Found("picture", "a format that is read by starting a program",
          lambda: {"picture": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n"}),
    Found("picture", "80 million pixels in 100 bytes", lambda: _picture((9_000, 9_000))),
    Found("picture", "a chunk of 2 GB in an icon", _icon, "accepted"),
    Found("picture", "2^62 pixels", lambda: _picture((2**31 - 1, 2**31 - 1))),
    Found("run's configuration", "a deep nest", _json(_RUN, "config.json", seed=b"[" * 200_000)),
    Found("run's configuration", "lengths as text", _json(_RUN, "config.json", buckets=["8"])),
    Found("run's configuration", "lengths with a fraction",
          _json(_RUN, "config.json", buckets=[8.7])),
    Found("run's configuration", "an infinite length",
          _json(_RUN, "config.json", buckets=[float("inf")])),
    Found("run's configuration", "a number of 5,000 digits",
          _json(_RUN, "config.json", seed=_NINES.encode())),
    Found("run's configuration", "yes for a number", _json(_RUN, "config.json", epochs=True)),
    Found("run's configuration", "a fraction of a layer", _json(_RUN, "config.json", layers=1.5)),
    Found("run's journal", "a line that is no object",
          lambda: {"metrics.jsonl": _LOSS + b"[1]\n"}),
    Found("run's journal", "a step that is text",
          lambda: {"metrics.jsonl": b'{"step": "1"}\n' + _LOSS}),
    Found("run's journal", "bytes that are no text", lambda: {"metrics.jsonl": b"\xff\n" + _LOSS}),
    Found("run's journal", "a damaged line before good ones",
          lambda: {"metrics.jsonl": _LOSS + b'{"step": 1, "lo\n' + _LOSS}),
    Found("run's journal", "a deep nest",
          lambda: {"metrics.jsonl": b"[" * 200_000 + b"\n" + _LOSS}),
    Found("run's journal", "a last line cut off",
          lambda: {"metrics.jsonl": _LOSS + b'{"step": 2, "lo'}, "accepted"),
    Found("training's curves", "a step of 400 digits",
          lambda: {"metrics.jsonl": b'{"step": ' + b"9" * 400 + b', "loss": 1}\n' + _LOSS}),
    Found("training's curves", "a deep nest",
          lambda: {"metrics.jsonl": b"[" * 200_000 + b"\n" + _LOSS}),
    Found("training's curves", "a split without a value in the last line",
          lambda: {"metrics.jsonl": _LOSS + b'{"step": 2, "held_out": {"dev": "x"}}'}, "accepted"),
    Found("metrics put off", "a metric of 400 digits",
          _put_off(b'[{"loss": 1, "accuracy": ' + b"9" * 400 + b"}]")),
    Found("metrics put off", "a step without its loss", _put_off(b'[{"accuracy": 1}]')),
    Found("metrics put off", "a metric that nobody knows",
          _put_off(b'[{"loss": 1, "accuracy": 1, "x": 1}]')),
    Found("metrics put off", "a metric beyond float32",
          _put_off(b'[{"loss": 1e39, "accuracy": 1}]')),
    Found("metrics put off", "text for metrics", _put_off(b'""')),
    Found("checkpoints", "half a character for an older run's checksum", lambda: {
        **checkpoint_seeds()[1], "checkpoints.json": b'{"10": "\\ud800"}'}),
    Found("checkpoints", "a folder called by a digit that is no number", lambda: {
        name.replace("/10/", "/²/"): content for name, content in checkpoint_seeds()[0].items()},
          "accepted"),
    Found("checkpoints", "the one before, written in a far future", _late_checkpoint, "accepted"),
    Found("lock's holder", "terminal codes for a name", lambda: {".lock": b"\x1b[31m\n\xff"}),
    Found("model's card", "one mark alone", lambda: {"card.md": CARD.encode()[:60]}),
    Found("scores of a shard", "lists of other lengths that add up to the same",
          _shard("blank_out/raw", [[0.5], [0.5, 0.5, 0.5], [0.5, 0.5]])),
    Found("scores of a shard", "half numbers for rows", _shard("row", [0.5, 1.0, 2.0])),
    Found("scores of a shard", "a length that is missing", _shard("length", [3, None, 5])),
    Found("scores of a shard", "text for a plan", _shard("length", [3, 4, 5], plan=7)),
    Found("plan of shards", "a deep nest", _json(lambda: {"plan.json": json.dumps(PLAN).encode()},
                                                 "plan.json", protocol=b"[" * 200_000)),
    Found("prepared corpus", "a block fewer in TFDS's record of them",
          _corpus(lambda text: text.replace(b'"3"', b'"2"'), "dataset_info.json")),
    Found("prepared corpus", "no splits in TFDS's record of them", _corpus(
        lambda text: json.dumps({**json.loads(text), "splits": []}).encode(), "dataset_info.json")),
    Found("prepared corpus", "a split's rows under the name of another", lambda: {
        **corpus_seeds()[0], **{
            name: corpus_seeds()[0][name.replace("val", "train")]
            for name in corpus_seeds()[0] if "array_record" in name and "-val." in name}}),
    Found("evaluation's tables", "a deep nest",
          _json(_TABLES, "tables.json", tables=b'{"a":' * 100_000)),
    Found("evaluation's tables", "an interval of one end", lambda: {"tables.json": json.dumps(
        {"tables": {"blank_out": {"raw": [{"mean": 0, "std": 0, "ci95": [0], "n": 1, "nan": 0}]}},
         "saturation": [], "entropy": {}, "samples": 1}).encode()}),
    Found("safetensors", "a header of 2^60 bytes", _tensors({}, b"", 2**60)),
    Found("safetensors", "a header of 2^64 - 1 bytes", _tensors({}, b"", 2**64 - 1)),
    Found("safetensors", "3,000 axes",
          _tensors({"a": _entry("F32", [1] * 3000, 0, 4)}, b"\0" * 4)),
    Found("safetensors", "2^60 rows of none, 8 bytes at 0",
          _tensors({"a": _entry("F64", [2**60, 2**60], 0, 8)}, b"\0" * 8)),
    Found("safetensors", "tensors that overlap", _tensors(
        {"a": _entry("F32", [2], 0, 8), "b": _entry("F32", [2], 4, 12)}, b"\0" * 12)),
    Found("safetensors", "bytes that belong to no tensor",
          _tensors({"a": _entry("F32", [1], 4, 8)}, b"\0" * 8)),
    Found("safetensors", "numbers of 8 bits",
          _tensors({"a\x1b[31m": _entry("F8_E8M0", [1], 0, 1)}, b"\0")),
    Found("safetensors", "a deep nest", _tensors(b'{"a":' * 100_000)),
    Found("safetensors in shards", "a shard's name with a line end", lambda: {
        "model.safetensors.index.json": b'{"weight_map": {"a": "x\\r\\n\\u001b[31m"}}'}),
    Found("safetensors in shards", "a shard's name of 5,000 characters", lambda: {
        "model.safetensors.index.json": json.dumps({"weight_map": {"a": "x" * 5000}}).encode()}),
    Found("safetensors in shards", "a shard in another folder", lambda: {
        "model.safetensors.index.json": b'{"weight_map": {"a": "../x.safetensors"}}'}),
    Found("config.json", "patches without a size", _config(5, patch_size=[])),
    Found("config.json", "a mean of pixels of 400 digits", lambda: {
        "config.json": model_files.published()[5]["config.json"],
        "preprocessor_config.json": b'{"image_mean": [' + b"9" * 400 + b'], "image_std": [0.5]}'}),
    Found("run's configuration", "a rate of 400 digits",
          _json(_RUN, "config.json", learning_rate=b"9" * 400)),
    Found("config.json", "a width of 10^9", _config(0, hidden_size=10**9)),
    Found("config.json", "10^9 layers", _config(4, n_layer=10**9)),
    Found("config.json", "a vocabulary of 5,000 digits", _config(0, vocab_size=_NINES.encode())),
    Found("config.json", "a million classes without names",
          _config(0, id2label=None, num_labels=1 << 20)),
    Found("config.json", "padding beyond the vocabulary", _config(0, pad_token_id=13)),
    Found("encoder's configuration", "padding of 2^64 - 1", _encoder(pad_id=2**64 - 1)),
    Found("encoder's configuration", "padding that is a list", _encoder(pad_id=[0])),
    Found("encoder's configuration", "10^9 layers", _encoder(layers=10**9)),
    Found("encoder's configuration", "a width of 2^70", _encoder(width=2**70, heads=1)),
    Found("encoder's configuration", "a number for yes", _encoder(causal=1)),
    Found("exported model", "a deep nest for a card", lambda: {
        **model_files.exported(), "config.json": b'{"format":' * 100_000}),
    Found("exported model", "a last word cut short", _export("vocab.txt", lambda c: c[:-2])),
    Found("exported model", "10^9 layers", lambda: model_files.sealed(
        {**model_files.exported(), "config.json": (model_files.exported()["config.json"] or b"")
         .replace(b'"layers": 1', b'"layers": 1000000000')})),
    Found("vocabulary of words", "a last word cut short",
          lambda: {"vocab.txt": b"[PAD]\n[CLS]\n[UNK]\nthe\nkey"}),
    Found("vocabulary of words", "a word that holds a carriage return",
          lambda: {"vocab.txt": b"[PAD]\n[CLS]\n[UNK]\nthe\rkey\n"}, "accepted"),
    Found("tokenizer.json", "a template without its token: the library panics when it splits",
          _tokenizer("pieces", "post_processor", "special_tokens", value={}), "accepted"),
    Found("tokenizer.json", "a prefix longer than a merge: the library panics when it reads",
          _tokenizer("pairs", "model", "continuing_subword_prefix", value="\U0010ffff")),
    Found("tokenizer.json", "terminal codes for a version",
          _tokenizer("pieces", "version", value="\x1b[31m")),
    Found("vocab.txt", "half a character for a special token",
          _settings(b'{"unk_token": "\\ud800"}')),
    Found("vocab.txt", "a number for a special token", _settings(b'{"unk_token": 128}')),
    Found("published model", "a word's number beyond the model's table", _sparse),
    Found("sentence, words", "ten million characters", lambda: {"text": b"the " * 2_500_000}),
    Found("sentence, pieces", "ten million characters", lambda: {"text": b"the " * 2_500_000}),
    Found("sentence, gpt2", "one word of ten million characters",
          lambda: {"text": b"t" * 10_000_000}),
    Found("sentence, pieces", "bytes that are no text", lambda: {"text": b"the \xff keys"}),
    Found("sentence, words", "terminal codes in a sentence too long",
          lambda: {"text": b"\x1b[31m a b c d e f g h"}),
    Found("sentences", "a line of 10 MB",
          lambda: {"sentences.txt": b"the " * 2_500_000}, "accepted"),
    Found("sentences", "bytes that are no text", lambda: {"sentences.txt": b"the \xff keys\n"}),
    Found("model's name", "5,000 characters", lambda: {"name": b"a" * 5000}),
    Found("model's name", "NUL in it", lambda: {"name": b"./a\0b"}),
    Found("model's name", "terminal codes", lambda: {"name": b"./a/\x1b[31m/b"}),
)  # fmt: skip


def _twice() -> bytes:
    import warnings

    content = _npy("{'descr': '<f4', 'fortran_order': False, 'shape': (1, 1, 1, 1)}", b"\0\0\x80?")
    buffer = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(buffer, "w") as archive:
        warnings.simplefilter("ignore")
        for _ in range(2):
            archive.writestr("attention.npy", content)
    return buffer.getvalue()
