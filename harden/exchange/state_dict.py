"""Policies as a state dict in safetensors: numbers alone, so that what they mean has to be said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from harden.errors import DamagedFileError, InputError
from harden.exchange.source import Bounds, Source, Weights, as_ours, check_file, exported_bounds, find_weights
from harden.nets import GaussianPolicy
from harden.tensor_file import read_tensors, tensor_bytes

ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "tanh": nn.Tanh, "elu": nn.ELU, "silu": nn.SiLU}
SQUASHES = ("tanh", "none")


def write_state_dict(path: Path, policy: GaussianPolicy, about: dict[str, Any]) -> None:
    """Write a policy's parameters under their own names, with the architecture in the header."""
    path.write_bytes(tensor_bytes(policy.state_dict(), about))


def open_state_dict(path: Path, bounds: Bounds, activation: str | None, squash: str | None) -> Source:
    """Read a state dict.

    Args:
        bounds: of the action space, and of the spread.
        activation, squash: of the hidden layers and of the last, where the names are not ours: a state dict
            does not say them.

    Raises:
        MissingInputError: no such file; DamagedFileError: not safetensors, or NaN in it.
        InputError: names that are not understood, another number of actions than the task's, or nobody said
            the activation.
    """
    check_file(path)
    try:
        with safe_open(path, framework="pt", device="cpu") as handle:
            about = json.loads((handle.metadata() or {}).get("about", "{}"))
            state = {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118
    except (SafetensorError, ValueError, OSError, RecursionError) as error:
        raise DamagedFileError(f"{path} can't be read as safetensors ({error})") from error
    if not isinstance(about, dict) or not all(bool(value.isfinite().all()) for value in state.values()):
        raise DamagedFileError(f"{path} holds NaN, infinite values, or a header that is not ours")
    if "file_digest" in about:
        # one of ours proves that it is as it was written
        read_tensors(path, "harden policy export")
    weights = find_weights(state)
    if weights is None:
        raise InputError(
            f"{path}: its names are not those of an MLP that is understood",
            "trunk.N, mean_head and std_head, or those of one nn.Sequential; a TorchScript or ONNX file "
            "of the same policy needs no names",
        )
    outputs, actions = len(weights.mean.weight), len(bounds.low)
    if outputs != actions:
        raise InputError(f"{path} gives {outputs} actions", f"the task has {actions}")
    bounds = exported_bounds(about, bounds, path)
    ours = any(name.endswith("mean_head.weight") for name in state)
    if ours and activation in (None, "relu") and squash in (None, "tanh"):
        activation, squash = "relu", "tanh"
    if activation is None or squash is None:
        raise InputError(
            f"{path} does not say its activations",
            f"say them with --activation {'|'.join(ACTIVATIONS)} and --squash {'|'.join(SQUASHES)}",
        )
    return Source("safetensors", _runner(weights, bounds, activation, squash, path), weights, about)


def _runner(weights: Weights, bounds: Bounds, activation: str, squash: str, path: Path) -> Any:
    layers = (*weights.trunk, weights.mean)
    nonlinear = ACTIVATIONS[activation]()
    same = as_ours(weights, bounds) if activation == "relu" and squash == "tanh" else None
    center, half_range = (bounds.low + bounds.high) / 2, (bounds.high - bounds.low) / 2

    @torch.no_grad()
    def run(obs: Tensor) -> tuple[Tensor, Tensor | None]:
        if same is not None and weights.std is not None:
            return same(obs)
        h = obs
        try:
            for layer in layers[:-1]:
                h = nonlinear(nn.functional.linear(h, *layer))
            h = nn.functional.linear(h, *layers[-1])
        except RuntimeError as error:
            raise InputError(
                f"{path} can't be run on such observations ({str(error).splitlines()[0]})"
            ) from error
        mean = center + half_range * torch.tanh(h) if squash == "tanh" else h
        return mean, None if weights.log_std is None else weights.log_std.exp().expand_as(mean)

    return run
