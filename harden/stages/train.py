"""train: Algorithm 2, the composition of the stages, refreshed online and resumable at each refresh."""

from __future__ import annotations

from dataclasses import dataclass
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
from harden.nets.saved import LoadedPolicy, load_policy
from harden.progress import Reporter
from harden.stages.inputs import Inputs, optional
from harden.stages.offline_estimates import offline_estimates
from harden.storage.files import require_writable, write_json
from harden.storage.folders import recover_replaced
from harden.training.ending import finish_run, try_policy
from harden.training.offline import require_own_data, train_offline
from harden.training.on_policy import require_no_job, train_on_policy
from harden.training.permissions import open_own, require_em, require_own_kind, require_permission
from harden.training.ranges import require_ranges
from harden.training.refresh import History, RollOuts
from harden.training.replay import look_ahead
from harden.training.rounds import LiveRounds, run_rounds
from harden.training.run import begin_run, load_run, new_run, open_run, require_free, warm_up_steps
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


@dataclass(frozen=True, kw_only=True)
class TrainInputs(Inputs):
    """What a training run begins with, or goes on with.

    Args:
        config, place, device: the pipeline, its folders, and where it is computed.
        start: the policy to start from.
        resume: go on from the last refresh stored.
        overwrite: discard an earlier run of this pipeline and its data set.
        tensorboard: log to TensorBoard beside CSV.
        dataset: the stored data that an offline run learns from.
    """

    config: PipelineConfig
    place: Workspace
    device: torch.device
    start: LoadedPolicy | None
    resume: bool
    overwrite: bool
    tensorboard: bool
    dataset: Dataset | None


def open_train(
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
) -> TrainInputs:
    """Open and check what training needs: from scratch, from a given policy, or from where a run stopped.

    What a killed process left of the run's folders is mended.

    Args:
        config, place, device: the pipeline, its folders, and where it is computed.
        init: a policy folder to start from; critics are fitted to fresh benign data first, going on from its
            own where they have the pipeline's architecture.
        resume: go on from the last refresh stored; the end is the same as without the interruption.
        overwrite: discard an earlier run of this pipeline and its data set.
        tensorboard: log to TensorBoard beside CSV.
        data: with `train.offline`, the stored data to learn from, the workspace's where not given.
        allow_attacked_collection: let a variant that wants it collect under attack.

    Raises:
        InputError: options that contradict each other or do not apply to the variant; a run is there already,
            or one to resume was made with another configuration; the variant collects under attack and that
            was not allowed; the environment or the data are not what the task says.
        MissingInputError: nothing to resume, no data, or no policy in `init`.
    """
    offline = config.train.offline
    if resume and (overwrite or init is not None):
        raise InputError(
            "--resume goes on from what is stored",
            "leave out --overwrite and --init, or begin anew without --resume",
        )
    dataset = None
    if offline:
        require_em(config)
        dataset = open_own(config, data or place.data)
        require_ranges(config, dataset.recent(config.imitation.rows), dataset.path)
    else:
        if data is not None:
            raise InputError("--data is for --offline", "training that collects learns from its own data set")
        require_environment(config.task_row)
        require_permission(config.behaviour, allow_attacked_collection)
        if config.variant_row.on_policy:
            require_no_job(config, tensorboard)
        try_environment(config.task_row)
    start = None if init is None else load_policy(init)
    recover_replaced(place.run, (place.run, place.data))
    if resume:
        about = load_run(config, place, device)[1]
        if dataset is not None:
            require_own_data(place, about, dataset)
    else:
        new_learner(config, device, start)
        if not overwrite:
            require_free(place, collects=not offline)
        require_writable(place.state)
    return TrainInputs(
        config=config,
        place=place,
        device=device,
        start=start,
        resume=resume,
        overwrite=overwrite,
        tensorboard=tensorboard,
        dataset=dataset,
        reads=(
            *(() if dataset is None else (dataset.path,)),
            *optional(place.state if resume else None, init),
        ),
        writes=(place.run,) if offline else (place.data, place.run),
    )


def train(inputs: TrainInputs, report: Reporter) -> Trained:
    """Train a policy.

    Raises:
        StorageError: the run can't be written.
        DivergedError: a loss became NaN or infinite; the last refresh stands.

    Source: Algorithm 2; Algorithms 4 and 5 for the on-policy variants.
    """
    config, place, device = inputs.config, inputs.place, inputs.device
    if inputs.dataset is None:
        history, warnings = _train_online(inputs, report)
    else:
        history, warnings = train_offline(
            config,
            place,
            inputs.dataset,
            device=device,
            start=inputs.start,
            resume=inputs.resume,
            overwrite=inputs.overwrite,
            tensorboard=inputs.tensorboard,
            report=report,
        )
        learner, about = load_state(place.state, config, device)
        estimates = offline_estimates(config, place, learner, inputs.dataset, about["offline"])
        write_json(place.estimates, estimates)
    return Trained(len(history), history, place.policy, warnings)


def _begin(inputs: TrainInputs) -> None:
    config, start = inputs.config, inputs.start
    learner = new_learner(config, inputs.device, start)
    begun = origin_of(start.about if start else None)
    if start is not None:
        with VectorEnv(config.task_row, config.collect.envs, config.collect.workers) as envs:
            begun["start"] = try_policy(config, learner.policy, envs)
    with new_run(inputs.place, collects=True, overwrite=inputs.overwrite) as fresh:
        begin_run(config, fresh, learner, warm_up_steps(config, learner, start), **begun)


def _train_online(inputs: TrainInputs, report: Reporter) -> tuple[History, list[str]]:
    config, place, device = inputs.config, inputs.place, inputs.device
    if not inputs.resume:
        _begin(inputs)
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
        if config.variant_row.on_policy:
            train_on_policy(config, place, learner, history, writer, envs, report, also)
        else:
            supply = RollOuts(config, learner, writer, envs, report)
            source = LiveRounds(config, place, learner, history, supply, report, warm_up, also)
            run_rounds(source, inputs.tensorboard)

        def replay() -> Backups:
            return look_ahead(Dataset(place.data).recent(config.critics.replay), config, device)

        warnings = finish_run(config, place, device, replay, envs, report)
    return history, warnings
