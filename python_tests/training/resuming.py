"""A short pre-training, ways to stop it, and what two runs are compared by."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from tmor_fast.nn.checkpoint import load_model
from tmor_fast.nn.options import TMOROptions
from tmor_fast.training.checkpoints import checkpoints_in
from tmor_fast.training.config import (
    AugmentationConfig,
    BackboneConfig,
    CheckpointConfig,
    OptimiserConfig,
    PretrainConfig,
)
from tmor_fast.training.datasets import PretrainData
from tmor_fast.training.pretrain import PretrainModule, pretrain_on

OPTIMISER = OptimiserConfig(name="adamw", rate=2e-3, scale_rate=False, batch_size=6, epochs=2)
CONFIG = PretrainConfig(
    backbone=BackboneConfig(preset="unik-micro"),
    augmentation=AugmentationConfig(frames=8),
    optimiser=OPTIMISER,
    options=TMOROptions(embedding_dim=16, head_hidden=32, momentum=0.9, min_samples=2, max_cluster_share=1.0),
    stage2_epochs=1,
    checkpoints=CheckpointConfig(every_steps=3, every_minutes=0),
)


class StoppedError(Exception):
    """What a test stops a run with."""


def run(data: PretrainData, out: Path, config: PretrainConfig = CONFIG, **more: Any) -> dict[str, torch.Tensor]:
    return pretrain_on(data, out, config, progress=False, **more)[0].state_dict()


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def losses(out: Path) -> list[str]:
    return [(out / part / "log" / "losses.csv").read_text() for part in ("stage1", "stage2")]


def names(out: Path, part: str) -> list[str]:
    return [path.name for path in checkpoints_in(out / part / "checkpoints")]


def at_step(stage: int, step: int, action: Callable[[], Any]) -> Callable[..., None]:
    """A hook that acts before the step of a stage."""

    def strike(self: PretrainModule, *_: Any) -> None:
        if (self.stage, self.global_step) == (stage, step):
            action()

    return strike


def stop() -> None:
    raise StoppedError


def check(out: Path, unbroken: Path) -> None:
    assert losses(out) == losses(unbroken)
    assert same(load_model(out / "model.pt")[0].state_dict(), load_model(unbroken / "model.pt")[0].state_dict())
