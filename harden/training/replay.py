"""What the critics learn from: stored transitions, looked ahead; and the check that a fit did not diverge."""

from __future__ import annotations

import torch

from harden.config.pipeline import PipelineConfig
from harden.errors import DivergedError
from harden.method.advantage import as_observed
from harden.method.bellman import Backups, backups
from harden.method.learner import Learner
from harden.types import Transitions


def look_ahead(data: Transitions, config: PipelineConfig, device: torch.device) -> Backups:
    """Return what the critics learn from, on the learner's device."""
    if config.variant_row.on_policy:
        data = as_observed(data)
    critics = config.critics
    of_reward = (critics.gamma_reward, critics.n_step_reward)
    plain = backups(data, of_reward, (critics.gamma_cost, critics.n_step_cost))
    return Backups(*(column.to(device) for column in plain))


def check_finite(learner: Learner, loss: float) -> None:
    """Stop before anything broken is stored.

    Raises:
        DivergedError: the loss or a weight is NaN or infinite.
    """
    weights = [*learner.policy.parameters(), *learner.critics.parameters()]
    if not (loss == loss and abs(loss) != float("inf")) or not all(bool(w.isfinite().all()) for w in weights):
        raise DivergedError(
            f"training diverged in round {learner.counters.round} (loss {loss})",
            "the last good state is kept: lower the learning rates and go on from it",
        )
