"""PPO-Lagrangian and its robust kin, the paper's on-policy rivals: Algorithms 4 and 5."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from harden.config.pipeline import PipelineConfig
from harden.config.sections import OnPolicy
from harden.method.adversary import mad_attack, mc_attack
from harden.method.bellman import as_observed
from harden.method.learner import Learner
from harden.nets import GaussianPolicy, gaussian
from harden.seeds import generator
from harden.types import PidState, Transitions


def gae(
    signal: Tensor,
    values: Tensor,
    next_values: Tensor,
    terminals: Tensor,
    ends: Tensor,
    gamma: float,
    decay: float,
) -> Tensor:
    """Return generalised advantage estimates, which bootstrap through time limits and not through terminals.

    Args:
        signal: (N,), rewards or costs.
        values, next_values: (N,), V(s) and V(s').
        terminals: bool (N,), the dynamics ended the episode here.
        ends: bool (N,), the episode ended here in whatever way.
        gamma: discount a step.
        decay: lambda of GAE: 0 is the one-step TD error, 1 the return less V(s).

    Returns:
        (N,), in the signal's type.

    Source: Schulman et al. 2016, equation 16.
    """
    errors = signal + gamma * next_values * ~terminals - values
    running, out = 0.0, []
    going = (~ends).double() * gamma * decay
    for error, factor in zip(reversed(errors.tolist()), reversed(going.tolist()), strict=True):
        running = error + factor * running
        out.append(running)
    return torch.tensor(out[::-1], dtype=signal.dtype, device=signal.device)


class PidGains(NamedTuple):
    """K_P, K_I and K_D."""

    proportional: float
    integral: float
    derivative: float


def step_pid(state: PidState, cost: float, limit: float, gains: PidGains) -> PidState:
    """Return the controller after one more measurement of the cost.

    Args:
        state: before.
        cost: of an episode on average, J_C.
        limit: what it may be, d.
        gains: of the three parts.

    Source: Stooke et al. 2020, Algorithm 2.
    """
    excess = cost - limit
    total = max(0.0, state.total + excess)
    rise = max(0.0, cost - state.last)
    lam = gains.proportional * excess + gains.integral * total + gains.derivative * rise
    return PidState(total, cost, max(0.0, lam))


def clipped_surrogate(log_ratio: Tensor, advantages: Tensor, clip: float) -> Tensor:
    """Return l_ppo, (N,), to be ascended.

    Args:
        log_ratio: (N,), log pi(a|s) - log pi_old(a|s).
        advantages: (N,), A_r.
        clip: epsilon_clip.

    Source: Eq. 69.
    """
    ratio = log_ratio.exp()
    return torch.minimum(ratio * advantages, ratio.clamp(1.0 - clip, 1.0 + clip) * advantages)


def lagrangian_surrogate(
    log_ratio: Tensor, advantages: Tensor, cost_advantages: Tensor, lam: float, clip: float
) -> Tensor:
    """Return l_ppol, (N,), to be ascended.

    Args:
        log_ratio, advantages, clip: as in `clipped_surrogate`.
        cost_advantages: (N,), A_c.
        lam: the multiplier.

    Source: Eq. 70.
    Deviation: it prints A_c without the ratio, which has no gradient.
    """
    of_cost = log_ratio.exp() * cost_advantages
    return (clipped_surrogate(log_ratio, advantages, clip) - lam * of_cost) / (1.0 + lam)


class OnPolicyBatch(NamedTuple):
    """What the gradient steps after a collection need of its transitions (N rows).

    Args:
        obs: (N, obs_dim), what the policy was given.
        actions: (N, act_dim), as applied.
        old_log_prob: (N,), of the actions under the policy that acted.
        old_mean, old_std: (N, act_dim), of that policy.
        advantages: (N,), A_r, standardised.
        cost_advantages: (N,), A_c less its mean, in units of cost.
        targets: (2, N), what V_r and V_c regress to.
        obs_adv: (N, obs_dim), nu(s) of the smoothing adversary; s itself where there is none.
    """

    obs: Tensor
    actions: Tensor
    old_log_prob: Tensor
    old_mean: Tensor
    old_std: Tensor
    advantages: Tensor
    cost_advantages: Tensor
    targets: Tensor
    obs_adv: Tensor


class Improvement(NamedTuple):
    """What the gradient steps after a collection did.

    Args:
        loss: the policy's at its last step.
        kl: of the policy that acted to the policy now.
        smoothness: of Algorithm 4 at the last step, 0 where it is off.
        actor_steps: the policy's gradient steps, before the KL ended them.
        value_loss, cost_value_loss: mean squared errors of V_r and V_c at their last step.
        lam: the multiplier.
    """

    loss: float
    kl: float
    smoothness: float
    actor_steps: int
    value_loss: float
    cost_value_loss: float
    lam: float


def prepare(learner: Learner, data: Transitions, config: PipelineConfig, epsilon: float) -> OnPolicyBatch:
    """Return advantages, value targets and attacked observations of a collection.

    Args:
        learner: its policy is still the one that acted.
        data: whole episodes of it, on the learner's device.
        config: the pipeline.
        epsilon: the scheduled radius of the smoothing adversary.

    Source: Algorithm 4, line 4: nu(s) is found once, before the gradient steps.
    Deviation: A_r is standardised, and A_c centred and not scaled, so that lam weighs costs in their own
        unit; likelihoods are of the actions as applied.
    """
    assert learner.values is not None
    policy, variant = learner.policy, config.variant_row
    data = as_observed(data)
    ends = data.terminals | data.timeouts
    with torch.no_grad():
        mean, std = policy(data.obs)
        now, later = learner.values(data.obs), learner.values(data.next_obs)
        gammas, decay = (config.critics.gamma_reward, config.critics.gamma_cost), config.ppo.gae_decay
        of_reward, of_cost = (
            gae(signal, now[i], later[i], data.terminals, ends, gammas[i], decay)
            for i, signal in enumerate((data.rewards, data.costs))
        )
    obs_adv = data.obs
    if variant.smoothing is not None:
        attack = {"mad": mad_attack, "mc": mc_attack}[variant.smoothing]
        draw = generator(learner.device, learner.seed, "smoothing", learner.counters.round)
        radius = config.task_row.radius(epsilon)
        obs_adv = attack(policy, learner.critics, data.obs, radius, config.adversary, draw)
    return OnPolicyBatch(
        data.obs,
        data.actions,
        policy.log_prob(mean, std, data.actions),
        mean,
        std,
        (of_reward - of_reward.mean()) / (of_reward.std() + 1e-8),
        of_cost - of_cost.mean(),
        torch.stack((of_reward, of_cost)) + now,
        obs_adv,
    )


def smoothness(policy: GaussianPolicy, batch: OnPolicyBatch, kind: str) -> Tensor:
    """Return how far the policy at nu(s) is from the policy at s, which gets no gradient; scalar.

    Args:
        policy: pi_theta.
        batch: with nu(s).
        kind: "kl", or "squared" for the squared difference of the means.

    Source: Algorithm 4, line 7; "squared" is what the public code of SA-PPO has.
    """
    with torch.no_grad():
        mean, std = policy(batch.obs)
    mean_adv, std_adv = policy(batch.obs_adv)
    if kind == "squared":
        return (mean_adv - mean).square().sum(-1).mean()
    return gaussian.kl(mean, std, mean_adv, std_adv).mean()


def policy_loss(
    policy: GaussianPolicy, batch: OnPolicyBatch, lam: float, options: OnPolicy, smoothed: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the loss to descend, the KL to the policy that acted, and the smoothness, all scalar.

    Args:
        policy: pi_theta.
        batch: rows of a collection.
        lam: the cost multiplier.
        options: clip, and the weight and the kind of the smoothness.
        smoothed: whether the variant has it.

    Source: Eq. 69, 70; Algorithm 4, lines 7 to 9; Algorithm 5, lines 7 and 8.
    """
    mean, std = policy(batch.obs)
    log_ratio = policy.log_prob(mean, std, batch.actions) - batch.old_log_prob
    gain = lagrangian_surrogate(log_ratio, batch.advantages, batch.cost_advantages, lam, options.clip).mean()
    kl = gaussian.kl(batch.old_mean, batch.old_std, mean, std).mean().detach()
    rough = torch.zeros_like(gain)
    if smoothed:
        rough = smoothness(policy, batch, options.smoothing_loss)
    return options.smoothing_weight * rough - gain, kl, rough.detach()


def _minibatches(
    learner: Learner, batch: OnPolicyBatch, options: OnPolicy, stream: str
) -> Callable[[int], OnPolicyBatch]:
    """Return the function that draws the rows of a gradient step."""
    size, count = options.minibatch, len(batch.obs)
    if size is None or size >= count:
        return lambda step: batch

    def draw(step: int) -> OnPolicyBatch:
        place = generator("cpu", learner.seed, stream, learner.counters.round, step)
        rows = torch.randint(count, (size,), generator=place).to(batch.obs.device)
        columns = {name: column[rows] for name, column in batch._asdict().items() if name != "targets"}
        return OnPolicyBatch(**columns, targets=batch.targets[:, rows])

    return draw


def improve(
    learner: Learner, data: Transitions, config: PipelineConfig, cost: float, epsilon: float
) -> Improvement:
    """Learn from one collection: the multiplier, the policy, then the state values.

    Args:
        learner: its policy is the one that acted; changed in place.
        data: the collection, whole episodes.
        config: the pipeline.
        cost: of an episode of it, on average.
        epsilon: the scheduled radius of the smoothing adversary.

    Source: Algorithm 4, lines 4 to 13; Algorithm 5, lines 4 to 10.
    Deviation: the multiplier is steered by the cost of an episode, as the limit is, and not by the discounted
        V_c; the policy's steps end where their KL passes `ppo.target_kl`, the paper's delta_KL.
    """
    assert learner.values is not None
    assert learner.value_optimizer is not None
    options, smoothed = config.ppo, config.variant_row.smoothing is not None
    gains = PidGains(options.pid_proportional, options.pid_integral, options.pid_derivative)
    learner.pid = step_pid(learner.pid, cost, config.task_row.cost_limit, gains)
    lam = learner.pid.lam
    data = Transitions(*(column.to(learner.device) for column in data))
    batch = prepare(learner, data, config, epsilon)
    rows = _minibatches(learner, batch, options, "actor-batch")
    steps = 0
    for step in range(options.actor_steps):
        loss, kl, rough = policy_loss(learner.policy, rows(step), lam, options, smoothed)
        if float(kl) > options.target_kl:
            break
        learner.policy_optimizer.zero_grad(set_to_none=True)
        loss.backward()
        learner.policy_optimizer.step()
        steps += 1
    rows = _minibatches(learner, batch, options, "value-batch")
    for step in range(options.value_steps):
        part = rows(step)
        errors = (learner.values(part.obs) - part.targets).square().mean(1)
        learner.value_optimizer.zero_grad(set_to_none=True)
        errors.sum().backward()
        learner.value_optimizer.step()
    learner.advance(policy_steps=steps)
    of_reward, of_cost = errors.tolist()
    return Improvement(float(loss.detach()), float(kl), float(rough), steps, of_reward, of_cost, lam)
