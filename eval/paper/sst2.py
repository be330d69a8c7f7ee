"""Table 3: what attention says of the words of a review, beside the gradients of its classifier.

Two protocols. The *authors'*: a token's relevance is the maximum over all queries, the gradient is
that of the last class's logit (their labels are those of GLUE's test split, all -1, and index the
logits), ranks are dense and go into the tie-free formula, 100 sentences. The *corrected* one: the
row of ``[CLS]``, the logit of the predicted class, average ranks, every sentence, and intervals.

Both sum the gradient over an embedding's coordinates, as the paper does. Behind a LayerNorm that
sum is 0 but for rounding, and BERT normalises its embeddings first of all: `measure_rounding` says
how much of the target is rounding, and the norm of the gradient and blank-out stand beside it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from jaxflow.errors import InputError
from jaxflow.eval.paper.claims import Claim, judge_claims
from jaxflow.eval.paper.evaluate import versions
from jaxflow.eval.paper.protocol import ProtocolConfig, choose
from jaxflow.eval.paper.reference import SENTIMENT, SENTIMENT_CORRECTED
from jaxflow.eval.paper.report import write_reports
from jaxflow.eval.paper.rounding import Rounding, measure_rounding
from jaxflow.eval.paper.scores import SentenceScores
from jaxflow.eval.paper.tables import Tables, build_tables
from jaxflow.eval.score.sentence_scores import score_sentences
from jaxflow.models import Gpt2Config, Model
from jaxflow.train.batches import EncodedSplit, accuracies

__all__ = ["Sst2Config", "Sst2Evaluation", "check_classifier", "evaluate_sst2"]


@dataclasses.dataclass(frozen=True)
class Sst2Config:
    """How Table 3 is made.

    Attributes
    ----------
    samples
        Sentences of the corrected protocol, drawn from the split by the seed; None takes all.
    paper_samples
        Sentences of the authors' protocol; fewer where there are fewer.
    seed
        Of both draws, of the random baseline and of the bootstrap.
    special_tokens
        Whether ``[CLS]`` and ``[SEP]`` are among the tokens that are correlated, as in the paper.
    batch
        Sentences scored at once; blanking out makes a row of each of their tokens.
    threads
        For flow; None takes all cores.
    """

    samples: int | None = None
    paper_samples: int = SENTIMENT.sentences
    seed: int = 0
    special_tokens: bool = True
    batch: int = 8
    threads: int | None = None

    def __post_init__(self) -> None:
        for name in ("samples", "paper_samples"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"{name} must be at least 1, got {value}")
        self.corrected(1)  # refuses what is impossible

    def corrected(self, sentences: int) -> ProtocolConfig:
        """Return the corrected protocol, for a split of so many sentences."""
        return ProtocolConfig(
            samples=sentences if self.samples is None else self.samples,
            seed=self.seed,
            special_tokens=self.special_tokens,
            batch=self.batch,
            threads=self.threads,
            score="predicted",
        )

    def authors(self, sentences: int) -> ProtocolConfig:
        """Return the authors' protocol, for a split of so many sentences."""
        return dataclasses.replace(
            self.corrected(sentences),
            samples=min(self.paper_samples, sentences),
            score="last",
            reading="maximum",
            ranks="dense",
        )


@dataclasses.dataclass(frozen=True, eq=False)
class Sst2Evaluation:
    """What was found: accuracy by split, both tables, claims, rounding, scores and files."""

    accuracy: Mapping[str, Mapping[str, float | int]]
    authors: Tables
    corrected: Tables
    claims: tuple[Claim, ...]
    rounding: Rounding
    scores: SentenceScores
    files: tuple[Path, ...]


def check_classifier(model: Model) -> None:
    """Refuse a model that Table 3 cannot be made of.

    Raises
    ------
    InputError
        If it tells no two classes apart or reads them off another token than the first.
    """
    config = model.config
    if config.head != "classification" or config.classes != 2:
        raise InputError(
            "Table 3 needs a classifier of two classes, negative and positive, got the head "
            f"{config.head!r} with {getattr(config, 'classes', 0)} classes"
        )
    if isinstance(config, Gpt2Config) or not hasattr(config, "vocabulary"):
        raise InputError(
            "Table 3 reads the attention of [CLS], so that the model must be BERT or one of its kin"
        )


def evaluate_sst2(
    model: Model,
    splits: Mapping[str, EncodedSplit],
    lengths: tuple[int, ...],
    config: Sst2Config,
    out: Path,
    *,
    made_with: Mapping[str, Any],
    accuracy: Mapping[str, Mapping[str, float | int]] | None = None,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> Sst2Evaluation:
    """Score a classifier's ``dev`` sentences by both protocols and write the tables.

    Parameters
    ----------
    model, splits, lengths
        The classifier, encoded labelled splits (``dev`` among them) and the padded lengths.
    config
        How sentences are scored.
    out
        Folder for ``tables.md``, ``tables.json``, ``tables.csv`` (the corrected protocol),
        ``scores.npz`` and ``config.json``.
    made_with
        For the record: how the model was made.
    accuracy
        By split, if it is known already.
    report
        Called with the number of sentences done and their total, of both protocols.

    Returns
    -------
    Sst2Evaluation
        What was found.

    Raises
    ------
    InputError
        If the model is no such classifier, there are too few sentences or the folder cannot be
        written.
    """
    check_classifier(model)
    dev = splits["dev"]
    corrected, authors = config.corrected(len(dev)), config.authors(len(dev))
    few = choose(dev, authors)
    total = len(choose(dev, corrected)) + len(few)  # refuses impossible requests first
    if accuracy is None:
        accuracy = accuracies(model.probabilities, splits, lengths)

    def count(before: int) -> Callable[[int, int], None]:
        return lambda done, _: report(before + done, total)

    theirs, their_arrays = score_sentences(model, dev, lengths, authors, count(0))
    scores, arrays = score_sentences(model, dev, lengths, corrected, count(len(few)))
    rounding = measure_rounding(model, few, lengths, seed=config.seed)
    their_tables = build_tables(theirs, config.seed, reference=SENTIMENT)
    tables = build_tables(scores, config.seed, reference=SENTIMENT_CORRECTED)
    claims = judge_claims(scores, config.seed)
    extra = {
        **arrays,
        **{
            f"authors/{target}/{row}": values
            for target, rows in theirs.correlations.items()
            for row, values in rows.items()
        },
        "authors/rows": their_arrays["rows"],
    }
    files = write_reports(
        out,
        scores=scores,
        tables=tables,
        claims=claims,
        accuracy=float(accuracy["dev"]["accuracy"]),
        accuracy_by_split=accuracy,
        authors=their_tables,
        rounding=rounding,
        extra=extra,
        config={
            **made_with,
            "protocol": dataclasses.asdict(config),
            "model": model.config.to_dict(),
            "dev_sentences_too_long": dev.too_long,
        },
        versions=versions(),
    )
    return Sst2Evaluation(accuracy, their_tables, tables, claims, rounding, scores, tuple(files))
