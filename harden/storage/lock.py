"""One writer at a time: a lock on a data set's folder, held by the process that writes there."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from types import TracebackType

from harden.errors import InputError
from harden.storage.files import make_folder, storage_errors


class FolderLock:
    """Holds a data set's folder against other writers.

    Args:
        path: the folder, made where it is not there.

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
            raise InputError(
                f"data set {path} is being written by another process",
                "wait for it, or collect elsewhere with --out",
            ) from None

    def close(self) -> None:
        """Let the next writer in."""
        os.close(self._handle)

    def __enter__(self) -> FolderLock:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
