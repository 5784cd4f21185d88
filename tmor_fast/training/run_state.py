"""The callback that makes a run resumable: what Lightning does not save, when to save, and the run's tables."""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import Checkpoint

from tmor_fast.training.checkpoints import (
    checkpoint_name,
    checkpoints_in,
    damage,
    order_of,
    remove_checkpoint,
)
from tmor_fast.training.config import CheckpointConfig
from tmor_fast.training.run_record import KEY, RunRecord
from tmor_fast.training.tables import LossTable, write_metrics


class RunState(Checkpoint):
    """Saves checkpoints at the end of every epoch and in between, and keeps `losses.csv` and `metrics.csv`.

    Lightning saves weights, banks, optimiser, schedule, scaler and the place in the data; this adds the global random
    states, the epoch's running means and the table of past epochs, and the record that a resumed run is checked
    against. A module's `training_step` returns its losses as a dict; what it puts into `epoch_metrics` joins the
    epoch's row.

    Args:
        folder: gets `checkpoints/` and `log/`.
        record: what the run is.
        config: how often to save inside an epoch.
        resumed: the checkpoint that the run goes on from.
    """

    def __init__(self, folder: Path, record: RunRecord, config: CheckpointConfig, resumed: Path | None = None) -> None:
        super().__init__()
        self.folder, self.record, self.config, self.resumed = folder, record, config, resumed
        # Checkpoints known to be whole.
        self.good = [] if resumed is None else [resumed]
        self.rows: list[dict[str, float]] = []
        self.sums: dict[str, float] = {}
        self.losses = LossTable(folder / "log" / "losses.csv")
        self._random: dict[str, Any] | None = None
        self._saved_at = time.monotonic()

    def on_save_checkpoint(self, trainer: L.Trainer, module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        checkpoint[KEY] = {
            **self.record.to_dict(), "random": random_states(), "rows": self.rows, "sums": self.sums,
        }  # fmt: skip

    def on_load_checkpoint(self, trainer: L.Trainer, module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        state = checkpoint[KEY]
        self.rows, self.sums, self._random = list(state["rows"]), dict(state["sums"]), state["random"]
        set_random_states(self._random)

    def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self.losses.start(trainer.global_step)
        write_metrics(self.folder / "log" / "metrics.csv", self.rows)
        # Setting up may have drawn numbers since the checkpoint was read.
        if self._random is not None:
            set_random_states(self._random)
            self._random = None
        self._saved_at = time.monotonic()

    def on_train_batch_end(
        self, trainer: L.Trainer, module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        values = dict(zip(outputs, torch.stack([v.detach().float() for v in outputs.values()]).tolist(), strict=True))
        self.losses.append(trainer.current_epoch, trainer.global_step - 1, values)
        for name, value in {**values, _COUNT: 1.0}.items():
            self.sums[name] = self.sums.get(name, 0.0) + value * len(batch)
        # The end of the epoch saves by itself.
        if not trainer.is_last_batch and self._is_due(trainer.global_step):
            self._save(trainer, checkpoint_name(trainer.current_epoch, trainer.global_step))

    def _is_due(self, step: int) -> bool:
        every, minutes = self.config.every_steps, self.config.every_minutes
        return bool(every and step % every == 0) or bool(minutes and time.monotonic() - self._saved_at >= 60 * minutes)

    def on_train_epoch_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        count = self.sums.pop(_COUNT)
        extra: Mapping[str, float] = getattr(module, "epoch_metrics", {})
        row = {name: total / count for name, total in self.sums.items()} | dict(extra)
        if trainer.loggers:
            trainer.loggers[0].log_metrics(row, trainer.global_step - 1)
        self.sums = {}
        self.rows.append({**row, "epoch": trainer.current_epoch, "step": trainer.global_step - 1})
        write_metrics(self.folder / "log" / "metrics.csv", self.rows)
        self._save(trainer, checkpoint_name(trainer.current_epoch))

    def on_train_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self.losses.close()

    def on_exception(self, trainer: L.Trainer, module: L.LightningModule, exception: BaseException) -> None:
        # A disk that was full for a row is still full; that error is on its way already.
        with contextlib.suppress(OSError):
            self.losses.close()

    def _save(self, trainer: L.Trainer, name: str) -> None:
        path = self.folder / "checkpoints" / name
        self.losses.sync()
        trainer.save_checkpoint(path)
        problem = damage(path)
        if problem:
            raise OSError(f"{path}: written, and read back {problem}; check the disk. Earlier checkpoints are whole")
        self.good = [*(kept for kept in self.good if kept != path), path][-2:]
        self._saved_at = time.monotonic()
        self._forget_old(path)

    def _forget_old(self, newest: Path) -> None:
        # Only once two are known to be whole; those of a later place, left by going back by hand, stay.
        if len(self.good) < 2:
            return
        for path in checkpoints_in(newest.parent):
            if path not in self.good and order_of(path) < order_of(newest):
                remove_checkpoint(path)


# Name under which the clips of an epoch are counted among its sums.
_COUNT = "clips"


def random_states() -> dict[str, Any]:
    """States of the global generators of torch (all devices), numpy and Python, as plain values and tensors."""
    kind, keys, position, has_gauss, gauss = np.random.get_state(legacy=True)  # noqa: NPY002
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "numpy": [str(kind), [int(key) for key in keys], int(position), int(has_gauss), float(gauss)],
        "python": random.getstate(),
    }


def set_random_states(states: Mapping[str, Any]) -> None:
    """Put back what `random_states` returned; states of CUDA devices that are not here are left out."""
    torch.set_rng_state(states["torch"])
    if torch.cuda.is_available() and len(states["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(states["cuda"])
    kind, keys, position, has_gauss, gauss = states["numpy"]
    np.random.set_state((kind, np.array(keys, np.uint32), position, has_gauss, gauss))  # noqa: NPY002
    version, internal, gauss_next = states["python"]
    random.setstate((version, tuple(internal), gauss_next))
