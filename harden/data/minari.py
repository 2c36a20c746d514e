"""Minari's layout on the disk: a group an episode, with one observation more than actions.

Read and written here, not by the minari package: its reader follows whatever links a file holds, and its
writer fills a folder of its own below the user's home. Tests hold both against the package.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
import torch

from harden.data.dataset import Dataset
from harden.data.episodes import SHARD_ROWS, lengths
from harden.data.hdf5 import create_hdf5, numbers, open_hdf5, read_array
from harden.data.manifest import ShardInfo
from harden.data.shard import Provenance, check_values
from harden.data.source import Source, Wanted, check_lengths, check_said, narrow, read_provenance
from harden.errors import DamagedFileError, InputError
from harden.files import read_json, storage_errors, write_json
from harden.folders import whole_folder
from harden.types import Transitions

FILE = "main_data.hdf5"
# the first version that keeps its metadata in a file of its own; later ones read it
_VERSION = "0.5.0"
_ID = re.compile(r"[-_\w]+-v[0-9]+")
_EPISODE = re.compile(r"episode_([0-9]{1,9})")
_MADE_BY = "minari"
# seven objects an episode, and whatever the infos hold
_MAX_OBJECTS = 5_000_000


def find_minari(path: Path) -> Path:
    """Return the HDF5 file of a Minari data set: of its folder, of the `data` in it, or itself."""
    return next((place for place in (path / "data" / FILE, path / FILE) if place.is_file()), path)


class _Episode(NamedTuple):
    """One episode's group."""

    name: str
    rows: int
    provenance: Provenance


def read_minari(path: Path, wanted: Wanted) -> Source:
    """Open a Minari data set for conversion.

    Args:
        path: its folder, or its HDF5 file.
        wanted: what the user says of it; the cost key is one of the infos, "cost" where not given.

    Raises:
        MissingInputError, DamagedFileError: as `open_hdf5`; episodes missing or of other shapes.
        InputError: no costs, data that are not vectors, or an episode longer than the horizon.
    """
    file_path = find_minari(path)
    cost_key = wanted.cost_key or "cost"
    notes: list[str] = []
    with open_hdf5(file_path, _MADE_BY, _MAX_OBJECTS) as file:
        count = sum(1 for name in file if _EPISODE.fullmatch(name))
        names = [f"episode_{i}" for i in range(count)]
        if not count or not all(name in file for name in names):
            raise DamagedFileError(f"{file_path} does not hold episode_0, episode_1, ... without a gap")
        episodes = [_episode(file[name], cost_key) for name in names]
        obs_dim, act_dim = (int(numbers(file[names[0]], key).shape[1]) for key in ("observations", "actions"))
        env_id, horizon = _task(file_path, file, wanted)
        check_lengths(max(episode.rows for episode in episodes), horizon, file_path)
    kind = env_id, horizon, obs_dim, act_dim
    return Source(*kind, _chunks(file_path, episodes, cost_key, notes), notes)


def _episode(group: h5py.Group, cost_key: str) -> _Episode:
    where = f"{group.file.filename}: {group.name}"
    for key in ("observations", "actions"):
        if isinstance(group.get(key), h5py.Group) or numbers(group, key).ndim != 2:
            raise InputError(
                f"{where}/{key} is not (steps, coordinates)",
                "harden learns from vectors, stored as one array",
            )
    rows = len(numbers(group, "rewards"))
    if len(numbers(group, "observations")) != rows + 1 or not rows:
        raise DamagedFileError(f"{where} has {rows} steps; Minari keeps one observation more than steps")
    infos = group.get("infos")
    if not isinstance(infos, h5py.Group) or cost_key not in infos:
        others = ", ".join(infos) if isinstance(infos, h5py.Group) else "none"
        raise InputError(
            f"{where} has no infos/{cost_key}",
            f"name the info that holds the costs with --cost-key: {others}",
        )
    return _Episode(group.name, rows, read_provenance(group, "harden_"))


def _task(path: Path, file: h5py.File, wanted: Wanted) -> tuple[str, int]:
    """Return the environment and the time limit, "" and 0 where neither the user nor the data set says."""
    beside = path.with_name("metadata.json")
    about: Any = read_json(beside, _MADE_BY) if beside.is_file() else dict(file.attrs)
    if not isinstance(about, dict):
        raise DamagedFileError(f"{beside} is not Minari's metadata")
    spec = about.get("env_spec")
    found: Any = json.loads(spec) if isinstance(spec, str) else about.get("harden", {})
    # an environment without a time limit says null
    env_id, horizon = found.get("id") or "", found.get("max_episode_steps") or 0
    return (
        wanted.env_id or check_said(env_id, "", f"{path}: the environment's id"),
        wanted.horizon or check_said(horizon, 0, f"{path}: max_episode_steps"),
    )


def _chunks(
    path: Path, episodes: list[_Episode], cost_key: str, notes: list[str]
) -> Iterator[tuple[Provenance, Transitions]]:
    """Yield whole episodes, a shard at a time."""
    said: Counter[str] = Counter()
    rounded: set[str] = set()
    start = 0
    while start < len(episodes):
        stop, rows = start, 0
        while stop < len(episodes) and episodes[stop].provenance == episodes[start].provenance:
            rows += episodes[stop].rows
            if rows > SHARD_ROWS and stop > start:
                break
            stop += 1
        with open_hdf5(path, _MADE_BY, _MAX_OBJECTS) as file:
            parts = [
                _read(file[episode.name], episode, cost_key, said, rounded)
                for episode in episodes[start:stop]
            ]
        if len({(part.obs.shape[1], part.actions.shape[1]) for part in parts}) != 1:
            raise DamagedFileError(f"{path}: episodes of different shapes")
        yield episodes[start].provenance, Transitions(*map(torch.cat, zip(*parts, strict=True)))
        start = stop
    notes += [f"{count} {what}" for what, count in said.items()]
    if rounded:
        notes.append(f"rounded to float32, which is what harden keeps: {', '.join(sorted(rounded))}")


def _read(
    group: h5py.Group, episode: _Episode, cost_key: str, said: Counter[str], rounded: set[str]
) -> Transitions:
    where, rows = f"{group.file.filename}: {episode.name}", episode.rows
    columns = {
        key: narrow(numbers(group, key)[()], ndim, f"{where} '{key}'", rounded)
        for key, ndim in (("observations", 2), ("actions", 2), ("rewards", 1))
    }
    costs = narrow(numbers(group["infos"], cost_key)[()], 1, f"{where} '{cost_key}'", rounded)
    # the infos' first entry is the reset's, where the collector was there to see it
    costs = costs[1:] if len(costs) == rows + 1 else costs
    whole = slice(None)
    terminals, timeouts = (
        torch.from_numpy(read_array(group, key, np.bool_, whole, 1))
        for key in ("terminations", "truncations")
    )
    if {len(column) for column in (columns["actions"], costs, terminals, timeouts)} != {rows}:
        raise DamagedFileError(f"{where} has arrays of different lengths")
    if bool((terminals | timeouts)[:-1].any()):
        raise DamagedFileError(f"{where} ends before its last step")
    if bool(terminals[-1] & timeouts[-1]):
        said["episodes were terminated and truncated at once: kept as terminals"] += 1
        timeouts = timeouts & ~terminals
    elif not bool(terminals[-1] | timeouts[-1]):
        said["episodes have no end: their last step is taken for a timeout"] += 1
        timeouts = timeouts.clone()
        timeouts[-1] = True
    obs = columns["observations"]
    data = Transitions(obs[:-1], columns["actions"], columns["rewards"], costs, obs[1:], terminals, timeouts)
    check_values(data, where)
    return data


def write_minari(dataset: Dataset, path: Path) -> list[str]:
    """Write a data set as Minari's, so that `minari.load_dataset` reads it.

    Args:
        dataset: what is written.
        path: the folder to be made; it is named like the data set's id.

    Returns:
        What the layout can't express.

    Raises:
        InputError: not an id, something is there already, or steps that do not share an observation.
    """
    if not _ID.fullmatch(path.name):
        raise InputError(
            f"'{path.name}' is no Minari id", "a Minari data set's folder is named like it: NAME-v0"
        )
    info = dataset.info
    with whole_folder(path) as aside:
        folder = aside / "data"
        folder.mkdir()
        with storage_errors(path), create_hdf5(folder / FILE) as file:
            number = 0
            for shard, data in dataset.shards():
                for part in zip(*(column.split(lengths(data).tolist()) for column in data), strict=True):
                    _write(file.create_group(f"episode_{number}"), number, Transitions(*part), shard)
                    number += 1
        size = (folder / FILE).stat().st_size / 1e6
        about = {
            "dataset_id": path.name,
            "minari_version": _VERSION,
            "data_format": "hdf5",
            "total_episodes": info.episodes,
            "total_steps": info.transitions,
            "dataset_size": round(size, 1),
            "observation_space": _space(info.obs_dim),
            "action_space": _space(info.act_dim),
            "description": "written by harden",
            "harden": {"id": info.env_id, "max_episode_steps": info.horizon},
        }
        write_json(folder / "metadata.json", about)
    return ["env_spec is left out: minari's recover_environment() will not know the environment"]


def _write(group: h5py.Group, number: int, data: Transitions, shard: ShardInfo) -> None:
    # compared as bits: -0.0 is not 0.0 to who reads it
    shared = data.next_obs[:-1].view(torch.int32) == data.obs[1:].view(torch.int32)
    if not bool(shared.all()):
        row = int(torch.nonzero(~shared)[0][0])
        raise InputError(
            f"{shard.name}, episode {number}: the next observation of step {row} is not step {row + 1}'s",
            "Minari keeps one observation for both (these were collected under noise or attack): "
            "export with --to dsrl",
        )
    zero = torch.zeros(1, dtype=data.costs.dtype)
    group.attrs.update({"id": number, "total_steps": len(data.rewards)})
    group.attrs.update({f"harden_{key}": value for key, value in shard.provenance._asdict().items()})
    for key, values in (
        ("observations", torch.cat((data.obs, data.next_obs[-1:]))),
        ("actions", data.actions),
        ("rewards", data.rewards),
        ("terminations", data.terminals),
        ("truncations", data.timeouts),
        ("infos/cost", torch.cat((zero, data.costs))),
    ):
        group.create_dataset(key, data=values.numpy())


def _space(size: int) -> str:
    """Return Minari's description of the space of all vectors of a size."""
    bound = [float("inf")] * size
    low = [-value for value in bound]
    return json.dumps({"type": "Box", "dtype": "float32", "shape": [size], "low": low, "high": bound})
