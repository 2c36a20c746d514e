"""Small configurations and learners, and batches for them to learn from."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from harden.config.pipeline import PipelineConfig, make_config
from harden.method.bellman import Backups
from harden.method.e_step import EStepStates, e_step
from harden.method.learner import Learner
from harden.method.schedules import Scheduled
from harden.seeds import generator
from harden.types import Targets

CPU = torch.device("cpu")
EPSILON = 0.05


def configure(**sections: Any) -> PipelineConfig:
    """Return a small pipeline, whose schedules stand still where a test moves none of them."""
    base: dict[str, Any] = {
        "variant": "safer-long",
        "networks": {"policy_hidden": [16], "critic_hidden": [16], "init_std": 0.5, "max_std": 1.0},
        "collect": {"min_std": 0.0, "correlation": 0.0},
        "critics": {"gamma_reward": 0.97, "n_step_reward": 1, "scale_rewards": False},
        "estep": {"particles": 8, "lam_max": 8.0, "limit_start": "limit"},
        "mstep": {"learning_rate": 1e-3, "learning_rate_end": 1e-3, "kl_mean": 0.02, "kl_std": 0.002},
        "adversary": {"steps": 3, "lam_max": 8.0},
        "train": {"average": 0.0},
    }
    for name, value in sections.items():
        base[name] = base.get(name, {}) | value if isinstance(value, dict) else value
    return make_config(base)


TERMS = Scheduled(
    epsilon=0.05,
    kappa=0.8,
    lam_max=8.0,
    dual_rate=0.05,
    kl_estep=0.1,
    mstep=configure().mstep,
    by_hand=False,
)


def batch(count: int = 32) -> Backups:
    """Return backups whose costs are high and half of which ended by the dynamics."""
    draw = torch.Generator().manual_seed(0)
    discounts = torch.where(torch.arange(count) % 2 == 0, 0.97, 0.0)
    ahead = torch.ones(count), torch.randn(count, 8, generator=draw), discounts
    rows = torch.randn(count, 8, generator=draw), torch.rand(count, 2, generator=draw) * 2 - 1
    return Backups(*rows, torch.randn(count, generator=draw), *ahead[1:], *ahead, *ahead)


def targets_for(learner: Learner, states: int = 40) -> Targets:
    """Return targets of the learner's own policy."""
    draw = torch.Generator().manual_seed(3)
    return e_step(learner, EStepStates.clean(torch.randn(states, 8, generator=draw)), configure(), TERMS)[0]


def recorded_streams(monkeypatch: pytest.MonkeyPatch, *modules: Any) -> list[tuple[Any, ...]]:
    """Return the list that takes in each stream of random numbers that some modules draw from."""
    streams: list[tuple[Any, ...]] = []

    def recorded(device: Any, seed: int, *place: Any) -> torch.Generator:
        streams.append((str(device), seed, *place))
        return generator(device, seed, *place)

    for module in modules:
        monkeypatch.setattr(module, "generator", recorded)
    return streams
