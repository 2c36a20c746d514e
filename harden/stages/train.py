"""train: Algorithm 2, the composition of the stages, refreshed online and resumable at each refresh."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch

from harden.config.pipeline import PipelineConfig
from harden.data import Dataset, DatasetWriter
from harden.envs.make import SeededEnv, require_environment
from harden.envs.vector import VectorEnv
from harden.errors import InputError
from harden.evaluation.offline import offline_account
from harden.method.learner import Learner, new_learner
from harden.nets.saved import LoadedPolicy, load_policy
from harden.progress import Reporter
from harden.stages.inputs import Inputs, optional
from harden.storage.files import require_writable, write_json
from harden.storage.folders import recover_replaced
from harden.training import loop
from harden.training.checks import (
    open_own,
    require_em,
    require_own_kind,
    require_permission,
    require_ranges,
    unknown_from_logs,
)
from harden.training.ending import finish_run
from harden.training.imitation import fit_clone
from harden.training.keeping import try_policy
from harden.training.run import Run, begin_run, load_run, new_run, open_run, require_free
from harden.training.state import Row
from harden.training.supply import RollOuts, Stored, Supply
from harden.training.trainer import require_tensorboard
from harden.training.workspace import Workspace


class Trained(NamedTuple):
    """What a training run did.

    Args:
        refreshes: refreshes finished, of this run and of those it resumed.
        history: one row a refresh: steps, reward, cost, cumulative cost, multipliers, KLs, seconds.
        policy: the folder of the policy that is published.
        warnings: what has to be known of it, one sentence each.
    """

    refreshes: int
    history: list[Row]
    policy: Path
    warnings: list[str]


@dataclass(frozen=True, kw_only=True)
class TrainInputs(Inputs):
    """What a training run begins with, or goes on with.

    Args:
        config, workspace, device: the pipeline, its folders, and where it is computed.
        start: the policy to start from.
        resume: go on from the last refresh stored.
        overwrite: discard an earlier run of this pipeline and its data set.
        tensorboard: log to TensorBoard beside CSV.
        dataset: the stored data that an offline run learns from.
    """

    config: PipelineConfig
    workspace: Workspace
    device: torch.device
    start: LoadedPolicy | None
    resume: bool
    overwrite: bool
    tensorboard: bool
    dataset: Dataset | None


def open_train(
    config: PipelineConfig,
    workspace: Workspace,
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
        config, workspace, device: the pipeline, its folders, and where it is computed.
        init: a policy folder to start from; critics are fitted to fresh benign data first, going on from its
            own where they have the pipeline's architecture.
        resume: go on from the last refresh stored; the end is the same as without the interruption.
        overwrite: discard an earlier run of this pipeline and its data set.
        tensorboard: log to TensorBoard beside CSV.
        data: with `train.offline`, the stored data to learn from, the workspace's where not given; they are
            read, never written.
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
    if config.train.keep is not None and init is None and not resume:
        raise InputError(
            f"train.keep = {config.train.keep:g} is a share of the reward of a given policy",
            "name that policy with --init, or leave train.keep out",
        )
    if tensorboard:
        require_tensorboard()
    dataset = None
    if offline:
        require_em(config)
        dataset = open_own(config, data or workspace.data)
        require_ranges(config, dataset.recent(config.imitation.rows), dataset.path)
    else:
        if data is not None:
            raise InputError("--data is for --offline", "training that collects learns from its own data set")
        require_environment(config.task_row)
        require_permission(config.behaviour, allow_attacked_collection)
        # what it refuses, it refuses before anything is begun
        SeededEnv(config.task_row).close()
    start = None if init is None else load_policy(init)
    recover_replaced(workspace.run, (workspace.run, workspace.data))
    if resume:
        run = load_run(config, workspace, device)
        if dataset is not None:
            _require_own_data(run, dataset)
    else:
        new_learner(config, device, start)
        if not overwrite:
            require_free(workspace, collects=not offline)
        require_writable(workspace.state)
    return TrainInputs(
        config=config,
        workspace=workspace,
        device=device,
        start=start,
        resume=resume,
        overwrite=overwrite,
        tensorboard=tensorboard,
        dataset=dataset,
        reads=(
            *(() if dataset is None else (dataset.path,)),
            *optional(workspace.state if resume else None, init),
        ),
        writes=(workspace.run,) if offline else (workspace.data, workspace.run),
    )


def train(inputs: TrainInputs, report: Reporter) -> Trained:
    """Train a policy.

    With stored data it learns from them alone. The behaviour in the data is cloned first. Without a policy of
    its own the run starts from that clone; and the E-step draws its particles from it, so that what is
    learned is among what the data show.

    Raises:
        StorageError: the run can't be written.
        DivergedError: a loss became NaN or infinite; the last refresh stands.

    Source: Algorithm 2; Algorithms 4 and 5 for the on-policy variants.
    """
    config, workspace, dataset = inputs.config, inputs.workspace, inputs.dataset
    if not inputs.resume:
        if dataset is None:
            _begin(inputs)
        else:
            _begin_offline(inputs, dataset, report)
    run = open_run(config, workspace, inputs.device, report)
    with _supply(run, dataset, report) as supply:
        loop.train(run, supply, tensorboard=inputs.tensorboard, report=report)
        warnings = finish_run(run, supply, report)
    if dataset is not None:
        write_json(workspace.estimates, offline_account(run, dataset))
    return Trained(len(run.history), run.history, workspace.policy, warnings)


def _begin(inputs: TrainInputs) -> None:
    config, start = inputs.config, inputs.start
    learner, started_from = new_learner(config, inputs.device, start), None
    if start is not None:
        with VectorEnv(config.task_row, config.collect.envs, config.collect.workers) as envs:
            started_from = try_policy(config, learner.policy, envs)
    with new_run(inputs.workspace, collects=True, overwrite=inputs.overwrite) as fresh:
        begin_run(config, fresh, learner, start, start=started_from)


def _begin_offline(inputs: TrainInputs, dataset: Dataset, report: Reporter) -> None:
    config, device = inputs.config, inputs.device
    for unknown in unknown_from_logs(config, dataset):
        report.say(f"warning: not in these logs: {unknown}")
    learner = new_learner(config, device, inputs.start)
    rows = dataset.recent(config.imitation.rows)
    with new_run(inputs.workspace, collects=False, overwrite=inputs.overwrite) as fresh:
        behaviour, _, scores = fit_clone(
            config, rows, config.imitation, device=device, logs=fresh.run, report=report
        )
        policy = behaviour if inputs.start is None else learner.policy
        learner = Learner(policy, learner.critics, config, device, behaviour=behaviour)
        of_data = {"data": dataset.info.digest, "transitions": len(dataset), "behaviour": scores}
        begin_run(config, fresh, learner, inputs.start, offline=of_data)


@contextlib.contextmanager
def _supply(run: Run, dataset: Dataset | None, report: Reporter) -> Iterator[Supply]:
    """Open where the run's data come from: the stored data set, or the simulation where there is none.

    Raises:
        InputError: the run was begun with other data, or its own are not of the variant's kind.
    """
    config, workspace = run.config, run.workspace
    if dataset is not None:
        _require_own_data(run, dataset)
        yield Stored(config, run.learner, dataset)
        return
    if config.most_steps != config.train.env_steps:
        asked = f"train.env_steps {config.train.env_steps:,}"
        report.say(f"refreshes are whole: up to {config.most_steps:,} steps of simulation ({asked})")
    slots = min(config.collect.envs, config.train.episodes)
    with (
        DatasetWriter(workspace.data, config.task_row) as writer,
        VectorEnv(config.task_row, slots, config.collect.workers) as envs,
    ):
        require_own_kind(config, writer.info, workspace.data)
        yield RollOuts(config, run.learner, writer, envs, report)


def _require_own_data(run: Run, dataset: Dataset) -> None:
    """Refuse other data than those that an offline run was begun with.

    Raises:
        InputError: other data.
    """
    if (run.record.offline or {}).get("data") != dataset.info.digest:
        raise InputError(
            f"the run in {run.workspace.run} was begun with other data than {dataset.path}",
            "name its own with --data",
        )
