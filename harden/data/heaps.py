"""The heaps in which HDF5 keeps strings of any length, looked through before HDF5 does."""

from __future__ import annotations

import mmap
from pathlib import Path

from harden.errors import DamagedFileError

# signature and version; what follows of those bytes in an array by chance has a size beyond the file's end
_HEAP = b"GCOL\x01"
_HEAD, _OBJECT = 16, 16
# what is looked through in all; heaps of files that people have are of a few thousand bytes
_MOST = 1 << 26


def require_heaps_that_end(path: Path) -> None:
    """Refuse a file whose heaps HDF5 would look through for ever.

    It goes from object to object by their sizes, and takes a free one's as it stands: of size 0 (a flipped
    byte is enough) it holds the process, which no signal ends but SIGKILL.

    Raises:
        DamagedFileError: such an object, or more heaps than anybody needs.
        OSError: the file can't be read.

    Source: HDF5 File Format Specification 3.0, III.E (global heap).
    """
    if path.stat().st_size == 0:
        return
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as whole:
        left, at = _MOST, whole.find(_HEAP)
        while at >= 0:
            left -= _look_through(path, whole, at)
            if left < 0:
                raise DamagedFileError(f"{path} holds more than {_MOST:,} bytes of strings")
            at = whole.find(_HEAP, at + len(_HEAP))


def _look_through(path: Path, whole: mmap.mmap, at: int) -> int:
    """Return a heap's size; it begins with its own, and each object with a number, 0 for free, and a size."""
    size = int.from_bytes(whole[at + 8 : at + _HEAD], "little")
    place, end = at + _HEAD, at + size
    if end > len(whole):
        # HDF5 refuses it by itself
        return 0
    while size <= _MOST and place + _OBJECT <= end:
        free = whole[place : place + 2] == b"\0\0"
        length = int.from_bytes(whole[place + 8 : place + _OBJECT], "little")
        # HDF5 adds to a size what it is padded by: one near 2^64 comes to nothing as well
        if (free and length == 0) or length > size:
            raise DamagedFileError(f"{path} is damaged: its strings have no end")
        place += length if free else _OBJECT + -(-length // 8) * 8
    return size
