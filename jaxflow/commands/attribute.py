"""``jaxflow attribute``."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Attribute:
    """Being built."""

    def run(self) -> None:
        raise NotImplementedError
