"""Flat layouts: DSRL's, which is a shard's own, and D4RL's, which may have no next observations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch

from harden.data.dataset import Dataset
from harden.data.formats.log import ImportOptions, Log, LogFile, find_ends, rows_alike_at_end
from harden.data.hdf5 import attributes, numbers, open_hdf5, read_array
from harden.data.manifest import Attributes, parse_attributes
from harden.data.shard import LAYOUT, check_values, write_shard
from harden.errors import DamagedFileError, InputError
from harden.types import Transitions

# what holds of a file that harden wrote and flagged itself, attacked data among it
_OWN: dict[str, Any] = {"at_horizon": "terminal", "at_break": "keep", "shift": 0, "tail": "keep"}
_NAMES = [name for name, _, _ in LAYOUT.values()]


def write_dsrl(dataset: Dataset, path: Path) -> list[str]:
    """Write a data set as one file in the DSRL layout, by way of memory; nothing in it is lost.

    Raises:
        StorageError: no room; DamagedFileError: a shard is damaged; InputError: it does not fit into memory.
    """
    parts = [data for _, data in dataset.verified_shards()]
    data = Transitions(*map(torch.cat, zip(*parts, strict=True)))
    write_shard(path, data, dataset.info, dataset.info.provenance)
    return []


def read_flat(path: Path, options: ImportOptions) -> Log:
    """Read a file in DSRL's or D4RL's layout.

    Raises:
        MissingInputError, DamagedFileError: as `open_hdf5`; arrays missing or of other shapes.
        InputError: no costs, no way to tell where episodes end, one longer than the horizon, or observations
            that contradict the flags.
    """
    log = LogFile(path, options)
    with open_hdf5(path, "write it again, or name another file") as file:
        items = {name: numbers(file, key) for name, key in _keys(file, options).items()}
        shapes = {name: item.shape for name, item in items.items()}
        if len({shape[:1] for shape in shapes.values()}) != 1 or 0 in shapes["observations"][:1]:
            raise DamagedFileError(f"{path}: arrays of shapes {shapes}; all lengths must be equal and not 0")
        arrays = {
            name: log.to_float32(items[name][()], ndim, name)
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
    log.options = options._replace(horizon=header.horizon)
    if arrays["observations"].shape != arrays.get("next_observations", arrays["observations"]).shape:
        raise DamagedFileError(f"{path}: observations and next_observations differ in shape")
    if not arrays["observations"].size or not arrays["actions"].size:
        raise DamagedFileError(f"{path}: observations or actions of no width")
    count = _rows_of_data(log, arrays)
    arrays = {name: values[:count] for name, values in arrays.items()}
    flags = {name: values[:count] for name, values in flags.items()}
    obs, next_obs = arrays["observations"], arrays.get("next_observations")
    terminals, timeouts = find_ends(log, obs, next_obs, flags["terminals"], flags.get("timeouts"))
    arrays = {"next_observations": obs} | arrays | {"terminals": terminals, "timeouts": timeouts}
    data = Transitions(*(torch.from_numpy(arrays[name]) for name in _NAMES))
    check_values(data, str(path))
    if next_obs is None:
        log.notes.append(
            "the file has no next_observations: they are the observations that follow in the same episode; "
            f"the last rows of {int(timeouts.sum())} episodes that the time limit ended are dropped, since "
            f"what followed is not there; the {int(terminals.sum())} that the dynamics ended keep theirs, "
            "with their own observation as the next one"
        )
        data = _derive_next(data)
    return log.finish(header, data)


def _keys(file: h5py.File, options: ImportOptions) -> dict[str, str]:
    """Return which key of the file holds each array of the layout."""
    keys = {name: name for name in _NAMES if name in set(file)}
    if options.cost_key:
        keys["costs"] = options.cost_key
    missing = [name for name in ("observations", "actions", "rewards", "terminals") if name not in keys]
    if missing:
        raise DamagedFileError(
            f"{file.filename} has no '{missing[0]}'", f"the layout has: {', '.join(_NAMES)}"
        )
    if "costs" not in keys:
        names: list[str] = []
        file.visit(names.append)
        remedy = f"name the array that holds them with --cost-key; the file has: {', '.join(names)}"
        raise InputError(f"{file.filename} has no 'costs'", remedy)
    return keys


def _flags(item: h5py.Dataset, name: str) -> np.ndarray:
    if item.shape[1:] not in ((), (1,)):
        raise DamagedFileError(f"{item.file.filename}: '{name}' has shape {item.shape}, expected (rows,)")
    return read_array(item, np.bool_).reshape(-1)


def _rows_of_data(log: LogFile, arrays: dict[str, np.ndarray]) -> int:
    """Return how many rows of a file are data: those that its recorder never filled are not."""
    count, choice = len(arrays["observations"]), log.options.tail
    alike = rows_alike_at_end(list(arrays.values()))
    if not alike or choice == "keep":
        return count
    doubt = f"the last {alike:,} rows are all alike, as rows are that were never filled"
    if not choice:
        remedy = "say --tail drop, or --tail keep where the robot stood still"
        raise InputError(f"{log.path}: {doubt} (from row {count - alike})", remedy)
    if alike == count:
        raise InputError(f"{log.path}: all its rows are alike", "nothing can be learned from them")
    log.notes.append(f"{doubt}: dropped")
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
