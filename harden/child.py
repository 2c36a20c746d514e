"""Child processes: what may hang, crash or take all memory is done in one."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from multiprocessing import Pipe
from pathlib import Path
from typing import Any


def start_child(words: Sequence[str], ours: bool = True) -> tuple[subprocess.Popen[bytes], socket.socket]:
    """Start a program with a socket to this process, the number of which is its last argument.

    It is a fresh interpreter, because a fork would copy torch's threads in whatever state they are. It has to
    end when its socket is closed: with the one that is returned, or with this process.

    Args:
        words: the program and its arguments.
        ours: it finds modules where this process does; another Python finds its own.

    Raises:
        OSError: there is no such program.
    """
    here, there = socket.socketpair()
    more = {"OMP_NUM_THREADS": "1"}
    if ours:
        more["PYTHONPATH"] = os.pathsep.join(os.path.abspath(entry) for entry in sys.path)
    with there:
        process = subprocess.Popen(
            [*words, str(there.fileno())],
            pass_fds=[there.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            env=os.environ | more,
            process_group=0,  # or Ctrl-C reaches the child too, before the child ignores it
        )
    return process, here


def exit_status(process: subprocess.Popen[bytes]) -> int | None:
    """Return how a child ended whose socket broke, which it does a moment before; None: it did not."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(timeout=5)
    return process.returncode


def limit_memory(room: int) -> None:
    """Let this process take so many bytes of memory beside those that it has."""
    most = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize() + room
    resource.setrlimit(resource.RLIMIT_AS, (most, most))


def answer_of_fork(work: Callable[[], Any], seconds: float, room: int = 0) -> Any:
    """Return what `work` returns in a fork of this process, for a call that may never come back.

    Args:
        work: touches no thread, writes nothing, and returns or raises what can be pickled.
        seconds: after these the fork is killed.
        room: bytes of memory that it may take, beside those that this process has; 0 for no limit.

    Raises:
        TimeoutError: it took longer, or it died; otherwise what `work` raises, such as MemoryError.
    """
    reader, writer = Pipe(duplex=False)
    child = os.fork()
    if not child:
        try:
            try:
                if room:
                    limit_memory(room)
                writer.send((work(), None))
            except Exception as failure:
                writer.send((None, failure))
        finally:
            # nothing of the parent's is cleared up
            os._exit(0)
    writer.close()
    try:
        if not reader.poll(seconds):
            raise TimeoutError(f"it took longer than {seconds:.0f} s")
        answer, error = reader.recv()
    except EOFError:
        raise TimeoutError("the process that read it was ended") from None
    finally:
        reader.close()
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    if error is not None:
        raise error
    return answer
