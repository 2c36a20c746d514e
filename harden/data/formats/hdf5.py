"""HDF5 under any names: DSRL's layout, which is a shard's own, D4RL's, robomimic's, a group an episode."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import h5py
import torch

from harden.data.dataset import Dataset
from harden.data.formats.columns import Part, natural
from harden.data.formats.log import LogFile
from harden.data.hdf5 import attributes, named_arrays, open_hdf5
from harden.data.manifest import Attributes, listed_shards
from harden.data.shard import read_whole_shard, write_shard
from harden.types import Transitions

# what a log may say of itself
STATED = [name for name in Attributes._fields if name != "format_version"]
_EPISODE = re.compile(r"([A-Za-z_-]*)[0-9]+")


def write_dsrl(dataset: Dataset, path: Path) -> list[str]:
    """Write a data set as one file in the DSRL layout, by way of memory; nothing in it is lost."""
    parts = [data for _, data in dataset.verified_shards()]
    data = Transitions(*map(torch.cat, zip(*parts, strict=True)))
    write_shard(path, data, dataset.info, dataset.info.provenance)
    return []


def read_hdf5(log: LogFile, path: Path, where: str = "", whole: bool = False) -> Iterator[Part]:
    """Yield the parts of an HDF5 file: its groups that are episodes, by their names, or all of it.

    Raises:
        DamagedFileError: as `open_hdf5`; it is a shard, and not what the manifest beside it lists.
    """
    for shard in listed_shards(path):
        read_whole_shard(path, shard.sha256)
    with open_hdf5(path, "write it again, or name another file") as file:
        log.stated |= attributes(file, STATED)
        episodes = _episodes(file)
        for name in episodes:
            yield Part(f"{where}: {name.rpartition('/')[2]}", named_arrays(file[name]), True)
        if not episodes:
            yield Part(where, named_arrays(file), whole)


def _episodes(file: h5py.File) -> list[str]:
    """Return the groups that are an episode each: numbered, called alike, side by side and nothing else."""
    parents = [name for name in file if isinstance(name, str) and _is_group(file, name)]
    for parent in [".", *parents]:
        group = file[parent]
        names = [name for name in group if isinstance(name, str) and _is_group(group, name)]
        matches = [_EPISODE.fullmatch(name) for name in names]
        if len({match and match[1] for match in matches}) == 1 and matches[0]:
            return [f"{parent}/{name}" for name in sorted(names, key=natural)]
    return []


def _is_group(group: h5py.Group, name: str) -> bool:
    hard = isinstance(group.get(name, getlink=True), h5py.HardLink)
    return hard and group.get(name, getclass=True) is h5py.Group
