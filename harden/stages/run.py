"""How a training run begins, and how it is taken up again."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from harden.checkpoint import LoadedPolicy, module_digest
from harden.config import PipelineConfig
from harden.errors import InputError, MissingInputError
from harden.files import clear_unfinished
from harden.learner import Learner, load_state
from harden.stages.workspace import Workspace, commit

# what changes nothing of what is learned
_MAY_DIFFER: dict[str, set[str] | bool] = {"collect": {"workers"}, "evaluate": True}


def _differing_key(old: Any, new: Any, path: str = "") -> str | None:
    if isinstance(old, dict) and isinstance(new, dict):
        for key in new:
            found = _differing_key(old.get(key), new[key], f"{path}.{key}" if path else key)
            if found:
                return found
        return None
    return path if old != new else None


def open_run(
    config: PipelineConfig, place: Workspace, device: torch.device
) -> tuple[Learner, dict[str, Any]]:
    """Return the learner of a run that has begun, and what is stored with it.

    Raises:
        MissingInputError: no run; InputError: made by single stages, or with another configuration.
    """
    if not place.state.is_file():
        raise MissingInputError(
            f"no run to resume in {place.run}", f"begin one with: harden train -p {place.name}"
        )
    clear_unfinished(place.run, place.critics, place.policy)
    learner, about = load_state(place.state, config, device)
    if "history" not in about:
        raise InputError(
            f"the state in {place.run} was made by single stages",
            "begin a run with: harden train --overwrite",
        )
    new = config.model_dump(mode="json", exclude=_MAY_DIFFER)
    different = _differing_key(about.get("config", {}), new)
    if different:
        raise InputError(
            f"the run in {place.run} was made with another '{different}'",
            "resume it with its own configuration (config.json beside it), or begin anew with --overwrite",
        )
    return learner, about


def warm_up_steps(config: PipelineConfig, learner: Learner, start: LoadedPolicy | None) -> int:
    """Return the critic steps before the first round: more for a given policy without critics."""
    usual = config.train.warm_up_critic_steps
    if start is None or (start.critics and start.critics.architecture == learner.critics.architecture):
        return usual
    return max(usual, config.critics.steps)


def require_room(place: Workspace, folders: Sequence[Path], overwrite: bool, both: str) -> None:
    """Refuse to begin where a run is, or what it would write over; or clear the place where that was asked.

    Args:
        folders: what the run makes.
        overwrite: whether an earlier run may go.
        both: what --overwrite discards, in words.

    Raises:
        InputError: something is there and may not go.
    """
    if overwrite:
        for folder in folders:
            shutil.rmtree(folder, ignore_errors=True)
    for there in (place.state, *(folder for folder in folders if folder != place.run)):
        if there.exists():
            shown = place.run if there == place.state else there
            raise InputError(
                f"{shown} holds an earlier run or its data",
                f"go on with --resume, or discard {both} with --overwrite",
            )


def begin_run(config: PipelineConfig, place: Workspace, learner: Learner, warm_up: int, **more: Any) -> None:
    """Store the state that a run begins with: so it can be resumed from its first moment."""
    about = {"history": [], "warm_up": warm_up, "parent": module_digest(learner.policy)}
    commit(config, place, learner, about | more)
