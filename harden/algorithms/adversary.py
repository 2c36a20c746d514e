"""The adversaries of training: the MC and the MAD attack as the `adversary` section sets them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from harden.attacks import ATTACKS, Strength, perturb
from harden.config import PipelineConfig
from harden.learner import Learner
from harden.nets import Critics, GaussianPolicy
from harden.sections import Adversary
from harden.seeds import generator


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
