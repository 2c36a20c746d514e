"""Ways to damage a shard."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-700])


def _nan(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        file["rewards"][1] = np.nan


def _infinite(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        file["observations"][0, 2] = np.inf


def _no_costs(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        del file["costs"]


def _external_link(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        del file["costs"]
        file["costs"] = h5py.ExternalLink("/etc/passwd", "/costs")


def _soft_link(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        del file["costs"]
        file["elsewhere"] = h5py.ExternalLink("/etc/passwd", "/")
        file["costs"] = h5py.SoftLink("/elsewhere/costs")


def _external_storage(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        del file["costs"]
        file.create_dataset("costs", (4,), np.float32, external=[("/etc/passwd", 0, 16)])


def _virtual(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        del file["costs"]
        layout = h5py.VirtualLayout((4,), np.float32)
        layout[:] = h5py.VirtualSource("other.h5", "costs", (4,))
        file.create_virtual_dataset("costs", layout)


def _huge(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        del file["costs"]
        file.create_dataset("costs", (2**50,), np.float32, chunks=(1024,))


def _round(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        del file["costs"]
        file["costs"] = h5py.SoftLink("/costs")


def _objects(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        del file["costs"]
        file.create_dataset("costs", data=["a", "b", "c", "d"])


def _linked_to_itself(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.name)


DAMAGE = {
    "truncated": _truncate,
    "empty": lambda path: path.write_bytes(b""),
    "foreign": lambda path: path.write_text("reward,cost\n1,2\n"),
    "missing": Path.unlink,
    "nan": _nan,
    "infinite": _infinite,
    "no costs": _no_costs,
    "external link": _external_link,
    "soft link": _soft_link,
    "external storage": _external_storage,
    "virtual": _virtual,
    "huge shape": _huge,
    "soft link to itself": _round,
    "link to itself": _linked_to_itself,
    "objects": _objects,
}
