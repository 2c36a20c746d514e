"""HDF5 opened with suspicion: nothing that is read may lead out of the file, or claim more than it holds."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from harden.child import answer_of_fork
from harden.errors import DamagedFileError, HardenError, describe_error, foreign_errors
from harden.storage.files import require_file

# HDF5's deflate packs a thousand bytes of zeros into one
_MAX_RATIO = 1100
# bytes that are unpacked in memory to read one row
_MAX_CHUNK = 1 << 28
_MAX_LINKS = 8
# of a log: episodes, steps and coordinates; what has more, such as pictures, is not read
_MOST_AXES = 3
# HDF5's own filters and h5py's lzf: any other makes the library load code from a plugin folder
_FILTERS = {1, 2, 3, 4, 5, 6, 32000}
_ATTRIBUTE_SECONDS = 10.0
_IN_USE = ("unable to lock file", "already open for write")


@contextmanager
def open_hdf5(path: Path, remedy: str) -> Iterator[h5py.File]:
    """Open a file for reading; what is in it is judged where it is used (`numbers`, `attributes`).

    Args:
        remedy: what to do where it is missing or damaged.

    Raises:
        MissingInputError: not there; StorageError: it may not be read.
        DamagedFileError: empty, truncated, not HDF5, or open for writing in another program.
    """
    require_file(path, remedy)
    try:
        with h5py.File(path, "r") as file:
            yield file
    except HardenError:
        raise
    except Exception as error:
        what = f"{path} can't be read as HDF5 ({describe_error(error)})"
        if any(sign in what for sign in _IN_USE):
            what = f"{path} is open for writing in another program, or was when that was killed"
            remedy = "close it there; after a crash: h5clear -s FILE (of HDF5's tools), then look at its rows"
        elif not h5py.is_hdf5(path):
            remedy += "; logs in another format are taken over by: harden data import"
        raise DamagedFileError(what, remedy) from error


def _resolve(group: h5py.Group, path: str, links: int = 0) -> Any:
    """Return what a path leads to within the file, None where nothing is there; refuse links out of it."""
    item: Any = group
    for part in path.split("/"):
        if part in ("", "."):
            continue
        link = item.get(part, getlink=True) if isinstance(item, h5py.Group) else None
        if link is None:
            return None
        if isinstance(link, h5py.HardLink):
            item = item[part]
        elif isinstance(link, h5py.SoftLink) and links < _MAX_LINKS:
            item = _resolve(group.file if link.path.startswith("/") else item, link.path, links + 1)
        else:
            raise DamagedFileError(f"{group.file.filename} is refused: the link {part!r} leads elsewhere")
    return item


def numbers(group: h5py.Group, name: str) -> h5py.Dataset:
    """Return an array of numbers, unread; soft links inside the file are followed.

    Raises:
        DamagedFileError: there is no such array, it holds something else, or it is not stored in this file.
    """
    item = _resolve(group, name)
    if not isinstance(item, h5py.Dataset) or item.shape is None:
        raise DamagedFileError(f"{group.file.filename} has no array '{name}'")
    if item.dtype.kind not in "fiub":
        raise DamagedFileError(f"{group.file.filename}: '{name}' has type {item.dtype}, not numbers")
    require_stored_here(item, name)
    return item


def named_arrays(group: h5py.Group) -> dict[str, np.ndarray | str]:
    """Return the arrays of numbers in a group and below it by path; of others what they are, in words.

    What can't be told is not among them, and nothing is refused: who needs it does that.
    """
    arrays, seen = dict[str, np.ndarray | str](), set[int]()

    def walk(inside: h5py.Group, prefix: str) -> None:
        for name in inside:
            # a name that is no text is given as bytes
            if not isinstance(name, str):
                continue
            with contextlib.suppress(Exception):
                link = inside.get(name, getlink=True)
                if isinstance(link, h5py.ExternalLink):
                    arrays[prefix + name] = "what a link leads to elsewhere"
                    continue
                item = _resolve(inside, name)
                if isinstance(item, h5py.Dataset) and item.shape:
                    arrays[prefix + name] = f"{len(item.shape)} axes of {item.dtype}"
                    if item.dtype.kind in "fiub" and len(item.shape) <= _MOST_AXES:
                        try:
                            require_stored_here(item, name)
                            arrays[prefix + name] = item[()]
                        except HardenError as error:
                            arrays[prefix + name] = f"what can't be read ({error})"
                        except Exception as error:
                            arrays[prefix + name] = f"what can't be read ({describe_error(error)})"
                elif isinstance(link, h5py.HardLink) and isinstance(item, h5py.Group):
                    place = h5py.h5o.get_info(item.id).addr
                    if place not in seen:
                        seen.add(place)
                        walk(item, f"{prefix}{name}/")

    walk(group, "")
    return arrays


def require_stored_here(item: h5py.Dataset, name: str) -> None:
    """Refuse an array that reads other files, loads code or fills memory by a declaration: DamagedFileError.

    Rows that were never written hold the fill value. A vector of one number a row, such as flags that were
    never raised, may hold nothing else.
    """
    plan, what = item.id.get_create_plist(), f"{item.file.filename} is refused: {name!r}"
    if plan.get_layout() == h5py.h5d.VIRTUAL:
        raise DamagedFileError(f"{what} is a virtual data set", "write its values into one file")
    if plan.get_external_count():
        raise DamagedFileError(f"{what} keeps its bytes in another file")
    foreign = {plan.get_filter(i)[0] for i in range(plan.get_nfilters())} - _FILTERS
    if foreign:
        remedy = "write it again with gzip, lzf or no filter"
        raise DamagedFileError(f"{what} needs the HDF5 plugin of filter {min(foreign)}", remedy)
    width = item.id.get_type().get_size()
    chunk = item.chunks and math.prod(item.chunks) * width
    if chunk and chunk > _MAX_CHUNK:
        raise DamagedFileError(f"{what} declares chunks of {chunk:,} bytes")
    shape, stored, most = item.shape or (), item.id.get_storage_size(), os.path.getsize(item.file.filename)
    basis = most if math.prod(shape[1:]) == 1 else stored
    if stored > most or math.prod(shape) * width > _MAX_RATIO * basis:
        raise DamagedFileError(f"{what} declares shape {shape}, far more than it stores ({stored:,} bytes)")


def read_into(item: h5py.Dataset, values: np.ndarray, first: int) -> None:
    """Fill an array of memory with rows from `first` on; DamagedFileError: flags other than 0 and 1."""
    rows = np.s_[first : first + len(values)]
    if not values.size:
        return
    if item.dtype == values.dtype:
        # straight into its place: by indexing, h5py would gather the rows on the way, a third slower
        item.read_direct(values, rows)
        wrong = values.dtype == np.bool_ and values.view(np.uint8).max() > 1
    else:
        stored = item[rows]
        wrong = values.dtype == np.bool_ and not np.isin(stored, (0, 1)).all()
        with np.errstate(over="ignore", invalid="ignore"):
            values[...] = stored
    if wrong:
        name = item.name.lstrip("/")
        raise DamagedFileError(f"{item.file.filename}: '{name}' holds values other than 0 and 1")


def attributes(group: h5py.Group, names: Iterable[str]) -> dict[str, Any]:
    """Return those of the named attributes that are there, in plain Python; DamagedFileError: it failed.

    HDF5 goes through the strings of a file by sizes that it takes from the file. Where a damaged one is 0 the
    library never comes back: they are read in a process that is killed then.
    """
    values: dict[str, Any] = {}
    if not len(group.attrs):
        return values
    with foreign_errors(f"{group.file.filename}: an attribute can't be read", kind=DamagedFileError):
        there = [name for name in names if name in group.attrs]
        values = answer_of_fork(lambda: {k: _plain(group.attrs[k]) for k in there}, _ATTRIBUTE_SECONDS)
    return values


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray) and value.size == 1:
        value = value.reshape(-1)[0]
    if isinstance(value, bytes):
        return value.decode(errors="surrogateescape")
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    return value if isinstance(value, str | int | float) else repr(value)


def hdf5_image(arrays: dict[str, np.ndarray], attributes: dict[str, Any]) -> bytes:
    """Return arrays and root attributes as the bytes of an HDF5 file.

    Stored plain and contiguous: floats of a simulation shrink by under a tenth in compression, which costs
    more time to read than the disk gives back. Made in memory and written by ourselves: a file that HDF5
    can't close for want of room stays open in it, and ends the process when that exits.
    """
    with h5py.File("memory", "w", driver="core", backing_store=False, libver=("v110", "v110")) as file:
        file.attrs.update(attributes)
        for name, values in arrays.items():
            file.create_dataset(name, data=values)
        file.flush()
        image: bytes = file.id.get_file_image()
    return image


def reserve_hdf5(path: Path, room: int) -> None:
    """Make an empty file that h5py is to fill, with `room` bytes of the disk; OSError: there is none.

    The reason is that of `hdf5_image`. h5py gives back what is left over when it closes the file.
    """
    with path.open("wb") as plain:
        plain.write(hdf5_image({}, {}))
        plain.flush()
        os.posix_fallocate(plain.fileno(), 0, room)
