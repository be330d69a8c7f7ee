"""The TFDS builder of the agreement corpora; importing this module imports TFDS.

The corpus is stored as ``array_record`` files and read back with ``as_data_source``; neither needs
TensorFlow. One record holds a block of 1,024 rows, not one: TFDS takes 0.1 ms to write a row as a
record of its own and 0.3 ms to read it, so 235,000 rows would need 25 s and 75 s; in blocks, well
under a second each. Blocks keep the order of the source (shuffling is off).
"""

from __future__ import annotations

import urllib.request
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from jaxflow.errors import InputError
from jaxflow.train.corpus import FULL_FILE, FULL_URL, NUMBERS, SIMPLE_FILES
from jaxflow.train.formats import (
    Example,
    Labelled,
    read_full,
    read_labelled,
    read_simple,
    read_subjects,
)
from jaxflow.train.grammar import TRAIN_SIZE, synthetic_splits
from jaxflow.train.prepared import SEAL, Block, sealed_blocks


class AgreementCorpus(tfds.core.GeneratorBasedBuilder):
    """Subject-verb agreement in three configurations: ``simple``, ``full`` and ``synthetic``.

    Parameters
    ----------
    source : path, optional
        ``simple``: the folder. ``full``: the file; it is downloaded if None.
    seed : int
        ``synthetic``: seed of the grammar; ``full``: seed of the 9/1/90 split.
    size : int
        ``synthetic``: number of training rows.
    **options
        Passed on to TFDS: ``config``, ``data_dir``. The caller must give different sources
        different data folders, as `jaxflow.train.corpus.load_corpus` does.

    Notes
    -----
    Features of a record, for a block of B rows: ``prefixes``, B lines of text; ``labels``,
    ``n_attractors`` and ``subject_index``, int32 [B]; ``seal``, the block's checksum
    (`jaxflow.train.prepared`).
    """

    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS = [  # noqa: RUF012 (TFDS wants a list)
        tfds.core.BuilderConfig(name="synthetic", description="a built-in grammar"),
        tfds.core.BuilderConfig(name="simple", description="a folder like rnn_agr_simple"),
        tfds.core.BuilderConfig(name="full", description=FULL_FILE),
    ]

    def __init__(
        self,
        *,
        source: Path | None = None,
        seed: int = 0,
        size: int = TRAIN_SIZE,
        **options: Any,
    ) -> None:
        self._source, self._seed, self._size = source, seed, size
        super().__init__(file_format="array_record", **options)
        # TFDS rebuilds a pickled builder from this record of its arguments.
        self._original_state |= {"source": source, "seed": seed, "size": size}

    def _info(self) -> tfds.core.DatasetInfo:
        numbers = {name: tfds.features.Tensor(shape=(None,), dtype=np.int32) for name in NUMBERS}
        texts = {name: tfds.features.Text() for name in ("prefixes", SEAL)}
        return tfds.core.DatasetInfo(
            builder=self,
            description="Sentences up to their verb, and whether that is singular or plural.",
            features=tfds.features.FeaturesDict(texts | numbers),
            homepage="https://github.com/TalLinzen/rnn_agreement",
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        # All rows are read before the first is written, so that an unusable one is reported as
        # it is: TFDS puts its own words around errors that come out of a generator.
        splits: Mapping[str, Sequence[Example]]
        if self.builder_config.name == "synthetic":
            splits = synthetic_splits(self._seed, self._size)
        elif self.builder_config.name == "simple":
            splits = _simple_splits(self._source)
        else:
            splits = self._full_splits(dl_manager)
        return {
            name: self._generate_examples(blocks)
            for name, blocks in sealed_blocks(
                Path(self.data_dir_root).name, splits, ("prefixes", *NUMBERS)
            ).items()
        }

    def _generate_examples(
        self, blocks: Iterator[tuple[int, Block]]
    ) -> Iterator[tuple[int, Block]]:
        yield from blocks

    def _full_splits(self, dl_manager: tfds.download.DownloadManager) -> dict[str, list[Example]]:
        if self._source is not None:
            return _divide(list(read_full(self._source)), self._seed, self._source)
        path = _download(dl_manager)
        try:
            return _divide(list(read_full(path)), self._seed, path)
        except InputError:
            # What the server sent is no corpus: the next run must fetch it again.
            path.unlink(missing_ok=True)
            Path(f"{path}.INFO").unlink(missing_ok=True)
            raise

    # TFDS announces on standard output what it does; results go there, so it is kept quiet.
    def _log_download_bytes(self) -> None:
        pass

    def _log_download_done(self) -> None:
        pass


def _simple_splits(folder: Path | None) -> dict[str, list[Example]]:
    if folder is None:
        raise InputError("the simple corpus needs the path of its folder, but none was given.")
    splits = {}
    for name, file in SIMPLE_FILES.items():
        if (folder / file).exists() or name in ("train", "val", "test"):
            read = read_subjects if name == "subjects" else read_simple
            splits[name] = list(read(folder / file))
    return splits


def _divide(rows: list[Example], seed: int, path: Path) -> dict[str, list[Example]]:
    """Divide rows 9/1/90 at random, as the authors did; each part stays in file order."""
    if len(rows) < 100:
        raise InputError(
            f"{path}: expected at least 100 rows to divide into 9 % train, 1 % val and 90 % test, "
            f"but there are {len(rows)}."
        )
    # Sorting the raw words of the generator gives the same division with every NumPy.
    words = np.random.PCG64(np.random.SeedSequence(seed)).random_raw(len(rows))
    order = np.argsort(words, kind="stable")
    cuts = [len(rows) * 9 // 100, len(rows) * 10 // 100]
    parts = zip(("train", "val", "test"), np.split(order, cuts), strict=True)
    return {name: [rows[i] for i in np.sort(part)] for name, part in parts}


def _download(dl_manager: tfds.download.DownloadManager) -> Path:
    try:
        if not any(dl_manager.download_dir.glob("*/*.gz")):
            # Without a connection TFDS tries ten times over minutes, warning each time: ask first.
            request = urllib.request.Request(FULL_URL, method="HEAD")
            urllib.request.urlopen(request, timeout=30).close()
        return Path(dl_manager.download(FULL_URL))
    except Exception as error:  # the HTTP libraries raise a dozen unrelated kinds here
        reason = " ".join(str(getattr(error, "reason", error)).split()) or type(error).__name__
        raise InputError(
            f"the full corpus could not be fetched ({reason}): download {FULL_URL} on a machine "
            f"that is connected, then put {FULL_FILE} into {dl_manager.download_dir.parent} or "
            f"give the path of that file (option --data)."
        ) from error


SST2_FILES = {"train": "train.tsv", "dev": "dev.tsv", "test": "test.tsv"}
"""File of each split of a folder; test may be missing."""

_GLUE_SPLITS = {"train": "train", "dev": "validation", "test": "test"}


class Sst2Corpus(tfds.core.GeneratorBasedBuilder):
    """Sentences of film reviews and whether they are positive.

    Parameters
    ----------
    source : path, optional
        Configuration ``folder``: where ``train.tsv``, ``dev.tsv`` and, if there is one,
        ``test.tsv`` lie, lines of ``sentence<TAB>label``.
    **options
        Passed on to TFDS: ``config`` (``folder``, or ``glue`` for ``glue/sst2``), ``data_dir``. The
        caller must give different sources different data folders, as
        `jaxflow.train.sst2.load_sst2` does.

    Notes
    -----
    Features of a record, for a block of B rows: ``sentences``, B lines of text, and ``labels``,
    int32 [B], -1 where no label is given; the block's checksum (`jaxflow.train.prepared`).
    """

    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS = [  # noqa: RUF012 (TFDS wants a list)
        tfds.core.BuilderConfig(name="folder", description="a folder of sentence<TAB>label files"),
        tfds.core.BuilderConfig(name="glue", description="glue/sst2"),
    ]

    def __init__(self, *, source: Path | None = None, **options: Any) -> None:
        self._source = source
        super().__init__(file_format="array_record", **options)
        # TFDS rebuilds a pickled builder from this record of its arguments.
        self._original_state |= {"source": source}

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description="Sentences of film reviews, negative (0) or positive (1).",
            features=tfds.features.FeaturesDict(
                {
                    "sentences": tfds.features.Text(),
                    "labels": tfds.features.Tensor(shape=(None,), dtype=np.int32),
                    SEAL: tfds.features.Text(),
                }
            ),
            homepage="https://nlp.stanford.edu/sentiment/index.html",
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        # All rows are read before the first is written: TFDS puts its own words around errors that
        # come out of a generator.
        if self.builder_config.name == "glue":
            splits = _glue(Path(dl_manager.download_dir))
        else:
            assert self._source is not None
            splits = {
                name: list(read_labelled(self._source / file, hidden=name == "test"))
                for name, file in SST2_FILES.items()
                if name != "test" or (self._source / file).exists()
            }
        return {
            name: self._generate_examples(blocks)
            for name, blocks in sealed_blocks(
                Path(self.data_dir_root).name, splits, ("sentences", "labels")
            ).items()
        }

    def _generate_examples(
        self, blocks: Iterator[tuple[int, Block]]
    ) -> Iterator[tuple[int, Block]]:
        yield from blocks

    # TFDS announces on standard output what it does; results go there, so it is kept quiet.
    def _log_download_bytes(self) -> None:
        pass

    def _log_download_done(self) -> None:
        pass


class _Unpacked:
    """A download manager that unpacks with Python's own zipfile: that of TFDS needs TensorFlow."""

    def __init__(self, manager: tfds.download.DownloadManager) -> None:
        self._manager = manager

    def download_and_extract(self, url: str) -> str:
        """Fetch a zip archive, if it is not there already, and unpack it beside itself."""
        archive = Path(self._manager.download(url))
        folder = archive.with_name(f"{archive.name}.unpacked")
        try:
            with zipfile.ZipFile(archive) as packed:
                packed.extractall(folder)
        except zipfile.BadZipFile:
            # What the server sent is no archive: the next run must fetch it again.
            archive.unlink()
            Path(f"{archive}.INFO").unlink(missing_ok=True)
            raise
        return str(folder)


def _glue_builder() -> type[tfds.core.GeneratorBasedBuilder]:
    # By its module: without TensorFlow, TFDS does not know the builder by its name.
    from tensorflow_datasets.text.glue import Glue

    class GlueWithoutTensorFlow(Glue, skip_registration=True):  # type: ignore[call-arg]
        name = "glue"

        def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> Any:
            return super()._split_generators(_Unpacked(dl_manager))

        def _log_download_bytes(self) -> None:
            pass

        def _log_download_done(self) -> None:
            pass

    return GlueWithoutTensorFlow


def _glue(downloads: Path) -> dict[str, list[Labelled]]:
    """Prepare TFDS's ``glue/sst2`` beside the downloads and read it, in its authors' order."""
    try:
        builder = _glue_builder()(
            config="sst2", data_dir=downloads / "tfds", file_format="array_record"
        )
        if not (Path(builder.data_dir) / "dataset_info.json").exists():
            # Without a connection TFDS tries ten times over minutes, warning each time: ask first.
            request = urllib.request.Request(builder.builder_config.data_url, method="HEAD")
            urllib.request.urlopen(request, timeout=30).close()
        builder.download_and_prepare(download_dir=downloads)
        sources = builder.as_data_source()
        splits = {}
        for name, theirs in _GLUE_SPLITS.items():
            rows = [sources[theirs][i] for i in range(len(sources[theirs]))]
            rows.sort(key=lambda row: int(row["idx"]))
            splits[name] = [
                Labelled(" ".join(row["sentence"].decode().split()), int(row["label"]))
                for row in rows
            ]
        return splits
    except Exception as error:  # the HTTP libraries raise a dozen unrelated kinds here
        reason = " ".join(str(getattr(error, "reason", error)).split()) or type(error).__name__
        raise InputError(
            f"glue/sst2 could not be fetched ({reason}): run this once on a machine that is "
            f"connected, or give a folder with {', '.join(SST2_FILES.values())} of "
            "sentence<TAB>label lines (option --data)."
        ) from error
