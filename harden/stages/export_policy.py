"""policy export and info: a policy out to a robot, and what a policy folder holds."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from harden.config.tasks import Task
from harden.data import data_files, open_dataset
from harden.errors import InputError
from harden.nets.saved import LoadedPolicy, load_policy, policy_files
from harden.policies.export import Exported, export_policy
from harden.seeds import generator
from harden.stages.inputs import Inputs, optional
from harden.storage.files import require_apart, require_writable

_DRAWN = 10_000


def check_observations(
    data: Path | None, reach: float, obs_dim: int, task: Task | None
) -> tuple[Tensor, str]:
    """Return observations to compare policies on, of a data set or drawn, and what they are in words.

    Args:
        data: a data set, None to draw.
        reach: half-width of the uniform range that each coordinate is drawn from.

    Raises:
        InputError: a data set of other observations.
    """
    if data is not None:
        obs = open_dataset(data, task).recent(_DRAWN).obs
        if obs.shape[1] != obs_dim:
            raise InputError(
                f"{data} has observations of {obs.shape[1]} coordinates", f"the policy takes {obs_dim}"
            )
        return obs, f"{len(obs):,} observations of {data}"
    drawn = torch.rand(_DRAWN, obs_dim, generator=generator("cpu", 0, "check-observations"))
    return reach * (2 * drawn - 1), f"{_DRAWN:,} observations drawn from [-{reach:g}, {reach:g}]"


@dataclass(frozen=True, kw_only=True)
class ExportInputs(Inputs):
    """What an export begins with.

    Args:
        loaded: the policy.
        kind: onnx, torchscript or safetensors.
        out: the file.
        obs: what it is checked on, (B, obs_dim).
        checked_on: what that is, in words.
    """

    loaded: LoadedPolicy
    kind: str
    out: Path
    obs: Tensor
    checked_on: str


def open_export(
    policy_dir: Path, kind: str, out: Path, *, data: Path | None = None, reach: float = 2.0
) -> ExportInputs:
    """Open and check what an export needs.

    Args:
        policy_dir: a policy folder.
        kind: onnx, torchscript or safetensors.
        out: the file.
        data, reach: what it is checked on, as in `check_observations`.

    Raises:
        MissingInputError: no policy or data; StorageError: `out` can't be written.
        InputError: `out` is part of them, or the data set has other observations.
    """
    loaded = load_policy(policy_dir)
    obs, words = check_observations(data, reach, loaded.policy.architecture["obs_dim"], None)
    require_apart(out, *policy_files(policy_dir), *(data_files(data) if data else ()))
    require_writable(out)
    return ExportInputs(
        loaded=loaded,
        kind=kind,
        out=out,
        obs=obs,
        checked_on=words,
        reads=(policy_dir, *optional(data)),
        writes=(out,),
    )


def export(inputs: ExportInputs) -> Exported:
    """Write a policy for a robot, checked against the original.

    Raises:
        HardenError: as `export_policy`.
    """
    return export_policy(inputs.loaded, inputs.kind, inputs.out, inputs.obs)


def policy_info(folder: Path) -> dict[str, str]:
    """Return what a policy folder holds, label to text."""
    policy, critics, manifest = load_policy(folder)
    shape = policy.architecture

    def count(module: torch.nn.Module) -> str:
        return f"{sum(weights.numel() for weights in module.parameters()):,} parameters"

    widths = " x ".join(str(width) for width in (shape["obs_dim"], *shape["hidden"], shape["act_dim"]))
    held = f"none: harden fit-critics -p PIPELINE --policy {folder} puts the policy with some into that run"
    if critics is not None:
        counts = critics.architecture
        held = f"{counts['reward_count']} of reward, {counts['cost_count']} of cost, {count(critics)}"
        held += f", digest {manifest['critics_digest']}"
    sources = [f"{name} {digest}" for name, digest in manifest.get("inputs", {}).items() if digest]
    return {
        "architecture": f"Gaussian MLP {widths}, {count(policy)}",
        "actions": f"from {shape['low']} to {shape['high']}, tanh-squashed mean",
        "spread": f"{shape['min_std']:g} to {shape['max_std']:g} of half the action range",
        "task": f"{manifest.get('task', 'unknown')} ({manifest.get('env_id', 'unknown')})",
        "variant": str(manifest.get("variant", "unknown")),
        "made by": str(manifest.get("made_by", "harden train or its stages")),
        "digest": str(manifest["policy_digest"]),
        "made from": ", ".join(sources),
        "critics": held,
    }
