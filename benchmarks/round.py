"""Speed of one EM round on one thread: its phases, Lightning's overhead, FSRL's CVPO beside it.

The round is timed as the training loop does it; gradient steps of fit-policy in a bare loop and inside a
Lightning Trainer; where --rival names a Python with fast-safe-rl, its update is timed too.
Blocks of updates of all of them alternate, so that whatever else slows the machine slows each alike, and the
median block counts.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.callbacks import Callback

from harden.config.pipeline import PipelineConfig, make_config
from harden.method.bellman import Backups
from harden.method.critic_step import fit_critics, make_replay
from harden.method.learner import new_learner
from harden.method.m_step import RobustMStep, TargetBatches
from harden.method.schedules import scheduled
from harden.training.loop import expectation, maximisation
from harden.training.trainer import make_fabric, make_trainer
from harden.types import Transitions

ROWS = 80_000
CPU = torch.device("cpu")


def configure(reward_critics: int) -> PipelineConfig:
    """Return the round that is timed: N=256, K=16, (128, 128), M=1, no adversary."""
    return make_config(
        {
            "task": "ball-circle",
            "variant": "cvpo",
            "networks": {
                "policy_hidden": [128, 128],
                "critic_hidden": [128, 128],
                "reward_critics": reward_critics,
            },
            "critics": {"batch": 256},
            "estep": {"particles": 16},
            "train": {"states": 256, "policy_steps": 1, "critic_steps": 1},
        }
    )


def replay_of(config: PipelineConfig) -> Backups:
    """Return random transitions, looked ahead as a run does: the arithmetic does not depend on what they say.

    They are as many as the critics' replay holds by default. What looking ahead frees stays with the process,
    as in a run, so that no round waits for memory to be handed out page by page.
    """
    task, draw = config.task_row, torch.Generator().manual_seed(0)
    data = Transitions(
        obs=torch.randn(ROWS, task.obs_dim, generator=draw),
        actions=torch.rand(ROWS, task.act_dim, generator=draw) * 2 - 1,
        rewards=torch.randn(ROWS, generator=draw),
        costs=(torch.rand(ROWS, generator=draw) < 0.3).float(),
        next_obs=torch.randn(ROWS, task.obs_dim, generator=draw),
        terminals=torch.zeros(ROWS, dtype=torch.bool),
        timeouts=torch.arange(ROWS) % task.horizon == task.horizon - 1,
    )
    return make_replay(data, config, CPU)


class Rounds:
    """Rounds as the training loop does them."""

    def __init__(self, config: PipelineConfig) -> None:
        self.config, self.replay = config, replay_of(config)
        self.learner = new_learner(config, CPU)
        self.terms = scheduled(config, 0)._replace(epsilon=0.0)
        self.fabric = make_fabric(Path(), CPU, tensorboard=False)
        module = RobustMStep(self.learner, config, self.terms)
        self.m_step = self.fabric.setup(module, self.learner.policy_optimizer)

    def __call__(self, count: int) -> float:
        return sum(self.phases(count).values())

    def phases(self, count: int) -> dict[str, float]:
        """Return the seconds of each phase of `count` rounds."""
        learner, config, terms = self.learner, self.config, self.terms
        spent = dict.fromkeys(("critics", "e-step", "m-step"), 0.0)
        for _ in range(count):
            began = time.perf_counter()
            fit_critics(learner, self.replay, config, terms.epsilon, config.train.critic_steps)
            fitted = time.perf_counter()
            targets, _ = expectation(learner, self.replay.obs, config.train.states, config, terms)
            solved = time.perf_counter()
            for _ in maximisation(self.fabric, self.m_step, targets, config.train.policy_steps):
                pass
            learner.finish_round()
            ended = time.perf_counter()
            for name, seconds in zip(spent, (fitted - began, solved - fitted, ended - solved), strict=True):
                spent[name] += seconds
        return spent


class Fit:
    """Gradient steps of the robust M-step on stored targets: in a bare loop, or in a Lightning Trainer."""

    def __init__(self, config: PipelineConfig, folder: Path) -> None:
        self.config, self.learner, self.folder = config, new_learner(config, CPU), folder
        self.terms = scheduled(config, 0)._replace(epsilon=0.0)
        obs = replay_of(config).obs
        self.targets, _ = expectation(self.learner, obs, config.train.states, config, self.terms)

    def bare(self, count: int) -> float:
        """Return the seconds of `count` steps."""
        module, optimizer = RobustMStep(self.learner, self.config, self.terms), self.learner.policy_optimizer
        began = time.perf_counter()
        for iteration in range(count):
            optimizer.zero_grad(set_to_none=True)
            module.training_step(self.targets, iteration).backward()
            optimizer.step()
        return time.perf_counter() - began

    def in_trainer(self, count: int) -> float:
        """Return the seconds of `count` steps inside Trainer.fit, without its set-up."""
        module, clock = RobustMStep(self.learner, self.config, self.terms), Clock()
        batches = TargetBatches(self.targets, count, len(self.targets.obs), self.learner)
        make_trainer(self.folder, CPU, "policy", 0, callbacks=[clock]).fit(module, batches)
        return clock.seconds


class Clock(Callback):
    """Measures the time from the first batch to the end."""

    seconds = 0.0

    def on_train_epoch_start(self, *_: Any) -> None:
        """Start."""
        self.began = time.perf_counter()

    def on_train_epoch_end(self, *_: Any) -> None:
        """Stop."""
        self.seconds = time.perf_counter() - self.began


class Rival:
    """FSRL's CVPO in a process of its own."""

    def __init__(self, python: str, config: PipelineConfig) -> None:
        task = config.task_row
        sizes = {
            "states": config.train.states,
            "obs-dim": task.obs_dim,
            "act-dim": task.act_dim,
            "horizon": task.horizon,
            "rows": ROWS,
        }
        words = [word for name, value in sizes.items() for word in (f"--{name}", str(value))]
        script = Path(__file__).with_name("rival_fsrl.py")
        self.process = subprocess.Popen(
            [python, str(script), *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.versions = json.loads(self._line())

    def _line(self) -> str:
        assert self.process.stdout is not None
        while line := self.process.stdout.readline():
            if line[0] in "{0123456789":
                return line
        raise SystemExit(f"the rival ended with exit status {self.process.wait()}")

    def __call__(self, count: int) -> float:
        assert self.process.stdin is not None
        print(count, file=self.process.stdin, flush=True)
        return float(self._line())


def measure(rival_python: str | None, blocks: int, updates: int) -> dict[str, Any]:
    """Time everything in alternating blocks; returns seconds an update of each, and medians by phase."""
    ours, alike = Rounds(configure(2)), Rounds(configure(1))
    runners: dict[str, Callable[[int], float]] = {"harden": ours, "harden_one_reward_critic": alike}
    rival = None if rival_python is None else Rival(rival_python, ours.config)
    if rival is not None:
        runners["fsrl"] = rival
    folder = tempfile.TemporaryDirectory()
    fit = Fit(ours.config, Path(folder.name))
    runners["fit_policy_bare"] = lambda count: fit.bare(5 * count)
    runners["fit_policy_in_trainer"] = lambda count: fit.in_trainer(5 * count)
    for run in runners.values():
        run(updates)
    seconds: dict[str, list[float]] = {name: [] for name in runners}
    phases: dict[str, list[float]] = {"critics": [], "e-step": [], "m-step": []}
    for _ in range(blocks):
        for name, run in runners.items():
            seconds[name].append(run(updates) / updates)
        for name, spent in ours.phases(updates).items():
            phases[name].append(spent / updates)
    folder.cleanup()

    result: dict[str, Any] = {
        "what": "one round: N=256 states, K=16, networks (128,128), M=1, no adversary, 1 thread",
        "seconds": seconds,
        "phases_ms": {name: round(1e3 * statistics.median(spent), 3) for name, spent in phases.items()},
    }
    return result if rival is None else result | {"rival": rival.versions}
