"""collect: roll-outs to a data set; benign ones, but for a variant that asks for attacked ones."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch

from harden.config.pipeline import PipelineConfig, key_value
from harden.config.variants import MC_BEHAVIOUR
from harden.data import DatasetWriter, ShardInfo, open_dataset
from harden.envs.make import require_environment
from harden.envs.vector import VectorEnv
from harden.errors import InputError
from harden.method.schedules import scheduled
from harden.nets import Critics
from harden.nets.saved import load_policy, module_digest
from harden.progress import Reporter
from harden.stages.inputs import Inputs, stored_learner
from harden.storage.files import require_folder
from harden.training.checks import require_permission
from harden.training.collection import collect_episodes
from harden.training.run import Run, open_for_stage
from harden.training.workspace import Workspace


class Collected(NamedTuple):
    """What a collection brought.

    Args:
        shard: as the store acknowledged it.
        seconds: wall time.
    """

    shard: ShardInfo
    seconds: float


@dataclass(frozen=True, kw_only=True)
class CollectInputs(Inputs):
    """What a collection begins with.

    Args:
        run: its learner acts, and is attacked.
        untrained: no policy is stored yet, so that the learner's first weights act.
        episodes: whole episodes to collect.
        behaviour: how the learner acts.
        epsilon: radius of what disturbs the observations, where the behaviour does.
        data: the data set's folder.
    """

    run: Run
    untrained: bool
    episodes: int
    behaviour: str
    epsilon: float
    data: Path


def open_collect(
    config: PipelineConfig,
    workspace: Workspace,
    *,
    episodes: int | None = None,
    behaviour: str | None = None,
    out: Path | None = None,
    policy_dir: Path | None = None,
    allow_attacked_collection: bool = False,
    refresh: int | None = None,
) -> CollectInputs:
    """Open and check what a collection needs.

    Args:
        config, workspace: the pipeline and its folders.
        episodes, behaviour: the pipeline's where not given.
        out: the data set's folder, the workspace's where not given.
        policy_dir: the policy that acts, the workspace's where not given.
        allow_attacked_collection: let behaviour mc attack the policy while it acts.
        refresh: the refresh of `train` whose place in the schedules is meant; without one, their end.

    Raises:
        InputError: the data set is of another task, or an attack was not allowed; StorageError: it can't be
            written.
    """
    episodes = key_value(config, "collect.episodes", episodes)
    behaviour, data = behaviour or config.behaviour, out or workspace.data
    require_permission(behaviour, allow_attacked_collection)
    require_environment(config.task_row)
    run = open_for_stage(config, workspace, torch.device("cpu"), policy_dir, refresh=refresh)
    if behaviour == MC_BEHAVIOUR and policy_dir is not None and not run.stored:
        run.learner.critics = _victim_critics(policy_dir)
    require_folder(data)
    if (data / "manifest.json").exists():
        open_dataset(data, config.task_row)
    own = behaviour == config.variant_row.behaviour and policy_dir is None
    return CollectInputs(
        run=run,
        untrained=not run.stored and policy_dir is None and not workspace.policy.is_dir(),
        episodes=episodes,
        behaviour=behaviour,
        epsilon=scheduled(config, refresh).epsilon if own else config.train_epsilon,
        data=data,
        reads=stored_learner(workspace, policy_dir),
        writes=(data,),
    )


def collect(inputs: CollectInputs, report: Reporter) -> Collected:
    """Collect episodes and append them to the data set as one shard.

    Raises:
        InputError: the data set is of another kind; StorageError: it can't be written.
    """
    began = time.monotonic()
    config, behaviour, learner = inputs.run.config, inputs.behaviour, inputs.run.learner
    policy = None if behaviour == "random" else learner.policy
    if policy is not None and inputs.untrained:
        report.say(
            f"no policy in {inputs.run.workspace.policy} yet: acting with an untrained one "
            f"(seed {config.seed})"
        )
    slots = min(config.collect.envs, inputs.episodes)
    with (
        DatasetWriter(inputs.data, config.task_row) as writer,
        VectorEnv(config.task_row, slots, config.collect.workers) as envs,
    ):
        writer.require_same_kind(behaviour)
        data = collect_episodes(
            envs,
            learner.policy,
            learner.critics,
            config,
            writer.info.episodes,
            inputs.episodes,
            behaviour,
            inputs.epsilon,
            report,
        )
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
