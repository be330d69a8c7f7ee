"""Compare word pieces from published tokenizer files with transformers."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch_models
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from torch_models import ANGLES, read_auto_tokenizer, write_tokenizer

from jaxflow.errors import InputError
from jaxflow.models import SubwordTokenizer, read_tokenizer, subword

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
    "the  <mask>, a</s><s> b",
    "line\nbreak\r\nand\ttab",
    "x" * 150,
    "U\u0308nicode e\u0301 \u00a0nbsp\u200bzero",
    "3.5% of $1,000.00 (approx.)",
    "\x00\x01control\ufffd",
    "<|endoftext|> end",
    "\u0130stanbul \u01c5 \u00df \ufb01",
    "\u0645\u0631\u062d\u0628\u0627 \u0928\u092e\u0938\u094d\u0924\u0947",
    "--- ___ ##x ##",
    "the @user is, [SPEAKER] @users",
)
WORDS = ("the", "The", "key", "##s", "cafe", "Café", "cabinet")
TOKEN = dict.fromkeys(("lstrip", "rstrip", "normalized", "single_word", "special"), False)
MASK = {**TOKEN, "__type": "AddedToken", "content": "<mask>", "lstrip": True}
#: Model type, settings, and the tokens of added_tokens.json.
CASES: list[tuple[str, dict[str, Any], tuple[str, ...]]] = [
    ("bert", {}, ()),
    ("bert", {"do_lower_case": False}, ()),
    ("bert", {"do_lower_case": True, "strip_accents": False}, ()),
    ("bert", {"do_lower_case": False, "strip_accents": True}, ()),
    ("bert", {"tokenize_chinese_chars": False}, ()),
    ("bert", {"tokenizer_class": "DistilBertTokenizer", "do_lower_case": False}, ()),
    ("bert", {"tokenizer_class": "ElectraTokenizerFast"}, ()),
    ("bert", {}, ("@user", "[SPEAKER]")),
    ("bert", {"added_tokens_decoder": {"0": {**TOKEN, "content": "@user"}}}, ()),
    ("gpt2", {}, ()),
    ("gpt2", {"add_bos_token": True}, ()),
    ("gpt2", {"add_prefix_space": True, "pad_token": "<|endoftext|>"}, ()),
    ("roberta", {}, ()),
    ("roberta", {"mask_token": MASK, "add_prefix_space": True}, ()),
    ("roberta", {"mask_token": {**MASK, "lstrip": False}}, ()),
]


@pytest.fixture(scope="module")
def write(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Write a small vocabulary of a kind of model, with the settings given, to its own folder."""

    def written(kind: str, *, added: tuple[str, ...] = (), **fields: Any) -> Path:
        folder = tmp_path_factory.mktemp(kind)
        write_tokenizer(folder, kind, TEXTS, WORDS, fields, added)
        return folder

    return written


def assert_same_pieces(ours: SubwordTokenizer | None, theirs: Any) -> None:
    assert ours is not None
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
        assert list(read.spans) == [tuple(span) for span in other["offset_mapping"]], text
        assert list(read.tokens) == theirs.convert_ids_to_tokens(other["input_ids"]), text
        assert ours.decode(read.ids) == list(read.tokens)
    read, other = ours.read(*TEXTS[2:4]), theirs(*TEXTS[2:4], return_offsets_mapping=True)
    assert list(read.ids) == other["input_ids"]
    types = theirs._tokenizer.encode(*TEXTS[2:4]).type_ids  # of the template
    none = type(theirs).__name__ in ("DistilBertTokenizer", "GPT2Tokenizer", "RobertaTokenizer")
    assert list(read.types) == other.get("token_type_ids", [0] * len(types) if none else types)
    assert list(read.texts) == other.sequence_ids()
    assert list(read.spans) == [tuple(span) for span in other["offset_mapping"]]
    for role in subword.ROLES:
        assert getattr(ours, f"{role}_id") == getattr(theirs, f"{role}_token_id"), role


@pytest.mark.parametrize(("kind", "fields", "added"), CASES, ids=str)
def test_pieces_are_those_of_transformers(
    kind: str,
    fields: dict[str, Any],
    added: tuple[str, ...],
    write: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """By its vocabulary, which they convert, and by the file that says it all, without them."""
    folder = write(kind, added=added, **fields)
    theirs = read_auto_tokenizer(folder)
    assert_same_pieces(read_tokenizer(folder), theirs)
    with torch_models.quietly():
        theirs.save_pretrained(tmp_path)
    (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
    monkeypatch.setitem(sys.modules, "transformers", None)
    assert_same_pieces(read_tokenizer(tmp_path), theirs)
    with pytest.raises(InputError, match=r"must be converted, as it has vocab\.(txt|json) and no "):
        read_tokenizer(folder)


@pytest.mark.parametrize(
    ("kind", "name", "special"),
    [
        ("xlm-roberta", "XLMRobertaTokenizer", ANGLES),
        ("albert", "AlbertTokenizer", ["<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]"]),
    ],
)
def test_sentencepiece_of_a_file_of_theirs(
    kind: str, name: str, special: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = Tokenizer(models.Unigram())
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.train_from_iterator(
        [*TEXTS, *["the keys to the cabinet are here"] * 9],
        trainers.UnigramTrainer(
            vocab_size=200, special_tokens=special, unk_token="<unk>", show_progress=False
        ),
    )
    pieces = [tuple(piece) for piece in json.loads(backend.to_str())["model"]["vocab"]]
    with torch_models.quietly():
        getattr(torch_models.library(), name)(vocab=pieces).save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": kind}))
    theirs = read_auto_tokenizer(tmp_path)
    monkeypatch.setitem(sys.modules, "transformers", None)
    assert_same_pieces(read_tokenizer(tmp_path), theirs)


@pytest.mark.parametrize(
    ("kind", "changes", "named"),
    [
        ("bert", {"do_lower_case": False}, "do_lower_case"),
        ("bert", {"strip_accents": False}, "strip_accents"),
        ("bert", {"tokenize_chinese_chars": False}, "tokenize_chinese_chars"),
        ("bert", {"added_tokens_decoder": {"0": {**TOKEN, "content": "@user"}}}, "token @user"),
        ("gpt2", {"add_prefix_space": True}, "add_prefix_space"),
        ("gpt2", {"add_bos_token": True}, "add_bos_token"),
        ("roberta", {"mask_token": MASK}, "token <mask>"),
    ],
)
def test_settings_that_change_the_file_are_followed(
    kind: str,
    changes: dict[str, Any],
    named: str,
    write: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """By the library whose settings they are, or refused by the setting's name."""
    folder = write(kind, **changes)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    with torch_models.quietly():
        read_auto_tokenizer(write(kind)).save_pretrained(folder)
    saved = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(saved | settings))
    assert_same_pieces(read_tokenizer(folder), read_auto_tokenizer(folder))
    monkeypatch.setitem(sys.modules, "transformers", None)
    message = f"tokenizer.json has another {named} than its settings: install transformers"
    with pytest.raises(InputError, match=message):
        read_tokenizer(folder)


def test_what_splits_text_in_python_is_refused(tmp_path: Path) -> None:
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "\u79c1", "\u306f"]
    (tmp_path / "vocab.txt").write_text("\n".join(words) + "\n", encoding="utf-8")
    name = {"model_type": "bert", "tokenizer_class": "BertJapaneseTokenizer"}
    (tmp_path / "config.json").write_text(json.dumps(name))
    split = {"word_tokenizer_type": "basic", "subword_tokenizer_type": "character"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(name | split))
    for _ in range(2):
        with pytest.raises(InputError, match=r"BertJapaneseTokenizer splits text in Python and "):
            read_tokenizer(tmp_path)
        (tmp_path / "tokenizer.json").write_text(Tokenizer(models.BPE()).to_str())


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


def test_words_of_a_pair_are_counted_over_both_texts(bert: SubwordTokenizer) -> None:
    read = bert.read("The keys", "the cafe")
    assert read.tokens == ("[CLS]", "the", "key", "##s", "[SEP]", "the", "cafe", "[SEP]")
    assert read.words == (None, 0, 1, 1, None, 2, 3, None)
    assert read.texts == (None, 0, 0, 0, None, 1, 1, None)
    assert read.types == (0, 0, 0, 0, 0, 1, 1, 1)
    assert read.spans[5:7] == ((0, 3), (4, 8))
    for texts in (("the [SEP] keys",), ("the", "[SEP]"), ("[SEP]", "the")):
        with pytest.raises(InputError, match=r"^a text must not hold the separator \[SEP\], "):
            bert.read(*texts)
    assert bert.read("[CLS] [PAD]").words == (None, 0, 1, None)


def test_what_is_too_long_is_not_cut(bert: SubwordTokenizer, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^texts must be at most 3 tokens .* got 5$"):
        bert.encode_batch(["the keys"], 3)
    # Not even where the file asks for it.
    backend = Tokenizer.from_str(bert.backend.to_str())
    backend.enable_truncation(4)
    backend.enable_padding(length=9)
    backend.save(str(tmp_path / "tokenizer.json"))
    again = read_tokenizer(tmp_path)
    assert again is not None
    assert again.encode("the keys the keys") == bert.encode("the keys the keys")


def test_without_a_padding_token_texts_of_unequal_length_are_refused(
    write: Callable[..., Path],
) -> None:
    tokenizer = read_tokenizer(write("gpt2"))
    assert tokenizer is not None
    assert (tokenizer.pad_id, tokenizer.unk_id) == (None, 0)  # the class's unknown token
    assert tokenizer.encode_batch(["the keys", "the keys"]).shape[0] == 2
    for texts, length in ((["the keys", "the"], None), (["the keys"], 40)):
        with pytest.raises(InputError, match=r"^texts must be of equal length .* no padding token"):
            tokenizer.encode_batch(texts, length)


@pytest.mark.parametrize("number", [-1, 10_000])
def test_numbers_outside_the_vocabulary_are_refused(number: int, bert: SubwordTokenizer) -> None:
    with pytest.raises(InputError, match=f"^ids must be numbers of the vocabulary, got {number}$"):
        bert.decode([5, number])


def test_text_that_is_no_unicode_is_refused(bert: SubwordTokenizer) -> None:
    for call in (
        bert.encode, bert.read, lambda text: bert.encode_batch([text]),
        lambda text: bert.read("the", text),
    ):  # fmt: skip
        with pytest.raises(InputError, match=r"must be valid Unicode text$"):
            call("half \ud83d of an emoji")


WHOLE = Tokenizer(models.WordLevel({"[UNK]": 0, "the": 1}, unk_token="[UNK]")).to_str().encode()


@pytest.mark.parametrize(
    "files",
    [
        {"tokenizer.json": b""},
        {"tokenizer.json": b'{"model": {"type": "WordPiece"}}'},
        {"tokenizer.json": b"\xff\xfe"},
        {"vocab.txt": b"\xff"},
        {"vocab.json": b'{"a": 0}'},
        {"vocab.json": b'{"a": 0}', "merges.txt": b"#version: 0.2\na b c\n"},
        {"tokenizer.json": WHOLE, "tokenizer_config.json": b"["},
        {"tokenizer.json": WHOLE, "tokenizer_config.json": b'{"split_special_tokens": "no"}'},
        {"tokenizer.json": WHOLE, "tokenizer_config.json": b'{"added_tokens_decoder": [1]}'},
        {"tokenizer.json": WHOLE, "tokenizer_config.json": b'{"unk_token": 3}'},
        {"tokenizer.json": WHOLE, "special_tokens_map.json": b"no"},
    ],
    ids=lambda files: str({name: content[:30] for name, content in files.items()}),
)
def test_damaged_files_are_refused(files: dict[str, bytes], tmp_path: Path) -> None:
    for name, content in {"config.json": b'{"model_type": "gpt2"}', **files}.items():
        (tmp_path / name).write_bytes(content)
    if files.get("tokenizer.json") == WHOLE:
        (tmp_path / "config.json").unlink()
    with pytest.raises(InputError) as caught:
        read_tokenizer(tmp_path)
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_tokenizer_without_a_token_for_the_unknown(
    bert: SubwordTokenizer, tmp_path: Path
) -> None:
    content = json.loads(bert.backend.to_str())
    content["model"]["unk_token"] = "[NONE]"
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    found = read_tokenizer(tmp_path)
    assert found is not None
    assert found.encode("the keys") == bert.encode("the keys")
    for call in (found.encode, found.read, lambda text: found.encode_batch([text])):
        with pytest.raises(InputError, match=r"^the tokenizer cannot split the text: "):
            call("the \U0001f600")
