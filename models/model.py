"""A trained encoder with all that belongs to it, ready to call."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import cached_property, partial
from typing import Any

import jax
import numpy as np

from jaxflow.errors import InputError
from jaxflow.models.config import EncoderConfig
from jaxflow.models.encoder import AgreementEncoder, EncoderOutput
from jaxflow.models.tokenizer import WordTokenizer

__all__ = ["Model"]


@dataclasses.dataclass(frozen=True)
class Model:
    """A trained encoder, ready to call.

    Attributes
    ----------
    config
        The encoder's configuration.
    params
        Its variables, as `AgreementEncoder.apply` takes them.
    tokenizer
        The vocabulary it was trained with.
    """

    config: EncoderConfig
    params: Any
    tokenizer: WordTokenizer

    @cached_property
    def module(self) -> AgreementEncoder:
        """The Flax module."""
        return AgreementEncoder(self.config)

    @cached_property
    def _apply(self) -> Callable[..., EncoderOutput]:
        return jax.jit(self.module.apply)

    @cached_property
    def _probabilities(self) -> Callable[..., jax.Array]:
        classify: Any = partial(self.module.apply, method="classify")
        return jax.jit(lambda params, tokens: jax.nn.softmax(classify(params, tokens)))

    def __call__(self, tokens: Any, mask: Any = None) -> EncoderOutput:
        """Encode and classify ``[B, n]`` tokens, compiled once for each shape.

        Parameters
        ----------
        tokens
            ``[B, n]`` whole numbers, NumPy or JAX, ``[CLS]`` first.
        mask
            ``[B, n]`` boolean, True at real tokens; None takes every token but the padding.

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
        return self._apply(self.params, tokens, mask)

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
        # Looking a number up outside the table would silently give the last word.
        if isinstance(tokens, jax.core.Tracer):
            return
        values = np.asarray(tokens)
        if values.size and not 0 <= values.min() <= values.max() < self.config.vocabulary:
            raise InputError(
                f"tokens must be numbers from 0 to {self.config.vocabulary - 1}, got "
                f"{values.min()} to {values.max()}"
            )
