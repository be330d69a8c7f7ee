"""Define TFDS builders of the agreement corpora and of SST-2; importing this module imports TFDS.

A corpus is stored as ``array_record`` files and read back with ``as_data_source``; neither needs
TensorFlow. One record holds a block of 1,024 rows, not one: TFDS takes 0.1 ms to write a row as a
record of its own and 0.3 ms to read it, so 235,000 rows would need 25 s and 75 s; in blocks, well
under a second each. Blocks keep the order of the source (shuffling is off).
"""

from __future__ import annotations

import urllib.request
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

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
from jaxflow.train.grammar import synthetic_splits
from jaxflow.train.prepared import SEAL, Block, sealed_blocks
from jaxflow.train.sst2 import SST2_FILES

_GLUE_SPLITS = {"train": "train", "dev": "validation", "test": "test"}


class _BlockBuilder(  # type: ignore[call-arg]
    tfds.core.GeneratorBasedBuilder, skip_registration=True
):
    """Builder of a corpus in blocks, its options kept as attributes.

    A record has B lines of text, int32 [B] of each number and the block's checksum. The caller
    gives different sources different data folders.
    """

    text: ClassVar[str]
    numbers: ClassVar[tuple[str, ...]]
    VERSION = tfds.core.Version("1.0.0")

    def __init__(self, *, config: str, data_dir: Path, **given: Any) -> None:
        self._given = given
        super().__init__(file_format="array_record", config=config, data_dir=data_dir)
        # TFDS rebuilds a pickled builder from this record of its arguments.
        self._original_state |= given

    def _info(self) -> tfds.core.DatasetInfo:
        numbers = {n: tfds.features.Tensor(shape=(None,), dtype=np.int32) for n in self.numbers}
        texts = {name: tfds.features.Text() for name in (self.text, SEAL)}
        return tfds.core.DatasetInfo(
            builder=self,
            description=self.__doc__,
            features=tfds.features.FeaturesDict(texts | numbers),
            disable_shuffling=True,
        )

    def _read(self, downloads: tfds.download.DownloadManager) -> Mapping[str, Sequence[Any]]:
        """Return all rows by split."""
        raise NotImplementedError

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        # All rows are read before the first is written, so that an unusable one is reported as
        # it is: TFDS wraps errors raised in a generator.
        blocks = sealed_blocks(
            Path(self.data_dir_root).name, self._read(dl_manager), (self.text, *self.numbers)
        )
        return {name: self._generate_examples(each) for name, each in blocks.items()}

    def _generate_examples(
        self, blocks: Iterator[tuple[int, Block]]
    ) -> Iterator[tuple[int, Block]]:
        yield from blocks

    # TFDS prints its progress to standard output, which is for results: silence it.
    def _log_download_bytes(self) -> None:
        pass

    def _log_download_done(self) -> None:
        pass


class AgreementCorpus(_BlockBuilder):
    """Sentences up to their verb, and whether that is singular or plural.

    Options: ``source``, the folder of ``simple`` or the file of ``full``, downloaded if None;
    ``seed`` and ``size``, as of `jaxflow.train.corpus.load_corpus`.
    """

    BUILDER_CONFIGS = [  # noqa: RUF012 (TFDS wants a list)
        tfds.core.BuilderConfig(name=name) for name in ("synthetic", "simple", "full")
    ]
    text, numbers = "prefixes", NUMBERS

    def _read(self, downloads: tfds.download.DownloadManager) -> Mapping[str, Sequence[Example]]:
        source, seed = self._given["source"], self._given["seed"]
        if self.builder_config.name == "synthetic":
            return synthetic_splits(seed, self._given["size"])
        if self.builder_config.name == "simple":
            return {
                name: list((read_subjects if name == "subjects" else read_simple)(source / file))
                for name, file in SIMPLE_FILES.items()
                if (source / file).exists() or name in ("train", "val", "test")
            }
        path = _download(downloads) if source is None else source
        try:
            return _divide(list(read_full(path)), seed, path)
        except InputError:
            if source is None:
                _forget(path)
            raise


class Sst2Corpus(_BlockBuilder):
    """Sentences of film reviews, negative (0) or positive (1).

    Configuration ``folder`` reads the files of the option ``source``, ``glue`` TFDS's
    ``glue/sst2``, which stores a sentence a record: reading 70,000 of them takes half a minute.
    """

    BUILDER_CONFIGS = [  # noqa: RUF012 (TFDS wants a list)
        tfds.core.BuilderConfig(name=name) for name in ("folder", "glue")
    ]
    text, numbers = "sentences", ("labels",)

    def _read(self, downloads: tfds.download.DownloadManager) -> Mapping[str, Sequence[Labelled]]:
        if self.builder_config.name == "glue":
            return _glue(Path(downloads.download_dir))
        source = self._given["source"]
        return {
            name: list(read_labelled(source / file, hidden=name == "test"))
            for name, file in SST2_FILES.items()
            if name != "test" or (source / file).exists()
        }


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


def _reach(url: str) -> None:
    """Request a file first: without a connection TFDS retries for minutes, with warnings."""
    urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=30).close()


def _forget(path: Path) -> None:
    """Delete what a server sent in place of a corpus, so that the next run fetches it again."""
    path.unlink(missing_ok=True)
    Path(f"{path}.INFO").unlink(missing_ok=True)


def _reason(error: Exception) -> str:
    return " ".join(str(getattr(error, "reason", error)).split()) or type(error).__name__


def _download(dl_manager: tfds.download.DownloadManager) -> Path:
    try:
        if not any(dl_manager.download_dir.glob("*/*.gz")):
            _reach(FULL_URL)
        return Path(dl_manager.download(FULL_URL))
    except Exception as error:  # the HTTP libraries raise a dozen unrelated kinds here
        raise InputError(
            f"the full corpus could not be fetched ({_reason(error)}): download {FULL_URL} on a "
            f"machine that is connected, then put {FULL_FILE} into "
            f"{dl_manager.download_dir.parent} or give the path of that file (option --data)."
        ) from error


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
            _forget(archive)
            raise
        return str(folder)


def _glue_builder() -> type[tfds.core.GeneratorBasedBuilder]:
    # By its module: without TensorFlow, TFDS cannot find the builder by its name.
    from tensorflow_datasets.text.glue import Glue

    class GlueWithoutTensorFlow(Glue, skip_registration=True):  # type: ignore[call-arg]
        name = "glue"
        _log_download_bytes = _BlockBuilder._log_download_bytes
        _log_download_done = _BlockBuilder._log_download_done

        def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> Any:
            return super()._split_generators(_Unpacked(dl_manager))

    return GlueWithoutTensorFlow


def _glue(downloads: Path) -> dict[str, list[Labelled]]:
    """Prepare TFDS's ``glue/sst2`` beside the downloads and read it, in its authors' order."""
    try:
        builder = _glue_builder()(
            config="sst2", data_dir=downloads / "tfds", file_format="array_record"
        )
        if not (Path(builder.data_dir) / "dataset_info.json").exists():
            _reach(builder.builder_config.data_url)
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
        raise InputError(
            f"glue/sst2 could not be fetched ({_reason(error)}): run this once on a machine that "
            f"is connected, or give a folder with {', '.join(SST2_FILES.values())} of "
            "sentence<TAB>label lines (option --data)."
        ) from error
