"""Minari's data sets, written by its package: a group an episode, with one observation more than actions."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch

from harden.data.dataset import Dataset
from harden.data.episodes import episodes
from harden.data.formats.columns import Part
from harden.data.formats.hdf5 import STATED, read_hdf5
from harden.data.formats.log import LogFile
from harden.data.hdf5 import reserve_hdf5
from harden.data.manifest import shard_attributes
from harden.errors import DamagedFileError, InputError, foreign_errors, require_extra
from harden.storage.files import read_json, storage_errors
from harden.storage.folders import whole_folder

_FILE = "main_data.hdf5"
_ID = re.compile(r"[-_\w]+-v[0-9]+")
# what HDF5 writes of an episode beside its numbers
_EPISODE_ROOM = 1 << 15


def find_minari(path: Path) -> Path:
    """Return the HDF5 file of a Minari data set: of its folder, of the `data` in it, or itself."""
    return next((file for file in (path / "data" / _FILE, path / _FILE) if file.is_file()), path)


def read_minari(log: LogFile, path: Path) -> Iterator[Part]:
    """Yield the episodes of a Minari data set by its HDF5 file, with the metadata beside it.

    Raises:
        DamagedFileError: no Minari's, or another number of episodes; InputError: not stored as HDF5.
    """
    beside = path.with_name("metadata.json")
    metadata = read_json(beside, "the minari package")
    with foreign_errors(f"{beside} is not Minari's metadata", kind=DamagedFileError):
        stored, total = metadata.get("data_format"), metadata["total_episodes"]
        stated, spec = metadata.get("harden", {}), metadata.get("env_spec")
        if isinstance(spec, str):
            environment = json.loads(spec)
            stated = {"env_id": environment.get("id"), "horizon": environment.get("max_episode_steps")}
        # an environment without a time limit says null
        log.stated = {name: stated[name] for name in STATED if stated.get(name) is not None}
    if stored != "hdf5":
        raise InputError(f"{beside}: data_format {stored!r}", "harden reads only hdf5")
    log.names |= {"cost": "infos/cost", "terminal": "terminations", "timeout": "truncations"}
    count = 0
    for part in read_hdf5(log, path):
        count += 1
        yield part
    if total != count:
        raise DamagedFileError(f"{path}: {count} episodes, {total!r} in its metadata")


def write_minari(dataset: Dataset, path: Path) -> list[str]:
    """Write a data set as Minari's, so that `minari.load_dataset` reads it; returns what it can't express.

    Args:
        path: the folder to be made; it is named like the data set's id.

    Raises:
        InputError: the package is not installed, not an id, something is there already, or steps that do not
            share an observation.
    """
    require_extra("minari", "minari")
    from minari import __version__
    from minari.dataset.minari_storage import MinariStorage

    if not _ID.fullmatch(path.name):
        raise InputError(f"'{path.name}' is no Minari id", "name the folder like the data set: NAME-v0")
    info = dataset.info
    box, sizes = gymnasium.spaces.Box, (info.obs_dim, info.act_dim)
    obs_space, action_space = (box(-np.inf, np.inf, (size,), np.float32) for size in sizes)
    with whole_folder(path) as aside, storage_errors(path):
        # the package mistakes a path from the working folder for one from its own
        folder = aside.absolute() / "data"
        storage = MinariStorage.new(folder, obs_space, action_space)
        # the package writes into the file that is there: one with all the room that it will need
        (folder / _FILE).unlink()
        row_bytes = 4 * (2 * info.obs_dim + info.act_dim + 2) + 2
        reserve_hdf5(folder / _FILE, 2 * row_bytes * info.transitions + _EPISODE_ROOM * info.episodes)
        storage.update_episodes(_buffers(dataset))
        about = {"dataset_id": path.name, "minari_version": __version__, "description": "written by harden"}
        storage.update_metadata(about | {"harden": shard_attributes(info, info.provenance)})
    return ["env_spec is left out: minari's recover_environment() will not know the environment"]


def _buffers(dataset: Dataset) -> Iterator[Any]:
    """Yield the episodes as the package takes them; InputError: steps that do not share an observation."""
    from minari.data_collector import EpisodeBuffer

    for shard, data in dataset.verified_shards():
        for number, episode in enumerate(episodes(data)):
            # compared as bits: -0.0 is not 0.0 to who reads it
            shared = episode.next_obs[:-1].view(torch.int32) == episode.obs[1:].view(torch.int32)
            if not bool(shared.all()):
                row = int(torch.nonzero(~shared)[0][0])
                what = f"{shard.name}, its episode {number}: what followed step {row} is not what came next"
                raise InputError(what, "Minari keeps one observation for both: export it --to dsrl")
            yield EpisodeBuffer(
                observations=torch.cat((episode.obs, episode.next_obs[-1:])).numpy(),
                actions=episode.actions.numpy(),
                rewards=episode.rewards.numpy(),
                terminations=episode.terminals.numpy(),
                truncations=episode.timeouts.numpy(),
                infos={"cost": np.concatenate((np.zeros(1, np.float32), episode.costs.numpy()))},
            )
