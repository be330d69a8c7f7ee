"""Load agreement corpora into memory or from disk, prepared once by TFDS and cached.

A prepared corpus is in a folder named after a fingerprint of everything it was made from, so that
old rows are never returned for a file that changed (`jaxflow.train.prepared`).
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from jaxflow.errors import InputError
from jaxflow.train.grammar import GRAMMAR_VERSION, TRAIN_SIZE
from jaxflow.train.prepared import (
    SealedBlocks,
    columns,
    damage_reported,
    prepared_blocks,
    prepared_sources,
)

if TYPE_CHECKING:
    from jaxflow.train.builder import AgreementCorpus

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

NUMBERS = ("labels", "n_attractors", "subject_index")
"""A record's columns of numbers, in the order of `Split`'s fields."""

# Part of every fingerprint: raised when the same files would be stored differently.
_FORMAT = "2"


@dataclasses.dataclass(frozen=True, eq=False)
class Split:
    """The rows of one split, in the order of their source.

    Attributes
    ----------
    prefixes : sequence of str
        Words before the verb, separated by single spaces; [N].
    labels : numpy.ndarray
        0 singular, 1 plural; int32 [N].
    n_attractors : numpy.ndarray
        Nouns of the other number between subject and verb, -1 unknown; int32 [N].
    subject_index : numpy.ndarray
        Word of the prefix, from 0 and without ``[CLS]``, -1 unknown; int32 [N].
    """

    prefixes: Sequence[str]
    labels: np.ndarray
    n_attractors: np.ndarray
    subject_index: np.ndarray

    def __len__(self) -> int:
        return len(self.prefixes)

    def take(self, places: np.ndarray) -> Split:
        """Return the rows at `places` [k]."""
        numbers = [getattr(self, name)[places] for name in NUMBERS]
        return Split(tuple(self.prefixes[i] for i in places.tolist()), *numbers)


@dataclasses.dataclass(frozen=True, eq=False)
class StoredSplit:
    """The rows of one split that stay on disk, in the order of their source.

    `starts` is the row at which each block begins, and after the last one where it ends, int64
    ``[blocks + 1]``; `rows` each row's place among all rows of the blocks, ascending, int64
    ``[N]``; `words` the words of its prefix, `n_attractors` as in `Split`, int32 ``[N]``.
    """

    blocks: SealedBlocks
    starts: np.ndarray
    data_dir: Path
    rows: np.ndarray
    words: np.ndarray
    n_attractors: np.ndarray

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, places: np.ndarray) -> StoredSplit:
        """Return the rows at ascending `places` [k], still on disk."""
        names = ("rows", "words", "n_attractors")
        return dataclasses.replace(self, **{name: getattr(self, name)[places] for name in names})

    def read(self, places: np.ndarray) -> Split:
        """Read the rows at ascending `places` [k] into memory, block by block."""
        rows = self.rows[places]
        block_of = np.searchsorted(self.starts, rows, side="right") - 1
        prefixes: list[str] = []
        parts: list[list[np.ndarray]] = []
        for block in np.unique(block_of):
            lines, arrays = _read(self.blocks, int(block), self.data_dir)
            within = rows[block_of == block] - self.starts[block]
            prefixes += [lines[place] for place in within.tolist()]
            parts.append([array[within] for array in arrays])
        joined = [np.concatenate(column) for column in zip(*parts, strict=True)]
        return Split(tuple(prefixes), *joined or [np.zeros(0, np.int32)] * len(NUMBERS))


def open_split(blocks: SealedBlocks, data_dir: Path) -> StoredSplit:
    """Read a split's blocks once, keeping a few numbers of each row."""
    words, attractors = [np.zeros(0, np.int32)], [np.zeros(0, np.int32)]
    for block in range(len(blocks)):
        lines, arrays = _read(blocks, block, data_dir)
        words.append(np.fromiter((line.count(" ") + 1 for line in lines), np.int32, len(lines)))
        attractors.append(arrays[NUMBERS.index("n_attractors")])
    sizes = [len(part) for part in words]  # a first one of none, where the first block begins
    rows = np.arange(sum(sizes))
    return StoredSplit(
        blocks, np.cumsum(sizes), data_dir, rows, np.concatenate(words), np.concatenate(attractors)
    )


def _read(
    blocks: SealedBlocks, block: int, data_dir: Path
) -> tuple[tuple[str, ...], list[np.ndarray]]:
    with damage_reported(data_dir):
        record = blocks[block]
    return columns([record], "prefixes", NUMBERS, data_dir)


def load_corpus(
    name: CorpusName = "synthetic",
    path: str | Path | None = None,
    *,
    seed: int = 0,
    cache: str | Path | None = None,
    size: int | None = None,
) -> dict[str, Split]:
    """Load a corpus, preparing it first if that was not done before.

    Parameters
    ----------
    name : {"synthetic", "simple", "full"}
        ``synthetic``: the built-in grammar. ``simple``: a folder in the form of
        ``rnn_agr_simple``. ``full``: ``agr_50_mostcommon_10K.tsv``, gzipped or not.
    path : path, optional
        ``simple``: the folder, needed. ``full``: the file or a folder that holds it; without it
        the file is looked for in the cache folder, then fetched from its authors.
    seed : int
        ``synthetic``: decides the sentences. ``full``: decides the 9/1/90 division.
    cache : path, optional
        Folder for prepared corpora and downloads, by default that of `default_cache`.
    size : int, optional
        ``synthetic`` only: number of training rows, by default 40,000.

    Returns
    -------
    dict of str to Split
        ``train``, ``val`` and ``test``, each in the order of the source. ``test_1`` ... ``test_5``
        by number of attractors: for ``simple`` the files that exist, for ``full`` the rows of
        ``test`` (so they overlap with it). ``simple`` also gives ``train_attractors`` and
        ``subjects`` if their files exist.

    Raises
    ------
    InputError
        If a file or row cannot be used (the message names file and line), the cache cannot be
        written, or the full corpus cannot be fetched.
    """
    make, data_dir, downloads = _prepared_as(name, path, seed, cache, size)
    splits = {}
    for split, blocks in prepared_blocks(make, data_dir, downloads).items():
        prefixes, arrays = columns(blocks, "prefixes", NUMBERS, data_dir)
        splits[split] = Split(prefixes, *arrays)
    return _with_attractors(name, splits)


def open_corpus(
    name: CorpusName = "synthetic",
    path: str | Path | None = None,
    *,
    seed: int = 0,
    cache: str | Path | None = None,
) -> dict[str, StoredSplit]:
    """Open a corpus's held-out splits without reading their sentences into memory.

    Parameters, splits and errors as of `load_corpus`, but for the splits that are trained on.
    """
    make, data_dir, downloads = _prepared_as(name, path, seed, cache, None)
    splits = {
        split: open_split(blocks, data_dir)
        for split, blocks in prepared_sources(make, data_dir, downloads).items()
        if not split.startswith("train")
    }
    return _with_attractors(name, splits)


def _with_attractors(name: CorpusName, splits: dict[str, Any]) -> dict[str, Any]:
    """Add the rows of the full corpus's test split by their number of attractors."""
    if name == "full":
        test = splits["test"]
        for k in range(1, 6):
            chosen = np.flatnonzero(test.n_attractors == k)
            if len(chosen):
                splits[f"test_{k}"] = test.take(chosen)
    return splits


def _prepared_as(
    name: CorpusName,
    path: str | Path | None,
    seed: int,
    cache: str | Path | None,
    size: int | None,
) -> tuple[Callable[[], AgreementCorpus], Path, Path]:
    """Return the corpus's builder, the folder it is prepared in, and that of downloads."""
    if name not in get_args(CorpusName):
        raise InputError(f"expected the corpus synthetic, simple or full, but got {name!r}.")
    if size is not None and name != "synthetic":
        raise InputError(f"a size can be chosen for the synthetic corpus, but not for {name}.")
    if path is not None and name == "synthetic":
        raise InputError(f"the synthetic corpus is read from no path, but {path} was given.")
    if seed < 0 or (size is not None and size < 1):
        raise InputError(
            f"expected a seed of at least 0 and a size of at least 1, but got {seed} and {size}."
        )
    folder = default_cache() if cache is None else Path(cache)
    source = _find_source(name, None if path is None else Path(path), folder)
    size = TRAIN_SIZE if size is None else size
    data_dir = folder / "corpora" / _fingerprint(name, source, seed, size)

    def builder() -> AgreementCorpus:
        from jaxflow.train.builder import AgreementCorpus

        return AgreementCorpus(config=name, data_dir=data_dir, source=source, seed=seed, size=size)

    return builder, data_dir, folder / "downloads"


def default_cache() -> Path:
    """Return ``$XDG_CACHE_HOME/jaxflow``, or ``~/.cache/jaxflow`` where that is not set."""
    # The XDG specification ignores a relative path.
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if Path(base).is_absolute() else Path.home() / ".cache") / "jaxflow"


def _find_source(name: CorpusName, path: Path | None, cache: Path) -> Path | None:
    """Return the folder or file to read, or None if there is nothing to read on this machine."""
    if name == "synthetic":
        return None
    if name == "simple":
        if path is None:
            raise InputError("the simple corpus needs the path of its folder, but none was given.")
        check_folder(path, [SIMPLE_FILES[split] for split in ("train", "val", "test")])
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


def check_folder(path: Path, needed: Sequence[str]) -> None:
    """Raise unless a path is a folder with some files."""
    if not path.is_dir():
        what = "is a file" if path.exists() else "does not exist"
        raise InputError(f"expected a folder with {' and '.join(needed)}, but {path} {what}.")
    for file in needed:
        if not (path / file).is_file():
            raise InputError(f"expected the file {file} in the folder {path}, but it is not there.")


def _fingerprint(name: CorpusName, source: Path | None, seed: int, size: int) -> str:
    """Return a name for everything the prepared corpus depends on."""
    start = f"{_FORMAT} {name}"
    if name == "synthetic":
        return digest_of(f"{start} {GRAMMAR_VERSION} {seed} {size}")
    if source is not None and name == "simple":
        return digest_of(start, source, SIMPLE_FILES.values())
    content = f"{start} {seed} {_hash_file(source) if source else FULL_URL}"
    packed = source is None or source.suffix == ".gz"
    return digest_of(f"{content} {'gzipped' if packed else 'plain'}")


def digest_of(start: str, folder: Path | None = None, files: Any = ()) -> str:
    """Return 24 hexadecimal digits of a text and of those files of a folder that exist."""
    digest = hashlib.sha256(start.encode())
    for file in files:
        if folder is not None and (folder / file).exists():
            digest.update(f" {file} {_hash_file(folder / file)}".encode())
    return digest.hexdigest()[:24]


def _hash_file(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error}).") from error
