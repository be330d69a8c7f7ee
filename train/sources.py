"""Where the corpora come from, and by what name a prepared one is found again."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Literal

from jaxflow.errors import InputError
from jaxflow.train.grammar import GRAMMAR_VERSION

__all__ = [
    "FULL_FILE",
    "FULL_URL",
    "SIMPLE_FILES",
    "CorpusName",
    "default_cache",
    "find_source",
    "fingerprint",
    "hash_file",
]

CorpusName = Literal["synthetic", "simple", "full"]
FULL_FILE = "agr_50_mostcommon_10K.tsv.gz"
FULL_URL = "http://tallinzen.net/media/rnn_agreement/" + FULL_FILE
SIMPLE_FILES = {
    "train": "numpred.train",
    "train_attractors": "numpred.train.attractors",
    "val": "numpred.val",
    "test": "numpred.test",
    **{f"test_{k}": f"numpred.test.{k}" for k in range(1, 6)},
    "subjects": "subjects.tsv",
}
"""File of each split of the simple layout; only train, val and test must be there."""

# Part of every fingerprint: raised when the same files would be stored differently.
_FORMAT = "2"


def default_cache() -> Path:
    """Return ``$XDG_CACHE_HOME/jaxflow``, or ``~/.cache/jaxflow`` where that is not set."""
    # The XDG rules have a relative path ignored.
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if Path(base).is_absolute() else Path.home() / ".cache") / "jaxflow"


def find_source(name: CorpusName, path: Path | None, cache: Path) -> Path | None:
    """Return the folder or file to read, or None if there is nothing to read on this machine."""
    if name == "synthetic":
        return None
    if name == "simple":
        if path is None:
            raise InputError("the simple corpus needs the path of its folder, but none was given.")
        if not path.is_dir():
            what = "is a file" if path.exists() else "does not exist"
            raise InputError(f"expected a folder with {SIMPLE_FILES['train']}, but {path} {what}.")
        for split in ("train", "val", "test"):
            if not (path / SIMPLE_FILES[split]).is_file():
                raise InputError(
                    f"expected the file {SIMPLE_FILES[split]} in the folder {path}, but it is "
                    f"not there."
                )
        return path
    if path is None or path.is_dir():
        places = [(path or cache) / FULL_FILE, (path or cache) / FULL_FILE.removesuffix(".gz")]
        found = [place for place in places if place.is_file()]
        if path is not None and not found:
            raise InputError(f"expected {FULL_FILE} or its .tsv in the folder {path}, found none.")
        return found[0] if found else None
    if not path.is_file():
        raise InputError(f"expected the file {FULL_FILE}, but {path} does not exist.")
    return path


def fingerprint(name: CorpusName, source: Path | None, seed: int, size: int) -> str:
    """Return a name for everything the prepared corpus depends on."""
    digest = hashlib.sha256(f"{_FORMAT} {name}".encode())
    if name == "synthetic":
        digest.update(f" {GRAMMAR_VERSION} {seed} {size}".encode())
    elif name == "simple":
        assert source is not None
        for file in SIMPLE_FILES.values():
            if (source / file).exists():
                digest.update(f" {file} {hash_file(source / file)}".encode())
    else:
        digest.update(f" {seed} {hash_file(source) if source else FULL_URL}".encode())
        digest.update(b" gzipped" if source is None or source.suffix == ".gz" else b" plain")
    return digest.hexdigest()[:24]


def hash_file(path: Path) -> str:
    """Return the SHA-256 of a file.

    Raises
    ------
    InputError
        If it cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error}).") from error
