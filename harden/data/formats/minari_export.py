"""Export to Minari's layout, by the minari package."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch

from harden.data.dataset import Dataset
from harden.data.episodes import lengths
from harden.data.formats.minari import FILE, storage_class
from harden.data.hdf5 import reserve_hdf5
from harden.data.manifest import ShardInfo
from harden.errors import InputError
from harden.storage.files import storage_errors
from harden.storage.folders import whole_folder
from harden.types import Transitions

_ID = re.compile(r"[-_\w]+-v[0-9]+")
# what HDF5 writes of an episode beside its numbers
_EPISODE_ROOM = 1 << 15


def write_minari(dataset: Dataset, path: Path) -> list[str]:
    """Write a data set as Minari's, so that `minari.load_dataset` reads it.

    Args:
        dataset: what is written.
        path: the folder to be made; it is named like the data set's id.

    Returns:
        What the layout can't express.

    Raises:
        InputError: the package is not installed, not an id, something is there already, or steps that do not
            share an observation.
    """
    writer = storage_class()
    from minari import __version__

    if not _ID.fullmatch(path.name):
        raise InputError(
            f"'{path.name}' is no Minari id", "a Minari data set's folder is named like it: NAME-v0"
        )
    info = dataset.info
    obs_space, action_space = (
        gymnasium.spaces.Box(-np.inf, np.inf, (size,), np.float32) for size in (info.obs_dim, info.act_dim)
    )
    provenances: list[dict[str, Any]] = []
    with whole_folder(path) as aside, storage_errors(path):
        # the package mistakes a path from the working folder for one from its own
        folder = aside.absolute() / "data"
        storage = writer.new(folder, obs_space, action_space)
        row_bytes = 4 * (2 * info.obs_dim + info.act_dim + 2) + 2
        # the package writes into the file that is there: one with all the room that it will need
        (folder / FILE).unlink()
        room = 2 * row_bytes * info.transitions + _EPISODE_ROOM * info.episodes
        reserve_hdf5(folder / FILE, {}, {}, room)
        storage.update_episodes(_buffers(dataset, provenances))
        storage.update_episode_metadata(provenances)
        storage.update_metadata(
            {
                "dataset_id": path.name,
                "minari_version": __version__,
                "description": "written by harden",
                "harden": {"id": info.env_id, "max_episode_steps": info.horizon},
            }
        )
    return ["env_spec is left out: minari's recover_environment() will not know the environment"]


def _buffers(dataset: Dataset, provenances: list[dict[str, Any]]) -> Iterator[Any]:
    """Yield the episodes as the package takes them, and put where each comes from into `provenances`."""
    from minari.data_collector import EpisodeBuffer

    for shard, data in dataset.verified_shards():
        for part in zip(*(column.split(lengths(data).tolist()) for column in data), strict=True):
            episode = Transitions(*part)
            _require_shared(episode, shard, len(provenances))
            provenances.append({f"harden_{key}": value for key, value in shard.provenance._asdict().items()})
            yield EpisodeBuffer(
                observations=torch.cat((episode.obs, episode.next_obs[-1:])).numpy(),
                actions=episode.actions.numpy(),
                rewards=episode.rewards.numpy(),
                terminations=episode.terminals.numpy(),
                truncations=episode.timeouts.numpy(),
                infos={"cost": np.concatenate((np.zeros(1, np.float32), episode.costs.numpy()))},
            )


def _require_shared(episode: Transitions, shard: ShardInfo, number: int) -> None:
    # compared as bits: -0.0 is not 0.0 to who reads it
    shared = episode.next_obs[:-1].view(torch.int32) == episode.obs[1:].view(torch.int32)
    if not bool(shared.all()):
        row = int(torch.nonzero(~shared)[0][0])
        raise InputError(
            f"{shard.name}, episode {number}: the next observation of step {row} is not step {row + 1}'s",
            "Minari keeps one observation for both (these were collected under noise or attack): "
            "export with --to dsrl",
        )
