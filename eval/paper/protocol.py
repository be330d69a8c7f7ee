r"""Score sentences by the paper's protocol: choose them, score their tokens, correlate the scores.

Every sentence gives the ``[CLS]`` row of raw attention, rollout and flow for every layer, and
reference scores from the model itself: blank-out and input gradients. The tables are Spearman's
correlations between the two kinds over the sentence's tokens. The model's part runs on its devices,
flow on the host. Three options select the authors' different protocol of Table 3.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike, NDArray

import jaxflow
from jaxflow.errors import InputError
from jaxflow.eval.paper.scores import (
    ENTROPY_ROWS,
    ROWS,
    SCORES,
    TARGETS,
    SentenceScores,
)
from jaxflow.eval.score.engine import (
    flow_at,
    gradient_scores,
    read_places,
    removal_scores,
    rows_at,
    saturated_at,
)
from jaxflow.eval.score.target import Replacement, Target, scoring_of
from jaxflow.models import Model
from jaxflow.train.batches import Batch, EncodedSplit, evaluation_batches
from jaxflow.train.mesh import Layout, layout_of
from jaxflow.train.step import compiling

PAPER_SAMPLES = 2000
# Sentences correlated at once.
BLOCK = 64

Ranks = Literal["average", "dense"]
# Rows, their batch, and arrays that the device may still be computing.
_Begun = tuple[np.ndarray, Batch, dict[str, jax.Array]]


@dataclasses.dataclass(frozen=True)
class ProtocolConfig:
    """Configuration of the scoring of sentences.

    Attributes
    ----------
    samples
        Sentences to score, drawn from the split by the seed; None takes the paper's 2,000, or all
        where there are fewer.
    seed
        Of that draw, of the random baseline and of the bootstrap.
    special_tokens
        Whether ``[CLS]`` and ``[SEP]`` count among the tokens that are correlated, as they do in
        the paper.
    min_tokens
        Shorter sentences, counted with ``[CLS]``, are left out.
    residual
        Share of the residual connection in rollout and flow.
    batch
        Sentences scored at once.
    threads
        For flow; None takes all cores.
    target, replacement
        Target of gradients and replacement of blank-out (`jaxflow.eval.score.target`); None
        takes the default of the model's kind. Table 3 uses the logit of the ``predicted`` class,
        or that of the ``last`` one.
    reading
        A token's relevance at a layer: the ``readout`` row, that of the token that the class is
        computed from (``[CLS]``), or the ``maximum`` over all queries (Table 3), for which the
        authors make each row of flows sum to 1.
    ranks
        Spearman's correlation of ``average`` ranks, or `dense_spearman`, the authors' of Table 3.
    """

    samples: int | None = None
    seed: int = 0
    special_tokens: bool = True
    min_tokens: int = 1
    residual: float = 0.5
    batch: int = 32
    threads: int | None = None
    target: Target | None = None
    replacement: Replacement | None = None
    reading: Literal["readout", "maximum"] = "readout"
    ranks: Ranks = "average"

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise InputError(f"seed must be at least 0, got {self.seed}")
        for name in ("min_tokens", "batch"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.threads is not None and self.threads < 1:
            raise InputError(f"threads must be None or at least 1, got {self.threads}")
        if not 0 <= self.residual <= 1:
            raise InputError(f"residual must be from 0 to 1, got {self.residual}")

    def resolved(self, model: Model) -> ProtocolConfig:
        """Return the same with the target and the replacement of a model filled in.

        Raises `InputError` if the model cannot serve them.
        """
        chosen = scoring_of(model, self.target, self.replacement)
        return dataclasses.replace(self, target=chosen.target, replacement=chosen.replacement)


def choose(split: EncodedSplit, config: ProtocolConfig) -> EncodedSplit:
    """Draw the sentences that are scored.

    Raises `InputError` if there are fewer than `samples`, or none at all.
    """
    rows = chosen_rows(split.lengths, config)
    fields = ("tokens", "lengths", "labels", "n_attractors", "subject_index", "rows")
    return dataclasses.replace(split, **{name: getattr(split, name)[rows] for name in fields})


def chosen_rows(lengths: np.ndarray, config: ProtocolConfig) -> np.ndarray:
    """Draw as `choose` does, from the sentences' lengths alone; ascending int64 ``[samples]``."""
    rows = np.flatnonzero(lengths >= config.min_tokens)
    if not len(rows):
        raise InputError(f"no test sentence has at least {config.min_tokens} tokens")
    samples = min(PAPER_SAMPLES, len(rows)) if config.samples is None else config.samples
    if not 1 <= samples <= len(rows):
        raise InputError(
            f"samples must be from 1 to the {len(rows)} test sentences that fit, got {samples}"
        )
    return np.sort(np.random.default_rng(config.seed).permutation(rows)[:samples])


@dataclasses.dataclass(frozen=True, eq=False)
class TokenScores:
    """Scores of S sentences of up to n tokens by every method, NaN where there is no token.

    Attributes
    ----------
    methods
        Row of the tables -> float64 ``[S, L, n]``, of the ``[CLS]`` row or the maximum over rows.
    targets
        What they are compared with (`TARGETS`) -> float64 ``[S, n]``.
    saturated
        bool ``[S, L, n]``: flow is at its bound.
    counted
        bool ``[S, n]``: the tokens that are correlated.
    """

    methods: dict[str, np.ndarray]
    targets: dict[str, np.ndarray]
    saturated: np.ndarray
    counted: np.ndarray


def device_scores(model: Model, config: ProtocolConfig) -> Callable[..., dict[str, jax.Array]]:
    """Build the device's part as one function, compiled once for each length.

    It maps ``(params, tokens [B, n], labels [B], mask [B, n])`` to the attention, what is read of
    raw attention and rollout ``[B, L, n]``, and the references' scores ``[B, n]``: blank-out,
    ``gradient``, the paper's ``|Σ_d g_d|``, and ``gradient_norm``, ``‖g‖₂``.
    """
    apply: Callable[..., Any] = model.module.apply
    scoring = scoring_of(model, config.target, config.replacement)

    def read(rows: Any, places: jax.Array | None) -> jax.Array:
        # Rows of padding are 0, so that they are never the largest.
        return jnp.asarray(rows.max(2)) if places is None else rows_at(rows, places)

    @jax.jit
    def scores(
        params: Any, tokens: jax.Array, labels: jax.Array, mask: jax.Array
    ) -> dict[str, jax.Array]:
        attention = apply(params, tokens, mask).attention
        given = (params, tokens, mask, labels)
        names = ("gradient-sum", "gradient-norm")
        # The compiler merges the two backward passes into one.
        gradients = gradient_scores(names, apply, scoring, *given)
        whole = config.reading == "maximum"
        places = None if whole else read_places(model, tokens, mask)
        sources = None if places is None else places[:, None]
        rollout = jaxflow.rollout(attention, residual=config.residual, mask=mask, sources=sources)
        return {
            "attention": attention,
            "raw": read(jaxflow.raw_attention(attention, mask=mask), places),
            "rollout": rollout.max(2) if whole else rollout[:, :, 0],
            "blank_out": removal_scores("blank-out", model, scoring, *given, at_once=True),
            "gradient": gradients["gradient-sum"],
            "gradient_norm": gradients["gradient-norm"],
        }

    return scores


def _begun(
    program: Any, params: Any, batches: Sequence[tuple[np.ndarray, Batch]], layout: Layout
) -> Iterator[_Begun]:
    """Begin the device's part batch by batch, while the programs of longer ones are compiled."""
    firsts = {batch["tokens"].shape[1]: batch for _, batch in reversed(batches)}
    examples = {n: (params, layout.put_filled(firsts[n])) for n in sorted(firsts)}
    with compiling(program, examples) as programs:
        for rows, batch in batches:
            programs[batch["tokens"].shape[1]].result()
            yield rows, batch, program(params, **layout.put_filled(batch))


def _prefetched(work: Iterator[_Begun]) -> Iterator[_Begun]:
    """Yield each piece of work after starting the next, so that host and device work at once."""
    before = next(work, None)
    while before is not None:
        begun = next(work, None)
        yield before
        before = begun


def _flow(
    attention: np.ndarray, places: np.ndarray, reading: str, options: dict[str, Any]
) -> np.ndarray:
    """Return the token scores by flow, ``[B, L, n]``."""
    if reading == "readout":
        return flow_at(attention, places, **options)
    flows = np.asarray(jaxflow.flow(attention, **options))
    total = flows.sum(-1, keepdims=True)
    return np.asarray((flows / np.where(total > 0, total, 1)).max(2))


def token_scores(
    model: Model,
    split: EncodedSplit,
    lengths: tuple[int, ...],
    config: ProtocolConfig,
    report: Callable[[int, int], None] = lambda done, total: None,
    *,
    programs: Callable[..., dict[str, jax.Array]] | None = None,
    longest: int | None = None,
) -> TokenScores:
    """Score every token of every sentence by every method, on all devices of this process.

    Parameters
    ----------
    model, split, lengths
        The model, the sentences, and the lengths they are padded to.
    config
        How they are scored.
    report
        Called with the number of sentences done and their total.
    programs
        What `device_scores` returns, to be compiled once for several splits.
    longest
        Number of tokens in the result; None takes the longest sentence's.
    """
    layout = layout_of(own=True)
    params = layout.put_state(model.params)
    longest = int(split.lengths.max()) if longest is None else longest
    shape = (len(split), model.config.layers, longest)
    methods = {name: np.full(shape, np.nan) for name in ROWS}
    targets = {name: np.full(shape[::2], np.nan) for name in TARGETS}
    saturated = np.zeros(shape, bool)
    counted = np.zeros(shape[::2], bool)
    on_device = programs or device_scores(model, config)
    ends = (model.text.cls_id, model.text.sep_id)
    specials = [number for number in ends if number is not None]

    done = 0
    batches = list(evaluation_batches(split, lengths, config.batch))
    for rows, batch, found in _prefetched(_begun(on_device, params, batches, layout)):
        now = jax.tree.map(np.asarray, found)
        # Of the whole batch: JAX compiles a program for each number of rows.
        places = np.asarray(read_places(model, batch["tokens"], batch["mask"]))[: len(rows)]
        # A batch may end in rows of padding, which belong to no sentence.
        now = {name: values[: len(rows)] for name, values in now.items()}
        attention, mask = now.pop("attention"), batch["mask"][: len(rows)]
        options: dict[str, Any] = {"residual": config.residual, "mask": mask}
        options["threads"] = config.threads
        now["flow"] = _flow(attention, places, config.reading, options)
        # The bound is of the lowest layer alone, whatever the source.
        bound = jaxflow.saturation(attention, sources=0, layers=0, **options).bound
        now["column_sum"] = np.broadcast_to(bound[:, None], now["flow"].shape)
        reached = saturated_at(attention, places, **options)
        for place, row in enumerate(rows):
            n = int(split.lengths[row])
            for name, values in now.items():
                into = (methods if name in methods else targets)[name]
                into[row, ..., :n] = values[place, ..., :n]
            saturated[row, :, :n] = reached[place, :, :n]
            # Drawn by sentence, so that neither the batch nor the other sentences matter.
            rng = np.random.default_rng([config.seed, int(split.rows[row])])
            methods["random"][row, :, :n] = rng.random((shape[1], n))
            methods["position"][row, :, :n] = np.arange(n)
            special = np.isin(split.tokens[row, :n], specials)
            counted[row, :n] = config.special_tokens | ~special
        done += len(rows)
        report(done, len(split))
    return TokenScores(methods, targets, saturated, counted)


def score_sentences(
    model: Model,
    split: EncodedSplit,
    lengths: tuple[int, ...],
    config: ProtocolConfig,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[SentenceScores, dict[str, np.ndarray]]:
    """Choose the sentences of a split and score them.

    Returns the scores by sentence, and by the names in ``scores.npz`` their token scores by every
    method (float32, NaN where there is no token), the rows of the split and the tokens' numbers.
    """
    chosen = choose(split, config)
    tokens = token_scores(model, chosen, lengths, config, report)
    kept = {name: tokens.methods[name] for name in ("raw", "rollout", "flow")}
    kept |= tokens.targets | {"column_sum": tokens.methods["column_sum"][:, 0]}
    extra = {f"tokens/{name}": values.astype(np.float32) for name, values in kept.items()}
    extra |= {
        "tokens/ids": chosen.tokens[:, : tokens.counted.shape[1]],
        "labels": chosen.labels,
        "rows": chosen.rows,
    }
    return correlate(tokens, chosen.lengths, config.ranks), extra


def correlate(scores: TokenScores, lengths: np.ndarray, ranks: Ranks = "average") -> SentenceScores:
    """Turn token scores into correlations, saturated shares and entropies by sentence and layer."""
    counted = scores.counted
    arrays = _correlations(scores, lengths, ranks)
    for name in ENTROPY_ROWS:
        arrays[f"entropy/{name}"] = _relative_entropy(scores.methods[name], counted)
    arrays["saturated"] = (scores.saturated & counted[:, None]).sum(-1) / counted.sum(-1)[:, None]
    ordered = {name: arrays[name] for name in SCORES}
    return SentenceScores({**ordered, "length": lengths}, scores.saturated.shape[1])


def _correlations(
    scores: TokenScores, lengths: np.ndarray, ranks: Ranks
) -> dict[str, NDArray[np.float64]]:
    """Return the correlations by ``TARGET/ROW``, float64 ``[S, L]``.

    Every pair of tokens is compared, so sentences are taken by length, in blocks of few shapes that
    end with their longest: most of what is compared would be padding otherwise. Ranks and their
    sums are exact, so neither the blocks nor the padding are seen in the result.
    """
    spearman = jaxflow.spearman if ranks == "average" else dense_spearman
    rows, sentences, longest = tuple(scores.methods), len(lengths), scores.counted.shape[1]
    shape = (len(rows), sentences, scores.saturated.shape[1])
    found = {target: np.empty(shape) for target in scores.targets}
    order = np.argsort(lengths, kind="stable")
    block = min(BLOCK, sentences)
    for begin in range(0, sentences, block):
        these = order[begin : begin + block]
        cut = longest if sentences <= BLOCK else min(-(-lengths[these].max() // 8) * 8, longest)
        # The last block is filled up with a sentence whose result is dropped.
        filled = np.resize(these, block)
        values = np.nan_to_num(np.stack([scores.methods[row][filled, :, :cut] for row in rows]))
        counted = scores.counted[None, filled, None, :cut]
        for target, reference in scores.targets.items():
            against = np.nan_to_num(reference[None, filled, None, :cut])
            now = np.asarray(spearman(values, against, counted))
            found[target][:, these] = now[:, : len(these)]
    return {f"{t}/{row}": found[t][place] for t in found for place, row in enumerate(rows)}


def _relative_entropy(values: np.ndarray, counted: np.ndarray) -> np.ndarray:
    """Return the entropy of normalised rows ``[S, L, n]``, from 0 (one token) to 1 (uniform)."""
    weights = np.where(counted[:, None], np.nan_to_num(values), 0)
    weights = weights / weights.sum(-1, keepdims=True)
    entropy = -np.sum(weights * np.log(np.where(weights > 0, weights, 1)), axis=-1)
    tokens = counted.sum(-1)[:, None]
    return np.where(tokens > 1, entropy / np.log(np.maximum(tokens, 2)), np.nan)


def dense_spearman(a: ArrayLike, b: ArrayLike, counted: ArrayLike) -> NDArray[np.float64]:
    r"""Return the rank correlation of the paper's Table 3, over the last axis ``[..., n]``.

    Equal values share a rank and the next value gets the next whole number (dense ranks), and these
    go into the formula for ranks without ties,

    .. math:: 1 - \frac{6 \sum_t (r_t - s_t)^2}{n (n^2 - 1)}

    With ties the result is no correlation: two constant vectors get 1, and every tie moves the
    others' ranks. It reproduces that table; `jaxflow.spearman` is what to use. `counted` is True at
    the tokens that count; NaN where fewer than two do.

    Examples
    --------
    >>> float(dense_spearman([1.0, 1.0, 1.0], [2.0, 2.0, 2.0], [True, True, True]))
    1.0
    """
    a, b, counted = np.broadcast_arrays(np.asarray(a), np.asarray(b), np.asarray(counted, bool))
    result = np.full(a.shape[:-1], np.nan)
    for place in np.ndindex(result.shape):
        here = counted[place]
        n = int(here.sum())
        if n > 1:  # ranks from 1 or from 0: their differences are the same
            r, s = (np.unique(side[place][here], return_inverse=True)[1].ravel() for side in (a, b))
            result[place] = 1 - 6 * float(((r - s) ** 2).sum()) / (n * (n**2 - 1))
    return result
