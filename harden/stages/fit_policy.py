"""fit-policy: the robust M-step on stored targets, as a Lightning job."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import torch

from harden.config.pipeline import PipelineConfig
from harden.data import TargetsHeader, read_targets
from harden.errors import InputError, MissingInputError
from harden.method.learner import Learner
from harden.method.m_step import MStepLoss
from harden.method.robust_m_step import RobustMStep, TargetBatches
from harden.method.schedules import scheduled
from harden.nets.saved import module_digest
from harden.progress import Reporter
from harden.storage.files import digest_file, require_writable
from harden.storage.folders import copy_folder, require_place
from harden.training.permissions import require_em
from harden.training.replay import check_finite
from harden.training.trainer import fit, make_trainer
from harden.training.workspace import Workspace, carried_from, commit, open_learner
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


def _require_folders(place: Workspace, *folders: Path) -> None:
    for folder in folders:
        if not folder.is_dir():
            raise MissingInputError(
                f"{folder} is missing", f"make it with: harden fit-critics -p {place.name}"
            )


def _check_belonging(header: TargetsHeader, learner: Learner, targets_path: Path, about: dict | None) -> None:
    continued = about is not None and about.get("targets_digest") == digest_file(targets_path)
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


class Opened(NamedTuple):
    """What a fit of the policy begins with, once all of it was found in order.

    Args:
        path: the targets' file; targets, header: what it holds.
        learner: is changed in place.
        carried: what the policy's folder and the state hand on.
    """

    path: Path
    targets: Targets
    header: TargetsHeader
    learner: Learner
    carried: dict[str, Any]


def open_inputs(
    config: PipelineConfig,
    place: Workspace,
    device: torch.device,
    targets_path: Path | None = None,
    policy_dir: Path | None = None,
    critics_dir: Path | None = None,
    out: Path | None = None,
    refresh: int | None = None,
) -> Opened:
    """Open and check what `fit_policy` reads, and where it writes; arguments and errors are its own."""
    require_em(config)
    path = targets_path or place.targets
    _require_folders(place, critics_dir or place.critics, policy_dir or place.policy)
    targets, header = read_targets(path)
    learner, about = open_learner(config, place, device, policy_dir, critics_dir, refresh=refresh)
    _check_belonging(header, learner, path, about)
    before = carried_from(about, policy_dir or place.policy)
    require_writable(place.state)
    if out is not None:
        require_place(out)
    return Opened(path, targets, header, learner, before)


def fit_policy(
    config: PipelineConfig,
    place: Workspace,
    *,
    device: torch.device,
    steps: int | None = None,
    targets_path: Path | None = None,
    policy_dir: Path | None = None,
    critics_dir: Path | None = None,
    tensorboard: bool = False,
    out: Path | None = None,
    refresh: int | None = None,
    report: Reporter,
) -> PolicyFitted:
    """Fit the policy to the targets and write policy/ and the state.

    The same targets may be fitted again: the old policy that they bound the KL to is stored with them.

    Args:
        steps: gradient steps, the pipeline's where not given.
        targets_path, policy_dir, critics_dir: inputs, the workspace's where not given.
        out: a new folder for a copy of the policy.
        refresh: the refresh of `train` whose place in the schedules is meant, and whose policy enters the
            running average; without one, their end, and the policy fitted is the one published.

    Raises:
        MissingInputError: no targets, critics or policy yet.
        InputError: they do not belong together, or the variant is on-policy, or something is at `out`.
        StorageError: the run can't be written.
    """
    steps = steps or config.mstep.steps
    path, targets, header, learner, before = open_inputs(
        config, place, device, targets_path, policy_dir, critics_dir, out, refresh
    )
    terms = scheduled(config, refresh)
    parent = module_digest(learner.policy)
    with report.track("fit-policy", steps, "steps") as track:
        done = 0

        def on_step(result: MStepLoss) -> None:
            nonlocal done
            done += 1
            if done % 50 == 0:
                track(done, f"likelihood {float(result.likelihood):.3f}, KL {float(result.kl[0]):.4f}")

        job = RobustMStep(learner, config, on_step)
        on_device = Targets(*(column.to(device) for column in targets))
        batches = TargetBatches(on_device, steps, config.train.states, terms, learner)
        step = learner.counters.policy_steps
        trainer = make_trainer(place.run, device, "policy", step, tensorboard=tensorboard)
        fit(trainer, job, batches)
    result = job.result
    loss = float(result.loss.detach())
    check_finite(learner, loss)
    learner.finish_round(publish=refresh is None)
    digests = {"data_digest": header.data_digest, "parent": parent, "targets_digest": digest_file(path)}
    commit(config, place, learner, before | digests)
    if out is not None:
        copy_folder(place.policy, out)
    kl, robust = ((float(mean), float(std)) for mean, std in (result.kl, result.kl_robust))
    return PolicyFitted(steps, loss, kl, robust, terms.epsilon if config.variant_row.robust else 0.0)
