"""Flat layouts: DSRL's, which is a shard's own, and D4RL's, which may lack costs and next observations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch

from harden.data.dataset import Dataset
from harden.data.formats.ends import find_ends, rows_alike_at_end
from harden.data.formats.log import ImportOptions, Log, check_lengths, note_rounded, to_float32
from harden.data.hdf5 import attributes, numbers, open_hdf5, read_array
from harden.data.manifest import Attributes, parse_attributes
from harden.data.shard import LAYOUT, check_values, write_shard
from harden.errors import DamagedFileError, InputError
from harden.types import Transitions

# what holds of a file that harden wrote and flagged itself, attacked data among it
_OWN: dict[str, Any] = {"at_horizon": "terminal", "at_break": "keep", "shift": 0, "tail": "keep"}
_NAMES = [name for name, _, _ in LAYOUT.values()]


def read_dsrl(path: Path, options: ImportOptions) -> Log:
    """Read a file in DSRL's layout, in which all arrays but the timeouts are there; errors as `read_d4rl`."""
    return _read(path, options, optional={"costs", "timeouts"})


def read_d4rl(path: Path, options: ImportOptions) -> Log:
    """Read a file in D4RL's layout, which may have no next observations.

    Raises:
        MissingInputError, DamagedFileError: as `open_hdf5`; arrays missing or of other shapes.
        InputError: no costs, no way to tell where episodes end, one longer than the horizon, or observations
            that contradict the flags.
    """
    return _read(path, options, optional={"costs", "timeouts", "next_observations"})


def write_dsrl(dataset: Dataset, path: Path) -> list[str]:
    """Write a data set as one file in the DSRL layout, by way of memory.

    Returns:
        What the layout can't express; nothing.

    Raises:
        StorageError: no room; DamagedFileError: a shard is damaged; InputError: it does not fit into memory.
    """
    parts = [data for _, data in dataset.verified_shards()]
    write_shard(
        path, Transitions(*map(torch.cat, zip(*parts, strict=True))), dataset.info, dataset.info.provenance
    )
    return []


def _read(path: Path, options: ImportOptions, optional: set[str]) -> Log:
    notes: list[str] = []
    rounded: set[str] = set()
    with open_hdf5(path, "write it again, or name another file") as file:
        keys = _keys(file, options, optional)
        items = {name: numbers(file, key) for name, key in keys.items()}
        shapes = {name: item.shape for name, item in items.items()}
        if len({shape[:1] for shape in shapes.values()}) != 1 or 0 in shapes["observations"][:1]:
            raise DamagedFileError(f"{path}: arrays of shapes {shapes}; all lengths must be equal and not 0")
        arrays = {
            name: to_float32(items[name][()], ndim, str(path), name, rounded)
            for name, dtype, ndim in LAYOUT.values()
            if dtype is np.float32 and name in items
        }
        flags = {name: _flags(items[name], name) for name in ("terminals", "timeouts") if name in items}
        stated = attributes(file, Attributes._fields)
    if "format_version" in stated and "behaviour" in stated:
        options = options._replace(**{k: v for k, v in _OWN.items() if getattr(options, k) is None})
    stated |= {name: value for name in ("env_id", "horizon") if (value := getattr(options, name))}
    stated.pop("format_version", None)
    header = parse_attributes(stated, str(path))
    options = options._replace(horizon=header.horizon)
    if arrays["observations"].shape != arrays.get("next_observations", arrays["observations"]).shape:
        raise DamagedFileError(f"{path}: observations and next_observations differ in shape")
    if not arrays["observations"].size or not arrays["actions"].size:
        raise DamagedFileError(f"{path}: observations or actions of no width")
    count = _without_tail(path, arrays, options.tail, notes)
    arrays = {name: values[:count] for name, values in arrays.items()}
    flags = {name: values[:count] for name, values in flags.items()}
    obs, next_obs = arrays["observations"], arrays.get("next_observations")
    terminals, timeouts = find_ends(
        path, obs, next_obs, flags["terminals"], flags.get("timeouts"), options, notes
    )
    check_lengths(np.diff(np.flatnonzero(terminals | timeouts), prepend=-1), header.horizon, path)
    arrays |= {"terminals": terminals, "timeouts": timeouts}
    if next_obs is None:
        arrays["next_observations"] = obs
    data = Transitions(*(torch.from_numpy(arrays[name]) for name in _NAMES))
    check_values(data, str(path))
    if next_obs is None:
        notes.append(
            "the file has no next_observations: they are the observations that follow in the same episode; "
            f"the last rows of {int(timeouts.sum())} episodes that the time limit ended are dropped, since "
            f"what followed is not there; the {int(terminals.sum())} that the dynamics ended keep theirs, "
            "with their own observation as the next one"
        )
        data = _derive_next(data)
    note_rounded(rounded, notes)
    return Log(header, data, notes)


def _keys(file: h5py.File, options: ImportOptions, optional: set[str]) -> dict[str, str]:
    """Return which key of the file holds each array of the layout."""
    present = set(file)
    keys = {name: name for name in _NAMES if name in present}
    if options.cost_key:
        keys["costs"] = options.cost_key
    missing = [name for name in _NAMES if name not in keys and name not in optional]
    if missing:
        hint = ", or try --from d4rl" if missing == ["next_observations"] else ""
        raise DamagedFileError(
            f"{file.filename} has no '{missing[0]}'", f"the layout has: {', '.join(_NAMES)}{hint}"
        )
    if "costs" not in keys:
        names: list[str] = []
        file.visit(names.append)
        raise InputError(
            f"{file.filename} has no 'costs'",
            f"name the array that holds them with --cost-key; the file has: {', '.join(names)}",
        )
    return keys


def _flags(item: h5py.Dataset, name: str) -> np.ndarray:
    if item.shape[1:] not in ((), (1,)):
        raise DamagedFileError(f"{item.file.filename}: '{name}' has shape {item.shape}, expected (rows,)")
    return read_array(item, np.bool_).reshape(-1)


def _without_tail(path: Path, arrays: dict[str, np.ndarray], choice: str | None, notes: list[str]) -> int:
    """Return how many rows of a file are data: those that its recorder never filled are not."""
    count = len(arrays["observations"])
    alike = rows_alike_at_end(list(arrays.values()))
    if not alike or choice == "keep":
        return count
    doubt = f"the last {alike:,} rows are all alike, as rows are that were never filled"
    if not choice:
        raise InputError(
            f"{path}: {doubt} (from row {count - alike})",
            "say --tail drop, or --tail keep where the robot stood still",
        )
    if alike == count:
        raise InputError(f"{path}: all its rows are alike", "nothing can be learned from them")
    notes.append(f"{doubt}: dropped")
    return count - alike


def _derive_next(data: Transitions) -> Transitions:
    """Fill in the next observations of a file that has none, from the rows that follow in the same episode.

    The last row of an episode has none that follows. Where the time limit ended it, that row can't be kept,
    and the one before it becomes the last: what that led to is known, and the bootstrap goes on from there.
    Where the dynamics ended it, the row is kept with its own observation there: nothing bootstraps from it.
    """
    ends = data.terminals | data.timeouts
    next_obs = torch.where(ends[:, None], data.obs, data.obs.roll(-1, 0))
    timeouts = data.timeouts.roll(-1, 0) & ~ends
    timeouts[-1] = False
    keep = ~data.timeouts
    return Transitions(*(column[keep] for column in data._replace(next_obs=next_obs, timeouts=timeouts)))
