"""The Lightning trainer of every verb: loggers, progress bar, checkpoints, quiet about what does not matter."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.pytorch.callbacks import Callback, RichProgressBar
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities.exceptions import SIGTERMException

from tmor_fast.training.checkpoints import WholeFiles
from tmor_fast.training.run_state import RunState


def build_trainer(
    state: RunState | None,
    *,
    epochs: int,
    precision: str = "32-true",
    gradient_clip: float = 0.0,
    progress: bool = True,
    callbacks: Sequence[Callback] = (),
) -> L.Trainer:
    """A trainer on one device.

    Args:
        state: keeps the tables, the TensorBoard log and the checkpoints of a run; None keeps nothing.
        epochs: passes over the data.
        precision: Lightning's precision.
        gradient_clip: largest gradient norm, 0 for no limit.
        progress: show a progress bar.
        callbacks: further callbacks.
    """
    _quieten()
    every: list[Callback] = list(callbacks)
    loggers: list[Any] = []
    if state is not None:
        loggers = [TensorBoardLogger(state.folder, name="", version="log")]
        every.append(state)
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
        enable_checkpointing=state is not None,
        enable_progress_bar=progress,
        enable_model_summary=False,
        log_every_n_steps=10,
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
        # Under Slurm, Lightning would requeue the job and read a checkpoint of its own from the working directory.
        plugins=[LightningEnvironment(), WholeFiles()],
        default_root_dir=None if state is None else state.folder,
    )


def fit(trainer: L.Trainer, module: L.LightningModule, checkpoint: Path | None = None) -> None:
    """Train, from a checkpoint where one is given.

    Raises:
        KeyboardInterrupt: Ctrl-C; Lightning alone would end the program with status 1.
        SystemExit: SIGTERM, with status 143; Lightning alone would end the program with status 0.
    """
    try:
        trainer.fit(module, ckpt_path=checkpoint, weights_only=True)
    except SIGTERMException:
        raise SystemExit(143) from None
    except SystemExit as stopped:
        if trainer.interrupted and stopped.code == 1:
            raise KeyboardInterrupt from None
        raise


def _quieten() -> None:
    # Clips are gathered on the device in one step, so loader workers would only cost time.
    warnings.filterwarnings("ignore", ".*does not have many workers.*")
    warnings.filterwarnings("ignore", ".*isinstance.treespec, LeafSpec.*")
    warnings.filterwarnings("ignore", ".*smaller than the logging interval.*")
    warnings.filterwarnings("ignore", ".*Checkpoint directory.*exists and is not empty.*")
    warnings.filterwarnings("ignore", ".*Experiment logs directory.*exists and is not empty.*")
    for name in ("lightning.pytorch", "lightning.pytorch.utilities.rank_zero", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
