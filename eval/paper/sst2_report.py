"""Both versions of Table 3 on a terminal, and the files that hold them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from jaxflow.eval.paper.claims import Claim
from jaxflow.eval.paper.markdown import (
    claim_blocks,
    comparison_note,
    splits_block,
    table_blocks,
)
from jaxflow.eval.paper.report import print_claims, print_note, print_tables
from jaxflow.eval.paper.rounding import Rounding
from jaxflow.eval.paper.scores import SentenceScores, write_scores
from jaxflow.eval.paper.tables import Tables, record, to_csv
from jaxflow.eval.report.text import accuracy_lines, interval, json_text, short, to_json
from jaxflow.files import write_together

if TYPE_CHECKING:
    from rich.console import Console

    from jaxflow.eval.paper.sst2 import Sst2Evaluation

__all__ = ["print_sst2", "rounding_note", "to_markdown", "write_reports"]

#: Of the authors' protocol; blank-out is not theirs.
TARGETS = ("gradient", "gradient_norm")

AUTHORS = (
    "As the authors' script has it: a token's relevance is the maximum over all queries (flows "
    "normalised a query), the gradient that of the last class's logit, ranks are dense and go into "
    "the formula for ranks without ties (two constant vectors get 1)."
)
CORRECTED = (
    "Corrected: the row of [CLS], the gradient of the predicted class's logit, Spearman's "
    "correlation of average ranks; NaN counts the sentences left out because one side is constant."
)


def rounding_note(rounding: Rounding) -> str:
    """Say in one paragraph how much of the summed gradient is rounding."""
    return (
        "The gradient summed over an embedding's coordinates, |Σ g|, is a median "
        f"{rounding.single:.0e} of Σ |g| in float32 and {rounding.double:.0e} in float64; its "
        f"ranks in the two precisions agree by {short(rounding.agreement.mean)} "
        f"{interval(rounding.agreement.ci95)} (Spearman), those of the norm by "
        f"{short(rounding.norm_agreement.mean)} {interval(rounding.norm_agreement.ci95)}."
    )


def print_sst2(console: Console, evaluation: Sst2Evaluation) -> None:
    """Print both tables beside the paper's, what of them is rounding, and the claims.

    Parameters
    ----------
    console
        A rich console on standard output; tables wider than it are printed in blocks of layers.
    evaluation
        What was found.
    """
    from rich.text import Text

    shown = {name: score["accuracy"] for name, score in evaluation.accuracy.items()}
    for line in accuracy_lines(shown):
        console.print(Text(line))
    print_tables(console, evaluation.authors, TARGETS)
    console.print(Text(f"\n{AUTHORS}", "dim"))
    print_note(console, evaluation.authors, TARGETS)
    print_tables(console, evaluation.corrected)
    console.print(Text(f"\n{CORRECTED}", "dim"))
    print_note(console, evaluation.corrected)
    console.print(Text(f"\n{rounding_note(evaluation.rounding)}"))
    print_claims(console, evaluation.claims)


def to_markdown(
    authors: Tables,
    corrected: Tables,
    *,
    claims: Sequence[Claim],
    rounding: Rounding,
    accuracy: Mapping[str, Mapping[str, float | int]],
    config: Any,
    versions: Any,
) -> str:
    """Both tables, what of them is rounding, the claims and what produced them, as Markdown."""
    blocks = [
        "# Table 3: agreement of token scores with input gradients on SST-2",
        "Correlations per sentence over its tokens, mean±standard deviation over the sentences; "
        "intervals are 95 % bootstrap intervals of the mean. "
        f"{comparison_note(corrected)} Layers L2 and L4 are not in the paper.",
        splits_block(accuracy),
        f"{authors.sentences} sentences. {AUTHORS}",
        *table_blocks(authors, TARGETS),
        f"{corrected.sentences} sentences. {CORRECTED}",
        *table_blocks(corrected),
        "## What of the summed gradient is rounding",
        rounding_note(rounding),
        *claim_blocks(claims),
        "## Made with",
        f"```json\n{json_text({'config': config, 'versions': versions})}```",
    ]
    return "\n\n".join(block for block in blocks if block) + "\n"


def write_reports(
    out: Path,
    *,
    authors: Tables,
    corrected: Tables,
    claims: Sequence[Claim],
    rounding: Rounding,
    accuracy: Mapping[str, Mapping[str, float | int]],
    scores: SentenceScores,
    extra: Mapping[str, NDArray],
    config: Any,
    versions: Any,
) -> list[Path]:
    """Write ``tables.md``, ``tables.json``, ``tables.csv``, ``scores.npz`` and ``config.json``.

    ``tables.json`` is that of the corrected protocol, as `jaxflow.eval.paper.tables.record` has it,
    with ``authors_protocol`` and ``rounding`` beside it.

    Raises
    ------
    InputError
        If the folder cannot be written to. Every file is complete before the first one takes its
        place.
    """
    given: dict[str, Any] = {"claims": claims, "config": config, "versions": versions}
    json = {
        **record(
            corrected, accuracy=accuracy["dev"]["accuracy"], accuracy_by_split=accuracy, **given
        ),
        "authors_protocol": {"tables": to_json(authors.correlations), "samples": authors.sentences},
        "rounding": to_json(rounding),
    }
    texts = {
        "tables.md": to_markdown(authors, corrected, rounding=rounding, accuracy=accuracy, **given),
        "tables.json": json_text(json),
        "tables.csv": to_csv(corrected),
        "config.json": json_text({"config": config, "versions": versions}),
    }

    def write_text(name: str) -> Any:
        return lambda part: part.write_text(texts[name], encoding="utf-8")

    writers = {name: write_text(name) for name in texts}
    writers["scores.npz"] = lambda part: write_scores(part, scores, extra)
    return write_together(out, writers)
