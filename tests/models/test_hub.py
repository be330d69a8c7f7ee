"""Test models by hub name: the cache, a path of the same name, and one error message."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub import errors
from tiny_models import assert_same_parameters

from jaxflow.errors import InputError
from jaxflow.models import BertConfig, Model, init, load, save_pretrained
from jaxflow.models.hub import is_hub_name

UNREACHABLE = "the hub cannot be reached and its cache on this machine has none"
NONE = "the hub has none of that name, or it is not public"
GATED = "the hub gives it only to those who have agreed to its terms and are logged in"


@pytest.fixture(scope="module")
def model() -> Model:
    config = BertConfig(vocabulary=9, positions=8, layers=1, heads=1, width=4, hidden_width=6)
    return Model(config, init(config), None)


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder and an empty cache, without a network."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    offline(monkeypatch, tmp_path / "cache")
    return tmp_path


def offline(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    """As HF_HUB_OFFLINE and HF_HUB_CACHE do, which the library reads when it is imported."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))


def cached(cache: Path, name: str, model: Model) -> Path:
    """Write a model where the library keeps what it has fetched, and return its folder."""
    revision = "0123456789abcdef0123456789abcdef01234567"
    place = cache / f"models--{name.replace('/', '--')}"
    (place / "refs").mkdir(parents=True)
    (place / "refs" / "main").write_text(revision)
    folder = place / "snapshots" / revision
    save_pretrained(folder, model)
    return folder


def failing(error: Exception) -> Callable[..., str]:
    def snapshot_download(*_: Any, **__: Any) -> str:
        raise error

    return snapshot_download


def error_of(kind: type[Exception], message: str) -> Exception:
    """Build an error; some of the library's tell of a response."""
    if not issubclass(kind, errors.HfHubHTTPError):
        return kind(message)
    response: Any = type("Response", (), {"headers": {}, "request": None, "status_code": 404})()
    return kind(message, response=response)


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        (errors.RepositoryNotFoundError, NONE),
        (errors.GatedRepoError, GATED),
        (errors.HFValidationError, "the hub has no names of that form"),
        (errors.LocalEntryNotFoundError, UNREACHABLE),
        (errors.HfHubHTTPError, UNREACHABLE),
        (TimeoutError, UNREACHABLE),
    ],
)
def test_what_the_hub_says_is_one_sentence(
    kind: type[Exception], reason: str, elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    error = error_of(kind, "401 Client Error.\n\nCheck https://...\nat length.")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", failing(error))
    with pytest.raises(InputError) as caught:
        load("someone/bert")
    message = str(caught.value)
    assert message.startswith("no trained model at someone/bert: there is no such folder, none of")
    assert f"comes with jaxflow (agreement), and {reason}; on a machine" in message
    assert "\n" not in message
    assert caught.value.__cause__ is error


def test_offline_with_an_empty_cache(elsewhere: Path) -> None:
    """The library itself, told to stay offline."""
    for name in ("bert-base-uncased", "someone/bert"):
        with pytest.raises(InputError, match=f"and {UNREACHABLE}; .* 'hf download {name}' and"):
            load(name)
    assert not (elsewhere / "cache").exists()


@pytest.mark.parametrize("name", ["tiny-bert", "someone/tiny-bert_2.0"])
def test_what_the_cache_holds_is_read_offline(name: str, elsewhere: Path, model: Model) -> None:
    cached(elsewhere / "cache", name, model)
    assert_same_parameters(load(name), model)
    with pytest.raises(InputError, match="the hub cannot be reached"):
        load(f"{name}-2")


def test_only_the_files_of_a_model_are_fetched(
    elsewhere: Path, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = cached(elsewhere / "cache", "bert", model)
    asked: dict[str, Any] = {}

    def snapshot_download(name: str, **options: Any) -> str:
        asked.update(options, name=name)
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    assert_same_parameters(load("someone/bert"), model)
    assert asked["name"] == "someone/bert"
    patterns = asked["allow_patterns"]
    assert {"config.json", "model.safetensors", "tokenizer.json", "vocab.txt"} <= set(patterns)
    assert all(
        name.endswith((".json", ".txt", ".jinja", ".model", ".safetensors")) for name in patterns
    )


@pytest.mark.parametrize("name", ["bert", "someone/bert"])
def test_a_path_wins_over_a_name(
    name: str, elsewhere: Path, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = BertConfig(vocabulary=5, positions=4, layers=1, heads=1, width=2, hidden_width=2)
    here = Model(config, init(config), None)
    cached(elsewhere / "cache", name, model)
    assert_same_parameters(load(name), model)
    save_pretrained(Path(name), here)
    for given in (name, f"./{name}", Path(name)):
        assert_same_parameters(load(given), here)
    # Even a path that holds no model: what is meant by it is not guessed.
    monkeypatch.setattr(huggingface_hub, "snapshot_download", failing(AssertionError("asked")))
    for file in Path(name).iterdir():
        file.unlink()
    with pytest.raises(InputError, match=f"^no trained model at {name}: expected the folder"):
        load(name)


def test_a_path_object_is_never_a_name(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub, "snapshot_download", failing(AssertionError("asked")))
    for given in (Path("bert"), Path("someone/bert"), "./bert", "a/b/c", "/nowhere/bert", ""):
        with pytest.raises(InputError, match=r"^no trained model at "):
            load(given)


def test_what_has_the_form_of_a_name() -> None:
    assert all(map(is_hub_name, ("bert-base-uncased", "google/vit-base-patch16-224", "a")))
    others = ("", ".", "..", "./bert", "../bert", "/bert", "bert/", "a/b/c", "~/bert", "a b", "a\n")
    assert not any(map(is_hub_name, (*others, "runs\\first", "C:bert")))
