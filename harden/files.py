"""Files that are either whole or not there: write aside, flush to disk, rename."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from harden.errors import DamagedFileError, InputError, MissingInputError, StorageError

_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_NO_LEAVE = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST, errno.EISDIR, errno.ELOOP}
# file systems that make no folders (/proc) say that there is none
_NO_LEAVE |= {errno.ENOENT, errno.ENAMETOOLONG}


@contextlib.contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turn what the file system refuses into one line for the user."""
    try:
        yield
    except OSError as error:
        if error.errno in _NO_ROOM:
            raise StorageError(
                f"no room left on the disk while writing {path}",
                "nothing already stored was touched: free some space and run the command again",
            ) from error
        if error.errno in _NO_LEAVE:
            raise StorageError(
                f"can't write {path} ({os.strerror(error.errno or 0)})",
                "name a folder that you may write to",
            ) from error
        raise


def make_folder(path: Path) -> Path:
    """Make a folder and its parents, or say in one line why not."""
    with storage_errors(path):
        path.mkdir(parents=True, exist_ok=True)
        if not os.access(path, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
    return path


def sync_folder(path: Path) -> None:
    """Flush a folder's entries, so that a rename in it survives a power cut."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file so that a reader sees the old one or the new one, never a part.

    Args:
        path: where the file is to be.
        write: writes the content to the temporary path that it is given.

    Raises:
        StorageError: no room or no permission; the old file is as it was.
    """
    make_folder(path.parent)
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with storage_errors(path):
        try:
            write(aside)
            with open(aside, "rb") as handle:
                os.fsync(handle.fileno())
            os.replace(aside, path)
            sync_folder(path.parent)
        finally:
            aside.unlink(missing_ok=True)


def require_writable(path: Path) -> None:
    """Refuse a file that could not be written, before the long work whose result it is to hold.

    Nothing is left behind: folders that it needs are made when it is written.

    Raises:
        StorageError: it is a folder, or the nearest folder above it that there is can't be written.
    """
    with storage_errors(path):
        if path.is_dir():
            raise StorageError(f"can't write {path} (it is a folder)", "name a file")
        there = next(above for above in path.absolute().parents if above.exists())
        with tempfile.TemporaryFile(dir=there):
            pass


def require_new(path: Path) -> None:
    """Refuse a path where something is already; an empty folder is nothing.

    Raises:
        InputError: there is something.
    """
    with storage_errors(path):
        taken = any(path.iterdir()) if path.is_dir() else path.exists()
    if taken:
        raise InputError(f"{path} is there already", "remove it, or name another place with --out")


def require_place(path: Path) -> None:
    """Refuse a place where no new folder can be made, before the long work whose result it is to hold.

    Raises:
        InputError: there is something; StorageError: it can't be written.
    """
    require_new(path)
    require_folder(path)


def require_folder(path: Path) -> None:
    """Refuse a folder that could not be written into, there or still to be made; nothing is left behind.

    Raises:
        StorageError: it can't be.
    """
    with storage_errors(path):
        whole = path.absolute()
        with tempfile.TemporaryFile(dir=next(there for there in (whole, *whole.parents) if there.exists())):
            pass


@contextlib.contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Fill a new folder so that it appears at once and whole, or not at all.

    Args:
        path: where the folder is to be.

    Returns:
        The temporary folder beside it, to be filled inside the `with`.

    Raises:
        InputError: there is something at `path`; StorageError: no room or no permission.
    """
    require_new(path)
    make_folder(path.parent)
    _clear_leftovers(path)
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    lock = os.open(make_folder(aside), os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield aside
        require_new(path)
        with storage_errors(path):
            sync_folder(aside)
            os.replace(aside, path)
            sync_folder(path.parent)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
        os.close(lock)


def copy_folder(source: Path, out: Path) -> None:
    """Copy a folder's files, not the folders in it, into a new one that appears at once and whole.

    Raises:
        InputError: there is something at `out`; StorageError: no room or no permission.
    """
    with whole_folder(out) as aside, storage_errors(out):
        for file in source.iterdir():
            if file.is_file():
                shutil.copyfile(file, aside / file.name)


def _clear_leftovers(path: Path) -> None:
    """Remove what killed processes left of this folder; one that is being filled is locked, and stays."""
    name = re.compile(rf"\.{re.escape(path.name)}\.[0-9]+\.tmp")
    for left in path.parent.iterdir():
        if name.fullmatch(left.name) and left.is_dir() and not left.is_symlink():
            lock = os.open(left, os.O_RDONLY | os.O_DIRECTORY)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(left, ignore_errors=True)
            except BlockingIOError:
                pass
            finally:
                os.close(lock)


def clear_unfinished(*folders: Path) -> None:
    """Remove the half-written files of a killed process from folders that nobody else writes to."""
    for folder in folders:
        for left in folder.glob(".*.tmp"):
            if left.is_file() and not left.is_symlink():
                left.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file whole."""
    write_whole(path, lambda aside: aside.write_text(text, encoding="utf-8"))


def write_json(path: Path, value: Any) -> None:
    """Write JSON whole; NaN and infinity are refused by the format and so by us."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def read_json(path: Path, made_by: str) -> Any:
    """Read JSON.

    Args:
        path: the file.
        made_by: the command that makes it, named when it is missing.

    Raises:
        MissingInputError: the file is not there.
        DamagedFileError: it is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise MissingInputError(f"{path} is missing", f"make it with: {made_by}") from None
    except (ValueError, OSError, RecursionError) as error:
        raise DamagedFileError(
            f"{path} can't be read as JSON ({error})", f"make it again with: {made_by}"
        ) from error


def digest_file(path: Path) -> str:
    """Return the sha256 of a file, in hexadecimal."""
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
