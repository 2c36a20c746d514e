"""The adversaries of training: the MC and the MAD attack as the `adversary` section sets them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from harden.attacks import ATTACKS, Strength, perturb
from harden.attacks.objectives import max_cost
from harden.config.pipeline import PipelineConfig
from harden.config.sections import Adversary
from harden.method.learner import Learner
from harden.nets import Critics, GaussianPolicy
from harden.seeds import generator

# what the training adversary is measured by
_REFERENCE = Strength(steps=20, restarts=2)


def mc_attack(
    policy: GaussianPolicy,
    critics: Critics,
    obs: Tensor,
    epsilon: float | Sequence[float],
    adversary: Adversary,
    draw: torch.Generator,
) -> Tensor:
    """Return nu(s) of the MC adversary, (B, obs_dim), detached.

    Args:
        policy: the victim, by its mean.
        critics: those that are climbed.
        obs: clean observations, (B, obs_dim).
        epsilon: radius, raw observation units, one number or one a coordinate.
        adversary: how hard it tries.
        draw: the only source of randomness.

    Source: Algorithm 3.
    """
    return perturb(ATTACKS["mc"], policy, critics, obs, epsilon, _strength(adversary), draw)


def mad_attack(
    policy: GaussianPolicy,
    critics: Critics,
    obs: Tensor,
    epsilon: float | Sequence[float],
    adversary: Adversary,
    draw: torch.Generator,
) -> Tensor:
    """Return nu(s) of the MAD adversary, as `mc_attack` that of the MC adversary; it climbs no critic."""
    return perturb(ATTACKS["mad"], policy, critics, obs, epsilon, _strength(adversary), draw)


def _strength(adversary: Adversary) -> Strength:
    return Strength(adversary.steps, adversary.restarts, adversary.step_share)


def attack_replayed(
    learner: Learner, obs: Tensor, config: PipelineConfig, epsilon: float, stream: str, place: int
) -> Tensor:
    """Return replayed observations as the variant learns from them: attacked, or as they are.

    Args:
        learner: gives the policy and the critics as they are now.
        obs: what was drawn from the replay, (B, obs_dim).
        config: the pipeline, whose variant decides.
        epsilon: the scheduled radius.
        stream, place: of the randomness.

    Source: B.2.3, ADV-EM-CVPO: line 5 of Algorithm 6 gives (nu(s), a, s', r, c); s' stays benign.
    """
    if not config.variant_row.attack_replay:
        return obs
    draw = generator(learner.device, learner.seed, stream, place)
    radius = config.task_row.radius(epsilon)
    return mc_attack(learner.policy, learner.critics, obs, radius, config.adversary, draw)


@torch.no_grad()
def adversary_share(learner: Learner, obs: Tensor, config: PipelineConfig, epsilon: float) -> float:
    """Return how much of what a strong MC attack gains the training adversary gains, 1 for nothing to gain.

    A policy learns to fool a weak adversary: its gradient then leads nowhere, the TD target knows no danger,
    and cost under a stronger attack grows unseen (catastrophic overfitting, Wong et al. 2020). This shows it.

    Args:
        learner: gives the policy and the critics as they are now; it is not changed.
        obs: states, (B, obs_dim).
        config: the pipeline, whose adversary is measured against 20 steps from two starts.
        epsilon: the scheduled radius.
    """
    policy, critics, radius = learner.policy, learner.critics, config.task_row.radius(epsilon)
    clean = max_cost(policy, critics, obs, obs).mean()
    gains = []
    for strength in (_strength(config.adversary), _REFERENCE):
        draw = generator(learner.device, learner.seed, "adversary-share", learner.counters.round)
        found = perturb(ATTACKS["mc"], policy, critics, obs, radius, strength, draw)
        gains.append(float(max_cost(policy, critics, obs, found).mean() - clean))
    return gains[0] / gains[1] if gains[1] > 0 else 1.0
