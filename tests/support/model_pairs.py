"""Provide the same model of transformers and of this project, on the same input."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch_models

from jaxflow.models import EncoderOutput, Model, load

#: Parity is held to this, absolutely and relatively.
TOLERANCE = 1e-5


@dataclasses.dataclass(frozen=True)
class Pair:
    """A model of transformers, ours read from the files it wrote, and the output of both.

    Attributes
    ----------
    theirs, ours
        The models.
    inputs, mask
        What both were given; a mask of None leaves them to find the padding.
    expected_output, output
        What they answered.
    """

    theirs: Any
    ours: Model
    inputs: np.ndarray
    mask: np.ndarray | None
    expected_output: torch_models.TorchOutput
    output: EncoderOutput


def make_pair(
    folder: Path,
    name: str,
    changes: Mapping[str, Any],
    inputs: np.ndarray,
    mask: np.ndarray | None = None,
    token_types: np.ndarray | None = None,
    **options: Any,
) -> Pair:
    """Build a random model of theirs, read its files as ours, and run both."""
    theirs = torch_models.random_model(name, changes)
    ours = load(torch_models.write(theirs, folder))
    more = {} if token_types is None else {"token_type_ids": token_types}
    expected_output = torch_models.run(theirs, inputs, mask, **more)
    types = {} if token_types is None else {"token_types": token_types}
    output = ours(inputs, mask, **types, **options)
    return Pair(theirs, ours, inputs, mask, expected_output, output)


def tokens_with_padding(lengths: Sequence[int], pad_id: int, *, left: bool = False) -> np.ndarray:
    """Draw int32 ``[B, n]`` of 5 to 35, the rest padded."""
    rng = np.random.default_rng(len(lengths))
    tokens = rng.integers(5, 36, (len(lengths), max(lengths))).astype(np.int32)
    for row, length in zip(tokens, lengths, strict=True):
        (row[: len(row) - length] if left else row[length:])[:] = pad_id
    return tokens


def assert_close(mine: Any, other: Any, rows: np.ndarray | None = None) -> None:
    """Compare two arrays of one shape, `rows` of ``[B, n]`` alone where they are given."""
    mine, other = np.asarray(mine), np.asarray(other)
    assert mine.shape == other.shape
    if rows is not None:
        mine, other = mine[rows], other[rows]
    np.testing.assert_allclose(mine, other, rtol=TOLERANCE, atol=TOLERANCE)


def assert_same_numbers(pair: Pair, rows: np.ndarray | None = None) -> None:
    """Compare logits, every attention matrix and every hidden state.

    Queries outside of `rows` ``[B, n]`` are passed over: what padding reads is nobody's business.
    """
    expected_output, output = pair.expected_output, pair.output
    assert output.attention.dtype == np.float32
    assert_close(
        np.moveaxis(output.attention, 3, 1), np.moveaxis(expected_output.attention, 3, 1), rows
    )  # [B, n, L, H, n]
    assert_close(np.moveaxis(output.hidden, 2, 1), np.moveaxis(expected_output.hidden, 2, 1), rows)
    if expected_output.logits is None:
        assert output.logits is None
    else:
        assert_close(
            output.logits,
            expected_output.logits,
            rows if expected_output.logits.ndim == 3 else None,
        )


def assert_attention_counts(pair: Pair) -> None:
    """Check that the comparison could fail: attention is neither even nor one token's."""
    largest = pair.expected_output.attention.max(-1)
    assert 1 / pair.expected_output.attention.shape[-1] + 0.05 < np.median(largest) < 0.95
