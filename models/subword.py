"""Encode text to word pieces and back, by the tokenizer files of published models."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from jaxflow.errors import InputError
from jaxflow.models.tokenizer import Pieces, stack

#: Special tokens by what they are for, and the names that they usually have.
ROLES = {
    "pad": ("[PAD]", "<pad>"),
    "unk": ("[UNK]", "<unk>"),
    "cls": ("[CLS]", "<s>"),
    "sep": ("[SEP]", "</s>"),
    "mask": ("[MASK]", "<mask>"),
}


@dataclasses.dataclass(frozen=True, eq=False)
class SubwordTokenizer:
    """A tokenizer of the ``tokenizers`` library, with special tokens by what they are for.

    Attributes
    ----------
    backend
        The ``tokenizers.Tokenizer``, without truncation and padding.
    special
        ``pad``, ``unk``, ``cls``, ``sep`` and ``mask``, where there is one -> its number.
    segments
        Whether the tokens of a pair have the segments of its template, else 0.
    """

    backend: Any
    special: Mapping[str, int]
    segments: bool = True

    def __repr__(self) -> str:
        return f"SubwordTokenizer({len(self):,} entries, special={dict(self.special)})"

    def __len__(self) -> int:
        return int(self.backend.get_vocab_size(with_added_tokens=True))

    @property
    def largest_id(self) -> int:
        """The largest number of an entry; -1 where there is none."""
        return max(self.backend.get_vocab(with_added_tokens=True).values(), default=-1)

    @property
    def pad_id(self) -> int | None:
        """Number of the padding token; this and the others are None where there is none."""
        return self.special.get("pad")

    @property
    def unk_id(self) -> int | None:
        """Number of the token for what the vocabulary lacks."""
        return self.special.get("unk")

    @property
    def cls_id(self) -> int | None:
        """Number of the token that a text begins with."""
        return self.special.get("cls")

    @property
    def sep_id(self) -> int | None:
        """Number of the token that a text ends with."""
        return self.special.get("sep")

    @property
    def mask_id(self) -> int | None:
        """Number of the mask token."""
        return self.special.get("mask")

    def encode(self, text: str) -> list[int]:
        """Return a text's numbers, special tokens included."""
        return list(self._split([text])[0].ids)

    def encode_batch(self, texts: Sequence[str], length: int | None = None) -> np.ndarray:
        """Encode texts to int32 ``[B, n]``, padded to `length` or to the longest.

        Raises
        ------
        InputError
            If a text is longer than `length`, or they differ and there is no padding token.
        """
        return stack([found.ids for found in self._split(texts)], length, self.pad_id)

    def decode(self, ids: Iterable[int]) -> list[str]:
        """Return the vocabulary's entries of the numbers.

        Raises
        ------
        InputError
            If a number is outside the vocabulary.
        """
        tokens = []
        for number in ids:
            token = self.backend.id_to_token(int(number)) if int(number) >= 0 else None
            if token is None:
                raise InputError(f"ids must be numbers of the vocabulary, got {int(number)}")
            tokens.append(token)
        return tokens

    def read(self, text: str, pair: str | None = None) -> Pieces:
        """Return the tokens of a text or a pair, with the words and places they come from.

        Words are what the tokenizer splits into pieces: a punctuation mark is one of its own.

        Parameters
        ----------
        text
            The text, or the first of two.
        pair
            The second text: the tokenizer's template joins them and gives them their segments.

        Raises
        ------
        InputError
            If a text holds the separator, which does not tell the model that two texts begin and
            end there, or is not valid Unicode.
        """
        (found,) = self._split([text if pair is None else (text, pair)])
        of_texts, written = (
            found.sequence_ids,
            zip(found.ids, found.special_tokens_mask, strict=True),
        )
        if (self.sep_id, 0) in written:
            raise InputError(
                f"a text must not hold the separator {self.decode([self.sep_id or 0])[0]}, which "
                "alone does not make it two texts: give the second one as pair="
            )
        first = [word for word, place in zip(found.word_ids, of_texts, strict=True) if place == 0]
        begin = 1 + max((word for word in first if word is not None), default=-1)
        words = [
            word if word is None or place == 0 else begin + word
            for word, place in zip(found.word_ids, of_texts, strict=True)
        ]
        return Pieces(
            ids=tuple(found.ids),
            # The entries, not the text found: a token may include a space that its name has not.
            tokens=tuple(self.decode(found.ids)),
            words=tuple(words),
            spans=tuple(found.offsets),
            texts=tuple(of_texts),
            types=tuple(found.type_ids) if self.segments else (0,) * len(found.ids),
        )

    def _split(self, texts: Sequence[str | tuple[str, str]]) -> list[Any]:
        for text in texts:
            _check_text(text)
        try:
            if len(texts) == 1:  # no threads for one
                (text,) = texts
                return [self.backend.encode(*((text,) if isinstance(text, str) else text))]
            return list(self.backend.encode_batch(texts))
        except BaseException as error:  # such as a vocabulary without a token for unknown words
            _reraise(error)
            raise InputError(f"the tokenizer cannot split the text: {error}") from error


def read_tokenizer(folder: Path) -> SubwordTokenizer | None:
    """Read the tokenizer of a published model; None where its folder holds none.

    Parameters
    ----------
    folder
        With ``tokenizer.json``, else ``vocab.txt`` (BERT's word pieces), else ``vocab.json`` and
        ``merges.txt`` (GPT-2's); ``tokenizer_config.json`` and ``special_tokens_map.json`` name
        the special tokens where they differ from the usual.

    Raises
    ------
    InputError
        If a file is no tokenizer's.
    """
    settings = {
        **_settings(folder / "special_tokens_map.json"),
        **_settings(folder / "tokenizer_config.json"),
    }
    file = next(
        (
            folder / name
            for name in ("tokenizer.json", "vocab.txt", "vocab.json")
            if (folder / name).is_file()
        ),
        None,
    )
    if file is None:
        return None
    try:
        if file.name == "tokenizer.json":
            from tokenizers import Tokenizer

            backend = Tokenizer.from_file(str(file))
        elif file.name == "vocab.txt":
            backend = _word_pieces(file, settings)
        else:
            backend = _byte_pairs(file, settings)
        special = _special(backend, settings)
    except InputError as error:
        raise InputError(f"the tokenizer {file} cannot be read: {error}") from error
    except BaseException as error:  # the library raises bare exceptions for unreadable files
        _reraise(error)
        reason = " ".join(str(error).split())
        raise InputError(f"the tokenizer {file} cannot be read: {reason}") from error
    # Some files have texts truncated at a length; here a text that is too long is an error.
    backend.no_truncation()
    backend.no_padding()
    return SubwordTokenizer(backend, MappingProxyType(special))


def _special(backend: Any, settings: Mapping[str, Any]) -> dict[str, int]:
    """Return the special tokens' numbers: of those that are named, else of the usual names."""
    special = {}
    for role, usual in ROLES.items():
        named = settings.get(f"{role}_token")
        named = named.get("content") if isinstance(named, dict) else named
        if not isinstance(named, str | None):
            raise InputError(f"{role}_token of a tokenizer must be text, got {named!r}")
        _check_text(named or "")
        for token in usual if named is None else (named, *usual):
            number = backend.token_to_id(token)
            if number is not None:
                special[role] = number
                break
    return special


def _reraise(error: BaseException) -> None:
    """Raise an error again unless it is the library's: its panics are no `Exception`."""
    if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
        raise error


def _settings(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"the tokenizer's settings {path} cannot be read: {error}") from error
    if not isinstance(found, dict):
        raise InputError(f"the tokenizer's settings {path} must be one JSON object")
    return found


def _flag(settings: Mapping[str, Any], name: str, default: bool) -> bool:
    value = settings.get(name, default)
    if not isinstance(value, bool):
        raise InputError(f"{name} of a tokenizer must be true or false, got {value!r}")
    return value


def _word_pieces(file: Path, settings: Mapping[str, Any]) -> Any:
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

    words = file.read_text(encoding="utf-8").split("\n")
    vocabulary = {word.rstrip("\r"): number for number, word in enumerate(words) if word}
    missing = [token for token in ("[UNK]", "[CLS]", "[SEP]") if token not in vocabulary]
    if missing:
        raise InputError(f"it must have {', '.join(missing)}, which it lacks")
    backend = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer(
        lowercase=_flag(settings, "do_lower_case", True),
        strip_accents=settings.get("strip_accents"),
        handle_chinese_chars=_flag(settings, "tokenize_chinese_chars", True),
    )
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(token, vocabulary[token]) for token in ("[CLS]", "[SEP]")],
    )
    backend.decoder = decoders.WordPiece()
    backend.add_special_tokens(
        [token for token in ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]") if token in vocabulary]
    )
    return backend


def _byte_pairs(file: Path, settings: Mapping[str, Any]) -> Any:
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors

    merges = file.with_name("merges.txt")
    if not merges.is_file():
        raise InputError("merges.txt must be in the same folder, and is not")
    vocabulary = _settings(file)
    if not all(isinstance(number, int) for number in vocabulary.values()):  # else skipped
        raise InputError("it must number every entry")
    backend = Tokenizer(models.BPE.from_file(str(file), str(merges)))
    spaced = _flag(settings, "add_prefix_space", False)
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=spaced)
    backend.decoder = decoders.ByteLevel()
    special = [
        token
        for token in ("<s>", "<pad>", "</s>", "<unk>", "<|endoftext|>")
        if backend.token_to_id(token) is not None
    ]
    backend.add_special_tokens([AddedToken(token, special=True) for token in special])
    if backend.token_to_id("<mask>") is not None:
        # By default it includes the space before it.
        named = settings.get("mask_token")
        along = _flag(named, "lstrip", True) if isinstance(named, dict) else True
        backend.add_special_tokens([AddedToken("<mask>", lstrip=along, special=True)])
    if "<s>" in special and "</s>" in special:
        backend.post_processor = processors.RobertaProcessing(
            ("</s>", vocabulary["</s>"]),  # their names differ from version to version
            ("<s>", vocabulary["<s>"]),
            add_prefix_space=spaced,
        )
    else:
        backend.post_processor = processors.ByteLevel(trim_offsets=False)
    return backend


def _check_text(text: str | tuple[str, str]) -> None:
    try:
        "".join(text).encode("utf-8")
    except UnicodeEncodeError as error:
        raise InputError(f"the text {text!r} must be valid Unicode text") from error
