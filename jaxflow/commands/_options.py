"""Declare options, and those that several commands share."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import re
import textwrap
import types
import typing
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar, dataclass_transform

import tyro

from jaxflow.errors import InputError

if TYPE_CHECKING:
    from jaxflow.models import Model
    from jaxflow.train.config import TrainConfig
    from jaxflow.train.distributed import Processes

T = TypeVar("T")
_METAVARS = {Path: "PATH", int: "NUMBER", float: "NUMBER", str: "TEXT"}


@dataclass_transform(frozen_default=True)
def options(cls: type[T]) -> type[T]:
    """Make a class a frozen dataclass whose help shows values and defaults as users type them.

    The text of an option is the string after its field. ``Path | None`` shows as PATH, a `Literal`
    as its choices, a string in ``Annotated[..., "NAME|PATH"]`` as itself. The defaults None, False
    and an empty tuple are not shown: the text states what happens by default.
    """
    texts = _field_texts(cls)
    for name, hint in typing.get_type_hints(cls, include_extras=True).items():
        if name not in texts:  # a group of options
            continue
        inner, marks = _unwrap(hint)
        metavar = next((mark for mark in marks if isinstance(mark, str)), None)
        if metavar is None and inner is not bool:
            metavar = _metavar(inner)
        shown = tyro.conf.arg(
            # A field cannot be called like the method `run`.
            name="run" if name == "run_folder" else None,
            help=texts[name],
            metavar=metavar,
            help_behavior_hint=lambda default: (
                "" if default in ("None", "False", "") else f"(default: {default})"
            ),
        )
        cls.__annotations__[name] = Annotated[hint, shown]
    return dataclasses.dataclass(frozen=True)(cls)


def _field_texts(cls: type) -> dict[str, str]:
    """Return the string after each field of a class, on one line."""
    (tree,) = ast.parse(textwrap.dedent(inspect.getsource(cls))).body
    assert isinstance(tree, ast.ClassDef)
    found = {}
    for field, text in zip(tree.body, tree.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr):
            assert isinstance(field.target, ast.Name)
            found[field.target.id] = " ".join(ast.literal_eval(text.value).split())
    return found


def _unwrap(hint: Any) -> tuple[Any, tuple[Any, ...]]:
    """Return a field's type without None, tuples and marks, and its marks."""
    marks: tuple[Any, ...] = ()
    while True:
        if typing.get_origin(hint) is Annotated:
            hint, *found = typing.get_args(hint)
            marks += tuple(found)
        elif typing.get_origin(hint) in (types.UnionType, typing.Union):
            (hint,) = (part for part in typing.get_args(hint) if part is not types.NoneType)
        elif typing.get_origin(hint) is tuple:
            hint = typing.get_args(hint)[0]
        else:
            return hint, marks


def _metavar(hint: Any) -> str:
    if typing.get_origin(hint) is Literal:
        return "|".join(map(str, typing.get_args(hint)))
    return _METAVARS[hint]


def given(record: Any, *names: str) -> dict[str, Any]:
    """Return the options that were given, of those named or all, as users know them."""
    found = {name: getattr(record, name) for name in names or vars(record)}
    return {
        name.removesuffix("_folder"): value
        for name, value in found.items()
        if value is not None and value is not False and value != ()
    }


def refuse(names: Iterable[str], why: str) -> None:
    """Raise `InputError` if there are options that do not go with others."""
    if found := " and ".join(names):
        raise InputError(f"{found} must {why}")


def numbers(name: str, text: str | None, example: str = "0,5") -> tuple[int, ...] | None:
    """Parse numbers separated by commas."""
    if text is None:
        return None
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise InputError(f"{name} must be whole numbers such as {example}, got {text!r}") from error


def head(text: str | None) -> str | int | None:
    """Parse the way heads are fused, or the index of one."""
    if text is None or text in ("mean", "max", "min"):
        return text
    try:
        return int(text)
    except ValueError as error:
        raise InputError(
            f"heads must be mean, max, min or the index of a head, got {text!r}"
        ) from error


@options
class TrainOptions:
    """Without them the corpus decides; a run that was begun keeps its own."""

    data: Path | None = None
    """A folder of numpred.* files, or the table agr_50_mostcommon_10K.tsv(.gz)."""
    corpus: Literal["synthetic", "simple", "full"] | None = None
    """The corpus; by default the one in the data folder, or the built-in grammar."""
    seed: int | None = None
    """Seed of the parameters, the data's order, dropout and the synthetic corpus."""
    epochs: int | None = None
    """Passes over the training sentences."""
    batch: int | None = None
    """Sentences a step."""
    learning_rate: float | None = None
    """Peak learning rate of AdamW."""
    weight_decay: float | None = None
    """Weight decay of the matrices."""
    dropout: float | None = None
    """Dropout rate inside the model."""
    word_dropout: float | None = None
    """Share of words replaced by [UNK] in training."""
    attractor_share: float | None = None
    """Share of the sentences drawn from the further ones with attractors, where there are any."""
    compute: Literal["float32", "bfloat16"] | None = None
    """Floating-point type of a training step."""
    flow_weight: float | None = None
    """Weight of the regulariser that raises the subject noun's share of the flow to [CLS]; 0 leaves
    it out."""
    layers: int | None = None
    """Blocks of the encoder."""
    num_heads: int | None = None
    """Attention heads of each block."""
    width: int | None = None
    """Width of the embeddings."""
    causal: bool = False
    """Train a decoder: no word attends to later ones, and the class comes from the last word."""
    positions: int | None = None
    """Longest sentence in tokens, with [CLS]."""
    checkpoint_every: int | None = None
    """Steps between checkpoints."""

    def config(self, stored: TrainConfig | None = None) -> TrainConfig:
        """Return the run's configuration: the options over what is stored, or over a preset."""
        from jaxflow.train.config import PRESETS

        chosen = {name.removeprefix("num_"): value for name, value in given(self).items()}
        if stored is not None:
            return dataclasses.replace(stored, **chosen)
        chosen["corpus"] = self.corpus or _corpus_in(self.data)
        if chosen["corpus"] == "simple" and self.data is None:
            raise InputError(
                "corpus simple is read from a folder of numpred.* files: name it with --data"
            )
        return dataclasses.replace(PRESETS[chosen["corpus"]], **chosen)


def _corpus_in(data: Path | None) -> Literal["synthetic", "simple", "full"]:
    if data is None:
        return "synthetic"
    if data.is_file() or any(data.glob("agr_50_mostcommon_10K.tsv*")):
        return "full"
    return "simple"


def paired(texts: Sequence[str], pairs: Sequence[str]) -> list[tuple[str, str | None]]:
    """Return each text with its second one, or None where there are no pairs.

    Raises `InputError` if there are not as many of both.
    """
    if pairs and len(pairs) != len(texts):
        raise InputError(
            f"pair must be given once for each of the {len(texts)} texts, got {len(pairs)}"
        )
    return list(zip(texts, pairs, strict=True)) if pairs else [(text, None) for text in texts]


def own_name(model: str) -> str:
    """Return a folder's own name, or a hub name as it is: results must not contain local paths."""
    return Path(model).resolve().name if Path(model).exists() else model


def folder_name(model: str) -> str:
    """Return a model's name as a valid one of a folder."""
    return re.sub(r"[^\w.-]+", "-", own_name(model)).strip("-.") or "model"


@options
class ModelOptions:
    """The model; without options it is the bundled one."""

    run_folder: Annotated[str | None, "PATH"] = None
    """A folder that jaxflow train or jaxflow export wrote; by default the bundled model."""
    model: Annotated[str | None, "PATH|NAME"] = None
    """A published model: its folder, with config.json and model.safetensors, or its name on the
    Hugging Face hub."""

    def load(self) -> Model:
        """Load the model, as `jaxflow.commands._runtime.named_model`."""
        from jaxflow.commands._runtime import named_model

        return named_model(self.run_folder, self.model)


@options
class ScoringOptions:
    """The target of gradients, and the replacement of a token that is blanked out."""

    target: (
        Literal["difference", "log-odds", "probability", "predicted", "last", "output"] | None
    ) = None
    """Target of gradients: difference is p0 - p1, the default of two classes; log-odds and
    probability are of the explained output, log-odds the default of other models; predicted and
    last are logits; output is that of a regression, its only target."""
    replacement: Literal["mask", "unk", "end"] | None = None
    """Replacement of a token that is blanked out: the mask token, the default of a pretrained model
    that has one, the token for unknown words, the default of others, or the end of a text, that of
    language models with neither."""


@options
class HostOptions:
    """The connection of one process of several to the others."""

    cluster: bool = False
    """Let JAX find the other processes: under Slurm, Open MPI, Kubernetes or on Cloud TPU."""
    coordinator: Annotated[str | None, "HOST:PORT"] = None
    """Address of process 0; with --processes and --process."""
    processes: int | None = None
    """Number of processes."""
    process: int | None = None
    """Index of this process, from 0."""

    @property
    def given(self) -> bool:
        """Return whether this is one process of several."""
        return self != HostOptions()

    def join(self) -> Processes:
        """Join the other processes; to be called before JAX is used."""
        from jaxflow.train.distributed import join

        return join(**dataclasses.asdict(self))

    @contextmanager
    def together(self) -> Iterator[Processes]:
        """Join the others for work that all do together, as `jaxflow.commands._runtime.joined`."""
        from jaxflow.commands._runtime import joined

        if self.processes is not None and self.coordinator is None and not self.cluster:
            raise InputError(
                "processes that train one model must find each other: add --coordinator HOST:PORT, "
                "or use --cluster instead"
            )
        with joined(**dataclasses.asdict(self)) as processes:
            yield processes
