"""Which subcommands there are, and how their options are read."""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Callable
from typing import Any, Protocol

from jaxflow.commands.attribute import Attribute
from jaxflow.commands.benchmark import Benchmark
from jaxflow.commands.edges import Edges
from jaxflow.commands.evaluate import Evaluate
from jaxflow.commands.explain import Explain
from jaxflow.commands.export import Export
from jaxflow.commands.figures import Figures
from jaxflow.commands.leaderboard import Leaderboard
from jaxflow.commands.pronouns import ReproducePronouns
from jaxflow.commands.reproduce import Reproduce
from jaxflow.commands.sst2 import ReproduceSst2
from jaxflow.commands.train import Train
from jaxflow.errors import InputError

__all__ = ["Command", "parse"]

COMMANDS: dict[str, Callable[..., Any]] = {
    "reproduce": Reproduce,
    "train": Train,
    "evaluate": Evaluate,
    "explain": Explain,
    "export": Export,
    "figures": Figures,
    "attribute": Attribute,
    "edges": Edges,
    "leaderboard": Leaderboard,
    "benchmark": Benchmark,
}

#: Further experiments of ``jaxflow reproduce``, by the word that follows it.
STUDIES: dict[str, Callable[..., Any]] = {
    "pronouns": ReproducePronouns,
    "sst2": ReproduceSst2,
}


#: Former commands -> the script of the repository that replaced them.
SCRIPTS = {
    ("reproduce", "decoders"): "examples/decoders.py",
    ("reproduce", "digits"): "examples/digits.py",
    ("subject-mass",): "examples/subject_mass.py",
}


class Command(Protocol):
    """What every subcommand is: options that can be run."""

    def run(self) -> None:
        """Do the work."""


def parse(arguments: list[str]) -> Command:
    """Read the command line; asking for help ends the program here.

    Raises
    ------
    InputError
        If an option is unknown, missing or has an unusable value.
    """
    import tyro

    for words, script in SCRIPTS.items():
        if tuple(arguments[: len(words)]) == words:
            name = " ".join(words)
            raise InputError(f"{name} is a script now: run python {script} in the repository")
    manner = (tyro.conf.FlagCreatePairsOff, tyro.conf.OmitArgPrefixes)
    complaint = io.StringIO()
    command: Command
    try:
        with contextlib.redirect_stderr(complaint):
            if arguments[:1] == ["reproduce"] and arguments[1:2] and arguments[1] in STUDIES:
                command = tyro.cli(
                    STUDIES[arguments[1]],
                    prog=f"jaxflow reproduce {arguments[1]}",
                    args=arguments[2:],
                    config=manner,
                )
            else:
                command = tyro.extras.subcommand_cli_from_dict(
                    COMMANDS,
                    prog="jaxflow",
                    description="Which input tokens a Transformer's output came from.",
                    args=arguments or ["--help"],
                    config=manner,
                )
    except SystemExit as end:
        if end.code in (0, None):
            raise
        raise InputError(_one_line(complaint.getvalue())) from None
    return command


def _one_line(complaint: str) -> str:
    """Take the first statement out of the parser's framed message."""
    lines = [re.sub("[│╭╮╰╯─]", " ", line).strip() for line in complaint.splitlines()]
    body = [line for line, raw in zip(lines, complaint.splitlines(), strict=True) if "│" in raw]
    first: list[str] = []
    for line in body or lines:
        if not line and first:
            break
        first.append(line)
    return f"{' '.join(' '.join(first).split())} (jaxflow --help lists what there is)"
