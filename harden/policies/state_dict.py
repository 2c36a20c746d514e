"""Policies as a state dict in safetensors: numbers alone, so that what they mean has to be said."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import safe_open
from torch import Tensor, nn

from harden.errors import DamagedFileError, InputError, foreign_errors
from harden.nets import GaussianPolicy
from harden.policies.layers import Bounds, Linear, make_policy, set_spread
from harden.policies.source import Source, check_file
from harden.storage.tensor_file import read_tensors, tensor_bytes

ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "tanh": nn.Tanh, "elu": nn.ELU, "silu": nn.SiLU}
SQUASHES = ("tanh", "none")
KEPT_INSIDE = "the file's, kept inside our floor and ceiling"
_NUMBERS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


class Weights(NamedTuple):
    """An MLP's layers, in the order that an observation passes them.

    Args:
        layers: the hidden layers, and the last, of the mean action.
        std: the head of the spread, where there is one such as ours.
        log_std: (act_dim,), a spread that does not depend on the observation, where there is one.
    """

    layers: tuple[Linear, ...]
    std: Linear | None = None
    log_std: Tensor | None = None


def write_state_dict(path: Path, policy: GaussianPolicy, about: dict[str, Any]) -> None:
    """Write a policy's parameters under their own names, with the architecture in the header."""
    path.write_bytes(tensor_bytes(policy.state_dict(), about))


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the tensors of a file, float32, and what harden wrote into it, {} in anybody else's."""
    check_file(path)
    unreadable = foreign_errors(f"{path} can't be read as safetensors", kind=DamagedFileError)
    with unreadable, safe_open(path, framework="pt", device="cpu") as handle:
        about = json.loads((handle.metadata() or {}).get("about", "{}"))
        state = {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118
    for name, value in state.items():
        if value.dtype not in _NUMBERS:
            raise InputError(
                f"{path}: '{name}' holds {str(value.dtype).removeprefix('torch.')}",
                "a policy's weights are float16, bfloat16, float32 or float64",
            )
    state = {name: value.float() for name, value in state.items()}
    if not isinstance(about, dict) or not all(bool(value.isfinite().all()) for value in state.values()):
        raise DamagedFileError(f"{path} holds NaN, infinite values, or a header that is not ours")
    if "file_digest" in about:
        # one of ours proves that it is as it was written
        read_tensors(path, "harden policy export")
    return state, about


def _exported_bounds(about: dict[str, Any], default: Bounds, path: Path) -> Bounds:
    """Return the bounds that harden's own export wrote into a file, else the pipeline's.

    Raises:
        DamagedFileError: what is written there can't be.
    """
    if not about:
        return default
    with foreign_errors(f"{path}: what harden wrote into it is damaged", kind=DamagedFileError):
        said = about["policy"]
        low, high = torch.tensor(said["low"]).float(), torch.tensor(said["high"]).float()
        least, first, most = (float(said[name]) for name in ("min_std", "init_std", "max_std"))
        ordered = bool((low < high).all()) and 0 < least < first < most < math.inf
        finite = bool((low.isfinite() & high.isfinite()).all())
        if not (ordered and finite and low.shape == high.shape == default.low.shape):
            raise ValueError("bounds out of order")
        return Bounds(low, high, first, least, most)


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
    state, about = _read(path)
    weights = _find_weights(state)
    if weights is None:
        raise InputError(
            f"{path}: its names are not those of an MLP that is understood",
            "trunk.N, mean_head and std_head, or those of one nn.Sequential; a TorchScript or ONNX file "
            "of the same policy needs no names",
        )
    outputs, actions = len(weights.layers[-1].weight), len(bounds.low)
    if outputs != actions:
        raise InputError(f"{path} gives {outputs} actions", f"the task has {actions}")
    bounds = _exported_bounds(about, bounds, path)
    ours = any(name.endswith("mean_head.weight") for name in state)
    if ours and activation in (None, "relu") and squash in (None, "tanh"):
        activation, squash = "relu", "tanh"
    if activation is None or squash is None:
        raise InputError(
            f"{path} does not say its activations",
            f"say them with --activation {'|'.join(ACTIVATIONS)} and --squash {'|'.join(SQUASHES)}",
        )
    if activation == "relu" and squash == "tanh":
        policy, spread = _as_ours(weights, bounds)
        if policy is not None:
            return Source("safetensors", policy, policy, spread, files=(path,))
    return Source("safetensors", _runner(weights, bounds, activation, squash, path), files=(path,))


def _as_ours(weights: Weights, bounds: Bounds) -> tuple[GaussianPolicy | None, str]:
    """Return our policy with these weights, None where they make none, and where its spread comes from."""
    policy = make_policy(weights.layers, bounds)
    if policy is None or (weights.std is None and weights.log_std is None):
        return policy, ""
    if weights.log_std is not None:
        inside = set_spread(policy, weights.log_std.exp() / policy.half_range)
        return policy, "the file's" if inside else KEPT_INSIDE
    assert weights.std is not None
    if weights.std.weight.shape != policy.std_head.weight.shape:
        return None, ""
    policy.std_head.load_state_dict(weights.std._asdict())
    return policy, "the file's"


def _runner(weights: Weights, bounds: Bounds, activation: str, squash: str, path: Path) -> Any:
    nonlinear = ACTIVATIONS[activation]()
    center, half_range = (bounds.low + bounds.high) / 2, (bounds.high - bounds.low) / 2

    @torch.no_grad()
    def run(obs: Tensor) -> tuple[Tensor, Tensor | None]:
        h = obs
        with foreign_errors(f"{path} can't be run on observations {tuple(obs.shape)}"):
            for layer in weights.layers[:-1]:
                h = nonlinear(nn.functional.linear(h, *layer))
            h = nn.functional.linear(h, *weights.layers[-1])
        mean = center + half_range * torch.tanh(h) if squash == "tanh" else h
        return mean, None if weights.log_std is None else weights.log_std.exp().expand_as(mean)

    return run


def _find_weights(state: Mapping[str, Tensor]) -> Weights | None:
    """Return the layers of a state dict with our names, or with those of one nn.Sequential.

    Args:
        state: names to tensors: trunk.N, mean_head and std_head, or N alone, after any common prefix; a
            tensor named log_std may stand beside a Sequential's.

    Returns:
        None where a name or a shape is not accounted for: a guess would be another policy.
    """
    # buffers of ours that the bounds say already
    left = {n: v for n, v in state.items() if n.rsplit(".")[-1] not in ("center", "half_range")}

    def take(name: str) -> Linear | None:
        weight = left.pop(f"{name}.weight", None)
        if weight is None or weight.dim() != 2:
            return None
        return Linear(weight, left.pop(f"{name}.bias", torch.zeros(len(weight))))

    ours = next((n.removesuffix("mean_head.weight") for n in left if n.endswith("mean_head.weight")), None)
    stem = f"{ours}trunk." if ours is not None else None
    numbered = [(m[1], int(m[2])) for n in left if (m := re.fullmatch(r"(|.*\.)(\d{1,4})\.weight", n))]
    if stem is None:
        stem = numbered[0][0] if numbered else ""
    layers = [take(f"{stem}{i}") for i in sorted(i for where, i in numbered if where == stem)]
    std = log_std = None
    if ours is not None:
        layers.append(take(f"{ours}mean_head"))
        std = take(f"{ours}std_head")
    elif named := [n for n in left if n.rsplit(".")[-1] == "log_std"]:
        log_std = left.pop(named[0]).flatten()
    found = [layer for layer in layers if layer is not None]
    if left or len(found) < len(layers) or not found:
        return None
    if log_std is not None and len(log_std) != len(found[-1].bias):
        return None
    return Weights(tuple(found), std, log_std)
