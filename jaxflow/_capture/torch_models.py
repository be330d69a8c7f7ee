"""The attention of a torch model of the library ``transformers``, as `capture` returns it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxflow._capture.result import Captured, Place, Site
from jaxflow._capture.values import Missed
from jaxflow.errors import InputError

# Fields of an output -> name, kind, and the numbers of the tokens of queries and keys.
_FIELDS = {
    "encoder_attentions": ("encoder", "self", (1, 1)),
    "decoder_attentions": ("decoder", "self", (0, 0)),
    "cross_attentions": ("decoder/cross", "cross", (0, 1)),
    "attentions": ("", "self", (0, 0)),
}


def capture_torch(model: Any) -> Callable[..., tuple[Any, Captured]]:
    """Transform a torch model of ``transformers`` into one that also returns its attention.

    Fused attention returns no weights, so the model runs with the plain implementation
    (``attn_implementation="eager"``); its own is set again afterwards, also after an error.

    Parameters
    ----------
    model
        A ``transformers.PreTrainedModel``.

    Returns
    -------
    callable
        A function of the model's own arguments that returns ``(output, attention)``: the model's
        output, computed without gradients, and its attention as `Captured`, float32 (float64 of a
        float64 model) JAX arrays without values (None). ``attention.mask`` is the boolean
        ``[B, n]`` of ``attention_mask``, to be given to `jaxflow.rollout`: of an encoder and
        decoder, the encoder's tokens.

    Raises
    ------
    InputError
        If torch is not installed, the model is none of ``transformers``, or returns no attention.
    """
    try:
        import torch
    except ImportError as error:
        raise InputError("capture_torch needs torch: pip install torch transformers") from error
    if not isinstance(model, torch.nn.Module) or not hasattr(model, "set_attn_implementation"):
        raise InputError(
            f"model must be a torch model of transformers, got {type(model).__name__}: for a JAX "
            "function take jaxflow.capture"
        )

    def captured(*args: Any, **kwargs: Any) -> tuple[Any, Captured]:
        with _eager(model), torch.no_grad():
            output = model(*args, **{**kwargs, "output_attentions": True, "return_dict": True})
        given = inspect.signature(model.forward).bind_partial(*args, **kwargs).arguments
        mask = given.get("attention_mask")
        if mask is not None:
            mask = jnp.asarray(np.asarray(mask.cpu()) != 0) if mask.ndim == 2 else None
        sites = list(_sites(output))
        if not sites:
            raise InputError(
                f"{type(model).__name__} returns no attention: it has none, or hides it"
            )
        missed = tuple(
            Missed(f"{field} has no weights in layer {layer}", field, type(model).__name__)
            for field in _FIELDS
            for layer, one in enumerate(getattr(output, field, None) or ())
            if one is None
        )
        return output, Captured(tuple(sites), missed, mask)

    return captured


@contextmanager
def _eager(model: Any) -> Iterator[None]:
    parts = [one for one in model.modules() if hasattr(one, "set_attn_implementation")]
    before = [one.config._attn_implementation for one in parts]  # the outermost first
    try:
        model.set_attn_implementation("eager")
        yield
    finally:
        for one, implementation in zip(parts, before, strict=True):
            one.set_attn_implementation(implementation)


def _sites(output: Any) -> Iterator[Site]:
    number = 0
    for field, (name, kind, tokens) in _FIELDS.items():
        for layer, weights in enumerate(getattr(output, field, None) or ()):
            if weights is None:
                continue
            wide = weights.detach().cpu()
            wide = wide if str(wide.dtype) == "torch.float64" else wide.float()
            place = Place(
                index=number,
                name="/".join(part for part in (name, f"layer_{layer}") if part),
                source=f"{type(output).__name__}.{field}[{layer}]",
                kind=kind,
                batch=1,
                tokens=tokens,
            )
            yield Site(place, jnp.asarray(wide.numpy()), None)
            number += 1
