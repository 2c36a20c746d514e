"""What can be guaranteed beside what attacks found: how far actions move, and the paper's bounds on cost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from harden.attacks import ATTACKS, attack_stream, perturb
from harden.evaluation.attacked import Tried, Victim
from harden.evaluation.entries import Trial
from harden.exchange.opaque import OpaquePolicy
from harden.nets import GaussianPolicy
from harden.ops import bounds, gaussian
from harden.ops.ball import Norm
from harden.ops.schedule import discounted_threshold
from harden.tasks import Task

_STATES = 500
# float32 sums in another order
_ROUNDING = 1e-5
_TRIED = ("random", "mad", "mc", "mr")


@torch.no_grad()
def guaranteed_move(
    policy: GaussianPolicy, obs: Tensor, epsilon: float | tuple[float, ...], norm: Norm
) -> Tensor:
    """Return how far no attack inside the ball can move any action's coordinate.

    Args:
        policy: ours; of somebody else's no layers are known.
        obs: states, (N, obs_dim).
        epsilon, norm: of the ball, one number or one a coordinate, raw observation units.

    Returns:
        (N,), as a share of half the action range.
    """
    plain = policy.unscaled()
    linear = [layer for layer in (*plain.trunk, plain.mean_head) if isinstance(layer, nn.Linear)]
    layers = [(layer.weight, layer.bias) for layer in linear]
    low, high = bounds.interval(layers, obs, torch.as_tensor(epsilon).to(obs), norm)
    mean = (policy.mean(obs) - policy.center) / policy.half_range
    return torch.maximum(high.tanh() - mean, mean - low.tanh()).amax(1)


def _spread(values: Tensor) -> dict[str, float]:
    low, high = (float(torch.quantile(values.double(), q)) for q in (0.5, 0.95))
    return {"median": low, "p95": high, "max": float(values.max())}


def certificate(
    victim: Victim,
    task: Task,
    trials: Sequence[Trial],
    meant: float,
    tried: Tried,
    gamma: float,
) -> dict[str, Any] | None:
    """Return the certificate of an evaluation, None for a policy whose layers are not known.

    Args:
        victim: the policy, and the critics that attacks climb.
        task: horizon, cost limit and C_m.
        trials: radius, norm and strength; the first that attacks counts.
        meant: the radius where none does, that of training.
        tried: the states that the policy visits unattacked, some of which are judged, and the entries, for
            the highest mean cost found.
        gamma: discount of the bounds.

    Returns:
        {"epsilon", "states", "guaranteed", "found", "exceeded", "theorems"}: the distributions over states of
        the guaranteed and of the largest move found, as shares of half the action range; in how many states
        an attack went beyond what is guaranteed (never, or the code is wrong); and the right-hand sides.
    """
    # a curve may begin at a radius of nothing
    trial = next((one for one in trials if one.epsilon > 0), trials[0]._replace(epsilon=meant))
    policy, epsilon, norm = victim.policy, trial.epsilon, trial.strength.norm
    if isinstance(policy, OpaquePolicy) or epsilon <= 0:
        return None
    radius, obs = task.radius(epsilon), tried.natural_obs[:: -(-len(tried.natural_obs) // _STATES)]
    guaranteed = guaranteed_move(policy, obs, radius, norm)
    found, divergence = torch.zeros_like(guaranteed), torch.zeros_like(guaranteed)
    draw = attack_stream(obs.device, trial.seed, "certificate")
    for name in _TRIED:
        attack = ATTACKS[name]
        if attack.critics is None or victim.critics is not None:
            adv = perturb(attack, policy, victim.critics, obs, radius, trial.strength, draw)
            with torch.no_grad():
                move = ((policy.mean(adv) - policy.mean(obs)) / policy.half_range).abs().amax(1)
                found = torch.maximum(found, move)
                divergence = torch.maximum(divergence, gaussian.kl(*policy(obs), *policy(adv)))
    said: dict[str, Any] = {"epsilon": epsilon, "norm": norm, "states": len(obs)}
    said |= {"guaranteed": _spread(guaranteed), "found": _spread(found)}
    said["exceeded"] = int((found > guaranteed + _ROUNDING).sum())
    return said | {"theorems": _theorems(task, epsilon, divergence, tried.entries, gamma)}


def _theorems(
    task: Task, epsilon: float, divergence: Tensor, results: Sequence[dict[str, Any]], gamma: float
) -> dict[str, float]:
    """Evaluate Theorems 1 and 2 for the policy as it is: the step before it is taken to have changed nothing.

    Measured are distances at the attacks found: the true maxima over all states and attacks are larger, and
    so are the right-hand sides.
    """
    distance = float(bounds.total_variation(divergence).max())
    kappa, limit = discounted_threshold(task.cost_limit, task.horizon, gamma), task.max_step_cost
    attacked = [one["cost"]["mean"] for one in results if one["epsilon"] in (0.0, epsilon)]
    return {
        "kappa": kappa,
        "gamma": gamma,
        "distance": distance,
        "lipschitz": distance / epsilon,
        "mean_kl": float(divergence.mean()),
        "theorem_1": bounds.vanilla_bound(
            kappa, limit, gamma, distance=0.0, kl=0.0, lipschitz=distance / epsilon, epsilon=epsilon
        ),
        "theorem_2": bounds.robust_bound(kappa, limit, gamma, distance=distance, kl=float(divergence.mean())),
        "trivial": limit / (1 - gamma),
        "measured": discounted_threshold(max(attacked), task.horizon, gamma),
    }
