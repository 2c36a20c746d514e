"""The robust M-step: one Lagrangian in theta, beta and beta_adv (Eq. 62), for a batch of targets."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from harden.config.pipeline import PipelineConfig
from harden.config.sections import MStep
from harden.config.variants import Variant
from harden.method.adversary import mc_attack
from harden.method.constraint import step_multiplier
from harden.method.learner import Learner
from harden.nets import GaussianPolicy, gaussian
from harden.seeds import generator
from harden.types import Targets


class MStepLoss(NamedTuple):
    """One evaluation of the Lagrangian.

    Args:
        loss: scalar to descend, with the multipliers below in it.
        beta, beta_robust: (2,), the multipliers of the mean and the spread part after their step.
        likelihood: E_q*[log pi(a|s)], per state, for the log.
        kl, kl_robust: (2,), mean over states of the KL's two parts; zeros where there is no adversary.
    """

    loss: Tensor
    beta: Tensor
    beta_robust: Tensor
    likelihood: Tensor
    kl: Tensor
    kl_robust: Tensor


def attack_states(learner: Learner, targets: Targets, config: PipelineConfig, epsilon: float) -> Tensor:
    """Return nu(s) of the MC adversary against the policy as it is now.

    Source: Algorithm 1.
    Deviation: Algorithm 2 computes it once before the M iterations; here every `adversary.every` of them.
    """
    draw = generator(learner.device, learner.seed, "adversary", learner.counters.policy_steps)
    radius = config.task_row.radius(epsilon)
    return mc_attack(learner.policy, learner.critics, targets.obs, radius, config.adversary, draw)


def _moments(targets: Targets) -> tuple[Tensor, Tensor]:
    """Return mean and variance of q*, (S, act_dim) each: all that a Gaussian's likelihood needs of it."""
    # a sum with weights q*, not a mean over particles: that would shrink the likelihood against the KLs by K
    weights = targets.weights.unsqueeze(2)
    mean = (weights * targets.actions).sum(1)
    return mean, (weights * (targets.actions - mean.unsqueeze(1)) ** 2).sum(1)


def _kl_parts(mean: Tensor, std: Tensor, other_mean: Tensor, other_std: Tensor) -> Tensor:
    of_mean, of_std = gaussian.split_kl(mean, std, other_mean, other_std)
    return torch.stack((of_mean.mean(), of_std.mean()))


def lagrangian(
    policy: GaussianPolicy,
    targets: Targets,
    obs_adv: Tensor | None,
    beta: Tensor,
    beta_robust: Tensor,
    config: MStep,
    variant: Variant,
) -> MStepLoss:
    """Step the multipliers, then return the negative of L(theta, beta, beta_adv).

    Args:
        policy: pi_theta.
        targets: a batch of the E-step's output.
        obs_adv: nu(s), (S, obs_dim), or None for the vanilla M-step alone.
        beta, beta_robust: (2,), multipliers so far.
        config: bounds, rates and ceilings.
        variant: which terms are on.

    Source: Eq. 62-66, Algorithm 2 lines 19 and 20.
    Deviation: each KL is bounded in its mean and its spread part (Abdolmaleki et al. 2018a). The adversarial
        half carries a weight, and the multiplier of its KL may rise to a weight only: while the KL is above
        its bound the term is a penalty, not a constraint. That KL starts from the stopped benign path
        pi_theta(.|s) where `robust_anchor` is "benign" (B.1 allows it). All multipliers have a ceiling, and
        the policy's loss descends -L (Eq. 66 prints the sign the other way).
    """
    count = len(targets.obs)
    inputs = targets.obs if obs_adv is None else torch.cat((targets.obs, obs_adv))
    means, stds = policy(inputs)
    mean, std = means[:count], stds[:count]
    kl = _kl_parts(targets.old_mean, targets.old_std, mean, std)
    q = _moments(targets)
    likelihood = -gaussian.cross_entropy(*q, mean, std).mean()
    loss = torch.zeros((), device=means.device)
    if variant.vanilla:
        bounds = torch.tensor((config.kl_mean, config.kl_std), device=kl.device)
        beta = step_multiplier(beta, kl.detach(), bounds, config.beta_rate, config.beta_max)
        loss = loss - likelihood + (beta * kl).sum()
    kl_robust = torch.zeros_like(kl)
    if obs_adv is not None:
        mean_adv, std_adv = means[count:], stds[count:]
        benign = config.robust_anchor == "benign"
        from_mean = mean.detach() if benign else targets.old_mean
        from_std = std.detach() if benign else targets.old_std
        kl_robust = _kl_parts(from_mean, from_std, mean_adv, std_adv)
        robust = torch.zeros_like(loss)
        if variant.robust_mle:
            robust = robust + gaussian.cross_entropy(*q, mean_adv, std_adv).mean()
        if variant.robust_kl:
            bounds = torch.tensor((config.kl_robust_mean, config.kl_robust_std), device=kl.device)
            beta_robust = step_multiplier(
                beta_robust, kl_robust.detach(), bounds, config.beta_robust_rate, config.kl_robust_weight
            )
            robust = robust + (beta_robust * kl_robust).sum()
        loss = loss + config.robust_weight * robust
    return MStepLoss(loss, beta, beta_robust, likelihood.detach(), kl.detach(), kl_robust.detach())
