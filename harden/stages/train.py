"""train: Algorithm 2, the composition of the stages, refreshed online and resumable at each refresh."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, NamedTuple

import torch

from harden.checkpoint import LoadedPolicy, load_policy, module_digest
from harden.config import PipelineConfig
from harden.data import DatasetWriter
from harden.envs.vector import VectorEnv
from harden.errors import InputError, MissingInputError
from harden.fit import ranks
from harden.fit.mstep import RobustMStep
from harden.fit.trainer import fit, make_trainer
from harden.learner import Learner, load_state, new_learner
from harden.progress import Reporter
from harden.stages.kind import require_own_kind, require_permission
from harden.stages.on_policy import require_no_job, train_on_policy
from harden.stages.rounds import LiveRounds
from harden.stages.workspace import Workspace, commit


class Trained(NamedTuple):
    """What a training run did.

    Args:
        refreshes: refreshes finished, of this run and of those it resumed.
        history: one row a refresh: steps, reward, cost, cumulative cost, multipliers, KLs, seconds.
        policy: the folder of the policy that was kept.
    """

    refreshes: int
    history: list[dict[str, float]]
    policy: Path


def _differing_key(old: Any, new: Any, path: str = "") -> str | None:
    if isinstance(old, dict) and isinstance(new, dict):
        for key in new:
            found = _differing_key(old.get(key), new[key], f"{path}.{key}" if path else key)
            if found and found not in _MAY_DIFFER:
                return found
        return None
    return path if old != new else None


_MAY_DIFFER = {"collect.workers", "evaluate"}


def _open(config: PipelineConfig, place: Workspace, device: torch.device) -> tuple[Learner, dict[str, Any]]:
    """Return the learner of a run that has begun, and what is stored with it."""
    if not place.state.is_file():
        raise MissingInputError(
            f"no run to resume in {place.run}", f"begin one with: harden train -p {place.name}"
        )
    learner, about = load_state(place.state, config, device)
    if "history" not in about:
        raise InputError(
            f"the state in {place.run} was made by single stages",
            "begin a run with: harden train --overwrite",
        )
    new = config.model_dump(mode="json", exclude={"evaluate", "imitation"})
    different = _differing_key(about.get("config", {}), new)
    if different:
        raise InputError(
            f"the run in {place.run} was made with another '{different}'",
            "resume it with its own configuration (config.json beside it), or begin anew with --overwrite",
        )
    return learner, about


def _warm_up(config: PipelineConfig, learner: Learner, start: LoadedPolicy | None) -> int:
    """Return the critic steps before the first round: more for a given policy without critics."""
    usual = config.train.warm_up_critic_steps
    if start is None or (start.critics and start.critics.architecture == learner.critics.architecture):
        return usual
    return max(usual, config.critics.steps)


def _begin(
    config: PipelineConfig, place: Workspace, device: torch.device, init: Path | None, overwrite: bool
) -> None:
    """Store the state that a run begins with: so it can be resumed from its first moment."""
    start = None if init is None else load_policy(init)
    learner = new_learner(config, device, start)
    if overwrite:
        for folder in (place.run, place.data):
            shutil.rmtree(folder, ignore_errors=True)
    if place.state.is_file() or place.data.exists():
        there = place.run if place.state.is_file() else place.data
        raise InputError(
            f"{there} holds an earlier run or its data",
            "go on with --resume, or discard both with --overwrite",
        )
    about = {
        "history": [],
        "warm_up": _warm_up(config, learner, start),
        "parent": module_digest(learner.policy),
    }
    commit(config, place, learner, about)


def train(
    config: PipelineConfig,
    place: Workspace,
    *,
    device: torch.device,
    init: Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
    tensorboard: bool = False,
    devices: int | None = None,
    allow_attacked_collection: bool = False,
    report: Reporter,
) -> Trained:
    """Train a policy: from scratch, from a given one, or from where a run stopped.

    Args:
        init: a policy folder to start from; critics are fitted to fresh benign data first, going on from its
            own where they have the pipeline's architecture.
        resume: go on from the last refresh stored; the end is the same as without the interruption.
        overwrite: discard an earlier run of this pipeline and its data set.
        tensorboard: log to TensorBoard beside CSV.
        devices: processes that split the rows of each M-step; one where not given.
        allow_attacked_collection: let a variant that wants it collect under attack.

    Raises:
        InputError: a run is there already, or one to resume was made with another configuration, or the
            variant collects under attack and that was not allowed, or the rows can't be split.
        MissingInputError: nothing to resume, or no policy in `init`.
        DivergedError: a loss became NaN or infinite; the last refresh stands.

    Source: Algorithm 2; Algorithms 4 and 5 for the on-policy variants.
    """
    require_permission(config.behaviour, allow_attacked_collection)
    on_policy, devices = config.variant_row.on_policy, devices or 1
    if on_policy:
        require_no_job(config, tensorboard, devices)
    ranks.require_share(config.train.states, devices, "train.states")
    helps = ranks.is_helper(devices)
    if not resume and not helps:
        _begin(config, place, device, init, overwrite)
    learner, about = _open(config, place, device)
    job = {"tensorboard": tensorboard, "devices": devices}
    if helps:
        source = LiveRounds(config, place, learner, about, None, None, Reporter(quiet=True))
        _fit(config, place, learner, source, job)
    slots = min(config.collect.envs, config.train.episodes)
    with (
        DatasetWriter(place.data, config.task_row) as writer,
        VectorEnv(config.task_row, slots, config.collect.workers) as envs,
    ):
        require_own_kind(config, writer.info, place.data)
        history = about["history"]
        if on_policy:
            train_on_policy(config, place, learner, history, writer, envs, report)
            return Trained(len(history), history, place.policy)
        source = LiveRounds(config, place, learner, about, writer, envs, report)
        if len(source):
            _fit(config, place, learner, source, job)
    return Trained(len(history), history, place.policy)


def _fit(
    config: PipelineConfig, place: Workspace, learner: Learner, source: LiveRounds, options: dict[str, Any]
) -> None:
    """Do the rounds that are left, in one job."""
    job = RobustMStep(learner, config, source.meter.on_step)
    first_step = learner.counters.policy_steps
    fit(make_trainer(place.run, learner.device, "policy", first_step, **options), job, source, source.finish)
