"""What a report is made of, read from files: evaluations, accounts of offline training, learning curves."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any, NamedTuple

from harden.errors import DamagedFileError, MissingInputError
from harden.files import read_json

_MADE_BY = "harden evaluate --json FILE"


class Reported(NamedTuple):
    """What a report shows of one policy.

    Args:
        title: what the reader calls it.
        evaluation: as `harden evaluate` writes it.
        curve: the columns of its learning curve, where there is one.
    """

    title: str
    evaluation: dict[str, Any]
    curve: dict[str, list[float]] | None = None


def load_evaluation(path: Path, offline_too: bool = False) -> dict[str, Any]:
    """Read an evaluation file.

    Args:
        offline_too: whether the account of `train --offline` may stand in its place.

    Raises:
        MissingInputError: not there; DamagedFileError: not an evaluation of this format.
    """
    value = read_json(path, _MADE_BY)
    known = isinstance(value, dict) and value.get("format_version") == 1
    if not known or not (value.get("results") or (offline_too and value.get("estimates"))):
        raise DamagedFileError(f"{path} is not an evaluation", f"make one with: {_MADE_BY}")
    return value


def load_curve(path: Path) -> dict[str, list[float]]:
    """Read a learning curve: its columns by name.

    Raises:
        MissingInputError: not there; DamagedFileError: not a table of numbers.
    """
    try:
        with open(path, newline="", encoding="utf-8") as handle:
            rows = list(csv.DictReader(handle))
        return {key: [float(row[key]) for row in rows] for key in (rows[0] if rows else {})}
    except FileNotFoundError:
        raise MissingInputError(f"{path} is missing", "harden train writes it") from None
    except (ValueError, TypeError, OSError, csv.Error) as error:
        raise DamagedFileError(f"{path} is not a learning curve ({error})") from error


def load_run(path: Path) -> Reported:
    """Read an evaluation file, or the evaluation and the learning curve of a run.

    Args:
        path: a file; a run's or a released policy's folder; or a run's name, which is one below checkpoints/.

    Raises:
        MissingInputError, DamagedFileError: as `load_evaluation`.
    """
    named = Path("checkpoints") / path
    folder = path if path.is_dir() or not named.is_dir() else named
    if not folder.is_dir():
        return Reported(path.stem, load_evaluation(path, offline_too=True))
    file = folder / "evaluation.json"
    if not file.is_file():
        raise MissingInputError(f"{file} is missing", "make it with: harden evaluate")
    curve = folder / "learning_curve.csv"
    return Reported(folder.name, load_evaluation(file), load_curve(curve) if curve.is_file() else None)
