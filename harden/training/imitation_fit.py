"""Supervised fits of a policy as a Lightning job, stopped early by episodes that it does not learn from."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import lightning as L
import torch
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor

from harden.config.sections import Imitation
from harden.errors import DivergedError
from harden.nets import GaussianPolicy
from harden.progress import Reporter, Track
from harden.seeds import generator
from harden.training.imitation import ImitationLoss
from harden.training.trainer import make_trainer

_MONITOR = "loss_stop"


class ImitationFitted(NamedTuple):
    """What a fit did.

    Args:
        steps: gradient steps taken.
        best_step: after which of them the policy was kept.
        loss: of the rows to stop by, there.
    """

    steps: int
    best_step: int
    loss: float


class _Batches:
    """Minibatches of columns, `steps` an epoch; each depends on the seed and its place alone."""

    def __init__(self, columns: tuple[Tensor, ...], steps: int, batch: int, seed: int) -> None:
        self.columns, self.steps, self.batch, self.seed = columns, steps, batch, seed
        self.done = 0

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        for _ in range(self.steps):
            place = generator("cpu", self.seed, "imitation", self.done)
            rows = torch.randint(len(self.columns[0]), (self.batch,), generator=place)
            self.done += 1
            yield tuple(column[rows.to(column.device)] for column in self.columns)


class _Whole:
    """All rows as one batch; Lightning takes a plain list for several loaders."""

    def __init__(self, columns: tuple[Tensor, ...]) -> None:
        self.columns = columns

    def __len__(self) -> int:
        return 1

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        yield self.columns


class ImitationFit(L.LightningModule):
    """Gradient steps on a loss of rows; keeps the weights that did best on the rows to stop by.

    Args:
        policy: what is trained; it ends with the best weights.
        loss: as in harden.training.imitation.
        config: rates, sizes and patience.
        track: progress.

    Attributes:
        best: loss, step and weights of the best check.
    """

    def __init__(self, policy: GaussianPolicy, loss: ImitationLoss, config: Imitation, track: Track) -> None:
        super().__init__()
        self.policy, self.loss, self.config, self.track = policy, loss, config, track
        self.best: tuple[float, int, dict[str, Tensor]] = (math.inf, 0, {})

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """Return Adam, its rate falling to nothing along a cosine: the last digits need small steps."""
        optimizer = torch.optim.Adam(self.policy.parameters(), lr=self.config.learning_rate, fused=True)
        falling = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.config.steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": falling, "interval": "step"}}

    def training_step(self, batch: tuple[Tensor, ...], index: int) -> Tensor:
        """Return the mean loss of a minibatch."""
        loss = self.loss(self.policy, *batch).mean()
        self._loss = loss.detach()
        return loss

    @property
    def steps_done(self) -> int:
        """Gradient steps of this fit."""
        return self.global_step

    def logged(self) -> dict[str, Tensor]:
        """Return what the last step found, scalars by name."""
        return {"loss": self._loss}

    def validation_step(self, columns: tuple[Tensor, ...], index: int) -> None:
        """Judge the weights as they are on all rows to stop by."""
        value = self.loss(self.policy, *columns).mean()
        self.log(_MONITOR, value)
        self.track(self.global_step, f"loss to stop by {float(value):.4g}")
        if float(value) < self.best[0]:
            weights = {name: tensor.clone() for name, tensor in self.policy.state_dict().items()}
            self.best = float(value), self.global_step, weights


def fit_imitation(
    policy: GaussianPolicy,
    loss: ImitationLoss,
    fit: tuple[Tensor, ...],
    stop: tuple[Tensor, ...],
    config: Imitation,
    *,
    seed: int,
    device: torch.device,
    logs: Path | None,
    report: Reporter,
) -> ImitationFitted:
    """Fit a policy to rows, and leave it as it was best on others.

    Args:
        policy: trained in place.
        loss: of rows, as in harden.training.imitation.
        fit, stop: columns to learn from, and to stop by.
        config: rates, sizes and patience.
        seed: of the batches.
        logs: the run's folder, None for no log.

    Raises:
        DivergedError: the loss became NaN or infinite.
    """
    epochs = math.ceil(config.steps / config.check_every)
    patience = EarlyStopping(_MONITOR, patience=config.patience, check_finite=True)
    trainer = make_trainer(logs, device, "imitation", 0, epochs=epochs, callbacks=[patience])
    policy.to(device)
    columns = [tuple(column.to(device) for column in part) for part in (fit, stop)]
    batches = _Batches(columns[0], config.steps // epochs, config.batch, seed)
    with report.track("imitation", config.steps, "steps") as track:
        job = ImitationFit(policy, loss, config, track)
        trainer.fit(job, batches, _Whole(columns[1]))
    value, best_step, weights = job.best
    if not math.isfinite(value) or not all(bool(w.isfinite().all()) for w in policy.parameters()):
        raise DivergedError("the fit diverged: its loss is not finite", "lower imitation.learning_rate")
    policy.load_state_dict(weights)
    policy.cpu().eval()
    return ImitationFitted(trainer.global_step, best_step, value)
