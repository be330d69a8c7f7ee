"""Mutations of JSON: keys lost, doubled and misspelt, values of other kinds, deep nests."""

from __future__ import annotations

import json
from random import Random
from typing import Any

from fuzzing.mutate_text import NUMBERS, WORDS, mutate_text

__all__ = ["mutate_json", "mutate_tree"]

#: Values of other kinds than are expected; text is written as it stands.
VALUES = (
    b"null", b"true", b"false", b"[]", b"{}", b'""', b'"x"', b"[null]", b"[[]]", b'{"a": 1}',
    b"[1, 2]", b"[1, 2, 3, 4, 5]", b'"\\ud800"', b'"\\u0000"', b'"\\u001b[31m\\n"',
    b'"' + b"a" * 5000 + b'"', b"[" * 2000 + b"]" * 2000, b"[" * 20_000, *NUMBERS,
)  # fmt: skip


class Raw(str):
    """Text that is written into the JSON as it stands."""


def _paths(tree: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [path]
    if isinstance(tree, dict):
        for key, value in tree.items():
            found += _paths(value, (*path, key))
    elif isinstance(tree, list):
        for place, value in enumerate(tree[:50]):
            found += _paths(value, (*path, place))
    return found


def _write(tree: Any) -> str:
    """Write JSON; lists of pairs marked as objects may name a key twice."""
    if isinstance(tree, Raw):
        return str(tree)
    if isinstance(tree, Twice):
        return "{" + ", ".join(f"{json.dumps(key)}: {_write(value)}" for key, value in tree) + "}"
    if isinstance(tree, dict):
        pairs = (f"{json.dumps(key)}: {_write(value)}" for key, value in tree.items())
        return "{" + ", ".join(pairs) + "}"
    if isinstance(tree, list):
        return "[" + ", ".join(map(_write, tree)) + "]"
    return json.dumps(tree)


class Twice(list[tuple[str, Any]]):
    """An object as pairs."""


def _value(rng: Random, old: Any) -> Any:
    what = rng.random()
    if what < 0.25 and isinstance(old, int) and not isinstance(old, bool):
        changes = (old + 1, old - 1, old * 2, -old, old << 20, float(old), str(old), [old])
        return rng.choice(changes)
    if what < 0.4 and isinstance(old, str):
        return rng.choice((old.upper(), old + " ", old[:-1], old * 2, [old], {"content": old}))
    if what < 0.5:
        return Raw(json.dumps(rng.choice(WORDS).decode("utf-8", "replace")))
    return Raw(rng.choice(VALUES).decode("utf-8", "replace"))


def mutate_tree(rng: Random, tree: Any) -> Any:
    """Change one place of a JSON tree; the tree given is changed too."""
    paths = [path for path in _paths(tree) if path]
    if not paths:
        return _value(rng, tree)
    path = rng.choice(paths)
    parent = tree
    for key in path[:-1]:
        parent = parent[key]
    last = path[-1]
    what = rng.random()
    if what < 0.15:
        del parent[last]
    elif what < 0.25 and isinstance(parent, dict):
        spelt = (last.upper(), f"{last} ", f"_{last}", "", rng.choice(sorted(parent)))
        parent[rng.choice(spelt)] = parent.pop(last)
    elif what < 0.35 and isinstance(parent, dict):
        twice = Twice((*parent.items(), (last, _value(rng, parent[last]))))
        return _replaced(tree, path[:-1], twice)
    elif what < 0.42:
        other = tree
        for key in rng.choice(paths):
            other = other[key]
        parent[last] = json.loads(json.dumps(other))
    elif what < 0.46 and isinstance(parent, list):
        parent[:] = parent * rng.choice((0, 2, 20))
    else:
        parent[last] = _value(rng, parent[last])
    return tree


def _replaced(tree: Any, path: tuple[Any, ...], value: Any) -> Any:
    if not path:
        return value
    parent = tree
    for key in path[:-1]:
        parent = parent[key]
    parent[path[-1]] = value
    return tree


def mutate_json(rng: Random, data: bytes) -> bytes:
    """Change JSON as a tree, most of the time, or as text."""
    if rng.random() < 0.12:
        return mutate_text(rng, data)
    try:
        tree = json.loads(data)
    except (ValueError, RecursionError):
        return mutate_text(rng, data)
    text = ""
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        tree = mutate_tree(rng, tree)
        try:
            text = _write(tree)
            tree = json.loads(text)
        except (ValueError, RecursionError):
            break
    return text.encode("utf-8", "surrogatepass")
