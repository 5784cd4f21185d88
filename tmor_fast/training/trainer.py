"""The Lightning trainer of every verb: loggers, progress bar, checkpoints, quiet about what does not matter."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback, ModelCheckpoint, RichProgressBar
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger


def build_trainer(
    folder: Path | None,
    *,
    epochs: int,
    precision: str = "32-true",
    gradient_clip: float = 0.0,
    checkpoints: bool = True,
    progress: bool = True,
    callbacks: Sequence[Callback] = (),
) -> L.Trainer:
    """A trainer on one device.

    Args:
        folder: gets `log/metrics.csv`, the TensorBoard log and `checkpoints/`; None keeps nothing. Metrics that are
            there already, of a run that is resumed, become `log/metrics_1.csv` and so on.
        epochs: passes over the data.
        precision: Lightning's precision.
        gradient_clip: largest gradient norm, 0 for no limit.
        checkpoints: keep the last two epochs.
        progress: show a progress bar.
        callbacks: further callbacks.
    """
    _quieten()
    every: list[Callback] = list(callbacks)
    loggers: list[Any] = []
    if folder is not None:
        _keep_metrics(folder / "log")
        loggers = [CSVLogger(folder, name="", version="log"), TensorBoardLogger(folder, name="", version="log")]
        if checkpoints:
            every.append(
                ModelCheckpoint(
                    folder / "checkpoints", filename="epoch-{epoch:04d}", auto_insert_metric_name=False,
                    monitor="epoch", mode="max", save_top_k=2, save_on_train_epoch_end=True,
                )
            )  # fmt: skip
    if progress:
        # A finished epoch keeps its line only where there are few of them.
        every.append(RichProgressBar(leave=epochs <= 30))
    return L.Trainer(
        accelerator="auto",
        devices=1,
        max_epochs=epochs,
        precision=precision,  # type: ignore[arg-type]
        gradient_clip_val=gradient_clip or None,
        logger=loggers or False,
        callbacks=every,
        enable_checkpointing=folder is not None and checkpoints,
        enable_progress_bar=progress,
        enable_model_summary=False,
        log_every_n_steps=10,
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
    )


def _keep_metrics(log: Path) -> None:
    # The logger would delete them.
    current = log / "metrics.csv"
    if current.is_file():
        current.rename(log / f"metrics_{len(list(log.glob('metrics_*.csv'))) + 1}.csv")


def _quieten() -> None:
    # Clips are gathered on the device in one step, so loader workers would only cost time.
    warnings.filterwarnings("ignore", ".*does not have many workers.*")
    warnings.filterwarnings("ignore", ".*isinstance.treespec, LeafSpec.*")
    warnings.filterwarnings("ignore", ".*smaller than the logging interval.*")
    warnings.filterwarnings("ignore", ".*Checkpoint directory.*exists and is not empty.*")
    warnings.filterwarnings("ignore", ".*Experiment logs directory.*exists and is not empty.*")
    for name in ("lightning.pytorch", "lightning.pytorch.utilities.rank_zero", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
