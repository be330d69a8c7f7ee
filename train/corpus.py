"""Agreement corpora as arrays in memory: prepared once by TFDS, then read from the cache.

A prepared corpus lies in a folder named after a fingerprint of everything it was made from, so a
file that changed is never answered with old rows. TFDS writes into a temporary folder and renames
it when all is done; a run that fails or is killed leaves nothing that a later one would take.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, get_args

import numpy as np

from jaxflow.errors import InputError
from jaxflow.train.sources import CorpusName, default_cache, find_source, fingerprint
from jaxflow.train.synthetic import TRAIN_SIZE

if TYPE_CHECKING:
    from jaxflow.train.builder import AgreementCorpus

__all__ = ["Split", "load_corpus"]


@dataclass(frozen=True, eq=False)
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

    def where(self, chosen: np.ndarray) -> Split:
        """Return the rows at which the boolean array ``chosen`` [N] is True."""
        return Split(
            tuple(self.prefixes[i] for i in np.flatnonzero(chosen).tolist()),
            self.labels[chosen],
            self.n_attractors[chosen],
            self.subject_index[chosen],
        )


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
    source = find_source(name, None if path is None else Path(path), folder)
    size = TRAIN_SIZE if size is None else size
    data_dir = folder / "corpora" / fingerprint(name, source, seed, size)
    _need_writable(data_dir)
    with _quiet_tfds():
        builder = _prepared(name, source, seed, size, data_dir, folder / "downloads")
        splits = _read(builder, data_dir)
    if name == "full":
        test = splits["test"]
        for k in range(1, 6):
            chosen = test.n_attractors == k
            if chosen.any():
                splits[f"test_{k}"] = test.where(chosen)
    return splits


def _need_writable(data_dir: Path) -> None:
    """Raise unless the corpus is there to be read or can be written."""
    if any(data_dir.glob("*/*/*/dataset_info.json")):
        return
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        probe = data_dir / f".probe-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise InputError(
            f"the cache folder {data_dir} cannot be written ({error.strerror or error}): give "
            f"another one, or set XDG_CACHE_HOME."
        ) from error


def _prepared(
    name: CorpusName,
    source: Path | None,
    seed: int,
    size: int,
    data_dir: Path,
    downloads: Path,
) -> AgreementCorpus:
    from jaxflow.train.builder import AgreementCorpus

    def builder() -> AgreementCorpus:
        with _damage_reported(data_dir):
            return AgreementCorpus(
                config=name, data_dir=data_dir, source=source, seed=seed, size=size
            )

    try:
        new = builder()
        new.download_and_prepare(download_dir=downloads)
        return new
    except InputError:
        raise
    except Exception as error:  # a full disk, for one, is an OSError here and a RuntimeError there
        # Another process may have prepared the same corpus and renamed its folder first.
        other = builder()
        if (Path(other.data_dir) / "dataset_info.json").exists():
            return other
        raise InputError(
            f"the corpus cannot be prepared in {data_dir}: {' '.join(str(error).split())}"
        ) from error


def _read(builder: AgreementCorpus, data_dir: Path) -> dict[str, Split]:
    with _damage_reported(data_dir):
        sources = builder.as_data_source()
        return {
            name: _split([source[i] for i in range(len(source))])
            for name, source in sources.items()
        }


@contextmanager
def _damage_reported(data_dir: Path) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # TFDS, protobuf and array_record each raise kinds of their own
        raise InputError(
            f"the prepared corpus in {data_dir} is damaged ({type(error).__name__}): delete that "
            f"folder, and it is made again."
        ) from error


def _split(blocks: list[dict[str, np.ndarray | bytes]]) -> Split:
    prefixes = [p for block in blocks for p in block["prefixes"].decode().split("\n")]  # type: ignore[union-attr]
    columns = [
        np.concatenate([np.asarray(block[name], np.int32) for block in blocks])
        for name in ("labels", "n_attractors", "subject_index")
    ]
    if any(len(column) != len(prefixes) for column in columns):
        raise ValueError("the columns of a split differ in length")
    return Split(tuple(prefixes), *columns)


@contextmanager
def _quiet_tfds() -> Iterator[None]:
    """Switch the progress bars of TFDS off, and back to what they were."""
    from tensorflow_datasets.core.utils import tqdm_utils

    before = getattr(tqdm_utils, "_active", True)
    tqdm_utils.display_progress_bar(False)
    try:
        yield
    finally:
        tqdm_utils.display_progress_bar(before)
