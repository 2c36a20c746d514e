"""The E-step: particles from policy_old, their Q values, the dual, and the weights q*."""

from __future__ import annotations

import json

import torch
from torch import Tensor

from harden.config.depends import stage_sections
from harden.config.pipeline import PipelineConfig
from harden.data import TargetsHeader
from harden.errors import InputError
from harden.method import dual
from harden.method.learner import Learner
from harden.method.schedules import Scheduled
from harden.nets import gaussian
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


def kl_bound(learner: Learner, config: PipelineConfig, terms: Scheduled) -> float:
    """Return delta, to policy_old; offline to the behaviour policy, and its own."""
    return terms.kl_estep if learner.behaviour is None else config.offline.kl_bound


def e_step(
    learner: Learner, obs: Tensor, config: PipelineConfig, terms: Scheduled
) -> tuple[Targets, DualSolution, Tensor]:
    """Solve the constrained E-step for some states.

    Args:
        learner: gives policy_old, the critics and the last dual; it is not changed.
        obs: (S, obs_dim).
        terms: what the schedules set: kappa, the ceiling of lam, and how far the multipliers move.

    Returns:
        The targets, the dual's solution, and the expected cost sum_k q* Q_c averaged over states, scalar.

    Raises:
        InputError: more particles in all than a machine holds.

    Source: Algorithm 2, lines 9 to 15; Eq. 4-6.
    Deviation: a learner with a behaviour policy draws its particles from that one, and the KL bound is to
        it: q* stays where the data are, however far pi_theta has come. The M-step's KL is to policy_old.
    """
    step = config.estep
    if len(obs) * step.particles > _PARTICLES:
        raise InputError(
            f"{len(obs):,} states of {step.particles:,} particles each are {len(obs) * step.particles:,}",
            f"at most {_PARTICLES:,} are solved for at once: ask for fewer states or particles",
        )
    policy, critics, behaviour = learner.policy, learner.critics, learner.behaviour
    draw = generator(learner.device, learner.seed, "particles", learner.counters.round)
    with torch.no_grad():
        mean, std = policy(obs)
        around = (mean, std) if behaviour is None else behaviour(obs)
        particles = gaussian.sample(around[0], around[1], step.particles, draw)
        # the critics know the actions that the environment applied
        q_reward, q_cost = critics.q_both(obs, policy.clip(particles))
        solution = dual.solve_dual(
            q_reward,
            q_cost,
            kl_bound(learner, config, terms),
            terms.kappa,
            lam_max=terms.lam_max,
            previous=learner.dual,
            rate=terms.dual_rate,
            tolerance=step.tolerance,
        )
        eta, lam = solution.eta.float(), solution.lam.float()
        weights = dual.particle_weights(q_reward, q_cost, eta, lam)
        expected_cost = (weights * q_cost).sum(1).mean()
    return Targets(obs, particles, weights, mean, std), solution, expected_cost


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
        kl_bound=kl_bound(learner, config, terms),
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
