"""Policies as a state dict in safetensors: numbers alone, so that the user says what they mean."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

from harden.errors import DamagedFileError, InputError, foreign_errors
from harden.nets import GaussianPolicy
from harden.nets.saved import build_network
from harden.policies.adopt import Bounds, Linear, make_policy, set_spread
from harden.policies.foreign import ForeignPolicy, check_file
from harden.storage.files import digest_file
from harden.storage.tensor_file import read_tensors, tensor_bytes

ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "tanh": nn.Tanh, "elu": nn.ELU, "silu": nn.SiLU}
SQUASHES = ("tanh", "none")
KEPT_INSIDE = "the file's, kept inside our floor and ceiling"
_NUMBERS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_MADE_BY = "harden policy export"


def write_state_dict(path: Path, policy: GaussianPolicy, manifest: dict[str, Any]) -> None:
    """Write a policy's parameters under their own names, with the architecture in the header."""
    path.write_bytes(tensor_bytes(policy.state_dict(), manifest))


def read_exported(path: Path) -> GaussianPolicy:
    """Return the policy that `write_state_dict` wrote; DamagedFileError: none such, or altered."""
    tensors, manifest = read_tensors(path, _MADE_BY)
    return build_network(GaussianPolicy, manifest.get("policy"), tensors, path, _MADE_BY).eval()


def open_state_dict(path: Path, bounds: Bounds, activation: str | None, squash: str | None) -> ForeignPolicy:
    """Read a state dict: one that harden exported, or the parameters of one nn.Sequential.

    Args:
        activation, squash: of the hidden layers and of the last; a state dict that harden exported says them.

    Raises:
        MissingInputError: no such file; DamagedFileError: not safetensors, or NaN in it.
        InputError: names that are not understood, another number of actions than the task's, or the
            activation is not said.
    """
    check_file(path)
    unreadable = foreign_errors(f"{path} can't be read as safetensors", kind=DamagedFileError)
    with unreadable, safe_open(path, framework="pt", device="cpu") as handle:
        exported = "about" in (handle.metadata() or {})
        state = {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118
    if exported:
        policy = read_exported(path)
        _require_actions(path, policy.architecture["act_dim"], bounds)
        return ForeignPolicy("safetensors", policy, policy, "the file's", identity=digest_file(path))
    layers, log_std = _layers(state, path)
    _require_actions(path, len(layers[-1].bias), bounds)
    if activation is None or squash is None:
        options = f"--activation {'|'.join(ACTIVATIONS)} and --squash {'|'.join(SQUASHES)}"
        remedy = f"say them to harden policy import with {options}"
        raise InputError(f"{path} does not say its activations", remedy)
    adopted = make_policy(layers, bounds) if (activation, squash) == ("relu", "tanh") else None
    spread = ""
    if adopted is not None and log_std is not None:
        spread = "the file's" if set_spread(adopted, log_std.exp() / adopted.half_range) else KEPT_INSIDE
    nonlinear = ACTIVATIONS[activation]()

    def run(obs: Tensor) -> tuple[Tensor, Tensor | None]:
        h = obs
        with foreign_errors(f"{path} can't be run on observations {tuple(obs.shape)}"):
            for layer in layers[:-1]:
                h = nonlinear(nn.functional.linear(h, *layer))
            mean = nn.functional.linear(h, *layers[-1])
        if squash == "tanh":
            mean = (bounds.low + bounds.high) / 2 + (bounds.high - bounds.low) / 2 * torch.tanh(mean)
        return mean, None if log_std is None else log_std.exp().expand_as(mean)

    return ForeignPolicy("safetensors", run, adopted, spread, True, digest_file(path))


def _require_actions(path: Path, given: int, bounds: Bounds) -> None:
    if given != len(bounds.low):
        raise InputError(f"{path} gives {given} actions", f"the task has {len(bounds.low)}")


def _layers(state: dict[str, Tensor], path: Path) -> tuple[list[Linear], Tensor | None]:
    """Return the layers of one nn.Sequential and the tensor log_std, where one stands beside them.

    Args:
        state: names to tensors: N.weight and N.bias after any common prefix, and a name that ends in log_std.

    Raises:
        DamagedFileError: NaN; InputError: a name, type or shape is not accounted for: a guess would be
            another policy.
    """
    for name, value in state.items():
        if value.dtype not in _NUMBERS:
            remedy = "a policy's weights are float16, bfloat16, float32 or float64"
            raise InputError(f"{path}: '{name}' holds {str(value.dtype).removeprefix('torch.')}", remedy)
        if not bool(value.isfinite().all()):
            raise DamagedFileError(f"{path} holds NaN or infinite values in '{name}'")
    left = {name: value.float() for name, value in state.items()}
    log_std = next((left.pop(name).flatten() for name in state if name.rsplit(".")[-1] == "log_std"), None)
    numbered = [match for name in left if (match := re.fullmatch(r"(|.*\.)(\d{1,4})\.weight", name))]
    layers = []
    for number in sorted(int(match[2]) for match in numbered):
        stem = f"{numbered[0][1]}{number}"
        weight = left.pop(f"{stem}.weight", torch.zeros(0))
        layers.append(Linear(weight, left.pop(f"{stem}.bias", torch.zeros(len(weight)))))
    shaped = all(layer.weight.dim() == 2 and len(layer.weight) == len(layer.bias) for layer in layers)
    fits = log_std is None or (bool(layers) and len(log_std) == len(layers[-1].bias))
    if left or not layers or not shaped or not fits:
        remedy = (
            "take those of one nn.Sequential; a TorchScript or ONNX file of the same policy needs no names"
        )
        raise InputError(f"{path}: its names are not those of an MLP that is understood", remedy)
    return layers, log_std
