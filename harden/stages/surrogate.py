"""Somebody else's policy where critics are fitted: roll-outs of it, and a policy of ours in its place."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from harden.config.pipeline import PipelineConfig
from harden.data import DatasetWriter, open_dataset
from harden.envs.vector import VectorEnv
from harden.policies.foreign import OpaquePolicy
from harden.progress import Reporter
from harden.stages.import_policy import Distilled, distil
from harden.training.collection import collect_episodes
from harden.training.imitation import CPU


def roll_out(
    config: PipelineConfig,
    policy: OpaquePolicy,
    out: Path,
    behaviours: Sequence[tuple[str, int]],
    report: Reporter,
) -> None:
    """Collect benign episodes of somebody else's policy into a data set.

    Args:
        behaviours: names as `collect` has them, and how many episodes of each.
    """
    task, options, digest = config.task_row, config.collect, policy.digest()
    slots = min(options.envs, max(episodes for _, episodes in behaviours))
    with DatasetWriter(out, task) as writer, VectorEnv(task, slots, options.workers) as envs:
        for behaviour, episodes in behaviours:
            if not episodes:
                continue
            report.say(f"collecting {episodes} episodes of the policy under evaluation ({behaviour})")
            first, epsilon = writer.info.episodes, config.train_epsilon
            data = collect_episodes(envs, policy, None, config, first, episodes, behaviour, epsilon, report)
            writer.append(data.transitions, seed=config.seed, policy_digest=digest, behaviour=behaviour)


def surrogate(config: PipelineConfig, policy: OpaquePolicy, data: Path, report: Reporter) -> Distilled:
    """Return a policy of ours fitted to somebody else's on its own episodes, for the fit of critics."""
    rows = open_dataset(data, config.task_row).recent(config.imitation.rows)
    return distil(policy.source, config, rows, data, CPU, report)
