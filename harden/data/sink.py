"""Where HDF5 writes: a disk that is full must not take the process with it."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any


class Sink(io.FileIO):
    """A file that HDF5 writes through, and hears of no more than one error, and of none as it closes.

    What HDF5 can't close stays open in it and is written again as the process ends, which then crashes: after
    the first error all is taken and thrown away, so that it can close.

    Args:
        error: the first one, which is for the caller to raise.
        closing: whether the caller has written all, and HDF5 the rest.
    """

    error: OSError | None = None
    closing = False

    def write(self, data: Any, /) -> int:
        """Write all of it."""
        left = memoryview(data).cast("B")
        size = len(left)
        while left and self.error is None:
            left = left[self._heard(super().write, left) :]
        return size

    def truncate(self, size: int | None = None, /) -> int:
        """Set the file's length."""
        return self._heard(super().truncate, size) if self.error is None else size or 0

    def _heard(self, call: Callable[[Any], int], argument: Any) -> int:
        try:
            return call(argument)
        except OSError as error:
            self.error = error
            if not self.closing:
                raise
            return 0
