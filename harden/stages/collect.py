"""collect: roll-outs to a data set; benign ones, but for a variant that asks for attacked ones."""

from __future__ import annotations

import time
from pathlib import Path

import torch

from harden.config.pipeline import PipelineConfig, key_value
from harden.config.variants import MC_BEHAVIOUR
from harden.data.dataset import DatasetWriter, open_dataset
from harden.data.manifest import ShardInfo
from harden.envs.vector import VectorEnv, require_environment
from harden.errors import InputError
from harden.method.schedules import scheduled
from harden.nets import Critics, GaussianPolicy
from harden.nets.saved import LoadedPolicy, module_digest
from harden.policies.foreign import OpaquePolicy
from harden.policies.open import open_policy
from harden.policies.reading import Reading
from harden.progress import QUIET, Reporter
from harden.stages.ready import Ready, learner_paths
from harden.storage.files import require_folder
from harden.training.checks import require_permission
from harden.training.collection import collect_episodes
from harden.training.imitation import CPU
from harden.training.run import open_for_stage
from harden.training.workspace import Workspace


def collect(
    config: PipelineConfig,
    workspace: Workspace,
    *,
    episodes: int | None = None,
    behaviour: str | None = None,
    out: Path | None = None,
    policy_dir: Path | None = None,
    reading: Reading = Reading(),  # noqa: B008
    allow_attacked_collection: bool = False,
    refresh: int | None = None,
    device: torch.device = CPU,
    report: Reporter = QUIET,
) -> Ready[tuple[ShardInfo, float]]:
    """Collect whole episodes and append them to the data set as one shard.

    Args:
        episodes, behaviour: the pipeline's where not given.
        out: the data set's folder; policy_dir: the policy that acts, as `open_policy` takes it; the
            workspace's where not given.
        reading: of a policy file.
        allow_attacked_collection: let behaviour mc attack the policy while it acts.

    Returns:
        The shard as the store acknowledged it, and the seconds that it took.

    Raises:
        InputError: the data set is of another task or kind, or an attack was not allowed; StorageError: it
            can't be written.
    """
    count = key_value(config, "collect.episodes", episodes)
    acts, data = behaviour or config.behaviour, out or workspace.data
    require_permission(acts, allow_attacked_collection)
    require_environment(config.task_row)
    given = None if policy_dir is None else open_policy(policy_dir, config, report, reading)
    policy: GaussianPolicy
    critics: Critics | None
    if given is not None and isinstance(given.policy, OpaquePolicy):
        # it acts as it is: nothing is learned from it here
        policy, critics, stored, digest = given.policy, None, False, given.policy.digest()
    else:
        run = open_for_stage(config, workspace, device, policy_dir, given=given, refresh=refresh)
        policy, critics, stored = run.learner.policy, run.learner.critics, run.stored
        digest = module_digest(policy)
    if acts == MC_BEHAVIOUR and given is not None and not stored:
        critics = _victim_critics(given, policy_dir)
    require_folder(data)
    if (data / "manifest.json").exists():
        open_dataset(data, config.task_row)
    own = acts == config.variant_row.behaviour and policy_dir is None
    epsilon = scheduled(config, refresh).epsilon if own else config.train_epsilon
    untrained = not stored and policy_dir is None and not workspace.policy.is_dir()

    def work() -> tuple[ShardInfo, float]:
        began = time.monotonic()
        if acts != "random" and untrained:
            report.say(
                f"no policy in {workspace.policy} yet: acting with an untrained one (seed {config.seed})"
            )
        acting = "" if acts == "random" else digest
        shard = append_episodes(config, data, policy, critics, count, acts, epsilon, acting, report)
        return shard, time.monotonic() - began

    return Ready(work, learner_paths(workspace, policy_dir), [data])


def append_episodes(
    config: PipelineConfig,
    data: Path,
    policy: GaussianPolicy,
    critics: Critics | None,
    episodes: int,
    behaviour: str,
    epsilon: float,
    digest: str,
    report: Reporter,
) -> ShardInfo:
    """Simulate episodes and append them to a data set of their kind as one shard.

    Args:
        policy, critics, behaviour, epsilon: as in `collect_episodes`.
        digest: the policy's, as the shard says it.
    """
    slots = min(config.collect.envs, episodes)
    with (
        DatasetWriter(data, config.task_row) as writer,
        VectorEnv(config.task_row, slots, config.collect.workers) as envs,
    ):
        writer.require_same_kind(behaviour)
        first = writer.info.episodes
        made = collect_episodes(
            envs, policy, critics, config, first, episodes, behaviour, epsilon, report
        ).transitions
        return writer.append(made, seed=config.seed, policy_digest=digest, behaviour=behaviour)


def _victim_critics(given: LoadedPolicy, policy_dir: Path | None) -> Critics:
    if given.critics is None:
        raise InputError(
            f"the policy in {policy_dir} brings no critics, and behaviour {MC_BEHAVIOUR} climbs them",
            "fit some with: harden fit-critics",
        )
    return given.critics
