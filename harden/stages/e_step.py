"""e-step: weighted particles for stored states, written to targets.h5."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from harden.config.pipeline import PipelineConfig, key_value
from harden.data import Dataset, TargetsHeader, data_files, write_targets
from harden.errors import MissingInputError
from harden.method.e_step import describe_targets, estep_states
from harden.method.e_step import e_step as solve
from harden.method.schedules import Scheduled, scheduled
from harden.nets.saved import critics_files, policy_files
from harden.stages.inputs import Inputs, learner_paths, stored_learner
from harden.storage.files import require_apart, require_writable
from harden.training.checks import open_own, require_em
from harden.training.run import Run, open_for_stage
from harden.training.workspace import Workspace
from harden.types import Targets


@dataclass(frozen=True, kw_only=True)
class EStepInputs(Inputs):
    """What an E-step begins with.

    Args:
        run: its learner gives the policy and the critics.
        dataset: its states are solved for.
        states, particles: how many are solved for, and actions drawn for each.
        terms: the place in the schedules.
        targets: the file that is written.
    """

    run: Run
    dataset: Dataset
    states: int
    particles: int
    terms: Scheduled
    targets: Path


def open_e_step(
    config: PipelineConfig,
    workspace: Workspace,
    *,
    device: torch.device,
    states: int | None = None,
    particles: int | None = None,
    data: Path | None = None,
    policy_dir: Path | None = None,
    critics_dir: Path | None = None,
    out: Path | None = None,
    refresh: int | None = None,
) -> EStepInputs:
    """Open and check what an E-step needs.

    Args:
        config, workspace, device: the pipeline, its folders, and where it is computed.
        states, particles: the pipeline's where not given.
        data, policy_dir, critics_dir: inputs, the workspace's where not given.
        out: the targets' file, the workspace's where not given.
        refresh: the refresh of `train` whose place in the schedules is meant; without one, their end.

    Raises:
        MissingInputError: no critics yet, or no data.
        InputError: policy, critics and state do not belong together, or the data are not the variant's kind,
            or it is on-policy, or `out` is one of the inputs; StorageError: the targets can't be written.
    """
    states = key_value(config, "estep.states", states)
    particles = key_value(config, "estep.particles", particles)
    require_em(config)
    critics_path, targets = critics_dir or workspace.critics, out or workspace.targets
    if not critics_path.is_dir():
        raise MissingInputError(
            f"critics folder {critics_path} is missing",
            f"make it with: harden fit-critics -p {workspace.name}",
        )
    dataset = open_own(config, data or workspace.data)
    run = open_for_stage(config, workspace, device, policy_dir, critics_dir, refresh=refresh)
    models = [*policy_files(policy_dir or workspace.policy), *critics_files(critics_path)]
    require_apart(targets, workspace.state, *models, *data_files(dataset.path))
    require_writable(targets)
    return EStepInputs(
        run=run,
        dataset=dataset,
        states=states,
        particles=particles,
        terms=scheduled(config, refresh, run.learner.first_cost),
        targets=targets,
        reads=(dataset.path, *stored_learner(workspace, policy_dir, critics_dir)),
        writes=(targets, *(learner_paths(workspace) if run.stored else ())),
    )


def e_step(inputs: EStepInputs) -> TargetsHeader:
    """Solve the E-step for the most recent states and write the targets.

    Returns:
        What is written beside the targets: multipliers, threshold, expected cost, status, digests.

    Raises:
        StorageError: the targets can't be written.
    """
    run, config, learner, terms = inputs.run, inputs.run.config, inputs.run.learner, inputs.terms
    recent = inputs.dataset.recent(config.estep.window).obs.to(learner.device)
    states = estep_states(learner, recent, config, terms, inputs.states)
    sizes = config.estep.model_copy(update={"particles": inputs.particles})
    sized = config.model_copy(update={"estep": sizes})
    targets, solution, expected_cost = solve(learner, states, sized, terms)
    header = describe_targets(config, learner, solution, expected_cost, inputs.dataset.info.digest, terms)
    write_targets(inputs.targets, Targets(*(column.cpu() for column in targets)), header)
    if run.stored:
        learner.dual = solution
        run.commit()
    return header
