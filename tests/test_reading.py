"""Rows read straight from their place in a file are those that HDF5 would give, and are checked as well."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from test_store import HOW, TASK, make, same

from harden.data import Dataset, DatasetWriter
from harden.data.reading import empty_rows, plan_shard, read_rows, read_shard
from harden.data.shard import LAYOUT
from harden.errors import DamagedFileError, HardenError, InputError, MissingInputError
from harden.types import Transitions


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    """A data set of two shards, 4 + 3 rows."""
    with DatasetWriter(tmp_path / "set", TASK) as writer:
        writer.append(make([3, 1]), **HOW)
        writer.append(make([3], 4), **HOW)
    return tmp_path / "set"


def rewrite(path: Path, options: dict[str, Any], layout: dict[str, Any]) -> None:
    """Write the same arrays in another way."""
    with h5py.File(path) as file:
        arrays = {name: file[name][()] for name in file}
    with h5py.File(path, "w", **options) as file:
        for name, values in arrays.items():
            file.create_dataset(name, data=values, **layout)


WAYS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "as harden does": ({"libver": ("v110", "v110")}, {}),
    "oldest format": ({"libver": "earliest"}, {}),
    "behind a user block": ({"userblock_size": 1024}, {}),
    "in chunks": ({}, {"chunks": True}),
    "packed": ({}, {"chunks": True, "compression": "gzip"}),
}


@pytest.mark.parametrize("way", WAYS)
def test_the_same_rows_however_they_are_stored(stored: Path, way: str) -> None:
    path = stored / "shard-00000.h5"
    rewrite(path, *WAYS[way])
    plan = plan_shard(path)
    plain = all(place.offset is not None for place in plan.places)
    assert plain == (way not in ("in chunks", "packed"))
    assert same(read_shard(path), make([3, 1]))
    part = empty_rows(2, *plan.sizes)
    read_rows(path, plan, 1, part)
    assert same(part, Transitions(*(column[1:3] for column in make([3, 1]))))


def test_other_numbers_are_converted(stored: Path) -> None:
    path = stored / "shard-00000.h5"
    with h5py.File(path, "r+") as file:
        for name, dtype in (("observations", ">f4"), ("rewards", "f8"), ("terminals", "u1")):
            values = file[name][()]
            del file[name]
            file[name] = values.astype(dtype)
    offsets = [place.offset is not None for place in plan_shard(path).places]
    assert offsets == [name not in ("observations", "rewards", "terminals") for name, _, _ in LAYOUT.values()]
    assert same(read_shard(path), make([3, 1]))


def test_a_flag_of_seven_is_refused(stored: Path) -> None:
    path = stored / "shard-00000.h5"
    with h5py.File(path) as file:
        offset = file["timeouts"].id.get_offset()
    content = bytearray(path.read_bytes())
    content[offset] = 7
    path.write_bytes(content)
    with pytest.raises(DamagedFileError, match="flags other than 0 and 1"):
        Dataset(stored).read(0, 4)


@pytest.mark.parametrize(
    ("field", "value"), [("obs", torch.nan), ("rewards", torch.inf), ("next_obs", -torch.inf)]
)
def test_a_bad_number_is_named_by_its_row_in_the_shard(stored: Path, field: str, value: float) -> None:
    with h5py.File(stored / "shard-00001.h5", "r+") as file:
        file[LAYOUT[field][0]][2] = value
    with pytest.raises(InputError, match=rf"shard-00001.h5: '{LAYOUT[field][0]}' .* in row 2"):
        Dataset(stored).read(1, 7)


def test_large_numbers_are_no_infinite_ones(tmp_path: Path) -> None:
    data = make([4])._replace(rewards=torch.full((4,), 3e38))
    with DatasetWriter(tmp_path, TASK) as writer:
        writer.append(data, **HOW)
    assert same(Dataset(tmp_path).read(0, 4), data)


def test_a_shard_that_changes_is_looked_at_again(stored: Path) -> None:
    dataset, path = Dataset(stored), stored / "shard-00000.h5"
    before = dataset.read(0, 4)
    shutil.copyfile(path, path.with_suffix(".new"))
    rewrite(path.with_suffix(".new"), {"userblock_size": 512}, {})
    os.replace(path.with_suffix(".new"), path)
    assert same(dataset.read(0, 4), before)
    with h5py.File(path, "r+") as file:
        del file["costs"]
        file["costs"] = h5py.ExternalLink("/etc/passwd", "/costs")
    with pytest.raises(DamagedFileError, match="a link that leads elsewhere"):
        dataset.read(0, 4)
    path.unlink()
    with pytest.raises(MissingInputError):
        dataset.read(0, 4)
    os.mkfifo(path)
    with pytest.raises(MissingInputError):
        dataset.read(0, 4)


def test_a_shard_replaced_between_looking_and_reading_is_not_read(stored: Path) -> None:
    path = stored / "shard-00000.h5"
    plan = plan_shard(path)
    shutil.copyfile(stored / "shard-00001.h5", path)
    with pytest.raises(DamagedFileError, match="was replaced while it was read"):
        read_rows(path, plan, 0, empty_rows(4, *plan.sizes))
    path.unlink()
    with pytest.raises(DamagedFileError, match="can't be read"):
        read_rows(path, plan, 0, empty_rows(4, *plan.sizes))


def test_a_shard_of_other_rows_than_the_manifest_lists_is_refused(stored: Path) -> None:
    shutil.copyfile(stored / "shard-00001.h5", stored / "shard-00000.h5")
    with pytest.raises(DamagedFileError, match="is not the shard that the manifest lists"):
        Dataset(stored).read(0, 2)
    assert len(Dataset(stored).verify()) == 1


def test_a_file_that_was_cut_after_it_was_looked_at(stored: Path) -> None:
    path = stored / "shard-00000.h5"
    plan = plan_shard(path)
    os.truncate(path, 4096)
    stamp = path.stat()
    plan = plan._replace(
        stamp=(stamp.st_dev, stamp.st_ino, stamp.st_size, stamp.st_mtime_ns, stamp.st_ctime_ns)
    )
    with pytest.raises(DamagedFileError, match="ends before its arrays do"):
        read_rows(path, plan, 0, empty_rows(4, *plan.sizes))


def test_what_does_not_fit_into_memory_is_one_line() -> None:
    with pytest.raises(HardenError, match="do not fit into memory"):
        empty_rows(1 << 50, 8, 2)


def test_many_shards_come_in_their_order(tmp_path: Path) -> None:
    with DatasetWriter(tmp_path, TASK) as writer:
        for start in range(0, 60, 3):
            writer.append(make([2, 1], start), **HOW)
    found = Dataset(tmp_path).read(5, 58)
    assert np.array_equal(found.obs[:, 0].numpy(), np.arange(5, 58))
