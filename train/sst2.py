"""Load SST-2 into memory: whole sentences of film reviews, negative or positive.

Socher et al. (2013), as GLUE (Wang et al., 2019) divides it; prepared and kept as the agreement
corpora are (`jaxflow.train.corpus`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from jaxflow.train.corpus import check_folder, default_cache, digest_of
from jaxflow.train.formats import LABEL_NAMES as LABEL_NAMES
from jaxflow.train.formats import UNLABELLED
from jaxflow.train.prepared import columns, prepared_blocks

if TYPE_CHECKING:
    from jaxflow.train.builder import Sst2Corpus

SST2_FILES = {"train": "train.tsv", "dev": "dev.tsv", "test": "test.tsv"}
"""File of each split of a folder; test may be missing."""

# Part of every fingerprint: raised when the same files would be stored differently.
_FORMAT = "2 sst2"


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
        """Return whether the labels are given."""
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
        Folder of ``train.tsv``, ``dev.tsv`` and, if there is one, ``test.tsv``: lines of
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
    if source is not None:
        check_folder(source, (SST2_FILES["train"], SST2_FILES["dev"]))
        digest = digest_of(_FORMAT, source, SST2_FILES.values())
    else:
        digest = digest_of(f"{_FORMAT} glue/sst2")
    base = default_cache() if cache is None else Path(cache)
    data_dir = base / "corpora" / digest

    def builder() -> Sst2Corpus:
        from jaxflow.train.builder import Sst2Corpus

        config = "glue" if source is None else "folder"
        return Sst2Corpus(config=config, data_dir=data_dir, source=source)

    splits = {}
    for name, blocks in prepared_blocks(builder, data_dir, base / "downloads").items():
        texts, (labels,) = columns(blocks, "sentences", ("labels",), data_dir)
        splits[name] = Sentences(texts, labels)
    return splits
