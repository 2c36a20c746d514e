"""How a training run begins, and how it is taken up again."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch

from harden.config.pipeline import PipelineConfig
from harden.data.manifest import shard_files
from harden.errors import InputError, MissingInputError, OtherConfigurationError
from harden.method.learner import Learner
from harden.nets.saved import LoadedPolicy, module_digest
from harden.progress import Reporter
from harden.storage.files import clear_unfinished
from harden.storage.folders import FolderLock, recover_replaced, whole_folder
from harden.training.state import load_state
from harden.training.workspace import Workspace, commit, renew_folders, versions

# what changes nothing of what is learned
_MAY_DIFFER: dict[str, set[str] | bool] = {"collect": {"workers"}, "evaluate": True, "by_hand": True}


def _difference(old: Any, new: Any, path: str = "") -> str | None:
    """Return the first key of `new` that `old` has another value for, with both; None where there is none."""
    if isinstance(old, dict) and isinstance(new, dict):
        found = (_difference(old.get(key), new[key], f"{path}.{key}" if path else key) for key in new)
        return next(filter(None, found), None)
    return f"'{path}' ({old}, here {new})" if old != new else None


def open_run(
    config: PipelineConfig, place: Workspace, device: torch.device, report: Reporter
) -> tuple[Learner, dict[str, Any]]:
    """Return the learner of a run that has begun, and mend what a killed process left of its folders.

    What is said of it where it goes on otherwise than it began: with another number of threads.

    Raises:
        As `load_run`.
    """
    recover_replaced(place.run, (place.run, place.data))
    learner, about = load_run(config, place, device)
    threads, now = about.get("versions", {}).get("threads"), versions()["threads"]
    if threads not in (None, now):
        report.say(
            f"warning: the run had --threads {threads} so far and has {now} now: it ends at another policy "
            f"than without the interruption; --threads {threads} would not"
        )
    for folder in (place.run, place.critics, place.policy):
        if folder.is_dir():
            clear_unfinished(folder)
    renew_folders(place, learner, about)
    return learner, about


def load_run(
    config: PipelineConfig, place: Workspace, device: torch.device
) -> tuple[Learner, dict[str, Any]]:
    """Return the learner of a run that has begun, and what is stored with it.

    Raises:
        MissingInputError: no run; OtherConfigurationError: made with another one; InputError: made by single
            stages, or there are other results or data where a run would be.
    """
    if not place.state.is_file():
        # what is there without a state has a line of its own, which says how to keep it
        require_free(place, collects=not config.train.offline)
        raise MissingInputError(
            f"no run to resume in {place.run}", f"begin one with: harden train -p {place.name}"
        )
    learner, about = load_state(place.state, config, device)
    if "history" not in about:
        raise InputError(
            f"the state in {place.run} was made by single stages",
            f"begin a run with: harden train -p {place.name} --overwrite",
        )
    new = config.model_dump(mode="json", exclude=_MAY_DIFFER)
    # stages by hand since may have had settings of their own
    different = _difference(about.get("run_config", about.get("config", {})), new)
    if different:
        raise OtherConfigurationError(
            f"the run in {place.run} was made with another {different}",
            "resume it with its own (config.json there holds all of it), or begin anew with --overwrite",
        )
    return learner, about


def warm_up_steps(config: PipelineConfig, learner: Learner, start: LoadedPolicy | None) -> int:
    """Return the critic steps before the first round: more for a given policy without critics."""
    usual = config.train.warm_up_critic_steps
    if start is None or (start.critics and start.critics.architecture == learner.critics.architecture):
        return usual
    return max(usual, config.critics.steps)


@contextlib.contextmanager
def new_run(place: Workspace, *, collects: bool, overwrite: bool) -> Iterator[Workspace]:
    """Begin a run beside what is there, which goes when the new one stands, and not before.

    Args:
        collects: whether the run makes its own data set; else it reads one, which stays.
        overwrite: whether an earlier run, and the data set of one that collects, may go.

    Returns:
        The workspace in whose run folder the state is to be put, inside the `with`.

    Raises:
        InputError: something is there and may not go, or another process is writing it.
        StorageError: no room or no permission; what was there is there.
    """
    recover_replaced(place.run, (place.run, place.data))
    with contextlib.ExitStack() as held:
        if not overwrite:
            require_free(place, collects)
        if collects and place.data.is_dir():
            held.enter_context(FolderLock(place.data))
        gone = [place.run, *([place.data] if collects else [])] if overwrite else []
        fresh = held.enter_context(whole_folder(place.run, gone))
        yield place._replace(run=fresh)


def require_free(place: Workspace, collects: bool) -> None:
    """Refuse to begin a run where something is that it would discard.

    Raises:
        InputError: a run, other results, or data of a run that collects.
    """
    both = "both" if collects else "it"
    if place.state.is_file():
        raise InputError(
            f"{place.run} holds an earlier run", f"go on with --resume, or discard {both} with --overwrite"
        )
    if place.run.is_dir() and any(place.run.iterdir()):
        raise InputError(
            f"{place.run} holds what no run made",
            f"begin from its policy elsewhere with --init {place.policy}, or discard {both} with --overwrite",
        )
    if collects and place.data.is_dir() and shard_files(place.data):
        raise InputError(
            f"{place.data} holds data, and no run goes with them",
            f"learn from them with: harden train --offline --data {place.data}; train under another "
            "pipeline's name, or discard them with --overwrite",
        )


def begin_run(config: PipelineConfig, place: Workspace, learner: Learner, warm_up: int, **more: Any) -> None:
    """Store the state that a run begins with: so it can be resumed from its first moment."""
    about = {"history": [], "warm_up": warm_up, "parent": module_digest(learner.policy)}
    about["run_config"] = config.model_dump(mode="json")
    commit(config, place, learner, about | more)
