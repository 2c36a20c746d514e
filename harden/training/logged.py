"""What logs alone give: a world model of their robot, and how far it can be trusted."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from harden.config.pipeline import PipelineConfig
from harden.config.rule import cost_of, parse_rule
from harden.data.dataset import Dataset
from harden.errors import InputError, MissingInputError
from harden.method.imagination import first_observations
from harden.method.learner import new_world
from harden.models import world as models
from harden.models.simulator import WorldEnv
from harden.models.world import WorldModel
from harden.progress import Reporter
from harden.seeds import derive, generator
from harden.storage.tensor_file import read_tensors, write_tensors
from harden.training.imitation import split_episodes
from harden.types import Transitions

# shares of the fit, and the learning rate's in each
_RATES = (1.0, 0.3)
_CHUNK = 100
# of the variance of held-out steps: above it a world model does not tell what an action does
_MOST_ERROR = 0.9


class LoggedWorld(NamedTuple):
    """A world model of logs, with the logs.

    Args:
        world: frozen, on the CPU.
        rows: whole episodes, their costs as the model's.
        found: of held-out episodes: `error`, mean squared, of a step in units of the steps' variance; `cost`
            expected of a step, and `cost_seen`.
    """

    world: WorldModel
    rows: Transitions
    found: dict[str, Any]

    @property
    def firsts(self) -> Tensor:
        """The states in which logged episodes begin, (E, obs_dim)."""
        return first_observations(self.rows)

    def envs(self, config: PipelineConfig, slots: int, *, apart: bool = False) -> WorldEnv:
        """Return imagined environments with whole episodes, from where logged ones begin."""
        return WorldEnv(
            self.world, config.task_row, self.firsts, slots, lost=config.offline.lost, apart=apart
        )

    def branches(self, config: PipelineConfig, slots: int) -> WorldEnv:
        """Return imagined environments with short episodes, most of which begin within logged ones.

        On its way an imagined episode drifts from what a real one would be; a short one has no time to.
        """
        options, task = config.offline, config.task_row
        return WorldEnv(
            self.world,
            task,
            self.firsts,
            slots,
            branches=self.rows.obs,
            branched=options.branched,
            horizon=min(options.length, task.horizon),
            lost=options.lost,
        )


def read_logs(config: PipelineConfig, dataset: Dataset, most: int = 0) -> Transitions:
    """Return the latest rows of a data set, their costs by the task's rule where it has one.

    Args:
        most: how many, `offline.rows` where not given.
    """
    rows, task = dataset.recent(most or config.offline.rows), config.task_row
    if not task.cost:
        return rows
    rule = parse_rule(task.cost, {"obs": task.obs_dim, "action": task.act_dim})
    return rows._replace(costs=cost_of(rule, rows.next_obs, rows.actions, task.max_step_cost))


def fit_world(
    config: PipelineConfig, rows: Transitions, report: Reporter, seed: int | None = None
) -> LoggedWorld:
    """Fit a world model to logs, and try it on episodes that it did not learn from.

    Args:
        rows: whole episodes.
        seed: of its weights and batches, and of which episodes are held out; the pipeline's where not given.

    Raises:
        InputError: under three episodes, or the model does not tell what an action does.
    """
    if seed is not None:
        config = config.model_copy(update={"seed": seed})
    section, steps = config.world, config.offline.world_steps
    split = split_episodes(rows, config.imitation.held_out, config.seed)
    learned = models.rows_of(rows, torch.cat((split.fit, split.stop)))
    held_out = models.rows_of(rows, split.held_out)
    world = new_world(config)
    world.measure(learned)
    optimizer = torch.optim.Adam(world.parameters(), fused=True)
    draw = generator("cpu", config.seed, "logged-world")
    with report.track("world model", steps, "steps") as track:
        for done in range(0, steps, _CHUNK):
            rate = _RATES[done * len(_RATES) // steps]
            for group in optimizer.param_groups:
                group["lr"] = rate * section.learning_rate
            size = {"steps": min(_CHUNK, steps - done), "batch": section.batch}
            loss = models.fit(world, optimizer, learned, **size, recent=len(learned.rewards), draw=draw)
            track(done + size["steps"], f"loss {loss:.4g}")
    found = models.calibrate(world, held_out)
    models.set_reach(world, held_out, section.reach)
    if not found.error <= _MOST_ERROR:
        raise InputError(
            f"a world model of these logs misses {found.error:.0%} of the variance of held-out steps, and "
            f"{_MOST_ERROR:.0%} is the most that can be trained in",
            "log more, see that an action and its observation are of the same moment, or fit longer "
            "(offline.world_steps)",
        )
    return LoggedWorld(world.requires_grad_(False), rows, found._asdict())


def judging_world(config: PipelineConfig, dataset: Dataset, path: Path, report: Reporter) -> LoggedWorld:
    """Return the world model of logs that policies are tried in: the one in a file, or one fitted now.

    It is another one than training works in, whose errors a policy may have learned to use.

    Args:
        dataset: the logs.
        path: where it is kept, and replaced where it is of other logs or settings.

    Raises:
        InputError: as `fit_world`; DamagedFileError: what is kept there was altered.
    """
    seed = derive(config.seed, "judging-world") % 2**32
    rows = read_logs(config, dataset)
    sections = [section.model_dump(mode="json") for section in (config.world, config.offline)]
    made_with = [*sections, config.task_row.cost, seed]
    about = {"kind": "world-model", "data": dataset.info.digest, "made_with": made_with}
    try:
        tensors, stored = read_tensors(path, "harden evaluate --imagined")
    except MissingInputError:
        stored = {}
    if {key: stored.get(key) for key in about} == about:
        world = new_world(config)
        world.load_state_dict(tensors)
        return LoggedWorld(world.requires_grad_(False), rows, stored["found"])
    made = fit_world(config, rows, report, seed)
    write_tensors(path, made.world.state_dict(), about | {"found": made.found})
    return made
