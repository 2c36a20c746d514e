"""The attacks for anyone's own evaluation loop: a Gymnasium wrapper around one environment."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch

from harden.attacks import ATTACKS, PaperStrength, Strength, attack_stream, perturb, require_ready
from harden.errors import InputError, known_names
from harden.nets import Critics, GaussianPolicy
from harden.nets.saved import LoadedPolicy
from harden.policies.foreign import OpaquePolicy, answer, from_function, policy_name, probe_observations

# as strong as `harden evaluate` attacks by default
_STRENGTH = Strength(steps=50, restarts=5, step_share=1.0, starts="corners", settles=True)


def _as_policy(policy: GaussianPolicy | Callable[..., Any], env: gymnasium.Env) -> GaussianPolicy:
    """Return a network as it is, and a function as a policy of the environment's sizes."""
    if isinstance(policy, GaussianPolicy):
        return policy
    if not callable(policy):
        raise InputError(f"{policy!r} is no policy", "give a policy of harden's, or a function")
    spaces: list[Any] = [env.observation_space, env.action_space]
    if not all(isinstance(space, gymnasium.spaces.Box) and len(space.shape) == 1 for space in spaces):
        raise InputError(f"{env} has {spaces[0]} and {spaces[1]}", "both have to be a Box of one dimension")
    (obs_dim,), (act_dim,) = (space.shape for space in spaces)
    source = from_function(policy)
    # an attack on what answers otherwise each time would climb its noise
    answer(source, probe_observations(obs_dim), act_dim, Path(policy_name(policy)))
    low, high = (torch.as_tensor(bound, dtype=torch.float32) for bound in (spaces[1].low, spaces[1].high))
    if not bool((low.isfinite() & high.isfinite()).all()):
        remedy = "give them finite ones, such as with gymnasium.wrappers.RescaleAction"
        raise InputError(f"the actions of {env} have no bounds", remedy)
    return OpaquePolicy(source, obs_dim, low, high)


class ObservationAttack(gymnasium.ObservationWrapper):
    """One environment whose observations are attacked; rewards, costs and dynamics are its own.

    Whatever acts gets obs_adv; `clean_obs` is the observation that it was made of. Random numbers depend on
    `seed` and on how many episodes were begun before: the first episode draws what `harden evaluate
    --episodes 1 --seed SEED` draws.

    Args:
        env: with observations of one dimension.
        policy: the policy under attack, as `harden.load_policy` returns it, the network alone, or a function
            from a float32 batch (B, obs_dim) to actions (B, act_dim), such as a Stable-Baselines3 model's
            `predict`; of that no gradient is known, so that attacks which climb search by values instead. It
            is tried at once, and asked for its mean action where it takes `deterministic`.
        critics: what the attack climbs, the policy's own where not given.
        attack: a row of `harden list attacks`.
        epsilon: radius in raw observation units, a number or one a coordinate.
        strength: effort and norm.
        threshold: clean Q_c from which on amad acts (`harden.attacks.risk_threshold`).
        seed: of the attack; `reset(seed=...)` is the environment's.

    Raises:
        InputError: an unknown attack, an impossible radius, an attack without the critics or the threshold
            that it needs, an environment whose observations the policy does not take, or whose actions have
            no bounds; or a function that fails, or that answers otherwise each time.
    """

    def __init__(
        self,
        env: gymnasium.Env,
        policy: LoadedPolicy | GaussianPolicy | Callable[..., Any],
        critics: Critics | None = None,
        *,
        attack: str = "mc",
        epsilon: float | Sequence[float],
        strength: Strength | PaperStrength = _STRENGTH,
        threshold: float | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(env)
        if attack not in ATTACKS:
            raise InputError(f"unknown attack '{attack}'", known_names(attack, ATTACKS))
        self.attack, self.strength, self.threshold, self.seed = ATTACKS[attack], strength, threshold, seed
        self.victim = policy.policy if isinstance(policy, LoadedPolicy) else _as_policy(policy, env)
        if critics is None and isinstance(policy, LoadedPolicy) and self.attack.critics == "own":
            critics = policy.critics
        self.critics = critics
        require_ready(self.attack, critics, threshold)
        self.epsilon = self._radius(epsilon)
        self.device = self.victim.half_range.device
        self.episodes = 0
        self.clean_obs: np.ndarray | None = None
        self._begin()

    def _radius(self, epsilon: float | Sequence[float]) -> float | torch.Tensor:
        """Check the radius and widen the observation space by it."""
        size = self.victim.architecture["obs_dim"]
        space = self.env.observation_space
        if not isinstance(space, gymnasium.spaces.Box) or space.shape != (size,):
            raise InputError(f"the environment observes {space}", f"the policy takes {size} coordinates")
        radius = np.asarray(epsilon, dtype=np.float64)
        if radius.shape not in ((), (size,)) or not np.isfinite(radius).all() or (radius < 0).any():
            raise InputError(f"epsilon = {epsilon!r} is not allowed", f"one number, or {size}, from 0 on")
        kind: Any = space.dtype
        low, high = (np.asarray(bound, dtype=kind) for bound in (space.low - radius, space.high + radius))
        self.observation_space = gymnasium.spaces.Box(low, high, dtype=kind)
        return float(radius) if radius.shape == () else torch.as_tensor(radius, dtype=torch.float32)

    def _begin(self) -> None:
        """Start an episode's random numbers, and forget the perturbation of the one before."""
        count = (self.episodes,) if self.episodes else ()
        self._draw = attack_stream(self.device, self.seed, self.attack.name, *count)
        self._carried: torch.Tensor | None = None

    def reset(self, **options: Any) -> tuple[np.ndarray, dict[str, Any]]:
        """Begin an episode; returns its first observation, attacked."""
        self._begin()
        self.episodes += 1
        return super().reset(**options)

    def observation(self, observation: np.ndarray) -> np.ndarray:
        """Return the attacked observation, (obs_dim,), in the environment's type."""
        self.clean_obs = observation
        clean = torch.as_tensor(np.asarray(observation, dtype=np.float32), device=self.device).unsqueeze(0)
        radius = self.epsilon if isinstance(self.epsilon, float) else self.epsilon.to(self.device)
        given = perturb(
            self.attack,
            self.victim,
            self.critics,
            clean,
            radius,
            self.strength,
            self._draw,
            self._carried,
            self.threshold,
        )
        self._carried = given - clean
        return given.squeeze(0).cpu().numpy().astype(self.observation_space.dtype)
