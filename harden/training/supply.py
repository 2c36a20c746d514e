"""Where a refresh's data come from: fresh roll-outs, or what is stored."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from harden.config.pipeline import PipelineConfig
from harden.data.dataset import Dataset, DatasetWriter
from harden.data.manifest import ShardInfo
from harden.envs.rollout import Simulation
from harden.method.bellman import Backups
from harden.method.critic_step import make_replay
from harden.method.imagination import first_observations
from harden.method.learner import Learner
from harden.method.schedules import scheduled
from harden.nets.saved import module_digest
from harden.progress import Reporter
from harden.training.collection import collect_episodes
from harden.training.logged import LoggedWorld
from harden.training.record import Row
from harden.types import Transitions


class Loaded(NamedTuple):
    """What a refresh learns from, oldest first.

    Args:
        rows: whole episodes, which a world model learns from.
        replay: the same, looked ahead, on the learner's device: what the critics learn from.
        states: (N, obs_dim), the window that the E-step's observations are drawn from, on the device.
        firsts: (E, obs_dim), where episodes begin.
    """

    rows: Transitions
    replay: Backups
    states: Tensor
    firsts: Tensor


class RollOuts:
    """Each refresh's roll-outs, and the most recent of all that is stored.

    Args:
        config, learner: the pipeline, and who acts.
        writer, envs: the data set and the simulation.
        report: where progress is reported.

    Attributes:
        shard: the refresh's roll-outs.
        trials: where policies are tried.
    """

    shard: ShardInfo

    def __init__(
        self,
        config: PipelineConfig,
        learner: Learner,
        writer: DatasetWriter,
        envs: Simulation,
        report: Reporter,
    ) -> None:
        self.config, self.learner, self.report = config, learner, report
        self.writer, self.envs, self.trials = writer, envs, envs
        self.horizon = config.task_row.horizon

    @property
    def digest(self) -> str:
        """The identity of the data set as it is now."""
        return self.writer.info.digest

    def gather(self, history: list[Row]) -> None:
        """Collect a refresh's steps, or take up those that a killed run had stored already.

        Where episodes end early there are more of them: a robot that falls would else learn from a fraction
        of the steps that training is given.
        """
        config, writer, learner = self.config, self.writer, self.learner
        first = int(history[-1]["episodes"]) if history else 0
        digest = module_digest(learner.policy)
        if writer.info.shards:
            last = writer.info.shards[-1]
            same = (last.policy_digest, last.seed) == (digest, config.seed)
            if same and writer.info.episodes - last.episodes == first:
                self.shard = last
                return
        behaviour, epsilon = config.behaviour, scheduled(config, learner.counters.refresh).epsilon
        left, parts, stored = self.episodes(not history) * self.horizon, [], writer.info.episodes
        while left >= self.horizon:
            # as many as fit if each takes its time
            episodes = left // self.horizon
            part = collect_episodes(
                self.envs,
                learner.policy,
                learner.critics,
                config,
                stored,
                episodes,
                behaviour,
                epsilon,
                self.report,
            ).transitions
            parts.append(part)
            stored, left = stored + episodes, left - len(part.rewards)
        data = Transitions(*(torch.cat(columns) for columns in zip(*parts, strict=True)))
        self.shard = writer.append(data, seed=config.seed, policy_digest=digest, behaviour=behaviour)

    def episodes(self, first: bool) -> int:
        """Return how many episodes a refresh has, where each takes its time."""
        return self.config.train.warm_up_episodes if first else self.config.train.episodes

    def load(self) -> Loaded:
        """Return the most recent rows."""
        replay, window = self.config.critics.replay, self.config.estep.window
        recent = Dataset(self.writer.path).recent(max(replay, window))
        rows = Transitions(*(column[-replay:] for column in recent))
        states = recent.obs[-window:].to(self.learner.device)
        replay_ahead = make_replay(rows, self.config, self.learner.device)
        return Loaded(rows, replay_ahead, states, first_observations(rows))

    def fresh(self) -> Transitions:
        """Return the refresh's roll-outs alone."""
        return Dataset(self.writer.path).recent(self.shard.transitions)

    def row(self, history: list[Row], gathering: float, learning: float) -> Row:
        """Return where the run is, and what its roll-outs brought."""
        before = history[-1] if history else {"env_steps": 0, "cumulative_cost": 0, "seconds": 0}
        shard = self.shard
        return {
            "refresh": len(history) + 1,
            "episodes": self.writer.info.episodes,
            "env_steps": before["env_steps"] + shard.transitions,
            "reward": shard.reward / shard.episodes,
            "cost": shard.cost / shard.episodes,
            "cumulative_cost": before["cumulative_cost"] + shard.cost,
            "epsilon": scheduled(self.config, self.learner.counters.refresh).epsilon,
            "seconds": before["seconds"] + gathering + learning,
            "collect_seconds": gathering,
        }


class ImaginedRollOuts(RollOuts):
    """Each refresh's roll-outs, imagined in a world model of logs; they are as many steps as simulated ones.

    Args:
        config, learner: the pipeline, and who acts.
        writer: of the imagined transitions, which are not the logs.
        logged: the world model, and the logs.
        report: where progress is reported.
    """

    def __init__(
        self,
        config: PipelineConfig,
        learner: Learner,
        writer: DatasetWriter,
        logged: LoggedWorld,
        report: Reporter,
    ) -> None:
        slots, task = min(config.collect.envs, config.train.episodes), config.task_row
        branches = logged.branches(config, slots)
        super().__init__(config, learner, writer, branches, report)
        self.trials, self.logged = logged.envs(config, slots), logged
        self.horizon, self.share = branches.horizon, branches.horizon / task.horizon

    def episodes(self, first: bool) -> int:
        """Return how many episodes a refresh has."""
        return round(super().episodes(first) / self.share)

    def load(self) -> Loaded:
        """Return the most recent rows; episodes begin where logged ones do."""
        return super().load()._replace(firsts=self.logged.firsts)

    def row(self, history: list[Row], gathering: float, learning: float) -> Row:
        """Return where the run is, and what its roll-outs brought, an episode as long as the task's."""
        row = super().row(history, gathering, learning)
        return row | {key: row[key] / self.share for key in ("reward", "cost")}
