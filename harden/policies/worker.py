"""The child process that runs somebody else's policy file. Run as `python -m harden.policies.worker FD`.

A file of a few bytes can loop for ever or take all memory, when it is loaded as well as when it runs.
"""

from __future__ import annotations

import importlib
import os
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from harden.child import limit_memory, serve
from harden.errors import DamagedFileError, InputError, foreign_errors

MOST_BYTES = 256 * 2**20
MEMORY_BYTES = 4 * 2**30
MOST_NUMBERS = 2**24


def start_session(content: bytes) -> Any:
    """Return an onnxruntime session of a model, on one core, as a robot would open it."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    # with more threads, their stacks alone exceed the limit of memory on a machine of many cores
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    where = ["CPUExecutionProvider"]
    return onnxruntime.InferenceSession(content, options, providers=where, enable_fallback=0)


class Worker:
    """What the parent process asks for."""

    def __init__(self) -> None:
        self.session: Any = None

    def start(self, library: str) -> None:
        """Import the library that runs the file, and limit the memory that is taken from then on."""
        importlib.import_module(library)
        limit_memory(MEMORY_BYTES)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))

    def load_onnx(self, path: Path) -> tuple[bytes, bool, list[tuple[str, str, list[Any]]], list[str]]:
        """Load a model, with what it keeps in files beside it; the library refuses those that lie elsewhere.

        Returns:
            The whole model, whether the file alone holds it, name, type and shape of each input, and the
            names of the outputs.
        """
        import onnx

        remedy = "numbers are read from the same folder alone; export with external_data=False"
        with foreign_errors(f"{path} can't be read as ONNX", remedy, DamagedFileError):
            model = onnx.load_model_from_string(path.read_bytes())
            alone = model.SerializeToString()
            onnx.load_external_data_for_model(model, str(path.parent))
            content = model.SerializeToString()
        if len(content) > MOST_BYTES:
            raise DamagedFileError(f"{path} has {len(content):,} bytes", f"at most {MOST_BYTES:,} are read")
        with foreign_errors(f"{path} can't be run as ONNX", kind=DamagedFileError):
            self.session = start_session(content)
        inputs = [(item.name, item.type, item.shape) for item in self.session.get_inputs()]
        return content, content == alone, inputs, [item.name for item in self.session.get_outputs()]

    def run_onnx(self, path: Path, wanted: list[str], parts: list[np.ndarray]) -> list[list[np.ndarray]]:
        """Return the model's outputs of those names for each part of the observations."""
        name, answers, size = self.session.get_inputs()[0].name, [], 0
        for part in parts:
            with foreign_errors(f"{path} can't be run on observations {part.shape}"):
                outputs = self.session.run(wanted, {name: part})
            for output in outputs:
                if not isinstance(output, np.ndarray) or output.dtype.kind != "f":
                    given = getattr(output, "dtype", type(output).__name__)
                    raise InputError(f"{path} gives {given}", "actions are floating point numbers")
                size += output.size
            if size > MOST_NUMBERS:
                raise InputError(f"{path} answers with more than {MOST_NUMBERS:,} numbers")
            answers.append(outputs)
        return answers

    def call(self, path: Path, function: Callable[..., Any], *arguments: Any) -> Any:
        """Return what a function of the library makes of the file."""
        return function(path, *arguments)


if __name__ == "__main__":
    # what C++ writes when it is out of memory is no line for the user, who gets one from the parent
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    serve(Worker())
