"""Policies written as ONNX."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from harden.errors import InputError

INPUT, OUTPUT = "observation", "action"
_CACHE = "TORCHINDUCTOR_CACHE_DIR"


def require_onnx(*names: str) -> None:
    """Refuse to go on without the onnx extra.

    Args:
        names: the packages that are needed.

    Raises:
        InputError: one is not installed.
    """
    for name in names:
        try:
            __import__(name)
        except ImportError as error:
            raise InputError(
                f"{name} is not installed", "install it with: pip install 'harden[onnx]'"
            ) from error


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


def write_onnx(path: Path, module: nn.Module, obs_dim: int, about: dict[str, Any]) -> None:
    """Write a module as one self-contained file with a free batch size.

    Raises:
        InputError: the onnx extra is not installed.
    """
    require_onnx("onnx", "onnxscript")
    with _quiet_exporter():
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
