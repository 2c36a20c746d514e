"""train: Algorithm 2, the composition of the stages, refreshed online and resumable at each refresh."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch

from harden.config.pipeline import PipelineConfig
from harden.data.dataset import Dataset, DatasetWriter
from harden.envs.vector import VectorEnv
from harden.errors import InputError
from harden.evaluation.card import write_card
from harden.method.learner import Learner, new_learner
from harden.policies.reading import Reading
from harden.progress import QUIET, Reporter
from harden.stages.policy_files import Source
from harden.stages.ready import Ready
from harden.storage.files import require_writable
from harden.storage.folders import recover_replaced, whereabouts
from harden.training import loop
from harden.training.checks import (
    open_own,
    require_calibrated,
    require_imagined,
    require_own_kind,
    require_permission,
    require_ranges,
    unknown_from_logs,
)
from harden.training.ending import finish_run
from harden.training.imitation import CPU, fit_clone
from harden.training.keeping import try_policy
from harden.training.logged import LoggedWorld, fit_world, read_logs
from harden.training.record import Row
from harden.training.run import Run, begin_run, load_run, mend_run, new_run, require_free
from harden.training.supply import ImaginedRollOuts, RollOuts
from harden.training.trainer import require_tensorboard
from harden.training.workspace import Workspace
from harden.types import Transitions


class Trained(NamedTuple):
    """What a training run did.

    Args:
        history: one row a refresh: steps, reward, cost, cumulative cost, multipliers, KLs, seconds.
        policy: the folder of the policy that is published.
        warnings: what has to be known of it, one sentence each.
    """

    history: list[Row]
    policy: Path
    warnings: list[str]


def train(
    config: PipelineConfig,
    workspace: Workspace,
    *,
    init: Path | None = None,
    reading: Reading = Reading(),  # noqa: B008
    resume: bool = False,
    overwrite: bool = False,
    tensorboard: bool = False,
    data: Path | None = None,
    allow_attacked_collection: bool = False,
    device: torch.device = CPU,
    report: Reporter = QUIET,
) -> Ready[Trained]:
    """Train a policy: from scratch, from a given one, from stored data, or from where a run stopped.

    Args:
        init: the policy to start from, a folder or somebody else's, which is distilled first where its
            weights can't be taken over; critics are fitted to fresh benign data first, going on from its own
            where they have the pipeline's architecture.
        reading: what a policy file does not say of itself.
        resume: go on from the last refresh stored; the end is the same as without the interruption.
        overwrite: discard an earlier run of this pipeline and its data set.
        tensorboard: log to TensorBoard beside CSV.
        data: with `train.offline`, the stored data to learn from, the workspace's where not given; they are
            read, never written.
        allow_attacked_collection: let a variant that wants it collect under attack.

    Raises:
        InputError: options that contradict each other or do not apply to the variant; a run is there already,
            or one to resume was made with another configuration; the variant collects under attack and that
            was not allowed; the environment or the data are not what the task says; or nothing was simulated,
            and in the world model the policy is above the limit.
        MissingInputError: nothing to resume, no data, or no policy in `init`.
        StorageError: the run can't be written.
        DivergedError: a loss became NaN or infinite; the last refresh stands.

    Source: Algorithm 2; Algorithms 4 and 5 for the on-policy variants.
    """
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
    if config.train.offline:
        require_imagined(config)
        dataset = open_own(config, data or workspace.data)
    else:
        if data is not None:
            raise InputError("--data is for --offline", "training that collects learns from its own data set")
        require_permission(config.behaviour, allow_attacked_collection)
        # what it refuses, it refuses before anything is begun
        VectorEnv(config.task_row, 1, config.collect.workers).close()
    stored, folders = None, (workspace.run, workspace.data)
    # what a killed process left of the folders is put back when the work begins, and not by a dry run
    run_now, data_now = whereabouts(workspace.run, folders)
    now = workspace._replace(run=run_now, data=data_now)
    begin: Callable[[], None]
    if resume:
        stored = load_run(config, now, device)
        if dataset is not None:
            _require_own_data(stored, dataset)
        begin = partial(recover_replaced, workspace.run, folders)
    else:
        source = None
        if init is not None:
            options: dict[str, Any] = {"simulate": dataset is None, "device": device, "report": report}
            source = Source(config, init, reading, data=dataset, **options)
        # what can't be learned from is refused before any work
        new_learner(config, device, None if source is None else source.ready)
        if not overwrite:
            require_free(now, collects=dataset is None)
        require_writable(workspace.state)
        logs = None
        if dataset is not None:
            logs = dataset, read_logs(config, dataset)
            require_ranges(config, logs[1], dataset.path)
        begin = partial(_begin, config, workspace, source, overwrite, logs, device, report)

    def work() -> Trained:
        begin()
        run = stored or load_run(config, workspace, device)
        run.workspace = workspace
        mend_run(run, report)
        with _supply(run, dataset, report) as supply:
            loop.train(run, supply, tensorboard=tensorboard, report=report)
            warnings = finish_run(run, supply, report)
        if refused := (run.record.ending or {}).get("refused"):
            raise InputError(
                f"no policy is published: {refused}",
                "log more, nearer to the limit or with more varied actions, or train longer "
                "(offline.refreshes)",
            )
        write_card(workspace.run)
        return Trained(run.history, workspace.policy, warnings)

    collects = dataset is None
    reads = [None if dataset is None else dataset.path, workspace.state if resume else None, init]
    return Ready(work, reads, [workspace.data if collects else None, workspace.run])


def _begin(
    config: PipelineConfig,
    workspace: Workspace,
    source: Source | None,
    overwrite: bool,
    logs: tuple[Dataset, Transitions] | None,
    device: torch.device,
    report: Reporter,
) -> None:
    """Store the state that a run begins with.

    To stored data a world model is fitted first, and without a policy of its own the run starts from a clone
    of their behaviour.

    Args:
        source: the policy that the learner starts from.
        logs: stored data that are all that is learned from, and as much of them as is read.
    """
    more: dict[str, Any] = {}
    start = None if source is None else source.take()
    learner = new_learner(config, device, start)
    imported = None if source is None else source.imported
    if imported is not None and source is not None:
        report.say(f"{source.named}: {imported}")
    if imported is not None and imported.original is not None:
        # a copy is measured by its original
        more["start"] = imported.original
    elif logs is None and start is not None:
        with VectorEnv(config.task_row, config.collect.envs, config.collect.workers) as envs:
            more["start"] = try_policy(config, learner.policy, envs)
    for unknown in unknown_from_logs(config, logs[1]) if logs else ():
        report.say(f"warning: not in these logs: {unknown}")
    with new_run(workspace, collects=logs is None, overwrite=overwrite) as fresh:
        if logs is not None:
            dataset, rows = logs
            offline: dict[str, Any] = {"data": dataset.info.digest, "transitions": len(dataset)}
            logged, policy = fit_world(config, rows, report), learner.policy
            if start is None:
                policy, _, offline["behaviour"] = fit_clone(
                    config, rows, config.imitation, device=learner.device, logs=fresh.run, report=report
                )
            learner = Learner(policy, learner.critics, config, learner.device, world=logged.world)
            more["start"] = try_policy(config, learner.policy, logged.envs(config, config.collect.envs))
            if start is None:
                require_calibrated(config, dataset, more["start"])
            more["offline"] = offline | {"world": logged.found}
        begin_run(config, fresh, learner, start, **more)


@contextlib.contextmanager
def _supply(run: Run, dataset: Dataset | None, report: Reporter) -> Iterator[RollOuts]:
    """Open where the run's data come from: the simulation, or a world model of stored data.

    Raises:
        InputError: the run was begun with other data, or its own are not of the variant's kind.
    """
    config, workspace = run.config, run.workspace
    if dataset is not None:
        _require_own_data(run, dataset)
        assert run.learner.world is not None
        rows = read_logs(config, dataset)
        logged = LoggedWorld(run.learner.world, rows, (run.record.offline or {})["world"])
        with DatasetWriter(workspace.imagined, config.task_row) as writer:
            yield ImaginedRollOuts(config, run.learner, writer, logged, report)
        return
    if config.most_steps != config.train.env_steps:
        setting = f"train.env_steps {config.train.env_steps:,}"
        report.say(f"refreshes are whole: up to {config.most_steps:,} steps of simulation ({setting})")
    slots = min(config.collect.envs, config.train.episodes)
    with (
        DatasetWriter(workspace.data, config.task_row) as writer,
        VectorEnv(config.task_row, slots, config.collect.workers) as envs,
    ):
        require_own_kind(config, writer.info, workspace.data)
        yield RollOuts(config, run.learner, writer, envs, report)


def _require_own_data(run: Run, dataset: Dataset) -> None:
    """Refuse other data than those that an offline run was begun with; InputError: other data."""
    if (run.record.offline or {}).get("data") != dataset.info.digest:
        raise InputError(
            f"the run in {run.workspace.run} was begun with other data than {dataset.path}",
            "name its own with --data",
        )
