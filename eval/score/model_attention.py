"""The attention that a model pays in given texts, in the form that saved attention has."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from jaxflow.errors import InputError
from jaxflow.eval.score.reading import Reading, reader
from jaxflow.eval.score.saved_attention import SavedAttention
from jaxflow.models import Model, ViTConfig

__all__ = ["attention_of", "join"]

BATCH = 16  # texts a run of the model
STEP = 16  # texts are padded to a multiple of this, so that little is compiled


def attention_of(
    model: Model,
    texts: Sequence[str],
    *,
    words: bool = False,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> SavedAttention:
    """Run a model on texts and keep its attention.

    Parameters
    ----------
    model
        A model of text; a head is not needed.
    texts
        S texts, at least one.
    words
        Whether pieces of one word are joined, as `join` does.
    report
        Called with how many texts are done, and of how many.

    Returns
    -------
    SavedAttention
        Attention float32 ``[S, L, H, n, n]`` with n the longest text's tokens, the mask of real
        tokens, and the tokens as text.

    Raises
    ------
    InputError
        If a text is empty, too long for the model or no valid Unicode, or the model is of images.
    """
    if isinstance(model.config, ViTConfig):
        raise InputError("the model must be one of text, got one of images")
    if not texts:
        raise InputError("texts must hold at least one, got none")
    read = reader(model, words=words, answer=False)
    readings = [read(text) for text in texts]
    n = max(len(reading.units) for reading in readings)
    config = model.config
    attention = np.zeros((len(texts), config.layers, config.heads, n, n), np.float32)
    order = np.argsort([len(reading.ids) for reading in readings], kind="stable")
    for begin in range(0, len(order), BATCH):
        rows = order[begin : begin + BATCH]
        for row, found in zip(rows, _run(model, [readings[row] for row in rows]), strict=True):
            m = len(found[0, 0])
            attention[row, :, :, :m, :m] = found
        report(begin + len(rows), len(order))
    mask = np.arange(n) < np.array([[len(reading.units)] for reading in readings])
    tokens = np.array(
        [
            [*(unit.text for unit in reading.units), *[""] * (n - len(reading.units))]
            for reading in readings
        ]
    )
    return SavedAttention(attention, mask, tokens)


def _run(model: Model, readings: Sequence[Reading]) -> list[NDArray[np.float32]]:
    longest = max(len(reading.ids) for reading in readings)
    n = min(-(-longest // STEP) * STEP, model.config.positions)
    # The last batch is filled up with its first text, so that it is compiled with the others.
    rows = [*readings, *[readings[0]] * (BATCH - len(readings))]
    ids = np.stack([reading.padded(n, model.text.pad_id) for reading in rows])
    mask = np.arange(n) < np.array([[len(reading.ids)] for reading in rows])
    attention = np.asarray(model(ids, mask).attention)
    return [
        join(attention[place, :, :, : len(reading.ids), : len(reading.ids)], reading.members)
        for place, reading in enumerate(readings)
    ]


def join(attention: NDArray[np.float32], members: Sequence[int]) -> NDArray[np.float32]:
    """Join tokens to units: attention to a unit is the sum, from it the mean over its tokens.

    Parameters
    ----------
    attention
        ``[..., n, n]``.
    members
        The unit of each token, from 0, in order.

    Returns
    -------
    ndarray
        ``[..., m, m]``; rows that summed to 1 still do.

    References
    ----------
    Clark et al., What Does BERT Look At?, BlackboxNLP 2019, section 4.1.
    """
    begins = np.flatnonzero(np.diff(members, prepend=-1))
    if len(begins) == attention.shape[-1]:
        return attention
    sizes = np.diff(begins, append=len(members)).astype(np.float32)
    summed = np.add.reduceat(attention, begins, axis=-1)
    return (np.add.reduceat(summed, begins, axis=-2) / sizes[:, None]).astype(np.float32)
