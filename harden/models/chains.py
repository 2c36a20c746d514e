"""Roll-outs imagined in the world model, each in one member of the ensemble."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from harden.models.world import WorldModel
from harden.types import Transitions


class Chains(NamedTuple):
    """Imagined roll-outs.

    Args:
        rows: their transitions, chain after chain; a chain's last one has `timeouts` set, as where a time
            limit cuts an episode, unless the dynamics ended it.
        chain: int64 (N,), the chain that each of the rows is of.
        last_obs: (C, obs_dim), where each chain got to.
        going: bool (C,), whether it can go on from there: it neither ended nor left what the data show.
    """

    rows: Transitions
    chain: Tensor
    last_obs: Tensor
    going: Tensor


@torch.no_grad()
def imagine(
    world: WorldModel, act: Callable[[Tensor], Tensor], obs: Tensor, steps: int, draw: torch.Generator
) -> Chains:
    """Imagine a chain from each observation.

    A chain stops before a step on which the members disagree more than `world.reach`; each has one step.

    Args:
        world: predicts.
        act: actions (C, act_dim) for observations (C, obs_dim), under attack or not.
        obs: (C, obs_dim), where the chains begin.
        steps: the longest chain.
        draw: draws each chain's member, and the ends.

    Source: Janner et al. 2019 (short branches of real states, each in one member).
    """
    count = len(obs)
    member = torch.randint(len(world.members), (count,), generator=draw, device=obs.device)
    chain = torch.arange(count, device=obs.device)
    going = torch.ones(count, dtype=torch.bool, device=obs.device)
    columns: list[tuple[Tensor, ...]] = []
    for step in range(steps):
        actions = act(obs)
        outcome = world(obs, actions)
        next_obs = outcome.next_obs[member, chain]
        valid = going & (outcome.disagreement <= world.reach) if step else going
        chance = torch.rand(count, generator=draw, device=obs.device)
        ended = valid & (chance < outcome.ends[member, chain])
        columns.append(
            (
                *(obs, actions, outcome.rewards[member, chain], outcome.costs[member, chain]),
                *(next_obs, ended, torch.zeros_like(ended), valid),
            )
        )
        obs = torch.where(valid.unsqueeze(1), next_obs, obs)
        going = valid & ~ended
    # (C, T, ...): chain after chain
    *stacked, valid = (torch.stack(column, 1) for column in zip(*columns, strict=True))
    rows = Transitions(*stacked)
    follows = torch.cat((valid[:, 1:], torch.zeros_like(valid[:, :1])), 1)
    rows = rows._replace(timeouts=valid & ~follows & ~rows.terminals)
    of_chain = chain.unsqueeze(1).expand_as(valid)[valid]
    return Chains(Transitions(*(column[valid] for column in rows)), of_chain, obs, going)
