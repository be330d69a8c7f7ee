"""Good models to make bad ones of: as small as there are, in every form that is read."""

from __future__ import annotations

import functools
import json
import tempfile
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from earlier_models import canonical, checksum, earlier

from fuzzing.cases import Case
from jaxflow.models import (
    AgreementEncoder,
    BertConfig,
    EncoderConfig,
    Gpt2Config,
    Model,
    ViTConfig,
    WordTokenizer,
    init,
    read_tokenizer,
    save,
    save_pretrained,
)

__all__ = [
    "BYTE_PAIRS", "PIECES", "exported", "files", "published", "read_files", "run_files", "sealed",
    "sealed_run", "tokenizer_json", "words",
]  # fmt: skip

PIECES = b"[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nthe\nkey\n##s\nto\ncabinet\nun\n##like\n.\n"
_ENTRIES = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", "t", "h", "e", "Ġ", "th", "the", "Ġthe"]
BYTE_PAIRS: Case = {
    "vocab.json": json.dumps({entry: place for place, entry in enumerate(_ENTRIES)}).encode(),
    "merges.txt": "#version: 0.2\nt h\nth e\nĠ the\n".encode(),
}


def files(folder: Path) -> dict[str, bytes | None]:
    """Return all files under a folder."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


@functools.cache
def words() -> Model:
    """An agreement encoder of one layer."""
    tokenizer = WordTokenizer(("[PAD]", "[CLS]", "[UNK]", "the", "keys", "[MASK]"))
    config = EncoderConfig(vocabulary=6, positions=6, layers=1, heads=1, width=2, hidden_width=2)
    params = AgreementEncoder(config).init(jax.random.key(0), jnp.zeros((1, 1), jnp.int32))
    return Model(config, params, tokenizer)


@functools.cache
def exported() -> Case:
    """What ``jaxflow export`` writes."""
    with tempfile.TemporaryDirectory() as name:
        recipe, accuracy = {"seed": 0}, {"test": {"all": 0.5}}
        save(Path(name), words(), precision="float16", recipe=recipe, accuracy=accuracy)
        return files(Path(name))


@functools.cache
def run_files() -> Case:
    """What ``jaxflow train`` left in earlier versions."""
    return dict(earlier({name: data or b"" for name, data in exported().items()}, "run"))


def sealed(case: Case) -> Case:
    """Write the checksums that a model's files have now, as one who means harm can."""
    return _sealed(case, "config.json", "encoder")


def sealed_run(case: Case) -> Case:
    """Write the checksums that the files of an earlier run's model have now."""
    return _sealed(case, "model.json", "config")


def _sealed(case: Case, card: str, sizes: str) -> Case:
    try:
        fields = json.loads(case[card] or b"")
        for name in fields["sha256"].keys() - {sizes}:
            fields["sha256"][name] = checksum(case[name] or b"")
        fields["sha256"][sizes] = checksum(canonical(fields[sizes]))
        return {**case, card: json.dumps(fields).encode()}
    except (LookupError, TypeError, ValueError, AttributeError, RecursionError):
        return case


def read_files(case: Case) -> Any:
    with tempfile.TemporaryDirectory() as name:
        for file, content in case.items():
            (Path(name) / file).write_bytes(content or b"")
        return read_tokenizer(Path(name))


@functools.cache
def tokenizer_json(kind: str) -> bytes:
    """A tokenizer as one file: ``pieces`` or ``pairs``."""
    case = {"vocab.txt": PIECES} if kind == "pieces" else BYTE_PAIRS
    return str(read_files(case).backend.to_str()).encode()


@functools.cache
def published() -> tuple[Case, ...]:
    """BERT, RoBERTa, DistilBERT, GPT-2 and ViT, as the hub has them."""
    sizes: dict[str, Any] = {"layers": 1, "heads": 1, "width": 2, "hidden_width": 2}
    text = sizes | {"vocabulary": 13, "positions": 8}
    labels = ("no", "yes")
    pieces, pairs = read_files({"vocab.txt": PIECES}), read_files(BYTE_PAIRS)
    models = [
        Model(BertConfig(head="classification", labels=labels, **text), None, pieces),
        Model(BertConfig(head="masked-lm", tied=False, **text), None, pieces),
        Model(BertConfig(kind="roberta", pad_id=1, **text), None, pairs),
        Model(BertConfig(kind="distilbert", token_types=0, **text), None, pieces),
        Model(Gpt2Config(**text), None, pairs),
        Model(ViTConfig(image=(4, 4), patch=2, channels=1, mean=(0.5,), std=(0.5,), labels=labels,
                        **sizes), None, None),
    ]  # fmt: skip
    made = []
    for model in models:
        with tempfile.TemporaryDirectory() as name:
            params = jax.tree.map(np.asarray, init(model.config))
            save_pretrained(Path(name), Model(model.config, params, model.tokenizer))
            made.append(files(Path(name)))
    return tuple(made)
