"""Child processes that answer requests through a pipe."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from multiprocessing.connection import Connection


def start_child(module: str) -> tuple[subprocess.Popen[bytes], Connection]:
    """Start `python -m MODULE FD` and return the process and this process's end of the pipe.

    The child is a fresh interpreter, because a fork would copy torch's threads in whatever state they are. It
    finds modules where this process does, and (-P) not first in the folder that the user stands in.

    Args:
        module: dotted name; it answers through the file descriptor that is its only argument.
    """
    ours, theirs = socket.socketpair()
    search = os.pathsep.join(os.path.abspath(entry) for entry in sys.path)
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", module, str(theirs.fileno())],
        pass_fds=[theirs.fileno()],
        stdout=subprocess.DEVNULL,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": search},
        process_group=0,  # or Ctrl-C reaches the child too, and before it can say that it ignores that
    )
    theirs.close()
    return process, Connection(ours.detach())
