"""Policies as TorchScript: a program, which is run because the user named it."""

from __future__ import annotations

import contextlib
import io
import json
import warnings
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from harden.errors import DamagedFileError, InputError
from harden.exchange.source import Source, as_gaussian, check_file, find_weights

_ABOUT = "harden.json"
# what a program raises itself is no RuntimeError
_FAILURES = (RuntimeError, ValueError, torch.jit.Error)
# how a program may take observations (B, obs_dim): all at once, or one at a time, as vector or batch of one
_FORMS: tuple[Callable[[Tensor], Sequence[Tensor]], ...] = (
    lambda obs: (obs,),
    lambda obs: obs.unbind(),
    lambda obs: obs.split(1),
)


@contextlib.contextmanager
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


def _require_program(path: Path) -> None:
    """Refuse what torch.save writes, which has the same suffix and is no program."""
    pickled = False
    with contextlib.suppress(zipfile.BadZipFile, ValueError, OSError):
        # the loader below says what else is wrong with a file
        with open(path, "rb") as file:
            # as it was before it wrote archives
            pickled = file.read(1) == b"\x80"
        if not pickled and zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                inside = {name.partition("/")[2] for name in archive.namelist()}
            pickled = "data.pkl" in inside and "constants.pkl" not in inside
    if pickled:
        raise InputError(
            f"{path} is pickled by torch.save, which is not read: to open it would run whatever it names",
            "save the state dict with safetensors.torch.save_file, or the policy with torch.jit.save",
        )


def open_torchscript(path: Path, spread: str | None, say: Callable[[str], None] | None = None) -> Source:
    """Load a TorchScript policy: observations (B, obs_dim) in, actions out, or actions and a spread.

    It is asked in the type of its own numbers, and one observation at a time where it refuses a batch.

    Args:
        spread: what a second output is, as in `as_gaussian`.
        say: told, before anything of it runs, that it is a program.

    Raises:
        MissingInputError: no such file; DamagedFileError: not TorchScript; InputError: pickled by torch.save.
    """
    check_file(path)
    _require_program(path)
    if say is not None:
        say(f"{path} is a TorchScript program: it is being run, because you named it")
    extra = {_ABOUT: ""}
    try:
        with _quietly():
            module = torch.jit.load(str(path), map_location="cpu", _extra_files=extra).eval()
        about = json.loads(extra[_ABOUT] or "{}")
        state = module.state_dict()
    except (*_FAILURES, OSError, RecursionError) as error:
        reason = str(error).splitlines()[0]
        raise DamagedFileError(f"{path} can't be read as TorchScript ({reason})") from error

    # the program's own weights stay as they are: only observations get gradients
    for weight in module.parameters():
        weight.requires_grad_(False)

    dtype = next((value.dtype for value in state.values() if value.is_floating_point()), torch.float32)
    forms = list(_FORMS)

    def run(obs: Tensor) -> tuple[Tensor, Tensor | None]:
        failures: list[Exception] = []
        while len(failures) < len(forms):
            try:
                outputs = _ask(module, forms[len(failures)](obs.to(dtype)), path)
            except _FAILURES as error:
                failures.append(error)
                continue
            # what it refused once is not tried again
            del forms[: len(failures)]
            return as_gaussian([value.float() for value in outputs], spread, path)
        # of the whole batch, which is what it should take
        lines = str(failures[0]).strip().splitlines() or [type(failures[0]).__name__]
        raise InputError(f"{path} can't be run on observations {tuple(obs.shape)} ({lines[-1]})")

    about = about if isinstance(about, dict) else {}
    return Source("torchscript", run, find_weights(state), about, differentiable=True)


def _ask(module: Callable[[Tensor], Any], parts: Sequence[Tensor], path: Path) -> list[Tensor]:
    """Return a program's outputs for parts of a batch, put together.

    Raises:
        InputError: it does not answer in tensors; otherwise whatever the program raises.
    """
    answers = []
    for part in parts:
        given = module(part)
        answers.append(list(given) if isinstance(given, tuple | list) else [given])
        if not answers[-1] or not all(isinstance(value, Tensor) for value in answers[-1]):
            raise InputError(
                f"{path} does not answer in tensors", "its forward takes observations, gives actions"
            )
    if parts[0].dim() == 2 and len(parts[0]) > 1:
        return answers[0]
    return [torch.stack(column).reshape(len(parts), -1) for column in zip(*answers, strict=True)]
