"""Any policy, wherever one is named: a policy folder, somebody else's file, or a function."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from harden.config.pipeline import PipelineConfig
from harden.errors import InputError, MissingInputError
from harden.nets import GaussianPolicy
from harden.nets.saved import LoadedPolicy, load_policy, module_digest, require_task
from harden.policies.adopt import TOLERANCE, Bounds, task_bounds
from harden.policies.foreign import (
    ForeignPolicy,
    OpaquePolicy,
    answer,
    from_function,
    import_function,
    is_function_name,
    policy_name,
    probe_observations,
)
from harden.policies.onnx_file import open_onnx
from harden.policies.state_dict import open_state_dict
from harden.policies.torchscript import open_torchscript
from harden.progress import Reporter

# a path, module:function, or a function
Named = str | Path | Callable[..., Any]

SUFFIXES = {".onnx": "onnx", ".safetensors": "safetensors"}
# the last is what torch.save writes for most, which is refused by its content
SUFFIXES |= dict.fromkeys((".pt", ".ts", ".pth"), "torchscript")
ADOPTED = "its weights, taken over exactly: it has gradients"
# a few answers outside the action range, or by less than rounding, are not worth a warning
_MATTERS, _ROUNDING = 0.01, 1e-5


class Reading(NamedTuple):
    """What a foreign file does not say of itself.

    Args:
        kind: onnx, torchscript or safetensors; by the file's suffix where None.
        activation, squash: of a state dict that harden did not export.
        spread: what a second output is: std, log-std or none.
    """

    kind: str | None = None
    activation: str | None = None
    squash: str | None = None
    spread: str | None = None


def open_file(path: Path, reading: Reading, bounds: Bounds, obs: Tensor, report: Reporter) -> ForeignPolicy:
    """Read a foreign policy file; a program is tried on observations (B, obs_dim) first.

    Raises:
        MissingInputError: not there; DamagedFileError: not what it says; InputError: no known format.
    """
    kind = reading.kind or SUFFIXES.get(path.suffix)
    if kind == "onnx":
        return open_onnx(path, reading.spread, bounds)
    if kind == "safetensors":
        return open_state_dict(path, bounds, reading.activation, reading.squash)
    if kind == "torchscript":
        report.say(f"{path} is a TorchScript program: it is being run, because you named it")
        return open_torchscript(path, reading.spread, bounds, obs)
    remedy = f"its suffix is one of {', '.join(SUFFIXES)}, or give --from"
    raise InputError(f"{path.name} does not say its format", remedy)


def clipping_warning(actions: Tensor, bounds: Bounds) -> str:
    """Return how many actions, (B, act_dim), are clipped to the action range, "" where hardly any is."""
    outside = (actions < bounds.low - _ROUNDING) | (actions > bounds.high + _ROUNDING)
    share = float(outside.any(dim=1).float().mean())
    if share <= _MATTERS:
        return ""
    ranges = dict.fromkeys(f"[{low:g}, {high:g}]" for low, high in zip(bounds.low, bounds.high, strict=True))
    return (
        f"{100 * share:.0f} % of its answers lie outside the action range, {' by '.join(ranges)}, and are "
        f"clipped; they reach from {float(actions.min()):g} to {float(actions.max()):g}: scale them to it"
    )


def adopted_policy(
    foreign: ForeignPolicy, obs: Tensor, answers: Tensor
) -> tuple[GaussianPolicy, float] | None:
    """Return our policy with the file's weights and its largest difference from the file's actions.

    Args:
        obs: states that the policy visits, (B, obs_dim); answers: the file's to them, (B, act_dim).

    Returns:
        None where the file holds more than our architecture, or acts otherwise.
    """
    policy = foreign.adopted
    if policy is None or policy.architecture["obs_dim"] != obs.shape[1]:
        return None
    with torch.no_grad():
        error = float((policy.clip(answers) - policy.mean(obs)).abs().max())
    return None if error > TOLERANCE else (policy, error)


def _open_foreign(named: Named, config: PipelineConfig, obs: Tensor, report: Reporter) -> ForeignPolicy:
    """Open a policy that is no folder of ours; arguments and errors are those of `open_policy`."""
    if callable(named):
        return from_function(named)
    path = Path(named)
    if not path.exists() and is_function_name(named):
        report.say(f"{named} is code: it is being imported and run, because you named it")
        return import_function(str(named))
    if path.suffix in SUFFIXES:
        return open_file(path, Reading(spread="none"), task_bounds(config), obs, report)
    if path.exists():
        raise InputError(f"{named} is no policy", f"name a policy folder, or a file ({', '.join(SUFFIXES)})")
    remedy = "make it with: harden train; or name an ONNX or TorchScript file, or module:function"
    raise MissingInputError(f"policy folder {named} is missing", remedy)


def open_policy(named: Named, config: PipelineConfig, report: Reporter, adopt: bool = True) -> LoadedPolicy:
    """Return a policy, whatever it is kept in.

    The weights of a file without gradients that holds nothing but our architecture are taken over, for their
    gradients. Any other policy is asked as it is, and a warning says so where its answers are clipped.

    Args:
        named: a policy folder, a TorchScript, ONNX or exported safetensors file, module:function, or a
            function. TorchScript and a function are code, and are run.
        config: gives the task.
        adopt: weights may be taken over.

    Raises:
        MissingInputError: not there; InputError: of another task, no policy at all, or code that fails.
    """
    path, task = Path(policy_name(named)), config.task_row
    # a function may be called as a folder is
    if path.is_dir() and not callable(named):
        loaded = load_policy(path, "harden train")
        require_task(loaded, task, f"the policy in {path}")
        return loaded
    bounds, obs = task_bounds(config), probe_observations(task.obs_dim)
    foreign = _open_foreign(named, config, obs, report)
    answers, _ = answer(foreign, obs, task.act_dim, path)
    manifest: dict[str, Any] = {"variant": f"somebody else's ({foreign.kind})", "format": foreign.kind}
    # a program that lets gradients through is asked itself
    if adopt and not foreign.differentiable and (adopted := adopted_policy(foreign, obs, answers)):
        manifest |= {"how": ADOPTED, "policy_digest": module_digest(adopted[0])}
        return LoadedPolicy(adopted[0], None, manifest)
    policy = OpaquePolicy(foreign, task.obs_dim, bounds.low, bounds.high)
    gradients = ", with gradients" if foreign.differentiable else " only: no gradients"
    manifest |= {"how": f"asked for actions{gradients}", "policy_digest": policy.digest()}
    if clipped := clipping_warning(answers, bounds):
        report.say(f"warning: {path}: {clipped}")
        manifest["how"] += f"; {clipped}"
    return LoadedPolicy(policy, None, manifest)


def acts_alike(
    named: Named, loaded: LoadedPolicy, config: PipelineConfig, obs: Tensor, report: Reporter
) -> bool:
    """Return whether a policy whose weights were taken over acts as its file on states that it visited.

    Args:
        loaded: of `named`, by `open_policy`; any whose weights were not taken over is the policy itself.
        obs: the states, (B, obs_dim).
    """
    if loaded.manifest.get("how") != ADOPTED:
        return True
    rows = obs.cpu()
    foreign = _open_foreign(named, config, rows, report)
    return adopted_policy(foreign, rows, foreign.run(rows)[0]) is not None
