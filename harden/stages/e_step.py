"""e-step: weighted particles for stored states, written to targets.h5."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import torch

from harden.config.pipeline import PipelineConfig
from harden.data import Dataset, TargetsHeader, data_files, write_targets
from harden.errors import MissingInputError
from harden.method.adversary import attack_replayed
from harden.method.e_step import draw_states, e_step
from harden.method.learner import Learner
from harden.method.schedules import scheduled
from harden.nets.saved import critics_files, policy_files
from harden.progress import Reporter
from harden.storage.files import require_apart, require_writable
from harden.training.permissions import open_own, require_em
from harden.training.targets import describe_targets
from harden.training.workspace import (
    Workspace,
    carried,
    commit,
    open_learner,
)
from harden.types import Targets


class Opened(NamedTuple):
    """What an E-step begins with, once all of it was found in order.

    Args:
        dataset: its states.
        learner, about: as `open_learner` returns them.
    """

    dataset: Dataset
    learner: Learner
    about: dict[str, Any] | None


def open_inputs(
    config: PipelineConfig,
    place: Workspace,
    device: torch.device,
    data: Path | None = None,
    policy_dir: Path | None = None,
    critics_dir: Path | None = None,
    out: Path | None = None,
    refresh: int | None = None,
) -> Opened:
    """Open and check what `estep` reads, and where it writes; arguments and errors are its own."""
    require_em(config)
    critics_path = critics_dir or place.critics
    if not critics_path.is_dir():
        raise MissingInputError(
            f"critics folder {critics_path} is missing", f"make it with: harden fit-critics -p {place.name}"
        )
    dataset = open_own(config, data or place.data)
    opened = Opened(dataset, *open_learner(config, place, device, policy_dir, critics_dir, refresh=refresh))
    targets = out or place.targets
    models = [*policy_files(policy_dir or place.policy), *critics_files(critics_path)]
    require_apart(targets, place.state, *models, *data_files(dataset.path))
    require_writable(targets)
    return opened


def estep(
    config: PipelineConfig,
    place: Workspace,
    *,
    device: torch.device,
    states: int | None = None,
    particles: int | None = None,
    data: Path | None = None,
    policy_dir: Path | None = None,
    critics_dir: Path | None = None,
    out: Path | None = None,
    refresh: int | None = None,
    report: Reporter,
) -> TargetsHeader:
    """Solve the E-step for the most recent states and write the targets.

    Args:
        states, particles: the pipeline's where not given.
        data, policy_dir, critics_dir: inputs, the workspace's where not given.
        out: the targets' file, the workspace's where not given.
        refresh: the refresh of `train` whose place in the schedules is meant; without one, their end.

    Returns:
        What is written beside the targets: multipliers, threshold, expected cost, status, digests.

    Raises:
        MissingInputError: no critics yet, or no data.
        InputError: policy, critics and state do not belong together, or the data are not the variant's kind,
            or it is on-policy, or `out` is one of the inputs; StorageError: the targets can't be written.
    """
    chosen = config.estep.model_copy(update={"particles": particles or config.estep.particles})
    asked = config.model_copy(update={"estep": chosen})
    dataset, learner, about = open_inputs(config, place, device, data, policy_dir, critics_dir, out, refresh)
    obs = dataset.recent(config.estep.window).obs.to(device)
    obs = draw_states(learner, obs, states or config.estep.states, config.estep.window)
    terms = scheduled(config, refresh)
    obs = attack_replayed(learner, obs, config, terms.epsilon, "states-adversary", learner.counters.round)
    targets, solution, expected_cost = e_step(learner, obs, asked, terms)
    header = describe_targets(config, learner, solution, expected_cost, dataset.info.digest, terms)
    write_targets(out or place.targets, Targets(*(column.cpu() for column in targets)), header)
    if about is not None:
        learner.dual = solution
        commit(config, place, learner, carried(about))
    return header
