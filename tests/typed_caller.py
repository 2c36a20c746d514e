"""What a type checker knows of harden's public functions: `mypy` checks this file, nothing runs it."""

from __future__ import annotations

from typing import assert_type

import numpy as np

import harden
from harden.config.pipeline import PipelineConfig
from harden.evaluation.observation_attack import ObservationAttack
from harden.nets.saved import LoadedPolicy
from harden.stages.train import Trained


def caller(config: PipelineConfig, obs: np.ndarray) -> None:
    """Use everything that is public; `assert_type` refuses Any."""
    policy = assert_type(harden.load_policy("policy"), LoadedPolicy)
    assert_type(policy.act(obs), np.ndarray)
    result = harden.evaluate("policy", "mc", episodes=10)
    assert_type(result["cost_limit"], float)
    assert_type(result["results"][0]["cost"]["mean"], float)
    run = assert_type(harden.train(config, resume=True), Trained)
    assert_type(run.history[-1]["reward"], float)
    assert_type(harden.ObservationAttack, type[ObservationAttack])
    assert_type(harden.__version__, str)
