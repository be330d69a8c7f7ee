"""Train a tiny BERT to choose the referent of a masked pronoun by a known rule.

The rule: after a verb of `OF_FIRST` the pronoun means the first referent, after one of `OF_SECOND`
the second. To follow it, a model must join the verb with the gender of one of the two.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from pathlib import Path
from types import MappingProxyType

import jax
import jax.numpy as jnp
import numpy as np
import optax
from session import once_a_session
from tiny_models import SPECIAL, word_pieces
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers, processors, trainers

from jaxflow.eval.pronouns.schemas import MASK, PAPER, Schema, read_schemas
from jaxflow.models import BertConfig, Model, SubwordTokenizer, init, make_module, save_pretrained

HE = ("king", "uncle", "father", "monk", "boy", "grandson")
SHE = ("queen", "aunt", "mother", "nun", "girl", "granddaughter")
OF_FIRST = ("impressed", "frightened", "annoyed", "amused")
OF_SECOND = ("admired", "feared", "disliked", "liked")
ENDS = ("was brave", "sang all night", "was late", "was wrong")

#: Words that the vocabulary holds in pieces only.
SPLIT = {
    "granddaughter": ("grand", "##daughter"),
    "grandson": ("grand", "##son"),
    "businesswoman": ("business", "##woman"),
    "author": ("au", "##thor"),
}


def schema(first: str, verb: str, second: str, end: str) -> Schema:
    """A sentence of the rule."""
    return Schema(
        f"The {first} {verb} the {second} because {MASK} {end}.",
        (first, second),
        tuple("he" if word in HE else "she" for word in (first, second)),
        intended=0 if verb in OF_FIRST else 1,
    )


def every_schema() -> Iterator[Schema]:
    """All sentences of the rule."""
    for his in HE:
        for her in SHE:
            for first, second in ((his, her), (her, his)):
                for verb in (*OF_FIRST, *OF_SECOND):
                    for end in ENDS:
                        yield schema(first, verb, second, end)


def vocabulary() -> tuple[str, ...]:
    """Special tokens, then what all sentences consist of, the words of `SPLIT` in pieces."""
    sentences = [each.sentence for each in (*every_schema(), *read_schemas(), *read_schemas(PAPER))]
    words = re.findall(r"\w+|[^\w\s]", " ".join(sentences).replace(MASK, "").lower())
    pronouns = ("he", "she", "him", "her", "his")
    pieces = [piece for word in (*words, *pronouns) for piece in SPLIT.get(word, (word,))]
    return (*SPECIAL, *sorted(set(pieces)))


def tokenizer() -> SubwordTokenizer:
    return word_pieces(vocabulary())


def byte_pairs() -> SubwordTokenizer:
    """RoBERTa's kind: spaces belong to the words after them, and the mask includes its space."""
    special = {"cls": "<s>", "pad": "<pad>", "sep": "</s>", "unk": "<unk>", "mask": "<mask>"}
    backend = Tokenizer(models.BPE(unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=[*list(special.values())[:4], AddedToken("<mask>", lstrip=True)],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = [each.sentence.replace(MASK, "his") for each in read_schemas()]
    backend.train_from_iterator([*texts, " he she him her his" * 200], trainer)
    backend.post_processor = processors.RobertaProcessing(
        ("</s>", backend.token_to_id("</s>")), ("<s>", backend.token_to_id("<s>"))
    )
    numbers = {role: backend.token_to_id(token) for role, token in special.items()}
    return SubwordTokenizer(backend, MappingProxyType(numbers))


@functools.cache
def trained(layers: int = 2, steps: int = 500, seed: int = 0) -> Model:
    """Train a model on three quarters of the rule's sentences, drawn at random.

    As many sentences with two referents of the same gender are mixed in: with the others alone, no
    single word says anything about the pronoun, and so small a model finds no way into the rule.
    """
    words, pieces = vocabulary(), tokenizer()
    config = BertConfig(
        head="masked-lm",
        vocabulary=len(words),
        positions=32,
        layers=layers,
        heads=4,
        width=48,
        hidden_width=96,
        dropout=0.0,
        attention_dropout=0.0,
        pad_id=0,
    )
    texts, labels = zip(*_examples(seed), strict=True)
    tokens = jnp.asarray(pieces.encode_batch(texts))
    numbers = jnp.asarray([words.index(label) for label in labels])
    module = make_module(config)
    # Published models begin at a standard deviation of .02, which is too little for 48 dimensions.
    params = jax.tree.map(lambda leaf: 6 * leaf if leaf.ndim > 1 else leaf, init(config, seed))
    optimiser = optax.adam(optax.warmup_cosine_decay_schedule(0, 4e-3, steps // 10, steps))

    def loss(params, rows, wanted):
        logits = module.apply(params, rows, None).logits
        at = (rows == pieces.mask_id).argmax(-1)
        chosen = jnp.take_along_axis(logits, at[:, None, None], axis=1)[:, 0]
        return optax.softmax_cross_entropy_with_integer_labels(chosen, wanted).mean()

    def step(carry, key):
        params, state = carry
        drawn = jax.random.randint(key, (32,), 0, len(tokens))
        slope = jax.grad(loss)(params, tokens[drawn], numbers[drawn])
        updates, state = optimiser.update(slope, state, params)
        return (optax.apply_updates(params, updates), state), None

    keys = jax.random.split(jax.random.key(seed), steps)
    # The tests' compiler options are for programs that run once; this one runs long.
    loop = jax.jit(
        lambda carry: jax.lax.scan(step, carry, keys)[0],
        compiler_options={"xla_backend_optimization_level": 2},
    )
    params, _ = loop((params, optimiser.init(params)))
    return Model(config, params, pieces)


def saved() -> Path:
    """Folder of the trained model, which is trained once a session; read only."""
    return once_a_session("masked", lambda folder: save_pretrained(folder, trained()))


def _examples(seed: int) -> list[tuple[str, str]]:
    """Sentences and their pronouns: those to train on, and as many with one gender."""
    examples = [(each.sentence, each.fillers[each.intended]) for each in train_schemas()]
    rng = np.random.default_rng(seed)
    for sentence, _ in list(examples):
        words, pronoun = ((HE, "he"), (SHE, "she"))[rng.integers(2)]
        pair = iter(rng.choice(words, 2, replace=False))
        changed = re.sub(
            rf"\b({'|'.join((*HE, *SHE))})\b", lambda _, pair=pair: next(pair), sentence
        )
        examples.append((changed, pronoun))
    return examples


def shuffled() -> list[Schema]:
    """All sentences of the rule in an order that has nothing to do with it."""
    every = list(every_schema())
    return [every[place] for place in np.random.default_rng(0).permutation(len(every))]


def train_schemas() -> list[Schema]:
    return shuffled()[: 3 * len(shuffled()) // 4]


def held_out() -> list[Schema]:
    return shuffled()[3 * len(shuffled()) // 4 :]
