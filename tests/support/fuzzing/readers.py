"""List every reader: its name, valid files, the function and an independent oracle."""

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

from fuzzing.harness import Reader
from fuzzing.mutate import Case
from jaxflow.commands._console import read_sentences
from jaxflow.commands.parser import parse
from jaxflow.errors import InputError
from jaxflow.eval.explain.patches import read_picture
from jaxflow.eval.io.export import END, START, read_card, with_measured
from jaxflow.eval.paper.scores import ENTROPY_ROWS, ROWS, TARGETS, SentenceScores
from jaxflow.eval.paper.tables import read_tables
from jaxflow.eval.plots.curves import read_journey
from jaxflow.eval.pronouns.schemas import parse_schema, read_schemas
from jaxflow.eval.score.attention import read_attention
from jaxflow.eval.score.reading import reader as reading_of
from jaxflow.eval.sharded.files import Shard, read_shard, write_shard
from jaxflow.eval.sharded.run import claim_plan
from jaxflow.models import (
    AgreementEncoder,
    BertConfig,
    EncoderConfig,
    Gpt2Config,
    Model,
    ViTConfig,
    WordTokenizer,
    init,
    load,
    read_tokenizer,
    save,
    save_pretrained,
)
from jaxflow.models.tensors import open_weights
from jaxflow.train import prepared as blocks
from jaxflow.train.checkpoint import open_checkpoints
from jaxflow.train.config import FineTuneConfig, TrainConfig
from jaxflow.train.corpus import load_corpus, open_corpus
from jaxflow.train.formats import read_full, read_labelled, read_simple, read_subjects
from jaxflow.train.lock import hold
from jaxflow.train.run import Journal, read_config
from jaxflow.train.sst2 import load_sst2
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


def one(name: str, *contents: str | bytes) -> Callable[[], list[Case]]:
    """Return a maker of good cases of one file."""
    return lambda: [
        {name: content.encode() if isinstance(content, str) else content} for content in contents
    ]


def files(folder: Path) -> dict[str, bytes | None]:
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def made(write: Callable[[Path], Any]) -> dict[str, bytes | None]:
    """Return the files that a function writes to a folder."""
    with tempfile.TemporaryDirectory() as name:
        write(Path(name))
        return files(Path(name))


def text_of(folder: Path) -> str:
    return (folder / "text").read_bytes().decode("utf-8", "surrogateescape")


# Text.


def rows_of(case: Case, split: Callable[[str], tuple[Any, ...] | None]) -> list[Any]:
    """Split the lines of a case's file; rows for which None comes back are left out."""
    (content,) = case.values()
    lines = (content or b"").decode("utf-8").split("\n")
    lines = [line.rstrip("\r") for line in (lines[:-1] if lines[-1] == "" else lines)]
    return [row for row in map(split, lines) if row is not None]


def words_of(text: str) -> str:
    return re.sub(" +", " ", text).strip(" ")


def rows_are(split: Callable[[str], tuple[Any, ...] | None]) -> Callable[[Path, Case, Any], None]:
    """Return an oracle: what was read are the lines, split by the format's definition."""

    def oracle(folder: Path, case: Case, value: Any) -> None:
        assert [tuple(row) for row in value] == rows_of(case, split) != []

    return oracle


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


def full_oracle(folder: Path, case: Case, value: Any) -> None:
    ((name, content),) = case.items()
    text = (gzip.decompress(content or b"") if name.endswith(".gz") else content or b"").decode()
    expected = []
    for row in csv.DictReader(io.StringIO(text.replace("\r\n", "\n"), newline=""), delimiter="\t"):
        words = [word for word in row["sentence"].split(" ") if word]
        prefix, subject = words[: int(row["verb_index"]) - 1], int(row["subj_index"]) - 1
        assert 0 <= subject < len(prefix)
        label = LABELS[row["verb_pos"]]
        expected.append((" ".join(prefix), label, int(row["n_diff_intervening"]), subject))
    assert [tuple(row) for row in value] == expected != []


def sentences_oracle(folder: Path, case: Case, value: Any) -> None:
    text = (case["sentences.txt"] or b"").removeprefix(b"\xef\xbb\xbf").decode("utf-8")
    assert [line.strip("\r") for line in text.split("\n") if line.strip()] == value


def arguments(folder: Path) -> Any:
    """Read a command line, NUL between its arguments, as the system hands one over."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
        return parse(text_of(folder).split("\0"))  # asked for help, it exits


# Arrays.


def npz(arrays: dict[str, Any], *, packed: bool = False) -> bytes:
    buffer = io.BytesIO()
    (np.savez_compressed if packed else np.savez)(buffer, **arrays)
    return buffer.getvalue()


@functools.cache
def attention_seeds() -> list[Case]:
    attention = np.random.default_rng(0).dirichlet(np.ones(3), (2, 2, 1, 3)).astype(np.float32)
    masked = attention.copy()
    masked[..., 2], masked[..., 1] = 0, 1 - masked[..., 0]
    tokens = np.array([["a", "b", "[PAD]"]] * 2)
    arrays = {"attention": masked, "mask": np.array([[True, True, False]] * 2), "tokens": tokens}
    fortran = {"attention": np.asfortranarray(attention), "tokens": np.arange(3)}
    double = npz({"attention": attention.astype(np.float64)})
    return one("a.npz", double, npz(arrays), npz(arrays, packed=True), npz(fortran))()


def attention_oracle(folder: Path, case: Case, value: Any) -> None:
    with np.load(folder / "a.npz", allow_pickle=False) as file:
        for name in ("attention", "mask", "tokens"):
            found = getattr(value, name)
            assert (found is None) == (name not in file.files)
            if found is not None:
                np.testing.assert_array_equal(found, file[name], strict=True)
    assert np.isfinite(value.attention).all()
    assert (value.attention >= 0).all()


@functools.cache
def scores_seeds() -> list[Case]:
    rng = np.random.default_rng(0)
    names = [f"{target}/{row}" for target in TARGETS for row in ROWS]
    names += [f"entropy/{row}" for row in ENTROPY_ROWS] + ["saturated"]
    arrays = {name: rng.random((3, 2)) for name in names} | {"length": np.array([4, 5, 6])}
    return one("scores.npz", npz(arrays), npz(arrays, packed=True))()


def scores_oracle(folder: Path, case: Case, value: Any) -> None:
    with np.load(folder / "scores.npz", allow_pickle=False) as file:
        for name, values in value.arrays.items():
            np.testing.assert_array_equal(values, file[name])
            assert values.dtype.kind in "iuf"


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


def picture_oracle(folder: Path, case: Case, value: Any) -> None:
    from PIL import Image

    assert (value.dtype, value.ndim, value.shape[-1]) == (np.uint8, 3, 3)
    with Image.open(io.BytesIO(case["picture"] or b"")) as opened:
        assert sorted(opened.size) == sorted(value.shape[:2])


SHARD = "shard-00000-of-00001.parquet"
LAYERED = (*(f"{target}/{row}" for target in TARGETS for row in ROWS),
           *(f"entropy/{row}" for row in ENTROPY_ROWS), "saturated")  # fmt: skip


@functools.cache
def shard_seeds() -> list[Case]:
    def write(folder: Path) -> None:
        rng = np.random.default_rng(0)
        arrays = {name: rng.normal(size=(3, 2)) for name in LAYERED}
        arrays |= {f"entropy/{row}": np.full((3, 2), 0.25) for row in ENTROPY_ROWS}
        scores = SentenceScores({**arrays, "length": np.arange(3, 6, dtype=np.int32)}, 2)
        rows, ones = np.arange(3, dtype=np.int64) * 2, np.ones(3, np.int32)
        write_shard(folder / SHARD, Shard(scores, rows, ones, {"test": 2, "test_1": 1}, "f" * 64))

    return [made(write)]


def changed_shard(name: str, values: list[Any], **about: Any) -> Case:
    """Return a shard with another column and a valid checksum, as an attacker can make it."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pq.read_table(pa.BufferReader(shard_seeds()[0][SHARD]))
    told = {**json.loads(table.schema.metadata[b"jaxflow"]), **about}
    table = table.set_column(table.column_names.index(name), name, pa.array(values))
    digest = hashlib.sha256(
        json.dumps({"plan": told["plan"], "right": told["right"]}, sort_keys=True).encode()
    )
    with contextlib.suppress(Exception):
        for each in ("row", "label", *LAYERED, "length"):
            column = table[each].combine_chunks()
            flat = column.flatten() if each in LAYERED else column
            numbers = np.asarray(flat.to_numpy(zero_copy_only=False))
            digest.update((numbers.astype(np.float64) if each in LAYERED else numbers).tobytes())
    told["checksum"] = digest.hexdigest()
    buffer = io.BytesIO()
    pq.write_table(table.replace_schema_metadata({b"jaxflow": json.dumps(told).encode()}), buffer)
    return {SHARD: buffer.getvalue()}


def shard_oracle(folder: Path, case: Case, value: Any) -> None:
    """Check that every number is that of its row in the table."""
    import pyarrow.parquet as pq

    table = pq.read_table(folder / SHARD)
    for name, found in {**value.scores.arrays, "row": value.rows, "label": value.labels}.items():
        np.testing.assert_array_equal(found, np.array(table[name].to_pylist()))
    about = json.loads(table.schema.metadata[b"jaxflow"])
    assert (value.right, value.plan) == (about["right"], about["plan"])


PLAN: dict[str, Any] = {
    "shards": 3, "sentences": 10, "protocol": {"samples": 10, "seed": 0, "score": "p"},
    "model": "a" * 64, "corpus": "b" * 64, "lengths": [8, 16], "versions": {"jax": "1"},
}  # fmt: skip


def plan_oracle(folder: Path, case: Case, value: Any) -> None:
    stated = json.loads(case.get("plan.json") or json.dumps(PLAN))
    assert {name: stated[name] for name in PLAN} == PLAN


# Runs.


def config_oracle(folder: Path, case: Case, value: Any) -> None:
    """Check the result against the JSON, value by value and type by type."""
    if value is None:
        assert not case.get("config.json")
        return
    stated, fields = json.loads(case["config.json"] or b""), value.to_dict()
    assert stated.keys() <= fields.keys()
    for name, each in stated.items():
        if name == "data" and each is not None:
            assert Path(each) == Path(fields[name])
        else:
            assert fields[name] == each
            assert isinstance(fields[name], bool) == isinstance(each, bool), name


def encoder_config(folder: Path) -> Any:
    try:
        return EncoderConfig.from_dict(json.loads((folder / "config.json").read_bytes()))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{folder / 'config.json'} cannot be read: {error}") from error


def journal(folder: Path) -> bytes:
    """Open a journal to go on after step 2, and return what it kept."""
    Journal(folder, 2).close()
    return (folder / "metrics.jsonl").read_bytes()


def journal_oracle(folder: Path, case: Case, value: Any) -> None:
    """Whole lines are kept up to the first later step; a line that has no end is dropped."""
    expected = b""
    for line in (case.get("metrics.jsonl") or b"").split(b"\n")[:-1]:
        if json.loads(line)["step"] > 2:
            break
        expected += line + b"\n"
    assert value == expected


def put_off(folder: Path) -> Any:
    """Take up the metrics that were put off at step 2."""
    with contextlib.closing(Journal(folder, 2)) as opened:
        return opened.read_pending(2)


def put_off_oracle(folder: Path, case: Case, value: Any) -> None:
    content = case.get("pending.json")
    stated = {"step": 0, "metrics": []} if content is None else json.loads(content)
    assert value == (stated["metrics"] if stated["step"] == 2 else [])


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
        with open_checkpoints(folder / "checkpoints") as checkpoints:
            for state in states().values():
                checkpoints.save(state)

    return [made(write)]


def read_checkpoints(folder: Path) -> Any:
    """Return the state that a run would go on from."""
    with open_checkpoints(folder / "checkpoints", lambda line: None) as checkpoints:
        found = checkpoints.restore(states()[5])
    return found if found is None else jax.tree.map(np.asarray, found)


def checkpoint_oracle(folder: Path, case: Case, value: Any) -> None:
    """The state is that of the last checkpoint whose files are all as they were written.

    No seal is ever made to fit: TensorStore would read hostile files, which nothing in Python can
    keep from ending the process.
    """

    def part(case: Case, step: int) -> dict[str, bytes | None]:
        start = f"checkpoints/{step}/"
        return {n: c for n, c in case.items() if n.startswith(start) and c is not None}

    good = checkpoint_seeds()[0]
    whole = [step for step in states() if part(case, step) == part(good, step)]
    assert (value is None) == (not whole)
    if whole:
        jax.tree.map(np.testing.assert_array_equal, value, states()[max(whole)])


def lock_holder(folder: Path) -> None:
    """Lock a folder that another process holds, whose lock file has the case's content."""
    import fcntl

    with open(folder / ".lock", "a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with hold(folder):
            raise AssertionError("held twice")


CARD = f"# A model\n\nIt is small.\n\n{START}\n\n| | |\n|---|---|\n\n{END}\n\nMore.\n"
MEASURED = f"{START}\n\nmeasured anew\n\n{END}"


def card_oracle(folder: Path, case: Case, value: Any) -> None:
    """Check that the text around the measured part is kept."""
    text = (case["card.md"] or b"").decode().replace("\r\n", "\n").replace("\r", "\n")
    before, _, after = value.partition(MEASURED)
    if START in text:
        assert text.startswith(before + START)
        assert text.endswith(END + after)
    else:
        assert (before.rstrip(), after.strip()) == (text.rstrip(), "")


BLOCK_ROWS = {"train": 3, "val": 5, "test": 10}


def _source(words: str, rows: int) -> str:
    return "".join(f"{'VBP' if row % 3 == 0 else 'VBZ'}\tthe key {words} {row}\n"
                   for row in range(rows))  # fmt: skip


@functools.cache
def corpus_seeds(sst2: bool = False) -> list[Case]:
    """Return what TFDS prepares of a small corpus, in blocks of four rows, beside its source."""

    def write(folder: Path) -> None:
        (folder / "source").mkdir()
        if sst2:
            for name in ("train", "dev"):
                (folder / "source" / f"{name}.tsv").write_text(SST2)
            load_sst2(folder / "source", cache=folder)
        else:
            for name, rows in BLOCK_ROWS.items():
                (folder / "source" / f"numpred.{name}").write_text(_source(name, rows))
            load_corpus("simple", folder / "source", cache=folder)

    before, blocks.BLOCK = blocks.BLOCK, 4
    try:
        return [made(write)]
    finally:
        blocks.BLOCK = before


def read_corpus(folder: Path) -> Any:
    """Read the corpus into memory, and its held-out splits from the disk."""
    whole = load_corpus("simple", folder / "source", cache=folder)
    stored = open_corpus("simple", folder / "source", cache=folder)
    return [*whole.items(), *((name, split.read(np.arange(len(split))))
                              for name, split in stored.items())]  # fmt: skip


def corpus_oracle(folder: Path, case: Case, value: Any) -> None:
    """The rows are those of the files that the corpus was made from."""
    assert [name for name, _ in value] == [*BLOCK_ROWS, "val", "test"]
    for name, split in value:
        lines = [line.split("\t") for line in _source(name, BLOCK_ROWS[name]).splitlines()]
        assert list(split.prefixes) == [text for _, text in lines]
        assert split.labels.tolist() == [LABELS[label] for label, _ in lines]


def sst2_oracle(folder: Path, case: Case, value: Any) -> None:
    for split in value.values():
        rows = [labelled_row(line) for line in SST2.splitlines()]
        assert list(zip(split.texts, split.labels.tolist(), strict=True)) == rows


# Models.

PIECES = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]",
          "the", "key", "##s", "to", "cabinet", "un", "##like", ".")  # fmt: skip
_ENTRIES = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", "t", "h", "e", "Ġ", "th", "the", "Ġthe"]
_MERGES = [("t", "h"), ("th", "e"), ("Ġ", "the")]
SETTINGS = b'{"unk_token": {"content": "[UNK]"}, "do_lower_case": false}'
TEXTS = ("the keys to the cabinet .", "", "Unlike\tthe <mask> [MASK]  שלום \U0001f680 e\u0301")
SIZES: dict[str, Any] = {"layers": 1, "heads": 1, "width": 2, "hidden_width": 2}


@functools.cache
def words() -> Model:
    """Return an agreement encoder of one layer."""
    tokenizer = WordTokenizer(("[PAD]", "[CLS]", "[UNK]", "the", "keys", "[MASK]"))
    config = EncoderConfig(vocabulary=6, positions=6, **SIZES)
    params = AgreementEncoder(config).init(jax.random.key(0), jnp.zeros((1, 1), jnp.int32))
    return Model(config, params, tokenizer)


@functools.cache
def exported() -> Case:
    more: Any = {"recipe": {"seed": 0}, "accuracy": {"test": {"all": 0.5}}}
    return made(lambda path: save(path, words(), precision="float16", **more))


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
def tokenizer_json(kind: str) -> bytes:
    from tokenizers import BertWordPieceTokenizer, ByteLevelBPETokenizer, processors

    if kind == "pieces":
        made: Any = BertWordPieceTokenizer({piece: place for place, piece in enumerate(PIECES)})
    else:
        numbers = {entry: place for place, entry in enumerate(_ENTRIES)}
        made = ByteLevelBPETokenizer(numbers, _MERGES)
        made.add_special_tokens(_ENTRIES[:5])
        made._tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    return str(made.to_str()).encode()


def tokenizer_of(kind: str) -> Any:
    with tempfile.TemporaryDirectory() as name:
        (Path(name) / "tokenizer.json").write_bytes(tokenizer_json(kind))
        return read_tokenizer(Path(name))


@functools.cache
def published() -> tuple[Case, ...]:
    """Return BERT, RoBERTa, GPT-2 and ViT, as the hub has them."""
    text, labels = SIZES | {"vocabulary": 13, "positions": 8}, ("no", "yes")
    pieces, pairs = tokenizer_of("pieces"), tokenizer_of("pairs")
    pixels: Any = {"image": (4, 4), "patch": 2, "channels": 1, "mean": (0.5,), "std": (0.5,)}
    kinds = [
        (BertConfig(head="classification", labels=labels, **text), pieces),
        (BertConfig(kind="roberta", pad_id=1, **text), pairs),
        (Gpt2Config(**text), pairs),
        (ViTConfig(labels=labels, **pixels, **SIZES), None),
    ]
    return tuple(
        made(lambda path, kind=kind: save_pretrained(
            path, Model(kind[0], jax.tree.map(np.asarray, init(kind[0])), kind[1])))
        for kind in kinds
    )  # fmt: skip


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
    with open_weights(folder) as weights:
        return {name: weights.read(name) for name in weights.shapes}


def weights_oracle(folder: Path, case: Case, value: Any) -> None:
    names = ["model.safetensors"]
    if case.get(names[0]) is None:
        index = json.loads(case["model.safetensors.index.json"] or b"")
        names = sorted(set(index["weight_map"].values()))
    expected = {name: each for file in names for name, each in tensors(case[file] or b"").items()}
    assert value.keys() == expected.keys()
    for name, values in value.items():
        assert (values.dtype, values.shape) == (expected[name].dtype, expected[name].shape)
        assert values.tobytes() == expected[name].tobytes()


def model_oracle(folder: Path, case: Case, value: Any) -> None:
    """Every parameter is one of the file's numbers, and no word is beyond the model's table."""
    (content,) = (content for name, content in case.items() if name.endswith(".safetensors"))
    stored = {each.astype(np.float32).tobytes() for each in tensors(content or b"").values()}
    stored |= {each.T.astype(np.float32).tobytes() for each in tensors(content or b"").values()}
    numbers = np.frombuffer(b"".join(stored), np.float32)
    for leaf in jax.tree.leaves(value.params):
        assert leaf.dtype == np.float32
        assert np.isin(leaf, numbers).all() or np.isnan(leaf).any()
    if value.tokenizer is not None and hasattr(value.tokenizer, "backend"):
        ids = value.tokenizer.backend.get_vocab(with_added_tokens=True).values()
        assert max(ids, default=0) < value.config.vocabulary


def vocabulary_oracle(folder: Path, case: Case, value: Any) -> None:
    assert "".join(f"{word}\n" for word in value.words) == (case["vocab.txt"] or b"").decode()
    assert len(set(value.words)) == len(value.words)
    assert value.decode(range(len(value))) == list(value.words)


def load_name(folder: Path) -> Any:
    """Load a model by a text that names nothing on the hub."""
    from jaxflow.models.hub import is_hub_name

    if is_hub_name(text_of(folder)) or text_of(folder) in ("", "."):
        raise InputError("a name on the hub, which is not asked here")
    return load(text_of(folder))


def read_and_split(folder: Path) -> Any:
    """Read a tokenizer and split texts with it; a text that cannot be split is no fault."""
    tokenizer = read_tokenizer(folder)
    found = []
    for text in TEXTS if tokenizer else ():
        with contextlib.suppress(InputError):
            found.append((text, tokenizer.read(text)))
    return tokenizer, found


def tokenizer_oracle(folder: Path, case: Case, value: Any) -> None:
    """Check the result against the library's."""
    from tokenizers import Tokenizer

    tokenizer, found = value
    content = case.get("tokenizer.json")
    theirs = None if content is None else Tokenizer.from_str(content.decode("utf-8"))
    for text, pieces in found:
        assert len(pieces.ids) == len(pieces.tokens) == len(pieces.words) == len(pieces.spans)
        assert tokenizer.decode(pieces.ids) == list(pieces.tokens)
        assert all(0 <= begin <= end <= len(text) for begin, end in pieces.spans)
        if theirs is not None:
            theirs.no_truncation()
            theirs.no_padding()
            assert list(pieces.ids) == theirs.encode(text).ids


@functools.cache
def _reading(kind: str) -> Callable[[str], Any]:
    if kind == "words":
        return reading_of(words())
    sizes = SIZES | {"vocabulary": 13, "positions": 12}
    if kind == "gpt2":
        return reading_of(Model(Gpt2Config(**sizes), None, tokenizer_of("pairs")))
    head: Any = {"head": "classification", "labels": ("a", "b")}
    config = BertConfig(**sizes, **({"head": "masked-lm"} if kind == "masked" else head))
    model = Model(config, None, tokenizer_of("pieces"))
    return reading_of(model, words=kind == "joined")


def reading_oracle(folder: Path, case: Case, value: Any) -> None:
    assert 1 <= len(value.ids) <= 12
    assert len(value.members) == len(value.ids)
    assert sorted(set(value.members)) == list(range(len(value.units)))
    assert 0 <= value.place < len(value.ids)
    assert all(0 <= number < 13 for number in value.ids)


@functools.cache
def _weight_seeds() -> tuple[Case, Case]:
    from safetensors.numpy import save as pack

    arrays = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.zeros((0, 4), np.float16),
              "c": np.array(1.5), "d": np.ones(3, ml_dtypes.bfloat16)}  # fmt: skip
    parts = {f"model-{n}.safetensors": pack({f"t{n}": np.ones(n + 1)}) for n in (0, 1)}
    index = {"metadata": {}, "weight_map": {f"t{n}": f"model-{n}.safetensors" for n in (0, 1)}}
    whole = {"model.safetensors": pack(arrays, {"format": "pt"})}
    return whole, {**parts, "model.safetensors.index.json": json.dumps(index).encode()}


def _json(name: str, *values: Any) -> Callable[[], list[Case]]:
    return one(name, *(json.dumps(value) for value in values))


_CELL = {"mean": 0.5, "std": 0.1, "ci95": [0.4, 0.6], "n": 10, "nan": 0}
_TABLES = {
    "tables": {"blank_out": {"raw": [_CELL] * 2, "flow": [_CELL] * 2}}, "saturation": [_CELL] * 2,
    "entropy": {row: [_CELL] * 2 for row in ("raw", "rollout", "flow")}, "samples": 10,
}  # fmt: skip
_LINES = "".join(
    json.dumps({"step": step, "loss": 0.5, "accuracy": 0.5, "seconds": step / 10}) + "\n"
    for step in (1, 2, 3)
)
_ROWS = [{"loss": 0.5, "accuracy": 1.0}, {"loss": 0.25, "accuracy": 0.0}]

READERS = (
    Reader("corpus, simple", one("numpred.test.3", SIMPLE, SIMPLE.replace("\n", "\r\n"), "VBZ\tx"),
           lambda folder: list(read_simple(folder / "numpred.test.3")), rows_are(simple_row), 3),
    Reader("corpus, subjects", one("subjects.tsv", SUBJECTS),
           lambda folder: list(read_subjects(folder / "subjects.tsv")), rows_are(subjects_row), 3),
    Reader("corpus, full", one("table.tsv", FULL, FULL.replace("\n", "\r\n")),
           lambda folder: list(read_full(folder / "table.tsv")), full_oracle, 3),
    Reader("corpus, full and packed", lambda: [{"table.tsv.gz": gzip.compress(FULL.encode())}],
           lambda folder: list(read_full(folder / "table.tsv.gz")), full_oracle, 2),
    Reader("sst2", one("rows.tsv", SST2), lambda folder: list(read_labelled(folder / "rows.tsv")),
           rows_are(labelled_row), 3),
    Reader("sst2, labels hidden", one("rows.tsv", "a fine film\t-1\ndull\t-1\n", SST2),
           lambda folder: list(read_labelled(folder / "rows.tsv", hidden=True)),
           rows_are(labelled_row), 2),
    Reader("pronoun schemas", one("schemas.tsv", SCHEMAS),
           lambda folder: read_schemas(folder / "schemas.tsv"), share=3),
    Reader("pronoun schema as text",
           one("text", "Ann met Paul near [MASK] car. | Ann=her | Paul=his"),
           lambda folder: parse_schema(text_of(folder)), share=2, names_file=False),
    Reader("sentences",
           one("sentences.txt", "the keys to the cabinet\r\n\n  a cat \u2028 sleeps\n"),
           lambda folder: read_sentences(folder / "sentences.txt"), sentences_oracle, 3),
    Reader("command line", one("text", *COMMANDS), arguments, share=0.02, names_file=False),
    Reader("attention npz", attention_seeds, lambda folder: read_attention(folder / "a.npz"),
           attention_oracle, 3),
    Reader("scores npz", scores_seeds, lambda folder: SentenceScores.load(folder / "scores.npz"),
           scores_oracle, 0.3),
    # A picture of 16 million pixels, which is read from any file, once more in RGB.
    Reader("picture", picture_seeds, lambda folder: read_picture(folder / "picture"),
           picture_oracle, room=320 << 20),
    Reader("scores of a shard", shard_seeds, lambda folder: read_shard(folder / SHARD),
           shard_oracle),
    Reader("plan of shards", _json("plan.json", PLAN), lambda folder: claim_plan(folder, PLAN),
           plan_oracle),
    Reader("run's configuration",
           _json("config.json", TrainConfig().to_dict(), {"epochs": 2, "corpus": "full"},
                 TrainConfig(data=Path("x"), buckets=()).to_dict()), read_config, config_oracle, 3),
    Reader("fine-tuning's configuration",
           _json("config.json", FineTuneConfig(dropout=0.1).to_dict()),
           lambda folder: read_config(folder, FineTuneConfig), config_oracle, 2),
    Reader("run's journal", one("metrics.jsonl", _LINES, _LINES[:-9]), journal, journal_oracle, 3),
    Reader("training's curves", one("metrics.jsonl", _LINES), read_journey),
    Reader("metrics put off",
           _json("pending.json", {"step": 2, "metrics": _ROWS}, {"step": 3, "metrics": _ROWS}),
           put_off, put_off_oracle, 2),
    Reader("checkpoints", checkpoint_seeds, read_checkpoints, checkpoint_oracle, 0.4),
    Reader("lock's holder", one(".lock", "process 17 on a machine"), lock_holder, share=0.5),
    Reader("model's card", one("card.md", CARD, "# A model\n"),
           lambda folder: with_measured(read_card(folder / "card.md"), MEASURED), card_oracle),
    Reader("evaluation's tables", _json("tables.json", _TABLES), read_tables),
    Reader("prepared corpus", corpus_seeds, read_corpus, corpus_oracle, 0.3, fixed="source/"),
    Reader("prepared sst2", lambda: corpus_seeds(True),
           lambda folder: load_sst2(folder / "source", cache=folder), sst2_oracle, 0.3,
           fixed="source/"),
    Reader("safetensors", lambda: [_weight_seeds()[0]], read_weights, weights_oracle, 3),
    Reader("safetensors in shards", lambda: [_weight_seeds()[1]], read_weights, weights_oracle, 2),
    Reader("encoder's configuration", lambda: _json("config.json", words().config.to_dict())(),
           encoder_config, config_oracle, 3),
    Reader("published model", published, load, model_oracle, 0.5),
    Reader("exported model", lambda: [exported()], load, model_oracle, 0.2, seal=sealed),
    Reader("run's model", lambda: [run_model()], load, model_oracle, 0.2, seal=sealed),
    Reader("model's name", one("text", "./agreement", "/tmp/model/x", "a/b/c", "~/x"), load_name,
           share=0.5, names_file=False),
    Reader("vocabulary of words",
           lambda: [{"vocab.txt": exported()["vocab.txt"]}],
           lambda folder: WordTokenizer.parse((folder / "vocab.txt").read_bytes(), folder),
           vocabulary_oracle, 2),
    Reader("tokenizer.json",
           lambda: [{"tokenizer.json": tokenizer_json(kind), "tokenizer_config.json": SETTINGS}
                    for kind in ("pieces", "pairs")], read_and_split, tokenizer_oracle, 2),
    *(Reader(f"sentence, {kind}", one("text", *TEXTS, "the keys to [MASK] cabinet"),
             lambda folder, kind=kind: _reading(kind)(text_of(folder)), reading_oracle,
             names_file=False)
      for kind in ("words", "pieces", "joined", "masked", "gpt2")),
)  # fmt: skip
