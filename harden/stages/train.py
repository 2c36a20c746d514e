"""train: Algorithm 2, the composition of the stages, refreshed online and resumable at each refresh."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, NamedTuple

import torch

from harden.checkpoint import load_policy
from harden.config import PipelineConfig
from harden.data import DatasetWriter
from harden.envs.vector import VectorEnv
from harden.errors import InputError, MissingInputError
from harden.fit.mstep import RobustMStep
from harden.fit.trainer import make_trainer
from harden.learner import Learner, load_state, new_learner
from harden.progress import Reporter
from harden.stages.collect import require_benign
from harden.stages.rounds import LiveRounds
from harden.stages.workspace import Workspace


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


def _resume(config: PipelineConfig, place: Workspace, device: torch.device) -> tuple[Learner, list]:
    learner, about = load_state(place.state, config, device)
    if "history" not in about:
        raise InputError(
            f"the state in {place.run} was made by single stages",
            "begin a run with: harden train --overwrite",
        )
    new = config.model_dump(mode="json", exclude={"evaluate"})
    different = _differing_key(about.get("config", {}), new)
    if different:
        raise InputError(
            f"the run in {place.run} was made with another '{different}'",
            "resume it with its own configuration (config.json beside it), or begin anew with --overwrite",
        )
    return learner, about["history"]


def _begin(
    config: PipelineConfig, place: Workspace, device: torch.device, init: Path | None, overwrite: bool
) -> Learner:
    start = None if init is None else load_policy(init)
    if overwrite:
        for folder in (place.run, place.data):
            shutil.rmtree(folder, ignore_errors=True)
    if place.state.is_file() or place.data.exists():
        there = place.run if place.state.is_file() else place.data
        raise InputError(
            f"{there} holds an earlier run or its data",
            "go on with --resume, or discard both with --overwrite",
        )
    return new_learner(config, device, start)


def train(
    config: PipelineConfig,
    place: Workspace,
    *,
    device: torch.device,
    init: Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
    tensorboard: bool = False,
    report: Reporter,
) -> Trained:
    """Train a policy: from scratch, from a given one, or from where a run stopped.

    Args:
        init: a policy folder to start from; its critics are fitted to fresh benign data first.
        resume: go on from the last refresh stored; the end is the same as without the interruption.
        overwrite: discard an earlier run of this pipeline and its data set.
        tensorboard: log to TensorBoard beside CSV.

    Raises:
        InputError: a run is there already, or one to resume was made with another configuration.
        MissingInputError: nothing to resume, or no policy in `init`.
        DivergedError: a loss became NaN or infinite; the last refresh stands.

    Source: Algorithm 2.
    """
    history: list[dict[str, float]] = []
    if not resume:
        learner = _begin(config, place, device, init, overwrite)
    elif place.state.is_file():
        learner, history = _resume(config, place, device)
    elif place.data.exists():
        # killed before the first refresh was stored: what was collected is taken up
        learner = new_learner(config, device, None if init is None else load_policy(init))
    else:
        raise MissingInputError(
            f"no run to resume in {place.run}", f"begin one with: harden train -p {place.name}"
        )
    slots = min(config.collect.envs, config.train.episodes)
    with (
        DatasetWriter(place.data, config.task_row) as writer,
        VectorEnv(config.task_row, slots, config.collect.workers) as envs,
    ):
        require_benign(writer.info, place.data)
        source = LiveRounds(config, place, learner, history, writer, envs, report)
        if len(source):
            job = RobustMStep(learner, config, source.meter.on_step)
            first_step = learner.counters.policy_steps
            trainer = make_trainer(place.run, device, "policy", first_step, tensorboard=tensorboard)
            trainer.fit(job, source)
            source.finish()
    return Trained(len(history), history, place.policy)
