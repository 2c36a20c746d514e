"""fit-policy --clone: a policy from stored logs alone, by behaviour cloning."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import torch

from harden.config.pipeline import PipelineConfig
from harden.data import Dataset
from harden.errors import InputError
from harden.nets.saved import save_policy
from harden.progress import Reporter
from harden.storage.files import require_writable
from harden.training.clone import fit_clone
from harden.training.permissions import open_own
from harden.training.ranges import require_ranges
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


def _destination(place: Workspace, out: Path | None, overwrite: bool) -> Path:
    if out is None and place.state.is_file():
        raise InputError(
            f"{place.run} holds a run, whose policy this one would replace", "name another folder with --out"
        )
    return free_folder(out or place.policy, overwrite)


class Opened(NamedTuple):
    """What cloning begins with, once all of it was found in order.

    Args:
        folder: where the policy goes.
        dataset: what is learned from; rows: as much of it as is used.
    """

    folder: Path
    dataset: Dataset
    rows: Transitions


def open_inputs(
    config: PipelineConfig,
    place: Workspace,
    data: Path | None = None,
    out: Path | None = None,
    overwrite: bool = False,
) -> Opened:
    """Open and check what `clone_policy` reads, and where it writes; arguments and errors are its own."""
    folder = _destination(place, out, overwrite)
    dataset = open_own(config, data or place.data)
    rows = dataset.recent(config.imitation.rows)
    require_ranges(config, rows, dataset.path)
    require_writable(folder / "policy.safetensors")
    return Opened(folder, dataset, rows)


def clone_policy(
    config: PipelineConfig,
    place: Workspace,
    *,
    device: torch.device,
    data: Path | None = None,
    steps: int | None = None,
    out: Path | None = None,
    overwrite: bool = False,
    report: Reporter,
) -> Cloned:
    """Fit a new policy to the actions in a data set and write it as a policy folder, without critics.

    Args:
        data: the data set, the workspace's where not given.
        steps: gradient steps at most, the pipeline's where not given.
        out: the policy's folder, the workspace's where not given: then fit-critics goes on from it.
        overwrite: replace a policy that is there.

    Raises:
        MissingInputError: no data; InputError: of another task, actions outside its bounds, collected under
            attack, under three episodes, or a policy or a run is there already.
        DivergedError: the loss is not finite; nothing was written.
    """
    folder, dataset, rows = open_inputs(config, place, data, out, overwrite)
    options = config.imitation if steps is None else config.imitation.model_copy(update={"steps": steps})
    policy, taken, found = fit_clone(config, rows, options, device=device, logs=place.run, report=report)
    inputs = {"data": dataset.info.digest, "policy": ""}
    about = describe(config, variant="clone", made_by="harden fit-policy --clone", inputs=inputs, clone=found)
    save_policy(folder, policy, None, about)
    return Cloned(folder, taken, found)
