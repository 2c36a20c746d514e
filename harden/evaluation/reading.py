"""What a report is made of, read from files: evaluations and learning curves."""

from __future__ import annotations

import csv
import io
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import TypeAdapter, ValidationError

from harden.config.problems import first_problem, shortened
from harden.errors import DamagedFileError, MissingInputError
from harden.evaluation.schema import Evaluation
from harden.storage.files import read_bytes, read_json, read_text

FORMAT_VERSION = 1
_EVALUATION, _CURVE = "evaluation.json", "learning_curve.csv"
# the columns of a learning curve that a page draws
_DRAWN = ("env_steps", "reward", "cost")
_MOST_FILM = 64 * 2**20
_MADE_BY = "harden evaluate --json FILE"


class Reported(NamedTuple):
    """What a report shows of one policy.

    Args:
        title: what the reader calls it.
        evaluation: as `harden evaluate` writes it.
        curve: the columns of its learning curve, where there is one.
        film: the GIF that lies beside the evaluation under the same name, where one does.
    """

    title: str
    evaluation: dict[str, Any]
    curve: dict[str, list[float]] | None = None
    film: bytes | None = None


def load_evaluation(path: Path) -> dict[str, Any]:
    """Read an evaluation file.

    Raises:
        MissingInputError: not there; DamagedFileError: not an evaluation of this format.
    """
    value, remedy = read_json(path, _MADE_BY), f"make one with: {_MADE_BY}"
    if not isinstance(value, dict) or "results" not in value:
        raise DamagedFileError(f"{path} is not an evaluation", remedy)
    version = value.get("format_version")
    if type(version) is not int or version != FORMAT_VERSION:
        raise DamagedFileError(
            f"{path} has format version {shortened(version)}, this harden reads {FORMAT_VERSION}", remedy
        )
    try:
        TypeAdapter(Evaluation).validate_python(value, strict=True)
    except ValidationError as error:
        problem = first_problem(error, value)
        raise DamagedFileError(f"{path} is not an evaluation: {problem}", remedy) from None
    return value


def load_curve(path: Path) -> dict[str, list[float]]:
    """Read the columns of a learning curve that a page draws; errors as `load_evaluation`."""
    try:
        reader = csv.DictReader(io.StringIO(read_text(path), newline=""))
        rows = list(reader)
        for column in _DRAWN:
            if column not in (reader.fieldnames or ()):
                raise ValueError(f"it has no column '{column}'")
        curve = {column: [float(row[column]) for row in rows] for column in _DRAWN}
        for column, values in curve.items():
            if not all(map(math.isfinite, values)):
                raise ValueError(f"a number in column '{column}' is not finite")
    except FileNotFoundError:
        raise MissingInputError(f"{path} is missing", "harden train writes it") from None
    except (ValueError, TypeError, OSError, csv.Error) as error:
        raise DamagedFileError(f"{path} is not a learning curve ({error})") from error
    return curve


def load_film(path: Path) -> bytes | None:
    """Read a GIF, None where there is none; DamagedFileError: it is something else, or too large."""
    if not path.is_file():
        return None
    content = read_bytes(path, _MOST_FILM)
    if not content.startswith(b"GIF8"):
        raise DamagedFileError(f"{path} is no GIF", "make it with: harden render, or move it away")
    return content


def run_files(path: Path) -> list[Path]:
    """Return the files that `load_runs` reads an evaluation and a learning curve from."""
    named = Path("checkpoints") / path
    folder = path if path.is_dir() or not named.is_dir() else named
    return [folder / name for name in (_EVALUATION, _CURVE)] if folder.is_dir() else [folder]


def load_runs(paths: Sequence[Path]) -> list[Reported]:
    """Read evaluation files, or the evaluations and the learning curves of runs.

    Args:
        paths: each a file; a run's or a released policy's folder; or a run's name, which is a folder below
            checkpoints/.

    Raises:
        MissingInputError, DamagedFileError: as `load_evaluation`.
    """
    shown = []
    for path, title in zip(paths, titles(paths), strict=True):
        evaluation, *curve = run_files(path)
        folder = evaluation.parent
        if curve and not evaluation.is_file():
            remedy = (
                "name a run, a policy's folder that holds one, or the file that harden evaluate --json wrote"
            )
            if folder.parent == Path("checkpoints"):
                remedy = f"make it with: harden evaluate -p {folder.name}"
            elif (folder / "policy.safetensors").is_file():
                remedy = f"make it with: harden evaluate --policy {folder} --json {evaluation}"
            raise MissingInputError(f"{evaluation} is missing", remedy)
        curves = [load_curve(file) for file in curve if file.is_file()]
        film = load_film(evaluation.with_suffix(".gif"))
        shown.append(Reported(title, load_evaluation(evaluation), next(iter(curves), None), film))
    return shown


def titles(paths: Sequence[Path]) -> list[str]:
    """Return the names of files or folders, each with as many of its parents as tell it from the others."""
    # a folder may be given as "."
    whole = [Path(os.path.abspath(path)) for path in paths]
    parts = [(*p.parts[1:-1], p.name if p.is_dir() else p.stem) for p in whole]
    named: list[str] = []
    for index, part in enumerate(parts):
        others = {other for other in parts if other != part}
        apart = (n for n in range(1, len(part)) if all(other[-n:] != part[-n:] for other in others))
        name = "/".join(part[-next(apart, len(part)) :])
        # a path may be given twice, or be a folder and a file of one name
        before = parts[:index].count(part)
        named.append(f"{name} ({before + 1})" if before else name)
    return named
