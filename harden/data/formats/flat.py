"""Flat layouts: DSRL's, which is a shard's own, and D4RL's, which may lack costs and next observations."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
import torch

from harden.data.ends import Choices, check_breaks, check_flags, limit_ends, settle_ends, shift_flags
from harden.data.episodes import batches, derive_next
from harden.data.follow import alike_at_end, look_at_steps
from harden.data.hdf5 import attributes, numbers, open_hdf5, read_array
from harden.data.header import ATTRIBUTES, MOST_SEED, Provenance, parse_attributes
from harden.data.shard import LAYOUT, check_values
from harden.data.source import Source, Wanted, check_lengths, narrow
from harden.errors import DamagedFileError, InputError
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
        InputError: no costs, no way to tell where episodes end, one longer than the horizon, or observations
            that contradict the flags.
    """
    notes: list[str] = []
    with open_hdf5(path, _MADE_BY) as file:
        arrays = _arrays(file, wanted, strict)
        items = {name: numbers(file, key) for name, key in arrays.items()}
        rows = {name: item.shape[:1] for name, item in items.items()}
        count = rows["observations"][0] if rows["observations"] else 0
        if set(rows.values()) != {(count,)} or not count:
            raise DamagedFileError(f"{path}: arrays of lengths {rows}; all must be equal and not 0")
        obs_dim, act_dim = (_width(items[name]) for name in ("observations", "actions"))
        if "next_observations" in items and items["next_observations"].shape != items["observations"].shape:
            raise DamagedFileError(f"{path}: observations and next_observations differ in shape")
        said = attributes(file, (*ATTRIBUTES, "provenance"))
        said |= {"env_id": wanted.env_id} if wanted.env_id else {}
        said |= {"horizon": wanted.horizon} if wanted.horizon else {}
        env_id, horizon, provenance = parse_attributes(said, str(path))
        choices = _choices(wanted, said)
        count = _without_tail(path, items, choices.tail, notes)
        terminals, timeouts = _ends(path, items, count, horizon, choices, notes)
    stops = np.flatnonzero(terminals | timeouts) + 1
    check_lengths(int(np.diff(stops, prepend=0).max()), horizon, path)
    parts = _parts(path, said.get("provenance"), provenance, stops)
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


def _choices(wanted: Wanted, said: dict[str, Any]) -> Choices:
    """Return the user's choices; what harden wrote itself, attacked data among it, was flagged by harden."""
    at_horizon, at_break, shift, tail = wanted.choices
    if "format_version" not in said or "behaviour" not in said:
        return wanted.choices
    return Choices(
        at_horizon or "terminal", at_break or "keep", 0 if shift is None else shift, tail or "keep"
    )


def _arrays(file: h5py.File, wanted: Wanted, strict: bool) -> dict[str, str]:
    """Return which key holds each array of the layout."""
    names = [name for name, _, _ in LAYOUT.values()]
    there = set(file)
    arrays = {name: name for name in names if name in there}
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


def _width(item: h5py.Dataset) -> int:
    if item.ndim != 2 or not item.shape[1]:
        name = item.name.lstrip("/")
        raise DamagedFileError(
            f"{item.file.filename}: '{name}' has shape {item.shape}; expected (rows, coordinates)"
        )
    return int(item.shape[1])


def _without_tail(path: Path, items: dict[str, h5py.Dataset], choice: str | None, notes: list[str]) -> int:
    """Return how many rows of a file are data: those that its recorder never filled are not."""
    values = [item for name, item in items.items() if name not in ("terminals", "timeouts")]
    count = len(values[0])
    alike = alike_at_end(values)
    if not alike:
        return count
    said = f"the last {alike:,} rows are all alike, as rows are that were never filled"
    if not choice:
        raise InputError(
            f"{path}: {said} (from row {count - alike})",
            "say --tail drop, or --tail keep where the robot stood still",
        )
    if choice == "keep":
        return count
    notes.append(f"{said}: dropped")
    if alike == count:
        raise InputError(f"{path}: all its rows are alike", "nothing can be learned from them")
    return count - alike


def _flags(items: dict[str, h5py.Dataset], name: str, count: int) -> np.ndarray:
    item = items[name]
    if item.shape[1:] not in ((), (1,)):
        raise DamagedFileError(f"{item.file.filename}: '{name}' has shape {item.shape}, expected (rows,)")
    return read_array(item, np.bool_, slice(count)).reshape(-1)


def _ends(
    path: Path,
    items: dict[str, h5py.Dataset],
    count: int,
    horizon: int,
    choices: Choices,
    notes: list[str],
) -> tuple[np.ndarray, np.ndarray]:
    """Return terminals and timeouts as harden keeps them: apart, and with an end to the last episode."""
    terminals = _flags(items, "terminals", count)
    timeouts = _flags(items, "timeouts", count) if "timeouts" in items else None
    steps = look_at_steps(items["observations"], items.get("next_observations"), count)
    if timeouts is None or not (terminals.any() or timeouts.any()):
        # an array that nobody filled says no more than none
        lacks = "has no 'timeouts'" if timeouts is None else "flags no episode's end"
        timeouts = None
        if horizon:
            notes.append(f"the file {lacks}: an episode without a terminal ends after {horizon} steps")
        elif steps.follows is None or choices.at_break != "timeout":
            broken = "" if steps.follows is None else ", or say --at-break timeout"
            raise InputError(
                f"{path} {lacks}: where the time limit ended an episode can't be told",
                f"name the steps of an episode with --horizon{broken}",
            )

    def flagged(rows: int) -> tuple[np.ndarray, np.ndarray]:
        moved = shift_flags(terminals, rows)
        if timeouts is not None:
            return moved, shift_flags(timeouts, rows)
        return moved, limit_ends(moved, horizon) if horizon else np.zeros_like(moved)

    if choices.shift is None and (terminals.any() or timeouts is not None):
        check_flags(path, lambda rows: np.logical_or(*flagged(rows)), steps)
    terminal, timeout = flagged(choices.shift or 0)
    timeout = timeout | check_breaks(path, terminal | timeout, steps, choices.at_break, notes)
    if not terminal[-1] and not timeout[-1]:
        notes.append("the last episode has no end in the file: its last row is taken for a timeout")
        timeout[-1] = True
    last = np.flatnonzero(terminal | timeout)
    lengths = np.diff(last, prepend=-1)
    terminal[last], timeout[last] = settle_ends(
        path, lengths, terminal[last], timeout[last], horizon, choices.at_horizon, notes
    )
    return terminal, timeout


def _parts(
    path: Path, text: Any, provenance: Provenance, stops: np.ndarray
) -> list[tuple[int, int, Provenance]]:
    """Return the shards to be made: rows from, to, and where they come from."""
    if text is None:
        return [(start, stop, provenance) for start, stop in batches(stops)]
    wrong = DamagedFileError(f"{path}: attribute 'provenance' does not fit the episodes")
    parts, ends, before = [], {0, *stops.tolist()}, 0
    try:
        for entry in json.loads(text):
            after = before + int(entry.pop("transitions"))
            source = Provenance(**entry)
            whole = list(map(type, source)) == [int, str, str] and abs(source.seed) <= MOST_SEED
            if after <= before or after not in ends or not whole:
                raise wrong
            inside = stops[(stops > before) & (stops <= after)] - before
            parts += [(before + start, before + stop, source) for start, stop in batches(inside)]
            before = after
    except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError) as error:
        raise wrong from error
    if before != stops[-1]:
        raise wrong
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
                    found[field] = narrow(values, ndim, f"{path}: '{name}'", rounded, start)
        found["terminals"] = torch.from_numpy(plan.terminals[rows].copy())
        found["timeouts"] = torch.from_numpy(plan.timeouts[rows].copy())
        derived = "next_obs" not in found
        data = Transitions(**(found | {"next_obs": found["obs"]} if derived else found))
        check_values(data, str(path), start)
        data = derive_next(data) if derived else data
        if len(data.rewards):
            yield provenance, data
    if rounded:
        notes.append(f"rounded to float32, which is what harden keeps: {', '.join(sorted(rounded))}")
