"""One goal, and how far it was reached."""

from __future__ import annotations

import dataclasses

__all__ = ["Goal"]


@dataclasses.dataclass(frozen=True)
class Goal:
    """A goal, and how far it was reached.

    Attributes
    ----------
    work, against
        What is measured, and compared with what.
    wanted, reached
        Figures as they are read; `reached` is empty where nothing was measured.
    met
        Whether the goal was reached, None where nothing was measured.
    detail
        What else the record says about it.
    """

    work: str
    against: str
    wanted: str
    reached: str = ""
    met: bool | None = None
    detail: str = ""
