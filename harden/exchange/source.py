"""A policy out of somebody else's file: what it answers, and the weights that were found in it."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from harden.errors import DamagedFileError, InputError
from harden.files import require_file
from harden.nets import GaussianPolicy

MOST_BYTES = 256 * 2**20
SPREADS = ("std", "log-std", "none")


class Linear(NamedTuple):
    """One linear layer: weight (out, in) and bias (out,)."""

    weight: Tensor
    bias: Tensor


class Weights(NamedTuple):
    """An MLP's layers, in the order that an observation passes them.

    Args:
        trunk: the hidden layers.
        mean: the last layer, of the mean action.
        std: the head of the spread, where there is one such as ours.
        log_std: (act_dim,), a spread that does not depend on the observation, where there is one.
    """

    trunk: tuple[Linear, ...]
    mean: Linear
    std: Linear | None = None
    log_std: Tensor | None = None


class Source(NamedTuple):
    """A policy that was read.

    Args:
        kind: onnx, torchscript, safetensors or callable.
        run: observations (B, obs_dim) to the mean action and the spread (None where it brings none), both
            (B, act_dim) in the action space's units.
        weights: its layers, None where they are not a plain MLP's.
        about: what harden wrote into the file on export, {} in anybody else's.
        differentiable: `run` lets gradients through.
    """

    kind: str
    run: Callable[[Tensor], tuple[Tensor, Tensor | None]]
    weights: Weights | None
    about: dict[str, Any]
    differentiable: bool = False


class Bounds(NamedTuple):
    """What our architecture needs beside weights.

    Args:
        low, high: of the action space, (act_dim,).
        init_std, min_std, max_std: spread where the file brings none, floor and ceiling; shares of half the
            action range.
    """

    low: Tensor
    high: Tensor
    init_std: float
    min_std: float
    max_std: float


def check_file(path: Path) -> None:
    """Refuse what can't be a policy before it is read.

    Raises:
        MissingInputError: no such file; StorageError: it may not be read; DamagedFileError: far too large.
    """
    require_file(path, "name a safetensors, TorchScript or ONNX file")
    if path.stat().st_size > MOST_BYTES:
        raise DamagedFileError(
            f"{path} has {path.stat().st_size:,} bytes", f"a policy file has at most {MOST_BYTES:,}"
        )


def exported_bounds(about: dict[str, Any], default: Bounds, path: Path) -> Bounds:
    """Return the bounds that harden's own export wrote into a file, else the pipeline's.

    Raises:
        DamagedFileError: what is written there can't be.
    """
    if not about:
        return default
    try:
        said = about["policy"]
        low, high = torch.tensor(said["low"]).float(), torch.tensor(said["high"]).float()
        std = [float(said[name]) for name in ("init_std", "min_std", "max_std")]
        whole = low.shape == high.shape == default.low.shape and bool((low < high).all())
        if not (whole and 0 < std[1] < std[0] < std[2] < math.inf):
            raise ValueError("bounds out of order")
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise DamagedFileError(f"{path}: what harden wrote into it is damaged ({error})") from error
    return Bounds(low, high, *std)


def set_spread(policy: GaussianPolicy, share: Tensor) -> bool:
    """Give a policy one spread for all observations.

    Args:
        share: of half the action range, (act_dim,); brought inside the policy's floor and ceiling.

    Returns:
        Whether the spread asked for was inside them.
    """
    reach = policy.max_std - policy.min_std
    inside = share.clamp(policy.min_std + 1e-3 * reach, policy.max_std - 1e-3 * reach)
    part = (inside - policy.min_std) / reach
    with torch.no_grad():
        policy.std_head.weight.zero_()
        policy.std_head.bias.copy_((part / (1 - part)).log())
    return bool(((share >= policy.min_std) & (share <= policy.max_std)).all())


def as_ours(weights: Weights, bounds: Bounds) -> GaussianPolicy | None:
    """Return our policy with these weights, None where the shapes make no MLP of its size.

    Whether it is the same policy, only its actions can say: the weights do not name their activations.
    """
    trunk, act_dim = weights.trunk, len(bounds.low)
    fan_in = [layer.weight.shape[1] for layer in (*trunk, weights.mean)]
    fan_out = [layer.weight.shape[0] for layer in (*trunk, weights.mean)]
    if not trunk or fan_out[:-1] != fan_in[1:] or fan_out[-1] != act_dim:
        return None
    policy = GaussianPolicy(fan_in[0], act_dim, fan_out[:-1], **bounds._asdict())
    state = {f"trunk.{2 * i}": layer for i, layer in enumerate(trunk)} | {"mean_head": weights.mean}
    if weights.std is not None:
        state["std_head"] = weights.std
    tensors = {
        f"{name}.{part}": getattr(layer, part) for name, layer in state.items() for part in Linear._fields
    }
    if any(policy.get_parameter(name).shape != value.shape for name, value in tensors.items()):
        return None
    policy.load_state_dict(tensors, strict=False)
    if weights.std is None:
        share = torch.full((act_dim,), bounds.init_std)
        set_spread(policy, share if weights.log_std is None else weights.log_std.exp() / policy.half_range)
    return policy.eval()


def find_weights(state: Mapping[str, Tensor]) -> Weights | None:
    """Return the layers of a state dict with our names, or with those of one nn.Sequential.

    Args:
        state: names to tensors: trunk.N, mean_head and std_head, or N alone, after any common prefix; a
            tensor named log_std may stand beside a Sequential's.

    Returns:
        None where a name or a shape is not accounted for: a guess would be another policy.
    """
    # buffers of ours that the bounds say already
    left = {n: v.float() for n, v in state.items() if n.rsplit(".")[-1] not in ("center", "half_range")}

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
    return Weights(tuple(found[:-1]), found[-1], std, log_std)


def as_gaussian(outputs: list[Tensor], spread: str | None, path: Path) -> tuple[Tensor, Tensor | None]:
    """Return the mean and the spread among a foreign policy's outputs.

    Args:
        outputs: as it gave them.
        spread: what the second one is: std, log-std, none (ignored), or None where nobody said.

    Raises:
        InputError: more than one output and nobody said what the others are, or none where one is asked for.
    """
    if len(outputs) == 1 and spread in (None, "none"):
        return outputs[0], None
    if len(outputs) < 2:
        raise InputError(f"{path} gives one output, no spread", "leave out --spread")
    if spread is None:
        raise InputError(
            f"{path} gives {len(outputs)} outputs",
            f"say what the second is with --spread {'|'.join(SPREADS)}",
        )
    if spread == "none":
        return outputs[0], None
    return outputs[0], outputs[1].exp() if spread == "log-std" else outputs[1]


def answer(source: Source, obs: Tensor, act_dim: int, path: Path) -> tuple[Tensor, Tensor | None]:
    """Return what a foreign policy answers, checked.

    Args:
        obs: (B, obs_dim).

    Returns:
        The mean action and the spread, or None, both (B, act_dim).

    Raises:
        InputError: another shape, NaN or infinity, a spread not above 0, or another answer each time.
    """
    with torch.no_grad():
        mean, std = source.run(obs)
        again, _ = source.run(obs[:8])
    for name, value in (("actions", mean), ("spread", std)):
        if value is None:
            continue
        if value.shape != (len(obs), act_dim):
            raise InputError(
                f"{path} gives {name} of shape {tuple(value.shape)} for {len(obs)} observations",
                f"the task has {act_dim} actions",
            )
        if not bool(value.isfinite().all()) or (name == "spread" and not bool((value > 0).all())):
            raise InputError(f"{path} gives {name} that are no numbers, or not above 0 where they must be")
    if not torch.allclose(again, mean[:8], rtol=0, atol=1e-5):
        raise InputError(
            f"{path} gives another action each time", "export its mean action instead of a sample"
        )
    return mean, std
