r"""Flow through an encoder and a decoder, on one stack that the kernel can take.

The graph is that of `jaxflow.edges.cross`. The kernel takes layers of equal width, so it is laid
out over m + n tokens: Le layers :math:`\mathrm{diag}(E', I)`, then for each block
:math:`\mathrm{diag}(I, S')` and :math:`\begin{pmatrix} I & 0\\ (1 - c)\,C & c\,I\end{pmatrix}`.

**The stack's flow is the graph's.** The stack is the graph with some nodes drawn out into chains
whose links carry 1: the encoder's top, which every block looks at, and the decoder's input, beside
which the encoder's layers lie. Merging each chain into its node turns a flow of the stack into one
of the graph, so the stack carries no more. It carries as much: what leaves the source is at most
the sum of its row, 1. Neither graph has a cycle, so a flow is a sum of paths from source to sink,
and no node has more to carry than all of them together, at most 1. Hence no link ever binds, for
sinks of either kind, even where the edges into one token sum to more than 1.
"""

from __future__ import annotations

import numpy as np

from jaxflow._flow import flow

__all__ = ["joint_flow", "joint_stack"]


def joint_flow(
    encoder: np.ndarray,
    decoder: np.ndarray,
    down: np.ndarray,
    keep: np.ndarray,
    source_mask: np.ndarray | None,
    target_mask: np.ndarray | None,
    *,
    rows: tuple[int, ...],
    threads: int | None,
) -> np.ndarray:
    """Return the flows from decoder tokens after every block to all source and input tokens.

    Parameters
    ----------
    encoder, decoder
        ``[..., Le, m, m]`` and ``[..., Ld, n, n]`` float64, E' and S': real rows sum to 1.
    down
        ``[..., Ld, n, m]`` float64, (1 - c) C.
    keep
        ``[..., Ld, n]`` float64, c: with it each real row of `down` sums to 1.
    source_mask, target_mask
        ``[..., m]`` and ``[..., n]`` boolean, True at real tokens, or None.
    rows
        Decoder tokens, from 0.
    threads
        As for `jaxflow.flow`.

    Returns
    -------
    numpy.ndarray
        ``[..., Ld, S, m + n]`` float64, exact to 1e-9.
    """
    stack = joint_stack(encoder, decoder, down, keep)
    batch, (depth, m), n = encoder.shape[:-3], encoder.shape[-3:-1], decoder.shape[-1]
    source = np.ones((*batch, m), bool) if source_mask is None else source_mask
    target = np.ones((*batch, n), bool) if target_mask is None else target_mask
    return flow(
        stack[..., None, :, :],
        residual=0,
        mask=np.concatenate([source, target], -1),
        sources=[m + row for row in rows],
        layers=range(depth + 1, stack.shape[-3], 2),
        threads=threads,
    )


def joint_stack(
    encoder: np.ndarray, decoder: np.ndarray, down: np.ndarray, keep: np.ndarray
) -> np.ndarray:
    """Lay the graph out over m + n tokens, ``[..., Le + 2 Ld, m + n, m + n]``."""
    depth, m = encoder.shape[-3:-1]
    blocks, n = decoder.shape[-3:-1]
    stack = np.zeros((*encoder.shape[:-3], depth + 2 * blocks, m + n, m + n))
    stack[...] = np.eye(m + n)
    stack[..., :depth, :m, :m] = encoder
    stack[..., depth::2, m:, m:] = decoder
    stack[..., depth + 1 :: 2, m:, :m] = down
    stack[..., depth + 1 :: 2, m:, m:] *= keep[..., None]
    return stack
