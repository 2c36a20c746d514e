"""train --offline: critics, E-step and robust M-step on stored data, and nothing collected."""

from __future__ import annotations

from typing import Any

import torch

from harden.config.pipeline import PipelineConfig
from harden.data import Dataset, draw_rows
from harden.errors import InputError
from harden.method.bellman import Backups
from harden.method.learner import Learner, new_learner
from harden.method.schedules import scheduled
from harden.nets.saved import LoadedPolicy
from harden.progress import Reporter
from harden.seeds import generator
from harden.training.clone import fit_clone
from harden.training.ending import finish_run
from harden.training.ranges import require_ranges
from harden.training.refresh import History
from harden.training.replay import look_ahead
from harden.training.rounds import LiveRounds, run_rounds
from harden.training.run import begin_run, new_run, open_run, warm_up_steps
from harden.training.workspace import (
    Workspace,
    lasting,
    origin_of,
)


class Stored:
    """A supply of stored data: all of it, or for each refresh another part where it is larger than memory.

    Args:
        config, learner: the pipeline, and where it is.
        dataset: what there is.
    """

    def __init__(self, config: PipelineConfig, learner: Learner, dataset: Dataset) -> None:
        self.config, self.learner, self.dataset = config, learner, dataset
        self.rows: Backups | None = None

    @property
    def digest(self) -> str:
        """The identity of the data set."""
        return self.dataset.info.digest

    def gather(self, history: History) -> None:
        """Read what the next refresh learns from.

        Raises:
            InputError: actions or costs outside the task's ranges.
        """
        wanted = self.config.offline.rows
        if self.rows is None or len(self.dataset) > wanted:
            # before the next part is read, or there would be two in memory
            self.rows = None
            draw = generator("cpu", self.learner.seed, "offline-rows", len(history))
            rows = draw_rows(self.dataset, wanted, draw)
            # the clone saw the latest rows alone
            require_ranges(self.config, rows, self.dataset.path)
            self.rows = look_ahead(rows, self.config, self.learner.device)

    def load(self) -> tuple[Backups, torch.Tensor]:
        """Return the rows, looked ahead, and their observations."""
        assert self.rows is not None
        return self.rows, self.rows.obs

    def row(self, history: History, gathering: float, learning: float) -> dict[str, float]:
        """Return where the run is: of rewards and costs there is nothing new to say."""
        before = history[-1]["seconds"] if history else 0.0
        return {
            "refresh": len(history) + 1,
            "rows": 0 if self.rows is None else len(self.rows.rewards),
            "epsilon": scheduled(self.config, self.learner.counters.refresh).epsilon,
            "seconds": before + gathering + learning,
        }


def _begin(
    config: PipelineConfig,
    place: Workspace,
    dataset: Dataset,
    device: torch.device,
    start: LoadedPolicy | None,
    overwrite: bool,
    report: Reporter,
) -> None:
    learner = new_learner(config, device, start)
    rows = dataset.recent(config.imitation.rows)
    # before room is made: what is refused discards nothing
    require_ranges(config, rows, dataset.path)
    with new_run(place, collects=False, overwrite=overwrite) as fresh:
        behaviour, _, found = fit_clone(
            config, rows, config.imitation, device=device, logs=fresh.run, report=report
        )
        policy = behaviour if start is None else learner.policy
        learner = Learner(policy, learner.critics, config, device, behaviour=behaviour)
        told = {"data": dataset.info.digest, "transitions": len(dataset), "behaviour": found}
        begun = {"offline": told} | origin_of(start.about if start else None)
        begin_run(config, fresh, learner, warm_up_steps(config, learner, start), **begun)


def train_offline(
    config: PipelineConfig,
    place: Workspace,
    dataset: Dataset,
    *,
    device: torch.device,
    start: LoadedPolicy | None = None,
    resume: bool = False,
    overwrite: bool = False,
    tensorboard: bool = False,
    report: Reporter,
) -> tuple[History, list[str]]:
    """Harden a policy from stored data alone.

    The behaviour in the data is cloned first. Without a policy of its own the run starts from that clone; and
    the E-step draws its particles from it, so that what is learned is among what the data show.

    Args:
        dataset: of the pipeline's task and its variant's kind; it is read, never written.
        start: the policy to start from.
        resume, overwrite, tensorboard: as in `train`.

    Returns:
        One row a refresh, and what has to be known of the run.

    Raises:
        MissingInputError: nothing to resume.
        InputError: to resume, data of another content; actions or costs outside the task's ranges; a run is
            there.
        DivergedError: a loss became NaN or infinite; the last refresh stands.
    """
    if not resume:
        for missing in unknown_of(config, dataset):
            report.say(f"warning: not in these logs: {missing}")
        _begin(config, place, dataset, device, start, overwrite, report)
    learner, about = open_run(config, place, device, report)
    require_own_data(place, about, dataset)
    history = about["history"]
    supply = Stored(config, learner, dataset)
    warm_up, also = about.get("warm_up", 0), lasting(about)
    source = LiveRounds(config, place, learner, history, supply, report, warm_up, also)
    run_rounds(source, tensorboard)

    def replay() -> Backups:
        if supply.rows is None:
            supply.gather(history)
        return supply.load()[0]

    warnings = finish_run(config, place, device, replay, None, report)
    return history, warnings


def require_own_data(place: Workspace, about: dict[str, Any], dataset: Dataset) -> dict[str, Any]:
    """Return what a run stored of its data; a run goes on with those that it was begun with.

    Raises:
        InputError: others.
    """
    told: dict[str, Any] = about.get("offline") or {}
    if told.get("data") != dataset.info.digest:
        raise InputError(
            f"the run in {place.run} was begun with other data than {dataset.path}",
            "name its own with --data",
        )
    return told


def unknown_of(config: PipelineConfig, dataset: Dataset) -> list[str]:
    """Return what logs that hardly violate leave unknown: from them Q_c calls everything safe."""
    limit, cost = config.task_row.cost_limit, dataset.info.cost / dataset.info.episodes
    if cost >= limit:
        return []
    return [
        f"what danger looks like: the logs cost {cost:.1f} an episode, the limit is {limit:g}; policies "
        "hardened from such logs violated"
    ]
