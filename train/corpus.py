"""Agreement corpora as arrays in memory: prepared once by TFDS, then read from the cache.

A prepared corpus lies in a folder named after a fingerprint of everything it was made from, so a
file that changed is never answered with old rows (`jaxflow.train.prepared`).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, get_args

import numpy as np

from jaxflow.errors import InputError
from jaxflow.train.prepared import columns, prepared_blocks, prepared_sources
from jaxflow.train.sources import CorpusName, default_cache, find_source, fingerprint
from jaxflow.train.stored import NUMBERS, Split, StoredSplit, open_split
from jaxflow.train.synthetic import TRAIN_SIZE

if TYPE_CHECKING:
    from jaxflow.train.builder import AgreementCorpus

__all__ = ["Split", "StoredSplit", "load_corpus", "open_corpus"]


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
    if name == "full":
        test = splits["test"]
        for k in range(1, 6):
            chosen = test.n_attractors == k
            if chosen.any():
                splits[f"test_{k}"] = test.where(chosen)
    return splits


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
    source = find_source(name, None if path is None else Path(path), folder)
    size = TRAIN_SIZE if size is None else size
    data_dir = folder / "corpora" / fingerprint(name, source, seed, size)

    def builder() -> AgreementCorpus:
        from jaxflow.train.builder import AgreementCorpus

        return AgreementCorpus(config=name, data_dir=data_dir, source=source, seed=seed, size=size)

    return builder, data_dir, folder / "downloads"
