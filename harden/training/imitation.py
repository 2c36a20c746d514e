"""Supervised fits of a policy: cloning logged actions, or distilling another policy; and their scores."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import lightning as L
import torch
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor

from harden.config.pipeline import PipelineConfig
from harden.config.sections import Imitation
from harden.errors import DivergedError, InputError
from harden.method.learner import new_learner
from harden.nets import GaussianPolicy, gaussian
from harden.progress import Reporter, Track
from harden.seeds import generator
from harden.training.trainer import make_trainer
from harden.types import Transitions

CPU = torch.device("cpu")
_MONITOR = "loss_stop"
# a policy and a batch of columns to the loss of each row
ImitationLoss = Callable[..., Tensor]


class Split(NamedTuple):
    """Rows of a data set by what they are for, whole episodes each.

    Args:
        fit: to learn from.
        stop: to know when to stop.
        held_out: to report on, and for nothing else.
        episodes: how many are in each.
    """

    fit: Tensor
    stop: Tensor
    held_out: Tensor
    episodes: tuple[int, int, int]


def require_episodes(count: int, named: str) -> None:
    """Refuse too few episodes for a `Split`.

    Args:
        named: what says how many there are, in the error.

    Raises:
        InputError: fewer than three.
    """
    if count < 3:
        raise InputError(named, "three are needed: to learn from, to stop by, and to report on")


def split_episodes(data: Transitions, share: float, seed: int) -> Split:
    """Divide episodes at random.

    Args:
        share: of the episodes to hold out, and as many again to stop by; at least one each.
        seed: of the draw.

    Raises:
        InputError: fewer than three episodes.
    """
    ends = (data.terminals | data.timeouts).long()
    episode = ends.cumsum(0) - ends
    count = int(episode[-1]) + 1
    require_episodes(count, f"a data set of {count} episodes")
    aside = max(1, round(share * count))
    order = torch.randperm(count, generator=generator("cpu", seed, "held-out-episodes"))
    parts = order[2 * aside :], order[aside : 2 * aside], order[:aside]
    rows = [torch.nonzero(torch.isin(episode, part)).squeeze(1) for part in parts]
    return Split(rows[0], rows[1], rows[2], (len(parts[0]), aside, aside))


def clone_loss(policy: GaussianPolicy, obs: Tensor, actions: Tensor) -> Tensor:
    """Return each row's negative log-likelihood of a logged action, (B,), nats."""
    mean, std = policy(obs)
    return -policy.log_prob(mean, std, actions)


def distil_loss(policy: GaussianPolicy, obs: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Return each row's KL from the teacher's Gaussian, (B,), nats, mean and spread apart."""
    of_mean, of_std = gaussian.split_kl(mean, std, *policy(obs))
    return of_mean + of_std


class Score(NamedTuple):
    """How well actions are predicted.

    Args:
        log_likelihood: mean over actions, nats.
        action_error: root mean square error of the mean action, a coordinate, in the action space's units.
    """

    log_likelihood: float
    action_error: float


@torch.no_grad()
def score(policy: GaussianPolicy, obs: Tensor, actions: Tensor) -> Score:
    """Return how well a policy predicts actions."""
    error = (policy.mean(obs) - actions).square().mean().sqrt()
    return Score(-float(clone_loss(policy, obs, actions).mean()), float(error))


def score_constant(fit: Tensor, actions: Tensor, low: Tensor, high: Tensor) -> Score:
    """Return how well actions are predicted without looking at the observation: what a clone has to beat.

    Args:
        fit: (N, act_dim), the actions that the most likely clipped Gaussian and the mean are taken from.
        actions: (M, act_dim), what they are judged on.
        low, high: (act_dim,), the action space's bounds.
    """
    center, log_std = fit.mean(0).requires_grad_(), fit.std(0).clamp_min(1e-3).log().requires_grad_()
    optimizer = torch.optim.LBFGS([center, log_std], max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = -gaussian.censored_log_prob(fit, center, log_std.exp(), low, high).mean()
        loss.backward()
        return loss

    optimizer.step(closure)
    with torch.no_grad():
        likelihood = gaussian.censored_log_prob(actions, center, log_std.exp(), low, high).mean()
    return Score(float(likelihood), float((actions - fit.mean(0)).square().mean().sqrt()))


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
        loss: of rows.
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
        loss: of rows.
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


def fit_clone(
    config: PipelineConfig,
    rows: Transitions,
    options: Imitation,
    *,
    device: torch.device,
    logs: Path | None,
    report: Reporter,
) -> tuple[GaussianPolicy, int, dict[str, Any]]:
    """Fit a new policy to logged actions.

    Args:
        rows: whole episodes.
        options: rates, sizes and patience.
        logs: the run's folder, None for no log.

    Returns:
        The policy, on the CPU; the gradient steps taken; and the report, as in `Cloned`.

    Raises:
        InputError: under three episodes; DivergedError: the loss is not finite.
    """
    split = split_episodes(rows, options.held_out, config.seed)
    policy = new_learner(config, CPU).policy
    fit, stop, held_out = ((rows.obs[part], rows.actions[part]) for part in split[:3])
    done = fit_imitation(
        policy, clone_loss, fit, stop, options, seed=config.seed, device=device, logs=logs, report=report
    )
    found = {
        "episodes": dict(zip(("fit", "stop", "held_out"), split.episodes, strict=True)),
        "steps": done.best_step,
        "held_out": score(policy, *held_out)._asdict(),
        "constant": score_constant(fit[1], held_out[1], *policy.bounds)._asdict(),
    }
    return policy, done.steps, found
