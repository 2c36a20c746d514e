"""Policies as ONNX: a graph of arithmetic that runs anywhere; reading it runs no code and leaves the file."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from harden.errors import DamagedFileError, InputError
from harden.exchange.source import Linear, Source, Weights, as_gaussian, check_file

INPUT, OUTPUT = "observation", "action"


def _require(*names: str) -> None:
    for name in names:
        try:
            __import__(name)
        except ImportError as error:
            raise InputError(
                f"{name} is not installed", "install it with: pip install 'harden[onnx]'"
            ) from error


def write_onnx(path: Path, module: nn.Module, obs_dim: int, about: dict[str, Any]) -> None:
    """Write a module as one self-contained file with a free batch size.

    Raises:
        InputError: the onnx extra is not installed.
    """
    _require("onnx", "onnxscript")
    # it says of each optional package that it is not there
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            module,
            (torch.zeros(2, obs_dim),),
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_shapes={INPUT: {0: "batch"}},
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    model = program.model_proto
    # the exporter notes where in the source each node came from: paths of this machine
    for node in model.graph.node:
        del node.metadata_props[:]
    model.metadata_props.add(key="harden", value=json.dumps(about))
    path.write_bytes(model.SerializeToString())


def open_session(path: Path) -> Any:
    """Return an onnxruntime session of a file, on one CPU, as a robot would open it.

    Raises:
        MissingInputError: no such file; DamagedFileError: not ONNX, or its weights are in other files.
        InputError: the onnx extra is not installed.
    """
    _require("onnxruntime")
    import onnxruntime

    content = _read(path).SerializeToString()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        return onnxruntime.InferenceSession(
            content, options, providers=["CPUExecutionProvider"], enable_fallback=0
        )
    # each of its errors is a class of its own, below Exception only
    except Exception as error:
        raise DamagedFileError(f"{path} can't be run as ONNX ({str(error).splitlines()[0]})") from error


def _read(path: Path) -> Any:
    _require("onnx")
    import onnx
    from google.protobuf.message import DecodeError

    check_file(path)
    try:
        model = onnx.load_model_from_string(path.read_bytes())
    except (DecodeError, ValueError) as error:
        raise DamagedFileError(f"{path} can't be read as ONNX ({error})") from error
    for message in _messages(model):
        if isinstance(message, onnx.TensorProto) and (message.external_data or message.data_location):
            raise DamagedFileError(f"{path} is refused: '{message.name}' keeps its numbers in another file")
    return model


def _messages(message: Any) -> Iterator[Any]:
    """Yield a message and all those in it."""
    yield message
    for field, value in message.ListFields():
        if field.message_type is not None:
            for item in value if hasattr(value, "__len__") else (value,):
                yield from _messages(item)


def open_onnx(path: Path, spread: str | None) -> Source:
    """Read an ONNX policy: one input of observations, actions as the first output.

    Args:
        spread: what a second output is, as in `as_gaussian`.

    Raises:
        As `open_session`; InputError: it has more inputs than one, or no numbers in it.
    """
    session = open_session(path)
    model = _read(path)
    if len(session.get_inputs()) != 1 or session.get_inputs()[0].type not in (
        "tensor(float)",
        "tensor(double)",
    ):
        named = ", ".join(f"{item.name} {item.type}" for item in session.get_inputs())
        raise InputError(f"{path} has inputs {named}", "a policy has one, of floating point numbers")
    entry = session.get_inputs()[0]
    dtype = np.float32 if entry.type == "tensor(float)" else np.float64
    # exported without a free batch size: one observation at a time
    single = len(entry.shape) == 1 or entry.shape[0] == 1

    def run(obs: Tensor) -> tuple[Tensor, Tensor | None]:
        rows = obs.numpy().astype(dtype)
        parts = [row.reshape(entry.shape) for row in rows] if single else [rows]
        try:
            given = [session.run(None, {entry.name: part}) for part in parts]
        except Exception as error:
            raise InputError(
                f"{path} can't be run on observations {tuple(obs.shape)} ({str(error).splitlines()[0]})"
            ) from error
        columns = [torch.from_numpy(np.stack(column)).float() for column in zip(*given, strict=True)]
        return as_gaussian([column.reshape(len(rows), -1) for column in columns], spread, path)

    said = {item.key: item.value for item in model.metadata_props}
    try:
        about = json.loads(said.get("harden", "{}"))
    except (ValueError, RecursionError) as error:
        raise DamagedFileError(f"{path}: what harden wrote into it is damaged ({error})") from error
    return Source("onnx", run, _layers(model), about if isinstance(about, dict) else {})


def _layers(model: Any) -> Weights | None:
    """Return the linear layers in the order of the graph: whether they are all, the outputs have to show."""
    from onnx import numpy_helper

    stored = {item.name: item for item in model.graph.initializer}
    found: list[Linear] = []

    def tensor(name: str, axes: int) -> Tensor | None:
        item = stored.get(name)
        return torch.tensor(numpy_helper.to_array(item)).float() if item and len(item.dims) == axes else None

    for node in model.graph.node:
        inputs = [*node.input, "", ""]
        if node.op_type in ("Gemm", "MatMul") and (weight := tensor(inputs[1], 2)) is not None:
            stands = any(item.name == "transB" and item.i for item in node.attribute)
            weight = weight if stands else weight.T.contiguous()
            bias = tensor(inputs[2], 1)
            found.append(Linear(weight, torch.zeros(len(weight)) if bias is None else bias))
        elif node.op_type == "Add" and found and not bool(found[-1].bias.any()):
            bias = next((b for name in inputs[:2] if (b := tensor(name, 1)) is not None), None)
            if bias is not None and bias.shape == found[-1].bias.shape:
                found[-1] = found[-1]._replace(bias=bias)
    return Weights(tuple(found[:-1]), found[-1]) if len(found) > 1 else None
