"""A run's folder as all its processes see it: the first reads and writes, every one learns of it.

So nothing but the corpus need be seen from every host, and what goes wrong with the folder ends all
processes with the same sentence.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from jaxflow.errors import InputError
from jaxflow.train.checkpoint import Checkpoints, all_finite, open_checkpoints
from jaxflow.train.exchange import by_each, by_first, tree_of_first
from jaxflow.train.journal import Journal, RunConfig, claim_run, open_journal, write_json
from jaxflow.train.mesh import Layout
from jaxflow.train.step import TrainState

__all__ = ["RunFolder", "open_run"]


class RunFolder:
    """A run's files, open for the duration of a block: see `open_run`.

    Every method is called by all processes of the run, in the same order, and raises in all of
    them.

    Attributes
    ----------
    seconds_before
        Seconds of training up to the state that the run goes on from.
    """

    def __init__(self, run: Path, layout: Layout) -> None:
        self._run, self._layout = run, layout
        # Process 0's alone.
        self._files = contextlib.ExitStack()
        self._checkpoints: Checkpoints
        self._journal: Journal
        self.seconds_before = 0.0

    def begin(
        self, fresh: TrainState, names: Collection[str]
    ) -> tuple[TrainState, list[dict[str, float]]]:
        """Return the state that the run goes on from, and what its last steps found untold.

        Parameters
        ----------
        fresh
            The state of a run that has not begun.
        names
            Of the metrics that each step finds.

        Returns
        -------
        TrainState
            The last checkpoint, or `fresh`, where the layout has it.
        list of dict
            By step, those of `jaxflow.train.journal.Journal.taken_up`.

        Raises
        ------
        InputError
            If checkpoint or journal are damaged.
        """
        state = fresh

        def read() -> list[Any]:
            nonlocal state
            state = self._checkpoints.restore(fresh) or fresh
            step = int(state.step)
            journal = self._files.enter_context(contextlib.closing(open_journal(self._run, step)))
            self._journal = journal
            return [journal.seconds_before, journal.taken_up(step, names)]

        self.seconds_before, untold = by_first(read)
        return self._layout.put_state(tree_of_first(state)), untold

    def write(self, step: int, **values: Any) -> None:
        """Append a line to the journal.

        Raises
        ------
        InputError
            If it cannot be written.
        """
        by_first(lambda: self._journal.write(step, **values))

    def keep(self, state: TrainState) -> None:
        """Write a checkpoint of steps that the journal has told.

        Raises
        ------
        InputError
            If it cannot be written, or has a number that is not finite.
        """
        here = self._layout.on_host(state)

        def save() -> None:
            self._save(here)
            self._journal.told()

        by_first(save)

    def put_off(self, state: TrainState, untold: Sequence[Mapping[str, float]]) -> None:
        """Write a checkpoint between two lines of the journal, so that going on leaves no trace.

        Raises
        ------
        InputError
            As `keep` does.
        """
        here = self._layout.on_host(state)

        def save() -> None:
            self._journal.put_off(int(here.step), untold)
            self._save(here)

        by_first(save)

    def finish(
        self, save: Callable[[Path], None], accuracy: Mapping[str, Mapping[str, float | int]]
    ) -> None:
        """Write the model and its accuracy.

        Raises
        ------
        InputError
            If they cannot be written.
        """

        def write() -> None:
            save(self._run / "model")
            write_json(self._run / "accuracy.json", accuracy)

        by_first(write)

    def _save(self, state: TrainState) -> None:
        if not all_finite(state):
            raise InputError(
                f"parameters are no longer finite after step {int(state.step)}: training stopped, "
                "the last good checkpoint is kept; try a lower learning rate"
            )
        self._checkpoints.save(state)

    def _open(self, config: RunConfig, say: Callable[[str], None]) -> None:
        self._files.enter_context(claim_run(self._run, config))
        self._checkpoints = self._files.enter_context(
            open_checkpoints(self._run / "checkpoints", say)
        )


@contextmanager
def open_run(
    run: Path, config: RunConfig, layout: Layout, say: Callable[[str], None]
) -> Iterator[RunFolder]:
    """Have a run's folder for the duration of a block.

    Parameters
    ----------
    run
        The folder.
    config
        The run's configuration, which is written there.
    layout
        Where the run's state lies.
    say
        Told in one line of each checkpoint that is not used.

    Raises
    ------
    InputError
        If the folder holds a run with another configuration, another process has it, it cannot be
        written, holds checkpoints of which none is whole, or the run's processes have not the same
        configuration.
    """
    _need_one_run(config)
    folder = RunFolder(run, layout)
    with folder._files:  # what is open there learns of an error
        by_first(lambda: folder._open(config, say))
        yield folder


def _need_one_run(config: RunConfig) -> None:
    """Refuse processes whose options differ; where the corpus lies on its host is each one's."""
    theirs = by_first(config.to_dict)

    def check() -> None:
        for name, value in config.to_dict().items():
            if value != theirs[name] and name != "data":
                raise InputError(
                    f"{name} is {value}, and {theirs[name]} in process 0: give all processes of a "
                    "run the same options"
                )

    by_each(check)
