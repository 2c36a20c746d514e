"""A policy that is only asked: a function from observations to actions, of which nothing else is known."""

from __future__ import annotations

import hashlib
import importlib
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from harden.errors import InputError, foreign_errors
from harden.nets import GaussianPolicy
from harden.policies.foreign import ForeignPolicy

# how far a roll-out that is to teach critics leaves the policy's action; a share of half the action range
_SPREAD = 0.3
_PROBES = 256
# how many observations a policy is tried on before it is taken for one, and how far they reach
_TRIED, _REACH = 512, 2.0
_CONTRACT = "it has to take a float32 array (B, obs_dim) and return actions (B, act_dim)"


class OpaquePolicy(GaussianPolicy):
    """Somebody else's policy among ours: its mean action is what it answers, its spread is made up.

    Args:
        act: observations (B, obs_dim) to actions (B, act_dim).
        obs_dim, act_dim: coordinates.
        differentiable: gradients flow through `act`.
        bounds: the lowest and the highest action, (act_dim,) each; -1 and 1 where not given.
        identity: the digest of the files that it was read from; "" where there are none.
    """

    def __init__(
        self,
        act: Callable[[Tensor], Tensor],
        obs_dim: int,
        act_dim: int,
        differentiable: bool = False,
        bounds: tuple[Tensor, Tensor] | None = None,
        identity: str = "",
    ) -> None:
        nn.Module.__init__(self)
        self.act, self.differentiable, self.identity = act, differentiable, identity
        self.architecture: dict[str, Any] = {"kind": "opaque", "obs_dim": obs_dim, "act_dim": act_dim}
        low, high = bounds or (-torch.ones(act_dim), torch.ones(act_dim))
        self.register_buffer("center", (low + high) / 2, persistent=False)
        self.register_buffer("half_range", (high - low) / 2, persistent=False)

    def mean(self, obs: Tensor) -> Tensor:
        """Return its action, inside the action space, (..., act_dim)."""
        rows = obs.reshape(-1, self.architecture["obs_dim"])
        actions = self.act(rows)
        if actions.shape != (len(rows), self.architecture["act_dim"]):
            raise InputError(
                f"the policy gives actions of shape {tuple(actions.shape)} for {len(rows)} observations",
                f"it has to give {self.architecture['act_dim']} for each of a batch",
            )
        return self.clip(actions.to(obs)).reshape(*obs.shape[:-1], -1)

    def forward(self, obs: Tensor) -> tuple[Tensor, Tensor]:
        """Return its action and the spread that we give it, both (..., act_dim)."""
        mean = self.mean(obs)
        return mean, (_SPREAD * self.half_range).expand_as(mean)

    def digest(self) -> str:
        """Return an identity: of its files, of a function its answers to fixed observations.

        Two policies that answer alike to these observations may differ elsewhere; a function shows no more.
        """
        if self.identity:
            return self.identity
        draw = torch.Generator().manual_seed(0)
        probes = torch.randn(_PROBES, self.architecture["obs_dim"], generator=draw)
        with torch.no_grad():
            answers = self.mean(probes.to(self.half_range.device)).cpu().numpy()
        return hashlib.sha256(np.round(answers, 4).tobytes()).hexdigest()

    def foreign(self) -> ForeignPolicy:
        """Return it as what a policy of ours can be distilled from."""
        return ForeignPolicy("opaque", lambda obs: (self.mean(obs).detach(), None))


def probe_observations(obs_dim: int) -> Tensor:
    """Return the observations that a policy is tried on before it is taken for one, (B, obs_dim)."""
    draw = torch.Generator().manual_seed(0)
    return _REACH * (2 * torch.rand((_TRIED, obs_dim), generator=draw) - 1)


def is_function_name(named: str | Path) -> bool:
    """Return whether a policy is named as module:function."""
    module, colon, function = str(named).partition(":")
    return bool(colon) and all(part.isidentifier() for part in [*module.split("."), *function.split(".")])


def policy_name(named: str | Path | Callable[..., Any]) -> str:
    """Return what a policy is called: its path or name, of a function the function's own name."""
    return str(getattr(named, "__name__", type(named).__name__) if callable(named) else named)


def import_function(named: str) -> ForeignPolicy:
    """Import a function, which is run because the user named it: a batch of observations in, actions out.

    Args:
        named: module:function, looked for where Python looks and in the working folder.

    Raises:
        InputError: no such module or function, the module fails, or it can't be called.
    """
    module_name, _, path = named.partition(":")
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    remedy = f"name it as module:function, from a folder where python -c 'import {module_name}' works"
    with foreign_errors(f"policy '{named}' can't be imported", remedy):
        function: Any = importlib.import_module(module_name)
        for part in path.split("."):
            function = getattr(function, part)
    if not callable(function):
        raise InputError(f"policy '{named}' is no function", _CONTRACT)
    return from_function(function, named)


def from_function(function: Callable[..., Any], named: str | None = None) -> ForeignPolicy:
    """Return a function as a foreign policy.

    Args:
        function: is given a float32 array (B, obs_dim), and deterministic=True where it takes that, for
            Stable-Baselines3's `predict`; of a tuple that it returns the first counts.
        named: what it is called where it fails, its own name where not given.

    Returns:
        A policy whose `run` raises InputError where the function raises anything, or returns what is no
        batch of actions.
    """
    policy, options = f"policy '{named or policy_name(function)}'", dict[str, bool]()
    try:
        if "deterministic" in inspect.signature(function).parameters:
            options["deterministic"] = True
    except (TypeError, ValueError):
        # some functions that are not written in Python have no signature
        pass

    def run(obs: Tensor) -> tuple[Tensor, Tensor | None]:
        batch = obs.detach().cpu().numpy().astype(np.float32)
        with foreign_errors(f"{policy} fails on an array {batch.shape}", _CONTRACT):
            result = function(batch, **options)
            actions = np.asarray(result[0] if isinstance(result, tuple) else result, dtype=np.float32)
        if actions.ndim != 2 or len(actions) != len(obs):
            raise InputError(
                f"{policy} gives an array {actions.shape} for {len(obs)} observations", _CONTRACT
            )
        return torch.as_tensor(actions).to(obs.device), None

    return ForeignPolicy("callable", run)
