"""Where a refresh's data come from: fresh roll-outs, or what is stored."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from torch import Tensor

from harden.config.pipeline import PipelineConfig
from harden.data import Dataset, DatasetWriter, ShardInfo, draw_rows
from harden.envs.vector import VectorEnv
from harden.method.bellman import Backups
from harden.method.critic_step import make_replay
from harden.method.learner import Learner
from harden.method.schedules import scheduled
from harden.nets.saved import module_digest
from harden.progress import Reporter
from harden.seeds import generator
from harden.training.checks import require_ranges
from harden.training.collection import collect_episodes
from harden.training.state import Row
from harden.types import Transitions


class Loaded(NamedTuple):
    """What a refresh learns from, oldest first.

    Args:
        rows: whole episodes, which a world model learns from.
        replay: the same, looked ahead, on the learner's device: what the critics learn from.
        states: (N, obs_dim), the window that the E-step's observations are drawn from, on the device.
    """

    rows: Transitions
    replay: Backups
    states: Tensor


class Supply(Protocol):
    """What the training loop asks for data."""

    @property
    def envs(self) -> VectorEnv | None:
        """The simulation, None where nothing may be simulated."""

    @property
    def digest(self) -> str:
        """The identity of the data set as it is now."""

    def gather(self, history: list[Row]) -> None:
        """Bring what the next refresh learns from."""

    def load(self) -> Loaded:
        """Return what a refresh learns from."""

    def row(self, history: list[Row], gathering: float, learning: float) -> Row:
        """Return the first columns of the refresh's row of the learning curve, both times in seconds."""


class RollOuts:
    """Each refresh's roll-outs, and the most recent of all that is stored.

    Args:
        config, learner: the pipeline, and who acts.
        writer, envs: the data set and the simulation.
        report: where progress is reported.

    Attributes:
        shard: the refresh's roll-outs.
    """

    shard: ShardInfo

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

    @property
    def digest(self) -> str:
        """The identity of the data set as it is now."""
        return self.writer.info.digest

    def gather(self, history: list[Row]) -> None:
        """Collect a refresh's episodes, or take up those that a killed run had stored already."""
        config, writer, learner = self.config, self.writer, self.learner
        episodes = config.train.episodes if history else config.train.warm_up_episodes
        first = int(history[-1]["episodes"]) if history else 0
        digest = module_digest(learner.policy)
        if writer.info.shards and writer.info.episodes == first + episodes:
            last = writer.info.shards[-1]
            if (last.policy_digest, last.episodes, last.seed) == (digest, episodes, config.seed):
                self.shard = last
                return
        first = writer.info.episodes
        behaviour, epsilon = config.behaviour, scheduled(config, learner.counters.refresh).epsilon
        data = collect_episodes(
            self.envs,
            learner.policy,
            learner.critics,
            config,
            first,
            episodes,
            behaviour,
            epsilon,
            self.report,
        ).transitions
        self.shard = writer.append(data, seed=config.seed, policy_digest=digest, behaviour=behaviour)

    def load(self) -> Loaded:
        """Return the most recent rows."""
        replay, window = self.config.critics.replay, self.config.estep.window
        recent = Dataset(self.writer.path).recent(max(replay, window))
        rows = Transitions(*(column[-replay:] for column in recent))
        states = recent.obs[-window:].to(self.learner.device)
        return Loaded(rows, make_replay(rows, self.config, self.learner.device), states)

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


class Stored:
    """Stored data: all of them, or for each refresh another part where they are larger than memory.

    Args:
        config, learner: the pipeline, and where it is.
        dataset: what there is.
    """

    envs = None

    def __init__(self, config: PipelineConfig, learner: Learner, dataset: Dataset) -> None:
        self.config, self.learner, self.dataset = config, learner, dataset
        self.rows: Transitions | None = None
        self.replay: Backups | None = None

    @property
    def digest(self) -> str:
        """The identity of the data set."""
        return self.dataset.info.digest

    def gather(self, history: list[Row]) -> None:
        """Read what the next refresh learns from.

        Raises:
            InputError: actions or costs outside the task's ranges.
        """
        most = self.config.offline.rows
        if self.rows is None or len(self.dataset) > most:
            # before the next part is read, or there would be two in memory
            self.rows = self.replay = None
            draw = generator("cpu", self.learner.seed, "offline-rows", self.learner.counters.refresh)
            rows = draw_rows(self.dataset, most, draw)
            # the clone saw the latest rows alone
            require_ranges(self.config, rows, self.dataset.path)
            self.rows, self.replay = rows, make_replay(rows, self.config, self.learner.device)

    def load(self) -> Loaded:
        """Return the rows that were gathered; the E-step draws from all of them."""
        if self.rows is None:
            # a run that was interrupted before its end takes the last refresh's part again
            self.gather([])
        assert self.rows is not None
        assert self.replay is not None
        return Loaded(self.rows, self.replay, self.replay.obs)

    def row(self, history: list[Row], gathering: float, learning: float) -> Row:
        """Return where the run is: of rewards and costs there is nothing new to say."""
        return {
            "refresh": len(history) + 1,
            "rows": 0 if self.rows is None else len(self.rows.rewards),
            "epsilon": scheduled(self.config, self.learner.counters.refresh).epsilon,
            "seconds": (history[-1]["seconds"] if history else 0.0) + gathering + learning,
        }
