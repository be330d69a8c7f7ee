"""Provide one model of every architecture with its kind of input."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
from model_pairs import Pair, make_pair, tokens_with_padding

#: By name: the class of theirs, what differs from the tiniest sizes, and the padding's number.
EXAMPLES: dict[str, tuple[str, dict[str, Any], int]] = {
    "bert": ("BertForSequenceClassification", {"num_labels": 3}, 0),
    "bert masked": ("BertForMaskedLM", {"hidden_act": "gelu_new"}, 0),
    "distilbert": ("DistilBertForSequenceClassification", {"num_labels": 3}, 0),
    "roberta": ("RobertaForSequenceClassification", {"num_labels": 3}, 1),
    "gpt2": ("GPT2ForSequenceClassification", {"num_labels": 3, "pad_token_id": 0}, 0),
    "gpt2 lm": ("GPT2LMHeadModel", {"pad_token_id": 0, "activation_function": "relu"}, 0),
    "vit": ("ViTForImageClassification", {"num_labels": 3}, 0),
}


@dataclasses.dataclass(frozen=True)
class Example:
    """A pair, the mask of its tokens ``[B, n]``, all True for an image."""

    pair: Pair
    mask: np.ndarray


def make_example(name: str, folder: Path, **options: Any) -> Example:
    """Build the example of one of the names in `EXAMPLES`."""
    model, changes, pad_id = EXAMPLES[name]
    if name == "vit":
        images = np.random.default_rng(0).normal(size=(3, 8, 12, 3)).astype(np.float32)
        pair = make_pair(folder, model, changes, images, **options)
        return Example(pair, np.ones((3, pair.ours.config.positions), bool))
    tokens = tokens_with_padding((7, 5, 2), pad_id)
    mask = tokens != pad_id
    return Example(make_pair(folder, model, changes, tokens, mask, **options), mask)
