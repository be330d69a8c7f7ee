"""The paper's protocol: what each method says of a sentence, and how far it agrees.

Every sentence gives the ``[CLS]`` row of raw attention, rollout and flow for every layer, and two
reference scores from the model itself: blank-out and input gradient. The tables are Spearman's
correlations between the two kinds over the sentence's tokens.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np

import jaxflow
from jaxflow.errors import InputError
from jaxflow.eval.scores import SentenceScores
from jaxflow.models import EncoderOutput, Model
from jaxflow.models.tokenizer import CLS, PAD, UNK
from jaxflow.train.batches import EncodedSplit, evaluation_batches

__all__ = ["ProtocolConfig", "TokenScores", "choose", "score_sentences", "token_scores"]

READOUT = 0  # [CLS] comes first
PAPER_SAMPLES = 2000


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
        Whether ``[CLS]`` counts among the tokens that are correlated, as it does in the paper.
    min_tokens
        Shorter sentences, counted with ``[CLS]``, are left out.
    residual
        Share of the residual connection in rollout and flow.
    batch
        Sentences scored at once.
    threads
        For flow; None takes all cores.
    """

    samples: int | None = None
    seed: int = 0
    special_tokens: bool = True
    min_tokens: int = 1
    residual: float = 0.5
    batch: int = 32
    threads: int | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class TokenScores:
    """What every method says of S sentences of up to n tokens, NaN where there is no token.

    Attributes
    ----------
    methods
        Row of the tables -> float64 ``[S, L, n]``, of the ``[CLS]`` row.
    targets
        ``blank_out`` and ``gradient`` -> float64 ``[S, n]``.
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
    rows = np.flatnonzero(split.lengths >= config.min_tokens)
    if not len(rows):
        raise InputError(f"no test sentence has at least {config.min_tokens} tokens")
    samples = min(PAPER_SAMPLES, len(rows)) if config.samples is None else config.samples
    if not 1 <= samples <= len(rows):
        raise InputError(
            f"samples must be from 1 to the {len(rows)} test sentences that fit, got {samples}"
        )
    drawn = np.random.default_rng(config.seed).permutation(rows)[:samples]
    rows = np.sort(drawn)
    fields = ("tokens", "lengths", "labels", "n_attractors", "subject_index", "rows")
    return dataclasses.replace(split, **{name: getattr(split, name)[rows] for name in fields})


def gradient_scores(model: Model) -> Callable[[np.ndarray], jax.Array]:
    r"""Build the jitted ``tokens [B, n] -> |Σ_d ∂(p₀ − p₁)/∂e| [B, n]``."""
    apply = model.module.apply

    @jax.jit
    def scores(params: Any, tokens: jax.Array) -> jax.Array:
        def difference(embeddings: jax.Array) -> jax.Array:
            output = apply(params, embeddings, tokens != PAD, method="encode")
            probabilities = jax.nn.softmax(cast(EncoderOutput, output).logits)
            return probabilities[:, 0] - probabilities[:, 1]

        embeddings = apply(params, tokens, method="embed")
        return jnp.abs(jaxflow.input_gradient(difference, embeddings))

    return partial(scores, model.params)


def token_scores(
    model: Model,
    split: EncodedSplit,
    lengths: tuple[int, ...],
    config: ProtocolConfig,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> TokenScores:
    """Score every token of every sentence by every method."""
    shape = (len(split), model.config.layers, int(split.lengths.max()))
    methods = {
        name: np.full(shape, np.nan)
        for name in ("raw", "rollout", "flow", "column_sum", "random", "position")
    }
    targets = {name: np.full(shape[::2], np.nan) for name in ("blank_out", "gradient")}
    saturated = np.zeros(shape, bool)
    counted = np.zeros(shape[::2], bool)
    gradients = gradient_scores(model)

    done = 0
    for rows, batch in evaluation_batches(split, lengths, config.batch):
        mask = batch["tokens"] != PAD
        attention = model(batch["tokens"]).attention
        options = {"residual": config.residual, "mask": mask}
        bound = jaxflow.saturation(attention, sources=READOUT, threads=config.threads, **options)
        flow = jaxflow.flow(attention, sources=READOUT, threads=config.threads, **options)
        # A padded last row of a batch repeats nothing: it is cut off by `rows` below.
        now = {
            "raw": jaxflow.raw_attention(attention, mask=mask)[:, :, READOUT],
            "rollout": jaxflow.rollout(attention, **options)[:, :, READOUT],
            "flow": flow[:, :, 0],
            "column_sum": np.broadcast_to(
                np.asarray(bound.bound)[:, None, :], (len(mask), shape[1], mask.shape[1])
            ),
        }
        references = {
            "blank_out": jaxflow.blank_out(
                model.probabilities, batch["tokens"], UNK, label=batch["labels"], mask=mask
            ),
            "gradient": gradients(batch["tokens"]),
        }
        reached = np.asarray(bound.reached)[:, :, 0]
        for place, row in enumerate(rows):
            n = int(split.lengths[row])
            for name, values in now.items():
                methods[name][row, :, :n] = np.asarray(values[place, :, :n])
            for name, values in references.items():
                targets[name][row, :n] = np.asarray(values[place, :n])
            saturated[row, :, :n] = reached[place, :, :n]
            # Drawn by sentence, so that neither the batch nor the other sentences matter.
            rng = np.random.default_rng([config.seed, int(split.rows[row])])
            methods["random"][row, :, :n] = rng.random((shape[1], n))
            methods["position"][row, :, :n] = np.arange(n)
            counted[row, :n] = config.special_tokens | (split.tokens[row, :n] != CLS)
        done += len(rows)
        report(done, len(split))
    return TokenScores(methods, targets, saturated, counted)


def correlate(scores: TokenScores, lengths: np.ndarray) -> SentenceScores:
    """Turn token scores into correlations, saturated shares and entropies a sentence and layer."""
    counted = scores.counted
    correlations = {
        target: {
            name: np.asarray(
                jaxflow.spearman(
                    np.nan_to_num(values), np.nan_to_num(reference)[:, None], counted[:, None]
                )
            )
            for name, values in scores.methods.items()
        }
        for target, reference in scores.targets.items()
    }
    share = (scores.saturated & counted[:, None]).sum(-1) / counted.sum(-1)[:, None]
    entropy = {
        name: _relative_entropy(scores.methods[name], counted)
        for name in ("raw", "rollout", "flow")
    }
    return SentenceScores(correlations, share, entropy, lengths)


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
    return correlate(tokens, chosen.lengths), extra
