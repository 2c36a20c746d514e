"""fit-policy: the robust M-step on stored targets, as a Lightning job; or the policy behind logs, cloned."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import torch

from harden.config.pipeline import PipelineConfig, key_value
from harden.data.targets import TargetsHeader, read_targets
from harden.errors import InputError, MissingInputError
from harden.method.m_step import RobustMStep, TargetBatches
from harden.method.schedules import scheduled
from harden.nets.saved import module_digest, save_policy
from harden.policies.open import open_ours
from harden.policies.reading import Reading
from harden.progress import QUIET, Reporter
from harden.stages.ready import Ready, learner_paths
from harden.storage.files import digest_file, require_writable
from harden.storage.folders import copy_folder, require_place
from harden.training.checks import open_own, require_em, require_ranges
from harden.training.imitation import CPU, fit_clone
from harden.training.loop import check_finite
from harden.training.run import Run, open_for_stage
from harden.training.trainer import fit, make_trainer, require_tensorboard, say_tensorboard
from harden.training.workspace import Workspace, describe
from harden.types import Targets


class PolicyFitted(NamedTuple):
    """What a fit of the policy did.

    Args:
        steps: gradient steps.
        kl, kl_robust: the mean part and the spread part at the last step, nats.
        epsilon: radius of the adversary.
    """

    steps: int
    kl: list[float]
    kl_robust: list[float]
    epsilon: float


def fit_policy(
    config: PipelineConfig,
    workspace: Workspace,
    *,
    steps: int | None = None,
    targets_path: Path | None = None,
    policy_dir: Path | None = None,
    reading: Reading = Reading(),  # noqa: B008
    critics_dir: Path | None = None,
    tensorboard: bool = False,
    out: Path | None = None,
    refresh: int | None = None,
    device: torch.device = CPU,
    report: Reporter = QUIET,
) -> Ready[PolicyFitted]:
    """Fit the policy to the targets and write policy/ and the state.

    The same targets may be fitted again: the old policy that they bound the KL to is stored with them.

    Args:
        steps: gradient steps, the pipeline's where not given.
        targets_path, policy_dir, critics_dir: inputs, the workspace's where not given.
        reading: of a policy file.
        tensorboard: log to TensorBoard beside CSV.
        out: a new folder for a copy of the policy.
        refresh: with one the policy enters the running average; without one it is the one published.

    Raises:
        MissingInputError: no targets, critics or policy yet.
        InputError: they do not belong together, or the variant is on-policy, or something is at `out`.
        StorageError: the run can't be written; DivergedError: the loss is not finite.
    """
    count, path = key_value(config, "mstep.steps", steps), targets_path or workspace.targets
    if tensorboard:
        require_tensorboard()
    require_em(config)
    for folder in (critics_dir or workspace.critics, workspace.policy):
        if not folder.is_dir() and (folder != workspace.policy or policy_dir is None):
            remedy = f"make it with: harden fit-critics -p {workspace.name}"
            raise MissingInputError(f"{folder} is missing", remedy)
    targets, header = read_targets(path)
    given = open_ours(policy_dir, config, report, reading)
    run = open_for_stage(config, workspace, device, policy_dir, critics_dir, given=given, refresh=refresh)
    _require_together(header, run, path)
    require_writable(workspace.state)
    if out is not None:
        require_place(out)

    def work() -> PolicyFitted:
        learner, terms = run.learner, scheduled(config, refresh)
        parent, first_step = module_digest(learner.policy), learner.counters.policy_steps
        module = RobustMStep(learner, config, terms)
        rows = Targets(*(column.to(device) for column in targets))
        batches = TargetBatches(rows, count, config.train.states, learner)
        if tensorboard:
            say_tensorboard(workspace.run, report)
        with report.track("fit-policy", count, "steps") as track:
            logged: dict[str, Any] = {"tensorboard": tensorboard, "settings": config.model_dump(mode="json")}
            trainer = make_trainer(workspace.run, device, "policy", first_step, track=track, **logged)
            fit(trainer, module, batches)
        result = module.result
        check_finite(learner, float(result.loss.detach()))
        learner.finish_round(publish=refresh is None)
        run.commit(data_digest=header.data_digest, parent=parent, targets_digest=digest_file(path))
        if out is not None:
            copy_folder(workspace.policy, out)
        epsilon = terms.epsilon if config.variant_row.robust else 0.0
        return PolicyFitted(count, result.kl.tolist(), result.kl_robust.tolist(), epsilon)

    reads = path, *learner_paths(workspace, policy_dir, critics_dir)
    return Ready(work, reads, [*learner_paths(workspace), out])


def _require_together(header: TargetsHeader, run: Run, path: Path) -> None:
    """Refuse targets of another policy or other critics, unless the run was fitted to these very targets."""
    if run.record.targets_digest == digest_file(path):
        return
    if header.policy_digest != module_digest(run.learner.policy):
        made = "for another policy than the one here"
    elif header.critics_digest != module_digest(run.learner.critics):
        made = "with other critics than the ones here"
    else:
        return
    raise InputError(f"{path} was made {made}", "make new targets with: harden e-step")


class Cloned(NamedTuple):
    """What a clone came to.

    Args:
        folder: the policy's.
        steps: gradient steps taken.
        report: episodes in each part, and on the held-out ones the mean log-likelihood of an action (nats)
            and the root mean square error of the mean action, of the clone and of the best constant policy.
    """

    folder: Path
    steps: int
    report: dict[str, Any]


def free_folder(folder: Path, overwrite: bool) -> Path:
    """Return a folder that a policy may be written into; InputError: one is there and may not go."""
    if (folder / "policy.safetensors").exists() and not overwrite:
        raise InputError(
            f"{folder} holds a policy already",
            "name another folder with --out, or discard it with --overwrite",
        )
    return folder


def clone(
    config: PipelineConfig,
    workspace: Workspace,
    *,
    data: Path | None = None,
    steps: int | None = None,
    out: Path | None = None,
    overwrite: bool = False,
    device: torch.device = CPU,
    report: Reporter = QUIET,
) -> Ready[Cloned]:
    """Fit a new policy to the actions in a data set and write it as a policy folder, without critics.

    Args:
        data: the data set, the workspace's where not given.
        steps: gradient steps at most, the pipeline's where not given.
        out: the policy's folder, the workspace's where not given: then fit-critics goes on from it.
        overwrite: replace a policy that is there.

    Raises:
        MissingInputError: no data; InputError: of another task, actions outside its bounds, collected under
            attack, under three episodes, or a policy or a run is there already; StorageError: the policy
            can't be written; DivergedError: the loss is not finite, and nothing was written.
    """
    options = config.imitation.model_copy(update={"steps": key_value(config, "imitation.steps", steps)})
    if out is None and workspace.state.is_file():
        raise InputError(
            f"{workspace.run} holds a run, whose policy this one would replace",
            "name another folder with --out",
        )
    folder = free_folder(out or workspace.policy, overwrite)
    dataset = open_own(config, data or workspace.data)
    rows = dataset.recent(options.rows)
    require_ranges(config, rows, dataset.path)
    require_writable(folder / "policy.safetensors")

    def work() -> Cloned:
        logs = workspace.run
        policy, taken, quality = fit_clone(config, rows, options, device=device, logs=logs, report=report)
        inputs = {"data": dataset.info.digest, "policy": ""}
        made = {"variant": "clone", "made_by": "harden fit-policy --clone", "clone": quality}
        save_policy(folder, policy, None, describe(config, **made, inputs=inputs))
        return Cloned(folder, taken, quality)

    return Ready(work, [dataset.path], [folder])
