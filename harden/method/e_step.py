"""The E-step: particles from policy_old, their Q values, the dual, and the weights q*."""

from __future__ import annotations

import json
from typing import NamedTuple

import torch
from torch import Tensor

from harden.config.pipeline import PipelineConfig, stage_sections
from harden.data.targets import TargetsHeader
from harden.errors import InputError
from harden.method import dual
from harden.method.adversary import attack_replayed, mc_attack
from harden.method.bellman import cost_ceiling
from harden.method.imagination import own_states
from harden.method.learner import Learner
from harden.method.schedules import Scheduled
from harden.nets import Critics, gaussian
from harden.nets.saved import module_digest
from harden.seeds import generator
from harden.types import DualSolution, Targets

# of them all are in memory at once, each with its weight and two values
_PARTICLES = 100_000_000


def draw_states(learner: Learner, obs: Tensor, states: int, window: int) -> Tensor:
    """Draw the E-step's states uniformly from the most recent transitions.

    Old states are safe ones: an expectation over them stays under kappa while the policy of today violates.

    Args:
        obs: (N, obs_dim), oldest first.
        states: S; the whole window, in order, where S is at least its size.
        window: how many of the most recent rows count.

    Returns:
        (S', obs_dim) with S' at most S.
    """
    recent = obs[-window:]
    if states >= len(recent):
        return recent
    place = generator("cpu", learner.seed, "states", learner.counters.round)
    rows = torch.randint(len(recent), (states,), generator=place)
    return recent[rows.to(obs.device)]


class EStepStates(NamedTuple):
    """Where the E-step is solved (S rows).

    Args:
        obs: (S, obs_dim), true observations, which the critics are asked at.
        inputs: (S, obs_dim), what the policy is given there.
        prior: (S, obs_dim), what policy_old is given, whose particles are weighed.
        bound: the rows that the dual's KL and expected cost are of.
    """

    obs: Tensor
    inputs: Tensor
    prior: Tensor
    bound: slice = slice(None)

    @classmethod
    def clean(cls, obs: Tensor) -> EStepStates:
        """Return states that the policy is shown as they are, and all of which bind the dual."""
        return cls(obs, obs, obs)


def estep_states(
    learner: Learner, recent: Tensor, config: PipelineConfig, terms: Scheduled, states: int
) -> EStepStates:
    """Draw the states of an E-step.

    Args:
        recent: (N, obs_dim), the window of benign observations, oldest first.
        states: S.

    Deviation: a variant that imagines takes half of its states from the attacked policy's own chains, and
        all of them twice: as they are, and as the adversary shows them. The cost is bound over those chains'
        states at attacked inputs alone: over the states that exploration passes through the limit would be
        spent on exploration. By hand the particles of an attacked input come from policy_old at the true
        observation: what it does at the attacked one is many trust regions away from what is right there,
        and one round stands for hundreds of `train`'s.
    """
    if not config.variant_row.imagined:
        obs = draw_states(learner, recent, states, len(recent))
        obs = attack_replayed(learner, obs, config, terms.epsilon, "states-adversary", learner.counters.round)
        return EStepStates.clean(obs)
    distinct = -(-states // 2)
    bound = distinct - distinct // 2
    place = generator("cpu", learner.seed, "chain-states", learner.counters.round)
    chains = own_states(learner)
    rows = torch.randint(len(chains), (bound,), generator=place).to(chains.device)
    obs = torch.cat((draw_states(learner, recent, distinct // 2, len(recent)), chains[rows]))
    attacked = obs
    if terms.epsilon > 0:
        draw = generator(learner.device, learner.seed, "states-adversary", learner.counters.round)
        radius = config.task_row.radius(terms.epsilon)
        attacked = mc_attack(learner.policy, learner.critics, obs, radius, config.adversary, draw)
    # of an odd number one clean state is left out
    first, count = max(0, 2 * len(obs) - states), 2 * len(obs)
    both, inputs = torch.cat((obs, obs))[first:], torch.cat((obs, attacked))[first:]
    return EStepStates(
        both, inputs, both if terms.by_hand else inputs, slice(count - first - bound, count - first)
    )


def costs_around(of_mean: Tensor, of_particles: Tensor) -> Tensor:
    """Return the particles' Q_c as what each adds to that of the policy's mean action, (S, K).

    A state's average over particles becomes the Q_c of its mean action; differences within a state stay, and
    with them the weights that a given lam makes. What is deployed, and what imagined chains follow, is the
    mean: the cost that a wide policy's noise would add is none of the policy's own.

    Args:
        of_mean: (S,), Q_c of the mean action.
        of_particles: (S, K), Q_c of the particles.
    """
    return of_particles - of_particles.mean(1, keepdim=True) + of_mean.unsqueeze(1)


def lam_unit(critics: Critics, config: PipelineConfig) -> float:
    """Return what the ceilings of lam count in: all that a horizon earns for the most that one can cost.

    Q_r grows with the reward's unit and horizon, Q_c with the cost's, and lam is a price of one in the other.
    """
    if not config.critics.scale_rewards:
        return 1.0
    section = config.critics
    earned = critics.reward_scale / (1.0 - section.gamma_reward)
    return earned / cost_ceiling(config.task_row.max_step_cost, section.gamma_cost)


def e_step(
    learner: Learner, states: EStepStates, config: PipelineConfig, terms: Scheduled
) -> tuple[Targets, DualSolution, Tensor]:
    """Solve the constrained E-step for some states.

    Args:
        learner: gives policy_old, the critics and the last dual; it is not changed.
        states: where it is solved; the targets are at their inputs.
        terms: what the schedules set: kappa, the ceiling of lam, and how far the multipliers move.

    Returns:
        The targets, the dual's solution, and the expected cost sum_k q* Q_c averaged over states, scalar.

    Raises:
        InputError: more particles in all than a machine holds.

    Source: Algorithm 2, lines 9 to 15; Eq. 4-6.
    Deviation: a variant that imagines bounds the cost of the mean action (`costs_around`).
    """
    step, obs = config.estep, states.obs
    if len(obs) * step.particles > _PARTICLES:
        raise InputError(
            f"{len(obs):,} states of {step.particles:,} particles each are {len(obs) * step.particles:,}",
            f"at most {_PARTICLES:,} are solved for at once: ask for fewer states or particles",
        )
    policy, critics = learner.policy, learner.critics
    draw = generator(learner.device, learner.seed, "particles", learner.counters.round)
    with torch.no_grad():
        mean, std = policy(states.prior)
        particles = gaussian.sample(mean, std, step.particles, draw)
        # the critics know the actions that the environment applied
        q_reward, q_cost = critics.q_both(obs, policy.clip(particles))
        if config.variant_row.imagined:
            q_cost = costs_around(critics.q_cost(obs, policy.clip(mean)), q_cost)
        solution = dual.solve_dual(
            q_reward[states.bound],
            q_cost[states.bound],
            terms.kl_estep,
            terms.kappa,
            lam_max=terms.lam_max * lam_unit(critics, config),
            previous=learner.dual,
            rate=terms.dual_rate,
            tolerance=step.tolerance,
        )
        eta, lam = solution.eta.float(), solution.lam.float()
        weights = dual.particle_weights(q_reward, q_cost, eta, lam)
        expected_cost = (weights * q_cost)[states.bound].sum(1).mean()
    return Targets(states.inputs, particles, weights, mean, std), solution, expected_cost


def describe_targets(
    config: PipelineConfig,
    learner: Learner,
    solution: DualSolution,
    expected_cost: torch.Tensor,
    data_digest: str,
    terms: Scheduled,
) -> TargetsHeader:
    """Return what is written beside targets; the learner is still the one that they were made with."""
    return TargetsHeader(
        eta=float(solution.eta),
        lam=float(solution.lam),
        eta_exact=float(solution.eta_exact),
        lam_exact=float(solution.lam_exact),
        kappa=terms.kappa,
        kl_bound=terms.kl_estep,
        expected_cost=float(expected_cost),
        status="feasible" if bool(solution.feasible) else "infeasible",
        seed=learner.seed,
        round=learner.counters.round,
        data_digest=data_digest,
        policy_digest=module_digest(learner.policy),
        critics_digest=module_digest(learner.critics),
        settings=json.dumps(stage_sections("e-step", config), sort_keys=True),
        kl=float(solution.kl),
        converged=bool(solution.converged),
    )
