"""Policies as ONNX: a graph of arithmetic, which runs in a child process under limits of time and memory."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from harden.errors import DamagedFileError, InputError, foreign_errors
from harden.nets import GaussianPolicy
from harden.policies.layers import Bounds, Node, adopt_weights
from harden.policies.onnx_write import require_onnx
from harden.policies.source import (
    MOST_BYTES,
    LimitedProcess,
    Source,
    as_gaussian,
    check_file,
    require_one_input,
    stacked,
)

_ROWS = 1024
_TYPES = {"tensor(float16)": np.float16, "tensor(float)": np.float32, "tensor(double)": np.float64}
_OPERATIONS = {"Gemm": "linear", "MatMul": "product", "Add": "add", "Mul": "mul"}
_OPERATIONS |= {"Relu": "relu", "Tanh": "tanh", "Min": "minimum", "Max": "maximum"}


def _messages(message: Any) -> Iterator[Any]:
    """Yield a message and all those in it."""
    yield message
    for field, value in message.ListFields():
        if field.message_type is not None:
            for item in value if hasattr(value, "__len__") else (value,):
                yield from _messages(item)


def _take_in(model: Any, path: Path) -> list[Path]:
    """Put numbers that a model keeps in files beside it into the model, and return those files.

    Raises:
        MissingInputError: no such file; DamagedFileError: it lies elsewhere, or lacks the numbers.
    """
    import onnx

    contents, taken = dict[Path, bytes](), 0
    for tensor in _messages(model):
        if not isinstance(tensor, onnx.TensorProto) or not (tensor.external_data or tensor.data_location):
            continue
        entries = {item.key: item.value for item in tensor.external_data}
        name = entries.get("location", "")
        beside = path.parent / name
        if Path(name).name != name or beside.resolve().parent != path.parent.resolve():
            raise DamagedFileError(
                f"{path} is refused: '{tensor.name}' keeps its numbers in '{name}'",
                "only a file in the same folder is read: copy both there, or export with external_data=False",
            )
        if beside not in contents:
            check_file(beside)
            contents[beside] = beside.read_bytes()
        whole = contents[beside]
        with foreign_errors(f"{path} says wrongly where in {name} its numbers are", kind=DamagedFileError):
            first = int(entries.get("offset", 0))
            length = int(entries.get("length", len(whole) - first))
        taken += length
        if min(first, length) < 0 or first + length > len(whole) or taken > MOST_BYTES:
            raise DamagedFileError(f"{beside} does not hold the numbers of '{tensor.name}' in {path}")
        tensor.raw_data = whole[first : first + length]
        tensor.ClearField("external_data")
        tensor.ClearField("data_location")
    return list(contents)


def _read(path: Path) -> tuple[Any, list[Path]]:
    """Return a model with all its numbers, and the files that they were read from."""
    require_onnx("onnx", "onnxruntime")
    import onnx

    check_file(path)
    with foreign_errors(f"{path} can't be read as ONNX", kind=DamagedFileError):
        model = onnx.load_model_from_string(path.read_bytes())
        return model, [path, *_take_in(model, path)]


def _arrange(rows: np.ndarray, shape: list[Any], path: Path) -> tuple[int, list[np.ndarray]]:
    """Return how many rows a model takes at once, and rows in parts of that shape, the last one filled up.

    Args:
        rows: (B, obs_dim).
        shape: of the model's input; a size that is free is no int. [] where the file does not say it.

    Raises:
        InputError: it takes other observations, or several at once.
    """
    *outer, features = [size if isinstance(size, int) else None for size in shape or (None, None)]
    obs_dim = rows.shape[1]
    if any(size not in (None, 1) for size in outer[1:]):
        raise stacked(path, shape)
    if features not in (None, obs_dim):
        if features and features % obs_dim == 0:
            raise stacked(path, shape)
        raise InputError(f"{path} takes {features} coordinates", f"the task's observations have {obs_dim}")
    # without an axis for a batch it takes one observation
    at_once = (outer[0] if outer else 1) or len(rows)
    filled = np.resize(rows, (-(-len(rows) // at_once) * at_once, obs_dim))
    part = (at_once,) * bool(outer) + (1,) * len(outer[1:]) + (obs_dim,)
    return at_once, list(filled.reshape(-1, *part))


def _column(outputs: list[Any], at_once: int, path: Path) -> Tensor:
    """Return one output of all parts, (rows, its size)."""
    for output in outputs:
        if at_once > 1 and (output.ndim < 1 or len(output) != at_once):
            raise InputError(f"{path} gives an array {output.shape} for {at_once} observations")
    return torch.from_numpy(np.stack(outputs)).float().reshape(len(outputs) * at_once, -1)


def open_onnx(path: Path, spread: str | None, bounds: Bounds) -> Source:
    """Read an ONNX policy: one input of observations, actions as the first output.

    Args:
        spread: what a second output is, as in `as_gaussian`.
        bounds: of the action space, and of the spread of our policy with the file's weights.

    Raises:
        MissingInputError: no such file; DamagedFileError: not ONNX, or its numbers lie in another folder.
        InputError: more inputs than one, no numbers, no end, too much memory, or no onnx extra.
    """
    model, files = _read(path)
    process = LimitedProcess(path, "onnxruntime")
    inputs = process.ask("load_onnx", model.SerializeToString())
    require_one_input(path, [name for name, _, _ in inputs])
    _, kind, shape = inputs[0]
    if kind not in _TYPES:
        raise InputError(f"{path} takes {kind}", f"a policy takes one of: {', '.join(_TYPES)}")

    def run_some(obs: Tensor) -> list[Tensor]:
        at_once, parts = _arrange(obs.numpy().astype(_TYPES[kind]), shape, path)
        columns = list(zip(*process.ask("run_onnx", parts), strict=True))[: 1 if spread == "none" else None]
        with foreign_errors(f"{path} can't be run on observations {tuple(obs.shape)}"):
            return [_column(list(column), at_once, path)[: len(obs)] for column in columns]

    def run(obs: Tensor) -> tuple[Tensor, Tensor | None]:
        parts = [run_some(part) for part in obs.detach().cpu().split(_ROWS)]
        outputs = [torch.cat(column) for column in zip(*parts, strict=True)]
        return as_gaussian(outputs, spread, path)

    return Source("onnx", run, _as_ours(model, bounds), files=tuple(files))


def _constants(model: Any) -> dict[str, Tensor]:
    """Return the floating point numbers that a model holds, by name."""
    from onnx import TensorProto, numpy_helper

    stored = [(item.name, item) for item in model.graph.initializer]
    nodes = [node for node in model.graph.node if node.op_type == "Constant"]
    stored += [(node.output[0], item.t) for node in nodes for item in node.attribute if item.name == "value"]
    kinds = (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16)
    held = [(name, item) for name, item in stored if item.data_type in kinds]
    return {name: torch.tensor(numpy_helper.to_array(item)).float() for name, item in held}


def _as_ours(model: Any, bounds: Bounds) -> GaussianPolicy | None:
    """Return our policy with a model's weights, None where it is more than arithmetic on stored numbers."""
    graph, constants = model.graph, _constants(model)
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
        if node.op_type == "Gemm" and (
            options.get("alpha", 1) != 1 or options.get("beta", 1) != 1 or options.get("transA")
        ):
            return None
        if node.op_type == "Gemm" and not options.get("transB"):
            operation = "product"
        nodes.append((operation, [name for name in node.input if name], node.output[0]))
    return adopt_weights(nodes, constants, entries.pop(), graph.output[0].name, bounds)
