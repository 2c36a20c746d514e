"""The critics' own Lightning job, over the same functions as the live round."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import lightning as L
import torch
from torch import Tensor

from harden.config.pipeline import PipelineConfig
from harden.method.bellman import Backups
from harden.method.critic_step import draw_batch, follow, td_loss, td_targets
from harden.method.learner import Learner


class ReplayBatches:
    """Minibatches drawn from the replay, one a gradient step.

    Args:
        replay: transitions looked ahead.
        steps: gradient steps.
        learner: gives the place of the random stream.
        config: the pipeline.
        epsilon: radius in which the replay is attacked, where the variant says so.
    """

    def __init__(
        self, replay: Backups, steps: int, learner: Learner, config: PipelineConfig, epsilon: float
    ) -> None:
        self.replay, self.steps, self.learner = replay, steps, learner
        self.config, self.epsilon = config, epsilon

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[Backups]:
        for _ in range(self.steps):
            yield draw_batch(self.learner, self.replay, self.config, self.epsilon)


class CriticsFit(L.LightningModule):
    """TD learning of all critics (Eq. 58-61).

    Args:
        learner: its critics, targets and optimizer are what is trained.
        config: the pipeline.
        epsilon: radius that a long-horizon cost critic expects.
        on_step: called with each step's loss.
    """

    def __init__(
        self,
        learner: Learner,
        config: PipelineConfig,
        epsilon: float,
        on_step: Callable[[Tensor], None] | None = None,
    ) -> None:
        super().__init__()
        self.critics = learner.critics
        self.learner, self.config, self.epsilon, self.on_step = learner, config, epsilon, on_step

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return the learner's optimizer, whose state outlives this job."""
        return self.learner.critic_optimizer

    def training_step(self, batch: Backups, index: int) -> Tensor:
        """Return the mean squared Bellman error of one minibatch."""
        targets = td_targets(self.learner, batch, self.config, self.epsilon)
        loss = td_loss(self.learner.critics, batch, targets)
        self._loss = loss.detach()
        if self.on_step is not None:
            self.on_step(self._loss)
        return loss

    def on_train_batch_end(self, outputs: object, batch: Backups, index: int) -> None:
        """Move the target critics after each step."""
        follow(self.learner.target_critics, self.learner.critics, self.config.critics.polyak)
        self.learner.advance(critic_steps=1)

    @property
    def steps_done(self) -> int:
        """Gradient steps of the critics, ever."""
        # callbacks come before the hook that counts this step
        return self.learner.counters.critic_steps + 1

    def logged(self) -> dict[str, Tensor]:
        """Return what the last step found, scalars by name."""
        return {"loss": self._loss}
