"""Make up cases of masked pronouns with known numbers."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from jaxflow.eval.pronouns.cases import METHODS, Case
from jaxflow.eval.pronouns.schemas import Schema

SCHEMA = Schema("Ann met Paul near [MASK] car.", ("Ann", "Paul"), ("her", "his"))


def made_case(schema: Schema = SCHEMA, *, layers: int = 1, seed: int = 0, **fields: object) -> Case:
    """A case of random weights and probabilities, but for the fields given.

    `weights` may be those of all methods, ``[L, 2]``.
    """
    rng = np.random.default_rng(seed)
    chances = rng.dirichlet(np.ones(3))[:2]
    weights = fields.pop("weights", None)
    if weights is None:
        weights = {name: rng.random((layers, 2)) for name in METHODS}
    if not isinstance(weights, Mapping):
        weights = dict.fromkeys(METHODS, np.array(weights, float))
    given = {
        "schema": schema,
        "tokens": ("[MASK]",),
        "pieces": (1, 2),
        "log_probabilities": tuple(np.log(chances).tolist()),
        "weights": weights,
        "column_sums": rng.random(2),
        "distances": (5, 2),
    }
    return Case(**(given | fields))  # type: ignore[arg-type]
