"""fit-critics: Q_r and Q_c by TD on the stored transitions, as a Lightning job."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import torch

from harden.config.pipeline import PipelineConfig
from harden.data import Dataset
from harden.method.learner import Learner
from harden.method.schedules import scheduled
from harden.nets.saved import module_digest
from harden.progress import Reporter
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


class Opened(NamedTuple):
    """What a fit of the critics begins with, once all of it was found in order.

    Args:
        dataset: what is learned from; rows: as much of it as the replay holds.
        learner: is changed in place.
        carried: what the policy's folder and the state hand on.
    """

    dataset: Dataset
    rows: Transitions
    learner: Learner
    carried: dict[str, Any]


def open_inputs(
    config: PipelineConfig,
    place: Workspace,
    device: torch.device,
    data: Path | None = None,
    policy_dir: Path | None = None,
    out: Path | None = None,
    refresh: int | None = None,
) -> Opened:
    """Open and check what `fit_critics` reads, and where it writes; arguments and errors are its own."""
    dataset = open_own(config, data or place.data)
    learner, about = open_learner(config, place, device, policy_dir, refresh=refresh)
    before = carried_from(about, policy_dir or place.policy)
    rows = dataset.recent(config.critics.replay)
    require_ranges(config, rows, dataset.path)
    require_writable(place.state)
    if out is not None:
        require_place(out)
    return Opened(dataset, rows, learner, before)


def fit_critics(
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
    report: Reporter,
) -> CriticsFitted:
    """Fit the critics of the workspace's policy and write critics/, policy/ and the state.

    Args:
        steps: gradient steps, the pipeline's where not given.
        data: a data set, the workspace's where not given.
        policy_dir: the policy to fit for; where the workspace has no state yet, the run begins with it.
        out: a new folder for a copy of the critics.
        refresh: the refresh of `train` whose place in the schedules is meant; without one, their end.

    Raises:
        MissingInputError: no data; InputError: data of another task, actions outside its bounds, or not the
            variant's kind, or something at `out`; StorageError: the run can't be written.
    """
    steps = steps or config.critics.steps
    dataset, rows, learner, before = open_inputs(config, place, device, data, policy_dir, out, refresh)
    replay = look_ahead(rows, config, device)
    epsilon = scheduled(config, refresh).epsilon
    losses: list[torch.Tensor] = []
    with report.track("fit-critics", steps, "steps") as track:

        def on_step(loss: torch.Tensor) -> None:
            losses.append(loss)
            if len(losses) % 50 == 0:
                track(len(losses), f"loss {float(loss):.4g}")

        job = CriticsFit(learner, config, epsilon, on_step)
        batches = ReplayBatches(replay, steps, learner, config, epsilon)
        first_step = learner.counters.critic_steps
        trainer = make_trainer(place.run, device, "critics", first_step, tensorboard=tensorboard)
        fit(trainer, job, batches)
    loss = float(torch.stack(losses[-max(1, steps // 10) :]).mean())
    check_finite(learner, loss)
    digests = {"data_digest": dataset.info.digest, "parent": module_digest(learner.policy)}
    commit(config, place, learner, before | digests)
    if out is not None:
        copy_folder(place.critics, out)
    return CriticsFitted(steps, loss, epsilon)
