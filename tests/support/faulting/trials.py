"""What a trial of a fault is, and the undisturbed runs that trials are held against."""

from __future__ import annotations

import dataclasses
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from small_corpus import write_small_corpus

from faulting.server import Server
from faulting.works import TRAINING, WORKS, Work

__all__ = ["Outcome", "Stage", "Undisturbed", "undisturbed"]


@dataclasses.dataclass(frozen=True)
class Undisturbed:
    """A work that nothing disturbed: what it leaves, its seconds and its file operations."""

    files: dict[str, str]
    seconds: float
    operations: int


@dataclasses.dataclass
class Outcome:
    """What came of a trial.

    Attributes
    ----------
    struck
        Whether the fault came before the work had ended.
    wrong
        What should not have been, in words; nothing if all was as promised.
    """

    struck: bool
    wrong: list[str]


@dataclasses.dataclass(frozen=True)
class Stage:
    """Where trials take place: the server, a corpus with a finished run, and scratch space."""

    server: Server
    inputs: Path
    scratch: Path

    @classmethod
    def build(cls, scratch: Path) -> Stage:
        """Write a corpus, and train the run that evaluations read."""
        inputs = scratch / "inputs"
        inputs.mkdir(parents=True)
        write_small_corpus(inputs / "data")
        stage = cls(Server(scratch), inputs, scratch)
        argv = ["train", "--out", "run", *(part.format(inputs=inputs) for part in TRAINING)]
        ended = stage.server.run(inputs, {"argv": argv, "cache": str(inputs / "cache")})
        assert ended.status == 0, ended.err
        return stage

    @contextmanager
    def folder(self) -> Iterator[Path]:
        """Give a new folder for a work."""
        folder = self.scratch / "trial"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        yield folder
        shutil.rmtree(folder, ignore_errors=True)

    def look(self, work: Work, folder: Path) -> dict[str, str]:
        """Return `faulting.works.look` of a work's folder."""
        out = str(folder / work.out)
        found = self.server.call(folder, "look", work.name, out, cache=self.inputs / "cache")
        return dict(found)

    def half_written(self, work: Work, folder: Path, files: dict[str, str]) -> list[str]:
        """Say what stands under a final name and is not what an undisturbed work leaves there."""
        try:
            there = self.look(work, folder)
        except RuntimeError as error:
            return [f"not whole: {error}"]
        return [
            f"{name} stands there and is another"
            for name, digest in there.items()
            if name in files and digest != files[name]
        ]

    def finish(self, work: Work, folder: Path, files: dict[str, str]) -> list[str]:
        """Run a work again to its end and say in what it is not as an undisturbed one."""
        from faulting.works import leftovers

        ended = self.server.run(folder, work.job(self.inputs, folder))
        if ended.status != 0:
            return [f"the same command ends with {ended.status}: {ended.err[-2000:]}"]
        found = self.look(work, folder)
        wrong = [
            f"{name} differs in the end"
            for name in sorted(files.keys() | found.keys())
            if found.get(name) != files.get(name)
        ]
        return wrong + [f"{name} is left over" for name in leftovers(str(folder / work.out))]


def undisturbed(stage: Stage, names: list[str]) -> dict[Work, Undisturbed]:
    """Run works twice, for their programs to be compiled, and return what the second left."""
    found = {}
    for work in WORKS:
        if work.name not in names:
            continue
        if work.needs is not None:
            cache = stage.inputs / "cache"
            stage.server.call(stage.scratch, work.needs, str(stage.inputs), cache=cache)
        looks = []
        for _ in range(2):
            with stage.folder() as folder:
                begun = time.monotonic()
                ended = stage.server.run(folder, work.job(stage.inputs, folder))
                seconds = time.monotonic() - begun
                assert ended.status == 0, ended.err
                looks.append(stage.look(work, folder))
        other = dict(looks[0].items() ^ looks[1].items())
        assert not other, f"{work.name} is not the same in every run: {', '.join(other)}"
        operations = int(ended.out.split()[-1])
        found[work] = Undisturbed(looks[0], seconds, operations)
    return found
