"""Compare word pieces from published tokenizer files with transformers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch_models

from jaxflow.errors import InputError
from jaxflow.models import SubwordTokenizer, read_tokenizer

TEXTS = (
    "",
    " ",
    "The keys to the cabinet",
    "  two  spaces ",
    "Café naïve Ångström ÅNGSTRÖM",
    "I'm, you're; they'd've 'tis",
    "smile \U0001f600 and \U0001f469\u200d\U0001f469\u200d\U0001f467 end",
    "\u6771\u4eac is Tokyo, \u65e5\u672c\u8a9e",
    "[MASK] and [mask], [SEP] [CLS]x",
    "the <mask>, a</s><s> b",
    "line\nbreak\r\nand\ttab",
    "x" * 150,
    "U\u0308nicode e\u0301 \u00a0nbsp\u200bzero",
    "3.5% of $1,000.00 (approx.)",
    "don't-stop...now!?",
    "\x00\x01control\ufffd",
    "<|endoftext|> end",
    "\u0130stanbul \u01c5 \u00df \ufb01",
    "\u0645\u0631\u062d\u0628\u0627 \u0928\u092e\u0938\u094d\u0924\u0947",
    "--- ___ ##x ##",
)
WORDS = b"[UNK]\n[CLS]\n[SEP]\n"
SPECIAL = {
    "gpt2": ["<|endoftext|>"],
    "roberta": ["<s>", "<pad>", "</s>", "<unk>", "<mask>"],
}
CLASSES = {"bert": "BertTokenizerFast", "gpt2": "GPT2TokenizerFast", "roberta": "RobertaTokenizer"}
MASK = {
    "__type": "AddedToken",
    "content": "<mask>",
    "lstrip": True,
    "rstrip": False,
    "normalized": False,
    "single_word": False,
}


@pytest.fixture(scope="module")
def write(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Write a small vocabulary of a kind, with the settings given, to a folder of its own."""

    def written(kind: str, **fields: Any) -> Path:
        folder = tmp_path_factory.mktemp(kind)
        if kind == "bert":
            shown = {sign for text in TEXTS for sign in text.lower() + text if not sign.isspace()}
            known = sorted(shown - set("\u6771\u0928\U0001f600"))
            pieces = [f"##{sign}" for sign in known if sign.isascii()]
            words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "The", "key", "##s"]
            listed = dict.fromkeys([*words, "cafe", "Café", "cabinet", *known, *pieces])
            (folder / "vocab.txt").write_text("\n".join(listed) + "\n", encoding="utf-8")
        else:
            from tokenizers import ByteLevelBPETokenizer

            trained = ByteLevelBPETokenizer()
            trained.train_from_iterator(
                [*TEXTS, *["the keys to the cabinet are here"] * 9],
                vocab_size=330,
                special_tokens=SPECIAL[kind],
                show_progress=False,
            )
            trained.save_model(str(folder))
        if fields:
            (folder / "tokenizer_config.json").write_text(json.dumps(fields))
        return folder

    return written


def assert_same_pieces(ours: SubwordTokenizer, theirs: Any) -> None:
    assert len(ours) == len(theirs)
    separator = theirs.sep_token or "no such token"
    for text in TEXTS:
        other = theirs(text, return_offsets_mapping=True)
        assert ours.encode(text) == other["input_ids"], text
        if separator in text:
            with pytest.raises(InputError, match=r"^a text must not hold the separator .* pair=$"):
                ours.read(text)
            continue
        read = ours.read(text)
        assert list(read.ids) == other["input_ids"]
        assert list(read.words) == other.word_ids(), text
        assert list(read.texts) == other.sequence_ids()
        assert list(read.spans) == [tuple(span) for span in other["offset_mapping"]], text
        assert list(read.tokens) == theirs.convert_ids_to_tokens(other["input_ids"]), text
        assert ours.decode(read.ids) == list(read.tokens)
    text, pair = TEXTS[2:4]
    read, other = ours.read(text, pair), theirs(text, pair, return_offsets_mapping=True)
    assert list(read.ids) == other["input_ids"]
    assert list(read.types) == other.get("token_type_ids", list(read.types))
    assert list(read.texts) == other.sequence_ids()
    assert list(read.spans) == [tuple(span) for span in other["offset_mapping"]]
    with pytest.raises(InputError, match=r"must be valid Unicode text$"):
        ours.read(text, "\ud83d")


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        ("bert", {}),
        ("bert", {"do_lower_case": False}),
        ("bert", {"do_lower_case": True, "strip_accents": False}),
        ("bert", {"do_lower_case": False, "strip_accents": True}),
        ("bert", {"tokenize_chinese_chars": False}),
        ("gpt2", {}),
        ("roberta", {"mask_token": MASK}),
        ("roberta", {"mask_token": MASK, "add_prefix_space": True}),
        ("roberta", {"mask_token": {**MASK, "lstrip": False}}),
    ],
    ids=str,
)
def test_pieces_are_those_of_transformers(
    kind: str, fields: dict[str, Any], write: Callable[..., Path], tmp_path: Path
) -> None:
    folder = write(kind, **fields)
    with torch_models.quietly():
        theirs = getattr(torch_models.library(), CLASSES[kind]).from_pretrained(folder)
        theirs.save_pretrained(tmp_path)
    assert (tmp_path / "tokenizer.json").is_file()
    for found in (folder, tmp_path):  # by its vocabulary, and by the file that says it all
        ours = read_tokenizer(found)
        assert ours is not None
        assert_same_pieces(ours, theirs)
        for role in ("pad", "cls", "sep", "mask", *(["unk"] if kind != "gpt2" else [])):
            assert getattr(ours, f"{role}_id") == getattr(theirs, f"{role}_token_id"), role


@pytest.fixture(scope="module")
def bert(write: Callable[..., Path]) -> SubwordTokenizer:
    found = read_tokenizer(write("bert"))
    assert found is not None
    return found


def test_batches_are_padded(bert: SubwordTokenizer) -> None:
    texts = ["the keys", "the", ""]
    batch = bert.encode_batch(texts)
    assert batch.dtype == np.int32
    assert batch.shape == (3, 5)
    for row, text in zip(batch, texts, strict=True):
        numbers = bert.encode(text)
        assert row.tolist() == numbers + [bert.pad_id] * (5 - len(numbers))
    np.testing.assert_array_equal(bert.encode_batch(texts, 7), np.pad(batch, ((0, 0), (0, 2))))
    assert bert.encode_batch([]).shape[0] == 0


def test_words_join_pieces_and_spans_find_them(bert: SubwordTokenizer) -> None:
    text = "The keys, the cafe"
    read = bert.read(text)
    assert read.tokens == ("[CLS]", "the", "key", "##s", ",", "the", "cafe", "[SEP]")
    assert read.words == (None, 0, 1, 1, 2, 3, 4, None)
    found = [text[slice(*span)] for span in read.spans]
    assert found == ["", "The", "key", "s", ",", "the", "cafe", ""]


def test_words_of_a_pair_are_counted_over_both_texts(bert: SubwordTokenizer) -> None:
    read = bert.read("The keys", "the cafe")
    assert read.tokens == ("[CLS]", "the", "key", "##s", "[SEP]", "the", "cafe", "[SEP]")
    assert read.words == (None, 0, 1, 1, None, 2, 3, None)
    assert read.texts == (None, 0, 0, 0, None, 1, 1, None)
    assert read.types == (0, 0, 0, 0, 0, 1, 1, 1)
    for texts in (("the [SEP] keys",), ("the", "[SEP]"), ("[SEP]", "the")):
        with pytest.raises(InputError, match=r"^a text must not hold the separator \[SEP\], "):
            bert.read(*texts)
    assert bert.read("[CLS] [PAD]").words == (None, 0, 1, None)


def test_what_is_too_long_is_not_cut(write: Callable[..., Path], bert: SubwordTokenizer) -> None:
    with pytest.raises(InputError, match=r"^texts must be at most 3 tokens .* got 5$"):
        bert.encode_batch(["the keys"], 3)
    # Not even where the file asks for it.
    from tokenizers import Tokenizer

    folder = write("bert")
    backend = Tokenizer.from_str(bert.backend.to_str())
    backend.enable_truncation(4)
    backend.enable_padding(length=9)
    backend.save(str(folder / "tokenizer.json"))
    again = read_tokenizer(folder)
    assert again is not None
    assert again.encode("the keys the keys") == bert.encode("the keys the keys")


def test_without_a_padding_token_texts_of_unequal_length_are_refused(
    write: Callable[..., Path],
) -> None:
    tokenizer = read_tokenizer(write("gpt2"))
    assert tokenizer is not None
    assert tokenizer.pad_id is None
    assert tokenizer.encode_batch(["the keys", "the keys"]).shape[0] == 2
    with pytest.raises(InputError, match=r"^texts must be of equal length .* no padding token"):
        tokenizer.encode_batch(["the keys", "the"])
    with pytest.raises(InputError, match=r"^texts must be of equal length"):
        tokenizer.encode_batch(["the keys"], 40)


def test_special_tokens_by_the_names_that_the_settings_give(write: Callable[..., Path]) -> None:
    folder = write("gpt2", pad_token="<|endoftext|>", unk_token={"content": "<|endoftext|>"})
    tokenizer = read_tokenizer(folder)
    assert tokenizer is not None
    assert tokenizer.pad_id == tokenizer.unk_id == 0
    assert tokenizer.mask_id is tokenizer.cls_id is tokenizer.sep_id is None


@pytest.mark.parametrize("number", [-1, 10_000])
def test_numbers_outside_the_vocabulary_are_refused(number: int, bert: SubwordTokenizer) -> None:
    with pytest.raises(InputError, match=f"^ids must be numbers of the vocabulary, got {number}$"):
        bert.decode([5, number])


def test_text_that_is_no_unicode_is_refused(bert: SubwordTokenizer) -> None:
    for call in (bert.encode, bert.read, lambda text: bert.encode_batch([text])):
        with pytest.raises(InputError, match=r"must be valid Unicode text$"):
            call("half \ud83d of an emoji")


@pytest.mark.parametrize(
    "files",
    [
        {"tokenizer.json": b""},
        {"tokenizer.json": b"[]"},
        {"tokenizer.json": b'{"model": {"type": "WordPiece"}}'},
        {"tokenizer.json": b"\xff\xfe"},
        {"vocab.txt": b""},
        {"vocab.txt": b"[PAD]\n[UNK]\n[CLS]\nthe\n"},
        {"vocab.txt": b"[PAD]\n[UNK]\n[CLS]\n[SEP]\n\xff\n"},
        {"vocab.json": b'{"a": 0}'},
        {"vocab.json": b'{"a": 0}', "merges.txt": b"#version: 0.2\na b c\n"},
        {"vocab.json": b'["a"]', "merges.txt": b"#version: 0.2\n"},
        {"vocab.json": b'{"a": "x"}', "merges.txt": b"#version: 0.2\n"},
        {"vocab.txt": WORDS, "tokenizer_config.json": b"["},
        {"vocab.txt": WORDS, "tokenizer_config.json": b"[]"},
        {"vocab.txt": WORDS, "tokenizer_config.json": b"[" * 100_000},
        {"vocab.txt": WORDS, "tokenizer_config.json": b'{"strip_accents": "yes"}'},
        {"vocab.txt": WORDS, "tokenizer_config.json": b'{"do_lower_case": "no"}'},
        {"vocab.txt": WORDS, "special_tokens_map.json": b"no"},
    ],
    ids=lambda files: str({name: content[:30] for name, content in files.items()}),
)
def test_damaged_files_are_refused(files: dict[str, bytes], tmp_path: Path) -> None:
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError) as caught:
        read_tokenizer(tmp_path)
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_tokenizer_without_a_token_for_the_unknown(
    write: Callable[..., Path], bert: SubwordTokenizer
) -> None:
    content = json.loads(bert.backend.to_str())
    content["model"]["unk_token"] = "[NONE]"
    folder = write("bert")
    (folder / "tokenizer.json").write_text(json.dumps(content))
    found = read_tokenizer(folder)
    assert found is not None
    assert found.encode("the keys") == bert.encode("the keys")
    for call in (found.encode, found.read, lambda text: found.encode_batch([text])):
        with pytest.raises(InputError, match=r"^the tokenizer cannot split the text: "):
            call("the \U0001f600")
