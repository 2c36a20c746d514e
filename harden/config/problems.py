"""What pydantic found wrong, in words: the key as a user writes it, the value, and what is allowed."""

from __future__ import annotations

from typing import Any, NamedTuple

from pydantic import ValidationError


class Problem(NamedTuple):
    """The first thing that is wrong.

    Args:
        path: the keys that lead to it, a missing or unknown one last.
        kind: pydantic's name of it, such as "missing" or "extra_forbidden".
        value: what stands there, of a missing one what it should stand in.
        allowed: what should.
    """

    path: tuple[str | int, ...]
    kind: str
    value: Any
    allowed: str

    @property
    def key(self) -> str:
        """The path as a user writes it."""
        # a key may hold line breaks: an error is one line
        return ".".join(str(part) if str(part).isprintable() else repr(part) for part in self.path)

    def __str__(self) -> str:
        """Say it in one line."""
        if self.kind == "missing":
            return f"{self.key} is missing"
        if self.kind == "value_error" and isinstance(self.value, dict):
            # what is wrong is how its keys go together, and the sentence names them
            return f"{self.key}: {self.allowed}" if self.path else self.allowed
        return f"{self.key or 'the whole'} = {shortened(self.value)} is not allowed; {self.allowed}"


def shortened(value: Any) -> str:
    """Return a value as Python writes it, cut where it would not fit a line."""
    try:
        text = repr(value)
    except ValueError:
        # Python refuses to write out integers of thousands of digits
        return "a number of thousands of digits"
    return text if len(text) <= 80 else f"{text[:79]}…"


def _path(tree: Any, location: tuple[str | int, ...], kind: str) -> tuple[str | int, ...]:
    """Return the keys of a location: pydantic names between them which type of several it tried."""
    path: list[str | int] = []
    for place, part in enumerate(location):
        try:
            tree = tree[part]
        except (LookupError, TypeError):
            if kind != "missing" or place < len(location) - 1:
                continue
        path.append(part)
    # none of it there: the key was put in on the way
    return tuple(path) or location


def first_problem(error: ValidationError, tree: Any) -> Problem:
    """Return the first problem; where a value may be of several types, that of the one it comes closest to.

    Args:
        error: what pydantic raised.
        tree: what it was given.
    """
    found = [
        Problem(_path(tree, one["loc"], one["type"]), one["type"], one["input"], _plain(one["msg"]))
        for one in error.errors(include_url=False)
    ]
    of_first = [one for one in found if one.path[: len(found[0].path)] == found[0].path]
    deepest = max(len(one.path) for one in of_first)
    closest = [one for one in of_first if len(one.path) == deepest]
    return closest[0]


def _plain(message: str) -> str:
    text = message.removeprefix("Value error, ").replace("valid tuple", "valid list")
    # pydantic calls the value by its type
    first, _, rest = text.partition(" ")
    return f"it {rest}" if first in ("Input", "Tuple", "List", "String", "Dictionary") else text
