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

from harden.errors import DamagedFileError, InputError, foreign_errors
from harden.nets import GaussianPolicy
from harden.policies.layers import Bounds, Node, adopt_weights
from harden.policies.source import Source, as_gaussian, check_file, require_one_input

_ABOUT = "harden.json"
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
    with foreign_errors(f"{path} can't be read as TorchScript", kind=DamagedFileError):
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


def open_torchscript(
    path: Path, spread: str | None, bounds: Bounds, say: Callable[[str], None] | None = None
) -> Source:
    """Load a TorchScript policy: observations (B, obs_dim) in, actions out, or actions and a spread.

    The module is asked as it is, whole, and gradients flow through it. It is asked in the type of its own
    numbers, and one observation at a time where it refuses a batch.

    Args:
        spread: what a second output is, as in `as_gaussian`.
        bounds: of the action space, and of the spread of our policy with the program's weights.
        say: told, before anything of it runs, that it is a program.

    Raises:
        MissingInputError: no such file; DamagedFileError: not TorchScript.
        InputError: pickled by torch.save, or it takes more than observations.
    """
    check_file(path)
    _require_program(path)
    if say is not None:
        say(f"{path} is a TorchScript program: it is being run, because you named it")
    with foreign_errors(f"{path} can't be read as TorchScript", kind=DamagedFileError), _quietly():
        module = torch.jit.load(str(path), map_location="cpu").eval()
        arguments = module.forward.schema.arguments[1:]
        state = module.state_dict()
        # the program's own weights stay as they are: only observations get gradients
        for weight in module.parameters():
            weight.requires_grad_(False)
    require_one_input(path, [item.name for item in arguments if not item.has_default_value()])
    dtype = next((value.dtype for value in state.values() if value.is_floating_point()), torch.float32)
    forms = list(_FORMS)

    def run(obs: Tensor) -> tuple[Tensor, Tensor | None]:
        refusals: list[InputError] = []
        while len(refusals) < len(forms):
            try:
                outputs = _ask(module, forms[len(refusals)](obs.to("cpu", dtype)), path)
            except InputError as error:
                refusals.append(error)
                continue
            # what it refused once is not tried again
            del forms[: len(refusals)]
            return as_gaussian([value.float() for value in outputs], spread, path)
        # of the whole batch, which is what it should take
        raise refusals[0]

    return Source("torchscript", run, _as_ours(module, bounds), differentiable=True, files=(path,))


def _as_ours(module: Any, bounds: Bounds) -> GaussianPolicy | None:
    """Return our policy with a program's weights, None where it is more than arithmetic on stored numbers."""
    try:
        graph = torch.jit.freeze(module, optimize_numerics=False).graph
    # some can't be frozen, for reasons of any class
    except Exception:
        return None
    nodes, constants = list[Node](), dict[str, Tensor]()
    for node in graph.nodes():
        inputs = [value.debugName() for value in node.inputs()]
        if node.kind() == "prim::Constant":
            value = node.output().toIValue()
            if isinstance(value, Tensor) and value.is_floating_point():
                constants[node.output().debugName()] = value.float()
            continue
        operation = node.kind().removeprefix("aten::").removesuffix("_")
        if operation == "add" and node.inputsAt(len(inputs) - 1).toIValue() == 1:
            # the factor of what is added
            inputs.pop()
        nodes.append((operation, inputs, *(value.debugName() for value in node.outputs())))
    ends = [[value.debugName() for value in part] for part in (graph.inputs(), graph.outputs())]
    if [len(part) for part in ends] != [2, 1] or any(len(node) != 3 for node in nodes):
        return None
    return adopt_weights(nodes, constants, ends[0][1], ends[1][0], bounds)


def _ask(module: Callable[[Tensor], Any], parts: Sequence[Tensor], path: Path) -> list[Tensor]:
    """Return a program's outputs for parts of a batch, put together.

    Raises:
        InputError: it does not answer in floating point numbers, or it fails.
    """
    answers = []
    for part in parts:
        with foreign_errors(f"{path} can't be run on observations {tuple(part.shape)}"):
            given = module(part)
        answers.append(list(given) if isinstance(given, tuple | list) else [given])
        fine = (isinstance(value, Tensor) and value.is_floating_point() for value in answers[-1])
        if not answers[-1] or not all(fine):
            raise InputError(
                f"{path} does not answer in tensors of floating point numbers",
                "its forward takes observations and gives actions, no classes and no dictionary",
            )
    if parts[0].dim() == 2 and len(parts[0]) > 1:
        return answers[0]
    with foreign_errors(f"{path} answers otherwise from one observation to the next"):
        return [torch.stack(column).reshape(len(parts), -1) for column in zip(*answers, strict=True)]
