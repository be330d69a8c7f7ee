"""The options of scoring and of the paper's protocol, shared by the commands."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from jaxflow.eval.paper.evaluate import Evaluation
    from jaxflow.eval.paper.protocol import ProtocolConfig


@dataclasses.dataclass(frozen=True)
class ScoringOptions:
    """What gradients are taken of, and what replaces a token that is blanked out."""

    target: Literal["difference", "log-odds", "probability", "predicted", "last"] | None = None
    """What gradients are taken of: difference is p0 - p1, the default of two classes; log-odds and
    probability are of the explained output, log-odds the default of other models; predicted and
    last are logits."""
    replacement: Literal["mask", "unk"] | None = None
    """What replaces a token that is blanked out: the mask token, the default of a pretrained model
    that has one, or the token for unknown words, the default of others."""


@dataclasses.dataclass(frozen=True)
class ProtocolOptions(ScoringOptions):
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
            target=self.target,
            replacement=self.replacement,
        )


def print_evaluation(evaluation: Evaluation) -> None:
    """Print the tables and claims on standard output."""
    from rich.console import Console

    from jaxflow.eval.paper.report import print_report

    print_report(Console(), evaluation.tables, evaluation.claims, accuracy=evaluation.accuracy)
    print(f"{evaluation.scoring.describe()}.")
    print()
    for file in evaluation.files:
        print(f"wrote {file}")
