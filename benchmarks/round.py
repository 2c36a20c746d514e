"""Speed of one EM round on one thread: its phases, Lightning's overhead, and FSRL's CVPO beside it.

    make bench

The same round is timed in a bare loop and inside a Lightning Trainer; where --rival names the Python of an
environment with fast-safe-rl, its update is timed too. Blocks of updates of all of them alternate, so that
whatever else slows the machine slows each alike, and the median block counts.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from harden.config.pipeline import PipelineConfig, make_config
from harden.method.bellman import Backups
from harden.method.critic_step import critic_step
from harden.method.e_step import draw_states, e_step
from harden.method.learner import Learner, new_learner
from harden.method.robust_m_step import RobustMStep, Work
from harden.method.schedules import scheduled
from harden.storage.files import write_json
from harden.training.replay import look_ahead
from harden.training.rounds import em_round
from harden.training.trainer import make_trainer
from harden.training.workspace import versions
from harden.types import Targets, Transitions

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
    return look_ahead(data, config, CPU)


def m_step(learner: Learner, job: RobustMStep, work: Work) -> None:
    """Do what the Trainer does with one batch."""
    loss = job.loss(work)
    learner.policy_optimizer.zero_grad(set_to_none=True)
    loss.backward()
    learner.policy_optimizer.step()


class Bare:
    """Rounds in a plain loop."""

    def __init__(self, config: PipelineConfig) -> None:
        self.config, self.replay = config, replay_of(config)
        self.learner = new_learner(config, CPU)
        self.terms = scheduled(config, 0)._replace(epsilon=0.0)
        self.job = RobustMStep(self.learner, config)

    def __call__(self, count: int) -> float:
        began = time.perf_counter()
        for _ in range(count):
            for work in em_round(
                self.learner, self.replay, self.replay.obs, self.config, self.terms, lambda *_: None
            ):
                m_step(self.learner, self.job, work)
        return time.perf_counter() - began

    def phases(self, count: int) -> dict[str, float]:
        """Return the seconds of each phase of `count` rounds."""
        learner, config, replay = self.learner, self.config, self.replay
        spent = dict.fromkeys(("critics", "e-step", "m-step"), 0.0)

        def timed(name: str, work: Callable[[], Any]) -> Any:
            began = time.perf_counter()
            done = work()
            spent[name] += time.perf_counter() - began
            return done

        def expect() -> Targets:
            obs = draw_states(learner, replay.obs, config.train.states, config.estep.window)
            targets, learner.dual, _ = e_step(learner, obs, config, self.terms)
            return targets

        for _ in range(count):
            timed("critics", lambda: critic_step(learner, replay, config, 0.0))
            targets = timed("e-step", expect)
            timed("m-step", lambda targets=targets: m_step(learner, self.job, Work(targets, self.terms, 0)))
            learner.advance(round=1)
        return spent


class Timed:
    """A source of rounds for the Trainer that stops a clock around blocks of them, after a warm-up."""

    def __init__(self, bare: Bare, warm_up: int, count: int) -> None:
        self.bare, self.warm_up, self.count, self.seconds = bare, warm_up, count, 0.0

    def __len__(self) -> int:
        return self.warm_up + self.count + 1

    def __iter__(self) -> Iterator[Work]:
        bare = self.bare
        began = 0.0
        for done in range(len(self)):
            if done == self.warm_up:
                began = time.perf_counter()
            elif done == self.warm_up + self.count:
                self.seconds = time.perf_counter() - began
            yield from em_round(
                bare.learner, bare.replay, bare.replay.obs, bare.config, bare.terms, lambda *_: None
            )


def in_trainer(bare: Bare, folder: Path, warm_up: int, count: int) -> float:
    """Return the seconds of `count` rounds inside Trainer.fit, without its set-up."""
    source = Timed(bare, warm_up, count)
    make_trainer(folder, CPU, "policy", 0).fit(RobustMStep(bare.learner, bare.config), source)
    return source.seconds


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
    """Time everything in alternating blocks and return medians."""
    ours, alike = Bare(configure(2)), Bare(configure(1))
    runners: dict[str, Callable[[int], float]] = {"harden": ours, "harden_one_reward_critic": alike}
    rival = None if rival_python is None else Rival(rival_python, ours.config)
    if rival is not None:
        runners["fsrl"] = rival
    folder = tempfile.TemporaryDirectory()
    runners["harden_in_trainer"] = lambda count: in_trainer(ours, Path(folder.name), 10, count)
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

    def ms(values: list[float]) -> float:
        return round(1e3 * statistics.median(values), 3)

    def ratio(name: str, other: str) -> float:
        pairs = zip(seconds[name], seconds[other], strict=True)
        return round(statistics.median(a / b for a, b in pairs), 3)

    result: dict[str, Any] = {
        "command": "make bench",
        "what": "one round: N=256 states, K=16, networks (128,128), M=1, no adversary, 1 thread",
        "blocks": blocks,
        "updates_a_block": updates,
        "ms_an_update": {name: ms(values) for name, values in seconds.items()},
        "updates_a_second": {name: round(1e3 / ms(values), 1) for name, values in seconds.items()},
        "phases_ms": {name: ms(values) for name, values in phases.items()},
        "trainer_overhead": round(ratio("harden_in_trainer", "harden") - 1.0, 3),
    }
    if rival is not None:
        result["ratio_to_fsrl"] = {
            "default, two reward critics": ratio("harden", "fsrl"),
            "one reward critic, as FSRL has": ratio("harden_one_reward_critic", "fsrl"),
        }
        result["rival"] = rival.versions
    return result | {"versions": versions(), "machine": platform.machine()}


def main() -> None:
    """Measure, print, and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rival", help="Python of an environment with fast-safe-rl")
    parser.add_argument("--json", type=Path, help="write the result there")
    parser.add_argument("--blocks", type=int, default=15)
    parser.add_argument("--updates", type=int, default=60, help="updates a block")
    options = parser.parse_args()
    torch.set_num_threads(1)
    result = measure(options.rival, options.blocks, options.updates)
    print(json.dumps(result, indent=2))
    if options.json:
        write_json(options.json, result)


if __name__ == "__main__":
    main()
