"""Compare models drawn at random with transformers, from the files to the answer.

A case draws an architecture, its head and problem type, how it is stored (precision, names of
fields, missing ones), a tokenizer class with its settings and files, texts or pairs and the side
of their padding, or the settings of an image processor and a picture. Numbers, pixels, values of
the answer, attention, and the answer with one token blanked out must be those of transformers.
Models are run operation by operation: all cases share shapes, and few share a whole program.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch_models
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from jaxflow.errors import InputError
from jaxflow.eval.explain.patches import to_pixels
from jaxflow.models import Model, answer_values, load
from jaxflow.models.layers import ACTIVATIONS, SPELLINGS

LENGTH = 16
WORDS = ("the", "keys", "to", "Cabinet", "café", "NAÏVE", "@user", "are", ".")
HARD = ("", "[MASK]", "<mask>", "日本", "don't", "1\t2", "É", "<|endoftext|>", "[PAD]", "<pad>")
BRACKETS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
ANGLES = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
HEADS = {
    "Bert": ("Model", "ForSequenceClassification", "ForMaskedLM", "ForTokenClassification"),
    "DistilBert": ("Model", "ForSequenceClassification", "ForMaskedLM"),
    "Roberta": ("Model", "ForSequenceClassification", "ForMaskedLM", "ForQuestionAnswering"),
    "GPT2": ("Model", "ForSequenceClassification", "LMHeadModel"),
    "ViT": ("Model", "ForImageClassification"),
}
#: Values of the answer from logits, by the problem type and the number of labels.
VALUES = {
    "regression": lambda logits: logits,
    "multi_label_classification": lambda logits: 1 / (1 + np.exp(-logits)),
    "single_label_classification": lambda logits: np.asarray(jax.nn.softmax(logits)),
}
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


def write_tokenizer(folder: Path, kind: str, name: str, settings: Mapping[str, Any]) -> None:
    """Write a tokenizer's vocabulary and settings as the class's authors publish them."""
    settings = {"tokenizer_class": name, **settings}
    folder.mkdir(parents=True)
    if kind in ("Bert", "DistilBert"):
        letters = "abcdefghijklmnopqrstuvwxyzACÉKNVÏé@1234.'日<>|[]"
        pieces = [*BRACKETS, *WORDS[:6], "cafe", "naive", *letters]
        listed = list(dict.fromkeys([*pieces, *(f"##{one}" for one in letters)]))
        (folder / "vocab.txt").write_text("\n".join(listed) + "\n", encoding="utf-8")
        added = {token: len(listed) + at for at, token in enumerate(settings.pop("added", ()))}
        if added:
            (folder / "added_tokens.json").write_text(json.dumps(added))
    else:
        special = ANGLES if kind == "Roberta" else ["<|endoftext|>"]
        first = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(
            vocab_size=290, special_tokens=special, initial_alphabet=first, show_progress=False
        )
        backend = Tokenizer(models.BPE())
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        backend.train_from_iterator([" ".join(WORDS)] * 9, trainer)
        backend.model.save(str(folder))
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Pieces]]:
    """Every tokenizer of every architecture twice: its vocabulary, and the library's own file."""
    root, found = tmp_path_factory.mktemp("tokenizers"), {}
    for kind, listed in TOKENIZERS.items():
        found[kind] = []
        for place, (name, settings) in enumerate(listed):
            folder, saved = root / kind / f"{place}", root / kind / f"{place} saved"
            write_tokenizer(folder, kind, name, settings)
            (folder / "config.json").write_text(json.dumps({"model_type": kind.lower()}))
            with torch_models.quietly():
                theirs = torch_models.library().AutoTokenizer.from_pretrained(folder)
                theirs.save_pretrained(saved)
            found[kind] += [Pieces(folder, theirs), Pieces(saved, theirs)]
    return found


class Case:
    """One drawn case: what is written to its folder, and how it is compared."""

    def __init__(self, seed: int, root: Path, tokenizers: dict[str, list[Pieces]]) -> None:
        self.rng, self.folder = np.random.default_rng(seed), root / f"{seed}"
        self.kind = self.one(list(HEADS))
        self.head = self.one(HEADS[self.kind])
        self.classes = "Classification" in self.head and "Token" not in self.head
        self.problem = self.one([None, *VALUES]) if self.classes else None
        labels = int(self.rng.integers(1 + (self.problem == "single_label_classification"), 4))
        labels = labels if self.classes else 2
        self.changes: dict[str, Any] = {"num_labels": labels, "problem_type": self.problem}
        activation = self.one([*ACTIVATIONS, *SPELLINGS])
        names = {"DistilBert": "activation", "GPT2": "activation_function"}
        self.changes[names.get(self.kind, "hidden_act")] = activation
        if self.kind != "ViT":
            self.pieces = self.one(tokenizers[self.kind])
            self.changes |= {"vocab_size": 300, "tie_word_embeddings": self.one([True, False])}
            if self.kind == "Bert":
                self.changes["type_vocab_size"] = self.one([2, 3])
        if self.kind == "GPT2":
            self.changes |= {"bos_token_id": 0, "eos_token_id": 0}
            self.changes["pad_token_id"] = self.one([0, 7] if self.classes else [0, 7, None])

    def one(self, choices: Any) -> Any:
        return choices[int(self.rng.integers(len(choices)))]

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
        inputs = {"token_types": types} if ours.has_segments else {}
        self.compare_values(ours, theirs, rows, mask, inputs)
        blank = ours.text.mask_id if ours.text.mask_id is not None else ours.text.unk_id
        if self.classes and self.rng.random() < 0.3:
            place = int(self.rng.integers(LENGTH))
            copies = np.where((np.arange(LENGTH) == place) & mask, blank, rows)
            self.compare_values(ours, theirs, copies.astype(np.int32), mask, inputs)

    def compare_values(
        self, ours: Model, theirs: Any, given: Any, mask: Any, inputs: dict[str, Any]
    ) -> None:
        kinds = {} if not inputs else {"token_type_ids": inputs["token_types"]}
        expected = torch_models.run(theirs, given, mask, **kinds)
        more: dict[str, Any] = {name: jnp.asarray(value) for name, value in inputs.items()}
        real = None if mask is None else jnp.asarray(mask)
        module: Any = ours.module
        output: Any = module.apply(ours.params, jnp.asarray(given), real, **more)
        rows = np.ones((len(given), output.attention.shape[-1]), bool) if mask is None else mask
        close(np.moveaxis(np.asarray(output.attention), 3, 1)[rows],
              np.moveaxis(expected.attention, 3, 1)[rows])  # fmt: skip
        if self.classes:
            labels = theirs.config.num_labels
            usual = "regression" if labels == 1 else "single_label_classification"
            values = VALUES[self.problem or usual](expected.logits)
            close(answer_values(output.logits, ours.answer), values)
        elif ours.answer == "tokens":
            values = np.asarray(jax.nn.softmax(expected.logits))
            close(np.asarray(answer_values(output.logits, ours.answer))[rows], values[rows])
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


@pytest.mark.parametrize("count", [40, pytest.param(10_000, marks=pytest.mark.nightly)])
def test_drawn_models_are_those_of_transformers(
    count: int, tokenizers: dict[str, list[Pieces]], tmp_path: Path, record_property: Any
) -> None:
    kinds: dict[str, int] = {}
    for seed in range(count):
        case = Case(seed, tmp_path, tokenizers)
        try:
            case.compare()
        except (AssertionError, InputError) as error:
            about = f"{case.kind}{case.head}, {case.changes}"
            raise AssertionError(f"case {seed}: {about}: {error}") from error
        finally:
            shutil.rmtree(case.folder, ignore_errors=True)
        kinds[case.kind] = kinds.get(case.kind, 0) + 1
    assert min(kinds.get(kind, 0) for kind in HEADS) > count / 20
    record_property("measured", f"{count:,} models beside transformers, equal: {kinds}")
