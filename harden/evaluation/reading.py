"""What a report is made of, read from files: evaluations, accounts of offline training, learning curves."""

from __future__ import annotations

import csv
import io
import json
import math
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError

from harden.config.problems import first_problem, shortened
from harden.errors import DamagedFileError, HardenError, MissingInputError
from harden.evaluation.offline_schema import OfflineFile
from harden.evaluation.schema import EvaluationFile
from harden.storage.files import read_json, read_text

FORMAT_VERSION = 1
_EVALUATION, _CURVE = "evaluation.json", "learning_curve.csv"
# the columns of a learning curve that a page draws
_DRAWN = ("env_steps", "reward", "cost")
_MADE_BY = "harden evaluate --json FILE"


class Reported(NamedTuple):
    """What a report shows of one policy.

    Args:
        title: what the reader calls it.
        evaluation: as `harden evaluate` writes it.
        curve: the columns of its learning curve, where there is one.
        manifest: of the policy, where it was found and is still the one that was evaluated.
    """

    title: str
    evaluation: dict[str, Any]
    curve: dict[str, list[float]] | None = None
    manifest: dict[str, Any] | None = None


def load_evaluation(path: Path, offline_too: bool = False) -> dict[str, Any]:
    """Read an evaluation file.

    Args:
        offline_too: whether the account of `train --offline` may stand in its place.

    Raises:
        MissingInputError: not there; DamagedFileError: not an evaluation of this format.
    """
    value, remedy = read_json(path, _MADE_BY), f"make one with: {_MADE_BY}"
    account = offline_too and isinstance(value, dict) and "estimates" in value and "results" not in value
    if not isinstance(value, dict) or not (account or "results" in value):
        raise DamagedFileError(f"{path} is not an evaluation", remedy)
    if type(value.get("format_version")) is not int or value["format_version"] != FORMAT_VERSION:
        said = shortened(value.get("format_version"))
        raise DamagedFileError(
            f"{path} has format version {said}, this harden reads {FORMAT_VERSION}", remedy
        )
    try:
        (OfflineFile if account else EvaluationFile).model_validate(value)
    except ValidationError as error:
        raise DamagedFileError(
            f"{path} is not an evaluation: {first_problem(error, value)}", remedy
        ) from None
    return value


def load_curve(path: Path) -> dict[str, list[float]]:
    """Read a learning curve: its columns by name.

    Raises:
        MissingInputError: not there; DamagedFileError: not a table of numbers.
    """
    try:
        reader = csv.DictReader(io.StringIO(read_text(path), newline=""))
        rows, names = list(reader), reader.fieldnames or ()
        for column in _DRAWN:
            if column not in names:
                raise ValueError(f"it has no column '{column}'")
        curve = {key: [float(row[key]) for row in rows] for key in names}
        for column in _DRAWN:
            if not all(map(math.isfinite, curve[column])):
                raise ValueError(f"a number in column '{column}' is not finite")
        return curve
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
    folder = _folder(path)
    (title,) = titles([path])
    if not folder.is_dir():
        evaluation = load_evaluation(path, offline_too=True)
        return Reported(title, evaluation, None, _manifest(evaluation, path.parent))
    file = folder / _EVALUATION
    if not file.is_file():
        raise MissingInputError(f"{file} is missing", _remedy(folder, file))
    curve, evaluation = folder / _CURVE, load_evaluation(file)
    learned = load_curve(curve) if curve.is_file() else None
    return Reported(title, evaluation, learned, _manifest(evaluation, folder))


def run_files(path: Path) -> list[Path]:
    """Return the files that `load_run` reads an evaluation and a learning curve from."""
    folder = _folder(path)
    return [folder / name for name in (_EVALUATION, _CURVE)] if folder.is_dir() else [folder]


def _folder(path: Path) -> Path:
    """Return a path as it is, or the run's folder where it is a run's name."""
    named = Path("checkpoints") / path
    return path if path.is_dir() or not named.is_dir() else named


def _remedy(folder: Path, file: Path) -> str:
    if folder.parent == Path("checkpoints"):
        return f"make it with: harden evaluate -p {folder.name}"
    if (folder / "policy.safetensors").is_file():
        return f"make it with: harden evaluate --policy {folder} --json {file}"
    return "name a run, a policy's folder that holds one, or the file that harden evaluate --json wrote"


def load_runs(paths: Sequence[Path]) -> list[Reported]:
    """Read several, as `load_run` does, and give each a title of its own."""
    return [load_run(path)._replace(title=title) for path, title in zip(paths, titles(paths), strict=True)]


def titles(paths: Sequence[Path]) -> list[str]:
    """Return the names of files or folders, each with as many of its parents as tell it from the others."""
    parts = []
    for path in paths:
        # a folder may be given as "."
        whole = Path(os.path.abspath(path))
        parts.append((*whole.parts[1:-1], whole.name if path.is_dir() else whole.stem))
    named = []
    for place, part in enumerate(parts):
        others = {other for other in parts if other != part}
        apart = (n for n in range(1, len(part)) if all(other[-n:] != part[-n:] for other in others))
        name = "/".join(part[-next(apart, len(part)) :])
        # one may have been given twice, or be a folder and a file of one name
        before = parts[:place].count(part)
        named.append(f"{name} ({before + 1})" if before else name)
    return named


def _manifest(evaluation: dict[str, Any], beside: Path) -> dict[str, Any] | None:
    """Return the manifest of the policy that an evaluation is of, None where it is nowhere to be found."""
    policy = evaluation["policy"]
    for folder in (beside, beside / "policy", Path(str(policy["path"]))):
        # what is not there, or can't be read, tells nothing
        with suppress(HardenError):
            found = read_json(folder / "manifest.json", "harden train")
            digest = found.get("policy_digest") if isinstance(found, dict) else None
            if digest and digest == policy.get("policy_digest"):
                return found
    return None


def _training(one: Reported) -> tuple[str, int] | None:
    """Return all that a policy's training was given but its seed, and the seed; None where nobody knows."""
    manifest = one.manifest or {}
    config = manifest.get("config")
    # imported and cloned policies were not made by the configuration beside them
    if not isinstance(config, dict) or "made_by" in manifest:
        return None
    free = {name: value for name, value in config.items() if name not in ("seed", "evaluate")}
    if isinstance(free.get("collect"), dict):
        free["collect"] = {name: value for name, value in free["collect"].items() if name != "workers"}
    offline = manifest.get("offline")
    data = offline.get("data") if isinstance(offline, dict) else offline
    return json.dumps([free, manifest.get("origin"), data], sort_keys=True), config.get("seed", 0)


def seeds_of_one(shown: Sequence[Reported]) -> list[list[int]]:
    """Return the places of policies that are known to differ in nothing but their training's seed."""
    groups: dict[str, list[tuple[int, int]]] = {}
    for place, one in enumerate(shown):
        known = _training(one)
        if known is not None:
            groups.setdefault(known[0], []).append((place, known[1]))
    several = [group for group in groups.values() if len({seed for _, seed in group}) == len(group) > 1]
    return [[place for place, _ in group] for group in several]
