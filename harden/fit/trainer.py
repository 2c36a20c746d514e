"""One way to make a Lightning trainer for small networks and whole batches."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path

import lightning as L
import torch
from lightning.pytorch.loggers import CSVLogger, Logger


def make_trainer(folder: Path, device: torch.device, *, tensorboard: bool = False) -> L.Trainer:
    """Return a trainer that runs one epoch, logs to CSV, and keeps no checkpoint of its own.

    Resuming goes through `state.safetensors`: Lightning's own checkpoints can't resume inside an epoch.

    Args:
        folder: where the logs go.
        device: where the module lives already.
        tensorboard: log to TensorBoard as well.
    """
    for name in ("lightning", "lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    # these advise on data loaders; ours hands over whole batches from memory
    warnings.filterwarnings("ignore", module="lightning.*")
    loggers: list[Logger] = [CSVLogger(folder, name="", version="logs")]
    if tensorboard:
        from lightning.pytorch.loggers import TensorBoardLogger

        loggers.append(TensorBoardLogger(folder, name="", version="tensorboard"))
    return L.Trainer(
        max_epochs=1,
        accelerator="gpu" if device.type == "cuda" else "cpu",
        devices=1,
        logger=loggers,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        log_every_n_steps=50,
    )
