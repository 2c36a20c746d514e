"""Files that are either whole or not there: written aside, flushed to the disk, renamed."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import io
import json
import os
import re
import secrets
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from harden.errors import DamagedFileError, InputError, MissingInputError, StorageError

Written = TypeVar("Written")

_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
# a file or folder that is being written, which is locked as long as its writer lives
_ASIDE = re.compile(r"\.harden-[0-9a-f]{16}\.tmp")
_MOST_TEXT_BYTES = 256 * 2**20
# a longer whole number overflows wherever it is counted with, at the latest as a float32
_MOST_DIGITS = 18


@contextlib.contextmanager
def read_errors(path: Path) -> Iterator[None]:
    """Turn a file system's refusal to let something be read into a StorageError; a missing file stays one."""
    try:
        yield
    except (FileNotFoundError, NotADirectoryError):
        raise
    except OSError as error:
        remedy = "it may be whole: get leave to read it, such as with chmod"
        raise StorageError(f"can't read {error.filename or path} ({error.strerror})", remedy) from error


@contextlib.contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turn a file system's refusal to let something be written into a StorageError."""
    try:
        yield
    except OSError as error:
        what = f"can't write {path} ({error.strerror or error})"
        remedy = "name a folder that you may write to"
        if error.errno in _NO_ROOM:
            what = f"no room left on the disk while writing {path}"
            remedy = "nothing already stored was touched: free some space and run the command again"
        raise StorageError(what, remedy) from error


def open_regular(path: Path) -> io.BufferedReader:
    """Open a file to read its bytes, and nothing that only looks like one: a pipe would never answer.

    Raises:
        FileNotFoundError: nothing is there; StorageError: it may not be read; DamagedFileError: no file.
    """
    with read_errors(path):
        # to open a device may do something, and a socket can't be opened
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise DamagedFileError(f"{path} is no regular file", "name one, or put one there")
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    return open(handle, "rb")


def read_bytes(path: Path, most: int) -> bytes:
    """Return what is in a file of at most `most` bytes; errors as `open_regular`, and larger is damaged."""
    with open_regular(path) as file, read_errors(path):
        content = file.read(most + 1)
    if len(content) > most:
        raise DamagedFileError(f"{path} holds more than {most:,} bytes, too much for what it is to be")
    return content


def read_text(path: Path) -> str:
    """Return the text of a file in UTF-8; errors as `read_bytes`, and UnicodeDecodeError."""
    return read_bytes(path, _MOST_TEXT_BYTES).decode("utf-8")


def require_file(path: Path, remedy: str) -> None:
    """Refuse a file that is not there (MissingInputError with the remedy), or as `open_regular`."""
    try:
        open_regular(path).close()
    except (FileNotFoundError, NotADirectoryError):
        raise MissingInputError(f"{path} is missing", remedy) from None


def make_folder(path: Path) -> Path:
    """Make a folder and its parents; a StorageError says why not."""
    with storage_errors(path):
        path.mkdir(parents=True, exist_ok=True)
        if not os.access(path, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
    return path


def sync_folder(path: Path) -> None:
    """Flush a folder's entries to the disk, so that a rename in it survives a power cut."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_whole(path: Path, write: Callable[[Path], Written]) -> Written:
    """Write a file so that a reader sees the old one or the new one, never a part.

    Args:
        write: writes the content to the temporary path that it is given; what it returns is returned.

    Raises:
        StorageError: no room or no permission, or no file is what stands there; what there was is as it was.
    """
    _require_replaceable(path)
    with storage_errors(path), put_aside(path.parent, folder=False) as aside:
        written = write(aside)
        with open(aside, "rb") as handle:
            os.fsync(handle.fileno())
        os.replace(aside, path)
        sync_folder(path.parent)
    return written


@contextlib.contextmanager
def put_aside(parent: Path, folder: bool) -> Iterator[Path]:
    """Make a file or folder under a name that nobody can foresee; what is left of it at the end is removed.

    The parent is made where it is missing, and goes again where it is empty at the end. A lock keeps the file
    or folder from being taken for one that a killed process left; those are removed first.
    """
    with contextlib.ExitStack() as stack:
        for missing in reversed([folder for folder in (parent, *parent.parents) if not folder.exists()]):
            stack.callback(_remove_if_empty, missing)
        make_folder(parent)
        clear_unfinished(parent)
        while True:
            path = parent / f".harden-{secrets.token_hex(8)}.tmp"
            # before it is made: a signal may come right behind
            stack.callback(_remove, path)
            try:
                if folder:
                    path.mkdir()
                flags = os.O_RDONLY if folder else os.O_RDWR | os.O_CREAT | os.O_EXCL
                lock = os.open(path, flags | os.O_CLOEXEC, 0o666)
            except FileExistsError:
                # somebody put it there, and it is left to them
                stack.pop_all()
                raise
            stack.callback(os.close, lock)
            fcntl.flock(lock, fcntl.LOCK_EX)
            # another process may have removed it before it was locked
            if path.exists():
                break
        yield path


def _remove_if_empty(folder: Path) -> None:
    with contextlib.suppress(OSError):
        folder.rmdir()


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def clear_unfinished(folder: Path) -> None:
    """Remove the half-written files and folders that killed processes left in a folder."""
    for name in [entry.name for entry in os.scandir(folder) if _ASIDE.fullmatch(entry.name)]:
        with contextlib.suppress(OSError):
            left = os.open(folder / name, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                fcntl.flock(left, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _remove(folder / name)
            finally:
                os.close(left)


def require_folder(path: Path) -> None:
    """Refuse a folder, there or still to be made, that can't be written into: StorageError."""
    with storage_errors(path):
        # into the folder itself, or into the nearest one above it that there is; nothing is left behind
        whole = path.absolute()
        nearest = next(folder for folder in (whole, *whole.parents) if folder.exists())
        with tempfile.TemporaryFile(dir=nearest):
            pass


def require_writable(path: Path) -> None:
    """Refuse a file that could not be written, before the long work whose result it is: StorageError."""
    _require_replaceable(path)
    require_folder(path.parent)


def _require_replaceable(path: Path) -> None:
    """Refuse to put a file in the place of a folder, a pipe or a device, as /dev/null is: StorageError."""
    with storage_errors(path):
        if path.exists() and not path.is_file():
            what = "it is a folder" if path.is_dir() else "it is no regular file"
            raise StorageError(f"can't write {path} ({what})", "name a file")


def is_among(path: Path, others: Iterable[Path]) -> bool:
    """Return whether a path leads to one of several files, under whatever name."""
    return os.path.realpath(path) in {os.path.realpath(other) for other in others}


def require_apart(out: Path, *inputs: Path) -> None:
    """Refuse an output that would replace an input, under whatever name: InputError."""
    if is_among(out, inputs):
        raise InputError(f"{out} is read by this command", "name another file to write")


def write_text(path: Path, text: str) -> None:
    """Write a text file whole."""
    write_whole(path, lambda aside: aside.write_text(text, encoding="utf-8"))


def write_json(path: Path, value: Any) -> None:
    """Write JSON whole; ValueError: NaN or infinity, which the format does not have."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def read_json(path: Path, made_by: str) -> Any:
    """Read a JSON file, which the command `made_by` makes.

    Raises:
        MissingInputError: not there; StorageError: it may not be read; DamagedFileError: not JSON.
    """
    try:
        return parse_json(read_text(path))
    except (FileNotFoundError, NotADirectoryError):
        raise MissingInputError(f"{path} is missing", f"make it with: {made_by}") from None
    except (ValueError, RecursionError) as error:
        remedy = f"make it again with: {made_by}"
        raise DamagedFileError(f"{path} can't be read as JSON ({error})", remedy) from error


def parse_json(text: str) -> Any:
    """Return the value of a JSON text that anybody may have written.

    Raises:
        ValueError: not JSON, or numbers or letters that can't be kept; RecursionError: nested too deep.
    """

    def whole_number(digits: str) -> int:
        if len(digits) > _MOST_DIGITS:
            raise ValueError(f"a whole number of {len(digits)} digits")
        return int(digits)

    value = json.loads(text, parse_int=whole_number)
    if "\\ud" in text.lower():
        # half of a letter that takes two can't be printed
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    return value


def digest_file(path: Path) -> str:
    """Return the sha256 of a file, in hexadecimal; errors as `open_regular`."""
    with open_regular(path) as handle, read_errors(path):
        return hashlib.file_digest(handle, "sha256").hexdigest()
