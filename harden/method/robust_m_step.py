"""The robust M-step as a Lightning job: one optimizer, batches from a file or from the live round."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Protocol

import lightning as L
import torch
from torch import Tensor

from harden.config.pipeline import PipelineConfig
from harden.method.learner import Learner
from harden.method.m_step import MStepLoss, attack_states, lagrangian
from harden.method.schedules import Scheduled
from harden.seeds import generator
from harden.types import Targets


class Work(NamedTuple):
    """One M-step gradient step's input.

    Args:
        targets: a batch of the E-step's output.
        terms: what the schedules set: the radius of the adversary and the learning rate.
        iteration: m of Algorithm 2, from 0: earlier steps on these same rows.
    """

    targets: Targets
    terms: Scheduled
    iteration: int


class Source(Protocol):
    """Where batches come from. It has a length, so that Lightning asks for no batch ahead of its time."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Work]: ...


class TargetBatches:
    """Minibatches of stored targets.

    Args:
        targets: what `e-step` wrote.
        steps: gradient steps.
        batch: rows a step; all rows where there are no more than that.
        terms: what the schedules set.
        learner: gives the place of the random stream.
    """

    def __init__(self, targets: Targets, steps: int, batch: int, terms: Scheduled, learner: Learner) -> None:
        self.targets, self.steps, self.batch = targets, steps, batch
        self.terms, self.learner = terms, learner

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[Work]:
        count = len(self.targets.obs)
        for step in range(self.steps):
            targets, iteration = self.targets, step
            if count > self.batch:
                counters = self.learner.counters
                place = generator("cpu", self.learner.seed, "m-step", counters.policy_steps)
                rows = torch.randint(count, (self.batch,), generator=place)
                # other rows at each step, whose nu(s) no earlier step has
                targets, iteration = Targets(*(column[rows] for column in targets)), 0
            yield Work(targets, self.terms, iteration)


class RobustMStep(L.LightningModule):
    """Supervised learning of the policy towards q*, clean and under the MC adversary (Eq. 62).

    Args:
        learner: its policy, multipliers and optimizer are what is trained.
        config: the pipeline.
        on_step: called with each step's Lagrangian.

    Attributes:
        result: the last step's.
    """

    result: MStepLoss

    def __init__(
        self,
        learner: Learner,
        config: PipelineConfig,
        on_step: Callable[[MStepLoss], None] | None = None,
    ) -> None:
        super().__init__()
        self.policy = learner.policy
        self.learner, self.config, self.on_step = learner, config, on_step
        self._obs_adv: Tensor | None = None
        # Lightning's own sequence around an optimizer's step takes longer than the step
        self.automatic_optimization = False

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return the learner's optimizer, whose state outlives this job."""
        return self.learner.policy_optimizer

    def on_train_batch_start(self, work: Work, index: int) -> None:
        """Set the scheduled learning rate."""
        for group in self.learner.policy_optimizer.param_groups:
            group["lr"] = work.terms.mstep.learning_rate

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Return the batch: it was made where the learner lives."""
        return batch

    def training_step(self, work: Work, index: int) -> None:
        """Step the multipliers and the policy."""
        loss = self.loss(work)
        self.learner.policy_optimizer.zero_grad(set_to_none=True)
        self.manual_backward(loss)
        self.learner.policy_optimizer.step()

    def loss(self, work: Work) -> Tensor:
        """Attack the batch if it is time, step the multipliers, return the loss to descend, scalar."""
        learner, config, variant = self.learner, self.config, self.config.variant_row
        targets, self._epsilon = work.targets, work.terms.epsilon
        if not variant.robust:
            self._obs_adv = None
        elif work.terms.epsilon == 0:
            # nu(s) = s: Eq. 8 would have Eq. 7's likelihood once more, and is all that there is without it
            self._obs_adv = None if variant.vanilla else targets.obs
        elif work.iteration % config.adversary.every == 0 or self._obs_adv is None:
            self._obs_adv = attack_states(learner, targets, config, work.terms.epsilon)
        result = lagrangian(
            learner.policy,
            targets,
            self._obs_adv,
            learner.beta,
            learner.beta_robust,
            work.terms.mstep,
            variant,
        )
        learner.beta, learner.beta_robust = result.beta, result.beta_robust
        learner.advance(policy_steps=1)
        self.result = result
        if self.on_step is not None:
            self.on_step(result)
        return result.loss

    @property
    def steps_done(self) -> int:
        """Gradient steps of the policy, ever."""
        return self.learner.counters.policy_steps

    def logged(self) -> dict[str, Tensor]:
        """Return what the last step found, scalars by name."""
        result = self.result
        pairs = ("kl", "kl_robust", "beta", "beta_robust")
        parts = {
            f"{name}_{part}": getattr(result, name)[i]
            for name in pairs
            for i, part in enumerate(("mean", "std"))
        }
        dual = (
            {} if self.learner.dual is None else {"eta": self.learner.dual.eta, "lam": self.learner.dual.lam}
        )
        epsilon = torch.tensor(self._epsilon)
        return (
            {"loss": result.loss.detach(), "likelihood": result.likelihood, "epsilon": epsilon} | parts | dual
        )
