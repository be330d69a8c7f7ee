"""The options of the paper's protocol, shared by the commands that evaluate."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jaxflow.eval.paper.evaluate import Evaluation
    from jaxflow.eval.paper.protocol import ProtocolConfig

__all__ = ["ProtocolOptions", "print_evaluation"]


@dataclasses.dataclass(frozen=True)
class ProtocolOptions:
    """Options of an evaluation."""

    samples: int | None = None
    """Test sentences to score, drawn at random; by default all, but at most 2000."""
    no_special_tokens: bool = False
    """Leave [CLS] out of the tokens that are correlated."""
    min_tokens: int = 1
    """Leave out sentences with fewer tokens, [CLS] included."""
    threads: int | None = None
    """Threads for attention flow; by default all cores."""

    def config(self, seed: int) -> ProtocolConfig:
        """Return the protocol's configuration."""
        from jaxflow.eval.paper.protocol import ProtocolConfig

        return ProtocolConfig(
            samples=self.samples,
            seed=seed,
            special_tokens=not self.no_special_tokens,
            min_tokens=self.min_tokens,
            threads=self.threads,
        )


def print_evaluation(evaluation: Evaluation) -> None:
    """Print the tables and claims on standard output."""
    from rich.console import Console

    from jaxflow.eval.paper.report import print_report

    print_report(Console(), evaluation.tables, evaluation.claims, accuracy=evaluation.accuracy)
    print()
    for file in evaluation.files:
        print(f"wrote {file}")
