"""Compute Table 3: attention and gradients of a sentiment classifier, and their rounding errors.

Two protocols. The *authors'*: a token's relevance is the maximum over all queries, the gradient is
that of the last class's logit (their labels are those of GLUE's test split, all -1, and index the
logits), ranks are dense and go into the tie-free formula, 100 sentences. The *corrected* one: the
row of ``[CLS]``, the target and the replacement of every other command
(`jaxflow.eval.score.target`), average ranks, every sentence, and intervals.

Both sum the gradient over an embedding's coordinates, as the paper does: the derivative for adding
the same number to all of them. A LayerNorm subtracts that number again, and BERT normalises its
embeddings first, so that the sum is 0 but for rounding. `measure_rounding` measures this in
two ways: how far the sum falls below the sum of magnitudes, in single and in double precision, and
whether the ranks of the tokens stay the same between the two. The norm of the gradient and
blank-out are shown for comparison.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxflow
from jaxflow.errors import InputError
from jaxflow.eval.paper.claims import judge_claims
from jaxflow.eval.paper.protocol import ProtocolConfig, choose, score_sentences
from jaxflow.eval.paper.report import Accuracy, Evaluation, Rounding, write_reports
from jaxflow.eval.paper.scores import ROWS, TARGETS
from jaxflow.eval.paper.tables import SENTIMENT, SENTIMENT_CORRECTED, build_tables
from jaxflow.eval.report import versions
from jaxflow.eval.score.target import ANSWERS, Replacement, Target, scoring_of
from jaxflow.eval.stats import summarise
from jaxflow.models import Gpt2Config, Model
from jaxflow.train.batches import EncodedSplit, accuracies, evaluation_batches


@dataclasses.dataclass(frozen=True)
class Sst2Config:
    """Configuration of Table 3, in the terms of `ProtocolConfig`."""

    samples: int | None = None  # sentences of the corrected protocol; None takes all
    paper_samples: int = SENTIMENT.sentences  # of the authors' protocol; fewer where there are
    seed: int = 0
    special_tokens: bool = True
    batch: int = 8  # blanking out makes a row of each token of a sentence
    threads: int | None = None
    target: Target | None = None  # of the corrected protocol, as is the replacement
    replacement: Replacement | None = None

    def __post_init__(self) -> None:
        for name in ("samples", "paper_samples"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"{name} must be at least 1, got {value}")
        self.corrected(1)  # refuses what is impossible

    def corrected(self, sentences: int) -> ProtocolConfig:
        """Return the corrected protocol, for a split of so many sentences."""
        given = dataclasses.asdict(self)
        del given["paper_samples"]
        return ProtocolConfig(**given | {"samples": self.samples or sentences})

    def authors(self, sentences: int) -> ProtocolConfig:
        """Return the authors' protocol, for a split of so many sentences."""
        return dataclasses.replace(
            self.corrected(sentences),
            samples=min(self.paper_samples, sentences),
            target="last",
            reading="maximum",
            ranks="dense",
        )


def check_classifier(model: Model) -> None:
    """Raise `InputError` for a model without two classes, or that does not read [CLS]."""
    config = model.config
    check_reader(model)
    if model.answer != "single-label" or config.classes != 2:
        raise InputError(
            "Table 3 needs a classifier of two classes, negative and positive, got one of "
            f"{config.classes} classes whose answer is {ANSWERS[model.answer]}"
        )


def check_reader(model: Model) -> None:
    """Raise `InputError` for a model that is not of text or does not read ``[CLS]``."""
    config = model.config
    if isinstance(config, Gpt2Config) or not hasattr(config, "vocabulary"):
        raise InputError(
            "Table 3 reads the attention of [CLS], so the model must be BERT, DistilBERT or RoBERTa"
        )


def evaluate_sst2(
    model: Model,
    splits: Mapping[str, EncodedSplit],
    lengths: tuple[int, ...],
    config: Sst2Config,
    out: Path,
    *,
    made_with: Mapping[str, Any],
    accuracy: Accuracy | None = None,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> Evaluation:
    """Score a classifier's ``dev`` sentences by both protocols and write the tables to `out`.

    `splits` are encoded labelled splits, ``dev`` among them; the files are those of
    `jaxflow.eval.paper.report.write_reports`, their tables by the corrected protocol. `made_with`
    and `accuracy` by split are recorded; `report` is called with the number of sentences done and
    their total, of both protocols. Raises `InputError` if the model is no such classifier, there
    are too few sentences or the folder cannot be written.
    """
    check_classifier(model)
    scoring = scoring_of(model, config.target, config.replacement)
    config = dataclasses.replace(config, target=scoring.target, replacement=scoring.replacement)
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
    evaluation = Evaluation(
        tables=build_tables(scores, config.seed, reference=SENTIMENT_CORRECTED),
        claims=judge_claims(scores, config.seed),
        accuracy=accuracy,
        scored="dev",
        authors=build_tables(theirs, config.seed, reference=SENTIMENT),
        rounding=rounding,
        scores=scores,
        scoring=scoring,
    )
    names = [f"{target}/{row}" for target in TARGETS for row in ROWS]
    arrays |= {f"authors/{name}": theirs[name] for name in names}
    arrays["authors/rows"] = their_arrays["rows"]
    described = {
        **made_with,
        "protocol": dataclasses.asdict(config),
        "model": model.config.to_dict(),
        "dev_sentences_too_long": dev.too_long,
    }
    return write_reports(out, evaluation, {"config": described, "versions": versions()}, arrays)


def measure_rounding(
    model: Model, split: EncodedSplit, lengths: tuple[int, ...], *, seed: int = 0
) -> Rounding:
    """Compare the gradients of a split's sentences in single and in double precision."""
    ratios: dict[str, list[np.ndarray]] = {"single": [], "double": []}
    agreements: dict[str, list[np.ndarray]] = {"sum": [], "norm": []}
    gradient = _gradient(model)
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf), jnp.float64), model.params)
    for rows, batch in evaluation_batches(split, lengths, 16):
        given = batch["tokens"], batch["mask"]
        found = {"single": np.asarray(gradient(model.params, *given))[: len(rows)]}
        with jax.enable_x64(True):
            found["double"] = np.asarray(gradient(wide, *given))[: len(rows)]
        mask = batch["mask"][: len(rows)]
        for name, values in found.items():
            # Summed as the precision has it: what is left may depend on the order of the sum.
            size = np.abs(values[mask]).sum(-1)
            ratios[name].append(np.abs(values[mask].sum(-1))[size > 0] / size[size > 0])
        for name, score in (
            ("sum", lambda values: np.abs(values.sum(-1))),
            ("norm", lambda values: np.sqrt((values**2).sum(-1))),
        ):
            one, other = (score(values).astype(np.float64) for values in found.values())
            agreements[name].append(np.asarray(jaxflow.spearman(one, other, mask)))
    cells = summarise(np.stack([np.concatenate(part) for part in agreements.values()], 1), seed)
    return Rounding(
        single=float(np.median(np.concatenate(ratios["single"]))),
        double=float(np.median(np.concatenate(ratios["double"]))),
        agreement=cells[0],
        norm_agreement=cells[1],
    )


def _gradient(model: Model) -> Callable[[Any, np.ndarray, np.ndarray], jax.Array]:
    """Build ``(params, tokens, mask) -> gradients [B, n, D]`` of the predicted class's logit."""
    apply: Callable[..., Any] = model.module.apply

    @jax.jit
    def gradient(params: Any, tokens: jax.Array, mask: jax.Array) -> jax.Array:
        def score(embeddings: jax.Array) -> jax.Array:
            output = apply(params, embeddings, mask, method="encode", tokens=tokens)
            return jnp.asarray(output.logits.max(-1).sum())

        return jax.grad(score)(apply(params, tokens, method="embed"))

    return gradient
