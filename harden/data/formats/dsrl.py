"""Export to one file in the DSRL layout."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np

from harden.data.dataset import Dataset
from harden.data.hdf5 import reserve_hdf5
from harden.data.header import Provenance, shard_attributes
from harden.data.manifest import DatasetInfo
from harden.data.shard import LAYOUT, columns
from harden.storage.files import write_whole


def write_dsrl(dataset: Dataset, path: Path) -> list[str]:
    """Write a data set as one file in the DSRL layout.

    Returns:
        What the layout can't express; nothing: what it has no place for is kept in root attributes.

    Raises:
        StorageError: no room; DamagedFileError: a shard is damaged.
    """
    info = dataset.info
    said = shard_attributes(info, _common(info))
    if len(info.shards) > 1:
        entries = [{"transitions": s.transitions} | s.provenance._asdict() for s in info.shards]
        said["provenance"] = json.dumps(entries)
    width = {"obs": (info.obs_dim,), "next_obs": (info.obs_dim,), "actions": (info.act_dim,)}
    arrays = {
        name: ((info.transitions, *width.get(field, ())), np.dtype(dtype))
        for field, (name, dtype, _) in LAYOUT.items()
    }

    def write(aside: Path) -> None:
        before = 0
        reserve_hdf5(aside, arrays, said)
        with h5py.File(aside, "r+", locking=False) as file:
            for _, data in dataset.verified_shards():
                for name, values in columns(data).items():
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
