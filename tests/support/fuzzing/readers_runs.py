"""Readers of what runs leave: checkpoints, metrics put off, locks, cards."""

from __future__ import annotations

import functools
import hashlib
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fuzzing import model_files
from fuzzing.cases import Case, Reader
from fuzzing.mutate_json import mutate_json
from fuzzing.mutate_text import WORDS, mutate_bytes, mutate_case, mutate_text
from fuzzing.readers_records import json_case
from jaxflow.errors import InputError
from jaxflow.eval.io.card import END, START, with_measured
from jaxflow.eval.io.export import read_card
from jaxflow.train.checkpoint import open_checkpoints
from jaxflow.train.lock import hold
from jaxflow.train.run import Journal
from jaxflow.train.step import TrainState

__all__ = ["CARD", "READERS", "checkpoint_seeds"]

EARLIER, LATER = 5, 10


def put_off_seeds() -> list[Case]:
    rows = [{"loss": 0.5, "accuracy": 1.0}, {"loss": 0.25, "accuracy": 0.0}]
    found = [{"step": 2, "metrics": rows}, {"step": 3, "metrics": rows}, {"step": 2, "metrics": []}]
    return [{"pending.json": json.dumps(one).encode()} for one in found]


def put_off(folder: Path) -> Any:
    """Take up what was put off at step 2."""
    journal = Journal(folder, 2)
    try:
        return journal.read_pending(2)
    finally:
        journal.close()


def put_off_oracle(folder: Path, case: Case, value: Any) -> None:
    content = case.get("pending.json")
    stated = {"step": 0, "metrics": []} if content is None else json.loads(content)
    assert type(stated["step"]) is int
    for row in stated["metrics"]:
        assert all(type(number) in (int, float) for number in row.values())
    expected = stated["metrics"] if stated["step"] == 2 else []
    assert value == [{name: float(number) for name, number in row.items()} for row in expected]
    assert all(type(number) is float for row in value for number in row.values())


@functools.cache
def states() -> dict[int, TrainState]:
    """Two states of a run, which differ in every number."""
    rng = np.random.default_rng(0)

    def state(step: int) -> TrainState:
        params = {"a": jnp.asarray(rng.normal(size=(3, 2)), jnp.float32), "b": jnp.arange(4) + step}
        return TrainState(jnp.asarray(step, jnp.int32), params, (jnp.ones(2) * step,))

    return {step: state(step) for step in (EARLIER, LATER)}


@functools.cache
def checkpoint_seeds() -> list[Case]:
    """A run's checkpoints, and the same as an older run has them: seals in a file beside."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "checkpoints"
        with open_checkpoints(folder) as checkpoints:
            for state in states().values():
                checkpoints.save(state)
        made = model_files.files(Path(name))
    seals = {step: f"checkpoints/{step}/sha256" for step in states()}
    old = {path: content for path, content in made.items() if path not in seals.values()}
    together = {str(step): (made[path] or b"").decode() for step, path in seals.items()}
    return [made, {**old, "checkpoints.json": json.dumps(together).encode()}]


def checkpoint_case(rng: Random, case: Case, others: Sequence[Case]) -> Case:
    """Change files of checkpoints, but never a seal so that it fits.

    A checksum that fits what was changed would have TensorStore read hostile files, which nothing
    in Python can keep from ending the process.
    """

    def change(rng: Random, name: str, content: bytes) -> bytes:
        return mutate_json(rng, content) if name.endswith(".json") else mutate_bytes(rng, content)

    what = rng.random()
    if what < 0.3:  # of many files that of the seals is seldom met
        name = rng.choice([name for name in case if name.endswith(("sha256", "points.json"))])
        made = {**case, **mutate_case(rng, {name: case[name]}, others, change)}
    elif what < 0.4:
        old, new = rng.choice((
            (f"/{LATER}/", rng.choice(("/07/", "/²/", "/٣/", "/-1/", "/x/", "/.10/", "/99/"))),
            (f"/{EARLIER}/", f"/{LATER + 1}/"),
            ("checkpoints/", "checkpoints-damaged/"),
        ))  # fmt: skip
        made = {name.replace(old, new): content for name, content in case.items()}
    elif what < 0.45:
        step = rng.choice((EARLIER, LATER))
        made = {name: content for name, content in case.items() if f"/{step}/" not in name}
        if rng.random() < 0.5:
            made[f"checkpoints/{step}"] = rng.choice((b"x", None))
    else:
        made = mutate_case(rng, case, others, change)
    # A folder in a file's place may hold none of the others.
    return {
        name: content
        for name, content in made.items()
        if content is None or not any(other.startswith(f"{name}/") for other in made)
    }


def read_checkpoints(folder: Path) -> Any:
    """Return the state that a run would go on from, and what is said."""
    said: list[str] = []
    with open_checkpoints(folder / "checkpoints", said.append) as checkpoints:
        found = checkpoints.restore(states()[EARLIER])
    return found if found is None else jax.tree.map(np.asarray, found), said


def checkpoint_oracle(folder: Path, case: Case, value: Any) -> None:
    """The state is that of the last checkpoint whose files are all as they were written."""
    found, said = value
    assert all(InputError(line).args[0] == line for line in said)
    whole = {step for step in states() if _is_whole(case, step)}
    if not whole:
        assert found is None
        return
    assert found is not None
    expected = states()[max(whole)]
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def _is_whole(case: Case, step: int) -> bool:
    place = f"checkpoints/{step}/"
    good = checkpoint_seeds()[1]
    files = {n: c for n, c in case.items() if n.startswith(place) and c is not None}
    seal = files.pop(f"{place}sha256", None)
    if files != {name: content for name, content in good.items() if name.startswith(place)}:
        return False
    if seal is None and f"{place}sha256" not in case and case.get("checkpoints.json"):
        stored = json.loads(case["checkpoints.json"] or b"").get(str(step))
        seal = str(stored).encode(errors="surrogatepass")
    digest = hashlib.sha256()
    for name in sorted(files, key=lambda name: Path(name).parts):
        digest.update(name.removeprefix(place).encode())
        digest.update(hashlib.sha256(files[name] or b"").digest())
    return seal == digest.hexdigest().encode()


def lock_holder(folder: Path) -> Any:
    """Ask for a folder that another holder, who wrote into the lock what the case says, has."""
    import fcntl
    import os

    lock = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with hold(folder):
            return "held twice"
    finally:
        os.close(lock)


def never(folder: Path, case: Case, value: Any) -> None:
    raise AssertionError(value)


def lock_case(rng: Random, case: Case, others: Sequence[Case]) -> Case:
    content = mutate_text(rng, case[".lock"] or b"")
    return {".lock": rng.choice((content, content, rng.choice(WORDS), rng.randbytes(300)))}


CARD = f"# A model\n\nIt is small.\n\n{START}\n\n| | |\n|---|---|\n\n{END}\n\nMore.\n"
_PART = f"{START}\n\nmeasured anew\n\n{END}"


def card_oracle(folder: Path, case: Case, value: Any) -> None:
    """What stands around the measured part is kept."""
    content = case["card.md"]
    assert content is not None
    text = content.decode().replace("\r\n", "\n").replace("\r", "\n")
    assert value.count(_PART) == 1
    before, _, after = value.partition(_PART)
    if START in text:
        assert text.startswith(before + START)
        assert text.endswith(END + after)
        assert before.count(START) == 0
    else:
        assert before.rstrip() == text.rstrip()
        assert not after.strip()


READERS = (
    Reader(
        "metrics put off",
        put_off_seeds,
        put_off,
        json_case,
        put_off_oracle,
        share=2,
    ),
    Reader(
        "checkpoints",
        checkpoint_seeds,
        read_checkpoints,
        checkpoint_case,
        checkpoint_oracle,
        share=0.4,
    ),
    Reader(
        "lock's holder",
        lambda: [{".lock": b"process 17 on a machine"}],
        lock_holder,
        lock_case,
        never,
        share=0.5,
    ),
    Reader(
        "model's card",
        lambda: [{"card.md": CARD.encode()}, {"card.md": b"# A model\n"}],
        lambda folder: with_measured(read_card(folder / "card.md"), _PART),
        lambda rng, case, others: mutate_case(
            rng, case, others, lambda rng, name, content: mutate_text(rng, content)
        ),
        card_oracle,
        share=1,
    ),
)
