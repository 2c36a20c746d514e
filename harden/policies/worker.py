"""The child process that runs somebody else's policy file. Run as `python -m harden.policies.worker FD`.

A file of a few bytes can loop for ever or take all memory, when it is loaded as well as when it runs.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import resource
import signal
import sys
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from harden.child import limit_memory
from harden.errors import DamagedFileError, HardenError, InputError, foreign_errors

MOST_BYTES = 256 * 2**20
MEMORY_BYTES = 4 * 2**30
MOST_NUMBERS = 2**24
# of the model that was loaded last
_session: Any = None


def start_session(content: bytes) -> Any:
    """Return an onnxruntime session of a model, on one core, as a robot would open it."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    # with more threads, their stacks alone exceed the limit of memory on a machine of many cores
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    where = ["CPUExecutionProvider"]
    return onnxruntime.InferenceSession(content, options, providers=where, enable_fallback=0)


def limit(library: str) -> None:
    """Import the library that runs the file, and limit the memory that is taken from then on."""
    importlib.import_module(library)
    limit_memory(MEMORY_BYTES)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def load_onnx(path: Path) -> tuple[bytes, bool, list[tuple[str, str, list[Any]]], list[str]]:
    """Load a model, with what it keeps in files beside it; the library refuses those that lie elsewhere.

    Returns:
        The whole model, whether the file alone holds it, name, type and shape of each input, and the names of
        the outputs.
    """
    import onnx

    global _session
    remedy = "numbers are read from the same folder alone; export with external_data=False"
    with foreign_errors(f"{path} can't be read as ONNX", remedy, DamagedFileError):
        model = onnx.load_model_from_string(path.read_bytes())
        alone = model.SerializeToString()
        onnx.load_external_data_for_model(model, str(path.parent))
        content = model.SerializeToString()
    if len(content) > MOST_BYTES:
        raise DamagedFileError(f"{path} has {len(content):,} bytes", f"at most {MOST_BYTES:,} are read")
    with foreign_errors(f"{path} can't be run as ONNX", kind=DamagedFileError):
        _session = start_session(content)
        # a name need not be text
        inputs = [(item.name, item.type, item.shape) for item in _session.get_inputs()]
        outputs = [item.name for item in _session.get_outputs()]
    return content, content == alone, inputs, outputs


def run_onnx(path: Path, wanted: list[str], parts: list[np.ndarray]) -> list[list[np.ndarray]]:
    """Return the outputs of those names, of the model that was loaded, for each part of the observations."""
    name, answers, size = _session.get_inputs()[0].name, [], 0
    for part in parts:
        with foreign_errors(f"{path} can't be run on observations {part.shape}"):
            outputs = _session.run(wanted, {name: part})
        for output in outputs:
            if not isinstance(output, np.ndarray) or output.dtype.kind != "f":
                given = getattr(output, "dtype", type(output).__name__)
                raise InputError(f"{path} gives {given}", "actions are floating point numbers")
            size += output.size
        if size > MOST_NUMBERS:
            raise InputError(f"{path} answers with more than {MOST_NUMBERS:,} numbers")
        answers.append(outputs)
    return answers


def _serve(pipe: Connection) -> None:
    """Call the functions that the parent names, each within so many seconds, until the pipe closes."""
    # either may reach all processes of a run; the parent decides when the work ends
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    # what C++ writes when it is out of memory is no line for the user, who gets one from the parent
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    with contextlib.suppress(EOFError, OSError):
        while True:
            seconds, function, arguments = pipe.recv()
            signal.alarm(seconds)
            try:
                with foreign_errors("a child process failed", kind=HardenError):
                    reply: tuple[bool, Any] = True, function(*arguments)
            except HardenError as error:
                reply = False, error
            signal.alarm(0)
            pipe.send(reply)


if __name__ == "__main__":
    _serve(Connection(int(sys.argv[1])))
