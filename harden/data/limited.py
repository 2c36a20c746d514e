"""A child process in which HDF5 reads strings, because it may never come back from them."""

from __future__ import annotations

import json
import os
import select
import signal
from collections.abc import Callable
from typing import Any, NoReturn

from harden.errors import DamagedFileError

# what h5py raises on bytes that are not what they claim to be
UNREADABLE = (
    ArithmeticError,
    AttributeError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
)


def within_time(work: Callable[[], Any], seconds: float, where: str) -> Any:
    """Read strings of a file in a child process that is ended when it takes too long; returns what it read.

    HDF5 goes through the strings of a file by sizes that it takes from the file. Where a damaged one is 0 the
    library never comes back, and no signal but SIGKILL ends it.

    Args:
        work: reads, writes nothing, and returns what JSON can hold.
        seconds: that it may take.
        where: the file's name in an error.

    Raises:
        DamagedFileError: it took longer, or failed.
    """
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        _answer(work, writer, where)
    os.close(writer)
    answer = b""
    try:
        while select.select([reader], [], [], seconds)[0] and (part := os.read(reader, 1 << 16)):
            answer += part
    finally:
        os.close(reader)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    if not answer.endswith(b"\n"):
        raise DamagedFileError(f"{where} is damaged: its strings could not be read within {seconds:.0f} s")
    found = json.loads(answer)
    if "refused" in found:
        raise DamagedFileError(*found["refused"])
    return found["read"]


def _answer(work: Callable[[], Any], writer: int, where: str) -> NoReturn:
    """Write what `work` returns to a pipe and end this process, with nothing of the parent's cleared up."""
    try:
        try:
            found = {"read": work()}
        except DamagedFileError as error:
            found = {"refused": [error.message, error.remedy]}
        except UNREADABLE as error:
            found = {
                "refused": [f"{where}: an attribute or a string can't be read ({error})".splitlines()[0]]
            }
        answer = json.dumps(found, default=repr).encode() + b"\n"
        while answer:
            answer = answer[os.write(writer, answer) :]
    finally:
        os._exit(0)
