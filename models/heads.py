"""A fresh head on a model that is there."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import flax.traverse_util

from jaxflow.errors import InputError
from jaxflow.models.architectures import init
from jaxflow.models.bert import BertConfig
from jaxflow.models.config import Head
from jaxflow.models.gpt2 import Gpt2Config
from jaxflow.models.model import Model
from jaxflow.models.vit import ViTConfig

__all__ = ["with_head"]


def with_head(
    model: Model, head: Head, labels: Sequence[str] = (), seed: int = 0, **changes: Any
) -> Model:
    """Put a fresh head on a model, for fine-tuning.

    Parameters
    ----------
    model
        Whose encoder is kept; what of its head fits the new one is kept too.
    head
        The head wanted.
    labels
        The classes' names, for ``classification``.
    seed
        Of the fresh parameters.
    **changes
        Other fields of the configuration, such as dropout rates.

    Returns
    -------
    Model
        A new one; the model given is left as it is.

    Raises
    ------
    InputError
        If the model is an `AgreementEncoder`, the architecture has no such head, or a field is
        unknown or impossible.
    """
    if not isinstance(model.config, BertConfig | Gpt2Config | ViTConfig):
        raise InputError("an agreement encoder has one head alone: train another one")
    if isinstance(model.config, BertConfig) and head != "none":
        changes["pooler"] = False  # a head has its own, or none
    try:
        config = dataclasses.replace(model.config, head=head, labels=tuple(labels), **changes)
    except TypeError as error:
        raise InputError(f"the model's configuration does not fit: {error}") from error
    fresh = flax.traverse_util.flatten_dict(init(config, seed)["params"], sep=".")
    kept = flax.traverse_util.flatten_dict(model.params["params"], sep=".")
    flat = {
        name: kept[name] if name in kept and kept[name].shape == leaf.shape else leaf
        for name, leaf in fresh.items()
    }
    tree = {"params": flax.traverse_util.unflatten_dict(flat, sep=".")}
    return Model(config, tree, model.tokenizer)
