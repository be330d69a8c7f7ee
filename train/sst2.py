"""SST-2 as arrays in memory: whole sentences of film reviews, negative or positive.

Socher et al. (2013), as GLUE (Wang et al., 2019) divides it. A prepared corpus lies in a folder
named after a fingerprint of the files it was made from (`jaxflow.train.prepared`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from jaxflow.errors import InputError
from jaxflow.train.corpus import default_cache, hash_file
from jaxflow.train.formats import LABEL_NAMES, UNLABELLED
from jaxflow.train.prepared import columns, prepared_blocks

if TYPE_CHECKING:
    from jaxflow.train.builder import Sst2Corpus

__all__ = ["LABEL_NAMES", "Sentences", "load_sst2"]

# Part of every fingerprint: raised when the same files would be stored differently.
_FORMAT = "2 sst2"
_NEEDED, _FURTHER = ("train.tsv", "dev.tsv"), ("test.tsv",)


@dataclass(frozen=True, eq=False)
class Sentences:
    """The rows of one split, in the order of their source.

    Attributes
    ----------
    texts : sequence of str
        The sentences; [N].
    labels : numpy.ndarray
        0 negative, 1 positive, or all -1 where none are given; int32 [N].
    """

    texts: Sequence[str]
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.texts)

    @property
    def labelled(self) -> bool:
        """Whether the labels are given."""
        return bool((self.labels != UNLABELLED).all())

    def at(self, rows: np.ndarray) -> Sentences:
        """Return the rows at the places ``rows`` [M]."""
        return Sentences(tuple(self.texts[i] for i in rows.tolist()), self.labels[rows])


def load_sst2(
    folder: str | Path | None = None, *, cache: str | Path | None = None
) -> dict[str, Sentences]:
    """Load SST-2, preparing it first if that was not done before.

    Parameters
    ----------
    folder : path, optional
        Where ``train.tsv``, ``dev.tsv`` and, if there is one, ``test.tsv`` lie: lines of
        ``sentence<TAB>label``. Without a folder TFDS's ``glue/sst2`` is taken, and fetched the
        first time; its training split has 67,349 phrases and sentences, and its test split no
        labels.
    cache : path, optional
        Folder for prepared corpora and downloads, by default that of
        `jaxflow.train.corpus.default_cache`.

    Returns
    -------
    dict of str to Sentences
        ``train``, ``dev`` and, where there is one, ``test``.

    Raises
    ------
    InputError
        If a file or row cannot be used (the message names file and line), the cache cannot be
        written, or the corpus cannot be fetched.
    """
    source = None if folder is None else Path(folder)
    base = default_cache() if cache is None else Path(cache)
    data_dir = base / "corpora" / _fingerprint(source)

    def builder() -> Sst2Corpus:
        from jaxflow.train.builder import Sst2Corpus

        config = "glue" if source is None else "folder"
        return Sst2Corpus(config=config, data_dir=data_dir, source=source)

    splits = {}
    for name, blocks in prepared_blocks(builder, data_dir, base / "downloads").items():
        texts, (labels,) = columns(blocks, "sentences", ("labels",), data_dir)
        splits[name] = Sentences(texts, labels)
    return splits


def _fingerprint(source: Path | None) -> str:
    digest = hashlib.sha256(_FORMAT.encode())
    if source is None:
        digest.update(b" glue/sst2")
        return digest.hexdigest()[:24]
    if not source.is_dir():
        what = "is a file" if source.exists() else "does not exist"
        raise InputError(f"expected a folder with {' and '.join(_NEEDED)}, but {source} {what}.")
    for file in _NEEDED:
        if not (source / file).is_file():
            raise InputError(
                f"expected the file {file} in the folder {source}, but it is not there."
            )
    for file in (*_NEEDED, *_FURTHER):
        if (source / file).exists():
            digest.update(f" {file} {hash_file(source / file)}".encode())
    return digest.hexdigest()[:24]
