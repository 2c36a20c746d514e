"""What can be said of an offline run without a simulation."""

from __future__ import annotations

from typing import Any

from harden.attacks import Strength
from harden.data import Dataset
from harden.evaluation.offline import FORMAT_VERSION, NOT_SIMULATED, estimate
from harden.method.schedules import scheduled
from harden.nets.saved import module_digest
from harden.training.checks import unknown_from_logs
from harden.training.imitation import split_episodes
from harden.training.run import Run
from harden.training.workspace import versions


def offline_estimates(run: Run, dataset: Dataset) -> dict[str, Any]:
    """Return what can be said of the run's policy from held-out episodes, marked as not simulated."""
    config, learner = run.config, run.learner
    rows = dataset.recent(config.imitation.rows)
    held_out = split_episodes(rows, config.imitation.held_out, config.seed).held_out
    task, options, behaviour, info = config.task_row, config.evaluate, learner.behaviour, dataset.info
    assert behaviour is not None
    found = estimate(
        {"cloned": behaviour, "hardened": learner.average},
        learner.critics,
        behaviour,
        rows.obs[held_out].to(learner.device),
        task.radius(config.eval_epsilon),
        Strength(
            options.attack_steps or 50,
            options.restarts,
            options.step_share,
            options.norm,
            starts=options.starts,
        ),
        config.offline.support,
        config.seed,
    )
    logs = {
        "episodes": info.episodes,
        "reward": info.reward / info.episodes,
        "path": str(dataset.path),
        "cost": info.cost / info.episodes,
    }
    return {
        "format_version": FORMAT_VERSION,
        "kind": "offline",
        "simulated": False,
        "not_simulated": [*NOT_SIMULATED, *unknown_from_logs(config, dataset)],
        "task": task.name,
        "cost_limit": task.cost_limit,
        "kappa": scheduled(config, None).kappa,
        "epsilon": config.eval_epsilon,
        "policy": {"path": str(run.workspace.policy), "policy_digest": module_digest(learner.average)},
        "data": (run.record.offline or {}) | logs,
        "estimates": found,
        "versions": versions(),
    }
