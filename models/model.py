"""Hold a model with its parameters and tokenizer, and derive others from it.

It has the list of architectures and functions for fresh parameters, another head, bfloat16, and
blocks run as one loop.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, partial
from typing import Any, NamedTuple

import flax.linen as nn
import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from jaxflow._rows import rollout_rows
from jaxflow.attention import Indices
from jaxflow.errors import InputError
from jaxflow.models.bert import Bert, BertConfig
from jaxflow.models.config import EncoderConfig, Head
from jaxflow.models.decoder import Decoder, DecoderConfig, QueriesKeys
from jaxflow.models.encoder import AgreementEncoder
from jaxflow.models.gpt2 import Gpt2, Gpt2Config
from jaxflow.models.output import Answer, EncoderOutput, answer_values
from jaxflow.models.tokenizer import Tokenizer, WordTokenizer
from jaxflow.models.vit import ViT, ViTConfig

PublishedConfig = BertConfig | Gpt2Config | ViTConfig | DecoderConfig
ModelConfig = EncoderConfig | PublishedConfig

_MODULES: dict[type, Any] = {
    EncoderConfig: AgreementEncoder,
    BertConfig: Bert,
    Gpt2Config: Gpt2,
    ViTConfig: ViT,
    DecoderConfig: Decoder,
}


def make_module(config: ModelConfig, *, rolled: bool = False) -> nn.Module:
    """Return the Flax module of a configuration, its blocks one by one or as one loop."""
    module: nn.Module = _MODULES[type(config)](config, rolled=rolled)
    return module


def init(config: ModelConfig, seed: int = 0) -> Any:
    """Draw fresh parameters, the variables that ``make_module(config).apply`` takes."""
    if isinstance(config, ViTConfig):
        example = jnp.zeros((1, *config.image, config.channels))
    else:
        example = jnp.zeros((1, min(2, config.positions)), jnp.int32)
    return jax.jit(make_module(config).init)(jax.random.key(seed), example)


@dataclasses.dataclass(frozen=True)
class Model:
    """A trained model, ready to call.

    Attributes
    ----------
    config
        The configuration, whose class decides the architecture.
    params
        The variables, as ``module.apply`` takes them.
    tokenizer
        The tokenizer; None of a model of images, or where a folder has none.
    """

    config: ModelConfig
    params: Any
    tokenizer: Tokenizer | None

    def __repr__(self) -> str:
        count = sum(np.size(leaf) for leaf in jax.tree.leaves(self.params))
        return f"Model({self.config!r}, {count:,} parameters, {self.tokenizer!r})"

    @cached_property
    def module(self) -> nn.Module:
        """The Flax module."""
        return make_module(self.config)

    @property
    def answer(self) -> Answer:
        """The kind of the model's answer, which decides what its logits mean.

        ``single-label``: one of the classes; ``multi-label``: each class for itself;
        ``regression``: numbers; ``tokens``: one of the vocabulary, of a language model; or
        ``none``, without a head.
        """
        return self.config.answer

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

    @property
    def has_segments(self) -> bool:
        """Whether the model tells the texts of a pair apart by ``token_types``: BERT, RoBERTa."""
        return getattr(self.config, "token_types", 0) > 0

    @cached_property
    def _apply(self) -> Callable[..., EncoderOutput]:
        apply: Callable[..., Any] = self.module.apply
        return jax.jit(apply, static_argnames="values")

    @cached_property
    def _probabilities(self) -> Callable[..., jax.Array]:
        classify: Any = partial(self.module.apply, method="classify")
        return jax.jit(lambda *given, **more: answer_values(classify(*given, **more), self.answer))

    def __call__(self, tokens: Any, mask: Any = None, **options: Any) -> EncoderOutput:
        """Run the model on a batch, compiled once for each shape.

        Parameters
        ----------
        tokens
            ``[B, n]`` whole numbers, NumPy or JAX, special tokens included; for a model of images
            ``[B, height, width, channels]``, normalised.
        mask
            ``[B, n]`` boolean, True at real tokens; None takes every token but the padding, or
            every token where the padding token is GPT-2's end token.
        **options
            Other arguments of the module's call: ``token_types`` of BERT, ``values=True`` for value
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
        self._check(tokens, options)
        return self._apply(self.params, tokens, mask, **options)

    def probabilities(self, tokens: Any, mask: Any = None, **inputs: Any) -> jax.Array:
        """Return the values of the answer: probabilities, or the numbers of a regression.

        Parameters
        ----------
        tokens, mask
            As the model is called.
        **inputs
            ``token_types`` of BERT.

        Returns
        -------
        jax.Array
            ``[B, C]``, of the classes (`answer_values`); ``[B, n, V]`` of a language model.

        Raises
        ------
        InputError
            As calling the model does, or if it has no head.
        """
        self._check(tokens, inputs)
        return self._probabilities(self.params, tokens, mask, **inputs)

    @cached_property
    def _rolled(self) -> RolledEncoder:
        return roll_up(self.config, self.params)

    @property
    def projections(self) -> jax.Array:
        """The output projections of attention by head, ``[L, H, d, D]``.

        Where what attention adds is normalised, the scale of that norm is in them: linearised, it
        multiplies each number by its scale, and a row as a whole.
        """
        config: Any = self.config
        blocks = self._rolled.params["blocks"]
        kernel = blocks["attention_out"]["kernel"]
        if config.block.norm_branches:
            kernel = kernel * blocks["norm_attention_out"]["scale"][:, None]
        return jnp.asarray(kernel.reshape(config.layers, config.heads, -1, config.width))

    @cached_property
    def _queries_keys(self) -> Callable[..., QueriesKeys]:
        apply: Any = partial(self._rolled.module.apply, method="queries_keys")
        config: Any = self.config

        def run(
            params: Any, tokens: jax.Array, mask: Any, score: Any, dropped: tuple[str, ...]
        ) -> QueriesKeys:
            # What is dropped is not computed.
            less: dict[str, Any] = dict.fromkeys(dropped)
            if score is None:
                return apply(params, tokens, mask).replace(**less)

            def explained(offsets: jax.Array) -> tuple[jax.Array, QueriesKeys]:
                found = apply(params, tokens, mask, offsets)
                return score(found.logits).sum(), found

            batch, n = tokens.shape
            shape = (batch, config.layers, config.heads, n, config.block.size)
            gradient = jax.grad(explained, has_aux=True)
            slopes, found = gradient(jnp.zeros(shape, jax.tree.leaves(params)[0].dtype))
            return found.replace(**less | {"gradients": slopes})

        return jax.jit(run, static_argnums=4)

    def queries_keys(
        self, tokens: Any, mask: Any = None, *, score: Callable[[Any], Any] | None = None
    ) -> QueriesKeys:
        """Run a decoder without building its attention, which long texts have no memory for.

        Parameters
        ----------
        tokens, mask
            As the model is called.
        score
            From the logits ``[B, n, V]`` to what is explained of each text, ``[B]``; with it the
            result has gradients. Compiled once for each function; arrays that change from call to
            call are arguments of a `jax.tree_util.Partial`.

        Returns
        -------
        QueriesKeys
            Queries and keys of every layer, from which any row of attention follows.

        Raises
        ------
        InputError
            As calling the model does, or if it is neither a `Decoder` nor a `Gpt2`.
        """
        return self._rows_of(tokens, mask, score, ())

    def _rows_of(self, tokens: Any, mask: Any, score: Any, dropped: tuple[str, ...]) -> QueriesKeys:
        self._check_decoder()
        self._check(tokens, {})
        if score is not None and not isinstance(score, jax.tree_util.Partial):
            score = jax.tree_util.Partial(score)
        return self._queries_keys({"params": self._rolled.params}, tokens, mask, score, dropped)

    def _check_decoder(self) -> None:
        if not isinstance(self.config, DecoderConfig | Gpt2Config):
            raise InputError(
                "queries and keys are returned by decoders such as Llama or GPT-2 alone, got "
                f"{type(self.config).__name__}: call the model, which returns its attention"
            )

    @cached_property
    def _embedding_gradients(self) -> Callable[..., tuple[jax.Array, jax.Array]]:
        module: Any = self._rolled.module

        def run(params: Any, tokens: jax.Array, score: Any) -> tuple[jax.Array, jax.Array]:
            embeddings = module.apply(params, tokens, method="embed")

            def explained(shift: jax.Array) -> jax.Array:
                found = module.apply(params, tokens, shift=shift, method="queries_keys")
                return jnp.asarray(score(found.logits))

            values, backward = jax.vjp(explained, jnp.zeros_like(embeddings))
            rows = jnp.eye(values.size, dtype=values.dtype).reshape(-1, *values.shape)
            return embeddings, jax.lax.map(lambda row: backward(row)[0], rows)

        return jax.jit(run)

    def embedding_gradients(
        self, tokens: Any, score: jax.tree_util.Partial
    ) -> tuple[jax.Array, jax.Array]:
        """Return a decoder's word embeddings and gradients at them, without building its attention.

        Parameters
        ----------
        tokens
            As the model is called, ``[B, n]``, all of them real.
        score
            From the logits ``[B, n, V]`` to the R numbers that are explained, ``[R]``.

        Returns
        -------
        tuple
            Embeddings ``[B, n, D]``, and the gradient of each number ``[R, B, n, D]``.

        Raises
        ------
        InputError
            As `queries_keys` does.
        """
        self._check_decoder()
        self._check(tokens, {})
        return self._embedding_gradients({"params": self._rolled.params}, tokens, score)

    def rollout_rows(
        self,
        tokens: Any,
        sources: Indices = -1,
        *,
        mask: Any = None,
        score: Callable[[Any], Any] | None = None,
        sinks: bool = True,
        **options: Any,
    ) -> jax.Array:
        """Return rows of a decoder's attention rollout, without building its attention.

        Parameters
        ----------
        tokens, mask
            As the model is called.
        sources
            Tokens whose rows to return, by default each text's last: an index, a sequence, or None
            for all, or where `weights` are given.
        score
            For attention × gradient (``edge="gradient"``), what is explained, as in `queries_keys`.
        sinks
            Whether the share of attention sinks is missing from the rows, or left out of the
            attention, whose rows then sum to 1 without it.
        **options
            As `jaxflow.rollout_rows` takes them: layers, residual, heads, edge, how, normalise.

        Returns
        -------
        array
            ``[B, L', S, n]``, the rows of `jaxflow.rollout` of the model's attention.

        Raises
        ------
        InputError
            As `queries_keys` and `jaxflow.rollout_rows` do.
        """
        norm = options.get("edge") == "norm"
        if norm and self.config.block.norm_branches and options.get("how", "rollout") != "rollout":
            raise InputError(
                "how must be rollout for norms of a model that normalises what attention adds, "
                "because only there rows are divided by their sum: or take jaxflow.models.trace"
            )
        idle = () if norm or score is not None else ("values",)
        found = self._rows_of(tokens, mask, score, ("hidden", "logits", *idle))
        layers = found.layers(sinks=sinks, projection=self.projections if norm else None)
        return jnp.asarray(rollout_rows(layers, sources, mask=found.mask, **options))

    def _check(self, tokens: Any, inputs: Mapping[str, Any]) -> None:
        self._check_range("tokens", tokens, "vocabulary")
        self._check_range("token_types", inputs.get("token_types"))

    def _check_range(self, name: str, numbers: Any, size: str = "token_types") -> None:
        # An index outside the table would silently give the last word.
        rows = getattr(self.config, size, None)
        if not rows or numbers is None or isinstance(numbers, jax.core.Tracer):
            return
        values = np.asarray(numbers)
        if values.size and not 0 <= values.min() <= values.max() < rows:
            raise InputError(
                f"{name} must be numbers from 0 to {rows - 1}, got {values.min()} to {values.max()}"
            )


def with_head(
    model: Model, head: Head, labels: Sequence[str] = (), seed: int = 0, **changes: Any
) -> Model:
    """Replace a model's head by a fresh one, for fine-tuning.

    Parameters
    ----------
    model
        Its encoder is kept, and those parameters of its head that fit the new one.
    head
        The new head.
    labels
        The classes' names, for ``classification``.
    seed
        Of the fresh parameters.
    **changes
        Other fields of the configuration, such as dropout rates.

    Returns
    -------
    Model
        A new model; the one given is not changed.

    Raises
    ------
    InputError
        If the model is an `AgreementEncoder`, the architecture has no such head, or a field is
        unknown or impossible.
    """
    if isinstance(model.config, EncoderConfig):
        raise InputError("an agreement encoder has its one head: train another model")
    if isinstance(model.config, BertConfig) and head != "none":
        changes["pooler"] = False  # a head has its own, or none
    changes = {"problem": None} | changes
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


def in_bfloat16(model: Model) -> Model:
    r"""Return the same model with parameters and activations in bfloat16.

    Softmax, the statistics of layer normalisation and the logits are computed in float32: attention
    is float32 with rows that sum to 1. Hidden states and value vectors are bfloat16.

    Parameters
    ----------
    model
        Any model of `jaxflow.models`.

    Notes
    -----
    With :math:`\epsilon_l` the largest :math:`\ell_1` distance between a row of layer l's fused
    attention and the same row of the float32 model, rows of **rollout** differ by at most
    :math:`(1 - r) \sum_l \epsilon_l` in :math:`\ell_1`: the product of matrices with rows that sum
    to 1 changes by no more than its factors do together. A value of **flow** is that of a cut, and
    changes by no more than all capacities together: :math:`(1 - r) \sum_l \sum_i \epsilon_{li}`,
    i the rows; mostly by far less. How large the distances are depends on the model.
    """
    return dataclasses.replace(model, params=lowered(model.params))


def lowered(params: Any) -> Any:
    """Return a tree of parameters with its floating-point numbers in bfloat16."""

    def lower(leaf: Any) -> Any:
        leaf = jnp.asarray(leaf)
        return leaf.astype(jnp.bfloat16) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf

    return jax.tree.map(lower, params)


class RolledEncoder(NamedTuple):
    """A model whose blocks run as one loop: the same numbers, a sixth of the program to compile.

    Compiling block after block takes several seconds on a CPU, too long to explain one sentence.

    Attributes
    ----------
    module
        The module whose blocks are one loop.
    params
        ``blocks``, a tree of ``[L, ...]``, and the other parameters by their own names.
    """

    module: nn.Module
    params: dict[str, Any]

    def embed(self, params: dict[str, Any], tokens: jax.Array) -> jax.Array:
        """Return the embeddings ``[B, n, D]`` of tokens ``[B, n]``; `params` as in `params`."""
        embedded: Any = self.module.apply({"params": params}, tokens, method="embed")
        return embedded

    def encode(
        self, params: dict[str, Any], embeddings: jax.Array, mask: jax.Array, **inputs: Any
    ) -> EncoderOutput:
        """Return what the module's ``encode`` does, of ``[B, n, D]`` and a mask ``[B, n]``."""
        given = {"params": params}, embeddings, mask
        output: Any = self.module.apply(*given, method="encode", **inputs)
        return output


def roll_up(config: ModelConfig, params: Any) -> RolledEncoder:
    """Stack the parameters of a model's blocks, on the host: nothing is compiled."""
    if isinstance(config, DecoderConfig):  # whose blocks are stacked as they are
        return RolledEncoder(make_module(config), params["params"])
    parts = jax.tree.map(np.asarray, params["params"])
    blocks = [parts.pop(f"blocks_{layer}") for layer in range(config.layers)]
    parts["blocks"] = jax.tree.map(lambda *leaves: np.stack(leaves), *blocks)
    return RolledEncoder(make_module(config, rolled=True), jax.device_put(parts))
