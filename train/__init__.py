"""Train models: corpora, batches, and one loop for agreement encoders and any classifier.

`fit` trains any model with a classification head, given a loss and batches; `train` an agreement
encoder on its corpus; `finetune` a pretrained model on labelled sentences.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxflow.train.batches import (
        ArrayBatches,
        Batches,
        EncodedSplit,
        accuracies,
        evaluation_batches,
    )
    from jaxflow.train.config import PRESETS, FineTuneConfig, FitConfig, TrainConfig
    from jaxflow.train.corpus import load_corpus
    from jaxflow.train.data import load_splits
    from jaxflow.train.finetuning import finetune
    from jaxflow.train.loop import Progress, TrainResult, fit, train
    from jaxflow.train.run import read_config
    from jaxflow.train.sst2 import load_sst2
    from jaxflow.train.step import cross_entropy, make_optimizer
    from jaxflow.train.tasks import TASKS, Sequences, Task
    from jaxflow.train.truth import Verified, fit_task, verify

__all__ = [
    "PRESETS",
    "TASKS",
    "ArrayBatches",
    "Batches",
    "EncodedSplit",
    "FineTuneConfig",
    "FitConfig",
    "Progress",
    "Sequences",
    "Task",
    "TrainConfig",
    "TrainResult",
    "Verified",
    "accuracies",
    "cross_entropy",
    "evaluation_batches",
    "finetune",
    "fit",
    "fit_task",
    "load_corpus",
    "load_splits",
    "load_sst2",
    "make_optimizer",
    "read_config",
    "train",
    "verify",
]

_MODULES = {
    "batches": ("ArrayBatches", "Batches", "EncodedSplit", "accuracies", "evaluation_batches"),
    "config": ("PRESETS", "FineTuneConfig", "FitConfig", "TrainConfig"),
    "corpus": ("load_corpus",),
    "data": ("load_splits",),
    "finetuning": ("finetune",),
    "loop": ("Progress", "TrainResult", "fit", "train"),
    "run": ("read_config",),
    "sst2": ("load_sst2",),
    "step": ("cross_entropy", "make_optimizer"),
    "tasks": ("TASKS", "Sequences", "Task"),
    "truth": ("Verified", "fit_task", "verify"),
}


def __getattr__(name: str) -> Any:
    """Import a public name on first use, so that reading a run does not import the optimiser."""
    for module, names in _MODULES.items():
        if name in names:
            return getattr(import_module(f"jaxflow.train.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
