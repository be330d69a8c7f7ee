"""Encode text to word pieces and back, by the tokenizer files of published models.

``tokenizer.json`` is read by the ``tokenizers`` library where ``tokenizer_config.json`` agrees with
it. Everything else (vocabularies without it, sentencepiece, settings that change it) has rules of
its own in every class of ``transformers``, and that library reads it.
"""

from __future__ import annotations

import dataclasses
import datetime
import json
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, get_args

import numpy as np

from jaxflow.errors import InputError
from jaxflow.files import read_json_object
from jaxflow.models.decoder import DecoderKind
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
    chat_template
        The Jinja template of conversations; None where there is none.
    named
        The tokens that a template may name: ``bos_token`` and others -> their text.
    """

    backend: Any
    special: Mapping[str, int]
    segments: bool = True
    chat_template: str | None = None
    named: Mapping[str, str] = dataclasses.field(default_factory=dict)

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

    def encode(self, text: str, *, template: bool = True) -> list[int]:
        """Return a text's numbers, special tokens included.

        Without `template` only those that the text spells: a `chat` has its own.
        """
        return list(self._split([text], template)[0].ids)

    def chat(self, messages: str | Sequence[Mapping[str, Any]], *, answer: bool = True) -> str:
        """Return a conversation as text, by the model's chat template.

        Parameters
        ----------
        messages
            Each with ``role`` (``system``, ``user``, ``assistant``) and ``content``, or the text of
            one by the user.
        answer
            Whether the text ends where the assistant's answer begins.

        Returns
        -------
        str
            To be encoded with ``template=False``.

        Raises
        ------
        InputError
            If there is no template, it refuses the messages, or jinja2 is not installed.
        """
        if self.chat_template is None:
            raise InputError(
                "the tokenizer must have a chat template, and none came with it "
                "(chat_template.jinja): give the prompt as plain text"
            )
        if isinstance(messages, str):
            messages = [{"role": "user", "content": messages}]
        return render_chat(self.chat_template, messages, answer, self.named)

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

    def read(self, text: str, pair: str | None = None, *, template: bool = True) -> Pieces:
        """Return the tokens of a text or a pair, with the words and places they come from.

        Words are what the tokenizer splits into pieces: a punctuation mark is one of its own.

        Parameters
        ----------
        text
            The text, or the first of two.
        pair
            The second text: the tokenizer's template joins them and gives them their segments.
        template
            As `encode` has it.

        Raises
        ------
        InputError
            If a text holds the separator, which does not tell the model that two texts begin and
            end there, or is not valid Unicode.
        """
        (found,) = self._split([text if pair is None else (text, pair)], template)
        of_texts, written = (
            found.sequence_ids,
            zip(found.ids, found.special_tokens_mask, strict=True),
        )
        if template and (self.sep_id, 0) in written:
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

    def _split(self, texts: Sequence[str | tuple[str, str]], template: bool = True) -> list[Any]:
        for text in texts:
            _check_text(text)
        try:
            if len(texts) == 1:  # no threads for one
                (text,) = texts
                parts = (text,) if isinstance(text, str) else text
                return [self.backend.encode(*parts, add_special_tokens=template)]
            return list(self.backend.encode_batch(texts))
        except BaseException as error:  # such as a vocabulary without a token for unknown words
            _reraise(error)
            raise InputError(f"the tokenizer cannot split the text: {error}") from error


def render_chat(
    template: str, messages: Sequence[Mapping[str, Any]], answer: bool, named: Mapping[str, str]
) -> str:
    """Return messages as a Jinja template writes them, in the sandbox that `transformers` uses."""
    try:
        from jinja2 import TemplateError, nodes
        from jinja2.ext import Extension, loopcontrols
        from jinja2.sandbox import ImmutableSandboxedEnvironment
    except ImportError as error:
        raise InputError(
            "chat templates need jinja2, which is not installed: pip install 'jaxflow[models]'"
        ) from error

    class Generation(Extension):
        """Pass through what a template marks as the assistant's own."""

        tags = {"generation"}  # noqa: RUF012 (jinja2 declares it so)

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return nodes.Scope(body, lineno=line)

    def refuse(message: str) -> None:
        raise TemplateError(message)

    def to_json(value: Any, ensure_ascii: bool = False, **options: Any) -> str:
        return json.dumps(value, ensure_ascii=ensure_ascii, **options)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, Generation]
    )
    environment.filters["tojson"] = to_json
    environment.globals["raise_exception"] = refuse
    environment.globals["strftime_now"] = lambda form: datetime.datetime.now().strftime(form)
    try:
        return environment.from_string(template).render(
            messages=list(messages), tools=None, documents=None, add_generation_prompt=answer,
            **named,
        )  # fmt: skip
    except Exception as error:  # a template is a program, and raises what it likes
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"the chat template cannot write the messages: {reason}") from error


class _Class(NamedTuple):
    """The defaults of a tokenizer class: its special tokens, and whether pairs have segments."""

    special: Mapping[str, str]
    segments: bool


_BRACKETS = {role: names[0] for role, names in ROLES.items()}
_ANGLES = {role: names[1] for role, names in ROLES.items()}
_CLASSES = {
    "BertTokenizer": _Class(_BRACKETS, True),
    "ElectraTokenizer": _Class(_BRACKETS, True),
    "DistilBertTokenizer": _Class(_BRACKETS, False),
    "RobertaTokenizer": _Class(_ANGLES, False),
    "GPT2Tokenizer": _Class({"unk": "<|endoftext|>", "bos": "<|endoftext|>"}, False),
}
#: The class where the settings name none, by the ``model_type`` of ``config.json``.
_BY_MODEL = {
    "bert": "BertTokenizer",
    "distilbert": "BertTokenizer",
    "electra": "BertTokenizer",
    "roberta": "RobertaTokenizer",
    "gpt2": "GPT2Tokenizer",
}
#: Classes that split text in Python, whatever a tokenizer.json beside their vocabulary holds.
_IN_PYTHON = ("BertJapaneseTokenizer", "BertweetTokenizer", "PhobertTokenizer")

#: What a token that is added is described by.
_FLAGS = ("lstrip", "rstrip", "single_word", "normalized")

#: Vocabularies that are no ``tokenizer.json``.
VOCABULARIES = (
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "spiece.model",
    "sentencepiece.bpe.model",
    "tokenizer.model",
)


def read_tokenizer(folder: Path) -> SubwordTokenizer | None:
    """Read the tokenizer of a published model; None where its folder holds none.

    Parameters
    ----------
    folder
        With ``tokenizer.json``, or a vocabulary that ``transformers`` converts: `VOCABULARIES`.
        ``tokenizer_config.json`` and ``special_tokens_map.json`` hold its settings, and where they
        name no class, ``config.json`` decides. Of a decoder ``tokenizer.json`` counts as it is.

    Raises
    ------
    InputError
        If a file is no tokenizer's, ``transformers`` is needed and not installed, or the tokenizer
        splits text in Python and does not report where its tokens are.
    """
    settings = _settings(folder / "special_tokens_map.json")
    settings |= _settings(folder / "tokenizer_config.json")
    found = _read_backend(folder, settings)
    if found is None:
        return None
    names = [f"{role}_token" for role in ("bos", "eos", *ROLES)]
    named = {name: text for name in names if (text := _content(settings.get(name)))}
    template = _chat_template(folder, settings)
    return dataclasses.replace(found, chat_template=template, named=MappingProxyType(named))


def _chat_template(folder: Path, settings: Mapping[str, Any]) -> str | None:
    """Return the template of a file of its own, or of the settings, where several have names."""
    file, template = folder / "chat_template.jinja", settings.get("chat_template")
    if file.is_file():
        try:
            return file.read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            raise InputError(f"the chat template {file} cannot be read: {error}") from error
    if isinstance(template, list):
        known = {one.get("name"): one.get("template") for one in template if isinstance(one, dict)}
        template = known.get("default")
    if template is not None and not isinstance(template, str):
        raise InputError(f"chat_template of a tokenizer must be text, got {template!r}")
    return template


def _read_backend(folder: Path, settings: Mapping[str, Any]) -> SubwordTokenizer | None:
    """Read the tokenizer itself; see `read_tokenizer`."""
    file = folder / "tokenizer.json"
    if not file.is_file():
        found = [name for name in VOCABULARIES if (folder / name).is_file()]
        return _converted(folder, f"it has {found[0]} and no tokenizer.json") if found else None
    known = _settings(folder / "config.json")
    name = settings.get("tokenizer_class") or known.get("tokenizer_class")
    name = str(name or _BY_MODEL.get(str(known.get("model_type")))).removesuffix("Fast")
    if known.get("model_type") in get_args(DecoderKind):
        name = ""  # their files hold all, and many name a class that would split digits otherwise
    defaults = _CLASSES.get(name, _Class({}, True))
    try:
        from tokenizers import Tokenizer

        backend = Tokenizer.from_file(str(file))
        added = _settings(folder / "added_tokens.json")
        disagreeing = _disagreeing(backend, name, settings) or _other_tokens(
            backend, settings, added
        )
        special = _special(backend, settings, defaults.special)
    except BaseException as error:  # the library raises bare exceptions for unreadable files
        _reraise(error)
        reason = " ".join(str(error).split())
        raise InputError(f"the tokenizer {file} cannot be read: {reason}") from error
    if disagreeing:
        return _converted(folder, f"its tokenizer.json has another {disagreeing} than its settings")
    inputs = settings.get("model_input_names")
    segments = "token_type_ids" in inputs if isinstance(inputs, list) else defaults.segments
    return _made(backend, special, segments)


def _disagreeing(backend: Any, name: str, settings: Mapping[str, Any]) -> str | None:
    """Return the first setting that ``tokenizer.json`` does not follow; None if it follows all.

    A class of ``transformers`` takes the file's vocabulary and applies its settings to it, or their
    defaults; a class that is not known here takes the file as it is.
    """
    if name in _IN_PYTHON:
        return "tokenizer_class"
    if _flag(settings, "split_special_tokens", False):
        return "split_special_tokens"
    normal, spaced = backend.normalizer, backend.pre_tokenizer
    flags: dict[str, tuple[Any, Any]] = {}
    if name in _CLASSES and _CLASSES[name].special is _BRACKETS:
        flags = {
            "do_lower_case": (getattr(normal, "lowercase", None), True),
            "strip_accents": (getattr(normal, "strip_accents", False), None),
            "tokenize_chinese_chars": (getattr(normal, "handle_chinese_chars", None), True),
        }
    elif name in _CLASSES:
        flags = {"add_prefix_space": (getattr(spaced, "add_prefix_space", None), False)}
    ids = backend.encode("").ids
    for role, place in (("bos", 0), ("eos", -1)):
        if f"add_{role}_token" in settings:  # else the file's template decides
            token = settings.get(f"{role}_token", "<|endoftext|>")
            number = backend.token_to_id(_content(token) or "")
            flags[f"add_{role}_token"] = (bool(ids) and ids[place] == number, False)
    return next(
        (flag for flag, (here, usual) in flags.items() if _flag(settings, flag, usual) != here),
        None,
    )


def _other_tokens(
    backend: Any, settings: Mapping[str, Any], added: Mapping[str, Any]
) -> str | None:
    """Return the first token that the settings add or describe and ``tokenizer.json`` has not."""
    known = {token.content: token for token in backend.get_added_tokens_decoder().values()}
    decoder = settings.get("added_tokens_decoder") or {}
    if not isinstance(decoder, dict):
        raise InputError(f"added_tokens_decoder must be one JSON object, got {decoder!r}")
    named = [settings.get(f"{role}_token") for role in ROLES]
    wanted = [*added.items(), *((token, number) for number, token in decoder.items())]
    wanted += [(token, None) for token in named if _content(token) in known]
    for token, number in wanted:
        found = known.get(content := _content(token) or "")
        flags = token if isinstance(token, dict) else {}
        if (
            found is None
            or (number is not None and str(backend.token_to_id(content)) != str(number))
            or any(flags.get(flag, getattr(found, flag)) != getattr(found, flag) for flag in _FLAGS)
        ):
            return f"token {content}"
    return None


def _converted(folder: Path, reason: str) -> SubwordTokenizer:
    """Return the tokenizer of a folder as ``transformers`` reads it."""
    try:
        from transformers import AutoTokenizer
    except ImportError as error:
        raise InputError(
            f"the tokenizer of {folder} must be converted, as {reason}: install transformers (pip "
            "install 'jaxflow[convert]'), or where it is installed replace the files by "
            f'AutoTokenizer.from_pretrained("{folder}").save_pretrained("{folder}")'
        ) from error
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = AutoTokenizer.from_pretrained(
                str(folder), local_files_only=True, trust_remote_code=False
            )
    except BaseException as error:  # it raises many kinds for files that are damaged or missing
        _reraise(error)
        message = " ".join(str(error).split())
        raise InputError(
            f"the tokenizer of {folder} cannot be read: {reason}, and transformers reports: "
            f"{message or type(error).__name__}"
        ) from error
    backend = getattr(found, "backend_tokenizer", None) if found.is_fast else None
    if backend is None:
        raise InputError(
            f"the tokenizer of {folder} cannot be used: {type(found).__name__} splits text in "
            "Python and does not report where in the text its tokens are; give the model a "
            "tokenizer.json that splits alike, of the tokenizer_class PreTrainedTokenizerFast"
        )
    needed = [name for key, name in found.vocab_files_names.items() if key != "tokenizer_file"]
    missing = [name for name in needed if not (folder / name).is_file()]
    if missing and not (folder / "tokenizer.json").is_file():  # it would go on without a vocabulary
        raise InputError(f"the tokenizer of {folder} cannot be read: it lacks {', '.join(missing)}")
    numbers = {role: getattr(found, f"{role}_token_id") for role in ROLES}
    special = {role: number for role, number in numbers.items() if number is not None}
    return _made(backend, special, "token_type_ids" in found.model_input_names)


def _made(backend: Any, special: dict[str, int], segments: bool) -> SubwordTokenizer:
    # Some files have texts truncated at a length; here a text that is too long is an error.
    backend.no_truncation()
    backend.no_padding()
    return SubwordTokenizer(backend, MappingProxyType(special), segments)


def _special(
    backend: Any, settings: Mapping[str, Any], defaults: Mapping[str, str]
) -> dict[str, int]:
    """Return the special tokens' numbers: of those named, else of the class, else of the usual."""
    special = {}
    for role, usual in ROLES.items():
        named = settings.get(f"{role}_token")
        content = _content(named)
        if content is None and named is not None:
            raise InputError(f"{role}_token of a tokenizer must be text, got {named!r}")
        for token in (content, defaults.get(role), *usual):
            number = None if token is None else backend.token_to_id(token)
            if number is not None:
                special[role] = number
                break
    return special


def _content(token: Any) -> str | None:
    """Return the text of a token, which settings give as text or with its flags."""
    content = token.get("content") if isinstance(token, dict) else token
    if not isinstance(content, str):
        return None
    _check_text(content)
    return content


def _reraise(error: BaseException) -> None:
    """Raise an error again unless it is the library's: its panics are no `Exception`."""
    if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
        raise error


def _settings(path: Path) -> dict[str, Any]:
    return read_json_object(path, "the tokenizer's settings") if path.is_file() else {}


def _flag(settings: Mapping[str, Any], name: str, default: bool | None) -> bool | None:
    value = settings.get(name, default)
    if not isinstance(value, bool) and value is not default:
        raise InputError(f"{name} of a tokenizer must be true or false, got {value!r}")
    return value


def _check_text(text: str | tuple[str, str]) -> None:
    try:
        "".join(text).encode("utf-8")
    except UnicodeEncodeError as error:
        raise InputError(f"the text {text!r} must be valid Unicode text") from error
