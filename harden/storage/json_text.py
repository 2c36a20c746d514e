"""JSON from a file that anybody may have written: what could not be counted with or printed is not JSON."""

from __future__ import annotations

import json
from typing import Any

# more of it overflows wherever it is counted with, at the latest as a float32
_MOST_DIGITS = 18


def _whole_number(text: str) -> int:
    if len(text) > _MOST_DIGITS:
        raise ValueError(f"a whole number of {len(text)} digits")
    return int(text)


def parse_json(text: str) -> Any:
    """Return what a JSON text says.

    Raises:
        ValueError: it is not JSON, holds a whole number of more than 18 digits, or letters that no encoding
            has; RecursionError: it is nested too deep.
    """
    found = json.loads(text, parse_int=_whole_number)
    if "\\ud" in text.lower():
        # half of a letter that takes two, which can't be printed
        json.dumps(found, ensure_ascii=False).encode("utf-8")
    return found
