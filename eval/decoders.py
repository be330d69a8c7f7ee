r"""Early tokens of a decoder, before and after normalisation by the receptive field.

A causal encoder's class is read off its last word. Of every sentence the row of that word is taken,
by raw attention, rollout and flow, at every layer, as it is and divided by what uniform causal
attention gives each token (`jaxflow.edges.receptive_field`), which is shown by itself too. Raw
attention's field is the same for all tokens, :math:`1/n`, so that dividing changes nothing of it
that is measured here: it stands in the tables once.

Scores are compared as shares of a row's mass and as ranks. Both are worked out over all tokens,
over the words alone, without ``[CLS]``, and over all tokens but the last word, whose score in its
own row is mostly the residual connection's.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jaxflow.errors import InputError
from jaxflow.eval.decoders_rows import measure_rows, place_rows
from jaxflow.eval.paper.protocol import (
    PAPER_SAMPLES,
    ProtocolConfig,
    TokenScores,
    choose,
    token_scores,
)
from jaxflow.models import EncoderConfig, Model
from jaxflow.train.batches import EncodedSplit

__all__ = [
    "AFTER",
    "MEASURES",
    "NORMALISED",
    "PLACE",
    "TARGETS",
    "VARIANTS",
    "DecoderScores",
    "check_decoder",
    "score_decoder",
]

#: The methods that are normalised, by which rows are called; after them, what their place explains
#: and what is left of them.
NORMALISED = ("rollout", "flow")
PLACE, AFTER = "{} place", "{} normalised"

#: Over which tokens a measure is taken.
VARIANTS = {
    "tokens": "all tokens",
    "words": "words alone, without [CLS]",
    "others": "all tokens but the last word, the readout",
}

TARGETS = ("blank_out", "gradient_norm")

#: What is measured of a row, and how tables call it.
MEASURES = {
    "first_token": "share of the mass on token 0, [CLS]",
    "excess": "share of the mass on token 0 beyond an even share",
    "first_word": "share of the mass on the first word",
    "readout": "share of the mass on the last word itself",
    "centre": "centre of gravity of the mass: 0 the first token, 1 the last",
    "position": "Spearman's correlation with the position",
    "blank_out": "Spearman's correlation with blank-out",
    "gradient_norm": "Spearman's correlation with the gradient's norm",
    "subject": "the subject noun scores highest: share of the sentences where it counts",
}
#: What is empty by definition over some of the tokens.
_LEFT_OUT = {"tokens": (), "words": ("first_token", "excess"), "others": ("readout",)}

_Rows = Mapping[str, NDArray[np.float64]]


@dataclasses.dataclass(frozen=True, eq=False)
class DecoderScores:
    """What is measured of S sentences at L layers.

    Attributes
    ----------
    measures
        Over which tokens (`VARIANTS`) -> measure (`MEASURES`) -> row -> float64 ``[S, L]``, NaN
        where it is undefined.
    relative
        Method (`NORMALISED`) -> float64 ``[S, L]``: the score of token 0 over what its place
        explains; 1 is as much.
    lengths
        int ``[S]``, tokens with ``[CLS]``.
    """

    measures: Mapping[str, Mapping[str, _Rows]]
    relative: _Rows
    lengths: NDArray[np.integer]


def check_decoder(model: Model) -> None:
    """Refuse a model that is no causal encoder.

    Raises
    ------
    InputError
        If it is another one.
    """
    if not (isinstance(model.config, EncoderConfig) and model.config.causal):
        raise InputError(
            "the study of decoders needs a causal encoder, such as jaxflow train --causal makes, "
            "got a model that is none"
        )


def score_decoder(
    model: Model,
    splits: Mapping[str, EncodedSplit],
    lengths: tuple[int, ...],
    protocol: ProtocolConfig,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, DecoderScores]:
    """Measure a causal encoder on the sentences of some splits.

    Parameters
    ----------
    model, splits, lengths
        The model, sentences, and the padded lengths to compile it for.
    protocol
        How sentences are drawn and scored; of a split with fewer than `samples` all are taken.
    report
        Called with the number of sentences done and their total.

    Returns
    -------
    dict
        What was measured, by split.

    Raises
    ------
    InputError
        If the model is no causal encoder, or a split has no sentence.
    """
    check_decoder(model)
    samples = PAPER_SAMPLES if protocol.samples is None else protocol.samples
    chosen = {}
    for name, split in splits.items():
        drawn = dataclasses.replace(protocol, samples=min(samples, max(len(split), 1)))
        chosen[name] = choose(split, drawn)
    protocol = dataclasses.replace(protocol, special_tokens=False)
    # All in one go: what is compiled is compiled once.
    scored = token_scores(model, _joined(list(chosen.values())), lengths, protocol, report)
    found, start = {}, 0
    for name, split in chosen.items():
        part = slice(start, start + len(split))
        start = part.stop
        found[name] = _measured(scored, part, split, protocol)
    return found


def _joined(splits: Sequence[EncodedSplit]) -> EncodedSplit:
    fields = ("tokens", "lengths", "labels", "n_attractors", "subject_index", "rows")
    joined: dict[str, Any] = {
        name: np.concatenate([getattr(split, name) for split in splits]) for name in fields
    }
    return dataclasses.replace(splits[0], **joined)


def _measured(
    scored: TokenScores, part: slice, split: EncodedSplit, protocol: ProtocolConfig
) -> DecoderScores:
    """Normalise and measure the sentences of one split, which are a part of those scored."""
    lengths, words = split.lengths, scored.counted[part]
    rows: dict[str, NDArray[np.float64]] = {}
    relative = {}
    for name in NORMALISED:
        before = np.nan_to_num(scored.methods[name][part])
        place = place_rows(lengths, before, name, protocol.residual, protocol.threads)
        after = np.divide(before, place, out=np.zeros_like(place), where=place > 0)
        rows |= {name: before, PLACE.format(name): place, AFTER.format(name): after}
        relative[name] = after[..., 0]
    rows["raw"] = np.nan_to_num(scored.methods["raw"][part])
    targets = {name: np.nan_to_num(scored.targets[name][part]) for name in TARGETS}
    place_of = np.arange(words.shape[1])
    masks = {
        "tokens": place_of < lengths[:, None],
        "words": words,
        "others": place_of < lengths[:, None] - 1,
    }
    measures = {}
    for variant in VARIANTS:
        found = measure_rows(rows, targets, masks[variant], split.subject_index)
        measures[variant] = {
            name: found[name]
            for name in MEASURES
            if name in found and name not in _LEFT_OUT[variant]
        }
    return DecoderScores(measures, relative, lengths)
