r"""Judge methods on prompts of a decoder: scores of the prompt's units for the answer to it.

A case is a prompt and its answer, whose log-probability :math:`\log p(a \mid x) = \sum_t \log
p(a_t \mid x, a_{<t})` takes the place of a class's probability. A prompt's tokens are joined to
units, such as its words; a unit's score is that of its tokens together, for the mean row of the
tokens that the answer is predicted from. A removed unit is deleted. Where nothing is left, the
tokenizer's token for unknown words, GPT-2's ``<|endoftext|>``, stands before the answer.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

import jaxflow
from jaxflow.errors import InputError
from jaxflow.eval.explain.answer import Unit, encode_answer, generate_answer, join_units
from jaxflow.eval.leaderboard.board import LONGEST
from jaxflow.eval.leaderboard.cases import Cases, draw
from jaxflow.eval.leaderboard.scoring import RESIDUAL, Report, Scores, baselines, tokens_at_once
from jaxflow.eval.score.reading import piece_text
from jaxflow.models import Model, SubwordTokenizer
from jaxflow.models.model import roll_up
from jaxflow.models.tracing import visible_tokens

FLOW_MOST = 64  # tokens of a prompt and its answer, up to which flow is computed
_STEP = 16  # texts are padded to a multiple of this, so that little is compiled


@dataclasses.dataclass(frozen=True, eq=False)
class Prompts(Cases):
    """S prompts of up to n units: `tokens` are the units' numbers, `labels` the prompts' own."""

    label_name, value_name = "answer", "log-probability"

    units: tuple[tuple[str, ...], ...]  # each prompt's, as text
    ids: tuple[NDArray[np.int32], ...]  # the tokens of each prompt
    members: tuple[NDArray[np.intp], ...]  # the unit of each of them, -1: of none, never removed
    answers: tuple[NDArray[np.int32], ...]  # the tokens of each answer

    def texts(self, model: Model, row: int) -> list[str]:
        """Return a prompt's units."""
        return list(self.units[row])

    def names(self, model: Model) -> list[str]:
        """Return the answers as text."""
        assert isinstance(model.text, SubwordTokenizer)
        return [
            "".join(piece_text(model.text, number) for number in answer.tolist())
            for answer in self.answers
        ]

    def without(self, row: int, kept: int) -> NDArray[np.int32]:
        """Return a prompt's tokens without the units whose bits are not set."""
        members = self.members[row]
        stays = [at < 0 or bool(kept >> at & 1) for at in members.tolist()]
        return self.ids[row][stays]


@dataclasses.dataclass(frozen=True)
class Prompt:
    """One prompt as a file has it.

    None takes what the model generates, the default units, and no unit that holds the answer.
    """

    prompt: str
    answer: str | None = None
    units: tuple[str, ...] | Unit | None = None
    holds: int | None = None  # the unit that holds the answer, from 0: the subject of the board


def read_prompts(path: Path) -> list[Prompt]:
    """Read prompts from a text file, one a line, or a JSON list.

    An element of the list is a text, or an object of `Prompt`'s fields, of which ``prompt`` may be
    left out where ``units`` is a list: then it is these, joined. Raises `InputError`.
    """
    try:
        text = path.read_text(encoding="utf-8")
        found = json.loads(text) if path.suffix == ".json" else text.splitlines()
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(
            f"{path} must be a text file or a JSON list of prompts: {error}"
        ) from error
    if path.suffix != ".json":
        found = [line for line in found if line.strip()]
    if not isinstance(found, list) or not found:
        raise InputError(f"{path} must hold at least one prompt, and holds none")
    return [_prompt(path, place, each) for place, each in enumerate(found, start=1)]


def _prompt(path: Path, place: int, found: Any) -> Prompt:
    fields = {"prompt": found} if isinstance(found, str) else found
    known = {field.name for field in dataclasses.fields(Prompt)}
    if isinstance(fields, dict) and set(fields) <= known:
        units = fields.get("units")
        if isinstance(units, list) and units and all(isinstance(unit, str) for unit in units):
            fields = {"prompt": "".join(units)} | fields | {"units": tuple(units)}
            units = None
        texts = (fields.get("prompt"), fields.get("answer", "-"), units or "-")
        if all(isinstance(each, str) and each.strip() for each in texts):
            holds = fields.get("holds")
            if holds is None or (isinstance(holds, int) and 0 <= holds < LONGEST):
                return Prompt(**fields)
    raise InputError(
        f"{path}: prompt {place} must be a text that is not empty, or an object with prompt and, "
        "where wanted, answer (a text), units (words, sentences, lines or a list of texts) and "
        "holds (the number of a unit)"
    )


def prompt_cases(
    model: Model,
    prompts: Sequence[Prompt],
    *,
    units: Unit = "words",
    generate: int = 8,
    samples: int | None = None,
    seed: int = 0,
) -> Prompts:
    """Encode prompts, with their units and answers.

    `units` are those of prompts that name none, `generate` is how many tokens answer a prompt
    without an answer. Raises `InputError` if the model is no causal language model, a prompt is too
    long, or its units do not cover it.
    """
    if model.config.head != "lm" or not model.config.reads_last:
        raise InputError(
            "prompts need a language model that reads from left to right, such as GPT-2 or Llama "
            f"with the head lm, got {type(model.config).__name__}"
        )
    if not isinstance(model.text, SubwordTokenizer):
        raise InputError("prompts need a model with a tokenizer of word pieces")
    chosen = [(row + 1, prompts[row]) for row in draw(len(prompts), samples, seed)]
    encoded = [_encoded(model, place, each, units, generate) for place, each in chosen]
    names, ids, members, answers = zip(*encoded, strict=True)
    lengths = np.array([len(each) for each in names])
    count, n = len(names), int(lengths.max())
    holds = [-1 if each.holds is None else each.holds for _, each in chosen]
    for (place, each), length in zip(chosen, lengths, strict=True):
        if each.holds is not None and each.holds >= length:
            raise InputError(f"holds of prompt {place} must be below its {length} units")
    return Prompts(
        tokens=np.tile(np.arange(n, dtype=np.int32), (count, 1)),
        lengths=lengths,
        labels=np.arange(count),
        special=np.zeros((count, n), bool),
        readout=np.zeros(count, np.int64),
        subject=np.array(holds, np.int64),
        units=names,
        ids=ids,
        members=members,
        answers=answers,
    )


def _encoded(model: Model, place: int, given: Prompt, units: Unit, new: int) -> tuple[Any, ...]:
    """Return a prompt's units, tokens, their units, and the answer's tokens."""
    assert isinstance(model.text, SubwordTokenizer)
    pieces = model.text.read(given.prompt)
    ids = np.asarray(pieces.ids, np.int32)
    kind = units if given.units is None else given.units
    listed = not isinstance(kind, str)
    try:
        found = join_units(
            given.prompt,
            pieces.spans,
            "passages" if listed else kind,  # type: ignore[arg-type]
            kind if listed else (),
        )
    except InputError as error:
        raise InputError(f"prompt {place}: {error}") from error
    names, members = found
    count = len(kind) if listed else len(names) - int(names[-1].startswith("(between)"))
    names, members = names[:count], np.where(members < count, members, -1)
    if listed:
        rest = given.prompt
        for name in names:
            rest = rest.replace(name, " ", 1)
        if rest.strip():
            raise InputError(
                f"units of prompt {place} must cover it, and leave out {rest.strip()[:60]!r}"
            )
    most = model.config.positions
    if len(ids) >= most:
        raise InputError(
            f"prompt {place} must be at most {most - 1} tokens for this model, to leave one for "
            f"the answer, got {len(ids)}"
        )
    if not 1 <= len(names) <= LONGEST:
        raise InputError(
            f"prompt {place} must have 1 to {LONGEST} units, got {len(names)}: join more of it, by "
            "units sentences, lines or a list"
        )
    try:
        if given.answer is not None:
            answer = encode_answer(model.text, given.prompt, ids, given.answer)
        else:
            answer = generate_answer(model, ids, min(new, most - len(ids)))
    except InputError as error:
        raise InputError(f"prompt {place}: {error}") from error
    if len(ids) + len(answer) > most:
        raise InputError(
            f"prompt {place} and its answer must be at most {most} tokens for this model, got "
            f"{len(ids)} and {len(answer)}"
        )
    return names, ids, members, answer


class PromptPrograms:
    """Compiled programs of one decoder, as `jaxflow.eval.leaderboard.scoring.Programs`."""

    #: Methods that the others are correlated with -> what the measures call them.
    references: Mapping[str, str] = {"delete-out": "blank_out", "gradient-norm": "gradient"}

    def __init__(self, model: Model) -> None:
        rolled = roll_up(model.config, model.params)
        self._model, self._rolled, self._key = model, rolled, model.config
        alone = model.text.unk_id if model.text.unk_id is not None else model.text.cls_id
        if alone is None:
            raise InputError(
                "the tokenizer must have a token for unknown words or for the beginning of a text, "
                "which stands where a whole prompt is removed, and has neither"
            )
        self._alone = alone

        def chances(logits: jax.Array, places: jax.Array, answers: jax.Array) -> jax.Array:
            read = jnp.take_along_axis(logits, jnp.maximum(places, 0)[..., None], 1)
            logs = jax.nn.log_softmax(read.astype(jnp.float32))
            picked = jnp.take_along_axis(logs, answers[..., None], -1)[..., 0]
            return jnp.where(places >= 0, picked, 0).sum(-1)

        def value(params: Any, tokens: Any, mask: Any, places: Any, answers: Any) -> jax.Array:
            found: Any = rolled.module.apply({"params": params}, tokens, mask)
            return chances(found.logits, places, answers)

        def edges(params: Any, tokens: Any, mask: Any, places: Any, answers: Any) -> Any:
            config: Any = model.config
            shape = (*tokens.shape[:1], config.layers, config.heads, tokens.shape[1])

            def explained(offsets: jax.Array) -> Any:
                run: Any = rolled.module.apply
                found = run({"params": params}, tokens, mask, offsets, method="queries_keys")
                return chances(found.logits, places, answers).sum(), found

            zeros = jnp.zeros((*shape, config.block.size), jax.tree.leaves(params)[0].dtype)
            slopes, found = jax.grad(explained, has_aux=True)(zeros)
            return found.replace(gradients=slopes, hidden=None, logits=None)

        def inputs(params: Any, tokens: Any, mask: Any, places: Any, answers: Any) -> Any:
            embedded = rolled.embed(params, tokens)

            def explained(given: jax.Array) -> Any:
                found = rolled.encode(params, given, mask, tokens=tokens)
                return chances(found.logits, places, answers).sum(), found.attention.mean(2)

            slopes, attention = jax.grad(explained, has_aux=True)(embedded)
            return embedded, slopes, attention

        self._value, self._edges, self._inputs = map(jax.jit, (value, edges, inputs))

    def fit(self, model: Model) -> bool:
        """Return whether the programs are those of a model."""
        return model.config == self._key

    def _width(self, length: int) -> int:
        """Return to how many tokens a text is padded."""
        return min(-(-length // _STEP) * _STEP, self._model.config.positions)

    def score(
        self,
        model: Model,
        cases: Prompts,
        *,
        seed: int = 0,
        threads: int | None = None,
        report: Report = lambda what, done, total: None,
    ) -> Scores:
        """Score the units of every prompt by every method, for the top layer's rows."""
        values: dict[str, NDArray[np.float32]] = {}
        seconds: dict[str, float] = {}
        compiled: set[int] = set()
        longest = max(len(i) + len(a) for i, a in zip(cases.ids, cases.answers, strict=True))
        flows = longest <= FLOW_MOST
        why = f"prompts must be at most {FLOW_MOST} tokens with their answers, got {longest}"
        left_out = {} if flows else dict.fromkeys(("raw/flow", "raw/flow-normalised"), why)
        for row in range(len(cases)):
            ids, answer = cases.ids[row], cases.answers[row]
            batch = _padded([(ids, answer)], self._width(len(ids) + len(answer)))
            if batch[0].shape[1] not in compiled:  # the seconds are without compiling
                compiled.add(batch[0].shape[1])
                self._of_prompt(cases, row, batch, flows, threads, {})
            found = self._of_prompt(cases, row, batch, flows, threads, seconds)
            for name, scores in found.items():
                values.setdefault(
                    name, np.zeros((len(cases), 1, cases.tokens.shape[1]), np.float32)
                )
                values[name][row, 0, : len(scores)] = scores
            report("scoring", row + 1, len(cases))
        values["delete-out"] = self._deleted(model, cases, seconds, report)
        values |= {
            name: np.asarray(found, np.float32)[:, None]
            for name, found in baselines(cases, np.arange(len(cases)), seed).items()
        }
        mean = {name: total / len(cases) for name, total in seconds.items()}
        return Scores(values, mean, left_out)

    def _of_prompt(
        self,
        cases: Prompts,
        row: int,
        batch: tuple[Any, ...],
        flows: bool,
        threads: int | None,
        seconds: dict[str, float],
    ) -> dict[str, NDArray[np.float64]]:
        """Return each method's scores of a prompt's units ``[U]``."""
        tokens, mask, places, _ = batch
        params = self._rolled.params
        members, count = cases.members[row], int(cases.lengths[row])
        inside = members >= 0

        def joined(scores: Any) -> NDArray[np.float64]:
            tokens = np.asarray(scores, np.float64).reshape(-1)[: len(members)]
            found = np.zeros(count)
            np.add.at(found, members[inside], tokens[inside])
            return found

        def timed(name: str, work: Callable[[], Any], before: float = 0.0) -> Any:
            begun = time.perf_counter()
            found = jax.block_until_ready(work())
            taken[name] = before + time.perf_counter() - begun
            return found

        taken: dict[str, float] = {}
        sources = places[0][places[0] >= 0]
        start = np.zeros((1, 1, tokens.shape[1]), np.float32)
        start[0, 0, sources] = 1 / len(sources)
        embedded, slopes, attention = timed("forward", lambda: self._inputs(params, *batch))
        forward = taken.pop("forward")
        rows = timed("edges", lambda: self._edges(params, *batch))
        run = taken.pop("edges")
        stack = [layer() for layer in rows.layers(projection=self._model.projections)]
        options: dict[str, Any] = {
            "weights": jnp.asarray(start),
            "residual": RESIDUAL,
            "mask": mask,
        }

        def rolled(edge: Any, how: Any = "rollout") -> NDArray[np.float64]:
            return joined(jaxflow.rollout_rows(stack, edge=edge, how=how, **options))

        zeros = jnp.zeros((1, 1, tokens.shape[1], 1))
        uniform = [
            jaxflow.QueryKey(zeros, zeros, causal=True, window=layer.window, chunk=layer.chunk)
            for layer in stack
        ]
        field = joined(jaxflow.rollout_rows(uniform, **options))
        found: dict[str, NDArray[np.float64]] = {}
        for edge in ("raw", "norm", "gradient"):
            name = f"{edge}/rollout"
            found[name] = timed(name, lambda edge=edge: rolled(edge), run)  # type: ignore[misc]
            found[f"{name}-normalised"] = _divided(found[name], field)
            taken[f"{name}-normalised"] = taken[name]
        found["gradient/product"] = timed(
            "gradient/product", lambda: rolled("gradient", "product"), run
        )
        weights = np.asarray(attention, np.float64)[0]  # [L, n, n]
        found["raw/none"] = joined(start[0] @ weights[-1])
        length = len(members) + int((places >= 0).sum()) - 1
        found["column-sum"] = joined((1 - RESIDUAL) * weights[0][:length].sum(0) + RESIDUAL)
        product = np.asarray(slopes * embedded, np.float64)[0].sum(-1)
        found["gradient-x-input"] = np.abs(joined(product))
        found["gradient-norm"] = np.sqrt(joined((np.asarray(slopes, np.float64)[0] ** 2).sum(-1)))
        taken |= dict.fromkeys(("raw/none", "gradient-x-input", "gradient-norm"), forward)
        if flows:
            self._flow(
                weights[:, :length, :length], sources, joined, found, timed, threads, forward
            )
        for name, spent in taken.items():
            seconds[name] = seconds.get(name, 0.0) + spent
        return found

    def _flow(
        self,
        weights: NDArray[np.float64],
        sources: NDArray[np.integer],
        joined: Callable[[Any], NDArray[np.float64]],
        found: dict[str, NDArray[np.float64]],
        timed: Callable[..., Any],
        threads: int | None,
        forward: float,
    ) -> None:
        """Add the mean flow from the tokens that the answer is predicted from."""
        depth, n, _ = weights.shape
        options: dict[str, Any] = {
            "residual": RESIDUAL, "sources": sources.tolist(), "layers": depth - 1,
            "threads": threads,
        }  # fmt: skip

        def mean(given: NDArray[np.float64]) -> NDArray[np.float64]:
            flows = np.asarray(jaxflow.flow(given[:, None].astype(np.float32), **options))
            return joined(flows.reshape(-1, n).mean(0))

        found["raw/flow"] = timed("raw/flow", lambda: mean(weights), forward)
        visible = visible_tokens(self._model.config, n)
        seen = np.broadcast_to(np.tri(n) if visible is None else np.asarray(visible), weights.shape)
        uniform = seen / seen.sum(-1, keepdims=True)
        found["raw/flow-normalised"] = timed(
            "raw/flow-normalised", lambda: _divided(found["raw/flow"], mean(uniform)), forward
        )

    def _deleted(
        self, model: Model, cases: Prompts, seconds: dict[str, float], report: Report
    ) -> NDArray[np.float32]:
        """Return by how much the answer is less likely without each unit, ``[S, 1, n]``."""
        sets = []
        for length in cases.lengths.tolist():
            whole = (1 << length) - 1
            sets.append(np.array([whole, *(whole & ~(1 << at) for at in range(length))], np.uint64))
        begun = time.perf_counter()
        values = self.set_values(
            model, cases, sets, lambda done, total: report("deleting", done, total)
        )
        seconds["delete-out"] = time.perf_counter() - begun
        scores = np.zeros((len(cases), 1, cases.tokens.shape[1]), np.float32)
        for row, found in enumerate(values):
            scores[row, 0, : len(found) - 1] = found[0] - found[1:]
        return scores

    def set_values(
        self,
        model: Model,
        cases: Prompts,
        sets: Sequence[NDArray[np.uint64]],
        report: Callable[[int, int], None],
    ) -> list[NDArray[np.float64]]:
        """Return the answer's log-probability for sets of kept units, an array for each prompt."""
        found = [np.empty(len(each)) for each in sets]
        texts: dict[int, list[tuple[int, int, NDArray[np.int32]]]] = {}
        for row, each in enumerate(sets):
            for place, kept in enumerate(each.tolist()):
                ids = cases.without(row, kept)
                ids = ids if len(ids) else np.array([self._alone], np.int32)
                n = self._width(len(ids) + len(cases.answers[row]))
                texts.setdefault(n, []).append((row, place, ids))
        done, total = 0, sum(map(len, sets))
        for n, group in sorted(texts.items()):
            size = max(1, tokens_at_once() // (2 * n))
            for begin in range(0, len(group), size):
                some = group[begin : begin + size]
                filled = some + some[:1] * (size - len(some))
                batch = _padded([(ids, cases.answers[row]) for row, _, ids in filled], n)
                values = np.asarray(self._value(self._rolled.params, *batch), np.float64)
                for (row, place, _), value in zip(some, values, strict=False):
                    found[row][place] = value
                done += len(some)
                report(done, total)
        return found


def _padded(
    texts: Sequence[tuple[NDArray[np.int32], NDArray[np.int32]]], n: int
) -> tuple[NDArray[Any], ...]:
    """Return tokens ``[B, n]`` of prompts with answers, their mask, and ``[B, T]`` of the answers.

    Those are the token before each, -1 where there is none, and its number.
    """
    most = -(-max(len(answer) for _, answer in texts) // 8) * 8
    tokens, mask = np.zeros((len(texts), n), np.int32), np.zeros((len(texts), n), bool)
    places, answers = np.full((len(texts), most), -1), np.zeros((len(texts), most), np.int32)
    for row, (ids, answer) in enumerate(texts):
        whole = np.concatenate([ids, answer[:-1]])
        tokens[row, : len(whole)], mask[row, : len(whole)] = whole, True
        places[row, : len(answer)] = np.arange(len(ids) - 1, len(whole))
        answers[row, : len(answer)] = answer
    return tokens, mask, places, answers


def _divided(scores: NDArray[np.float64], field: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.divide(scores, field, out=np.zeros_like(scores), where=field > 0)
