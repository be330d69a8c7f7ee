"""The paper's protocol: what each method says of a sentence, and how far it agrees.

Every sentence gives the ``[CLS]`` row of raw attention, rollout and flow for every layer, and two
reference scores from the model itself: blank-out and input gradient. The tables are Spearman's
correlations between the two kinds over the sentence's tokens. What the authors did otherwise for
Table 3 is a matter of three options.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

import jaxflow
from jaxflow.errors import InputError
from jaxflow.eval.dense import dense_spearman
from jaxflow.eval.readout import flow_at, read_places, rows_at, saturated_at
from jaxflow.eval.scores import ROWS, TARGETS, SentenceScores
from jaxflow.models import Model
from jaxflow.train.batches import EncodedSplit, evaluation_batches
from jaxflow.train.mesh import Layout, layout_of

__all__ = ["ProtocolConfig", "TokenScores", "choose", "score_sentences", "token_scores"]

PAPER_SAMPLES = 2000

# Sentences correlated at once.
BLOCK = 64

Score = Literal["difference", "predicted", "last"]


@dataclasses.dataclass(frozen=True)
class ProtocolConfig:
    """How sentences are scored.

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
    score
        What gradients are taken of: the ``difference`` of the two probabilities (Table 2), the
        logit of the ``predicted`` class, or that of the ``last`` one.
    reading
        A token's relevance at a layer: the ``readout`` row, that of the token that the class is
        read off (``[CLS]``), or the ``maximum``
        over all queries (Table 3), for which the authors make each row of flows sum to 1.
    ranks
        Spearman's correlation of ``average`` ranks, or the authors' of Table 3, of ``dense`` ranks
        (`jaxflow.eval.dense`).
    """

    samples: int | None = None
    seed: int = 0
    special_tokens: bool = True
    min_tokens: int = 1
    residual: float = 0.5
    batch: int = 32
    threads: int | None = None
    score: Score = "difference"
    reading: Literal["readout", "maximum"] = "readout"
    ranks: Literal["average", "dense"] = "average"

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


@dataclasses.dataclass(frozen=True, eq=False)
class TokenScores:
    """What every method says of S sentences of up to n tokens, NaN where there is no token.

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


def choose(split: EncodedSplit, config: ProtocolConfig) -> EncodedSplit:
    """Draw the sentences that are scored.

    Raises
    ------
    InputError
        If there are fewer than `samples`, or none at all.
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


def gradient_scores(
    model: Model, of: Score = "difference"
) -> Callable[[Any, jax.Array], dict[str, jax.Array]]:
    r"""Build the jitted ``(params, tokens [B, n]) -> scores [B, n]`` by two readings of a gradient.

    With g the gradient of a score, by default ``p₀ − p₁``, at a token's embedding, ``gradient`` is
    the paper's ``|Σ_d g_d|`` and ``gradient_norm`` is ``‖g‖₂``.
    """
    apply: Callable[..., Any] = model.module.apply  # Flax does not say what it returns
    padding = model.config.pad_id  # type: ignore[union-attr]

    @jax.jit
    def scores(params: Any, tokens: jax.Array) -> dict[str, jax.Array]:
        def score(embeddings: jax.Array) -> jax.Array:
            logits = apply(params, embeddings, tokens != padding, method="encode").logits
            if of == "predicted":
                return jnp.asarray(logits.max(-1))
            if of == "last":
                return jnp.asarray(logits[:, -1])
            probabilities = jax.nn.softmax(logits)
            return probabilities[:, 0] - probabilities[:, 1]

        embeddings = apply(params, tokens, method="embed")
        # The compiler merges the two backward passes into one.
        return {
            "gradient": jnp.abs(jaxflow.input_gradient(score, embeddings)),
            "gradient_norm": jnp.asarray(jaxflow.gradient_norm(score, embeddings)),
        }

    return scores


def device_scores(
    model: Model,
    residual: float,
    *,
    of: Score = "difference",
    reading: Literal["readout", "maximum"] = "readout",
) -> Callable[..., dict[str, jax.Array]]:
    """Build all that runs on the device, as one function to compile once for each length.

    It maps ``(params, tokens [B, n], labels [B])`` to the attention, what is read of raw attention
    and rollout ``[B, L, n]``, and the references' scores ``[B, n]``.
    """
    apply: Callable[..., Any] = model.module.apply
    gradients = gradient_scores(model, of)
    padding, blank = model.config.pad_id, _blank(model)  # type: ignore[union-attr]

    def read(rows: Any, mask: jax.Array) -> jax.Array:
        # Rows of padding are 0, so that they are never the largest.
        places = read_places(model, mask)
        return rows_at(rows, places) if reading == "readout" else jnp.asarray(rows.max(2))

    @jax.jit
    def scores(params: Any, tokens: jax.Array, labels: jax.Array) -> dict[str, jax.Array]:
        mask = jnp.asarray(tokens != padding)
        attention = apply(params, tokens, mask).attention
        blanked = jaxflow.blank_out(
            lambda rows: jax.nn.softmax(apply(params, rows, method="classify")),
            tokens,
            blank,
            label=labels,
            mask=mask,
        )
        return {
            "attention": attention,
            "raw": read(jaxflow.raw_attention(attention, mask=mask), mask),
            "rollout": read(jaxflow.rollout(attention, residual=residual, mask=mask), mask),
            "blank_out": jnp.asarray(blanked),
            **gradients(params, tokens),
        }

    return scores


def _blank(model: Model) -> int:
    """Return the token that stands for a blanked one: a tokenizer's ``[UNK]``, or its ``[MASK]``.

    Word pieces leave next to nothing unknown, so that a pretrained model has never seen ``[UNK]``,
    while ``[MASK]`` is what it was trained to see where a word is missing.
    """
    tokenizer = model.text
    blank = tokenizer.unk_id if tokenizer.mask_id is None else tokenizer.mask_id
    if blank is None:
        raise InputError("the model's tokenizer must have [MASK] or [UNK] to blank a token out")
    return blank


def _flow(
    attention: np.ndarray, places: np.ndarray, reading: str, options: dict[str, Any]
) -> np.ndarray:
    """Return what is read of flow, ``[B, L, n]``."""
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
    layout: Layout | None = None,
    programs: Callable[..., dict[str, jax.Array]] | None = None,
    longest: int | None = None,
) -> TokenScores:
    """Score every token of every sentence by every method.

    Parameters
    ----------
    model, split, lengths
        The model, the sentences, and the lengths they are padded to.
    config
        How they are scored.
    report
        Called with the number of sentences done and their total.
    layout
        The devices that the model's part runs on, each with its rows of every batch; None takes all
        that this process has. Flow is computed on the host.
    programs
        What `device_scores` gives, to be compiled once for several splits.
    longest
        Tokens that the result has room for; None takes the longest sentence's.
    """
    layout = layout_of(own=True) if layout is None else layout
    params = layout.put_state(model.params)
    longest = int(split.lengths.max()) if longest is None else longest
    shape = (len(split), model.config.layers, longest)
    methods = {name: np.full(shape, np.nan) for name in ROWS}
    targets = {name: np.full(shape[::2], np.nan) for name in TARGETS}
    saturated = np.zeros(shape, bool)
    counted = np.zeros(shape[::2], bool)
    on_device = programs or device_scores(
        model, config.residual, of=config.score, reading=config.reading
    )
    ends = (model.text.cls_id, model.text.sep_id)
    specials = [number for number in ends if number is not None]

    done = 0
    for rows, batch in evaluation_batches(split, lengths, config.batch):
        now = jax.tree.map(np.asarray, on_device(params, **layout.put_filled(batch)))
        # Of the whole batch: each number of rows that JAX sees costs a program that stays.
        places = np.asarray(read_places(model, batch["tokens"] != split.pad_id))[: len(rows)]
        # A batch may end in rows of padding, which belong to no sentence.
        now = {name: values[: len(rows)] for name, values in now.items()}
        attention, mask = now.pop("attention"), batch["tokens"][: len(rows)] != split.pad_id
        options = {"residual": config.residual, "mask": mask, "threads": config.threads}
        now["flow"] = _flow(attention, places, config.reading, options)
        # The bound is of the lowest layer alone: no source has a say in it.
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


def correlate(
    scores: TokenScores, lengths: np.ndarray, ranks: Literal["average", "dense"] = "average"
) -> SentenceScores:
    """Turn token scores into correlations, saturated shares and entropies a sentence and layer."""
    counted = scores.counted
    correlations = _correlations(scores, lengths, ranks)
    share = (scores.saturated & counted[:, None]).sum(-1) / counted.sum(-1)[:, None]
    entropy = {
        name: _relative_entropy(scores.methods[name], counted)
        for name in ("raw", "rollout", "flow")
    }
    return SentenceScores(correlations, share, entropy, lengths)


def _correlations(
    scores: TokenScores, lengths: np.ndarray, ranks: Literal["average", "dense"]
) -> dict[str, dict[str, np.ndarray]]:
    """Return the correlations by target and row, float64 ``[S, L]``.

    Every pair of tokens is compared, so sentences are taken by length, in blocks of few shapes that
    end with their longest: most of what is compared would be padding otherwise. Ranks and their
    sums are exact, so neither the blocks nor the padding are seen in the result.
    """
    spearman = jaxflow.spearman if ranks == "average" else dense_spearman
    rows, sentences, longest = tuple(scores.methods), len(lengths), scores.counted.shape[1]
    layers = scores.saturated.shape[1]
    found = {target: np.empty((len(rows), sentences, layers)) for target in scores.targets}
    order = np.argsort(lengths, kind="stable")
    block = min(BLOCK, sentences)
    for begin in range(0, sentences, block):
        these = order[begin : begin + block]
        cut = longest if sentences <= BLOCK else min(-(-lengths[these].max() // 8) * 8, longest)
        # The last block is filled up with a sentence that nobody reads.
        filled = np.resize(these, block)
        values = np.nan_to_num(np.stack([scores.methods[row][filled, :, :cut] for row in rows]))
        counted = scores.counted[None, filled, None, :cut]
        for target, reference in scores.targets.items():
            against = np.nan_to_num(reference[None, filled, None, :cut])
            now = np.asarray(spearman(values, against, counted))
            found[target][:, these] = now[:, : len(these)]
    return {target: dict(zip(rows, values, strict=True)) for target, values in found.items()}


def _relative_entropy(values: np.ndarray, counted: np.ndarray) -> np.ndarray:
    """Entropy of the normalised ``[S, L, n]`` rows, from 0 (one token) to 1 (uniform)."""
    weights = np.where(counted[:, None], np.nan_to_num(values), 0)
    weights = weights / weights.sum(-1, keepdims=True)
    entropy = -np.sum(weights * np.log(np.where(weights > 0, weights, 1)), axis=-1)
    tokens = counted.sum(-1)[:, None]
    return np.where(tokens > 1, entropy / np.log(np.maximum(tokens, 2)), np.nan)


def score_sentences(
    model: Model,
    split: EncodedSplit,
    lengths: tuple[int, ...],
    config: ProtocolConfig,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[SentenceScores, dict[str, np.ndarray]]:
    """Score the sentences of a split by the protocol.

    Returns
    -------
    tuple
        The scores by sentence, and the arrays behind them by the names that ``scores.npz`` gives
        them: the token scores of every method (float32, NaN where there is no token), the rows
        of the split and the tokens' numbers.
    """
    chosen = choose(split, config)
    tokens = token_scores(model, chosen, lengths, config, report)
    extra = {
        **{
            f"tokens/{name}": tokens.methods[name].astype(np.float32)
            for name in ("raw", "rollout", "flow")
        },
        **{f"tokens/{name}": values.astype(np.float32) for name, values in tokens.targets.items()},
        "tokens/column_sum": tokens.methods["column_sum"][:, 0].astype(np.float32),
        "tokens/ids": chosen.tokens[:, : tokens.counted.shape[1]],
        "labels": chosen.labels,
        "rows": chosen.rows,
    }
    return correlate(tokens, chosen.lengths, config.ranks), extra
