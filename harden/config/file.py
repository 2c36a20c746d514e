"""The pipeline file: one TOML, found, read and changed by `--set`, before it is checked in whole."""

from __future__ import annotations

import itertools
import re
import tomllib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from harden.config.pipeline import PipelineConfig, make_config
from harden.config.variants import VARIANTS
from harden.errors import InputError, MissingInputError, known_names
from harden.storage.files import read_text

PRESETS = Path(__file__).parent / "presets"
_PAPER = Path(__file__).parent / "paper.toml"
DEFAULT_PIPELINE = Path("pipelines/ball-circle.toml")


def _merge(tree: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """Return a tree with another one's keys over it."""
    merged = dict(tree)
    for key, value in over.items():
        if isinstance(value, dict):
            below = merged.get(key, {})
            if not isinstance(below, dict):
                raise InputError(f"'{key}' is a value, not a section", "set it without a dot")
            value = _merge(below, value)
        merged[key] = value
    return merged


def assigned(assignments: Sequence[str]) -> dict[str, Any]:
    """Return the sections that assignments such as "mstep.steps=10" make; InputError: one is none."""
    tree: dict[str, Any] = {}
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        if not equals or not key.strip():
            what = f"'--set {assignment}' is not an assignment"
            raise InputError(what, "write it as --set section.key=value")
        value: Any = text
        with suppress(ValueError, RecursionError):
            value = tomllib.loads(f"value = {text}")["value"]
        for name in reversed(key.strip().split(".")):
            value = {name: value}
        tree = _merge(tree, value)
    return tree


def find_pipeline(path: Path) -> Path:
    """Return the pipeline file meant: the path itself, or the pipeline of that name, here or shipped.

    A name is what results are kept under and what other commands are told with -p. InputError: there is none.
    """
    shipped = {file.stem: file for file in PRESETS.glob("*.toml")}
    # a name may be too long to be looked for, or its folder closed
    with suppress(OSError):
        if path.is_file():
            return path
        for folder in ("", "pipelines") if path.name and path.parent == Path() else ():
            if (file := Path(folder) / f"{path.name}.toml").is_file():
                return file
        if path.is_dir() and path.stem not in shipped:
            raise InputError(f"pipeline {path} is a folder", "name a TOML file")
    if path.stem in shipped and (path == DEFAULT_PIPELINE or path.parent.name in ("", "pipelines")):
        return shipped[path.stem]
    remedy = f"{known_names(path.stem, sorted(shipped), 'shipped ones')} (harden init writes them out)"
    raise MissingInputError(f"pipeline {path} is missing", remedy)


def _with_exceptions(tree: dict[str, Any], chosen: Any, where: str) -> dict[str, Any]:
    """Return a file's keys with those over them that it keeps for the variant that runs.

    `[[exceptions]]` names variants and keys; what holds for no variant of it is checked all the same.
    """
    exceptions = tree.pop("exceptions", [])
    variant = chosen or tree.get("variant", PipelineConfig.model_fields["variant"].default)
    merged = tree
    for exception in exceptions if isinstance(exceptions, list) else [exceptions]:
        names = exception.get("variants") if isinstance(exception, dict) else None
        if not isinstance(names, list) or not names:
            raise InputError(f"{where}: exceptions has to name its variants", "begin it: variants = [...]")
        for name in names:
            # what is no text may be no key either
            if not isinstance(name, str) or name not in VARIANTS:
                remedy = known_names(name, VARIANTS)
                raise InputError(f"{where}: exceptions.variants = {name!r}", remedy)
        keys = {key: value for key, value in exception.items() if key != "variants"}
        make_config(_merge(tree, keys), where)
        if variant in names:
            merged = _merge(merged, keys)
    return merged


def paper_settings(task: str, on_policy: bool) -> dict[str, Any]:
    """Return the paper's configuration of a task, as the sections of a pipeline file."""
    tables = tomllib.loads(_PAPER.read_text(encoding="utf-8"))
    family = tables["on-policy" if on_policy else "off-policy"]
    settings = _merge(_merge(tables["all"], family["all"]), family[task])
    for section, name in (key.split(".") for key in family["unset"]):
        settings = _merge(settings, {section: {name: None}})
    return settings


def load_config(path: Path, assignments: Sequence[str] = ()) -> PipelineConfig:
    """Read a pipeline file and apply `key=value` assignments on top of it.

    From the lowest to the highest: the file, its exceptions for the variant, a preset, the assignments.

    Args:
        path: the TOML file.
        assignments: such as "mstep.steps=10"; the value is read as TOML, else as text.

    Raises:
        InputError: no such file, not TOML, an unknown key, a wrong type, a value out of range.
    """
    try:
        tree = tomllib.loads(read_text(path))
    # a ValueError: not TOML, not UTF-8, or a number of thousands of digits
    except (ValueError, RecursionError, OSError) as error:
        raise InputError(f"{path} is not a pipeline file: {error}") from error
    over = assigned(assignments)
    tree = _with_exceptions(tree, over.get("variant"), str(path))
    full, blame = _merge(tree, over), (str(path), assignments)
    if isinstance(full.get("task"), dict):
        full["task"] = {"name": re.sub(r"[^A-Za-z0-9_-]+", "-", path.stem)} | full["task"]
    if full.get("preset") == "paper":
        # checked first: the preset is a row of a task and of a family of variants that have to exist
        names = ("task", "variant", "preset")
        named = make_config({name: full[name] for name in names if name in full}, *blame)
        full = _merge(tree, paper_settings(named.task_row.name, named.variant_row.on_policy))
        full = _merge(full, over)
    return make_config(full, *blame)


def variations(config: PipelineConfig, keys: Mapping[str, Sequence[Any]]) -> list[PipelineConfig]:
    """Return a configuration for each combination of values of some keys of its evaluate section.

    Args:
        keys: values by key, such as {"epsilon": [0.01, 0.05]}; InputError: one that is not allowed.
    """
    tree = config.model_dump()
    return [
        make_config(tree | {"evaluate": tree["evaluate"] | dict(zip(keys, values, strict=True))})
        for values in itertools.product(*keys.values())
    ]
