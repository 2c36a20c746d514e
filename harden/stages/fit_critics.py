"""fit-critics: Q_r and Q_c by TD on the stored transitions."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch

from harden.config.pipeline import PipelineConfig, key_value
from harden.data import Dataset
from harden.method.critic_step import fit_critics as fit
from harden.method.critic_step import make_replay, measure
from harden.method.imagination import imagine_attacks
from harden.method.schedules import scheduled
from harden.nets.saved import module_digest
from harden.progress import Reporter
from harden.stages.inputs import Inputs, learner_paths, optional, stored_learner
from harden.storage.files import require_writable
from harden.storage.folders import copy_folder, require_place
from harden.training.checks import open_own, require_ranges
from harden.training.loop import check_finite
from harden.training.run import Run, open_for_stage
from harden.training.workspace import Workspace
from harden.types import Transitions


class CriticsFitted(NamedTuple):
    """What a fit of the critics did.

    Args:
        steps: gradient steps.
        loss: mean squared Bellman error over the last tenth of them.
        epsilon: radius of the adversary, 0 for a variant that has none.
    """

    steps: int
    loss: float
    epsilon: float


@dataclass(frozen=True, kw_only=True)
class CriticsInputs(Inputs):
    """What a fit of the critics begins with.

    Args:
        run: its learner is changed in place.
        dataset: what is learned from; rows: as much of it as the replay holds.
        steps: gradient steps.
        epsilon: radius of the adversary, 0 for a variant that has none.
        new_data: whether the unit of rewards is measured, and attacks are imagined, on these data; in the
            place of a refresh of `train` that was done at the refresh's first fit.
        out: a new folder for a copy of the critics.
    """

    run: Run
    dataset: Dataset
    rows: Transitions
    steps: int
    epsilon: float
    new_data: bool
    out: Path | None


def open_fit_critics(
    config: PipelineConfig,
    workspace: Workspace,
    *,
    device: torch.device,
    steps: int | None = None,
    data: Path | None = None,
    policy_dir: Path | None = None,
    out: Path | None = None,
    refresh: int | None = None,
) -> CriticsInputs:
    """Open and check what a fit of the critics needs.

    Args:
        config, workspace, device: the pipeline, its folders, and where it is computed.
        steps: gradient steps, the pipeline's where not given.
        data: a data set, the workspace's where not given.
        policy_dir: the policy to fit for; where the workspace has no state yet, the run begins with it.
        out: a new folder for a copy of the critics.
        refresh: the refresh of `train` whose place in the schedules is meant; without one, their end.

    Raises:
        MissingInputError: no data; InputError: data of another task, actions outside its bounds, or not the
            variant's kind, or something at `out`; StorageError: the run can't be written.
    """
    steps = key_value(config, "critics.steps", steps)
    dataset = open_own(config, data or workspace.data)
    run = open_for_stage(config, workspace, device, policy_dir, refresh=refresh)
    rows = dataset.recent(config.critics.replay)
    require_ranges(config, rows, dataset.path)
    require_writable(workspace.state)
    if out is not None:
        require_place(out)
    return CriticsInputs(
        run=run,
        dataset=dataset,
        rows=rows,
        steps=steps,
        epsilon=scheduled(config, refresh).epsilon,
        new_data=refresh is None or run.record.data_digest != dataset.info.digest,
        out=out,
        reads=(dataset.path, *stored_learner(workspace, policy_dir)),
        writes=(*learner_paths(workspace), *optional(out)),
    )


def fit_critics(inputs: CriticsInputs, report: Reporter) -> CriticsFitted:
    """Fit the critics of the workspace's policy and write critics/, policy/ and the state.

    Raises:
        StorageError: the run can't be written; DivergedError: the loss is not finite.
    """
    run, config, learner = inputs.run, inputs.run.config, inputs.run.learner
    replay = make_replay(inputs.rows, config, learner.device)
    if inputs.new_data:
        measure(learner, inputs.rows, config)
    if inputs.new_data and config.variant_row.imagined:
        imagine_attacks(learner, inputs.rows, config, inputs.epsilon)
    with report.track("fit-critics", inputs.steps, "steps") as track:
        losses = fit(learner, replay, config, inputs.epsilon, inputs.steps, track)
    loss = float(losses[-max(1, inputs.steps // 10) :].mean())
    check_finite(learner, loss)
    run.commit(data_digest=inputs.dataset.info.digest, parent=module_digest(learner.policy))
    if inputs.out is not None:
        copy_folder(run.workspace.critics, inputs.out)
    return CriticsFitted(inputs.steps, loss, inputs.epsilon)
