"""Advantages of on-policy transitions, whole episodes one after another."""

from __future__ import annotations

import torch
from torch import Tensor

from harden.types import Transitions


def as_observed(data: Transitions) -> Transitions:
    """Return transitions whose next observation is the one that the policy was given then.

    Under attack that is nu(s'), the next row's; an episode's last step keeps what the simulator showed.
    Benign transitions come out as they are.

    Args:
        data: whole episodes one after another.

    Source: Algorithm 5, line 3.
    """
    ends = data.terminals | data.timeouts
    follower = torch.cat((data.obs[1:], data.obs[-1:]))
    return data._replace(next_obs=torch.where(ends.unsqueeze(1), data.next_obs, follower))


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
