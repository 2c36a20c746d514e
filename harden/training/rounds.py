"""The live rounds of Algorithm 2: what `train` feeds the M-step's job with, and stores at each refresh."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import torch

from harden.config.pipeline import PipelineConfig
from harden.data import TargetsHeader, write_targets
from harden.method.adversary import adversary_share, attack_replayed
from harden.method.bellman import Backups
from harden.method.critic_step import critic_step
from harden.method.e_step import draw_states, e_step
from harden.method.learner import Learner
from harden.method.m_step import MStepLoss
from harden.method.robust_m_step import RobustMStep, Work
from harden.method.schedules import Scheduled, scheduled
from harden.nets.saved import module_digest
from harden.progress import Reporter
from harden.storage.files import digest_file
from harden.training.refresh import History, write_curve
from harden.training.replay import check_finite
from harden.training.targets import describe_targets
from harden.training.trainer import fit, make_trainer
from harden.training.workspace import Workspace, commit, which_policy
from harden.types import DualSolution, Targets


class _Meter:
    """Sums what a refresh did, without asking the device before its end."""

    def __init__(self) -> None:
        self.rows: list[torch.Tensor] = []
        self.solutions: list[torch.Tensor] = []

    def on_step(self, result: MStepLoss) -> None:
        parts = (result.loss.detach()[None], result.kl, result.kl_robust, result.beta, result.beta_robust)
        self.rows.append(torch.cat(parts))

    def on_estep(self, targets: Targets, solution: DualSolution, expected_cost: torch.Tensor) -> None:
        values = [solution.eta, solution.lam, solution.lam_exact, solution.feasible, expected_cost]
        values += [solution.kl, solution.converged]
        self.solutions.append(torch.stack([value.double() for value in values]))

    def summary(self) -> dict[str, float]:
        pairs = ("kl", "kl_robust", "beta", "beta_robust")
        names = ["loss", *(f"{name}_{part}" for name in pairs for part in ("mean", "std"))]
        steps = torch.stack(self.rows).mean(0).tolist()
        duals = torch.stack(self.solutions).mean(0).tolist()
        self.rows, self.solutions = [], []
        dual_names = ("eta", "lam", "lam_exact", "feasible", "q_cost", "kl_estep", "converged")
        return dict(zip(names, steps, strict=True)) | dict(zip(dual_names, duals, strict=True))


def em_round(
    learner: Learner,
    replay: Backups,
    states: torch.Tensor,
    config: PipelineConfig,
    terms: Scheduled,
    on_estep: Callable[[Targets, DualSolution, torch.Tensor], None],
) -> Iterator[Work]:
    """Do one round but for its M-step, which whoever takes the batches does between two of them.

    Args:
        learner: is changed in place.
        replay: what the critics learn from.
        states: (N, obs_dim), where the E-step's states are drawn from.
        terms: what the schedules set.
        on_estep: called with the targets, the dual's solution and the expected cost, before the M-step.

    Source: Algorithm 2, lines 6 to 21.
    Deviation: `train.critic_steps` critic updates a round, where the paper has one; each of them and the
        E-step draws rows of its own, where the paper's round has one minibatch (line 4): the E-step's states
        are recent ones, the critics' from the whole replay.
    """
    train = config.train
    for _ in range(train.critic_steps):
        critic_step(learner, replay, config, terms.epsilon)
    obs = draw_states(learner, states, train.states, len(states))
    obs = attack_replayed(learner, obs, config, terms.epsilon, "states-adversary", learner.counters.round)
    targets, learner.dual, expected_cost = e_step(learner, obs, config, terms)
    on_estep(targets, learner.dual, expected_cost)
    for iteration in range(train.policy_steps):
        yield Work(targets, terms, iteration)
    learner.finish_round()


class Supply(Protocol):
    """Where a refresh's data come from: roll-outs, or what is stored."""

    @property
    def digest(self) -> str:
        """The identity of the data set as it is now."""

    def gather(self, history: History) -> None:
        """Bring what the next refresh learns from."""

    def load(self) -> tuple[Backups, torch.Tensor]:
        """Return what the critics learn from, and the E-step's observations (N, obs_dim), oldest first."""

    def row(self, history: History, gathering: float, learning: float) -> dict[str, float]:
        """Return the front of the refresh's row of the learning curve, both times in seconds."""


class LiveRounds:
    """Algorithm 2 as a source of M-step batches: data, critics and E-step happen between two of them.

    Args:
        config, place: the pipeline and its folders.
        learner: is changed in place.
        history: rows of the refreshes finished so far.
        supply: brings the data.
        report: where progress is said.
        warm_up: critic steps before the first round.
        also: what is stored with every refresh besides.
    """

    def __init__(
        self,
        config: PipelineConfig,
        place: Workspace,
        learner: Learner,
        history: History,
        supply: Supply,
        report: Reporter,
        warm_up: int,
        also: dict[str, Any] | None = None,
    ) -> None:
        self.also = also or {}
        self.warm_up = warm_up
        self.config, self.place, self.learner, self.history = config, place, learner, history
        self.supply, self.report = supply, report
        self.meter = _Meter()
        self._targets: tuple[Targets, TargetsHeader]
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
            self.supply.gather(self.history)
            gathered = time.monotonic()
            parent = module_digest(self.learner.policy)
            yield from self._learn()
            now = time.monotonic()
            self._finish(parent, gathered - began, now - gathered)

    def _learn(self) -> Iterator[Work]:
        config, learner, train = self.config, self.learner, self.config.train
        replay, states = self.supply.load()
        terms = scheduled(config, learner.counters.refresh)
        if not self.history:
            for _ in range(self.warm_up):
                critic_step(learner, replay, config, terms.epsilon)
        with self.report.track(f"refresh {len(self.history) + 1}", train.rounds, "rounds") as track:
            for done in range(train.rounds):
                last = done == train.rounds - 1
                on_estep = self._keep if last else self.meter.on_estep
                yield from em_round(learner, replay, states, config, terms, on_estep)
                track(done + 1)

    def _keep(self, targets: Targets, solution: DualSolution, expected_cost: torch.Tensor) -> None:
        """Hold the refresh's last targets until it is stored."""
        self.meter.on_estep(targets, solution, expected_cost)
        digest, terms = self.supply.digest, scheduled(self.config, self.learner.counters.refresh)
        header = describe_targets(self.config, self.learner, solution, expected_cost, digest, terms)
        self._targets = Targets(*(column.cpu() for column in targets)), header

    def _finish(self, parent: str, gathering: float, learning: float) -> None:
        """Store the refresh: the state is the commit point, and nothing broken gets that far."""
        row, learner = self.meter.summary(), self.learner
        check_finite(learner, row["loss"])
        front = self.supply.row(self.history, gathering, learning)
        front["kappa"] = self._targets[1].kappa
        front["adversary_share"] = self._adversary_share()
        self.history.append(front | row)
        write_targets(self.place.targets, *self._targets)
        about = {
            "history": self.history,
            "targets_digest": digest_file(self.place.targets),
            "data_digest": self.supply.digest,
            "parent": parent,
            "kept": which_policy(self.config),
        }
        about |= self.also
        commit(self.config, self.place, self.learner, about)
        write_curve(self.place.run / "learning_curve.csv", self.history)
        self.report.say(_line(self.history[-1], self.config.refreshes))

    def _adversary_share(self) -> float:
        """Return how strong the training adversary is on the refresh's last states."""
        epsilon = scheduled(self.config, self.learner.counters.refresh).epsilon
        if not self.config.variant_row.adversarial or epsilon == 0:
            return 1.0
        obs = self._targets[0].obs.to(self.learner.device)
        return adversary_share(self.learner, obs, self.config, epsilon)


def run_rounds(source: LiveRounds, tensorboard: bool) -> None:
    """Let Lightning drive the M-step over all rounds that are left.

    Raises:
        DivergedError: a loss became NaN or infinite; the last refresh stands.
    """
    if not len(source):
        return
    learner, place = source.learner, source.place
    job = RobustMStep(learner, source.config, source.meter.on_step)
    first_step = learner.counters.policy_steps
    trainer = make_trainer(place.run, learner.device, "policy", first_step, tensorboard=tensorboard)
    fit(trainer, job, source, source.finish)


def _line(row: dict[str, float], refreshes: int) -> str:
    lived = ""
    if "reward" in row:
        lived = f"{row['env_steps']:,.0f} steps  reward {row['reward']:.1f}  cost {row['cost']:.1f}  "
    return (
        f"refresh {row['refresh']:.0f}/{refreshes}  {row['seconds']:.0f} s  {lived}"
        f"epsilon {row['epsilon']:.4f}  lam {row['lam']:.2f}  "
        f"Q_c {row['q_cost']:.2f}  KL {row['kl_mean']:.3f}  robust KL {row['kl_robust_mean']:.2f}  "
        f"adversary {row['adversary_share']:.2f}"
    )
