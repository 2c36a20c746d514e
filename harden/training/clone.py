"""A policy fitted to logged actions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from harden.config.pipeline import PipelineConfig
from harden.config.sections import Imitation
from harden.method.learner import new_learner
from harden.nets import GaussianPolicy
from harden.progress import Reporter
from harden.training.imitation import clone_loss, score, score_constant, split_episodes
from harden.training.imitation_fit import fit_imitation
from harden.types import Transitions

CPU = torch.device("cpu")


def fit_clone(
    config: PipelineConfig,
    rows: Transitions,
    options: Imitation,
    *,
    device: torch.device,
    logs: Path | None,
    report: Reporter,
) -> tuple[GaussianPolicy, int, dict[str, Any]]:
    """Fit a new policy to logged actions.

    Args:
        rows: whole episodes.
        options: rates, sizes and patience.
        logs: the run's folder, None for no log.

    Returns:
        The policy, on the CPU; the gradient steps taken; and the report, as in `Cloned`.

    Raises:
        InputError: under three episodes; DivergedError: the loss is not finite.
    """
    split = split_episodes(rows, options.held_out, config.seed)
    policy = new_learner(config, CPU).policy
    fit, stop, held_out = ((rows.obs[part], rows.actions[part]) for part in split[:3])
    done = fit_imitation(
        policy, clone_loss, fit, stop, options, seed=config.seed, device=device, logs=logs, report=report
    )
    found = {
        "episodes": dict(zip(("fit", "stop", "held_out"), split.episodes, strict=True)),
        "steps": done.best_step,
        "held_out": score(policy, *held_out)._asdict(),
        "constant": score_constant(fit[1], held_out[1], *policy.bounds)._asdict(),
    }
    return policy, done.steps, found
