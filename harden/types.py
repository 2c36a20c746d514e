"""What flows between the stages: tuples of tensors, with no behaviour of their own."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor


class Transitions(NamedTuple):
    """Flat transitions, whole episodes one after another (N rows).

    Args:
        obs: float32 (N, obs_dim), what the policy was given.
        actions: float32 (N, act_dim), in the action space's own units, as applied (clipped).
        rewards: float32 (N,).
        costs: float32 (N,), at least 0.
        next_obs: float32 (N, obs_dim), the observation after the action, also at an episode's end.
        terminals: bool (N,), the episode ended by the dynamics: no future to bootstrap from.
        timeouts: bool (N,), the episode was cut by the time limit: bootstrap goes on.
    """

    obs: Tensor
    actions: Tensor
    rewards: Tensor
    costs: Tensor
    next_obs: Tensor
    terminals: Tensor
    timeouts: Tensor


class ImaginedRows(NamedTuple):
    """A refresh's imagined roll-outs under attack (N rows).

    Args:
        rows: their transitions, chain after chain.
        own: bool (N,), of a chain that the attacked policy went through from an episode's beginning; the
            others branch off from states that exploration led to.
    """

    rows: Transitions
    own: Tensor


class DualSolution(NamedTuple):
    """The E-step's dual variables (Eq. 6), scalars in float64.

    Args:
        eta: the temperature that the weights use: the dual's minimiser for `lam`, so that the bound on the KL
            holds for these weights.
        lam: the cost multiplier that the weights use.
        eta_exact: the minimiser's temperature.
        lam_exact: the minimiser's multiplier, at its upper bound when infeasible.
        feasible: bool, False when no multiplier within bounds meets the cost threshold.
        converged: bool, False when a search ended before its tolerance.
        kl: KL(q* || policy_old) of the weights in use, nats, mean over states.
    """

    eta: Tensor
    lam: Tensor
    eta_exact: Tensor
    lam_exact: Tensor
    feasible: Tensor
    converged: Tensor
    kl: Tensor


class Targets(NamedTuple):
    """What the E-step hands to the M-step: q* as weighted particles (S states, K particles).

    Args:
        obs: float32 (S, obs_dim).
        actions: float32 (S, K, act_dim), drawn from policy_old (offline from the behaviour policy), before
            clipping.
        weights: float32 (S, K), each row sums to one (Eq. 5).
        old_mean: float32 (S, act_dim), policy_old's mean.
        old_std: float32 (S, act_dim), policy_old's standard deviation.
    """

    obs: Tensor
    actions: Tensor
    weights: Tensor
    old_mean: Tensor
    old_std: Tensor


class PidState(NamedTuple):
    """What the controller of the multiplier remembers.

    Args:
        total: the sum of the excess so far, never below 0.
        last: the cost before.
        lam: the multiplier in force.
    """

    total: float = 0.0
    last: float = 0.0
    lam: float = 0.0
