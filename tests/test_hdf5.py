"""Hostile files are refused before anything in them is followed, unpacked or believed."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from harden.data.convert import read_log
from harden.data.dataset import Dataset, DatasetWriter
from harden.data.formats.log import ImportOptions
from harden.data.shard import read_shard
from harden.errors import DamagedFileError, HardenError
from support.commands import refused
from support.transitions import HOW, TASK, make, same


@pytest.fixture
def shard(tmp_path: Path) -> Path:
    """A whole shard, to be spoiled."""
    with DatasetWriter(tmp_path / "set", TASK) as writer:
        writer.append(make([3, 1]), **HOW)
    return tmp_path / "set/shard-00000.h5"


@pytest.mark.parametrize(("free", "size"), [(True, 0), (False, 2**64 - 16), (False, 2**63)])
def test_strings_that_hold_hdf5_for_ever_are_refused(
    shard: Path, free: bool, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("harden.data.hdf5._ATTRIBUTE_SECONDS", 1.0)
    content = bytearray(shard.read_bytes())
    place = content.index(b"GCOL") + 16
    while free and content[place : place + 2] != b"\0\0":
        place += 16 + -(-int.from_bytes(content[place + 8 : place + 16], "little") // 8) * 8
    content[place + 8 : place + 16] = struct.pack("<Q", size)
    # reserved, and read by nobody
    content[content.index(b"GCOL") + 5] = 7
    shard.write_bytes(content)
    assert str(shard) in refused("data", "verify", str(shard))
    # where there is a checksum HDF5 does not see it
    assert "1 problems" in refused("data", "verify", str(shard.parent))


def replace(path: Path, **how: object) -> None:
    """Make the costs anew."""
    with h5py.File(path, "r+") as file:
        del file["costs"]
        file.create_dataset("costs", **how)


def _bomb(path: Path) -> None:
    # four rows, in a chunk that unpacks to half a gigabyte
    replace(path, shape=(4,), maxshape=(None,), dtype=np.float32, chunks=(1 << 27,), compression="gzip")


def _sparse(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        for name in file:
            shape, dtype = file[name].shape, file[name].dtype
            del file[name]
            file.create_dataset(name, (1 << 40, *shape[1:]), dtype, chunks=(1 << 10, *shape[1:]))


def _plugin(path: Path) -> None:
    # the id of a registered plugin; optional, so that writing without it succeeds
    replace(path, data=np.zeros(4, np.float32), chunks=(4,), compression=32015, allow_unknown_filter=True)


def _scalar(path: Path) -> None:
    replace(path, data=np.float32(1))


def _null(path: Path) -> None:
    replace(path, data=h5py.Empty("f4"))


def _compound(path: Path) -> None:
    replace(path, data=np.zeros(4, [("a", "f4"), ("b", "f4")]))


def _references(path: Path) -> None:
    replace(path, shape=(4,), dtype=h5py.ref_dtype)
    with h5py.File(path, "r+") as file:
        file["costs"][:] = [file["rewards"].ref] * 4


def _group(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        del file["costs"]
        file.create_group("costs")


def _no_width(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        for name in ("observations", "next_observations"):
            del file[name]
            file.create_dataset(name, (4, 0), np.float32)


def _short(path: Path) -> None:
    replace(path, data=np.zeros(3, np.float32))


HOSTILE: dict[str, tuple[Callable[[Path], None], str]] = {
    "chunk far larger than its array": (_bomb, "declares chunks"),
    "shape far larger than its chunks": (_sparse, "far more than it stores"),
    "filter of a plugin": (_plugin, "needs the HDF5 plugin of filter 32015"),
    "scalar": (_scalar, "axes"),
    "null": (_null, "no array 'costs'"),
    "compound": (_compound, "not numbers"),
    "references": (_references, "not numbers"),
    "group for an array": (_group, "no array 'costs'"),
    "observations of no width": (_no_width, "none of them 0 long"),
    "arrays of other lengths": (_short, "lengths"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_shard_is_one_line(shard: Path, kind: str) -> None:
    spoil, said = HOSTILE[kind]
    spoil(shard)
    with pytest.raises(DamagedFileError, match=said):
        read_shard(shard)
    for read in (
        lambda: Dataset(shard),
        lambda: Dataset(shard.parent).read(0, 4),
        lambda: read_log(shard, None, ImportOptions()),
    ):
        with pytest.raises(HardenError) as caught:
            read()
        assert "\n" not in str(caught.value)
        assert "shard-00000.h5" in str(caught.value)


def test_what_is_not_asked_for_is_not_judged(shard: Path) -> None:
    before = read_shard(shard)[1]
    with h5py.File(shard, "r+") as file:
        file["round/and"] = file["/"]
        file["infos/elsewhere"] = h5py.ExternalLink("/etc/passwd", "/costs")
        file.create_dataset("infos/contact", (10_000,), bool, chunks=True)
        file.create_group("/".join(["g"] * 50))
        file.move("costs", "renamed")
        file["costs"] = h5py.SoftLink("/round/and/renamed")
    assert same(read_shard(shard)[1], before)


@pytest.mark.parametrize("name", ["terminals", "costs"])
def test_rows_that_were_never_written_hold_the_fill_value(shard: Path, name: str) -> None:
    with h5py.File(shard, "r+") as file:
        shape, dtype = file[name].shape, file[name].dtype
        del file[name]
        file.create_dataset(name, shape, dtype, chunks=(200_000,), maxshape=(None,))
    data = read_shard(shard)[1]
    assert not getattr(data, name).any()


def test_flags_that_are_neither_0_nor_1_are_refused(shard: Path) -> None:
    with h5py.File(shard, "r+") as file:
        del file["terminals"]
        file["terminals"] = np.array([0, 0, 2, 1], np.uint8)
    with pytest.raises(DamagedFileError, match="'terminals' holds values other than 0 and 1"):
        read_shard(shard)


def test_bytes_that_lie_beyond_the_file_are_not_believed(shard: Path) -> None:
    content = shard.read_bytes()
    with h5py.File(shard) as file:
        size = file["costs"].id.get_storage_size()
        address = file["costs"].id.get_offset()
    # the layout message of an array in one piece: where it is, and how long it says that it is
    message = struct.pack("<QQ", address, size)
    assert content.count(message) == 1
    shard.write_bytes(content.replace(message, struct.pack("<QQ", address, 1 << 33)))
    with pytest.raises(DamagedFileError, match=r"shard-00000\.h5"):
        read_shard(shard)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("format_version", 2),
        ("format_version", "one"),
        ("horizon", "long"),
        ("horizon", np.inf),
        ("seed", np.zeros(3)),
        ("seed", h5py.Empty("f4")),
        ("horizon", -1),
        ("horizon", 1 << 31),
        ("seed", np.uint64(1 << 63)),
        ("env_id", np.bytes_(b"caf\xe9")),
        ("behaviour", 3),
    ],
)
def test_attributes_of_another_kind(shard: Path, name: str, value: object) -> None:
    with h5py.File(shard, "r+") as file:
        file.attrs[name] = value
    with pytest.raises(DamagedFileError, match=r"shard-00000\.h5"):
        read_shard(shard)
    # nothing that a data set can't say is copied into one
    out = shard.parent.parent / "out"
    for words in (["filter", str(shard)], ["merge", str(shard)]):
        assert name.replace("_", " ") in refused("data", *words, "--out", str(out)).replace("_", " ")
        assert not out.exists()


@pytest.mark.parametrize(
    "change",
    [
        {"name": "shard-00000.h5/../../x.h5"},
        {"name": "shard-1.h5"},
        {"surprise": 1},
        {"transitions": -4},
        {"name": "/etc/shard-00000.h5"},
        {"name": "shard-٠٠٠٠٠.h5"},
        {"name": "shard-00000.h5\n"},
        {"name": ["shard-00000.h5"]},
        {"reward": "1"},
        {"cost": None},
        {"seed": "3"},
        {"episodes": True},
        {"transitions": 1e3},
        {"transitions": 10**400},
        {"reward": 10**400},
        {"seed": -(1 << 63)},
        {"sha256": 5},
        {"behaviour": {}},
    ],
)
def test_a_manifests_entry_of_another_kind(shard: Path, change: dict[str, object]) -> None:
    path = shard.parent / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["shards"][0] |= change
    path.write_text(json.dumps(manifest))
    with pytest.raises(DamagedFileError, match=r"manifest\.json"):
        Dataset(shard.parent)


@pytest.mark.parametrize(
    "change", [{"horizon": -1}, {"horizon": 1e400}, {"obs_dim": 0}, {"act_dim": "2"}, {"shards": {"a": 1}}]
)
def test_a_manifest_of_another_kind(shard: Path, change: dict[str, object]) -> None:
    path = shard.parent / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(DamagedFileError, match=r"manifest\.json"):
        Dataset(shard.parent)


def test_a_shard_listed_twice_is_refused(shard: Path) -> None:
    path = shard.parent / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["shards"] *= 2
    path.write_text(json.dumps(manifest))
    with pytest.raises(DamagedFileError, match="lists a shard twice"):
        Dataset(shard.parent)
