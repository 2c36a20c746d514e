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

import numpy as np
import torch
from torch import Tensor, nn

from harden.errors import DamagedFileError, InputError, foreign_errors
from harden.nets import GaussianPolicy
from harden.policies import foreign
from harden.policies.adopt import Bounds, Node, adopt_weights
from harden.policies.reading import Reading
from harden.storage.files import digest_file

# torch.save gives its files the same suffix
_PICKLED = (
    "write it with torch.jit.save; what torch.save pickles is not read, for it would run whatever it names: "
    "save a state dict with safetensors.torch.save_file"
)
# observations of the trial: a program that takes one at a time may need milliseconds for each
_TRIED = 256
# how many observations a program that refuses one may take at once
_MOST_STACKED = 16
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


def write_torchscript(path: Path, module: nn.Module, obs_dim: int, manifest: dict[str, Any]) -> None:
    """Trace a module on observations and write the program, with a description beside it."""
    with _quietly():
        traced = torch.jit.trace(module, torch.zeros(2, obs_dim))
        whole = io.BytesIO()
        torch.jit.save(traced, whole, _extra_files={"harden.json": json.dumps(manifest)})
    with zipfile.ZipFile(whole) as source, zipfile.ZipFile(path, "w") as kept:
        for entry in source.infolist():
            # for tracebacks alone, and full of this machine's folders
            if not entry.filename.endswith(".debug_pkl"):
                kept.writestr(entry.filename, source.read(entry))


class Program:
    """A TorchScript policy in this process, without limits: observations in, outputs out.

    It is asked in the type of its own numbers, and one observation at a time where it refuses a batch.

    Args:
        reading: which of its outputs count; those of a tuple are called 0, 1 and so on.

    Raises:
        DamagedFileError: not TorchScript; InputError: it takes more than observations.
    """

    def __init__(self, path: Path, reading: Reading = Reading()) -> None:  # noqa: B008
        self.path, self.reading, self.forms = path, reading, _FORMS
        unreadable = foreign_errors(f"{path} can't be read as TorchScript", _PICKLED, DamagedFileError)
        with unreadable, _quietly():
            self.module = torch.jit.load(str(path), map_location="cpu").eval()
            arguments = self.module.forward.schema.arguments[1:]
            state = self.module.state_dict()
            # the program's own weights stay as they are: only observations get gradients
            for weight in self.module.parameters():
                weight.requires_grad_(False)
        foreign.require_one_input(path, [item.name for item in arguments if not item.has_default_value()])
        types = (value.dtype for value in state.values() if value.is_floating_point())
        self.dtype = next(types, torch.float32)

    def __call__(self, obs: Tensor) -> list[Tensor]:
        """Return the chosen outputs for observations (B, obs_dim), float32, gradients and all.

        Raises:
            InputError: it does not answer in floating point numbers, or it fails.
        """
        rows, refusals = obs.to("cpu", self.dtype), list[InputError]()
        for number, form in enumerate(self.forms):
            try:
                outputs = self._run(form(rows))
            except InputError as error:
                refusals.append(error)
                continue
            # what it refused once is not tried again
            self.forms = self.forms[number:]
            return [value.float() for value in outputs]
        if refusals[0].__cause__ and (count := self._stacked(rows)):
            what = f"{self.path} takes {count} observations at once: a stacked policy"
            raise InputError(what, foreign.MEMORYLESS)
        # of the whole batch, which is what it should take
        raise refusals[0]

    def _stacked(self, rows: Tensor) -> int:
        """Return how many observations the program takes at once, 0 where that is not found out."""
        for count in range(2, _MOST_STACKED + 1):
            several = rows.unsqueeze(1).expand(-1, count, -1)
            for given in (several.flatten(1), several):
                with contextlib.suppress(Exception):
                    self.module(given)
                    return count
        return 0

    def _run(self, parts: Sequence[Tensor]) -> list[Tensor]:
        """Return the outputs for parts of a batch, joined."""
        answers = []
        for part in parts:
            with foreign_errors(f"{self.path} can't be run on observations {tuple(part.shape)}"):
                outputs = self.module(part)
            several = outputs if isinstance(outputs, tuple | list) else [outputs]
            named = outputs if isinstance(outputs, dict) else {str(i): part for i, part in enumerate(several)}
            names = foreign.chosen_outputs(list(named), self.reading, self.path) if named else []
            answers.append([named[name] for name in names])
            fine = (isinstance(value, Tensor) and value.is_floating_point() for value in answers[-1])
            if not names or not all(fine):
                remedy = "its forward takes observations and gives actions, no classes"
                raise InputError(f"{self.path} does not answer in tensors of floating point numbers", remedy)
        if parts[0].dim() == 2 and len(parts[0]) > 1:
            return answers[0]
        with foreign_errors(f"{self.path} answers otherwise from one observation to the next"):
            return [torch.stack(column).reshape(len(parts), -1) for column in zip(*answers, strict=True)]


def try_program(path: Path, reading: Reading, obs: np.ndarray) -> None:
    """Load a program and run it on observations (B, obs_dim)."""
    Program(path, reading)(torch.from_numpy(obs))


def open_torchscript(path: Path, reading: Reading, bounds: Bounds, obs: Tensor) -> foreign.ForeignPolicy:
    """Load a TorchScript policy: observations in, actions out, or actions and a spread.

    It is tried in a child process under limits of time and memory before it is loaded into this process,
    where it is asked as it is, whole, and gradients flow through it. Arguments and errors are those of
    `open_foreign`.
    """
    foreign.call_limited(path, try_program, reading, obs[:_TRIED].numpy())
    program = Program(path, reading)

    def run(obs: Tensor) -> tuple[Tensor, Tensor | None]:
        return foreign.as_gaussian(program(obs), reading)

    adopted = _adopted(program.module, bounds)
    return foreign.ForeignPolicy("torchscript", run, adopted, differentiable=True, identity=digest_file(path))


def _adopted(module: Any, bounds: Bounds) -> GaussianPolicy | None:
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
