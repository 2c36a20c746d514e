"""What is written beside the targets of an E-step."""

from __future__ import annotations

import json

import torch

from harden.config.depends import stage_sections
from harden.config.pipeline import PipelineConfig
from harden.data import TargetsHeader
from harden.method.e_step import kl_bound
from harden.method.learner import Learner
from harden.method.schedules import Scheduled
from harden.nets.saved import module_digest
from harden.types import DualSolution


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
