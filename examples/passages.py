"""Ask a decoder about passages, and count how often a method points at the one with the answer.

    python examples/passages.py --model SMOLLM2_FOLDER --out docs/results/passages

Ten questions (passages.json), each with six short passages of which one holds the answer. Facts
are made up, so that the model must read them. The prompt is given in the model's chat template, and
the right answer is explained: every method sums its scores over each passage, and points at the one
with the most. Removal is the reference: how much less likely the answer is without a passage.
"""

import json
from pathlib import Path

import numpy as np
import tyro

from jaxflow import models
from jaxflow.eval import Column, Table, explain_answer
from jaxflow.eval.stats import binomial_interval

METHODS = ("rollout", "rollout-normalised", "norm/rollout", "norm/rollout-normalised")
CASES = Path(__file__).with_name("passages.json")


def prompt_of(passages: list[str], question: str) -> str:
    """Return what the user says."""
    return "\n\n".join(
        ["Answer the question by one of these passages.", *passages, f"Question: {question}"]
    )


def explained(model: models.Model, passages: list[str], case: dict, **options):
    """Explain the right answer to a question about passages."""
    prompt = prompt_of(passages, case["question"])
    given = {"answer": case["answer"], "chat": True, "units": "passages", "passages": passages}
    return explain_answer(model, prompt, **given, **options)


def removal(model: models.Model, case: dict) -> np.ndarray:
    """Return the answer's log-probability minus that without each passage, ``[6]``."""
    passages = case["passages"]
    whole = explained(model, passages, case, methods=("rollout",)).log_probabilities.sum()
    left = [passages[:place] + passages[place + 1 :] for place in range(len(passages))]
    return np.array(
        [
            whole - explained(model, rest, case, methods=("rollout",)).log_probabilities.sum()
            for rest in left
        ]
    )


def main(model: str, out: Path = Path("runs/passages"), layers: tuple[int, ...] = (-1,)) -> None:
    """Write a table of hits, and each question's scores.

    Parameters
    ----------
    model
        Folder or name of a decoder with a chat template.
    out
        Folder for tables.md and tables.json.
    layers
        Layers after which rows are taken; the top one counts.
    """
    decoder = models.load(model)
    cases = json.loads(CASES.read_text(encoding="utf-8"))
    points: dict[str, list[int]] = {}
    records = []
    for case in cases:
        found = explained(decoder, case["passages"], case, methods=METHODS, layers=layers)
        count = len(case["passages"])
        scores = {name: found.unit_scores(name)[-1, :, :count].mean(0) for name in METHODS}
        scores["removal"] = removal(decoder, case)
        scores["last passage"] = np.arange(count)
        made = explain_answer(
            decoder, prompt_of(case["passages"], case["question"]), chat=True, generate=24
        )
        for name, values in scores.items():
            points.setdefault(name, []).append(int(values.argmax()))
        records.append(
            {
                "question": case["question"],
                "holds": case["holds"],
                "generated": made.answer,
                "right": case["answer"].lower() in made.answer.lower(),
                "log_probability": float(found.log_probabilities.sum()),
                "scores": {name: values.tolist() for name, values in scores.items()},
            }
        )
        print(case["question"], repr(made.answer))
    holds = np.array([case["holds"] for case in cases])
    rows = []
    for name, chosen in points.items():
        hits = int((np.array(chosen) == holds).sum())
        low, high = binomial_interval(hits, len(holds))
        rows.append((name, hits, f"[{low:.2f}, {high:.2f}]"))
    table = Table.of([Column("method", text=True), f"hits of {len(holds)}", "95 % interval"], rows)
    right = sum(record["right"] for record in records)
    text = (
        f"# Which passage the answer came from\n\n{model}: {right} of {len(cases)} generated "
        f"answers contain the right words. Chance is 1 of 6.\n\n{table.to_markdown()}\n"
    )
    out.mkdir(parents=True, exist_ok=True)
    (out / "tables.md").write_text(text, encoding="utf-8")
    record = {"model": model, "layers": layers, "methods": dict(points), "questions": records}
    (out / "tables.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    tyro.cli(main)
