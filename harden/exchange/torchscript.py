"""Policies as TorchScript: a program, which is run because the user named it."""

from __future__ import annotations

import io
import json
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from harden.errors import DamagedFileError, InputError
from harden.exchange.source import Source, as_gaussian, check_file, find_weights

_ABOUT = "harden.json"


@contextmanager
def _quietly() -> Iterator[None]:
    # PyTorch advises torch.export, which C++ robots without Python can't load yet
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def write_torchscript(path: Path, module: nn.Module, obs_dim: int, about: dict[str, Any]) -> None:
    """Trace a module on observations and write the program, with a description beside it."""
    with _quietly():
        traced = torch.jit.trace(module, torch.zeros(2, obs_dim))
        whole = io.BytesIO()
        torch.jit.save(traced, whole, _extra_files={_ABOUT: json.dumps(about)})
    with zipfile.ZipFile(whole) as source, zipfile.ZipFile(path, "w") as kept:
        for entry in source.infolist():
            # for tracebacks alone, and full of this machine's folders
            if not entry.filename.endswith(".debug_pkl"):
                kept.writestr(entry.filename, source.read(entry))


def open_torchscript(path: Path, spread: str | None) -> Source:
    """Load a TorchScript policy: observations (B, obs_dim) in, actions out, or actions and a spread.

    Args:
        spread: what a second output is, as in `as_gaussian`.

    Raises:
        MissingInputError: no such file; DamagedFileError: not TorchScript.
    """
    check_file(path)
    extra = {_ABOUT: ""}
    try:
        with _quietly():
            module = torch.jit.load(str(path), map_location="cpu", _extra_files=extra).eval()
        about = json.loads(extra[_ABOUT] or "{}")
        state = module.state_dict()
    except (RuntimeError, ValueError, OSError, RecursionError) as error:
        reason = str(error).splitlines()[0]
        raise DamagedFileError(f"{path} can't be read as TorchScript ({reason})") from error

    # the program's own weights stay as they are: only observations get gradients
    for weight in module.parameters():
        weight.requires_grad_(False)

    def run(obs: Tensor) -> tuple[Tensor, Tensor | None]:
        try:
            given = module(obs)
        except RuntimeError as error:
            lines = str(error).strip().splitlines()
            raise InputError(
                f"{path} can't be run on observations {tuple(obs.shape)} ({lines[-1]})"
            ) from error
        outputs = list(given) if isinstance(given, tuple | list) else [given]
        if not outputs or not all(isinstance(value, Tensor) for value in outputs):
            raise InputError(
                f"{path} does not answer in tensors", "its forward takes observations, gives actions"
            )
        return as_gaussian([value.float() for value in outputs], spread, path)

    about = about if isinstance(about, dict) else {}
    return Source("torchscript", run, find_weights(state), about, differentiable=True)
