"""Data sets from and to the formats of others: one row a format."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from harden.data.dataset import Dataset, DatasetWriter
from harden.data.formats.flat import read_flat, write_dsrl
from harden.data.formats.log import ImportOptions, Log
from harden.data.formats.minari import find_minari, read_minari, write_minari
from harden.data.hdf5 import open_hdf5
from harden.data.manifest import DatasetInfo
from harden.errors import InputError, MissingInputError
from harden.storage.folders import require_new, whole_folder

READERS: dict[str, Callable[[Path, ImportOptions], Log]] = {
    "dsrl": read_flat,
    "d4rl": read_flat,
    "minari": read_minari,
}
WRITERS: dict[str, Callable[[Dataset, Path], list[str]]] = {"dsrl": write_dsrl, "minari": write_minari}


class Imported(NamedTuple):
    """What an import brought: the file's format, the data set made of it, and what is not kept as it was."""

    format: str
    info: DatasetInfo
    notes: list[str]


def detect_format(path: Path) -> str:
    """Return the format of a foreign file.

    Raises:
        MissingInputError, DamagedFileError: as `open_hdf5`; InputError: it can't be told.
    """
    if (path / "manifest.json").is_file():
        raise InputError(f"{path} is a data set of harden already", "use it as it is")
    log = find_minari(path)
    if not log.exists():
        raise MissingInputError(f"{path} is missing", "name a file, or the folder of a Minari data set")
    if log.is_dir():
        raise InputError(f"{path} holds no data/main_data.hdf5", "name a file, or a Minari data set's folder")
    with open_hdf5(log, "write it again, or name another file") as file:
        # h5py gives a name that is no UTF-8 as bytes
        names = {name if isinstance(name, str) else repr(name) for name in file}
    if "episode_0" in names:
        return "minari"
    if {"observations", "actions", "rewards", "terminals"} <= names:
        return "dsrl" if {"costs", "next_observations", "timeouts"} <= names else "d4rl"
    held = ", ".join(sorted(names)[:9]) or "nothing"
    remedy = f"convert it to one of: {', '.join(READERS)}"
    raise InputError(f"{path} is in no format that harden knows (it holds: {held})", remedy)


def import_data(
    path: Path, out: Path, source: str | None = None, options: ImportOptions | None = None
) -> Imported:
    """Make a data set of a foreign file, by way of memory.

    Args:
        path: a file, or the folder of a Minari data set.
        source: the format, one of READERS; detected where not given.

    Raises:
        MissingInputError, DamagedFileError: the file is not there, or not of that format.
        InputError: values that nothing may learn from, no costs, a horizon out of range, something at `out`;
            nothing is left behind.
    """
    require_new(out)
    name = source or detect_format(path)
    stated, data, notes = READERS[name](path, options or ImportOptions())
    if not len(data.rewards):
        raise InputError(f"{path} holds no episode of which anything can be kept")
    kind = DatasetInfo(stated.env_id, stated.horizon, data.obs.shape[1], data.actions.shape[1], ())
    with whole_folder(out) as aside, DatasetWriter(aside, kind) as writer:
        writer.append(data, **stated.provenance._asdict())
    return Imported(name, writer.info, notes)


def export_data(path: Path, out: Path, target: str) -> list[str]:
    """Write a data set in a foreign format; returns what that can't express, one line each.

    Raises:
        InputError: something is at `out`, or the format can't hold these data.
    """
    require_new(out)
    return WRITERS[target](Dataset(path), out)
