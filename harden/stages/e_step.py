"""e-step: weighted particles for stored states, written to targets.h5."""

from __future__ import annotations

from pathlib import Path

import torch

from harden.config.pipeline import PipelineConfig, key_value
from harden.data.manifest import data_files
from harden.data.targets import TargetsHeader, write_targets
from harden.errors import MissingInputError
from harden.method.e_step import describe_targets
from harden.method.schedules import scheduled
from harden.nets.saved import critics_files, policy_files
from harden.policies.open import open_ours
from harden.policies.reading import Reading
from harden.progress import QUIET, Reporter
from harden.stages.ready import Ready, learner_paths
from harden.storage.files import require_apart, require_writable
from harden.training.checks import open_own, require_em
from harden.training.imitation import CPU
from harden.training.loop import expectation
from harden.training.run import open_for_stage
from harden.training.workspace import Workspace
from harden.types import Targets


def e_step(
    config: PipelineConfig,
    workspace: Workspace,
    *,
    states: int | None = None,
    particles: int | None = None,
    data: Path | None = None,
    policy_dir: Path | None = None,
    reading: Reading = Reading(),  # noqa: B008
    critics_dir: Path | None = None,
    out: Path | None = None,
    refresh: int | None = None,
    device: torch.device = CPU,
    report: Reporter = QUIET,
) -> Ready[TargetsHeader]:
    """Solve the E-step for the most recent states and write the targets.

    Args:
        states, particles: the pipeline's where not given.
        data, policy_dir, critics_dir: inputs, the workspace's where not given.
        reading: of a policy file.
        out: the targets' file, the workspace's where not given.

    Returns:
        What is written beside the targets: multipliers, threshold, expected cost, status, digests.

    Raises:
        MissingInputError: no critics yet, or no data.
        InputError: policy, critics and state do not belong together, or the data are not the variant's kind,
            or it is on-policy, or `out` is one of the inputs; StorageError: the targets can't be written.
    """
    sizes = {"particles": key_value(config, "estep.particles", particles)}
    count = key_value(config, "estep.states", states)
    require_em(config)
    critics_path, targets_path = critics_dir or workspace.critics, out or workspace.targets
    if not critics_path.is_dir():
        raise MissingInputError(
            f"critics folder {critics_path} is missing",
            f"make it with: harden fit-critics -p {workspace.name}",
        )
    dataset = open_own(config, data or workspace.data)
    given = open_ours(policy_dir, config, report, reading)
    run = open_for_stage(config, workspace, device, policy_dir, critics_dir, given=given, refresh=refresh)
    models = [*policy_files(policy_dir or workspace.policy), *critics_files(critics_path)]
    require_apart(targets_path, workspace.state, *models, *data_files(dataset.path))
    require_writable(targets_path)

    def work() -> TargetsHeader:
        learner, terms = run.learner, scheduled(config, refresh, run.learner.first_cost)
        sized = config.model_copy(update={"estep": config.estep.model_copy(update=sizes)})
        obs = dataset.recent(config.estep.window).obs.to(device)
        targets, expected_cost = expectation(learner, obs, count, sized, terms)
        assert learner.dual is not None
        header = describe_targets(config, learner, learner.dual, expected_cost, dataset.info.digest, terms)
        write_targets(targets_path, Targets(*(column.cpu() for column in targets)), header)
        if run.stored:
            run.commit()
        return header

    reads = dataset.path, *learner_paths(workspace, policy_dir, critics_dir)
    return Ready(work, reads, [targets_path, *(learner_paths(workspace) if run.stored else ())])
