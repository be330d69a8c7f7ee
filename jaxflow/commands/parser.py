"""Parse the command line: subcommands, their options, and errors in one line."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import io
import re
import textwrap
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

WIDTH = 80  # columns of a help text that is not printed on a terminal


#: Former commands -> the script of the repository that replaced them.
SCRIPTS = {
    ("reproduce", "decoders"): "examples/decoders.py",
    ("reproduce", "digits"): "examples/digits.py",
    ("subject-mass",): "examples/subject_mass.py",
}


class Command(Protocol):
    """A subcommand: options that can be run."""

    def run(self) -> None:
        """Do the work."""


def parse(arguments: list[str]) -> Command:
    """Read the command line; help and version end the program here.

    Raises `InputError` if an option is unknown, missing or has an unusable value.
    """
    for words, script in SCRIPTS.items():
        if tuple(arguments[: len(words)]) == words:
            raise InputError(
                f"jaxflow {' '.join(words)} is now the script {script} of the repository: "
                f"python {script} --help"
            )
    if arguments[:1] == ["--version"]:
        import jaxflow

        print(f"jaxflow {jaxflow.__version__}")
        raise SystemExit(0)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_overview())
        raise SystemExit(0)
    if arguments[0] == "reproduce" and len(arguments) > 1 and arguments[1] in STUDIES:
        return _read(STUDIES[arguments[1]], " ".join(arguments[:2]), arguments[2:])
    if arguments[0] not in COMMANDS:
        raise InputError(
            f"there is no command {arguments[0]!r}{_meant(arguments[0], COMMANDS)} (jaxflow --help "
            "lists them)"
        )
    return _read(COMMANDS[arguments[0]], arguments[0], arguments[1:])


def _read(command: Callable[..., Any], name: str, arguments: list[str]) -> Command:
    import tyro

    if command in (Train, Reproduce):  # the older name of the option
        arguments = ["--num-heads" if word == "--heads" else word for word in arguments]
    printed, complaint = io.StringIO(), io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint), contextlib.redirect_stdout(printed):
            found: Command = tyro.cli(
                command,
                prog=f"jaxflow {name}",
                args=_with_stdout(arguments),
                config=(tyro.conf.FlagCreatePairsOff, tyro.conf.OmitArgPrefixes),
            )
    except SystemExit as end:
        if end.code in (0, None):
            print(_wrapped(printed.getvalue()))
            raise
        known = sorted(_option_names(command))
        raise InputError(_one_line(complaint.getvalue(), known, f"jaxflow {name} --help")) from None
    return found


def _with_stdout(arguments: list[str]) -> list[str]:
    """Let ``--json`` without a file mean standard output: a file's name ends in .json."""
    found: list[str] = []
    for place, word in enumerate(arguments):
        found.append(word)
        after = arguments[place + 1 : place + 2]
        if word == "--json" and not (after and (after[0] == "-" or after[0].endswith(".json"))):
            found.append("-")
    return found


def _overview() -> str:
    lines = ["usage: jaxflow COMMAND ...", ""]
    lines += ["Which input tokens a Transformer's output came from.", ""]
    named = {**COMMANDS, **{f"reproduce {name}": study for name, study in STUDIES.items()}}
    for name, command in sorted(named.items(), key=lambda item: list(named).index(item[0])):
        first = (command.__doc__ or "").strip().split("\n\n")[0]
        lines += textwrap.wrap(
            " ".join(first.split()),
            WIDTH,
            initial_indent=f"  {name:20s}",
            subsequent_indent=" " * 22,
        )
    lines += ["", "jaxflow COMMAND --help shows the options of a command; jaxflow --version."]
    return "\n".join(lines)


def _wrapped(text: str) -> str:
    """Wrap the paragraphs above the options at words; the options are wrapped already."""
    import shutil

    width = shutil.get_terminal_size((WIDTH, 24)).columns
    parts = []
    for paragraph in text.rstrip().split("\n\n"):
        lines = [line.rstrip() for line in paragraph.splitlines()]
        prose = lines and not any(line.startswith((" ", "\x1b")) for line in lines)
        parts.append("\n".join(textwrap.wrap(" ".join(lines), width) if prose else lines))
    return "\n\n".join(parts)


def _option_names(command: Any) -> set[str]:
    names = set()
    for field in dataclasses.fields(command):
        if dataclasses.is_dataclass(field.default_factory):
            names |= _option_names(field.default_factory)
        else:
            names.add(f"--{field.name.removesuffix('_folder').replace('_', '-')}")
    return names


def _meant(word: str, known: Any) -> str:
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f": did you mean {close[0]}?" if close else ""


def _one_line(complaint: str, known: list[str], help_command: str) -> str:
    """Return the first statement of the parser's framed message, with its suggestion."""
    lines = [re.sub("[│╭╮╰╯─]", " ", line).strip() for line in complaint.splitlines()]
    # A title, a rule, the statement, and after another rule what does not fit one line.
    parts = re.split(r"\n(?:-{5,})?\n", "\n".join(lines) + "\n")
    statement = " ".join((parts[1] if len(parts) > 1 and parts[1].strip() else parts[0]).split())
    statement = statement.replace("'None', ", "").replace(", 'None'", "")
    statement = statement.removesuffix(" (required)").rstrip(".")
    statement = re.sub(
        r"Error parsing (\S+): .*instantiated from \[(.*)\]", r"\1 cannot be \2", statement
    )
    wrong = re.match(r"Unrecognized options: (--[\w-]+)", statement)
    meant = _meant(wrong[1], known) if wrong else ""
    return f"{statement}{meant} ({help_command} lists the options)"
