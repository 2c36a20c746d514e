"""fit-critics: Q_r and Q_c by TD on the stored transitions, as a Lightning job."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch

from harden.config.pipeline import PipelineConfig, key_value
from harden.data import Dataset
from harden.method.learner import Learner
from harden.method.schedules import scheduled
from harden.nets.saved import module_digest
from harden.progress import Reporter
from harden.stages.inputs import Inputs, learner_paths, optional, stored_learner
from harden.storage.files import require_writable
from harden.storage.folders import copy_folder, require_place
from harden.training.critics_fit import CriticsFit, ReplayBatches
from harden.training.permissions import open_own
from harden.training.ranges import require_ranges
from harden.training.replay import check_finite, look_ahead
from harden.training.trainer import fit, make_trainer
from harden.training.workspace import Workspace, carried_from, commit, open_learner
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
        config, place, device: the pipeline, its folders, and where it is computed.
        dataset: what is learned from; rows: as much of it as the replay holds.
        learner: is changed in place.
        carried: what the policy's folder and the state hand on.
        steps: gradient steps.
        epsilon: radius of the adversary, 0 for a variant that has none.
        tensorboard: log to TensorBoard beside CSV.
        out: a new folder for a copy of the critics.
    """

    config: PipelineConfig
    place: Workspace
    device: torch.device
    dataset: Dataset
    rows: Transitions
    learner: Learner
    carried: dict[str, Any]
    steps: int
    epsilon: float
    tensorboard: bool
    out: Path | None


def open_fit_critics(
    config: PipelineConfig,
    place: Workspace,
    *,
    device: torch.device,
    steps: int | None = None,
    data: Path | None = None,
    policy_dir: Path | None = None,
    tensorboard: bool = False,
    out: Path | None = None,
    refresh: int | None = None,
) -> CriticsInputs:
    """Open and check what a fit of the critics needs.

    Args:
        config, place, device: the pipeline, its folders, and where it is computed.
        steps: gradient steps, the pipeline's where not given.
        data: a data set, the workspace's where not given.
        policy_dir: the policy to fit for; where the workspace has no state yet, the run begins with it.
        tensorboard: log to TensorBoard beside CSV.
        out: a new folder for a copy of the critics.
        refresh: the refresh of `train` whose place in the schedules is meant; without one, their end.

    Raises:
        MissingInputError: no data; InputError: data of another task, actions outside its bounds, or not the
            variant's kind, or something at `out`; StorageError: the run can't be written.
    """
    steps = key_value(config, "critics.steps", steps)
    dataset = open_own(config, data or place.data)
    learner, about = open_learner(config, place, device, policy_dir, refresh=refresh)
    rows = dataset.recent(config.critics.replay)
    require_ranges(config, rows, dataset.path)
    require_writable(place.state)
    if out is not None:
        require_place(out)
    return CriticsInputs(
        config=config,
        place=place,
        device=device,
        dataset=dataset,
        rows=rows,
        learner=learner,
        carried=carried_from(about, policy_dir or place.policy),
        steps=steps,
        epsilon=scheduled(config, refresh).epsilon,
        tensorboard=tensorboard,
        out=out,
        reads=(dataset.path, *stored_learner(place, policy_dir)),
        writes=(*learner_paths(place), *optional(out)),
    )


def fit_critics(inputs: CriticsInputs, report: Reporter) -> CriticsFitted:
    """Fit the critics of the workspace's policy and write critics/, policy/ and the state.

    Raises:
        StorageError: the run can't be written; DivergedError: the loss is not finite.
    """
    config, place, device, learner = inputs.config, inputs.place, inputs.device, inputs.learner
    steps, epsilon = inputs.steps, inputs.epsilon
    replay = look_ahead(inputs.rows, config, device)
    losses: list[torch.Tensor] = []
    with report.track("fit-critics", steps, "steps") as track:

        def on_step(loss: torch.Tensor) -> None:
            losses.append(loss)
            if len(losses) % 50 == 0:
                track(len(losses), f"loss {float(loss):.4g}")

        job = CriticsFit(learner, config, epsilon, on_step)
        batches = ReplayBatches(replay, steps, learner, config, epsilon)
        first_step = learner.counters.critic_steps
        trainer = make_trainer(place.run, device, "critics", first_step, tensorboard=inputs.tensorboard)
        fit(trainer, job, batches)
    loss = float(torch.stack(losses[-max(1, steps // 10) :]).mean())
    check_finite(learner, loss)
    digests = {"data_digest": inputs.dataset.info.digest, "parent": module_digest(learner.policy)}
    commit(config, place, learner, inputs.carried | digests)
    if inputs.out is not None:
        copy_folder(place.critics, inputs.out)
    return CriticsFitted(steps, loss, epsilon)
