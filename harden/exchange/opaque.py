"""A policy that is only asked: a function from observations to actions, of which nothing else is known."""

from __future__ import annotations

import hashlib
import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from harden.errors import InputError
from harden.exchange.source import Source
from harden.nets import GaussianPolicy

# how far a roll-out that is to teach critics leaves the agent's action; a share of half the action range
_SPREAD = 0.3
_PROBES = 256


class OpaquePolicy(GaussianPolicy):
    """Somebody else's policy among ours: its mean action is what it answers, its spread is made up.

    Args:
        act: observations (B, obs_dim) to actions (B, act_dim).
        obs_dim, act_dim: coordinates; the action space is [-1, 1].
        differentiable: gradients flow through `act`.
    """

    def __init__(
        self, act: Callable[[Tensor], Tensor], obs_dim: int, act_dim: int, differentiable: bool = False
    ) -> None:
        nn.Module.__init__(self)
        self.act, self.differentiable = act, differentiable
        self.architecture: dict[str, Any] = {"kind": "opaque", "obs_dim": obs_dim, "act_dim": act_dim}
        self.register_buffer("center", torch.zeros(act_dim), persistent=False)
        self.register_buffer("half_range", torch.ones(act_dim), persistent=False)

    def mean(self, obs: Tensor) -> Tensor:
        """Return its action, inside the action space, (..., act_dim)."""
        size = self.architecture["obs_dim"]
        answered = self.act(obs.reshape(-1, size))
        if answered.shape != (obs.numel() // size, self.architecture["act_dim"]):
            raise InputError(
                f"the policy gives actions of shape {tuple(answered.shape)} for {obs.numel() // size} "
                "observations",
                f"it has to give {self.architecture['act_dim']} for each of a batch",
            )
        return self.clip(answered.to(obs)).reshape(*obs.shape[:-1], -1)

    def forward(self, obs: Tensor) -> tuple[Tensor, Tensor]:
        """Return its action and the spread that we give it, both (..., act_dim)."""
        mean = self.mean(obs)
        return mean, (_SPREAD * self.half_range).expand_as(mean)

    def digest(self) -> str:
        """Return an identity: of its answers to fixed observations, for the rest of it can't be seen."""
        draw = torch.Generator().manual_seed(0)
        probes = torch.randn(_PROBES, self.architecture["obs_dim"], generator=draw)
        with torch.no_grad():
            answers = self.mean(probes.to(self.half_range.device)).cpu().numpy()
        return hashlib.sha256(np.round(answers, 4).tobytes()).hexdigest()

    def source(self) -> Source:
        """Return it as what a policy of ours can be distilled from."""
        return Source("opaque", lambda obs: (self.mean(obs).detach(), None), None, {})


def is_code(named: str | Path) -> bool:
    """Return whether a policy is named as module:function."""
    module, colon, function = str(named).partition(":")
    return bool(colon) and all(part.isidentifier() for part in [*module.split("."), *function.split(".")])


def open_callable(named: str) -> Source:
    """Import a function, which is run because the user named it: a batch of observations in, actions out.

    Args:
        named: module:function, looked for where Python looks and in the working folder. The function gets a
            float32 array (B, obs_dim); of a tuple that it returns the first counts, as Stable-Baselines3's
            `predict` returns one.

    Raises:
        InputError: no such module or function, or it can't be called.
    """
    module_name, _, path = named.partition(":")
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        found: Any = importlib.import_module(module_name)
        for part in path.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError) as error:
        raise InputError(
            f"policy '{named}' can't be imported ({error})", "name it as module:function, from its folder"
        ) from error
    if not callable(found):
        raise InputError(
            f"policy '{named}' is no function", "it takes a batch of observations, gives actions"
        )
    return as_source(found)


def as_source(found: Callable[..., Any]) -> Source:
    """Return a function, as `open_callable` describes it, as a source."""

    def run(obs: Tensor) -> tuple[Tensor, Tensor | None]:
        given = found(obs.detach().cpu().numpy().astype(np.float32))
        actions = given[0] if isinstance(given, tuple) else given
        return torch.as_tensor(np.asarray(actions, dtype=np.float32)).to(obs.device), None

    return Source("callable", run, None, {})
