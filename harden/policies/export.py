"""A policy written for a robot: its mean action, bounds inside, checked and timed as the robot runs it."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from harden.errors import HardenError, require_extra
from harden.nets import GaussianPolicy
from harden.nets.saved import LoadedPolicy, module_digest
from harden.policies.adopt import TOLERANCE
from harden.policies.onnx_file import INPUT, OUTPUT, write_onnx
from harden.policies.state_dict import read_exported, write_state_dict
from harden.policies.torchscript import Program, write_torchscript
from harden.policies.worker import start_session
from harden.storage.files import write_whole
from harden.storage.tensor_file import FORMAT_VERSION

_WARM_UP, _DECISIONS = 100, 1000


class Exported(NamedTuple):
    """The largest difference from the original's actions; median and 99th percentile of one decision, s."""

    error: float
    latency: tuple[float, float]


class MeanAction(nn.Module):
    """What a robot runs: observation (B, obs_dim) to the mean action, inside the action space."""

    def __init__(self, policy: GaussianPolicy) -> None:
        super().__init__()
        self.policy = policy

    def forward(self, observation: Tensor) -> Tensor:
        """Return (B, act_dim)."""
        return self.policy.clip(self.policy.mean(observation))


def _reopen(kind: str, path: Path) -> Callable[[Tensor], Tensor]:
    """Return the written policy as its runtime runs it."""
    if kind == "onnx":
        require_extra("onnx", "onnxruntime")
        session = start_session(path.read_bytes())
        return lambda obs: torch.from_numpy(session.run([OUTPUT], {INPUT: obs.numpy()})[0])
    if kind == "torchscript":
        program = Program(path)
        return lambda obs: program(obs)[0]
    return read_exported(path).mean


def _latency(act: Callable[[Tensor], Tensor], obs: Tensor) -> tuple[float, float]:
    taken = []
    for i in range(_WARM_UP + _DECISIONS):
        row, began = obs[i % len(obs)].unsqueeze(0), time.perf_counter()
        act(row)
        taken.append(time.perf_counter() - began)
    times = torch.tensor(taken[_WARM_UP:], dtype=torch.float64)
    return float(times.median()), float(times.quantile(0.99))


def export_policy(loaded: LoadedPolicy, kind: str, path: Path, obs: Tensor) -> Exported:
    """Write a policy, without its critics, in another format; what does not act as it does is not put there.

    Args:
        kind: onnx, torchscript or safetensors.
        obs: what it is checked on, (B, obs_dim).

    Raises:
        InputError: what the format needs is not installed; HardenError: the written policy acts otherwise.
    """
    # plain layers, so that whoever reads the file need know of no scale
    policy = loaded.policy.unscaled()
    robot, obs_dim = MeanAction(policy).eval(), policy.architecture["obs_dim"]
    manifest: dict[str, Any] = {"format_version": FORMAT_VERSION, "kind": "exported-policy"}
    manifest |= {"policy": policy.architecture, "policy_digest": module_digest(loaded.policy)}
    manifest |= {name: loaded.manifest.get(name) for name in ("task", "env_id", "variant")}

    def write(aside: Path) -> Exported:
        if kind == "onnx":
            write_onnx(aside, robot, obs_dim, manifest)
        elif kind == "torchscript":
            write_torchscript(aside, robot, obs_dim, manifest)
        else:
            write_state_dict(aside, policy, manifest)
        act = _reopen(kind, aside)
        with torch.no_grad():
            error = float((act(obs) - robot(obs)).abs().max())
        if not error <= TOLERANCE:
            raise HardenError(f"the {kind} file acts otherwise by {error:.2g}, more than {TOLERANCE:g}")
        return Exported(error, _latency(act, obs))

    return write_whole(path, write)
