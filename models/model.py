"""A trained model with all that belongs to it, ready to call."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import cached_property, partial
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from jaxflow.errors import InputError
from jaxflow.models.architectures import ModelConfig, make_module
from jaxflow.models.output import EncoderOutput
from jaxflow.models.tokenizer import Tokenizer, WordTokenizer

__all__ = ["Model"]


@dataclasses.dataclass(frozen=True)
class Model:
    """A trained model, ready to call.

    Attributes
    ----------
    config
        The model's configuration, which says its architecture.
    params
        Its variables, as ``module.apply`` takes them.
    tokenizer
        The vocabulary it was trained with; None of a model of images, or where a folder has none.
    """

    config: ModelConfig
    params: Any
    tokenizer: Tokenizer | None

    @cached_property
    def module(self) -> nn.Module:
        """The Flax module."""
        return make_module(self.config)

    @property
    def text(self) -> Tokenizer:
        """The tokenizer.

        Raises
        ------
        InputError
            If the model has none.
        """
        if self.tokenizer is None:
            raise InputError(
                "the model must have a tokenizer to read text, and none came with it: put its "
                "tokenizer.json or vocab.txt into its folder"
            )
        return self.tokenizer

    @property
    def whole_words(self) -> WordTokenizer:
        """The tokenizer of an agreement encoder.

        Raises
        ------
        InputError
            If the model is another, with no tokenizer of whole words.
        """
        if not isinstance(self.tokenizer, WordTokenizer):
            raise InputError(
                "the model must be an agreement encoder, as jaxflow train makes them, got one of "
                "another tokenizer"
            )
        return self.tokenizer

    @cached_property
    def _apply(self) -> Callable[..., EncoderOutput]:
        apply: Callable[..., Any] = self.module.apply
        return jax.jit(apply, static_argnames="values")

    @cached_property
    def _probabilities(self) -> Callable[..., jax.Array]:
        classify: Any = partial(self.module.apply, method="classify")
        return jax.jit(lambda params, tokens: jax.nn.softmax(classify(params, tokens)))

    def __call__(self, tokens: Any, mask: Any = None, **options: Any) -> EncoderOutput:
        """Run the model on a batch, compiled once for each shape.

        Parameters
        ----------
        tokens
            ``[B, n]`` whole numbers, NumPy or JAX, special tokens included; for a model of images
            ``[B, height, width, channels]``, normalised.
        mask
            ``[B, n]`` boolean, True at real tokens; None takes every token but the padding.
        **options
            What the module's call takes besides: ``token_types`` of BERT, ``values=True`` for value
            vectors and output projections.

        Returns
        -------
        EncoderOutput
            Logits, attention and hidden states.

        Raises
        ------
        InputError
            If a shape or dtype is wrong or a number is outside the vocabulary.
        """
        self._check(tokens)
        self._check_range("token_types", options.get("token_types"))
        return self._apply(self.params, tokens, mask, **options)

    def probabilities(self, tokens: Any) -> jax.Array:
        """Return the classes' probabilities ``[B, C]`` of ``[B, n]`` tokens.

        Raises
        ------
        InputError
            As calling the model does.
        """
        self._check(tokens)
        return self._probabilities(self.params, tokens)

    def _check(self, tokens: Any) -> None:
        self._check_range("tokens", tokens, "vocabulary")

    def _check_range(self, name: str, numbers: Any, size: str = "token_types") -> None:
        # Looking a number up outside the table would silently give the last word.
        rows = getattr(self.config, size, None)
        if not rows or numbers is None or isinstance(numbers, jax.core.Tracer):
            return
        values = np.asarray(numbers)
        if values.size and not 0 <= values.min() <= values.max() < rows:
            raise InputError(
                f"{name} must be numbers from 0 to {rows - 1}, got {values.min()} to {values.max()}"
            )
