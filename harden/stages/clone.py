"""fit-policy --clone: a policy from stored logs alone, by behaviour cloning."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch

from harden.config.pipeline import PipelineConfig, key_value
from harden.data import Dataset
from harden.errors import InputError
from harden.nets.saved import save_policy
from harden.progress import Reporter
from harden.stages.inputs import Inputs
from harden.storage.files import require_writable
from harden.training.checks import open_own, require_ranges
from harden.training.imitation import fit_clone
from harden.training.workspace import Workspace, describe
from harden.types import Transitions


class Cloned(NamedTuple):
    """What a clone came to.

    Args:
        folder: the policy's.
        steps: gradient steps taken.
        report: episodes in each part, and on the held-out ones the mean log-likelihood of an action (nats)
            and the root mean square error of the mean action, of the clone and of the best constant policy.
    """

    folder: Path
    steps: int
    report: dict[str, Any]


def free_folder(folder: Path, overwrite: bool) -> Path:
    """Return a folder that a policy may be written into.

    Raises:
        InputError: one is there and nobody said that it may go.
    """
    if (folder / "policy.safetensors").exists() and not overwrite:
        raise InputError(
            f"{folder} holds a policy already",
            "name another folder with --out, or discard it with --overwrite",
        )
    return folder


@dataclass(frozen=True, kw_only=True)
class CloneInputs(Inputs):
    """What cloning begins with.

    Args:
        config, workspace, device: the pipeline, its folders, and where it is computed.
        dataset: what is learned from; rows: as much of it as is used.
        steps: gradient steps at most.
        folder: where the policy goes.
    """

    config: PipelineConfig
    workspace: Workspace
    device: torch.device
    dataset: Dataset
    rows: Transitions
    steps: int
    folder: Path


def open_clone(
    config: PipelineConfig,
    workspace: Workspace,
    *,
    device: torch.device,
    data: Path | None = None,
    steps: int | None = None,
    out: Path | None = None,
    overwrite: bool = False,
) -> CloneInputs:
    """Open and check what cloning needs.

    Args:
        config, workspace, device: the pipeline, its folders, and where it is computed.
        data: the data set, the workspace's where not given.
        steps: gradient steps at most, the pipeline's where not given.
        out: the policy's folder, the workspace's where not given: then fit-critics goes on from it.
        overwrite: replace a policy that is there.

    Raises:
        MissingInputError: no data; InputError: of another task, actions outside its bounds, collected under
            attack, or a policy or a run is there already; StorageError: the policy can't be written.
    """
    steps = key_value(config, "imitation.steps", steps)
    if out is None and workspace.state.is_file():
        raise InputError(
            f"{workspace.run} holds a run, whose policy this one would replace",
            "name another folder with --out",
        )
    folder = free_folder(out or workspace.policy, overwrite)
    dataset = open_own(config, data or workspace.data)
    rows = dataset.recent(config.imitation.rows)
    require_ranges(config, rows, dataset.path)
    require_writable(folder / "policy.safetensors")
    return CloneInputs(
        config=config,
        workspace=workspace,
        device=device,
        dataset=dataset,
        rows=rows,
        steps=steps,
        folder=folder,
        reads=(dataset.path,),
        writes=(folder,),
    )


def clone_policy(inputs: CloneInputs, report: Reporter) -> Cloned:
    """Fit a new policy to the actions in a data set and write it as a policy folder, without critics.

    Raises:
        InputError: the data set has under three episodes.
        DivergedError: the loss is not finite; nothing was written.
    """
    config, device, folder = inputs.config, inputs.device, inputs.folder
    options = config.imitation.model_copy(update={"steps": inputs.steps})
    policy, steps, quality = fit_clone(
        config, inputs.rows, options, device=device, logs=inputs.workspace.run, report=report
    )
    digests = {"data": inputs.dataset.info.digest, "policy": ""}
    about = describe(
        config, variant="clone", made_by="harden fit-policy --clone", inputs=digests, clone=quality
    )
    save_policy(folder, policy, None, about)
    return Cloned(folder, steps, quality)
