"""Folders that are either whole or not there, and a lock that lets one process write into a folder."""

from __future__ import annotations

import contextlib
import fcntl
import glob
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from harden.errors import InputError
from harden.storage.files import make_folder, put_aside, require_folder, storage_errors, sync_folder

_PLAIN_NAME = re.compile(r"\w[\w.-]*")


def require_plain_name(name: str, what: str) -> None:
    """Refuse a name, of the pipeline for example, that no folder of its own can have: InputError."""
    if not _PLAIN_NAME.fullmatch(name):
        remedy = "a name is made of letters, digits, . _ and -, and begins with a letter, a digit or _"
        raise InputError(f"{what} is named {name!r}, and its results would be kept under that name", remedy)


def require_new(path: Path) -> None:
    """Refuse a path where something is already, other than an empty folder: InputError."""
    with storage_errors(path):
        taken = any(path.iterdir()) if path.is_dir() else path.exists()
    if taken:
        raise InputError(f"{path} is there already", "remove it, or name another place with --out")


def require_place(path: Path) -> None:
    """Refuse a place where no new folder can be made: something is there, or it can't be written."""
    require_new(path)
    require_folder(path)


@contextlib.contextmanager
def whole_folder(path: Path, instead_of: Sequence[Path] = ()) -> Iterator[Path]:
    """Fill a new folder so that it appears at once and whole, or not at all.

    Args:
        instead_of: folders that go when it appears, and not before; `path` first, if it is one of them.

    Returns:
        The temporary folder beside it, to be filled inside the `with`.

    Raises:
        InputError: there is something at `path`; StorageError: no room or no permission.
    """
    if path not in instead_of:
        require_new(path)
    with contextlib.ExitStack() as stack:
        with storage_errors(path):
            aside = stack.enter_context(put_aside(path.parent, folder=True))
        yield aside
        with storage_errors(path), _moved_away(instead_of):
            require_new(path)
            sync_folder(aside)
            os.replace(aside, path)
            sync_folder(path.parent)


@contextlib.contextmanager
def _moved_away(folders: Sequence[Path]) -> Iterator[None]:
    """Move folders out of the way, and remove them when all went well; else put them back."""
    moved: list[tuple[Path, Path]] = []
    try:
        for folder in folders:
            if folder.exists():
                old = folder.with_name(f".{folder.name}.{os.getpid()}.old")
                # before it is moved: a signal may come right behind
                moved.append((folder, old))
                os.replace(folder, old)
        yield
    except BaseException:
        for folder, old in reversed(moved):
            # a signal may also come when the new one stands already: `recover_replaced` removes the old one
            if old.exists() and not folder.exists():
                os.replace(old, folder)
        raise
    for _, old in moved:
        shutil.rmtree(old, ignore_errors=True)


def recover_replaced(path: Path, instead_of: Sequence[Path]) -> None:
    """Undo a `whole_folder` that was killed half-way, or finish it where the new folder stands already."""
    stands = path.exists()
    for folder in instead_of:
        for old in _moved(folder):
            with storage_errors(folder):
                if stands:
                    shutil.rmtree(old)
                else:
                    os.replace(old, folder)


def whereabouts(path: Path, instead_of: Sequence[Path]) -> list[Path]:
    """Return where folders are now, some of which `recover_replaced` would first put back."""
    return [old if path.exists() or old.exists() else next(_moved(old), old) for old in instead_of]


def _moved(folder: Path) -> Iterator[Path]:
    return folder.parent.glob(f".{glob.escape(folder.name)}.*.old")


def copy_folder(source: Path, out: Path) -> None:
    """Copy a folder's files, not the folders in it, into a new one; errors as `whole_folder`."""
    with whole_folder(out) as aside, storage_errors(out):
        for file in source.iterdir():
            if file.is_file():
                shutil.copyfile(file, aside / file.name)


class FolderLock(contextlib.AbstractContextManager["FolderLock"]):
    """Holds a data set's folder, made where it is not there, against other writers.

    Raises:
        InputError: another process writes there; StorageError: the folder can't be written.
    """

    def __init__(self, path: Path) -> None:
        with storage_errors(make_folder(path)):
            self._handle = os.open(path / ".lock", os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW, 0o644)
        try:
            fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._handle)
            remedy = "wait for it, or collect elsewhere with --out"
            raise InputError(f"data set {path} is being written by another process", remedy) from None

    @staticmethod
    def held(path: Path) -> bool:
        """Return whether a process, this one too, holds a folder at this moment."""
        try:
            with (path / ".lock").open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:
            pass
        return False

    def close(self) -> None:
        """Let the next writer in."""
        os.close(self._handle)

    def __exit__(self, *_: object) -> None:
        self.close()
