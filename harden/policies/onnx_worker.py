"""A child process that runs one ONNX model under limits. Run as `python -m harden.policies.onnx_worker FD`.

A graph of a few bytes can loop for ever or take all memory, when it is loaded as well as when it runs.
"""

from __future__ import annotations

import os
import resource
import signal
import sys
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

MEMORY_BYTES = 4 * 2**30
_MOST_NUMBERS = 2**24


def start_session(content: bytes) -> Any:
    """Return an onnxruntime session of a model, on one core, as a robot would open it."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    # with more threads, their stacks alone exceed the limit of memory on a machine of many cores
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(
        content, options, providers=["CPUExecutionProvider"], enable_fallback=0
    )


def _numbers(output: Any) -> Any:
    """Return an output of floating point numbers, of any other the name of its type."""
    if isinstance(output, np.ndarray) and output.dtype.kind == "f":
        return output
    return str(output.dtype) if isinstance(output, np.ndarray) else type(output).__name__


class Model:
    """The model that this process runs."""

    def __init__(self) -> None:
        # before the time of a request counts
        import onnxruntime  # noqa: F401

        self.session: Any = None

    def load(self, content: bytes) -> list[tuple[str, str, list[Any]]]:
        """Load a model; returns name, type and shape of each input."""
        self.session = start_session(content)
        return [(item.name, item.type, item.shape) for item in self.session.get_inputs()]

    def run(self, parts: list[np.ndarray]) -> list[list[Any]]:
        """Return the outputs of each part; of what is no array of floating point numbers, the type's name."""
        name, answers, size = self.session.get_inputs()[0].name, [], 0
        for part in parts:
            answers.append([_numbers(output) for output in self.session.run(None, {name: part})])
            size += sum(output.size for output in answers[-1] if isinstance(output, np.ndarray))
            if size > _MOST_NUMBERS:
                raise ValueError(f"it answers with more than {_MOST_NUMBERS:,} numbers")
        return answers


def serve(pipe: Connection) -> None:
    """Answer requests (seconds, name, argument) until the pipe closes.

    The kernel ends this process when a request takes longer than its seconds, also inside of the model.
    """
    model = Model()
    while True:
        try:
            seconds, request, argument = pipe.recv()
        except (EOFError, OSError):
            return
        signal.alarm(seconds)
        try:
            reply = True, getattr(model, request)(argument)
        # each error of onnxruntime is a class of its own, below Exception only
        except Exception as error:
            lines = str(error).strip().splitlines()
            reply = False, lines[0] if lines else type(error).__name__
        signal.alarm(0)
        try:
            pipe.send(reply)
        except OSError:
            return


if __name__ == "__main__":
    # both may reach all processes of a run; the parent decides when the work ends
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    # what C++ writes when it is out of memory is no line for the user, who gets one from the parent
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    serve(Connection(int(sys.argv[1])))
