"""Strategies that spoil files for the fuzz tests."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import strategies as st


def mutations(whole: bytes) -> st.SearchStrategy[bytes]:
    """Return a whole file with bytes changed, cut off, moved or put between."""
    place = st.integers(0, len(whole) - 1)
    byte = st.sampled_from([0, 1, 0x7F, 0x80, 0xFF]) | st.integers(0, 255)

    def change(edits: list[tuple[int, int]], cut: int | None, moved: tuple[int, int, int] | None) -> bytes:
        content = bytearray(whole)
        for where, value in edits:
            content[where] = value
        if moved:
            to, start, length = moved
            content[to : to + length] = content[start : start + length]
        return bytes(content[:cut])

    edits = st.lists(st.tuples(place, byte), min_size=1, max_size=6)
    rarely = st.none() | st.none() | st.none()
    return st.builds(change, edits, rarely | place, rarely | st.tuples(place, place, st.integers(1, 64)))


_VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


def json_mutations(whole: bytes) -> st.SearchStrategy[bytes]:
    """Return a JSON file with one value replaced, wherever it is, or with bytes changed."""
    paths: list[list[Any]] = []

    def walk(value: Any, path: list[Any]) -> None:
        paths.append(path)
        inside = dict(enumerate(value)) if isinstance(value, list) else value
        for key, item in inside.items() if isinstance(inside, dict) else ():
            walk(item, [*path, key])

    walk(json.loads(whole), [])

    def change(path: list[Any], value: Any, remove: bool) -> bytes:
        document = [json.loads(whole)]
        target: Any = document
        for key in [0, *path][:-1]:
            target = target[key]
        if remove and path:
            del target[path[-1]]
        else:
            target[[0, *path][-1]] = value
        return json.dumps(document[0]).encode()

    names = st.sampled_from(["shard-00001.h5", "../x.h5", "mc", '{"id": 3}', "[", ""]) | st.just(10**400)
    return st.builds(change, st.sampled_from(paths), _VALUES | names, st.booleans()) | mutations(whole)


def model_mutations(whole: bytes) -> st.SearchStrategy[bytes]:
    """Return a model file whose description says something else, its weights whole; or with bytes changed."""
    size = 8 + int.from_bytes(whole[:8], "little")
    header = json.loads(whole[8:size])

    def change(about: bytes) -> bytes:
        said = header | {"__metadata__": {"about": about.decode("utf-8", "replace")}}
        words = json.dumps(said).encode()
        return len(words).to_bytes(8, "little") + words + whole[size:]

    about = json_mutations(header["__metadata__"]["about"].encode())
    return st.builds(change, about) | mutations(whole)
