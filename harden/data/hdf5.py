"""HDF5 opened with suspicion: nothing in a file may lead out of it, or claim more than it holds."""

from __future__ import annotations

import math
import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np

from harden.data.heaps import require_heaps_that_end
from harden.data.sink import Sink
from harden.errors import DamagedFileError
from harden.files import require_file

_MAX_OBJECTS = 10_000
_MAX_DEPTH = 8
_MAX_RATIO = 1100
_MAX_ATTRIBUTE = 1 << 20
# HDF5's own filters and h5py's lzf: any other makes the library load code from a plugin folder
_FILTERS = {1, 2, 3, 4, 5, 6, 32000}
# what is still open in a file goes with it
_ACCESS = h5py.h5p.create(h5py.h5p.FILE_ACCESS)
_ACCESS.set_fclose_degree(h5py.h5f.CLOSE_STRONG)
# what h5py raises on bytes that are not what they claim to be
_UNREADABLE = (
    ArithmeticError,
    AttributeError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
)


@contextmanager
def open_hdf5(path: Path, made_by: str, max_objects: int = _MAX_OBJECTS) -> Iterator[h5py.File]:
    """Open a file for reading, after checking that nothing in it points elsewhere.

    Args:
        path: the file.
        made_by: the command that makes it, named when it is missing.
        max_objects: groups and arrays that it may hold.

    Raises:
        MissingInputError: not there; StorageError: it may not be read.
        DamagedFileError: empty, truncated, not HDF5, or with links or storage outside itself.
    """
    with open_arrays(path, made_by, (), max_objects) as (opened, _), h5py.File(opened) as file:
        # arrays are numbers; whoever opens a file for more than them reads strings
        require_heaps_that_end(path)
        yield file


class Stored(NamedTuple):
    """What a file says of an array.

    Args:
        shape: None where it has none.
        type: of its values.
        offset: where its bytes lie in the file, in one piece and as they are; None where they do not.
    """

    shape: tuple[int, ...] | None
    type: h5py.h5t.TypeID
    offset: int | None


@contextmanager
def open_arrays(
    path: Path, made_by: str, names: Collection[str], max_objects: int = _MAX_OBJECTS
) -> Iterator[tuple[h5py.h5f.FileID, dict[str, Stored]]]:
    """Open a file as `open_hdf5` does; returns its handle, and those of the named arrays that lie at its top.

    The check has them in its hands: to open each of them a second time would take as long again, and so would
    the making of an h5py.File.
    """
    remedy = f"make it again with: {made_by}"
    require_file(path, f"make it with: {made_by}")
    try:
        file = h5py.h5f.open(os.fsencode(path), h5py.h5f.ACC_RDONLY, _ACCESS)
        try:
            walk = _Walk(path, max_objects, names)
            walk.group(h5py.h5g.open(file, b"/"), 0)
            yield file, walk.found
        finally:
            if file.valid:
                file.close()
    except _UNREADABLE as error:
        # of a key that is not there, str() is in quotes; of other errors there may be several lines, or none
        said = (str(error).splitlines() or [type(error).__name__])[0]
        reason = "it is empty" if path.stat().st_size == 0 else said
        raise DamagedFileError(f"{path} can't be read as HDF5 ({reason})", remedy) from error


class _Walk:
    """Looks at everything in a file; by h5py's low-level calls, which take a third of the others' time.

    Args:
        path: the file.
        left: groups and arrays that it may still hold.
        names: the arrays at its top that `found` is to hold.
    """

    def __init__(self, path: Path, left: int, names: Collection[str]) -> None:
        self.path, self.left, self.names = path, left, names
        self.size = path.stat().st_size
        self.seen: set[int] = set()
        self.found: dict[str, Stored] = {}

    def group(self, group: h5py.h5g.GroupID, depth: int) -> None:
        """Look at a group and all in it."""
        path = self.path
        if depth > _MAX_DEPTH:
            raise DamagedFileError(f"{path} nests groups more than {_MAX_DEPTH} deep")
        # groups within themselves, or linked over and over, would be walked for ever
        address = h5py.h5o.get_info(group).addr
        if address in self.seen:
            raise DamagedFileError(f"{path} is refused: group {h5py.h5i.get_name(group)!r} has two places")
        self.seen.add(address)
        links = group.links
        for link in group:
            self.left -= 1
            if self.left < 0:
                raise DamagedFileError(f"{path} holds too many objects")
            name = link.decode(errors="replace")
            if links.get_info(link).type != h5py.h5l.TYPE_HARD:
                raise DamagedFileError(f"{path} is refused: {name!r} is a link that leads elsewhere")
            item = h5py.h5o.open(group, link)
            if isinstance(item, h5py.h5g.GroupID):
                self.group(item, depth + 1)
            elif isinstance(item, h5py.h5d.DatasetID):
                stored = self.array(item, name)
                if depth == 0 and name in self.names:
                    self.found[name] = stored

    def array(self, item: h5py.h5d.DatasetID, name: str) -> Stored:
        """Look at an array, and return it."""
        # of what is not in one piece inside this file there is no offset
        offset = item.get_offset()
        plan = item.get_create_plist() if offset is None else None
        if plan is not None and plan.get_layout() == h5py.h5d.VIRTUAL:
            raise DamagedFileError(f"{self.path} is refused: {name!r} is a virtual data set")
        if plan is not None and plan.get_external_count():
            raise DamagedFileError(f"{self.path} is refused: {name!r} keeps its bytes in another file")
        found = Stored(item.shape, item.get_type(), offset)
        if found.shape is None:
            return found
        stored, width = item.get_storage_size(), found.type.get_size()
        size = math.prod(found.shape) * width
        # a declared shape far beyond the bytes at hand would be filled with zeros at our expense
        if size and stored == 0:
            raise DamagedFileError(f"{self.path}: {name!r} declares shape {found.shape} and stores nothing")
        if stored > self.size or size / max(stored, 1) > _MAX_RATIO:
            raise DamagedFileError(
                f"{self.path}: {name!r} declares shape {found.shape}, far more than it stores"
            )
        if plan is not None and plan.get_layout() == h5py.h5d.CHUNKED:
            self.chunks(plan, size, width, name)
        return found

    def chunks(self, plan: h5py.h5p.PropDCID, size: int, width: int, name: str) -> None:
        """Look at how an array of `size` bytes is cut and packed."""
        # to read one row, a whole chunk is made in memory
        chunk = plan.get_chunk()
        if math.prod(chunk) * width > max(size, 1 << 20):
            raise DamagedFileError(f"{self.path}: {name!r} declares chunks {chunk} for {size} bytes")
        foreign = {plan.get_filter(i)[0] for i in range(plan.get_nfilters())} - _FILTERS
        if foreign:
            raise DamagedFileError(
                f"{self.path} is refused: {name!r} needs the HDF5 plugin of filter {min(foreign)}"
            )


def numbers(group: h5py.Group, name: str) -> h5py.Dataset:
    """Return an array of numbers, unread.

    Raises:
        DamagedFileError: there is no such array, or it holds something else.
    """
    item = group.get(name)
    if not isinstance(item, h5py.Dataset) or item.shape is None:
        raise DamagedFileError(f"{group.file.filename} has no array '{name}'")
    if item.dtype.kind not in "fiub":
        raise DamagedFileError(
            f"{group.file.filename} is refused: '{name}' has type {item.dtype}, not numbers"
        )
    return item


def read_array(group: h5py.Group, name: str, dtype: type, rows: slice, ndim: int) -> np.ndarray:
    """Read rows of one array, in memory's type.

    Raises:
        DamagedFileError: no such array, another number of axes, or flags that are neither 0 nor 1.
    """
    item = numbers(group, name)
    if item.ndim != ndim:
        raise DamagedFileError(
            f"{group.file.filename}: '{name}' has shape {item.shape}, expected {ndim} axes"
        )
    if item.dtype == dtype:
        # straight into its place: by indexing, h5py would gather the rows on the way, a third slower
        first, last, _ = rows.indices(len(item))
        values = np.empty((max(last - first, 0), *item.shape[1:]), dtype)
        if values.size:
            item.read_direct(values, np.s_[first:last])
        return values
    values = item[rows]
    if dtype is np.bool_ and not np.isin(values, (0, 1)).all():
        raise DamagedFileError(f"{group.file.filename}: '{name}' holds values other than 0 and 1")
    with np.errstate(over="ignore"):
        return np.ascontiguousarray(values, dtype=dtype)


def attribute(group: h5py.Group, name: str, default: Any) -> Any:
    """Return an attribute as a plain Python value.

    Raises:
        DamagedFileError: it is larger than any that harden writes.
    """
    if name not in group.attrs:
        return default
    if group.attrs.get_id(name).get_storage_size() > _MAX_ATTRIBUTE:
        raise DamagedFileError(f"{group.file.filename}: attribute '{name}' is too large")
    value = group.attrs[name]
    if isinstance(value, bytes):
        return value.decode()
    return value.item() if isinstance(value, np.generic) else value


@contextmanager
def create_hdf5(path: Path) -> Iterator[h5py.File]:
    """Open a new file for writing; inside `write_whole` or `storage_errors`, that make a line of an error.

    Raises:
        OSError: what the file system refused, such as for want of room.
    """
    with Sink(path, "w+") as sink:
        try:
            with h5py.File(sink, "w", libver=("v110", "v110")) as file:
                try:
                    yield file
                finally:
                    sink.closing = True
        except Exception:
            # what HDF5 makes of it says neither what nor why
            if sink.error is not None:
                raise sink.error from None
            raise
        if sink.error is not None:
            raise sink.error


def write_hdf5(path: Path, arrays: dict[str, np.ndarray], attributes: dict[str, Any]) -> None:
    """Write arrays and root attributes to a new file.

    Stored plain and contiguous: floats of a simulation shrink by under a tenth in compression, which costs
    more time to read than the disk gives back.

    Raises:
        OSError: as `create_hdf5`.
    """
    with create_hdf5(path) as file:
        file.attrs.update(attributes)
        for name, values in arrays.items():
            file.create_dataset(name, data=values)
