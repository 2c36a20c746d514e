"""Supervised learning of a policy: from logged actions (cloning) or from another policy (distillation)."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from harden.errors import InputError
from harden.nets import GaussianPolicy, gaussian
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


def require_episodes(count: int, named: str) -> None:
    """Refuse too few episodes for a `Split`.

    Args:
        named: what says how many there are, in the error.

    Raises:
        InputError: fewer than three.
    """
    if count < 3:
        raise InputError(named, "three are needed: to learn from, to stop by, and to report on")


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
    require_episodes(count, f"a data set of {count} episodes")
    aside = max(1, round(share * count))
    order = torch.randperm(count, generator=generator("cpu", seed, "held-out-episodes"))
    parts = order[2 * aside :], order[aside : 2 * aside], order[:aside]
    rows = [torch.nonzero(torch.isin(episode, part)).squeeze(1) for part in parts]
    return Split(rows[0], rows[1], rows[2], (len(parts[0]), aside, aside))


def clone_loss(policy: GaussianPolicy, obs: Tensor, actions: Tensor) -> Tensor:
    """Return each row's negative log-likelihood of a logged action, (B,), nats."""
    mean, std = policy(obs)
    return -policy.log_prob(mean, std, actions)


def distil_loss(policy: GaussianPolicy, obs: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Return each row's KL from the teacher's Gaussian, (B,), nats, mean and spread apart."""
    of_mean, of_std = gaussian.split_kl(mean, std, *policy(obs))
    return of_mean + of_std


class Score(NamedTuple):
    """How well actions are predicted.

    Args:
        log_likelihood: mean over actions, nats.
        action_error: root mean square error of the mean action, a coordinate, in the action space's units.
    """

    log_likelihood: float
    action_error: float


@torch.no_grad()
def score(policy: GaussianPolicy, obs: Tensor, actions: Tensor) -> Score:
    """Return how well a policy predicts actions."""
    error = (policy.mean(obs) - actions).square().mean().sqrt()
    return Score(-float(clone_loss(policy, obs, actions).mean()), float(error))


def score_constant(fit: Tensor, actions: Tensor, low: Tensor, high: Tensor) -> Score:
    """Return how well actions are predicted without looking at the observation: what a clone has to beat.

    Args:
        fit: (N, act_dim), the actions that the most likely clipped Gaussian and the mean are taken from.
        actions: (M, act_dim), what they are judged on.
        low, high: (act_dim,), the action space's bounds.
    """
    center, log_std = fit.mean(0).requires_grad_(), fit.std(0).clamp_min(1e-3).log().requires_grad_()
    optimizer = torch.optim.LBFGS([center, log_std], max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = -gaussian.censored_log_prob(fit, center, log_std.exp(), low, high).mean()
        loss.backward()
        return loss

    optimizer.step(closure)
    with torch.no_grad():
        likelihood = gaussian.censored_log_prob(actions, center, log_std.exp(), low, high).mean()
    return Score(float(likelihood), float((actions - fit.mean(0)).square().mean().sqrt()))
