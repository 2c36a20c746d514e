"""fit-critics: Q_r and Q_c by TD on the stored transitions."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch

from harden.config.pipeline import PipelineConfig, key_value
from harden.errors import InputError
from harden.method import critic_step
from harden.method.imagination import first_observations, imagine_attacks, is_due, learn_world
from harden.method.schedules import scheduled
from harden.nets.saved import module_digest
from harden.policies.reading import Reading
from harden.progress import QUIET, Reporter
from harden.stages.policy_files import Source
from harden.stages.ready import Ready, learner_paths
from harden.storage.files import require_writable
from harden.storage.folders import copy_folder, require_place
from harden.training.checks import mean_episode, open_own, require_ranges
from harden.training.imitation import CPU
from harden.training.logged import read_logs
from harden.training.loop import check_finite
from harden.training.run import Run, open_for_stage
from harden.training.workspace import Workspace


class CriticsFitted(NamedTuple):
    """Gradient steps, the mean squared Bellman error over the last tenth of them, an episode's cost."""

    steps: int
    loss: float
    cost: float


def fit_critics(
    config: PipelineConfig,
    workspace: Workspace,
    *,
    steps: int | None = None,
    data: Path | None = None,
    policy_dir: Path | None = None,
    reading: Reading = Reading(),  # noqa: B008
    out: Path | None = None,
    refresh: int | None = None,
    device: torch.device = CPU,
    report: Reporter = QUIET,
) -> Ready[CriticsFitted]:
    """Fit the critics of the workspace's policy and write critics/, policy/ and the state.

    Args:
        steps: gradient steps, the pipeline's where not given.
        data: a data set, the workspace's where not given; what its steps cost is the task's rule, if any.
        policy_dir: the policy to fit for; where the workspace has no state yet, the run begins with it.
            Somebody else's whose weights can't be taken over is distilled on the data's observations first.
        reading: of a policy file.
        out: a new folder for a copy of the critics.

    Raises:
        MissingInputError: no data; InputError: data of another task, actions outside its bounds, or not the
            variant's kind, or something at `out`; StorageError: the run can't be written; DivergedError: the
            loss is not finite.
    """
    count = key_value(config, "critics.steps", steps)
    dataset = open_own(config, data or workspace.data)
    source = None
    if policy_dir is not None:
        source = Source(config, policy_dir, reading, data=dataset, device=device, report=report)
    if source is not None and source.ready is None and workspace.state.is_file():
        raise InputError(
            f"the policy in {policy_dir} and the run's state in {workspace.state} do not belong together",
            "leave it out to go on with the run's own, or begin under another pipeline's name, with -p",
        )

    def begin() -> Run:
        given = None if source is None else source.take()
        if source is not None and source.imported is not None:
            report.say(f"{policy_dir}: {source.imported}")
        return open_for_stage(config, workspace, device, policy_dir, given=given, refresh=refresh)

    opened = begin() if source is None or source.ready else None
    # without a simulation all data are logs
    logs = data not in (None, workspace.data) or not config.task_row.env_id
    count_rows = config.critics.replay
    rows = read_logs(config, dataset, count_rows) if logs else dataset.recent(count_rows)
    require_ranges(config, rows, dataset.path)
    require_writable(workspace.state)
    if out is not None:
        require_place(out)

    def work() -> CriticsFitted:
        run = opened or begin()
        # in the place of a refresh of `train` this was done at the refresh's first fit
        new_data = refresh is None or run.record.data_digest != dataset.info.digest
        learner, epsilon = run.learner, scheduled(config, refresh).epsilon
        replay = critic_step.make_replay(rows, config, device)
        if new_data:
            critic_step.measure(learner, rows, config)
        if config.variant_row.imagined:
            if new_data:
                learn_world(learner, rows, config)
            if new_data or is_due(learner, config):
                imagine_attacks(learner, first_observations(rows), rows.obs, config, epsilon)
        with report.track("fit-critics", count, "steps") as track:
            losses = critic_step.fit_critics(learner, replay, config, epsilon, count, track)
        loss = float(losses[-max(1, count // 10) :].mean())
        check_finite(learner, loss)
        run.commit(data_digest=dataset.info.digest, parent=module_digest(learner.policy))
        if out is not None:
            copy_folder(workspace.critics, out)
        return CriticsFitted(count, loss, mean_episode(rows)["cost"])

    reads = dataset.path, *learner_paths(workspace, policy_dir)
    return Ready(work, reads, [*learner_paths(workspace), out])
