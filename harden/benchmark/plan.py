"""What a sweep still has to do, how long that takes, and doing it."""

from __future__ import annotations

import math
import statistics
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from harden.benchmark.executors import EXECUTORS
from harden.benchmark.job import spec_of
from harden.benchmark.ledger import Entry, entry_path, finished, read_ledger, write_failure
from harden.benchmark.tables import Job
from harden.config.pipeline import PipelineConfig
from harden.progress import Reporter
from harden.stages.train import open_train, train
from harden.storage.files import read_json, write_json
from harden.training.workspace import Workspace


class Left(NamedTuple):
    """What a sweep has to do.

    Args:
        todo: runs that are not in the ledger, in their order.
        failed: runs that failed before, with the reason; they are in `todo` where they are to be tried again.
        done: how many are finished.
    """

    todo: list[Job]
    failed: list[tuple[Job, str]]
    done: int


def what_is_left(jobs: Sequence[Job], ledger: Path, again: bool = False) -> Left:
    """Return which runs the ledger lacks.

    Args:
        again: try runs again that failed.
    """
    entries = read_ledger(ledger)
    states = [(job, entries.get(job.key, {})) for job in jobs]
    failed = [(job, entry["reason"]) for job, entry in states if entry.get("status") == "failed"]
    wanted = {None, "failed"} if again else {None}
    todo = [job for job, entry in states if entry.get("status") in wanted]
    return Left(todo, failed, sum(entry.get("status") == "finished" for _, entry in states))


def _speeds(ledger: Path) -> Path:
    return ledger / "speed.json"


def _speed_name(job: Job) -> str:
    paper = "paper" if job.config.preset == "paper" else "reduced"
    return f"{job.task}/{job.variant}/{paper}"


class Clock:
    """How long runs take, from those in the ledger and from what `measure` stored beside them."""

    def __init__(self, ledger: Path) -> None:
        self.entries = finished(ledger)
        path = _speeds(ledger)
        self.measured: dict[str, float] = (
            read_json(path, "harden benchmark --measure") if path.is_file() else {}
        )

    def seconds(self, job: Job) -> float | None:
        """Return how long a run takes, from the nearest kin of which that is known, or None."""
        a_step = self.a_step(job)
        trying = [entry["evaluation_s"] for entry in self.entries]
        return None if a_step is None else a_step * _steps(job) + (statistics.median(trying) if trying else 0)

    def a_step(self, job: Job) -> float | None:
        """Return seconds a step of simulation, all learning included."""
        same = self._like(job)
        if not same and _speed_name(job) in self.measured:
            return self.measured[_speed_name(job)]
        paces = same or self._like(job, elsewhere=True)
        return statistics.median(map(_pace, paces)) if paces else None

    def knows(self, job: Job) -> bool:
        """Return whether runs of its task, variant and preset have been timed."""
        return bool(self._like(job)) or _speed_name(job) in self.measured

    def _like(self, job: Job, elsewhere: bool = False) -> list[Entry]:
        alike = [e for e in self.entries if e["config"]["preset"] == job.config.preset]
        return [e for e in alike if e["variant"] == job.variant and (elsewhere or e["task"] == job.task)]

    def said(self, job: Job) -> str:
        """Return in words how long a run takes."""
        seconds = self.seconds(job)
        return "unknown" if seconds is None else words(seconds)

    def total(self, jobs: Sequence[Job], workers: int) -> str:
        """Return in words how long runs take with so many at a time."""
        known = [self.seconds(job) for job in jobs]
        seconds = sum(one for one in known if one is not None) / min(workers, max(len(jobs), 1))
        unknown = known.count(None)
        if not jobs:
            return "nothing"
        if unknown == len(jobs):
            return "an unknown time (nothing like them has run: --measure times them)"
        rest = f", and {unknown} of unknown length" if unknown else ""
        return f"about {words(seconds)}{rest}"


def _steps(job: Job) -> int:
    config = job.config
    first = config.train.warm_up_episodes
    return (first + (config.refreshes - 1) * config.train.episodes) * config.task_row.horizon


def _pace(entry: Entry) -> float:
    return float(entry["trained"]["wall_time_s"]) / float(entry["trained"]["env_steps"])


def words(seconds: float) -> str:
    """Return a length of time in words."""
    minutes = seconds / 60
    if minutes < 90:
        return f"{max(1, round(minutes))} min"
    hours = minutes / 60
    return f"{hours:.1f} h" if hours < 72 else f"{hours / 24:.1f} days"


def small(config: PipelineConfig) -> PipelineConfig:
    """Return a configuration whose refreshes cost what the full one's do, a step of simulation.

    One episode a simulation; all counts of a refresh are smaller by the same factor; the adversary is at its
    full radius from the start; three refreshes.
    """
    train_section, ppo = config.train, config.ppo
    episodes = min(config.collect.envs, train_section.episodes)
    share = episodes / train_section.episodes

    def fewer(count: int) -> int:
        return max(1, math.ceil(count * share))

    sizes = {
        "episodes": episodes,
        "warm_up_episodes": episodes,
        "rounds": fewer(train_section.rounds),
        "env_steps": 3 * episodes * config.task_row.horizon,
    }
    update = {
        "train": train_section.model_copy(update=sizes),
        "ppo": ppo.model_copy(
            update={"actor_steps": fewer(ppo.actor_steps), "value_steps": fewer(ppo.value_steps)}
        ),
        "adversary": config.adversary.model_copy(update={"ramp_start": 0.0, "ramp": 0.0}),
    }
    return config.model_copy(update=update)


def measure(jobs: Sequence[Job], ledger: Path, say: Callable[[str], None]) -> None:
    """Time a few refreshes of each kind of run whose speed is not known, and store that beside the ledger."""
    torch.set_num_threads(1)
    for job in jobs:
        clock = Clock(ledger)
        if clock.knows(job):
            continue
        with tempfile.TemporaryDirectory() as folder:
            opened = open_train(
                small(job.config),
                Workspace.named("run", Path(folder)),
                device=torch.device("cpu"),
                allow_attacked_collection=True,
            )
            found = train(opened, Reporter(quiet=True))
        first, *_, last = found.history
        pace = (last["seconds"] - first["seconds"]) / (last["env_steps"] - first["env_steps"])
        write_json(_speeds(ledger), clock.measured | {_speed_name(job): round(pace, 7)})
        say(f"{_speed_name(job)}: {pace * 1000:.2f} ms a step, {words(pace * _steps(job))} for the whole run")


def sweep(
    jobs: Sequence[Job], ledger: Path, work: Path, executor: str, workers: int, say: Callable[[str], None]
) -> int:
    """Do runs, and say after each what is left; returns how many failed.

    Args:
        executor: a name of EXECUTORS.
        workers: runs at a time.
    """
    specs = [spec_of(job, ledger, work) for job in jobs]
    waiting, failures = dict(enumerate(jobs)), 0
    for outcome in EXECUTORS[executor](specs, workers):
        job = waiting.pop(outcome.place)
        path = entry_path(ledger, job)
        if outcome.entry is None:
            write_failure(path, job, outcome.reason)
        entry = read_json(path, "harden benchmark")
        failures += entry["status"] == "failed"
        rest = list(waiting.values())
        left = f"left: {len(rest)} runs, {Clock(ledger).total(rest, workers)}"
        say(f"{describe(job)}: {_verdict(entry)}; {left}")
    return failures


def describe(job: Job) -> str:
    """Return a run in words."""
    return f"{job.task} {job.row} seed {job.seed}"


def _verdict(entry: Entry) -> str:
    if entry["status"] == "failed":
        return f"failed: {entry['reason']}"
    natural, mc, _ = entry["trials"]["pgd"]
    took = words(entry["trained"]["wall_time_s"] + entry["evaluation_s"])
    return (
        f"finished in {took}, natural {natural['reward']['mean']:.0f} / {natural['cost']['mean']:.1f}, "
        f"MC {mc['reward']['mean']:.0f} / {mc['cost']['mean']:.1f}"
    )
