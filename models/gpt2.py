"""Define GPT-2: causal pre-LayerNorm blocks with a language-model or classification head.

Radford et al., Language Models are Unsupervised Multitask Learners, 2019.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxflow.models.blocks import (
    Cache,
    Layer,
    LayerNorm,
    Reach,
    Transformer,
    allowed_pairs,
    make_blocks,
    normal,
    run_blocks,
)
from jaxflow.models.config import LARGEST, ConfigRecord, Head, Problem, check_config
from jaxflow.models.decoder import QueriesKeys
from jaxflow.models.layers import exact, layers_of
from jaxflow.models.output import at_last_real, at_least_float32, full_mask


@dataclasses.dataclass(frozen=True, repr=False)
class Gpt2Config(ConfigRecord):
    """Sizes of a `Gpt2`; the defaults are those of the smallest published one.

    Attributes
    ----------
    head
        ``lm``, ``classification`` or ``none``.
    vocabulary, positions
        Word pieces, and longest input in tokens.
    layers, heads, width, hidden_width
        Blocks, heads a block, width of the stream and of the feed-forward layer.
    labels, problem, activation, epsilon
        The classes, what they were trained for, and the blocks' functions, as in `BertConfig`.
    dropout, attention_dropout, embedding_dropout
        Rates while training: branches, attention weights, embeddings.
    tied
        Whether the head's kernel is the word embeddings.
    pad_id
        The padding token's number; None where there is none, and every token is real. Classes are
        computed from the last token that is another.
    pad_is_end
        Whether that is the token that texts begin or end with too: then without a mask every
        token is real, and attention to the tokens after a text's end is not 0.
    """

    head: Head = "lm"
    vocabulary: int = 50_257
    positions: int = 1024
    layers: int = 12
    heads: int = 12
    width: int = 768
    hidden_width: int = 3072
    labels: tuple[str, ...] = ()
    problem: Problem | None = None
    activation: str = "gelu_new"
    epsilon: float = 1e-5
    dropout: float = 0.1
    attention_dropout: float = 0.1
    embedding_dropout: float = 0.1
    tied: bool = True
    pad_id: int | None = None
    pad_is_end: bool = False

    def __post_init__(self) -> None:
        check_config(self, ("none", "classification", "lm"))

    @property
    def reads_last(self) -> bool:
        """Return True: classes are computed from the last real token."""
        return True

    @property
    def causal(self) -> bool:
        """Return True: a token attends only to itself and those before it."""
        return True


class Gpt2(Transformer):
    """A causal decoder; `embed` and `encode` are its halves, as in `AgreementEncoder`.

    Logits are ``[B, n, V]`` of the token after each, or ``[B, C]`` of the classes, computed from
    the last real token, which ``pooled`` is then; the last hidden state is that before the closing
    norm.
    """

    config: Gpt2Config
    _embedding_rate = "embedding_dropout"

    def setup(self) -> None:
        """Name the parameters."""
        config = self.config
        self.word = nn.Embed(config.vocabulary, config.width, embedding_init=normal(0.02))
        self.position = self.param("position", normal(0.01), (config.positions, config.width))
        self.blocks = make_blocks(config.block, self.rolled)
        self.norm = LayerNorm(config.epsilon)
        if config.head == "classification":
            self.readout = nn.Dense(config.classes, use_bias=False, kernel_init=normal(0.02))
        if config.head == "lm" and not config.tied:
            shape = (config.vocabulary, config.width)
            self.decoder = self.param("decoder", normal(0.02), shape)

    def queries_keys(
        self,
        tokens: jax.Array,
        mask: jax.Array | None = None,
        offsets: jax.Array | None = None,
        shift: jax.Array | float = 0.0,
    ) -> QueriesKeys:
        """Return what `jaxflow.models.Decoder.queries_keys` does; the blocks must be one loop."""
        tokens, mask = self._checked(tokens, mask)
        everything = jnp.full(self.config.layers, LARGEST)
        embeddings = self.embed(tokens) + shift
        mask = full_mask(embeddings, mask, self.config.positions)
        reach = Reach(everything, everything)
        trunk = run_blocks(
            self.blocks,
            self._begin(embeddings, mask, False),
            allowed_pairs(mask, causal=False),
            layers=Layer(reach, offset=None if offsets is None else offsets.swapaxes(0, 1)),
            wants_rows=True,
        )
        logits, _ = self._classify(trunk.stream, self._readable(mask, tokens), False)
        return QueriesKeys(*trunk.rows, None, *reach, mask, trunk.hidden, logits)  # type: ignore[call-arg]

    def step(self, tokens: jax.Array, mask: jax.Array, cache: Cache) -> tuple[Any, Any, Cache]:
        """Continue a text as `jaxflow.models.Decoder.step` does."""
        n, config = tokens.shape[1], self.config
        position = jax.lax.dynamic_slice_in_dim(self.position, cache.place[0], n)
        everything = jnp.full(config.layers, LARGEST)
        trunk = run_blocks(
            self.blocks,
            self.embed(tokens) + position[None],
            allowed_pairs(mask, causal=False),
            layers=Layer(Reach(everything, everything), cache=cache),
        )
        logits: Any = self._classify(trunk.stream[:, -1:], mask, False)[0]
        return logits[:, -1], trunk.attention, trunk.cache._replace(place=cache.place + n)

    @exact
    def _classify(
        self, stream: jax.Array, mask: jax.Array, train: bool
    ) -> tuple[jax.Array | None, jax.Array | None]:
        normed = self.norm(stream, layers_of(train))  # [B, n, D]
        if self.config.head == "lm":
            table = self.word.embedding if self.config.tied else self.decoder
            return at_least_float32(normed @ table.T), None
        pooled = at_last_real(normed, mask)  # [B, D]
        if self.config.head == "none":
            return None, pooled
        return at_least_float32(self.readout(pooled)), pooled
