"""Minari's data sets, by the minari package: a group an episode, with one observation more than actions.

The package reads whatever a file's links lead to: a file is looked through before the package opens it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium
import h5py
import numpy as np
import torch

from harden.data.dataset import Dataset
from harden.data.episodes import episodes
from harden.data.formats.log import ImportOptions, Log, LogFile, settle_ends
from harden.data.hdf5 import open_hdf5, read_strings, require_stored_here, reserve_hdf5
from harden.data.manifest import Attributes, parse_attributes, shard_attributes
from harden.data.shard import check_values
from harden.errors import DamagedFileError, InputError, foreign_errors
from harden.storage.files import read_json, storage_errors
from harden.storage.folders import whole_folder
from harden.types import Transitions

_FILE = "main_data.hdf5"
_EPISODE = re.compile(r"episode_[0-9]{1,9}")
_ID = re.compile(r"[-_\w]+-v[0-9]+")
_LOOK_SECONDS = 600.0
# what HDF5 writes of an episode beside its numbers
_EPISODE_ROOM = 1 << 15


def find_minari(path: Path) -> Path:
    """Return the HDF5 file of a Minari data set: of its folder, of the `data` in it, or itself."""
    return next((file for file in (path / "data" / _FILE, path / _FILE) if file.is_file()), path)


def _package() -> Any:
    """Return the package's class that reads and writes; InputError: the package is not installed."""
    try:
        from minari.dataset.minari_storage import MinariStorage
    except ImportError:
        raise InputError("minari is not installed", "install it with: pip install 'harden[minari]'") from None
    return MinariStorage


def read_minari(path: Path, options: ImportOptions) -> Log:
    """Read a Minari data set.

    Args:
        path: its folder, or its HDF5 file.
        options: what the user says of it; the cost key is one of the infos, "cost" where not given.

    Raises:
        MissingInputError, DamagedFileError: as `open_hdf5`; links out of the file, episodes missing or of
            other shapes.
        InputError: the package is not installed, no costs, data that are not vectors, an episode longer than
            the horizon, or ends that can't be told apart.
    """
    log = LogFile(find_minari(path), options)
    storage, stated, own = _open(log)
    # what harden wrote itself was flagged by harden
    choice = options.at_horizon or ("terminal" if own else None)
    log.options = options._replace(horizon=stated.horizon, at_horizon=choice)
    with foreign_errors(f"{log.path} is not a whole Minari data set", kind=DamagedFileError):
        episodes = enumerate(storage.get_episodes(range(storage.total_episodes)))
        parts = [_transitions(log, f": episode {number}", episode) for number, episode in episodes]
    if len({(part.obs.shape[1], part.actions.shape[1]) for part in parts}) != 1:
        raise DamagedFileError(f"{log.path}: episodes of different shapes")
    data = Transitions(*map(torch.cat, zip(*parts, strict=True)))
    lengths = np.array([len(part.rewards) for part in parts])
    last = torch.from_numpy(lengths.cumsum() - 1)
    terminals, timeouts = data.terminals[last].numpy(), data.timeouts[last].numpy()
    endless = ~(terminals | timeouts)
    if endless.any():
        log.notes.append(f"{int(endless.sum())} episodes have no end: their last step is taken for a timeout")
    ends = settle_ends(log, lengths, terminals, timeouts | endless)
    data.terminals[last], data.timeouts[last] = map(torch.from_numpy, ends)
    return log.finish(stated, data)


def _open(log: LogFile) -> tuple[Any, Attributes, bool]:
    """Return the package's reader of a data set, what the set says of itself, and whether harden wrote it."""
    package, file = _package(), log.path
    with open_hdf5(file, "make it with the minari package") as opened:
        count = read_strings(opened, lambda: _look_through(opened), _LOOK_SECONDS)
    beside = file.with_name("metadata.json")
    metadata = read_json(beside, "the minari package")
    # without spaces the package would make the environment that the metadata name: anybody's code
    needed = {"observation_space", "action_space", "total_episodes"}
    if not isinstance(metadata, dict) or not needed <= set(metadata):
        raise DamagedFileError(f"{beside} is not Minari's metadata")
    if metadata.get("data_format") != "hdf5":
        raise InputError(f"{beside}: data_format {metadata.get('data_format')!r}", "harden reads only hdf5")
    if metadata["total_episodes"] != count or not count:
        raise DamagedFileError(f"{file}: {count} episodes, {metadata['total_episodes']!r} in its metadata")
    stated, spec = metadata.get("harden", {}), metadata.get("env_spec")
    with foreign_errors(f"{beside}: the environment can't be read", kind=DamagedFileError):
        if isinstance(spec, str):
            environment = json.loads(spec)
            stated = {"env_id": environment.get("id"), "horizon": environment.get("max_episode_steps")}
        # an environment without a time limit says null
        stated = {name: stated[name] for name in Attributes._fields if stated.get(name) is not None}
    stated |= {name: value for name in ("env_id", "horizon") if (value := getattr(log.options, name))}
    with foreign_errors(f"{beside} is not a whole Minari data set's", kind=DamagedFileError):
        storage = package.read(file.parent.absolute())
    return storage, parse_attributes(stated, str(beside)), "behaviour" in stated


def _look_through(file: h5py.File) -> int:
    """Return how many episodes a file holds, after a look at all its links, arrays and strings."""

    # h5py ends its walk with the first thing that is returned, and loses what is raised
    def outside(name: str, link: object) -> str | None:
        return None if isinstance(link, h5py.HardLink | h5py.SoftLink) else name

    def problem(name: str, item: h5py.Group | h5py.Dataset) -> Exception | None:
        try:
            dict(item.attrs)
            if isinstance(item, h5py.Dataset) and item.shape is not None:
                require_stored_here(item, name)
                if item.dtype.kind == "O":
                    item[()]
        except Exception as error:
            return error
        return None

    elsewhere = file.visititems_links(outside)
    if elsewhere is not None:
        raise DamagedFileError(f"{file.filename} is refused: {elsewhere!r} is a link that leads elsewhere")
    error = file.visititems(problem)
    if error is not None:
        raise error
    return sum(1 for name in file if _EPISODE.fullmatch(name))


def _transitions(log: LogFile, part: str, episode: dict[str, Any]) -> Transitions:
    where, infos, cost_key = f"{log.path}{part}", episode["infos"] or {}, log.options.cost_key or "cost"
    if not isinstance(infos.get(cost_key), np.ndarray):
        remedy = f"name the info that holds the costs with --cost-key: {', '.join(infos) or 'none'}"
        raise InputError(f"{where} has no infos/{cost_key}", remedy)
    names = ("observations", "actions", "rewards", "terminations", "truncations")
    arrays = {name: np.asarray(episode[name]) for name in names} | {"costs": infos[cost_key]}
    rows = len(arrays["rewards"])
    # the infos' first entry is the reset's, where the collector was there to see it
    lengths = {name: len(values) - (name == "observations") for name, values in arrays.items()}
    lengths["costs"] -= lengths["costs"] == rows + 1
    if set(lengths.values()) != {rows} or not rows:
        raise DamagedFileError(
            f"{where}: {lengths} steps; Minari keeps one observation more, of all else as many"
        )
    obs, actions, rewards, costs = (
        torch.from_numpy(log.to_float32(arrays[name], ndim, name, part))
        for name, ndim in (("observations", 2), ("actions", 2), ("rewards", 1), ("costs", 1))
    )
    terminals, timeouts = (torch.from_numpy(arrays[name].astype(bool)) for name in names[3:])
    if bool((terminals | timeouts)[:-1].any()):
        raise DamagedFileError(f"{where} ends before its last step")
    data = Transitions(obs[:-1], actions, rewards, costs[-rows:], obs[1:], terminals, timeouts)
    check_values(data._replace(timeouts=timeouts & ~terminals), where)
    return data


def write_minari(dataset: Dataset, path: Path) -> list[str]:
    """Write a data set as Minari's, so that `minari.load_dataset` reads it.

    Args:
        path: the folder to be made; it is named like the data set's id.

    Returns:
        What the layout can't express.

    Raises:
        InputError: the package is not installed, not an id, something is there already, or steps that do not
            share an observation.
    """
    package = _package()
    from minari import __version__

    if not _ID.fullmatch(path.name):
        raise InputError(f"'{path.name}' is no Minari id", "name the folder like the data set: NAME-v0")
    info = dataset.info
    obs_space, action_space = (
        gymnasium.spaces.Box(-np.inf, np.inf, (size,), np.float32) for size in (info.obs_dim, info.act_dim)
    )
    with whole_folder(path) as aside, storage_errors(path):
        # the package mistakes a path from the working folder for one from its own
        folder = aside.absolute() / "data"
        storage = package.new(folder, obs_space, action_space)
        # the package writes into the file that is there: one with all the room that it will need
        (folder / _FILE).unlink()
        row_bytes = 4 * (2 * info.obs_dim + info.act_dim + 2) + 2
        reserve_hdf5(folder / _FILE, 2 * row_bytes * info.transitions + _EPISODE_ROOM * info.episodes)
        storage.update_episodes(_buffers(dataset))
        about = {"dataset_id": path.name, "minari_version": __version__, "description": "written by harden"}
        storage.update_metadata(about | {"harden": shard_attributes(info, info.provenance)})
    return ["env_spec is left out: minari's recover_environment() will not know the environment"]


def _buffers(dataset: Dataset) -> Iterator[Any]:
    """Yield the episodes as the package takes them.

    Raises:
        InputError: an observation is not the next observation of the step before, to the bit.
    """
    from minari.data_collector import EpisodeBuffer

    for shard, data in dataset.verified_shards():
        for number, episode in enumerate(episodes(data)):
            # compared as bits: -0.0 is not 0.0 to who reads it
            shared = episode.next_obs[:-1].view(torch.int32) == episode.obs[1:].view(torch.int32)
            if not bool(shared.all()):
                row = int(torch.nonzero(~shared)[0][0])
                raise InputError(
                    f"{shard.name}, its episode {number}: what followed step {row} is not what the next saw",
                    "Minari keeps one observation for both: what noise or attack changed goes --to dsrl",
                )
            yield EpisodeBuffer(
                observations=torch.cat((episode.obs, episode.next_obs[-1:])).numpy(),
                actions=episode.actions.numpy(),
                rewards=episode.rewards.numpy(),
                terminations=episode.terminals.numpy(),
                truncations=episode.timeouts.numpy(),
                infos={"cost": np.concatenate((np.zeros(1, np.float32), episode.costs.numpy()))},
            )
