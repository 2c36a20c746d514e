"""Supervised learning of a policy: from logged actions (cloning) or from another policy (distillation)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from harden.errors import InputError
from harden.nets import GaussianPolicy
from harden.ops import gaussian
from harden.seeds import generator
from harden.types import Transitions

# a policy and a batch of columns to the loss of each row
ImitationLoss = Callable[..., Tensor]


class Split(NamedTuple):
    """Rows of a data set by what they are for, whole episodes each.

    Args:
        fit: to learn from.
        stop: to know when to stop.
        held_out: to report on, and for nothing else.
        episodes: how many are in each.
    """

    fit: Tensor
    stop: Tensor
    held_out: Tensor
    episodes: tuple[int, int, int]


def split_episodes(data: Transitions, share: float, seed: int) -> Split:
    """Divide episodes at random.

    Args:
        share: of the episodes to hold out, and as many again to stop by; at least one each.
        seed: of the draw.

    Raises:
        InputError: fewer than three episodes.
    """
    ends = (data.terminals | data.timeouts).long()
    episode = ends.cumsum(0) - ends
    count = int(episode[-1]) + 1
    if count < 3:
        raise InputError(
            f"a data set of {count} episodes",
            "three are needed: to learn from, to stop by, and to report on",
        )
    aside = max(1, round(share * count))
    order = torch.randperm(count, generator=generator("cpu", seed, "held-out-episodes"))
    parts = order[2 * aside :], order[aside : 2 * aside], order[:aside]
    rows = [torch.nonzero(torch.isin(episode, part)).squeeze(1) for part in parts]
    return Split(rows[0], rows[1], rows[2], (len(parts[0]), aside, aside))


def clone_loss(policy: GaussianPolicy, obs: Tensor, actions: Tensor) -> Tensor:
    """Return each row's negative log-likelihood of a logged action, (B,), nats.

    Logs hold actions as applied: what the policy drew beyond a bound stands on it.
    """
    mean, std = policy(obs)
    low, high = policy.center - policy.half_range, policy.center + policy.half_range
    return -gaussian.censored_log_prob(actions, mean, std, low, high)


def distil_loss(policy: GaussianPolicy, obs: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Return each row's KL from the teacher's Gaussian, (B,), nats, mean and spread apart."""
    of_mean, of_std = gaussian.split_kl(mean, std, *policy(obs))
    return of_mean + of_std


def action_error(policy: GaussianPolicy, obs: Tensor, actions: Tensor) -> float:
    """Return the root mean square error of the mean action, a coordinate, in the action space's units."""
    with torch.no_grad():
        return float((policy.mean(obs) - actions).square().mean().sqrt())


def likelihood(policy: GaussianPolicy, obs: Tensor, actions: Tensor) -> float:
    """Return the mean log-likelihood of logged actions, nats an action."""
    with torch.no_grad():
        return -float(clone_loss(policy, obs, actions).mean())


def constant_policy(policy: GaussianPolicy, actions: Tensor) -> GaussianPolicy:
    """Return the most likely policy that ignores the observation: what a clone has to beat.

    Args:
        policy: gives the architecture's sizes, bounds, floor and ceiling.
        actions: (N, act_dim), what it is fitted to.
    """
    options = policy.architecture | {"hidden": [1], "init_std": (policy.min_std + policy.max_std) / 2}
    options.pop("kind")
    low, high = (torch.tensor(options.pop(name)) for name in ("low", "high"))
    constant = GaussianPolicy(**options, low=low, high=high)
    with torch.no_grad():
        for parameter in constant.parameters():
            parameter.zero_()
    free = [constant.mean_head.bias, constant.std_head.bias]
    optimizer = torch.optim.LBFGS(free, max_iter=200, line_search_fn="strong_wolfe")
    nothing = torch.zeros(1, options["obs_dim"])

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = clone_loss(constant, nothing, actions).mean()
        loss.backward()
        return loss

    optimizer.step(closure)
    assert math.isfinite(float(closure()))
    return constant.eval()
