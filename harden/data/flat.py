"""Flat layouts: DSRL's, which is a shard's own, and D4RL's, which may lack costs and next observations."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np
import torch

from harden.data.dataset import Dataset
from harden.data.episodes import batches, derive_next, limit_ends
from harden.data.hdf5 import attribute, create_hdf5, numbers, open_hdf5, read_array
from harden.data.manifest import DatasetInfo
from harden.data.shard import LAYOUT, Provenance, check_values, columns, shard_attributes
from harden.data.source import (
    MOST_SEED,
    Source,
    Wanted,
    check_lengths,
    narrow,
    read_provenance,
    read_said,
)
from harden.errors import DamagedFileError, InputError
from harden.files import write_whole
from harden.types import Transitions

_MADE_BY = "the tool that wrote it"


class _Plan(NamedTuple):
    """Where a flat file's episodes end, and which arrays hold what."""

    terminals: np.ndarray
    timeouts: np.ndarray
    arrays: dict[str, str]
    parts: list[tuple[int, int, Provenance]]


def read_flat(path: Path, wanted: Wanted, strict: bool) -> Source:
    """Open a flat file for conversion.

    Args:
        path: the file.
        wanted: what the user says of it.
        strict: DSRL's layout, in which all arrays are there; else D4RL's.

    Raises:
        MissingInputError, DamagedFileError: as `open_hdf5`; arrays missing or of other shapes.
        InputError: no costs, no way to tell where episodes end, or one longer than the horizon.
    """
    notes: list[str] = []
    with open_hdf5(path, _MADE_BY) as file:
        arrays = _arrays(file, wanted, strict)
        rows = {name: numbers(file, key).shape[:1] for name, key in arrays.items()}
        count = rows["observations"][0] if rows["observations"] else 0
        if set(rows.values()) != {(count,)} or not count:
            raise DamagedFileError(f"{path}: arrays of lengths {rows}; all must be equal and not 0")
        env_id = wanted.env_id or read_said(file, "env_id", "")
        horizon = wanted.horizon or read_said(file, "horizon", 0)
        terminals, timeouts = _ends(file, arrays, horizon, notes)
        stops = np.flatnonzero(terminals | timeouts) + 1
        check_lengths(int(np.diff(stops, prepend=0).max()), horizon, path)
        parts = _parts(file, stops)
        obs_dim, act_dim = (_width(file, arrays[name]) for name in ("observations", "actions"))
    if "next_observations" not in arrays:
        dropped = int(timeouts.sum())
        notes.append(
            "the file has no next_observations: they are the observations that follow in the same episode; "
            f"the last rows of {dropped} episodes that the time limit ended are dropped, since what followed "
            f"is not there; the {int(terminals.sum())} that the dynamics ended keep theirs, with their own "
            "observation as the next one"
        )
    plan = _Plan(terminals, timeouts, arrays, parts)
    return Source(env_id, horizon, obs_dim, act_dim, _chunks(path, plan, notes), notes)


def _arrays(file: h5py.File, wanted: Wanted, strict: bool) -> dict[str, str]:
    """Return which key holds each array of the layout."""
    names = [name for name, _, _ in LAYOUT.values()]
    arrays = {name: name for name in names if name in file}
    if wanted.cost_key:
        arrays["costs"] = wanted.cost_key
    optional = set() if strict else {"next_observations"}
    missing = [name for name in names if name not in arrays and name not in optional | {"costs", "timeouts"}]
    if missing:
        hint = ", or try --from d4rl" if strict and missing == ["next_observations"] else ""
        raise DamagedFileError(
            f"{file.filename} has no '{missing[0]}'", f"the layout has: {', '.join(names)}{hint}"
        )
    if "costs" not in arrays:
        raise InputError(f"{file.filename} has no 'costs'", _cost_remedy(file))
    return arrays


def _cost_remedy(file: h5py.File) -> str:
    """Say which arrays could hold the costs."""
    count = numbers(file, "rewards").shape[0]
    found: list[str] = []

    def look(name: str, item: object) -> None:
        if isinstance(item, h5py.Dataset) and item.shape in ((count,), (count, 1)):
            found.append(name)

    file.visititems(look)
    others = [name for name in found if name not in {"rewards", "terminals", "timeouts"}]
    return f"name the array that holds them with --cost-key; of that length: {', '.join(others) or 'none'}"


def _width(file: h5py.File, key: str) -> int:
    item = numbers(file, key)
    if item.ndim != 2 or not item.shape[1]:
        raise DamagedFileError(
            f"{file.filename}: '{key}' has shape {item.shape}; expected (rows, coordinates)"
        )
    return int(item.shape[1])


def _flags(file: h5py.File, key: str) -> np.ndarray:
    ndim = 2 if numbers(file, key).shape[1:] == (1,) else 1
    return read_array(file, key, np.bool_, slice(None), ndim).reshape(-1)


def _ends(
    file: h5py.File, arrays: dict[str, str], horizon: int, notes: list[str]
) -> tuple[np.ndarray, np.ndarray]:
    """Return terminals and timeouts as harden keeps them: apart, and with an end to the last episode."""
    terminals = _flags(file, arrays["terminals"])
    timeouts = _flags(file, arrays["timeouts"]) if "timeouts" in arrays else None
    # an array that nobody filled says no more than none
    if timeouts is None or not (terminals.any() or timeouts.any()):
        lacks = "has no 'timeouts'" if timeouts is None else "flags no episode's end"
        if not horizon:
            raise InputError(
                f"{file.filename} {lacks}: where the time limit ended an episode can't be told",
                "name the steps of an episode with --horizon",
            )
        timeouts = limit_ends(terminals, horizon)
        notes.append(f"the file {lacks}: an episode without a terminal ends after {horizon} steps")
    both = terminals & timeouts
    if both.any():
        notes.append(f"{int(both.sum())} rows are terminal and timeout at once: kept as terminals")
        timeouts = timeouts & ~terminals
    if not terminals[-1] and not timeouts[-1]:
        notes.append("the last episode has no end in the file: its last row is taken for a timeout")
        timeouts[-1] = True
    return terminals, timeouts


def _parts(file: h5py.File, stops: np.ndarray) -> list[tuple[int, int, Provenance]]:
    """Return the shards to be made: rows from, to, and where they come from."""
    text = attribute(file, "provenance", None)
    if text is None:
        provenance = read_provenance(file)
        return [(start, stop, provenance) for start, stop in batches(stops)]
    parts, ends, before = [], {0, *stops.tolist()}, 0
    for entry in json.loads(text):
        after = before + int(entry.pop("transitions"))
        provenance = Provenance(**entry)
        whole = list(map(type, provenance)) == [int, str, str] and abs(provenance.seed) <= MOST_SEED
        if after <= before or after not in ends or not whole:
            raise DamagedFileError(f"{file.filename}: attribute 'provenance' does not fit the episodes")
        inside = stops[(stops > before) & (stops <= after)] - before
        parts += [(before + start, before + stop, provenance) for start, stop in batches(inside)]
        before = after
    if before != stops[-1]:
        raise DamagedFileError(f"{file.filename}: attribute 'provenance' does not fit the episodes")
    return parts


def _chunks(path: Path, plan: _Plan, notes: list[str]) -> Iterator[tuple[Provenance, Transitions]]:
    """Yield whole episodes, a shard at a time."""
    rounded: set[str] = set()
    for start, stop, provenance in plan.parts:
        rows = slice(start, stop)
        found: dict[str, torch.Tensor] = {}
        with open_hdf5(path, _MADE_BY) as file:
            for field, (name, dtype, ndim) in LAYOUT.items():
                if dtype is np.float32 and name in plan.arrays:
                    values = numbers(file, plan.arrays[name])[rows]
                    values = values.reshape(-1) if ndim == 1 and values.shape[1:] == (1,) else values
                    found[field] = narrow(values, ndim, f"{path}: '{name}'", rounded)
        found["terminals"] = torch.from_numpy(plan.terminals[rows].copy())
        found["timeouts"] = torch.from_numpy(plan.timeouts[rows].copy())
        derived = "next_obs" not in found
        data = Transitions(**(found | {"next_obs": found["obs"]} if derived else found))
        if data.obs.shape != data.next_obs.shape:
            raise DamagedFileError(f"{path}: observations and next_observations differ in shape")
        check_values(data, str(path), start)
        data = derive_next(data) if derived else data
        if len(data.rewards):
            yield provenance, data
    if rounded:
        notes.append(f"rounded to float32, which is what harden keeps: {', '.join(sorted(rounded))}")


def write_dsrl(dataset: Dataset, path: Path) -> list[str]:
    """Write a data set as one file in the DSRL layout.

    Returns:
        What the layout can't express; nothing: what it has no place for is kept in root attributes.

    Raises:
        StorageError: no room; DamagedFileError: a shard is damaged.
    """
    info = dataset.info

    def write(aside: Path) -> None:
        with create_hdf5(aside) as file:
            file.attrs.update(shard_attributes(info, _common(info)))
            if len(info.shards) > 1:
                file.attrs["provenance"] = json.dumps(
                    [{"transitions": s.transitions} | s.provenance._asdict() for s in info.shards]
                )
            before = 0
            for _, data in dataset.shards():
                for name, values in columns(data).items():
                    if not before:
                        file.create_dataset(name, (info.transitions, *values.shape[1:]), values.dtype)
                    file[name][before : before + len(values)] = values
                before += len(data.rewards)

    write_whole(path, write)
    return []


def _common(info: DatasetInfo) -> Provenance:
    """Say in one line where all of a data set comes from: attacked where any of it is."""
    first = info.shards[0].provenance
    if all(shard.provenance == first for shard in info.shards):
        return first
    behaviours = {shard.behaviour for shard in info.shards}
    return Provenance(
        behaviour="mc" if info.attacked else min(behaviours) if len(behaviours) == 1 else "mixed"
    )
