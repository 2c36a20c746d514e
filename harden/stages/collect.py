"""collect: roll-outs to a data set; benign ones, but for a variant that asks for attacked ones."""

from __future__ import annotations

import time
from pathlib import Path
from typing import NamedTuple

import torch

from harden.config.pipeline import PipelineConfig
from harden.config.variants import MC_BEHAVIOUR
from harden.data import DatasetWriter, ShardInfo
from harden.envs.make import require_environment
from harden.envs.vector import VectorEnv
from harden.errors import InputError
from harden.method.learner import Learner
from harden.method.schedules import scheduled
from harden.nets import Critics
from harden.nets.saved import load_policy, module_digest
from harden.progress import Reporter
from harden.training.collection import collect_episodes
from harden.training.permissions import require_permission
from harden.training.workspace import Workspace, open_learner


class Collected(NamedTuple):
    """What a collection brought.

    Args:
        shard: as the store acknowledged it.
        seconds: wall time.
    """

    shard: ShardInfo
    seconds: float


class Opened(NamedTuple):
    """What a collection begins with, once all of it was found in order.

    Args:
        learner: acts, and is attacked.
        begun: whether there is a state that it comes from.
    """

    learner: Learner
    begun: bool


def open_inputs(
    config: PipelineConfig,
    place: Workspace,
    behaviour: str,
    policy_dir: Path | None,
    allowed: bool,
    refresh: int | None = None,
) -> Opened:
    """Open and check what `collect` reads, but for the data set; arguments and errors are its own."""
    require_permission(behaviour, allowed)
    require_environment(config.task_row)
    learner, about = open_learner(config, place, torch.device("cpu"), policy_dir, refresh=refresh)
    if behaviour == MC_BEHAVIOUR and policy_dir is not None and about is None:
        learner.critics = _victim_critics(policy_dir)
    return Opened(learner, about is not None)


def collect(
    config: PipelineConfig,
    place: Workspace,
    *,
    episodes: int | None = None,
    behaviour: str | None = None,
    out: Path | None = None,
    policy_dir: Path | None = None,
    allow_attacked_collection: bool = False,
    refresh: int | None = None,
    report: Reporter,
) -> Collected:
    """Collect episodes and append them to the data set as one shard.

    Without a policy of its own yet, a pipeline acts with its untrained one.

    Args:
        episodes, behaviour: the pipeline's where not given.
        out: the data set's folder, the workspace's where not given.
        policy_dir: the policy that acts, the workspace's where not given.
        allow_attacked_collection: let behaviour mc attack the policy while it acts.
        refresh: the refresh of `train` whose place in the schedules is meant; without one, their end.

    Raises:
        InputError: the data set is of another task or kind, or an attack was not allowed; StorageError: it
            can't be written.
    """
    began = time.monotonic()
    behaviour = behaviour or config.behaviour
    episodes = episodes or config.collect.episodes
    allowed = allow_attacked_collection
    learner, begun = open_inputs(config, place, behaviour, policy_dir, allowed, refresh)
    epsilon = config.train_epsilon
    if behaviour == config.variant_row.behaviour and policy_dir is None:
        epsilon = scheduled(config, refresh).epsilon
    policy = None if behaviour == "random" else learner.policy
    if policy is not None and not begun and policy_dir is None and not place.policy.is_dir():
        report.say(f"no policy in {place.policy} yet: acting with an untrained one (seed {config.seed})")
    with (
        DatasetWriter(out or place.data, config.task_row) as writer,
        VectorEnv(config.task_row, min(config.collect.envs, episodes), config.collect.workers) as envs,
    ):
        writer.require_same_kind(behaviour)
        first = writer.info.episodes
        data = collect_episodes(envs, learner, config, first, episodes, behaviour, epsilon, report)
        shard = writer.append(
            data.transitions, seed=config.seed, policy_digest=module_digest(policy), behaviour=behaviour
        )
    return Collected(shard, time.monotonic() - began)


def _victim_critics(policy_dir: Path) -> Critics:
    critics = load_policy(policy_dir).critics
    if critics is None:
        raise InputError(
            f"the policy in {policy_dir} brings no critics, and behaviour {MC_BEHAVIOUR} climbs them",
            "fit some with: harden fit-critics",
        )
    return critics
