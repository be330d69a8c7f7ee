"""Compare models drawn at random with transformers, from the files to the answer.

A part draws one configuration of every architecture, head and problem type. Its cases, each a model
of its own, draw parameters, how they are stored (precision, names of fields, missing ones), a
tokenizer class with its settings and files, texts or pairs and the side of their padding, or the
settings of an image processor and a picture. Numbers, pixels, hidden states, attention and values
of the answer, with one token blanked out too, must be those of transformers. The cases of a
configuration share one compiled program, which is nearly all that a model costs here.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import torch_models
from PIL import Image
from torch_models import write_tokenizer

from jaxflow.errors import InputError
from jaxflow.eval.explain.patches import to_pixels
from jaxflow.models import Model, ViTConfig, answer_values, load
from jaxflow.models.layers import ACTIVATIONS, SPELLINGS
from jaxflow.models.model import ModelConfig, make_module

LENGTH = 16
WORDS = ("the", "keys", "to", "Cabinet", "café", "NAÏVE", "@user", "are", ".")
HARD = ("", "[MASK]", "<mask>", "日本", "don't", "1\t2", "É", "<|endoftext|>", "[PAD]", "<pad>")
SIGNS = "abcdefghijklmnopqrstuvwxyzACÉKNVÏé@1234.'日<>|[]"
CLASSIFIERS = ("ForSequenceClassification", "ForImageClassification")
HEADS = {
    "Bert": ("Model", "ForSequenceClassification", "ForMaskedLM", "ForTokenClassification"),
    "DistilBert": ("Model", "ForSequenceClassification", "ForMaskedLM"),
    "Roberta": ("Model", "ForSequenceClassification", "ForMaskedLM", "ForQuestionAnswering"),
    "GPT2": ("Model", "ForSequenceClassification", "LMHeadModel"),
    "ViT": ("Model", "ForImageClassification"),
}
#: Values of the answer from logits, by the problem type.
VALUES = {
    "regression": lambda logits: logits,
    "multi_label_classification": lambda logits: 1 / (1 + np.exp(-logits)),
    "single_label_classification": lambda logits: np.asarray(jax.nn.softmax(logits)),
}
#: A part's configurations: each head that classifies with every problem type, others twice.
CONFIGURATIONS = [
    (kind, head, problem)
    for kind, heads in HEADS.items()
    for head in heads
    for problem in ([None, *VALUES] if head.endswith(CLASSIFIERS) else [None, None])
]
#: Other sizes by the names of BERT, ViT and RoBERTa; one head, or five of another width.
SIZES: list[dict[str, Any]] = [
    {},
    {"num_attention_heads": 1, "hidden_size": 10, "num_hidden_layers": 1, "layer_norm_eps": 1e-3},
    {"num_attention_heads": 5, "hidden_size": 20, "num_hidden_layers": 3, "layer_norm_eps": 1e-5},
]
OTHER_NAMES = {
    "DistilBert": {
        "num_attention_heads": "n_heads", "hidden_size": "dim", "num_hidden_layers": "n_layers",
        "hidden_act": "activation",
    },
    "GPT2": {
        "num_attention_heads": "n_head", "hidden_size": "n_embd", "num_hidden_layers": "n_layer",
        "hidden_act": "activation_function", "layer_norm_eps": "layer_norm_epsilon",
    },
}  # fmt: skip
#: Tokenizers by the architecture: the class, and settings of which a case takes some.
TOKENIZERS: dict[str, list[tuple[str, dict[str, Any]]]] = {
    "Bert": [
        ("BertTokenizer", {}),
        ("BertTokenizer", {"do_lower_case": False}),
        ("BertTokenizerFast", {"do_lower_case": True, "strip_accents": False}),
        ("BertTokenizer", {"tokenize_chinese_chars": False}),
        ("ElectraTokenizer", {}),
        ("BertTokenizer", {"added": ["@user"]}),
    ],
    "DistilBert": [
        ("DistilBertTokenizer", {}),
        ("DistilBertTokenizerFast", {"do_lower_case": False}),
    ],
    "Roberta": [("RobertaTokenizer", {}), ("RobertaTokenizerFast", {"add_prefix_space": True})],
    "GPT2": [
        ("GPT2Tokenizer", {}),
        ("GPT2TokenizerFast", {"add_bos_token": True}),
        ("GPT2Tokenizer", {"add_prefix_space": True, "pad_token": "<|endoftext|>"}),
    ],
}


@dataclasses.dataclass
class Pieces:
    """A tokenizer's folder and the other library's reading of it."""

    folder: Path
    theirs: Any


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Pieces]]:
    """Every tokenizer of every architecture twice: its vocabulary, and the library's own file."""
    root, found = tmp_path_factory.mktemp("tokenizers"), {}
    for kind, listed in TOKENIZERS.items():
        found[kind] = []
        for place, (name, settings) in enumerate(listed):
            folder, saved = root / kind / f"{place}", root / kind / f"{place} saved"
            settings = {"tokenizer_class": name, **settings}
            added, pieces = settings.pop("added", ()), (*WORDS, "cafe", "naive")
            write_tokenizer(folder, kind.lower(), [SIGNS], pieces, settings, added)
            theirs = torch_models.read_auto_tokenizer(folder)
            theirs.save_pretrained(saved)
            found[kind] += [Pieces(folder, theirs), Pieces(saved, theirs)]
    return found


@functools.cache
def program(config: ModelConfig) -> Callable[..., Any]:
    """Return the compiled program of a configuration: the model's output, values of its answer."""

    def run(params: Any, *inputs: Any, **more: Any) -> Any:
        output: Any = make_module(config).apply(params, *inputs, **more)
        known = config.answer != "none"
        return output, answer_values(output.logits, config.answer) if known else None

    return jax.jit(run)


class Draw:
    """A generator of random choices."""

    def __init__(self, *seed: int) -> None:
        self.rng = np.random.default_rng(seed)

    def one(self, choices: Any) -> Any:
        return choices[int(self.rng.integers(len(choices)))]


def draw_changes(part: int, place: int) -> dict[str, Any]:
    """Draw one of a part's configurations, as what differs from the tiniest sizes."""
    (kind, head, problem), draw = CONFIGURATIONS[place], Draw(part, place)
    activations = [*ACTIVATIONS, *SPELLINGS]
    counts = [2, 3] if problem == "single_label_classification" else [1, 2, 3]
    changes = {
        "num_labels": draw.one(counts) if head.endswith(CLASSIFIERS) else 2,
        "problem_type": problem,
        "hidden_act": activations[(part + place) % len(activations)],
        **draw.one(SIZES),
    }
    if kind != "ViT":
        changes |= {"vocab_size": 300, "tie_word_embeddings": place % 2 == 0}
    if kind == "Bert":
        changes["type_vocab_size"] = draw.one([2, 3])
    if kind == "GPT2":
        pads = [0, 7] if head.endswith(CLASSIFIERS) else [0, 7, None]
        changes |= {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": draw.one(pads)}
    names = OTHER_NAMES.get(kind, {})
    return {names.get(name, name): value for name, value in changes.items()}


class Case(Draw):
    """One drawn case: what is written to its folder, and how it is compared."""

    def __init__(
        self, part: int, number: int, root: Path, tokenizers: dict[str, list[Pieces]]
    ) -> None:
        place = number % len(CONFIGURATIONS)
        super().__init__(part, place, number)
        self.kind, self.head, self.problem = CONFIGURATIONS[place]
        self.folder, self.changes = root / f"{number}", draw_changes(part, place)
        if self.kind != "ViT":
            self.pieces = self.one(tokenizers[self.kind])

    def write(self) -> Any:
        """Write the model's files, and return the other library's model in float32."""
        import torch

        name = f"{self.kind}{self.head}"
        theirs = torch_models.random_model(name, self.changes, int(self.rng.integers(1 << 30)))
        theirs = theirs.to(getattr(torch, self.one(["float32", "float16", "bfloat16"])))
        torch_models.write(theirs, self.folder)
        path = self.folder / "config.json"
        fields = json.loads(path.read_text())
        other = {mine: alias for alias, mine in type(theirs.config).attribute_map.items()}
        for field in other.keys() & fields.keys():
            if self.one([True, False]):
                fields[other[field]] = fields.pop(field)
        if "Token" not in self.head and "Question" not in self.head and self.one([True, False]):
            del fields["architectures"]
        path.write_text(json.dumps(fields))
        return theirs.float()

    def compare(self) -> None:
        theirs = self.write()
        if self.kind == "ViT":
            self.write_processor()
        else:
            for file in self.pieces.folder.iterdir():
                if file.name != "config.json":
                    shutil.copy(file, self.folder)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of heads that are not read
            ours = load(self.folder)
        if self.kind == "ViT":
            self.compare_values(ours, theirs, self.picture(ours), None, {})
        else:
            self.compare_texts(ours, theirs)

    def text(self) -> str:
        words = [self.one(WORDS) if self.rng.random() < 0.8 else self.one(HARD) for _ in range(4)]
        return " ".join(words[: int(self.rng.integers(1, 4))])

    def compare_texts(self, ours: Model, theirs: Any) -> None:
        tokenizer, left = self.pieces.theirs, self.one([True, False])
        rows = np.full((2, LENGTH), theirs.config.pad_token_id or 0, np.int32)
        types, mask = np.zeros((2, LENGTH), int), np.zeros((2, LENGTH), bool)
        for row in range(2):
            while True:
                given = [self.text() for _ in range(self.one([1, 2]))]
                expected = tokenizer(*given)
                if given[-1] and 0 < (n := len(expected["input_ids"])) <= LENGTH:
                    break
            read = ours.text.read(*given)
            assert list(read.ids) == expected["input_ids"], given
            assert list(read.types) == expected.get("token_type_ids", [0] * n), given
            place = slice(LENGTH - n, None) if left else slice(0, n)
            rows[row, place], types[row, place], mask[row, place] = read.ids, read.types, True
        # Two more rows: the same texts with a token of each blanked out.
        known, other = ours.text, tokenizer
        blank = known.mask_id if known.mask_id is not None else known.unk_id
        assert blank == (other.unk_token_id if other.mask_token_id is None else other.mask_token_id)
        places = [[self.one(np.flatnonzero(real))] for real in mask]
        copies = np.where(np.arange(LENGTH) == places, blank, rows)
        rows = np.concatenate([rows, copies.astype(np.int32)])
        types, mask = np.tile(types, (2, 1)), np.tile(mask, (2, 1))
        inputs = {"token_types": types} if ours.has_segments else {}
        self.compare_values(ours, theirs, rows, mask, inputs)

    def compare_values(
        self, ours: Model, theirs: Any, given: Any, mask: Any, inputs: dict[str, Any]
    ) -> None:
        kinds = {} if not inputs else {"token_type_ids": inputs["token_types"]}
        expected = torch_models.run(theirs, given, mask, **kinds)
        config = ours.config
        if isinstance(config, ViTConfig):  # its processor's settings are not of the program
            settings = ("mean", "std", "scale", "resize", "crop", "resample")
            usual = {name: getattr(ViTConfig, name) for name in settings}
            config = dataclasses.replace(config, **usual)
        output, found = program(config)(ours.params, given, mask, **inputs)
        rows = np.ones((len(given), output.attention.shape[-1]), bool) if mask is None else mask
        for mine, other, axis in (
            (output.attention, expected.attention, 3),
            (output.hidden, expected.hidden, 2),
        ):
            close(np.moveaxis(np.asarray(mine), axis, 1)[rows], np.moveaxis(other, axis, 1)[rows])
        if self.kind in ("Bert", "Roberta") and expected.pooled is not None:
            close(output.pooled, expected.pooled)
        if self.head.endswith(CLASSIFIERS):
            default = "regression" if theirs.num_labels == 1 else "single_label_classification"
            values, told = (
                VALUES[self.problem or default](expected.logits),
                np.ones(len(given), bool),
            )
            if self.kind == "GPT2":  # not a text of padding tokens alone, padded on the left
                told = mask[:, 0] | (mask & (given != theirs.config.pad_token_id)).any(1)
            close(np.asarray(found)[told], values[told])
        elif self.head.endswith(("MaskedLM", "LMHeadModel")):
            close(np.asarray(found)[rows], np.asarray(jax.nn.softmax(expected.logits))[rows])
        else:
            assert ours.answer == "none"

    def write_processor(self) -> None:
        square = {"height": 8, "width": 12}
        self.settings: dict[str, Any] = {
            "image_processor_type": f"{self.one(['ViT', 'DeiT', 'CLIP'])}ImageProcessor",
            "do_normalize": self.one([True, False]),
            "do_rescale": self.one([True, True, False]),
            "rescale_factor": self.one([1 / 255, 1 / 127.5]),
            "resample": int(self.rng.integers(6)),
            "image_mean": [float(value) for value in self.rng.random(3)],
            "image_std": [float(value) for value in 0.2 + self.rng.random(3)],
        }
        if cut := self.one([True, False]):
            sizes = [square, {"shortest_edge": 13}, {"height": 9, "width": 15}]
            self.settings |= {"size": self.one(sizes), "crop_size": square}
        else:
            self.settings["size"] = square
        self.settings |= {"do_center_crop": cut, "do_resize": not cut or self.one([True, False])}
        (self.folder / "preprocessor_config.json").write_text(json.dumps(self.settings))

    def picture(self, ours: Model) -> np.ndarray:
        """Return a picture's pixels, the same in both."""
        height, width = self.rng.integers(6, 40, 2)
        drawn = self.rng.integers(0, 256, (height, width, 3)).astype(np.uint8)
        name = self.settings["image_processor_type"]
        options = {
            key: value for key, value in self.settings.items() if key != "image_processor_type"
        }
        processor = getattr(torch_models.library(), f"{name}Pil")(**options)
        expected = processor(Image.fromarray(drawn), return_tensors="np")["pixel_values"][0]
        pixels = to_pixels(drawn, ours.config)  # type: ignore[arg-type]
        close(pixels, expected.transpose(1, 2, 0))
        return pixels[None] / max(1.0, float(np.abs(pixels).max()))


def close(mine: Any, other: Any) -> None:
    np.testing.assert_allclose(np.asarray(mine), other, rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize(
    ("part", "count"),
    [(0, 300), *(pytest.param(part, 500, marks=pytest.mark.nightly) for part in range(1, 21))],
)
def test_drawn_models_are_those_of_transformers(
    part: int,
    count: int,
    tokenizers: dict[str, list[Pieces]],
    tmp_path: Path,
    record_property: Any,
) -> None:
    kinds = dict.fromkeys(HEADS, 0)
    for number in range(count):
        case = Case(part, number, tmp_path, tokenizers)
        try:
            case.compare()
        except (AssertionError, InputError) as error:
            about = f"{case.kind}{case.head}, {case.changes}"
            raise AssertionError(f"case {part}/{number}: {about}: {error}") from error
        finally:
            shutil.rmtree(case.folder, ignore_errors=True)
        kinds[case.kind] += 1
    program.cache_clear()
    record_property("measured", f"{count:,} models beside transformers, equal: {kinds}")
