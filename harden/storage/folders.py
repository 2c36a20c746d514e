"""Folders that are either whole or not there, and what a killed process left of them."""

from __future__ import annotations

import contextlib
import fcntl
import glob
import os
import re
import secrets
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from harden.errors import InputError
from harden.storage.files import make_folder, storage_errors, sync_folder, try_folder

_PLAIN_NAME = re.compile(r"\w[\w.-]*")


def require_plain_name(name: str, what: str) -> None:
    """Refuse a name that a folder can't be made under without it being another one, or hidden.

    Args:
        what: has the name, such as "pipeline".

    Raises:
        InputError: it is empty, begins with a dot or a dash, or has more in it than letters and digits . _ -
    """
    if not _PLAIN_NAME.fullmatch(name):
        raise InputError(
            f"{what} is named {name!r}, and its results would be kept under that name",
            "a name is made of letters, digits, . _ and -, and begins with a letter, a digit or _",
        )


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
        try_folder(path)


@contextlib.contextmanager
def whole_folder(path: Path, instead_of: Sequence[Path] = ()) -> Iterator[Path]:
    """Fill a new folder so that it appears at once and whole, or not at all.

    Args:
        path: where the folder is to be.
        instead_of: folders that go when it appears, and not before; `path` first, if it is one of them.

    Returns:
        The temporary folder beside it, to be filled inside the `with`.

    Raises:
        InputError: there is something at `path`; StorageError: no room or no permission.
    """
    if path not in instead_of:
        require_new(path)
    for folder in (path, *instead_of):
        make_folder(folder.parent)
    _clear_leftovers(path)
    aside = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    with storage_errors(path):
        aside.mkdir()
    lock = os.open(aside, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield aside
        with storage_errors(path), _moved_aside(instead_of):
            require_new(path)
            sync_folder(aside)
            os.replace(aside, path)
            sync_folder(path.parent)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
        os.close(lock)


@contextlib.contextmanager
def _moved_aside(folders: Sequence[Path]) -> Iterator[None]:
    """Move folders out of the way, and remove them when all went well; else put them back."""
    moved: list[tuple[Path, Path]] = []
    try:
        for folder in folders:
            if folder.exists():
                old = folder.with_name(f".{folder.name}.{os.getpid()}.old")
                os.replace(folder, old)
                moved.append((folder, old))
        yield
    except BaseException:
        for folder, old in reversed(moved):
            os.replace(old, folder)
        raise
    for _, old in moved:
        shutil.rmtree(old, ignore_errors=True)


def bring_back(path: Path, instead_of: Sequence[Path]) -> None:
    """Undo a `whole_folder` that was killed half-way, or finish it where the new folder stands already."""
    stands = path.exists()
    for folder in instead_of:
        for old in folder.parent.glob(f".{glob.escape(folder.name)}.*.old"):
            with storage_errors(folder):
                if stands:
                    shutil.rmtree(old)
                else:
                    os.replace(old, folder)


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
    name = re.compile(rf"\.{re.escape(path.name)}\.[0-9a-f]+\.tmp")
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
