"""The M-step's job: which observations its adversary gave, and when it was asked."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable

import pytest
import torch

from harden.config.pipeline import PipelineConfig
from harden.errors import Terminated
from harden.method import m_step as mstep_ops
from harden.method.learner import Learner, new_learner
from harden.method.m_step import RobustMStep, TargetBatches
from harden.training.trainer import fit, make_trainer
from harden.types import Targets
from support.learners import CPU, TERMS, configure, targets_for

EPSILON = 0.05


class Seen:
    """What the Lagrangian was given, step by step."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.pairs: list[tuple[torch.Tensor, torch.Tensor]] = []
        plain = mstep_ops.lagrangian

        def lagrangian(policy, targets: Targets, obs_adv: torch.Tensor, *more):  # type: ignore[no-untyped-def]
            self.pairs.append((targets.obs, obs_adv))
            return plain(policy, targets, obs_adv, *more)

        patch.setattr(mstep_ops, "lagrangian", lagrangian)


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Seen:
    """A record of the job's steps."""
    return Seen(monkeypatch)


def job(every: int) -> tuple[Learner, PipelineConfig, RobustMStep]:
    """Return a robust M-step's job and what it works on."""
    config = configure(variant="safer", adversary={"every": every, "steps": 2})
    learner = new_learner(config, CPU)
    return learner, config, RobustMStep(learner, config, TERMS)


def take(batches: Iterable[Targets], made: RobustMStep, learner: Learner) -> None:
    """Do the module's gradient steps."""
    for iteration, targets in enumerate(batches):
        loss = made.training_step(targets, iteration)
        learner.policy_optimizer.zero_grad()
        loss.backward()
        learner.policy_optimizer.step()


def test_of_stored_targets_each_minibatch_has_the_adversary_of_its_own_rows(seen: Seen) -> None:
    learner, _, made = job(every=2)
    targets = targets_for(learner)
    take(TargetBatches(targets, 6, len(targets.obs) // 2, learner), made, learner)
    assert len(seen.pairs) == 6
    for obs, adv in seen.pairs:
        assert 0 < float((adv - obs).abs().max()) <= EPSILON * 1.0001


def test_in_a_round_the_adversary_is_asked_every_so_many_steps(
    seen: Seen, monkeypatch: pytest.MonkeyPatch
) -> None:
    learner, _, made = job(every=3)
    asked = []
    plain = mstep_ops.attack_states

    def attack_states(*given, **more):  # type: ignore[no-untyped-def]
        asked.append(learner.counters.policy_steps)
        return plain(*given, **more)

    monkeypatch.setattr(mstep_ops, "attack_states", attack_states)
    for _ in range(2):
        targets = targets_for(learner)
        take([targets] * 4, made, learner)
    assert asked == [0, 3, 4, 7], "at a round's first step, and every third after it"
    given = [adv for _, adv in seen.pairs]
    assert given[0] is given[1] is given[2]
    assert not torch.equal(given[2], given[3])


def test_a_fit_by_hand_keeps_the_policy_that_it_fitted() -> None:
    learner = new_learner(configure(train={"average": 0.1, "rounds": 10, "env_steps": 20_000}), CPU)
    with torch.no_grad():
        for parameter in learner.policy.parameters():
            parameter.add_(1.0)
    learner.finish_round(publish=True)
    for kept, fitted in zip(learner.average.parameters(), learner.policy.parameters(), strict=True):
        assert torch.equal(kept, fitted)


def test_the_policy_that_is_kept_is_the_running_average_over_rounds() -> None:
    config = configure(train={"average": 0.1, "rounds": 10, "env_steps": 20_000})
    learner = new_learner(config, CPU)
    weight = 1 / (0.1 * config.refreshes * 10)
    expected = [parameter.detach().clone() for parameter in learner.average.parameters()]
    for step in range(3):
        with torch.no_grad():
            for parameter in learner.policy.parameters():
                parameter.add_(step + 1.0)
        now = [parameter.detach() for parameter in learner.policy.parameters()]
        expected = [(1 - weight) * old + weight * new for old, new in zip(expected, now, strict=True)]
        learner.finish_round()
    for found, wanted in zip(learner.average.parameters(), expected, strict=True):
        torch.testing.assert_close(found, wanted)
    assert learner.counters.round == 3


def test_minibatches_differ_from_step_to_step_and_are_whole_rows_of_the_targets() -> None:
    learner, _, _ = job(every=2)
    targets, drawn = targets_for(learner), list[torch.Tensor]()
    for rows in TargetBatches(targets, 3, 10, learner):
        assert len(rows.obs) == 10
        # each row's columns belong to one and the same row of the targets
        places = (rows.obs.unsqueeze(1) == targets.obs).all(2).float().argmax(1)
        assert all(torch.equal(column, whole[places]) for column, whole in zip(rows, targets, strict=True))
        drawn.append(places)
        learner.counters = learner.counters._replace(policy_steps=learner.counters.policy_steps + 1)
    assert len({tuple(places.tolist()) for places in drawn}) == 3


def test_a_fit_that_is_told_to_end_is_none_that_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lightning's own way out is an exit code of 0, where no command line of ours listens."""
    learner, _, made = job(every=2)
    monkeypatch.setattr(made, "on_train_batch_start", lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    batches = TargetBatches(targets_for(learner), 6, 2, learner)
    try:
        with pytest.raises(Terminated, match="stopped by SIGTERM"):
            fit(make_trainer(None, CPU, "policy", 0), made, batches)
    finally:
        signal.signal(signal.SIGTERM, before)
