"""What pydantic refuses, in one line: the key as a user writes it, the value, and pydantic's own words."""

from __future__ import annotations

from typing import Any, NamedTuple

from pydantic import ValidationError


class Problem(NamedTuple):
    """A value that is not allowed.

    Args:
        key: the dotted path to it, "" for the whole.
        kind: pydantic's name of the problem, such as "missing" or "extra_forbidden".
        value: what stands there, of a missing key the section that it is missing in.
        allowed: what should stand there.
    """

    key: str
    kind: str
    value: Any
    allowed: str

    def __str__(self) -> str:
        """Return key, value and what is allowed; a section is not written out."""
        value = "" if isinstance(self.value, dict) else f" = {shortened(self.value)}"
        return f"{self.key}{value}: {self.allowed}" if self.key else self.allowed


def shortened(value: Any) -> str:
    """Return a value as Python writes it, cut where it would not fit a line."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:79]}…"


def first_problem(error: ValidationError, tree: Any) -> Problem:
    """Return one problem of a tree; where a value may be of several types, that of the closest one."""
    problems = []
    for detail in error.errors(include_url=False):
        kind, allowed = detail["type"], detail["msg"].removeprefix("Value error, ")
        problems.append(Problem(_key(detail["loc"], tree, kind), kind, detail["input"], allowed))
    return max(problems, key=lambda problem: problem.key.count("."))


def _key(location: tuple[str | int, ...], tree: Any, kind: str) -> str:
    """Return the dotted keys of a location, in which pydantic also names the types that it tried."""
    keys = []
    for index, part in enumerate(location):
        try:
            tree = tree[part]
        except (LookupError, TypeError):
            if kind != "missing" or index < len(location) - 1:
                continue
        keys.append(part)
    # a key may hold line breaks, and an error is one line
    return ".".join(str(key) if str(key).isprintable() else repr(key) for key in keys or location)
