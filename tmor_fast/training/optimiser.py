"""Optimisers and schedules of all training verbs."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch

from tmor_fast.training.config import OptimiserConfig


def build_optimiser(
    parameters: Iterable[torch.nn.Parameter], config: OptimiserConfig, steps_per_epoch: int
) -> dict[str, Any]:
    """Optimiser and per-step schedule, as Lightning's `configure_optimizers` returns them.

    Args:
        parameters: what is trained; parameters without gradient are left out.
        config: name, rate, decay, schedule.
        steps_per_epoch: optimiser steps an epoch.
    """
    trained = [p for p in parameters if p.requires_grad]
    rate = config.rate * (config.batch_size / 256 if config.scale_rate else 1.0)
    optimiser: torch.optim.Optimizer
    if config.name == "sgd":
        optimiser = torch.optim.SGD(trained, rate, momentum=0.9, nesterov=True, weight_decay=config.weight_decay)
    else:
        optimiser = torch.optim.AdamW(trained, rate, weight_decay=config.weight_decay)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: rate_factor(step, config, steps_per_epoch))
    return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def rate_factor(step: int, config: OptimiserConfig, steps_per_epoch: int) -> float:
    """What the learning rate is multiplied by at an optimiser step (0 is the first)."""
    warmup = round(config.warmup_epochs * steps_per_epoch)
    if step < warmup:
        return (step + 1) / (warmup + 1)
    if config.schedule == "steps":
        return float(0.1 ** sum(step >= milestone * steps_per_epoch for milestone in config.milestones))
    if config.schedule == "cosine":
        total = max(1, config.epochs * steps_per_epoch - warmup)
        return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warmup) / total)))
    return 1.0
