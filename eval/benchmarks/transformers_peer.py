"""The transformers library's models, with eager attention, which is the one that returns weights.

The library and PyTorch are optional peers, imported only in here and only when called.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jaxflow.models import EncoderOutput

__all__ = ["difference", "forward", "read_module", "use_threads"]


def use_threads(count: int) -> None:
    """Have PyTorch work on so many threads from now on."""
    import torch

    torch.set_num_threads(count)


def read_module(folder: Path) -> Any:
    """Load a model without a head, for reading, as the library's users do."""
    from transformers import AutoModel
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()  # a checkpoint's head is left out on purpose
    return AutoModel.from_pretrained(folder, attn_implementation="eager").eval()


def forward(module: Any, tokens: NDArray[np.integer]) -> Any:
    """Return a model's output for ``[B, n]`` tokens, attentions and hidden states included."""
    import torch

    numbers = torch.from_numpy(tokens).long()
    with torch.inference_mode():
        return module(
            input_ids=numbers,
            attention_mask=torch.ones_like(numbers),
            output_attentions=True,
            output_hidden_states=True,
        )


def difference(output: Any, ours: EncoderOutput) -> float:
    """Return the largest difference of attention and hidden states from ours."""
    pairs = ((output.attentions, ours.attention), (output.hidden_states, ours.hidden))
    return max(
        float(np.abs(layer.numpy() - own).max())
        for theirs, stacked in pairs
        for layer, own in zip(theirs, np.asarray(stacked).swapaxes(0, 1), strict=True)
    )
