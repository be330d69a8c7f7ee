"""``jaxflow benchmark``."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """Being built."""

    def run(self) -> None:
        raise NotImplementedError
