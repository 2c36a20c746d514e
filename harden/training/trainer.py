"""Lightning for small networks and whole batches: a Trainer for supervised fits, Fabric for the loop."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.fabric import Fabric
from lightning.fabric.loggers import Logger as FabricLogger
from lightning.fabric.loggers import TensorBoardLogger
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import CSVLogger, Logger
from lightning.pytorch.loggers import TensorBoardLogger as PytorchTensorBoardLogger
from lightning.pytorch.utilities.exceptions import SIGTERMException

from harden.errors import InputError, StorageError, Terminated
from harden.progress import Reporter, Track
from harden.storage.files import make_folder, storage_errors

_LOG_EVERY = 50


class _Log(CSVLogger):
    """Lightning's log, that says in one line where it can't be written, and never hides why a fit stopped."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # Lightning would make it later, and its failure would look like a defect of ours
        make_folder(Path(self.log_dir))

    def log_metrics(self, *args: Any, **kwargs: Any) -> None:
        with storage_errors(Path(self.log_dir)):
            super().log_metrics(*args, **kwargs)

    def save(self) -> None:
        with storage_errors(Path(self.log_dir)):
            super().save()

    def finalize(self, status: str) -> None:
        try:
            super().finalize(status)
        except StorageError:
            if status == "success":
                raise


class _Logging(Callback):
    """Hands a module's values to the loggers now and then: fetching numbers at each step costs more than it.

    A module has `logged()`, its last step's scalars by name, and `steps_done`. `LightningModule.log` would
    keep books at every step, whatever the interval.
    """

    def __init__(self, track: Track | None) -> None:
        self.track = track

    def on_train_batch_end(
        self, trainer: L.Trainer, module: L.LightningModule, outputs: Any, batch: Any, index: int
    ) -> None:
        if index % _LOG_EVERY == 0:
            numbers = {name: float(value) for name, value in module.logged().items()}  # type: ignore[operator]
            for logger in trainer.loggers:
                logger.log_metrics(numbers, module.steps_done)  # type: ignore[arg-type]
            if self.track is not None:
                self.track(index + 1, f"loss {numbers['loss']:.4g}")


def _quiet_lightning() -> None:
    for name in ("lightning", "lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    # these advise on data loaders; ours hands over whole batches from memory
    warnings.filterwarnings("ignore", module="lightning.*")


def require_tensorboard() -> None:
    """Refuse to log to TensorBoard where it is not installed.

    Raises:
        InputError: it is not.
    """
    if not any(find_spec(name) for name in ("tensorboard", "tensorboardX")):
        raise InputError("TensorBoard is not installed", "install it with: pip install 'harden[tensorboard]'")


def say_tensorboard(folder: Path, report: Reporter) -> None:
    """Say where a run's TensorBoard files are, and how to look at them."""
    report.say(f"TensorBoard: tensorboard --logdir {folder / 'logs'}")


def make_fabric(folder: Path, device: torch.device, tensorboard: bool) -> Fabric:
    """Return the Fabric that the training loop works under.

    Args:
        folder: the run's.
        device: where the learner lives already.
        tensorboard: log to TensorBoard (`logs/train`).
    """
    _quiet_lightning()
    loggers: list[FabricLogger] = []
    if tensorboard:
        loggers.append(TensorBoardLogger(folder / "logs", name="", version="train"))
    return Fabric(accelerator="gpu" if device.type == "cuda" else "cpu", devices=1, loggers=loggers)


def make_trainer(
    folder: Path | None,
    device: torch.device,
    job: str,
    first_step: int,
    *,
    tensorboard: bool = False,
    settings: dict[str, Any] | None = None,
    epochs: int = 1,
    callbacks: Sequence[Callback] = (),
    track: Track | None = None,
) -> L.Trainer:
    """Return a trainer that runs some epochs, logs to CSV, and keeps no checkpoint of its own.

    Resuming goes through `state.safetensors`: Lightning's own checkpoints can't resume inside an epoch.

    Args:
        folder: the run's; its logs go to `logs/<job>-<first step>/metrics.csv`, so that no run's logs are
            overwritten by the one that goes on from it. None for no log.
        device: where the module lives already.
        job: what is fitted, such as "policy".
        first_step: gradient steps done before.
        tensorboard: log to TensorBoard as well (`logs/<job>-<first step>/tensorboard`), with `settings`.
        epochs: at most; the rows to stop by are judged after each.
        callbacks: Lightning's own.
        track: where progress is reported.

    Raises:
        StorageError: the log can't be written.
    """
    _quiet_lightning()
    version = f"{job}-{first_step:07d}"
    loggers: list[Logger] = []
    if folder is not None:
        loggers.append(_Log(folder / "logs", name="", version=version))
    if tensorboard and folder is not None:
        board = PytorchTensorBoardLogger(folder / "logs", name="", version=f"{version}/tensorboard")
        board.log_hyperparams(settings or {})
        loggers.append(board)
    return L.Trainer(
        max_epochs=epochs,
        accelerator="gpu" if device.type == "cuda" else "cpu",
        devices=1,
        logger=loggers,
        callbacks=[_Logging(track), *callbacks],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        log_every_n_steps=_LOG_EVERY,
    )


def fit(trainer: L.Trainer, module: L.LightningModule, batches: Iterable[Any]) -> None:
    """Fit a module to batches.

    Raises:
        Terminated: SIGTERM came, and nobody else listens to it.
    """
    try:
        trainer.fit(module, batches)
    except SIGTERMException:
        # a SystemExit of code 0, as if all were done
        raise Terminated("stopped by SIGTERM") from None
