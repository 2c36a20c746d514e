"""Ways to damage a shard."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-700])


def _inside(change: Callable[[h5py.File], object]) -> Callable[[Path], None]:
    """Return what changes an open file as what changes a file."""

    def damage(path: Path) -> None:
        with h5py.File(path, "r+") as file:
            change(file)

    return damage


def _costs(make: Callable[[h5py.File], object]) -> Callable[[Path], None]:
    """Return what makes the costs anew, once they are gone."""
    return _inside(lambda file: (file.pop("costs"), make(file)))


def _link(file: h5py.File, target: object) -> None:
    file["elsewhere"] = h5py.ExternalLink("/etc/passwd", "/")
    file["costs"] = target


def _virtual(file: h5py.File) -> None:
    layout = h5py.VirtualLayout((4,), np.float32)
    layout[:] = h5py.VirtualSource("other.h5", "costs", (4,))
    file.create_virtual_dataset("costs", layout)


def _linked_to_itself(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.name)


DAMAGE = {
    "truncated": _truncate,
    "empty": lambda path: path.write_bytes(b""),
    "foreign": lambda path: path.write_text("reward,cost\n1,2\n"),
    "missing": Path.unlink,
    "nan": _inside(lambda file: file["rewards"].__setitem__(1, np.nan)),
    "infinite": _inside(lambda file: file["observations"].__setitem__((0, 2), np.inf)),
    "no costs": _costs(lambda file: None),
    "external link": _costs(lambda file: _link(file, h5py.ExternalLink("/etc/passwd", "/costs"))),
    "soft link": _costs(lambda file: _link(file, h5py.SoftLink("/elsewhere/costs"))),
    "external storage": _costs(
        lambda file: file.create_dataset("costs", (4,), np.float32, external=[("/etc/passwd", 0, 16)])
    ),
    "virtual": _costs(_virtual),
    "huge shape": _costs(lambda file: file.create_dataset("costs", (2**50,), np.float32, chunks=(1024,))),
    "soft link to itself": _costs(lambda file: _link(file, h5py.SoftLink("/costs"))),
    "link to itself": _linked_to_itself,
    "objects": _costs(lambda file: file.create_dataset("costs", data=["a", "b", "c", "d"])),
}
