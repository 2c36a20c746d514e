"""train: Algorithm 2, the composition of the stages, refreshed online and resumable at each refresh."""

from __future__ import annotations

import csv
import io
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch

from harden.algorithms.critics import critic_step
from harden.algorithms.estep import draw_states, e_step
from harden.algorithms.mstep import MStepLoss
from harden.checkpoint import load_policy, module_digest
from harden.config import PipelineConfig
from harden.data import Dataset, DatasetWriter, ShardInfo
from harden.envs.vector import VectorEnv
from harden.errors import InputError, MissingInputError
from harden.files import write_text
from harden.fit.mstep import RobustMStep, Work
from harden.fit.trainer import make_trainer
from harden.learner import Learner, load_state, new_learner
from harden.ops.bellman import Backups
from harden.progress import Reporter
from harden.stages.collect import collect_episodes, require_benign
from harden.stages.fit_critics import check_finite, look_ahead
from harden.stages.workspace import Workspace, commit, position_epsilon
from harden.types import DualSolution


class Trained(NamedTuple):
    """What a training run did.

    Args:
        refreshes: refreshes finished, of this run and of those it resumed.
        history: one row a refresh: steps, reward, cost, cumulative cost, multipliers, KLs, seconds.
        policy: the folder of the policy that was kept.
    """

    refreshes: int
    history: list[dict[str, float]]
    policy: Path


class _Meter:
    """Sums what a refresh did, without asking the device before its end."""

    def __init__(self) -> None:
        self.rows: list[torch.Tensor] = []
        self.solutions: list[torch.Tensor] = []

    def on_step(self, result: MStepLoss) -> None:
        parts = (result.loss.detach()[None], result.kl, result.kl_robust, result.beta, result.beta_robust)
        self.rows.append(torch.cat(parts))

    def on_estep(self, solution: DualSolution, expected_cost: torch.Tensor) -> None:
        values = (solution.eta, solution.lam, solution.lam_exact, solution.feasible, expected_cost)
        self.solutions.append(torch.stack([value.double() for value in values]))

    def summary(self) -> dict[str, float]:
        pairs = ("kl", "kl_robust", "beta", "beta_robust")
        names = ["loss", *(f"{name}_{part}" for name in pairs for part in ("mean", "std"))]
        steps = torch.stack(self.rows).mean(0).tolist()
        duals = torch.stack(self.solutions).mean(0).tolist()
        self.rows, self.solutions = [], []
        dual_names = ("eta", "lam", "lam_exact", "feasible", "q_cost")
        return dict(zip(names, steps, strict=True)) | dict(zip(dual_names, duals, strict=True))


def em_round(
    learner: Learner,
    replay: Backups,
    states: torch.Tensor,
    config: PipelineConfig,
    epsilon: float,
    on_estep: Callable[[DualSolution, torch.Tensor], None],
) -> Iterator[Work]:
    """Do one round but for its M-step, which whoever takes the batches does between two of them.

    Args:
        learner: is changed in place.
        replay: what the critics learn from.
        states: (N, obs_dim), where the E-step's states are drawn from, oldest first.
        epsilon: radius of the adversary.
        on_estep: called with the dual's solution and the expected cost.

    Source: Algorithm 2, lines 6 to 21.
    """
    train = config.train
    for _ in range(train.critic_steps):
        critic_step(learner, replay, config, epsilon)
    obs = draw_states(learner, states, train.states, config.estep.window)
    targets, learner.dual, expected_cost = e_step(learner, obs, config)
    on_estep(learner.dual, expected_cost)
    for iteration in range(train.policy_steps):
        yield Work(targets, epsilon, iteration)
    learner.advance(round=1)


class LiveRounds:
    """Algorithm 2 as a source of M-step batches: collect, critics and E-step happen between two of them.

    Args:
        config, place: the pipeline and its folders.
        learner: is changed in place.
        history: rows of the refreshes finished so far.
        writer, envs: the data set and the simulation.
        report: where progress is said.
    """

    def __init__(
        self,
        config: PipelineConfig,
        place: Workspace,
        learner: Learner,
        history: list[dict[str, float]],
        writer: DatasetWriter,
        envs: VectorEnv,
        report: Reporter,
    ) -> None:
        self.config, self.place, self.learner, self.history = config, place, learner, history
        self.writer, self.envs, self.report = writer, envs, report
        self.meter = _Meter()
        self._rounds: Iterator[Work] = iter(())

    def __len__(self) -> int:
        train = self.config.train
        return (self.config.refreshes - len(self.history)) * train.rounds * train.policy_steps

    def __iter__(self) -> Iterator[Work]:
        self._rounds = self._run()
        return self._rounds

    def finish(self) -> None:
        """Store the last refresh: whoever takes the batches stops asking after the last of them."""
        next(self._rounds, None)

    def _run(self) -> Iterator[Work]:
        for _ in range(len(self.history), self.config.refreshes):
            began = time.monotonic()
            if self.history:
                self.learner.advance(refresh=1)
            shard = self._collect()
            collected = time.monotonic()
            parent = module_digest(self.learner.policy)
            yield from self._learn()
            now = time.monotonic()
            self._finish(shard, parent, collected - began, now - collected)

    def _collect(self) -> ShardInfo:
        """Collect this refresh's episodes, or take up those that a killed run had stored already."""
        config, writer, learner = self.config, self.writer, self.learner
        train = config.train
        episodes = train.episodes if self.history else train.warm_up_episodes
        known = int(self.history[-1]["episodes"]) if self.history else 0
        digest = module_digest(learner.policy)
        if writer.info.shards and writer.info.episodes == known + episodes:
            last = writer.info.shards[-1]
            if (last.policy_digest, last.episodes, last.seed) == (digest, episodes, config.seed):
                return last
        first = writer.info.episodes
        behaviour = config.collect.behaviour
        data = collect_episodes(self.envs, learner.policy, config, first, episodes, behaviour, self.report)
        return writer.append(data.transitions, seed=config.seed, policy_digest=digest, behaviour=behaviour)

    def _learn(self) -> Iterator[Work]:
        config, learner, train = self.config, self.learner, self.config.train
        replay, states = self._load()
        epsilon = position_epsilon(config, learner)
        if not self.history:
            for _ in range(train.warm_up_critic_steps):
                critic_step(learner, replay, config, epsilon)
        with self.report.track(f"refresh {len(self.history) + 1}", train.rounds, "rounds") as track:
            for done in range(train.rounds):
                yield from em_round(learner, replay, states, config, epsilon, self.meter.on_estep)
                track(done + 1)

    def _load(self) -> tuple[Backups, torch.Tensor]:
        config, dataset = self.config, Dataset(self.place.data)
        wanted = max(config.critics.replay, config.estep.window)
        recent = dataset.recent(wanted)
        states = recent.obs[-config.estep.window :].to(self.learner.device)
        replay = type(recent)(*(column[-config.critics.replay :] for column in recent))
        return look_ahead(replay, config, self.learner.device), states

    def _finish(self, shard: ShardInfo, parent: str, collecting: float, learning: float) -> None:
        """Store the refresh: the state is the commit point, and nothing broken gets that far."""
        row = self.meter.summary()
        check_finite(self.learner, row["loss"])
        before = self.history[-1] if self.history else {"env_steps": 0, "cumulative_cost": 0, "seconds": 0}
        front = {
            "refresh": len(self.history) + 1,
            "episodes": self.writer.info.episodes,
            "env_steps": before["env_steps"] + shard.transitions,
            "reward": shard.reward / shard.episodes,
            "cost": shard.cost / shard.episodes,
            "cumulative_cost": before["cumulative_cost"] + shard.cost,
            "epsilon": position_epsilon(self.config, self.learner),
            "seconds": before["seconds"] + collecting + learning,
            "collect_seconds": collecting,
        }
        self.history.append(front | row)
        about = {
            "history": self.history,
            "data_digest": self.writer.info.digest,
            "parent": parent,
            "kept": "last: the policy at the end of the last refresh",
        }
        commit(self.config, self.place, self.learner, about)
        write_curve(self.place.run / "learning_curve.csv", self.history)
        self.report.say(_line(self.history[-1], self.config.refreshes))


def _line(row: dict[str, float], refreshes: int) -> str:
    return (
        f"refresh {row['refresh']:.0f}/{refreshes}  {row['env_steps']:,.0f} steps  {row['seconds']:.0f} s  "
        f"reward {row['reward']:.1f}  cost {row['cost']:.1f}  epsilon {row['epsilon']:.4f}  "
        f"lam {row['lam']:.2f}  Q_c {row['q_cost']:.2f}  KL {row['kl_mean']:.3f}  "
        f"robust KL {row['kl_robust_mean']:.2f}"
    )


def write_curve(path: Path, history: list[dict[str, float]]) -> None:
    """Write a learning curve as CSV, one row a refresh."""
    text = io.StringIO()
    table = csv.DictWriter(text, list(history[0]), lineterminator="\n")
    table.writeheader()
    table.writerows({key: f"{value:.6g}" for key, value in row.items()} for row in history)
    write_text(path, text.getvalue())


def _differing_key(old: Any, new: Any, path: str = "") -> str | None:
    if isinstance(old, dict) and isinstance(new, dict):
        for key in new:
            found = _differing_key(old.get(key), new[key], f"{path}.{key}" if path else key)
            if found and found not in _MAY_DIFFER:
                return found
        return None
    return path if old != new else None


_MAY_DIFFER = {"collect.workers", "evaluate"}


def _resume(config: PipelineConfig, place: Workspace, device: torch.device) -> tuple[Learner, list]:
    learner, about = load_state(place.state, config, device)
    if "history" not in about:
        raise InputError(
            f"the state in {place.run} was made by single stages",
            "begin a run with: harden train --overwrite",
        )
    new = config.model_dump(mode="json", exclude={"evaluate"})
    different = _differing_key(about.get("config", {}), new)
    if different:
        raise InputError(
            f"the run in {place.run} was made with another '{different}'",
            "resume it with its own configuration (config.json beside it), or begin anew with --overwrite",
        )
    return learner, about["history"]


def _begin(
    config: PipelineConfig, place: Workspace, device: torch.device, init: Path | None, overwrite: bool
) -> Learner:
    start = None if init is None else load_policy(init)
    if overwrite:
        for folder in (place.run, place.data):
            shutil.rmtree(folder, ignore_errors=True)
    if place.state.is_file() or place.data.exists():
        there = place.run if place.state.is_file() else place.data
        raise InputError(
            f"{there} holds an earlier run or its data",
            "go on with --resume, or discard both with --overwrite",
        )
    return new_learner(config, device, start)


def train(
    config: PipelineConfig,
    place: Workspace,
    *,
    device: torch.device,
    init: Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
    tensorboard: bool = False,
    report: Reporter,
) -> Trained:
    """Train a policy: from scratch, from a given one, or from where a run stopped.

    Args:
        init: a policy folder to start from; its critics are fitted to fresh benign data first.
        resume: go on from the last refresh stored; the end is the same as without the interruption.
        overwrite: discard an earlier run of this pipeline and its data set.
        tensorboard: log to TensorBoard beside CSV.

    Raises:
        InputError: a run is there already, or one to resume was made with another configuration.
        MissingInputError: nothing to resume, or no policy in `init`.
        DivergedError: a loss became NaN or infinite; the last refresh stands.

    Source: Algorithm 2.
    """
    history: list[dict[str, float]] = []
    if not resume:
        learner = _begin(config, place, device, init, overwrite)
    elif place.state.is_file():
        learner, history = _resume(config, place, device)
    elif place.data.exists():
        # killed before the first refresh was stored: what was collected is taken up
        learner = new_learner(config, device, None if init is None else load_policy(init))
    else:
        raise MissingInputError(
            f"no run to resume in {place.run}", f"begin one with: harden train -p {place.name}"
        )
    slots = min(config.collect.envs, config.train.episodes)
    with (
        DatasetWriter(place.data, config.task_row) as writer,
        VectorEnv(config.task_row, slots, config.collect.workers) as envs,
    ):
        require_benign(writer.info, place.data)
        source = LiveRounds(config, place, learner, history, writer, envs, report)
        if len(source):
            job = RobustMStep(learner, config, source.meter.on_step)
            first_step = learner.counters.policy_steps
            trainer = make_trainer(place.run, device, "policy", first_step, tensorboard=tensorboard)
            trainer.fit(job, source)
            source.finish()
    return Trained(len(history), history, place.policy)
