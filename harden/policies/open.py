"""Any policy, wherever one is named: a policy folder, somebody else's file, or a function."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

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
from harden.policies.reading import Reading
from harden.policies.sb3 import open_sb3
from harden.policies.state_dict import open_state_dict
from harden.policies.torchscript import open_torchscript
from harden.progress import QUIET, Reporter

# a path, module:function, or a function
Named = str | Path | Callable[..., Any]

SUFFIXES = {".onnx": "onnx", ".safetensors": "safetensors", ".zip": "sb3"}
# the last is what torch.save writes for most, which is refused by its content
SUFFIXES |= dict.fromkeys((".pt", ".ts", ".pth"), "torchscript")
ADOPTED = "its weights, taken over exactly: it has gradients"
# a few answers outside the action range, or by less than rounding, are not worth a warning
_MATTERS, _ROUNDING = 0.01, 1e-5


def open_foreign(
    named: Named, reading: Reading, config: PipelineConfig, obs: Tensor, report: Reporter
) -> ForeignPolicy:
    """Open a policy that is no folder of ours: a file, module:function, or a function.

    Args:
        named, config: as in `open_policy`.
        reading: what a file does not say of itself.
        obs: what a program is tried on first, (B, obs_dim).

    Raises:
        MissingInputError: not there; DamagedFileError: not what it says; InputError: no known format, or not
            what can be asked for actions.
    """
    if callable(named):
        return from_function(named)
    path, bounds, obs_dim = Path(named), task_bounds(config), config.task_row.obs_dim
    kind = reading.kind or SUFFIXES.get(path.suffix)
    if not path.exists() and is_function_name(named):
        report.say(f"{named} is code: it is being imported and run, because you named it")
        return import_function(str(named))
    if kind is None and path.exists():
        remedy = f"name a policy folder, a file whose suffix is one of {', '.join(SUFFIXES)}, or give --from"
        raise InputError(f"{named} does not say its format", remedy)
    if kind is None:
        remedy = "make it with: harden train; or name a policy file, or module:function"
        raise MissingInputError(f"policy folder {named} is missing", remedy)
    if kind == "torchscript":
        report.say(f"{path} is a TorchScript program: it is being run, because you named it")
        foreign = open_torchscript(path, reading, bounds, obs)
    elif kind == "onnx":
        foreign = open_onnx(path, reading, bounds)
    else:
        foreign = (open_sb3 if kind == "sb3" else open_state_dict)(path, reading, bounds, obs_dim)
    if foreign.notes:
        report.say(f"{path}: {foreign.notes}")
    return foreign


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


def open_policy(
    named: Named,
    config: PipelineConfig,
    report: Reporter,
    reading: Reading = Reading(),  # noqa: B008
    adopt: bool = True,
) -> LoadedPolicy:
    """Return a policy, whatever it is kept in.

    The weights of a file that holds nothing but our architecture are taken over, unless it is a program. Any
    other policy is asked as it is, and a warning says so where its answers are clipped.

    Args:
        named: a policy folder, a policy file, module:function, or a function. TorchScript and a function are
            code, and are run.
        config: gives the task.
        reading: what a file does not say of itself.
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
    foreign = open_foreign(named, reading, config, obs, report)
    answers, _ = answer(foreign, obs, task.act_dim, path)
    manifest: dict[str, Any] = {"variant": f"somebody else's ({foreign.kind})", "format": foreign.kind}
    notes = f"; {foreign.notes}" if foreign.notes else ""
    # a program may hold what no trial shows, and lets gradients through: it is asked itself
    if adopt and foreign.kind != "torchscript" and (adopted := adopted_policy(foreign, obs, answers)):
        manifest |= {"how": ADOPTED + notes, "policy_digest": module_digest(adopted[0])}
        return LoadedPolicy(adopted[0], None, manifest)
    policy = OpaquePolicy(foreign, task.obs_dim, bounds.low, bounds.high)
    gradients = ", with gradients" if foreign.differentiable else " only: no gradients"
    manifest |= {"how": f"asked for actions{gradients}{notes}", "policy_digest": policy.digest()}
    if clipped := clipping_warning(answers, bounds):
        report.say(f"warning: {path}: {clipped}")
        manifest["how"] += f"; {clipped}"
    return LoadedPolicy(policy, None, manifest)


def open_ours(
    named: Path | None, config: PipelineConfig, report: Reporter, reading: Reading
) -> LoadedPolicy | None:
    """Return a policy that something is learned from, as `open_policy` does; None where none is named.

    Raises:
        InputError: somebody else's whose weights can't be taken over.
    """
    if named is None:
        return None
    loaded = open_policy(named, config, report, reading)
    if isinstance(loaded.policy, OpaquePolicy):
        raise InputError(
            f"{named} holds more than an MLP such as ours, so that its weights can't be taken over",
            f"distil it first: harden policy import {named} --out FOLDER",
        )
    return loaded


def acts_alike(
    named: Named, loaded: LoadedPolicy, config: PipelineConfig, obs: Tensor, reading: Reading
) -> bool:
    """Return whether a policy whose weights were taken over acts as its file on states that it visited.

    Args:
        loaded: of `named`, by `open_policy`; any whose weights were not taken over is the policy itself.
        obs: the states, (B, obs_dim).
    """
    if not loaded.manifest.get("how", "").startswith(ADOPTED):
        return True
    rows = obs.cpu()
    foreign = open_foreign(named, reading, config, rows, QUIET)
    return adopted_policy(foreign, rows, foreign.run(rows)[0]) is not None
