"""HDF5 opened with suspicion: nothing in a file may lead out of it, or claim more than it holds."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from harden.errors import DamagedFileError, MissingInputError, StorageError

_MAX_OBJECTS = 10_000
_MAX_DEPTH = 8


@contextmanager
def open_hdf5(path: Path, made_by: str) -> Iterator[h5py.File]:
    """Open a file for reading, after checking that nothing in it points elsewhere.

    Args:
        path: the file.
        made_by: the command that makes it, named when it is missing.

    Raises:
        MissingInputError: not there.
        DamagedFileError: empty, truncated, not HDF5, or with links or storage outside itself.
    """
    remedy = f"make it again with: {made_by}"
    if not path.is_file():
        raise MissingInputError(f"{path} is missing", f"make it with: {made_by}")
    try:
        with h5py.File(path, "r") as file:
            try:
                _check_group(file, path, 0, [0])
            except (KeyError, ValueError, TypeError) as error:
                raise OSError(str(error)) from error
            yield file
    except (OSError, RuntimeError, MemoryError) as error:
        reason = "it is empty" if path.stat().st_size == 0 else str(error).splitlines()[0]
        raise DamagedFileError(f"{path} can't be read as HDF5 ({reason})", remedy) from error


def _check_group(group: h5py.Group, path: Path, depth: int, seen: list[int]) -> None:
    if depth > _MAX_DEPTH:
        raise DamagedFileError(f"{path} nests groups more than {_MAX_DEPTH} deep")
    for name in group:
        seen[0] += 1
        if seen[0] > _MAX_OBJECTS:
            raise DamagedFileError(f"{path} holds more than {_MAX_OBJECTS} objects")
        link = group.get(name, getlink=True)
        if not isinstance(link, h5py.HardLink):
            raise DamagedFileError(f"{path} is refused: '{name}' is a link that leads elsewhere")
        item = group[name]
        if isinstance(item, h5py.Group):
            _check_group(item, path, depth + 1, seen)
        elif isinstance(item, h5py.Dataset):
            _check_dataset(item, name, path)


def _check_dataset(item: h5py.Dataset, name: str, path: Path) -> None:
    if item.is_virtual:
        raise DamagedFileError(f"{path} is refused: '{name}' is a virtual data set")
    if item.external:
        raise DamagedFileError(f"{path} is refused: '{name}' keeps its bytes in another file")
    if item.dtype.kind not in "fiub":
        raise DamagedFileError(f"{path} is refused: '{name}' has type {item.dtype}, not numbers")
    # a declared shape far beyond the bytes at hand would be filled with zeros at our expense
    if item.size and item.id.get_storage_size() == 0:
        raise DamagedFileError(f"{path}: '{name}' declares shape {item.shape} and stores nothing")
    ratio = item.nbytes / max(item.id.get_storage_size(), 1)
    if ratio > 1100:
        raise DamagedFileError(f"{path}: '{name}' declares shape {item.shape}, far more than it stores")


def read_array(file: h5py.File, name: str, dtype: type, rows: slice, ndim: int) -> np.ndarray:
    """Read rows of one array, in memory's type.

    Raises:
        DamagedFileError: no such array, or another number of axes.
    """
    item = file.get(name)
    if not isinstance(item, h5py.Dataset) or item.ndim != ndim:
        raise DamagedFileError(f"{file.filename} has no array '{name}' of {ndim} axes")
    return np.ascontiguousarray(item[rows], dtype=dtype)


def attribute(file: h5py.File, name: str, default: Any) -> Any:
    """Return a root attribute as a plain Python value."""
    value = file.attrs.get(name, default)
    if isinstance(value, bytes):
        return value.decode()
    return value.item() if isinstance(value, np.generic) else value


def write_hdf5(path: Path, arrays: dict[str, np.ndarray], attributes: dict[str, Any]) -> None:
    """Write arrays and root attributes to a new file.

    Stored plain and contiguous: floats of a simulation shrink by under a tenth in compression, which costs
    more time to read than the disk gives back.

    Raises:
        StorageError: no room on the disk.
    """
    try:
        with h5py.File(path, "w", libver=("v110", "v110")) as file:
            file.attrs.update(attributes)
            for name, values in arrays.items():
                file.create_dataset(name, data=values)
    except (OSError, RuntimeError) as error:
        full = getattr(error, "errno", None) == errno.ENOSPC or "No space left" in str(error)
        if full:
            raise StorageError(
                f"no room left on the disk while writing {path.name}",
                "nothing already stored was touched: free some space and run the command again",
            ) from error
        raise
