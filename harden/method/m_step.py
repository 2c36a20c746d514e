"""The robust M-step: the Lagrangian of Eq. 62 to 66, and the Lightning module that descends it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import lightning as L
import torch
from torch import Tensor

from harden.config.pipeline import PipelineConfig
from harden.config.sections import MStep
from harden.config.variants import Variant
from harden.method.adversary import mc_attack
from harden.method.learner import Learner
from harden.method.schedules import Scheduled
from harden.nets import GaussianPolicy, gaussian
from harden.seeds import generator
from harden.types import Targets


def step_multiplier(beta: Tensor, value: Tensor, bound: Tensor, rate: float, ceiling: float) -> Tensor:
    """Move a multiplier against its constraint's slack and keep it within [0, ceiling].

    Args:
        beta: the multiplier, any shape.
        value: the constrained quantity now, same shape; its gradient is not used.
        bound: what the quantity may be at most, same shape.
        rate: the step size.
        ceiling: the highest multiplier allowed.

    Returns:
        The new multiplier.

    Source: Eq. 64 and 65.
    """
    return (beta - rate * (bound - value.detach())).clamp(0.0, ceiling)


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


class TargetBatches:
    """Minibatches of stored targets.

    It has a length, so that Lightning asks for no batch ahead of its time: which rows a step takes depends on
    the steps before it.

    Args:
        targets: what `e-step` wrote.
        steps: gradient steps.
        batch: rows a step; all rows where there are no more than that.
        learner: gives the place of the random stream.
    """

    def __init__(self, targets: Targets, steps: int, batch: int, learner: Learner) -> None:
        self.targets, self.steps, self.batch, self.learner = targets, steps, batch, learner

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[Targets]:
        count = len(self.targets.obs)
        for _ in range(self.steps):
            if count <= self.batch:
                yield self.targets
                continue
            draw = generator("cpu", self.learner.seed, "m-step", self.learner.counters.policy_steps)
            rows = torch.randint(count, (self.batch,), generator=draw)
            yield Targets(*(column[rows] for column in self.targets))


class RobustMStep(L.LightningModule):
    """Supervised learning of the policy towards q*, clean and under the MC adversary (Eq. 62).

    A Lightning Trainer runs it over stored targets; the training loop runs the same `training_step` under
    Lightning Fabric.

    Args:
        learner: its policy, multipliers and optimizer are what is trained.
        config: the pipeline.
        terms: what the schedules set.

    Attributes:
        result: the last step's Lagrangian.
    """

    result: MStepLoss

    def __init__(self, learner: Learner, config: PipelineConfig, terms: Scheduled) -> None:
        super().__init__()
        self.policy = learner.policy
        self.learner, self.config = learner, config
        self.begin(terms)

    def begin(self, terms: Scheduled) -> None:
        """Take on what the schedules set: bounds, the radius of the adversary, and the learning rate."""
        self.terms = terms
        self._attacked: tuple[Tensor, Tensor] | None = None
        for group in self.learner.policy_optimizer.param_groups:
            group["lr"] = terms.mstep.learning_rate

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return the learner's optimizer, whose state outlives this module."""
        return self.learner.policy_optimizer

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Return the batch: it was made where the learner lives."""
        return batch

    def training_step(self, targets: Targets, iteration: int) -> Tensor:
        """Step the multipliers and return the loss to descend.

        Args:
            targets: a batch of the E-step's output.
            iteration: m of Algorithm 2, from 0.
        """
        learner, config = self.learner, self.config
        result = lagrangian(
            learner.policy,
            targets,
            self._observations_of_adversary(targets, iteration),
            learner.beta,
            learner.beta_robust,
            self.terms.mstep,
            config.variant_row,
        )
        learner.beta, learner.beta_robust = result.beta, result.beta_robust
        learner.advance(policy_steps=1)
        self.result = result
        return result.loss

    def _observations_of_adversary(self, targets: Targets, iteration: int) -> Tensor | None:
        """Return nu(s), (S, obs_dim): anew for other states, and every `adversary.every` steps."""
        variant, epsilon = self.config.variant_row, self.terms.epsilon
        if not variant.robust:
            return None
        if epsilon == 0:
            # nu(s) = s: Eq. 8 would have Eq. 7's likelihood once more, and is all that there is without it
            return None if variant.vanilla else targets.obs
        known = self._attacked is not None and self._attacked[0] is targets.obs
        if not known or iteration % self.config.adversary.every == 0:
            self._attacked = targets.obs, attack_states(self.learner, targets, self.config, epsilon)
        assert self._attacked is not None
        return self._attacked[1]

    @property
    def steps_done(self) -> int:
        """Gradient steps of the policy, ever."""
        return self.learner.counters.policy_steps

    def logged(self) -> dict[str, Tensor]:
        """Return what the last step found, scalars by name."""
        result, dual = self.result, self.learner.dual
        values = {"loss": result.loss.detach(), "likelihood": result.likelihood}
        for name in ("kl", "kl_robust", "beta", "beta_robust"):
            values[f"{name}_mean"], values[f"{name}_std"] = getattr(result, name)
        return values if dual is None else values | {"eta": dual.eta, "lam": dual.lam}
