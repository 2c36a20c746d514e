"""Policies as ONNX: a graph of arithmetic, which runs in a child process under limits of time and memory."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from harden.errors import InputError, foreign_errors, require_extra
from harden.nets import GaussianPolicy
from harden.policies import foreign
from harden.policies.adopt import Bounds, Node, adopt_weights
from harden.policies.foreign import ForeignPolicy, LimitedProcess, as_gaussian
from harden.policies.reading import Reading
from harden.policies.worker import load_onnx, run_onnx
from harden.storage.files import digest_file

INPUT, OUTPUT = "observation", "action"
_CACHE = "TORCHINDUCTOR_CACHE_DIR"
# observations a request
_ROWS = 1024
_TYPES = {"tensor(float16)": np.float16, "tensor(float)": np.float32, "tensor(double)": np.float64}
_OPERATIONS = {"Gemm": "linear", "MatMul": "product", "Add": "add", "Mul": "mul"}
_OPERATIONS |= {"Relu": "relu", "Tanh": "tanh", "Min": "minimum", "Max": "maximum"}


@contextlib.contextmanager
def _quiet_exporter() -> Iterator[None]:
    """Let PyTorch's exporter say nothing, and leave nothing in the system's temporary folder."""
    # it says of each optional package that it is not there
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings(), tempfile.TemporaryDirectory() as scratch:
        warnings.simplefilter("ignore")
        os.environ.setdefault(_CACHE, scratch)
        try:
            yield
        finally:
            if os.environ[_CACHE] == scratch:
                del os.environ[_CACHE]


def write_onnx(path: Path, module: nn.Module, obs_dim: int, manifest: dict[str, Any]) -> None:
    """Write a module as one self-contained file with a free batch size; InputError: no onnx extra."""
    require_extra("onnx", "onnx", "onnxscript")
    with _quiet_exporter():
        names: dict[str, Any] = {"input_names": [INPUT], "output_names": [OUTPUT]}
        names["dynamic_shapes"] = {INPUT: {0: "batch"}}
        program = torch.onnx.export(module, (torch.zeros(2, obs_dim),), dynamo=True, verbose=False, **names)
    assert program is not None
    model = program.model_proto
    # the exporter notes where in the source each node came from: paths of this machine
    for node in model.graph.node:
        del node.metadata_props[:]
    model.metadata_props.add(key="harden", value=json.dumps(manifest))
    path.write_bytes(model.SerializeToString())


def _arrange(rows: np.ndarray, shape: list[Any], path: Path) -> tuple[int, list[np.ndarray]]:
    """Return how many rows a model takes at once, and rows (B, obs_dim) in parts of its input's shape.

    In the shape a size that is free is no int, and it is [] where the file does not say it. The last part is
    filled up. InputError: it takes other observations, or several at once.
    """
    *outer, features = [size if isinstance(size, int) else None for size in shape or (None, None)]
    obs_dim = rows.shape[1]
    if any(size not in (None, 1) for size in outer[1:]):
        what = f"{path} takes {shape}, several observations at once: a stacked policy"
        raise InputError(what, foreign.MEMORYLESS)
    if features is not None:
        foreign.require_width(path, features, obs_dim)
    # without an axis for a batch it takes one observation
    at_once = (outer[0] if outer else 1) or len(rows)
    filled = np.resize(rows, (-(-len(rows) // at_once) * at_once, obs_dim))
    part = (at_once,) * bool(outer) + (1,) * len(outer[1:]) + (obs_dim,)
    return at_once, list(filled.reshape(-1, *part))


def _joined(outputs: tuple[np.ndarray, ...], at_once: int, path: Path) -> Tensor:
    """Return one output of all parts, (rows, its size)."""
    for output in outputs:
        if at_once > 1 and (output.ndim < 1 or len(output) != at_once):
            raise InputError(f"{path} gives an array {output.shape} for {at_once} observations")
    return torch.from_numpy(np.stack(outputs)).float().reshape(len(outputs) * at_once, -1)


def open_onnx(path: Path, reading: Reading, bounds: Bounds, _: Tensor) -> ForeignPolicy:
    """Read an ONNX policy: one input of observations, actions as an output; asked in a child process.

    Arguments and errors are those of `open_foreign`; also InputError: no onnx extra.
    """
    require_extra("onnx", "onnx", "onnxruntime")
    import onnx

    process = LimitedProcess(path, "onnxruntime")
    # with the numbers that lie in files beside it, if any
    content, complete, inputs, outputs = process.ask(load_onnx)
    foreign.require_one_input(path, [name for name, _, _ in inputs])
    _, kind, shape = inputs[0]
    if kind not in _TYPES:
        raise InputError(f"{path} takes {kind}", f"a policy takes one of: {', '.join(_TYPES)}")
    wanted = foreign.chosen_outputs(outputs, reading, path)

    def run_some(obs: Tensor) -> list[Tensor]:
        at_once, parts = _arrange(obs.numpy().astype(_TYPES[kind]), shape, path)
        columns = list(zip(*process.ask(run_onnx, wanted, parts), strict=True))
        with foreign_errors(f"{path} can't be run on observations {tuple(obs.shape)}"):
            return [_joined(column, at_once, path)[: len(obs)] for column in columns]

    def run(obs: Tensor) -> tuple[Tensor, Tensor | None]:
        parts = [run_some(part) for part in obs.detach().cpu().split(_ROWS)]
        return as_gaussian([torch.cat(column) for column in zip(*parts, strict=True)], reading)

    adopted = _adopted(onnx.load_model_from_string(content), bounds)
    identity = digest_file(path) if complete else hashlib.sha256(content).hexdigest()
    return ForeignPolicy("onnx", run, adopted, identity=identity)


def _constants(model: Any) -> dict[str, Tensor]:
    """Return the floating point numbers that a model holds, by name."""
    from onnx import numpy_helper

    stored = {item.name: item for item in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant":
            values = [item.t for item in node.attribute if item.name == "value"]
            stored |= dict(zip(node.output, values, strict=False))
    arrays = {name: numpy_helper.to_array(item) for name, item in stored.items()}
    return {name: torch.tensor(value).float() for name, value in arrays.items() if value.dtype.kind == "f"}


def _adopted(model: Any, bounds: Bounds) -> GaussianPolicy | None:
    """Return our policy with a model's weights, None where it is more than arithmetic on stored numbers."""
    graph = model.graph
    entries = {item.name for item in graph.input} - {item.name for item in graph.initializer}
    plain = all(node.domain in ("", "ai.onnx") and len(node.output) == 1 for node in graph.node)
    if model.functions or not plain or len(entries) != 1 or len(graph.output) != 1:
        return None
    nodes = list[Node]()
    for node in graph.node:
        if node.op_type == "Constant":
            continue
        options = {item.name: item.i or item.f for item in node.attribute}
        operation = _OPERATIONS.get(node.op_type, node.op_type)
        if node.op_type == "Gemm":
            if options.get("alpha", 1) != 1 or options.get("beta", 1) != 1 or options.get("transA"):
                return None
            operation = "linear" if options.get("transB") else "product"
        nodes.append((operation, [name for name in node.input if name], node.output[0]))
    return adopt_weights(nodes, _constants(model), entries.pop(), graph.output[0].name, bounds)
