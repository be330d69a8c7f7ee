"""List every reader: its name, valid files, the function and an independent reader of the same."""

from __future__ import annotations

import contextlib
import csv
import functools
import gzip
import hashlib
import io
import json
import re
import struct
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
from earlier_models import canonical, checksum, earlier
from tiny_models import SPECIAL, byte_pairs, word_pieces

from fuzzing.harness import Reader
from fuzzing.mutate import Case
from jaxflow import models
from jaxflow.commands import _console, parser
from jaxflow.errors import InputError
from jaxflow.eval.explain.patches import read_picture
from jaxflow.eval.io.export import END, START, read_card, with_measured
from jaxflow.eval.paper.scores import SCORES, SentenceScores
from jaxflow.eval.paper.tables import read_tables
from jaxflow.eval.plots.curves import read_journey
from jaxflow.eval.pronouns.schemas import parse_schema, read_schemas
from jaxflow.eval.score import attention, reading
from jaxflow.eval.sharded import files as shards
from jaxflow.eval.sharded.run import claim_plan
from jaxflow.models import BertConfig, EncoderConfig, Gpt2Config, Model, ViTConfig, WordTokenizer
from jaxflow.models.hub import is_hub_name
from jaxflow.models.tensors import open_weights
from jaxflow.train import checkpoint, corpus, formats, lock, prepared, run, sst2
from jaxflow.train.config import FineTuneConfig, TrainConfig
from jaxflow.train.step import TrainState

SIMPLE = "VBZ\tthe key to the cabinets\nVBP\tthe keys  to the cabinet\nVBP\tmen\n"
SUBJECTS = (
    "label\tprefix\tsubject_index\tn_attractors\nVBZ\tthe key to the cabinets\t1\t1\n"
    "VBP\tthe keys\t1\t0\n"
)
FULL = (
    "id\tsentence\tverb_pos\tsubj_index\tverb_index\tn_diff_intervening\n"
    "1\tthe keys to the cabinet are here .\tVBP\t2\t6\t1\n"
    '2\t"the ""key"" is here"\tVBZ\t2\t3\t0\n'
)
SST2 = "a fine film\t1\n dull and lifeless \t0\nit is what it is\t1\n"
SCHEMAS = (
    "# made by hand\npair\tsentence\treferent_1\tfiller_1\treferent_2\tfiller_2\tintended\n"
    "a\tAnn met Paul near [MASK] car.\tAnn\ther\tPaul\this\tAnn\n"
    "a\tAnn met Paul at [MASK] house.\tAnn\ther\tPaul\this\t-\n"
)
COMMANDS = (
    "explain\0the keys to the cabinet", "explain\0--file\0-\0--json", "train\0--out\0run",
    "attribute\0in.npz\0--out\0out.npz\0--method\0flow\0--residual\0000.5",
    "reproduce\0pronouns\0--model\0x", "evaluate\0x", "figures\0--help",
)  # fmt: skip
LABELS = {"VBZ": 0, "VBP": 1}


def one(name: str, *contents: Any) -> Callable[[], list[Case]]:
    """Return a maker of good cases of one file: bytes, text or what JSON is written of."""

    def content(value: Any) -> bytes:
        text = value if isinstance(value, str | bytes) else json.dumps(value)
        return text.encode() if isinstance(text, str) else text

    return lambda: [{name: content(value)} for value in contents]


def made(write: Callable[[Path], Any]) -> dict[str, bytes | None]:
    """Return the files that a function writes to a folder."""
    with tempfile.TemporaryDirectory() as name:
        write(Path(name))
        paths = sorted(path for path in Path(name).rglob("*") if path.is_file())
        return {path.relative_to(name).as_posix(): path.read_bytes() for path in paths}


def text_of(folder: Path) -> str:
    return (folder / "text").read_bytes().decode("utf-8", "surrogateescape")


# Text.


def rows_by(split: Callable[[str], tuple[Any, ...] | None]) -> Callable[[Case], list[Any]]:
    """Return a reader of a case's lines by the format's definition; None leaves a line out."""

    def rows(case: Case) -> list[Any]:
        (content,) = case.values()
        lines = (content or b"").decode("utf-8").removesuffix("\n").split("\n")
        return [row for line in lines if (row := split(line.rstrip("\r"))) is not None]

    return rows


def words_of(text: str) -> str:
    return re.sub(" +", " ", text).strip(" ")


def simple_row(line: str) -> tuple[Any, ...]:
    label, text = line.split("\t")
    return words_of(text), LABELS[label], 3, -1


def subjects_row(line: str) -> tuple[Any, ...] | None:
    label, text, subject, attractors = line.split("\t")
    if label == "label":
        return None
    assert int(subject) < len(words_of(text).split(" "))
    return words_of(text), LABELS[label], int(attractors), int(subject)


def labelled_row(line: str) -> tuple[Any, ...]:
    text, label = line.split("\t")
    return text.strip(), int(label)


def full_rows(case: Case) -> list[Any]:
    ((name, content),) = case.items()
    text = (gzip.decompress(content or b"") if name.endswith(".gz") else content or b"").decode()
    found = []
    for row in csv.DictReader(io.StringIO(text.replace("\r\n", "\n"), newline=""), delimiter="\t"):
        words = [word for word in row["sentence"].split(" ") if word]
        prefix, subject = words[: int(row["verb_index"]) - 1], int(row["subj_index"]) - 1
        assert 0 <= subject < len(prefix)
        label = LABELS[row["verb_pos"]]
        found.append((" ".join(prefix), label, int(row["n_diff_intervening"]), subject))
    assert found
    return found


def sentences_in(case: Case) -> list[str]:
    text = (case["sentences.txt"] or b"").removeprefix(b"\xef\xbb\xbf").decode("utf-8")
    return [line.strip("\r") for line in text.split("\n") if line.strip()]


def arguments(folder: Path) -> Any:
    """Read a command line, NUL between its arguments, as the system hands one over."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
        return parser.parse(text_of(folder).split("\0"))  # asked for help, it exits


# Arrays.


def npz(arrays: dict[str, Any], *, packed: bool = False) -> bytes:
    buffer = io.BytesIO()
    (np.savez_compressed if packed else np.savez)(buffer, **arrays)
    return buffer.getvalue()


def arrays_in(name: str, case: Case) -> Any:
    """Return NumPy's reading of an npz file."""
    return np.load(io.BytesIO(case[name] or b""), allow_pickle=False)


@functools.cache
def attention_seeds() -> list[Case]:
    weights = np.random.default_rng(0).dirichlet(np.ones(3), (2, 2, 1, 3)).astype(np.float32)
    masked = weights.copy()
    masked[..., 2], masked[..., 1] = 0, 1 - masked[..., 0]
    tokens = np.array([["a", "b", "[PAD]"]] * 2)
    arrays = {"attention": masked, "mask": np.array([[True, True, False]] * 2), "tokens": tokens}
    fortran = {"attention": np.asfortranarray(weights), "tokens": np.arange(3)}
    double = npz({"attention": weights.astype(np.float64)})
    return one("a.npz", double, npz(arrays), npz(arrays, packed=True), npz(fortran))()


def saved_attention(folder: Path) -> dict[str, Any]:
    found = attention.read_attention(folder / "a.npz")
    arrays = {name: getattr(found, name) for name in ("attention", "mask", "tokens")}
    return {name: array for name, array in arrays.items() if array is not None}


def attention_in(case: Case) -> dict[str, Any]:
    found = arrays_in("a.npz", case)
    assert (found["attention"] >= 0).all()  # and none is NaN
    assert np.isfinite(found["attention"]).all()
    return {name: found[name] for name in ("attention", "mask", "tokens") if name in found}


@functools.cache
def scores_seeds() -> list[Case]:
    rng = np.random.default_rng(0)
    arrays = {name: rng.random((3, 2)) for name in SCORES} | {"length": np.array([4, 5, 6])}
    return one("scores.npz", npz(arrays), npz(arrays, packed=True))()


def scores_in(case: Case) -> dict[str, Any]:
    found = arrays_in("scores.npz", case)
    return {name: found[name] for name in (*SCORES, "length")}


@functools.cache
def picture_seeds() -> list[Case]:
    from PIL import Image

    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (9, 7, 4), np.uint8))
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "upright"
    plain: dict[str, dict[str, Any]] = {
        "JPEG": {"exif": exif}, "BMP": {}, "TIFF": {"compression": "tiff_lzw", "exif": exif},
        "PPM": {}, "EPS": {}, "TGA": {}, "JPEG2000": {}, "PCX": {}, "SGI": {}, "GIF": {},
    }  # fmt: skip
    found = []
    for kind in (*plain, "PNG", "WEBP", "ICO", "DDS"):
        buffer = io.BytesIO()
        picture = image.convert("RGB") if kind in plain else image
        picture.save(buffer, kind, **plain.get(kind, {}))
        found.append(buffer.getvalue())
    return one("picture", *found)()


def picture_size(folder: Path) -> list[Any]:
    found = read_picture(folder / "picture")
    return [found.dtype.name, found.shape[2:], sorted(found.shape[:2])]  # EXIF may turn it


def size_in(case: Case) -> list[Any]:
    from PIL import Image

    with Image.open(io.BytesIO(case["picture"] or b"")) as opened:
        return ["uint8", (3,), sorted(opened.size)]


SHARD = "shard-00000-of-00001.parquet"


def shard(about: dict[str, Any] | None = None, **columns: Any) -> Case:
    """Return a shard with some columns of its own and a checksum that fits."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rng = np.random.default_rng(0)
    values: dict[str, Any] = {
        "row": np.arange(3) * 2, "label": np.ones(3, np.int32),
        **{name: rng.normal(size=(3, 2)) for name in SCORES},
        "length": np.arange(3, 6, dtype=np.int32), **columns,
    }  # fmt: skip
    about = {"right": {"test": 2, "test_1": 1}, "plan": "f" * 64, **(about or {})}
    digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
    table = {}
    for name, each in values.items():
        digest.update(np.hstack(each).tobytes())
        whole = isinstance(each, np.ndarray) and each.ndim == 2
        flat = pa.array(np.ravel(each) if whole else each)
        table[name] = pa.FixedSizeListArray.from_arrays(flat, 2) if whole else flat
    about["checksum"] = digest.hexdigest()
    buffer = io.BytesIO()
    metadata = {b"jaxflow": json.dumps(about).encode()}
    pq.write_table(pa.table(table).replace_schema_metadata(metadata), buffer)
    return {SHARD: buffer.getvalue()}


PLAN: dict[str, Any] = {
    "shards": 3, "sentences": 10, "protocol": {"samples": 10, "seed": 0, "score": "p"},
    "model": "a" * 64, "corpus": "b" * 64, "lengths": [8, 16], "versions": {"jax": "1"},
}  # fmt: skip


# Runs.


def encoder_config(folder: Path) -> EncoderConfig:
    try:
        return EncoderConfig.from_dict(json.loads((folder / "config.json").read_bytes()))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{folder / 'config.json'} cannot be read: {error}") from error


LINES = "".join(
    json.dumps({"step": step, "loss": 0.5, "accuracy": 0.5, "seconds": step / 10}) + "\n"
    for step in (1, 2, 3)
)
ROWS = [{"loss": 0.5, "accuracy": 1.0}, {"loss": 0.25, "accuracy": 0.0}]


def journal(folder: Path) -> bytes:
    """Open a journal to go on after step 2, and return what it kept."""
    run.Journal(folder, 2).close()
    return (folder / "metrics.jsonl").read_bytes()


def journal_in(case: Case) -> bytes:
    """Whole lines are kept up to the first later step; a line that has no end is dropped."""
    found = b""
    for line in (case.get("metrics.jsonl") or b"").split(b"\n")[:-1]:
        if json.loads(line)["step"] > 2:
            break
        found += line + b"\n"
    return found


def put_off(folder: Path) -> Any:
    """Take up the metrics that were put off at step 2."""
    with contextlib.closing(run.Journal(folder, 2)) as opened:
        return opened.read_pending(2)


def put_off_in(case: Case) -> Any:
    content = case.get("pending.json")
    stated = {"step": 0} if content is None else json.loads(content)
    rows = stated["metrics"] if stated["step"] == 2 else []
    return [{name: float(value) for name, value in row.items()} for row in rows]


@functools.cache
def states() -> dict[int, TrainState]:
    """Return two states of a run, which differ in every number."""
    return {
        step: TrainState(
            jnp.asarray(step, jnp.int32),
            {"a": jnp.linspace(0, step, 6).reshape(3, 2), "b": jnp.arange(4) + step},
            (jnp.ones(2) * step,),
        )
        for step in (5, 10)
    }


@functools.cache
def checkpoint_seeds() -> list[Case]:
    def write(folder: Path) -> None:
        with checkpoint.open_checkpoints(folder / "checkpoints") as checkpoints:
            for state in states().values():
                checkpoints.save(state)

    return [made(write)]


def numbers_of(state: Any) -> list[np.ndarray]:
    return [np.asarray(leaf) for leaf in jax.tree.leaves(state)]


def read_checkpoints(folder: Path) -> Any:
    """Return the state that a run would go on from."""
    with checkpoint.open_checkpoints(folder / "checkpoints", lambda line: None) as checkpoints:
        return numbers_of(checkpoints.restore(states()[5]))


def last_whole(case: Case) -> list[np.ndarray]:
    """Return the state of the last checkpoint whose files are all as they were written.

    No seal is ever made to fit: TensorStore would read hostile files, which nothing in Python can
    keep from ending the process.
    """

    def part(case: Case, step: int) -> dict[str, bytes | None]:
        start = f"checkpoints/{step}/"
        return {n: c for n, c in case.items() if n.startswith(start) and c is not None}

    good = checkpoint_seeds()[0]
    whole = [step for step in states() if part(case, step) == part(good, step)]
    return numbers_of(states()[max(whole)]) if whole else []


def lock_holder(folder: Path) -> None:
    """Lock a folder that another process holds, whose lock file has the case's content."""
    import fcntl

    with open(folder / ".lock", "a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with lock.hold(folder):
            raise AssertionError("held twice")


CARD = f"# A model\n\nIt is small.\n\n{START}\n\n| | |\n|---|---|\n\n{END}\n\nMore.\n"
MEASURED = f"{START}\n\nmeasured anew\n\n{END}"


SPLITS = {"train": 3, "val": 5, "test": 10}


def split_rows(name: str) -> list[tuple[str, str]]:
    return [(("VBP", "VBZ", "VBZ")[row % 3], f"the key {name} {row}")
            for row in range(SPLITS[name])]  # fmt: skip


@functools.cache
def corpus_seeds(reviews: bool = False) -> list[Case]:
    """Return what TFDS prepares of a small corpus, in blocks of four rows, beside its source."""

    def write(folder: Path) -> None:
        (folder / "source").mkdir()
        for name in ("train", "dev") if reviews else SPLITS:
            file = f"{name}.tsv" if reviews else f"numpred.{name}"
            text = SST2 if reviews else "".join(f"{label}\t{t}\n" for label, t in split_rows(name))
            (folder / "source" / file).write_text(text)
        if reviews:
            sst2.load_sst2(folder / "source", cache=folder)
        else:
            corpus.load_corpus("simple", folder / "source", cache=folder)

    before, prepared.BLOCK = prepared.BLOCK, 4
    try:
        return [made(write)]
    finally:
        prepared.BLOCK = before


def read_corpus(folder: Path) -> Any:
    """Read the corpus into memory, and its held-out splits from the disk."""
    whole = corpus.load_corpus("simple", folder / "source", cache=folder)
    stored = corpus.open_corpus("simple", folder / "source", cache=folder)
    splits = [*whole.items()]
    splits += [(name, split.read(np.arange(len(split)))) for name, split in stored.items()]
    return [(name, list(split.prefixes), split.labels.tolist()) for name, split in splits]


def corpus_in(case: Case) -> Any:
    """Return the rows of the files that the corpus was made from."""
    return [(name, [text for _, text in split_rows(name)],
             [LABELS[label] for label, _ in split_rows(name)])
            for name in (*SPLITS, "val", "test")]  # fmt: skip


def read_sst2(folder: Path) -> Any:
    return [list(zip(split.texts, split.labels.tolist(), strict=True))
            for split in sst2.load_sst2(folder / "source", cache=folder).values()]  # fmt: skip


# Models.

PIECES = ("the", "key", "##s", "to", "cabinet", "un", "##like", ".")
ENTRIES = ("<s>", "<pad>", "</s>", "<unk>", "<mask>", "t", "h", "e", "Ġ", "th", "the", "Ġthe")
SETTINGS = b'{"unk_token": {"content": "[UNK]"}, "do_lower_case": false}'
TEXTS = ("the keys to the cabinet .", "", "Unlike\tthe <mask> [MASK]  שלום \U0001f680 e\u0301")
SIZES: dict[str, Any] = {"layers": 1, "heads": 1, "width": 2, "hidden_width": 2}
ON_THE_HUB = SIZES | {"vocabulary": 13, "positions": 12}


@functools.cache
def words() -> Model:
    """Return an agreement encoder of one layer."""
    tokenizer = WordTokenizer(("[PAD]", "[CLS]", "[UNK]", "the", "keys", "[MASK]"))
    config = EncoderConfig(vocabulary=6, positions=6, **SIZES)
    return Model(config, models.init(config), tokenizer)


@functools.cache
def exported() -> Case:
    more: Any = {"recipe": {"seed": 0}, "accuracy": {"test": {"all": 0.5}}}
    return made(lambda path: models.save(path, words(), precision="float16", **more))


@functools.cache
def run_model() -> Case:
    """Return what ``jaxflow train`` left in earlier versions."""
    return earlier({name: content or b"" for name, content in exported().items()}, "run")


def sealed(case: Case) -> Case:
    """Return a case whose checksums fit its files, as an attacker can make it."""

    def seal(name: str) -> bytes:
        card = json.loads(case[name] or b"")
        sizes = "config" if name == "model.json" else "encoder"
        for other in card["sha256"].keys() - {sizes}:
            card["sha256"][other] = checksum(case[other] or b"")
        card["sha256"][sizes] = checksum(canonical(card[sizes]))
        return json.dumps(card).encode()

    try:
        (name,) = (name for name in case if name in ("config.json", "model.json"))
        return {**case, name: seal(name)}
    except (LookupError, TypeError, ValueError, AttributeError, RecursionError):
        return case


@functools.cache
def tokenizers() -> dict[str, Any]:
    """Return a tokenizer of word pieces and one of byte pairs, of 13 and 12 entries."""
    merges = [("t", "h"), ("th", "e"), ("Ġ", "the")]
    return {"pieces": word_pieces((*SPECIAL, *PIECES)), "pairs": byte_pairs(ENTRIES, merges)}


def tokenizer_json(kind: str) -> bytes:
    return str(tokenizers()[kind].backend.to_str()).encode()


@functools.cache
def published() -> tuple[Case, ...]:
    """Return BERT, RoBERTa, GPT-2 and ViT, as the hub has them."""
    labels, text = ("no", "yes"), ON_THE_HUB | {"positions": 8}
    pixels: Any = {"image": (4, 4), "patch": 2, "channels": 1, "mean": (0.5,), "std": (0.5,)}
    kinds: list[tuple[Any, str]] = [
        (BertConfig(head="classification", labels=labels, **text), "pieces"),
        (BertConfig(kind="roberta", pad_id=1, **text), "pairs"),
        (Gpt2Config(**text), "pairs"),
        (ViTConfig(labels=labels, **pixels, **SIZES), "none"),
    ]
    found = [
        Model(config, jax.tree.map(np.asarray, models.init(config)), tokenizers().get(kind))
        for config, kind in kinds
    ]
    return tuple(made(lambda path, one=one: models.save_pretrained(path, one)) for one in found)


def tensors(content: bytes) -> dict[str, np.ndarray]:
    """Read safetensors by its definition: the header, then slices of what follows."""
    kinds = {"F16": np.float16, "F32": np.float32, "F64": np.float64, "BF16": ml_dtypes.bfloat16}
    (length,) = struct.unpack("<Q", content[:8])
    body, found = content[8 + length :], {}
    for name, entry in json.loads(content[8 : 8 + length]).items():
        if name != "__metadata__":
            begin, end = entry["data_offsets"]
            kind = np.dtype(kinds[entry["dtype"]])
            found[name] = np.frombuffer(body[begin:end], kind).reshape(entry["shape"])
    return found


def read_weights(folder: Path) -> dict[str, np.ndarray]:
    """Read tensors as their bits, in which NaN equals NaN."""
    with open_weights(folder) as weights:
        return {name: bits(weights.read(name)) for name in weights.shapes}


def bits(array: np.ndarray) -> tuple[Any, ...]:
    return array.dtype, array.shape, array.tobytes()


def weights_in(case: Case) -> dict[str, Any]:
    names = ["model.safetensors"]
    if case.get(names[0]) is None:
        index = json.loads(case["model.safetensors.index.json"] or b"")
        names = sorted(set(index["weight_map"].values()))
    return {name: bits(values) for file in names
            for name, values in tensors(case[file] or b"").items()}  # fmt: skip


def check_model(case: Case) -> Callable[[Model], None]:
    """Check that every parameter is one of the file's numbers, and every word in its table."""
    (content,) = (content for name, content in case.items() if name.endswith(".safetensors"))
    stored = [each.astype(np.float32).ravel() for each in tensors(content or b"").values()]

    def check(model: Model) -> None:
        for leaf in jax.tree.leaves(model.params):
            assert leaf.dtype == np.float32
            assert np.isin(leaf, np.concatenate(stored)).all() or np.isnan(leaf).any()
        if hasattr(model.tokenizer, "backend"):  # added tokens may lie beyond the model's table
            ids = model.tokenizer.backend.get_vocab(with_added_tokens=False).values()
            assert max(ids, default=0) < model.config.vocabulary

    return check


def read_vocabulary(folder: Path) -> list[str]:
    path = folder / "vocab.txt"
    found = WordTokenizer.parse(path.read_bytes() if path.is_file() else b"", folder)
    assert list(found.decode(range(len(found)))) == list(found.words)
    return list(found.words)


def load_name(folder: Path) -> Any:
    """Load a model by a text that names nothing on the hub."""
    if is_hub_name(text_of(folder)) or text_of(folder) in ("", "."):
        raise InputError("a name on the hub, which is not asked here")
    return models.load(text_of(folder))


def read_and_split(folder: Path) -> Any:
    """Read a tokenizer and split texts with it; a text that cannot be split is no fault."""
    tokenizer, found = models.read_tokenizer(folder), {}
    for text in TEXTS if tokenizer else ():
        with contextlib.suppress(InputError):
            pieces = found[text] = tokenizer.read(text)
            assert tokenizer.decode(pieces.ids) == list(pieces.tokens)
    return found


def check_splits(case: Case) -> Callable[[Any], None]:
    """Check the numbers against the library's."""
    from tokenizers import Tokenizer

    content = case.get("tokenizer.json")

    def check(found: Any) -> None:
        theirs = Tokenizer.from_str((content or b"").decode("utf-8")) if found else None
        for text, pieces in found.items():
            assert len(pieces.ids) == len(pieces.tokens) == len(pieces.words) == len(pieces.spans)
            assert all(0 <= begin <= end <= len(text) for begin, end in pieces.spans)
            theirs.no_truncation()
            theirs.no_padding()
            assert list(pieces.ids) == theirs.encode(text).ids

    return check


@functools.cache
def reading_by(kind: str) -> Callable[[str], Any]:
    if kind == "words":
        return reading.reader(words())
    if kind == "gpt2":
        return reading.reader(Model(Gpt2Config(**ON_THE_HUB), None, tokenizers()["pairs"]))
    head: Any = {"head": "masked-lm"}
    if kind != "masked":
        head = {"head": "classification", "labels": ("a", "b")}
    model = Model(BertConfig(**ON_THE_HUB, **head), None, tokenizers()["pieces"])
    return reading.reader(model, words=kind == "joined")


def check_reading(value: Any) -> None:
    assert 1 <= len(value.ids) <= 12
    assert len(value.members) == len(value.ids)
    assert sorted(set(value.members)) == list(range(len(value.units)))
    assert 0 <= value.place < len(value.ids)
    assert all(0 <= number < 13 for number in value.ids)


@functools.cache
def weight_seeds() -> tuple[Case, Case]:
    from safetensors.numpy import save as pack

    arrays = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.zeros((0, 4), np.float16),
              "c": np.array(1.5), "d": np.ones(3, ml_dtypes.bfloat16)}  # fmt: skip
    parts = {f"model-{n}.safetensors": pack({f"t{n}": np.ones(n + 1)}) for n in (0, 1)}
    index = {"metadata": {}, "weight_map": {f"t{n}": f"model-{n}.safetensors" for n in (0, 1)}}
    whole = {"model.safetensors": pack(arrays, {"format": "pt"})}
    return whole, {**parts, "model.safetensors.index.json": json.dumps(index).encode()}


CELL = {"mean": 0.5, "std": 0.1, "ci95": [0.4, 0.6], "n": 10, "nan": 0}
TABLES = {
    "tables": {"blank_out": {"raw": [CELL] * 2, "flow": [CELL] * 2}}, "saturation": [CELL] * 2,
    "entropy": {row: [CELL] * 2 for row in ("raw", "rollout", "flow")}, "samples": 10,
}  # fmt: skip

READERS = (
    Reader("corpus, simple", one("numpred.test.3", SIMPLE, SIMPLE.replace("\n", "\r\n"), "VBZ\tx"),
           lambda folder: list(formats.read_simple(folder / "numpred.test.3")),
           rows_by(simple_row), 3),
    Reader("corpus, subjects", one("subjects.tsv", SUBJECTS),
           lambda folder: list(formats.read_subjects(folder / "subjects.tsv")),
           rows_by(subjects_row), 3),
    Reader("corpus, full", one("table.tsv", FULL, FULL.replace("\n", "\r\n")),
           lambda folder: list(formats.read_full(folder / "table.tsv")), full_rows, 3),
    Reader("corpus, full and packed", one("table.tsv.gz", gzip.compress(FULL.encode(), mtime=0)),
           lambda folder: list(formats.read_full(folder / "table.tsv.gz")), full_rows, 2),
    Reader("sst2", one("rows.tsv", SST2),
           lambda folder: list(formats.read_labelled(folder / "rows.tsv")),
           rows_by(labelled_row), 3),
    Reader("sst2, labels hidden", one("rows.tsv", "a fine film\t-1\ndull\t-1\n", SST2),
           lambda folder: list(formats.read_labelled(folder / "rows.tsv", hidden=True)),
           rows_by(labelled_row), 2),
    Reader("pronoun schemas", one("schemas.tsv", SCHEMAS),
           lambda folder: read_schemas(folder / "schemas.tsv"), share=3),
    Reader("pronoun schema as text",
           one("text", "Ann met Paul near [MASK] car. | Ann=her | Paul=his"),
           lambda folder: parse_schema(text_of(folder)), share=2, names_file=False),
    Reader("sentences",
           one("sentences.txt", "the keys to the cabinet\r\n\n  a cat \u2028 sleeps\n"),
           lambda folder: _console.read_sentences(folder / "sentences.txt"), sentences_in, 3),
    Reader("command line", one("text", *COMMANDS), arguments, share=0.02, names_file=False),
    Reader("attention npz", attention_seeds, saved_attention, attention_in, 3),
    Reader("scores npz", scores_seeds,
           lambda folder: SentenceScores.load(folder / "scores.npz").arrays, scores_in,
           0.3),
    # A picture of 16 million pixels, which is read from any file, once more in RGB.
    Reader("picture", picture_seeds, picture_size, size_in, room=320 << 20),
    Reader("scores of a shard", lambda: [shard()],
           lambda folder: shards.read_shard(folder / SHARD)),
    Reader("plan of shards", one("plan.json", PLAN), lambda folder: claim_plan(folder, PLAN)),
    Reader("run's configuration",
           one("config.json", TrainConfig().to_dict(), {"epochs": 2, "corpus": "full"},
               TrainConfig(data=Path("x"), buckets=()).to_dict()),
           run.read_config, share=3),
    Reader("fine-tuning's configuration", one("config.json", FineTuneConfig(dropout=0.1).to_dict()),
           lambda folder: run.read_config(folder, FineTuneConfig), share=2),
    Reader("run's journal", one("metrics.jsonl", LINES, LINES[:-9]), journal, journal_in, 3),
    Reader("training's curves", one("metrics.jsonl", LINES), read_journey),
    Reader("metrics put off",
           one("pending.json", {"step": 2, "metrics": ROWS}, {"step": 3, "metrics": ROWS}),
           put_off, put_off_in, 2),
    Reader("checkpoints", checkpoint_seeds, read_checkpoints, last_whole, 0.4),
    Reader("lock's holder", one(".lock", "process 17 on a machine"), lock_holder, share=0.5),
    Reader("model's card", one("card.md", CARD, "# A model\n"),
           lambda folder: with_measured(read_card(folder / "card.md"), MEASURED)),
    Reader("evaluation's tables", one("tables.json", TABLES), read_tables),
    Reader("prepared corpus", corpus_seeds, read_corpus, corpus_in, 0.3, fixed="source/"),
    Reader("prepared sst2", lambda: corpus_seeds(True), read_sst2,
           lambda case: [[labelled_row(line) for line in SST2.splitlines()]] * 2, 0.3,
           fixed="source/"),
    Reader("safetensors", lambda: [weight_seeds()[0]], read_weights, weights_in, 3),
    Reader("safetensors in shards", lambda: [weight_seeds()[1]], read_weights, weights_in, 2),
    Reader("encoder's configuration", lambda: one("config.json", words().config.to_dict())(),
           encoder_config, share=3),
    Reader("published model", published, models.load, check_model, 0.5),
    Reader("exported model", lambda: [exported()], models.load, check_model, 0.2, seal=sealed),
    Reader("run's model", lambda: [run_model()], models.load, check_model, 0.2, seal=sealed),
    Reader("model's name", one("text", "./agreement", "/tmp/model/x", "a/b/c", "~/x"), load_name,
           share=0.5, names_file=False),
    Reader("vocabulary of words", lambda: [{"vocab.txt": exported()["vocab.txt"]}],
           read_vocabulary, lambda case: (case["vocab.txt"] or b"").decode().split("\n")[:-1], 2),
    Reader("tokenizer.json",
           lambda: [{"tokenizer.json": tokenizer_json(kind), "tokenizer_config.json": SETTINGS}
                    for kind in ("pieces", "pairs")], read_and_split, check_splits, 2),
    *(Reader(f"sentence, {kind}", one("text", *TEXTS, "the keys to [MASK] cabinet"),
             lambda folder, kind=kind: reading_by(kind)(text_of(folder)),
             lambda case: check_reading, names_file=False)
      for kind in ("words", "pieces", "joined", "masked", "gpt2")),
)  # fmt: skip
