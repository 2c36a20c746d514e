"""What every refresh has, whatever learns from it: its roll-outs, and its row of the learning curve."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import torch

from harden.config.pipeline import PipelineConfig
from harden.data import Dataset, DatasetWriter, ShardInfo
from harden.envs.vector import VectorEnv
from harden.method.bellman import Backups
from harden.method.learner import Learner
from harden.method.schedules import scheduled
from harden.nets.saved import module_digest
from harden.progress import Reporter
from harden.storage.files import write_text
from harden.training.collection import collect_episodes
from harden.training.replay import look_ahead

History = list[dict[str, float]]


def collect_refresh(
    config: PipelineConfig,
    learner: Learner,
    history: History,
    writer: DatasetWriter,
    envs: VectorEnv,
    report: Reporter,
) -> ShardInfo:
    """Collect a refresh's episodes, or take up those that a killed run had stored already.

    Args:
        config: the pipeline.
        learner: acts.
        history: rows of the refreshes finished so far.
        writer, envs: the data set and the simulation.
        report: where progress is said.
    """
    train = config.train
    episodes = train.episodes if history else train.warm_up_episodes
    known = int(history[-1]["episodes"]) if history else 0
    digest = module_digest(learner.policy)
    if writer.info.shards and writer.info.episodes == known + episodes:
        last = writer.info.shards[-1]
        if (last.policy_digest, last.episodes, last.seed) == (digest, episodes, config.seed):
            return last
    first = writer.info.episodes
    behaviour, epsilon = config.behaviour, scheduled(config, learner.counters.refresh).epsilon
    data = collect_episodes(envs, learner, config, first, episodes, behaviour, epsilon, report)
    return writer.append(data.transitions, seed=config.seed, policy_digest=digest, behaviour=behaviour)


def progress_row(
    config: PipelineConfig,
    learner: Learner,
    history: History,
    writer: DatasetWriter,
    shard: ShardInfo,
    collecting: float,
    learning: float,
) -> dict[str, float]:
    """Return the front of a refresh's row: where the run is, and what its roll-outs brought.

    Args:
        shard: the refresh's roll-outs.
        collecting, learning: seconds.
    """
    before = history[-1] if history else {"env_steps": 0, "cumulative_cost": 0, "seconds": 0}
    return {
        "refresh": len(history) + 1,
        "episodes": writer.info.episodes,
        "env_steps": before["env_steps"] + shard.transitions,
        "reward": shard.reward / shard.episodes,
        "cost": shard.cost / shard.episodes,
        "cumulative_cost": before["cumulative_cost"] + shard.cost,
        "epsilon": scheduled(config, learner.counters.refresh).epsilon,
        "seconds": before["seconds"] + collecting + learning,
        "collect_seconds": collecting,
    }


class RollOuts:
    """A supply of fresh data: each refresh's roll-outs, and the most recent of all that is stored.

    Args:
        config, learner: the pipeline and who acts.
        writer, envs: the data set and the simulation.
        report: where progress is said.
    """

    def __init__(
        self,
        config: PipelineConfig,
        learner: Learner,
        writer: DatasetWriter,
        envs: VectorEnv,
        report: Reporter,
    ) -> None:
        self.config, self.learner, self.report = config, learner, report
        self.writer, self.envs = writer, envs
        self.shard: ShardInfo

    @property
    def digest(self) -> str:
        """The identity of the data set as it is now."""
        return self.writer.info.digest

    def gather(self, history: History) -> None:
        """Collect a refresh's episodes."""
        self.shard = collect_refresh(self.config, self.learner, history, self.writer, self.envs, self.report)

    def load(self) -> tuple[Backups, torch.Tensor]:
        """Return the most recent rows, looked ahead, and the window of the E-step's observations."""
        return _recent(self.config, self.learner, self.writer.path)

    def row(self, history: History, gathering: float, learning: float) -> dict[str, float]:
        """Return where the run is, and what its roll-outs brought."""
        return progress_row(self.config, self.learner, history, self.writer, self.shard, gathering, learning)


def _recent(config: PipelineConfig, learner: Learner, path: Path) -> tuple[Backups, torch.Tensor]:
    replay, window = config.critics.replay, config.estep.window
    recent = Dataset(path).recent(max(replay, window))
    states = recent.obs[-window:].to(learner.device)
    rows = type(recent)(*(column[-replay:] for column in recent))
    return look_ahead(rows, config, learner.device), states


def write_curve(path: Path, history: History) -> None:
    """Write a learning curve as CSV, one row a refresh."""
    text = io.StringIO()
    # the last row has every column; what an older program did not write is nan
    table = csv.DictWriter(text, list(history[-1]), restval="nan", lineterminator="\n")
    table.writeheader()
    table.writerows({key: f"{value:.6g}" for key, value in row.items()} for row in history)
    write_text(path, text.getvalue())
