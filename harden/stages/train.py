"""train: Algorithm 2, the composition of the stages, refreshed online and resumable at each refresh."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch

from harden.config.pipeline import PipelineConfig
from harden.data import Dataset, DatasetWriter
from harden.envs.make import require_environment, try_environment
from harden.envs.vector import VectorEnv
from harden.errors import InputError
from harden.method.bellman import Backups
from harden.method.learner import new_learner
from harden.nets.saved import load_policy
from harden.progress import Reporter
from harden.stages.offline_estimates import offline_estimates
from harden.storage.files import write_json
from harden.training.ending import finish_run, try_policy
from harden.training.offline import train_offline
from harden.training.on_policy import require_no_job, train_on_policy
from harden.training.permissions import open_own, require_em, require_own_kind, require_permission
from harden.training.refresh import History, RollOuts
from harden.training.replay import look_ahead
from harden.training.rounds import LiveRounds, run_rounds
from harden.training.run import begin_run, new_run, open_run, warm_up_steps
from harden.training.state import load_state
from harden.training.workspace import Workspace, lasting, origin_of


class Trained(NamedTuple):
    """What a training run did.

    Args:
        refreshes: refreshes finished, of this run and of those it resumed.
        history: one row a refresh: steps, reward, cost, cumulative cost, multipliers, KLs, seconds.
        policy: the folder of the policy that was kept.
        warnings: what has to be known of it, one sentence each.
    """

    refreshes: int
    history: list[dict[str, float]]
    policy: Path
    warnings: list[str]


def _begin(
    config: PipelineConfig, place: Workspace, device: torch.device, init: Path | None, overwrite: bool
) -> None:
    start = None if init is None else load_policy(init)
    learner = new_learner(config, device, start)
    try_environment(config.task_row)
    begun = origin_of(start.about if start else None)
    if start is not None:
        with VectorEnv(config.task_row, config.collect.envs, config.collect.workers) as envs:
            begun["start"] = try_policy(config, learner.policy, envs)
    with new_run(place, collects=True, overwrite=overwrite) as fresh:
        begin_run(config, fresh, learner, warm_up_steps(config, learner, start), **begun)


def train(
    config: PipelineConfig,
    place: Workspace,
    *,
    device: torch.device,
    init: Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
    tensorboard: bool = False,
    data: Path | None = None,
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
        data: with `train.offline`, the stored data to learn from, the workspace's where not given.
        allow_attacked_collection: let a variant that wants it collect under attack.

    Raises:
        InputError: a run is there already, or one to resume was made with another configuration, or the
            variant collects under attack and that was not allowed, or the environment is not what the task
            says.
        MissingInputError: nothing to resume, or no policy in `init`.
        DivergedError: a loss became NaN or infinite; the last refresh stands.

    Source: Algorithm 2; Algorithms 4 and 5 for the on-policy variants.
    """
    start = {"init": init, "resume": resume, "overwrite": overwrite}
    shared = start | {"tensorboard": tensorboard}
    require_allowed(config, data=data, allow_attacked_collection=allow_attacked_collection, **shared)  # type: ignore[arg-type]
    if config.train.offline:
        history, warnings = train_offline(config, place, data, device=device, report=report, **shared)  # type: ignore[arg-type]
        learner, about = load_state(place.state, config, device)
        dataset = open_own(config, data or place.data)
        write_json(place.estimates, offline_estimates(config, place, learner, dataset, about["offline"]))
        return Trained(len(history), history, place.policy, warnings)
    history, warnings = _train_online(config, place, device=device, report=report, **shared)  # type: ignore[arg-type]
    return Trained(len(history), history, place.policy, warnings)


def require_allowed(
    config: PipelineConfig,
    *,
    init: Path | None,
    resume: bool,
    overwrite: bool,
    data: Path | None,
    tensorboard: bool,
    allow_attacked_collection: bool,
) -> None:
    """Refuse what can't be trained as it was asked, before anything is opened.

    Raises:
        InputError: options that contradict each other or do not apply to the variant, an attack that was not
            allowed, a task without an environment.
    """
    if resume and (overwrite or init is not None):
        raise InputError(
            "--resume goes on from what is stored",
            "leave out --overwrite and --init, or begin anew without --resume",
        )
    if config.train.offline:
        require_em(config)
        return
    if data is not None:
        raise InputError("--data is for --offline", "training that collects learns from its own data set")
    require_environment(config.task_row)
    require_permission(config.behaviour, allow_attacked_collection)
    if config.variant_row.on_policy:
        require_no_job(config, tensorboard)


def _train_online(
    config: PipelineConfig,
    place: Workspace,
    *,
    device: torch.device,
    init: Path | None,
    resume: bool,
    overwrite: bool,
    tensorboard: bool,
    report: Reporter,
) -> tuple[History, list[str]]:
    on_policy = config.variant_row.on_policy
    if not resume:
        _begin(config, place, device, init, overwrite)
    if config.most_steps != config.train.env_steps:
        asked = f"train.env_steps {config.train.env_steps:,}"
        report.say(f"refreshes are whole: up to {config.most_steps:,} steps of simulation ({asked})")
    learner, about = open_run(config, place, device, report)
    history: History = about["history"]
    warm_up, also = about.get("warm_up", 0), lasting(about)
    slots = min(config.collect.envs, config.train.episodes)
    with (
        DatasetWriter(place.data, config.task_row) as writer,
        VectorEnv(config.task_row, slots, config.collect.workers) as envs,
    ):
        require_own_kind(config, writer.info, place.data)
        if on_policy:
            train_on_policy(config, place, learner, history, writer, envs, report, also)
        else:
            supply = RollOuts(config, learner, writer, envs, report)
            source = LiveRounds(config, place, learner, history, supply, report, warm_up, also)
            run_rounds(source, tensorboard)

        def replay() -> Backups:
            return look_ahead(Dataset(place.data).recent(config.critics.replay), config, device)

        warnings = finish_run(config, place, device, replay, envs, report)
    return history, warnings
