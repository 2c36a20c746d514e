"""Any policy, wherever one is named: a policy folder, somebody else's file, or a function."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from harden.config.pipeline import PipelineConfig
from harden.errors import InputError
from harden.nets import GaussianPolicy
from harden.nets.saved import LoadedPolicy, load_policy, module_digest, require_task
from harden.policies.adopt import TOLERANCE, task_bounds
from harden.policies.foreign import (
    ForeignPolicy,
    OpaquePolicy,
    answer,
    check_file,
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

OPENERS = {"onnx": open_onnx, "torchscript": open_torchscript, "sb3": open_sb3}
OPENERS |= {"safetensors": open_state_dict}
# the last is what torch.save writes for most, which is refused by its content
SUFFIXES = {".onnx": "onnx", ".safetensors": "safetensors", ".zip": "sb3"}
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
        MissingInputError: not there; DamagedFileError: not of its format, or far too large; InputError: no
            known format, of other sizes than the task's, with a state, or it takes too long or too much.
    """
    if callable(named):
        return from_function(named)
    path, kind = Path(named), reading.kind or SUFFIXES.get(Path(named).suffix)
    if not path.exists() and is_function_name(named):
        report.say(f"{named} is code: it is being imported and run, because you named it")
        return import_function(str(named))
    remedy = f"name a policy folder, a file whose suffix is one of {', '.join(SUFFIXES)}, or module:function"
    check_file(path, f"make it with: harden train; or {remedy}")
    if kind is None:
        raise InputError(f"{named} does not say its format", f"{remedy}; or give --from")
    if kind == "torchscript":
        report.say(f"{path} is a TorchScript program: it is being run, because you named it")
    foreign = OPENERS[kind](path, reading, task_bounds(config), obs)
    if foreign.notes:
        report.say(f"{path}: {foreign.notes}")
    return foreign


class Tried(NamedTuple):
    """Somebody else's policy, opened and tried on observations.

    Args:
        foreign: the policy.
        clipped: which of its answers are outside the action range, in words; "" where hardly any is.
        adopted: our policy with its weights, None where the file holds more or acts otherwise.
        error: the largest difference of the adopted policy's actions, in the action space's units.
    """

    foreign: ForeignPolicy
    clipped: str
    adopted: GaussianPolicy | None
    error: float


def try_foreign(
    named: Named, reading: Reading, config: PipelineConfig, obs: Tensor, report: Reporter
) -> Tried:
    """Open a policy that is no folder of ours, and ask it; arguments and errors are those of `open_foreign`.

    Raises:
        InputError: it gives something else than an action for each observation, the same each time.
    """
    foreign, bounds = open_foreign(named, reading, config, obs, report), task_bounds(config)
    actions, _ = answer(foreign, obs, config.task_row.act_dim, policy_name(named))
    outside = (actions < bounds.low - _ROUNDING) | (actions > bounds.high + _ROUNDING)
    share, clipped = float(outside.any(dim=1).float().mean()), ""
    if share > _MATTERS:
        ranges = (f"[{low:g}, {high:g}]" for low, high in zip(bounds.low, bounds.high, strict=True))
        clipped = f"{100 * share:.0f} % of its answers are clipped to {' by '.join(dict.fromkeys(ranges))}: "
        clipped += f"scale them, which reach from {float(actions.min()):g} to {float(actions.max()):g}"
    policy = foreign.adopted
    if policy is None or policy.architecture["obs_dim"] != obs.shape[1]:
        return Tried(foreign, clipped, None, 0.0)
    with torch.no_grad():
        error = float((policy.clip(actions) - policy.mean(obs)).abs().max())
    return Tried(foreign, clipped, policy if error <= TOLERANCE else None, error)


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
    tried = try_foreign(named, reading, config, probe_observations(task.obs_dim), report)
    foreign, adopted = tried.foreign, tried.adopted
    manifest: dict[str, Any] = {"variant": f"somebody else's ({foreign.kind})", "format": foreign.kind}
    notes = f"; {foreign.notes}" if foreign.notes else ""
    # a program may hold what no trial shows, and lets gradients through: it is asked itself
    if adopt and foreign.kind != "torchscript" and adopted is not None:
        manifest |= {"how": ADOPTED + notes, "policy_digest": module_digest(adopted)}
        return LoadedPolicy(adopted, None, manifest)
    low, high, *_ = task_bounds(config)
    policy = OpaquePolicy(foreign, task.obs_dim, low, high)
    gradients = ", with gradients" if foreign.differentiable else " only: no gradients"
    manifest |= {"how": f"asked for actions{gradients}{notes}", "policy_digest": policy.digest()}
    if tried.clipped:
        report.say(f"warning: {path}: {tried.clipped}")
        manifest["how"] += f"; {tried.clipped}"
    return LoadedPolicy(policy, None, manifest)


def not_ours(named: Named, remedy: str) -> InputError:
    """Return the refusal of a policy that something has to learn from, and whose weights can't be taken."""
    what = f"{named} holds more than an MLP such as ours, so that its weights can't be taken over"
    return InputError(what, remedy)


def open_ours(
    named: Path | None, config: PipelineConfig, report: Reporter, reading: Reading
) -> LoadedPolicy | None:
    """Return a policy to learn from, as `open_policy` does, None where none is named; else it is refused."""
    if named is None:
        return None
    loaded = open_policy(named, config, report, reading)
    if isinstance(loaded.policy, OpaquePolicy):
        raise not_ours(named, f"distil it first: harden policy import {named} --out FOLDER")
    return loaded


def acts_alike(
    named: Named, loaded: LoadedPolicy, config: PipelineConfig, obs: Tensor, reading: Reading
) -> bool:
    """Return whether a policy whose weights were taken over acts as its file on states that it visited.

    Args:
        loaded: of `named`, by `open_policy`; any whose weights were not taken over is the policy itself.
        obs: the states, (B, obs_dim).
    """
    taken_over = loaded.manifest.get("how", "").startswith(ADOPTED)
    return not taken_over or try_foreign(named, reading, config, obs.cpu(), QUIET).adopted is not None
