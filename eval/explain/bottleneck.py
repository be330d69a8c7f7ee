"""The minimum cuts between the readout at the top layer and tokens of the sentence."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from numpy.typing import NDArray

import jaxflow
from jaxflow.errors import InputError


@dataclasses.dataclass(frozen=True)
class Bottleneck:
    """The minimum cut between the token read out at the top layer and one token of the sentence.

    `token` is its index, `value` the flow to it, which the edges carry together. `edges` is the cut
    nearest to the top, each edge ``(layer, query, key)`` from 0; `words` each of them in words,
    layers from 1 (``layer 4, [CLS] → keys``), and `summary` all in one sentence.
    """

    token: int
    value: float
    edges: tuple[tuple[int, int, int], ...]
    words: tuple[str, ...]
    summary: str


def bottlenecks(
    attention: NDArray,
    tokens: Sequence[str],
    wanted: Sequence[str],
    residual: float,
    readout: int = 0,
) -> tuple[Bottleneck, ...]:
    """Return the minimum cuts between the readout at the top layer and some tokens.

    `attention` is ``[L, H, n, n]`` without padding, `residual` the share of the residual
    connection. Each of the `wanted` is a token as it was written, wherever it occurs, or its index
    from 0; text that is both is the word. Returns each token once, in the order given. Raises
    `InputError` if the sentence has no such token.
    """
    places: dict[int, None] = {}
    for word in wanted:
        places |= dict.fromkeys(_places(word, tokens))
    found = []
    for place in places:
        cut = jaxflow.flow_cut(attention, layer=-1, source=readout, sink=place, residual=residual)
        found.append(
            Bottleneck(place, cut.value, cut.edges, cut.describe(tokens), cut.summary(tokens))
        )
    return tuple(found)


def _places(word: str, tokens: Sequence[str]) -> list[int]:
    places = [place for place, token in enumerate(tokens) if token == word]
    places = places or [place for place in range(len(tokens)) if str(place) == word]
    if not places:
        raise InputError(
            f"cut must be a token of the sentence {' '.join(tokens[1:])!r} or an index from 0 to "
            f"{len(tokens) - 1}, got {word!r}"
        )
    return places
