"""fit-policy: the robust M-step on stored targets, as a Lightning job."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch

from harden.config.pipeline import PipelineConfig, key_value
from harden.data import TargetsHeader, read_targets
from harden.errors import InputError, MissingInputError
from harden.method.m_step import RobustMStep, TargetBatches
from harden.method.schedules import Scheduled, scheduled
from harden.nets.saved import module_digest
from harden.progress import Reporter
from harden.stages.inputs import Inputs, learner_paths, optional, stored_learner
from harden.storage.files import digest_file, require_writable
from harden.storage.folders import copy_folder, require_place
from harden.training.checks import require_em
from harden.training.loop import check_finite
from harden.training.run import Run, open_for_stage
from harden.training.trainer import fit, make_trainer, require_tensorboard
from harden.training.workspace import Workspace
from harden.types import Targets


class PolicyFitted(NamedTuple):
    """What a fit of the policy did.

    Args:
        steps: gradient steps.
        loss: the Lagrangian's negative at the last of them.
        kl, kl_robust: the mean part and the spread part at the last step, nats.
        epsilon: radius of the adversary.
    """

    steps: int
    loss: float
    kl: tuple[float, float]
    kl_robust: tuple[float, float]
    epsilon: float


def _require_folders(workspace: Workspace, *folders: Path) -> None:
    for folder in folders:
        if not folder.is_dir():
            raise MissingInputError(
                f"{folder} is missing", f"make it with: harden fit-critics -p {workspace.name}"
            )


def _check_belonging(header: TargetsHeader, run: Run, targets_path: Path) -> None:
    learner = run.learner
    continued = run.record.targets_digest == digest_file(targets_path)
    if header.policy_digest != module_digest(learner.policy) and not continued:
        raise InputError(
            f"{targets_path} was made for another policy than the one here",
            "make new targets with: harden e-step",
        )
    if header.critics_digest != module_digest(learner.critics) and not continued:
        raise InputError(
            f"{targets_path} was made with other critics than the ones here",
            "make new targets with: harden e-step",
        )


@dataclass(frozen=True, kw_only=True)
class FitPolicyInputs(Inputs):
    """What a fit of the policy begins with.

    Args:
        run: its learner is changed in place.
        path: the targets' file; targets, header: what it holds.
        steps: gradient steps.
        terms: the place in the schedules.
        publish: whether the policy fitted is the one published; else it enters the running average.
        tensorboard: log to TensorBoard beside CSV.
        out: a new folder for a copy of the policy.
    """

    run: Run
    path: Path
    targets: Targets
    header: TargetsHeader
    steps: int
    terms: Scheduled
    publish: bool
    tensorboard: bool
    out: Path | None


def open_fit_policy(
    config: PipelineConfig,
    workspace: Workspace,
    *,
    device: torch.device,
    steps: int | None = None,
    targets_path: Path | None = None,
    policy_dir: Path | None = None,
    critics_dir: Path | None = None,
    tensorboard: bool = False,
    out: Path | None = None,
    refresh: int | None = None,
) -> FitPolicyInputs:
    """Open and check what a fit of the policy needs.

    The same targets may be fitted again: the old policy that they bound the KL to is stored with them.

    Args:
        config, workspace, device: the pipeline, its folders, and where it is computed.
        steps: gradient steps, the pipeline's where not given.
        targets_path, policy_dir, critics_dir: inputs, the workspace's where not given.
        tensorboard: log to TensorBoard beside CSV.
        out: a new folder for a copy of the policy.
        refresh: the refresh of `train` whose place in the schedules is meant, and whose policy enters the
            running average; without one, their end, and the policy fitted is the one published.

    Raises:
        MissingInputError: no targets, critics or policy yet.
        InputError: they do not belong together, or the variant is on-policy, or something is at `out`.
        StorageError: the run can't be written.
    """
    steps = key_value(config, "mstep.steps", steps)
    if tensorboard:
        require_tensorboard()
    require_em(config)
    path = targets_path or workspace.targets
    _require_folders(workspace, critics_dir or workspace.critics, policy_dir or workspace.policy)
    targets, header = read_targets(path)
    run = open_for_stage(config, workspace, device, policy_dir, critics_dir, refresh=refresh)
    _check_belonging(header, run, path)
    require_writable(workspace.state)
    if out is not None:
        require_place(out)
    return FitPolicyInputs(
        run=run,
        path=path,
        targets=targets,
        header=header,
        steps=steps,
        terms=scheduled(config, refresh),
        publish=refresh is None,
        tensorboard=tensorboard,
        out=out,
        reads=(path, *stored_learner(workspace, policy_dir, critics_dir)),
        writes=(*learner_paths(workspace), *optional(out)),
    )


def fit_policy(inputs: FitPolicyInputs, report: Reporter) -> PolicyFitted:
    """Fit the policy to the targets and write policy/ and the state.

    Raises:
        StorageError: the run can't be written; DivergedError: the loss is not finite.
    """
    run, config, learner, steps = inputs.run, inputs.run.config, inputs.run.learner, inputs.steps
    parent, first_step = module_digest(learner.policy), learner.counters.policy_steps
    module = RobustMStep(learner, config, inputs.terms)
    targets = Targets(*(column.to(learner.device) for column in inputs.targets))
    batches = TargetBatches(targets, steps, config.train.states, learner)
    with report.track("fit-policy", steps, "steps") as track:
        trainer = make_trainer(
            run.workspace.run,
            learner.device,
            "policy",
            first_step,
            tensorboard=inputs.tensorboard,
            track=track,
        )
        fit(trainer, module, batches)
    result = module.result
    loss = float(result.loss.detach())
    check_finite(learner, loss)
    learner.finish_round(publish=inputs.publish)
    digest = digest_file(inputs.path)
    run.commit(data_digest=inputs.header.data_digest, parent=parent, targets_digest=digest)
    if inputs.out is not None:
        copy_folder(run.workspace.policy, inputs.out)
    kl, robust = ((float(mean), float(std)) for mean, std in (result.kl, result.kl_robust))
    return PolicyFitted(steps, loss, kl, robust, inputs.terms.epsilon if config.variant_row.robust else 0.0)
